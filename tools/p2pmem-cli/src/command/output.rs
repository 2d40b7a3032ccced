// SPDX-License-Identifier: GPL-2.0

//! Output of all commands as JSON: an object in a line, with `version`, `command`, `error`, and
//! the result of the command. `tools/p2pmem-cli/schema/p2pmem.schema.json` describes it.

use std::fmt;

use anyhow::Result;
use serde::Serialize;

use crate::terminal;

/// Changes when a field is removed, or gets another meaning.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Output<'a, T> {
    version: u32,
    /// The name of the command.
    command: &'a str,
    /// The error, as on standard error. Null for success.
    error: Option<String>,
    #[serde(flatten)]
    result: T,
}

/// An error that was printed as JSON already.
#[derive(Debug)]
struct Printed(anyhow::Error);

impl fmt::Display for Printed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for Printed {}

/// Prints the result of a command, and returns the failure that it ends with, if there is one.
pub fn print(command: &str, result: impl Serialize, failure: Option<anyhow::Error>) -> Result<()> {
    let output = Output {
        version: VERSION,
        command,
        error: failure.as_ref().map(|error| format!("{error:#}")),
        result,
    };
    terminal::print(&format!("{}\n", serde_json::to_string(&output)?))?;
    failure.map_or(Ok(()), |error| Err(Printed(error).into()))
}

/// Prints the failure of a command that has no result.
pub fn print_failure(command: &str, error: anyhow::Error) -> Result<()> {
    if error.is::<Printed>() {
        return Err(error);
    }
    #[derive(Serialize)]
    struct Nothing {}
    print(command, Nothing {}, Some(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_printed_once() {
        let error = print(
            "list",
            [("a", 1)]
                .into_iter()
                .collect::<std::collections::BTreeMap<_, _>>(),
            Some(anyhow::anyhow!("wrong").context("outer")),
        );
        let error = print_failure("list", error.unwrap_err()).unwrap_err();
        assert_eq!(format!("{error:#}"), "outer: wrong");
    }
}
