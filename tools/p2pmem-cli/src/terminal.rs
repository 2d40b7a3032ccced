// SPDX-License-Identifier: GPL-2.0

//! Output for people.

use std::io::{ErrorKind, Write};

use anyhow::{Context, Result};

/// Prints text. A reader that went away, as `head` does, is no error: the exit status tells all the
/// same how the command ended.
pub fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot print"),
        _ => Ok(()),
    }
}

/// Prints a line on standard error. There is no place to report that this failed.
pub fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Returns how many characters fit into a line of the terminal, or 100 where there is none.
pub fn width() -> u16 {
    rustix::termios::tcgetwinsize(std::io::stdout())
        .ok()
        .map(|size| size.ws_col)
        .filter(|width| *width > 0)
        .unwrap_or(100)
}
