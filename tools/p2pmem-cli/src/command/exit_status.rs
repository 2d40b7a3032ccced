// SPDX-License-Identifier: GPL-2.0

//! Exit status of the program.

/// Values, and their meaning.
pub const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "All went well."),
    (
        "1",
        "Something failed: standard error has the cause and the cure.",
    ),
    ("2", "The command line is wrong."),
    ("130", "A copy or a verification was interrupted."),
];

/// Returns a section of the help.
pub fn help() -> String {
    let lines = EXIT_STATUS
        .iter()
        .map(|(status, meaning)| format!("  {status:<5}{meaning}"));
    ["Exit status:".to_owned()]
        .into_iter()
        .chain(lines)
        .collect::<Vec<_>>()
        .join("\n")
}
