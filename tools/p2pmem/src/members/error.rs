// SPDX-License-Identifier: GPL-2.0

//! Errors of finding members.

use std::{io, path::PathBuf};

use crate::error::Error;

/// The places of copies of data are not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MembersError {
    /// The path cannot be looked at.
    #[error(transparent)]
    Machine(#[from] Error),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the kernel.
        source: io::Error,
    },
    /// A file system places copies by itself, as btrfs does.
    #[error("the file system has several block devices, and its copies are where only it knows")]
    FileSystem,
    /// A range lies outside the members that are known.
    #[error("cannot tell where the byte at {offset} of {device} is on the drives below it")]
    Outside {
        /// The block device.
        device: String,
        /// Offset in bytes.
        offset: u64,
    },
    /// sysfs has something else than expected.
    #[error("{device} {problem}")]
    Malformed {
        /// The block device.
        device: String,
        /// The difference.
        problem: &'static str,
    },
    /// A target of the device mapper is not known.
    #[error("{device} is of the device mapper, and where its copies are is not known")]
    Mapped {
        /// The block device.
        device: String,
    },
    /// A level or layout of md is not known.
    #[error("{device} is md {level}, layout {layout}: where its copies are is not known")]
    Md {
        /// The block device.
        device: String,
        /// The level, like `raid5`.
        level: String,
        /// The layout.
        layout: u64,
    },
    /// An array changes its shape.
    #[error("{device} is being reshaped: wait for its end")]
    Reshape {
        /// The block device.
        device: String,
    },
    /// A loop device has its data in a file.
    #[error("{device} is a loop device")]
    Loop {
        /// The block device.
        device: String,
    },
    /// The file system does not report extents.
    #[error("the file system does not tell where {} is", path.display())]
    NoExtents {
        /// The file.
        path: PathBuf,
        /// The error of the kernel.
        source: io::Error,
    },
    /// The file has data that is not on the block device as it is in the file.
    #[error("the data of {} is not where it can be compared", path.display())]
    Extents {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: ExtentError,
    },
    /// A table of the device mapper cannot be read.
    #[error("cannot ask for the table of {number}: are you root?")]
    Table {
        /// Major and minor number.
        number: String,
        /// The error of the kernel.
        source: io::Error,
    },
}

/// Data of a file is not on the block device as it is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtentError {
    /// An extent is inline, compressed, not yet written, or the like.
    #[error("an extent has the flags {0:#x}")]
    Flags(u32),
    /// The file has a hole at an offset.
    #[error("there is a hole at {0}")]
    Hole(u64),
    /// The extents end at an offset.
    #[error("it ends at {0}")]
    End(u64),
}
