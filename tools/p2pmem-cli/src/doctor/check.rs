// SPDX-License-Identifier: GPL-2.0

//! Checks, and their form as text.

use std::fmt;

use serde::Serialize;

use crate::table;

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Something works, but not as well as it could, or not everywhere.
    Warning,
    /// Something does not work.
    Problem,
    /// It cannot be told.
    Unknown,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
            Self::Unknown => "unknown",
        })
    }
}

/// A check that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Subject of the check.
    pub name: String,
    /// How it went.
    pub status: Status,
    /// Finding.
    pub found: String,
    /// Why it is so; empty where nothing is to be explained.
    pub cause: String,
    /// Cure; empty if none is needed.
    pub cure: String,
}

impl Check {
    pub fn new(name: impl Into<String>, status: Status, found: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            status,
            found: found.into(),
            cause: String::new(),
            cure: String::new(),
        }
    }

    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.cause = cause.into();
        self
    }

    pub fn cured_by(mut self, cure: impl Into<String>) -> Self {
        self.cure = cure.into();
        self
    }
}

/// Returns how many checks went so.
pub fn count(checks: &[Check], status: Status) -> usize {
    checks.iter().filter(|check| check.status == status).count()
}

/// Writes checks as text, in lines of at most `width` characters.
pub fn render(checks: &[Check], width: u16) -> String {
    let name = checks
        .iter()
        .map(|check| check.name.chars().count())
        .max()
        .unwrap_or(0);
    // Below what was found, unless a long name leaves little room for it.
    let indent = (9 + name + 2).min(usize::from(width) / 3);

    let mut text = String::new();
    for check in checks {
        let head = format!(
            "{:<7}  {:<name$}  {}",
            check.status, check.name, check.found
        );
        text += &table::wrap(&head, indent, width);
        for (what, explanation) in [("cause", &check.cause), ("cure", &check.cure)] {
            if !explanation.is_empty() {
                let line = format!("{:9}{what}: {explanation}", "");
                text += &table::wrap(&line, 11, width);
            }
        }
    }
    text + &format!(
        "\nproblems: {}, warnings: {}, unknown: {}\n",
        count(checks, Status::Problem),
        count(checks, Status::Warning),
        count(checks, Status::Unknown)
    )
}
