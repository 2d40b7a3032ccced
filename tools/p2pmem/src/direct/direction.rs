// SPDX-License-Identifier: GPL-2.0

//! Directions of transfers.

/// Whether data comes from a file or goes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The file is read.
    Read,
    /// The file is written.
    Write,
}
