// SPDX-License-Identifier: GPL-2.0

//! Errors of direct I/O.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use super::direction::Direction;
use crate::size;

/// An error of direct I/O.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectError {
    /// The file cannot be opened.
    #[error("cannot open {} for direct I/O", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The error of the kernel.
        source: io::Error,
    },
    /// A block device takes no writes.
    #[error(
        "{} is read-only: choose another device, or make it writable (blockdev --setrw)",
        path.display()
    )]
    ReadOnly {
        /// The block device.
        path: PathBuf,
    },
    /// A request failed.
    #[error("{}", failed(*direction, path, *offset, memory.as_deref(), *source))]
    Transfer {
        /// The direction.
        direction: Direction,
        /// The file.
        path: PathBuf,
        /// Offset in the file, in bytes.
        offset: u64,
        /// The provider of the memory; nothing for ordinary memory.
        memory: Option<String>,
        /// The error of the kernel.
        source: Errno,
    },
    /// A request moved nothing: the file or the device ends.
    #[error("{} {} at {offset}", path.display(), match direction {
        Direction::Read => "ends",
        Direction::Write => "is full",
    })]
    End {
        /// The direction.
        direction: Direction,
        /// The file.
        path: PathBuf,
        /// Offset in the file, in bytes.
        offset: u64,
    },
    /// A file is shorter than the range that is to be moved.
    #[error("{} is shorter than {}", path.display(), range(*offset, *length))]
    Short {
        /// The file.
        path: PathBuf,
        /// Offset of the range in bytes.
        offset: u64,
        /// Length of the range in bytes.
        length: u64,
    },
    /// Another operation on the file failed.
    #[error("cannot {operation} {}", path.display())]
    Operation {
        /// The operation: a verb.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the kernel.
        source: io::Error,
    },
}

impl DirectError {
    /// Returns the error number of the kernel, if it is the kernel that failed.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Open { source, .. } | Self::Operation { source, .. } => {
                Errno::from_io_error(source)
            }
            Self::Transfer { source, .. } => Some(*source),
            Self::ReadOnly { .. } | Self::End { .. } | Self::Short { .. } => None,
        }
    }
}

/// Says what an error of direct I/O most likely means.
fn failed(
    direction: Direction,
    path: &Path,
    offset: u64,
    memory: Option<&str>,
    error: Errno,
) -> String {
    let (verb, with) = match direction {
        Direction::Read => ("read", "into"),
        Direction::Write => ("write", "from"),
    };
    let mut text = format!("cannot {verb} {} at {offset}", path.display());
    if let Some(memory) = memory {
        text += &format!(" {with} {memory}");
    }
    text += match (error, memory) {
        (Errno::NODEV | Errno::FAULT, Some(_)) => ": the device that has the memory went away",
        (Errno::NXIO | Errno::NODEV, _) => ": the drive went away",
        (Errno::IO, _) => ": the drive failed: see the kernel's log",
        (Errno::NOSPC, _) => ": there is no room for it",
        _ => "",
    };
    text
}

fn range(offset: u64, length: u64) -> String {
    match offset {
        0 => size::format(length),
        _ => format!("{} + {}", size::format(offset), size::format(length)),
    }
}
