// SPDX-License-Identifier: GPL-2.0

//! The option --force.

use anyhow::Result;

/// Adds to a refusal that there is a way to go on.
pub fn or_force<T>(result: Result<T>) -> Result<T> {
    result.map_err(|error| anyhow::anyhow!("{error:#}; pass --force to go on anyway"))
}
