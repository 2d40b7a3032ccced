// SPDX-License-Identifier: GPL-2.0

//! Errors of reading a machine.

use std::{io, path::PathBuf};

use crate::pci::PciAddress;

/// An error of reading a machine, or its record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the kernel.
        source: io::Error,
    },
    /// A file system of the kernel cannot be read.
    #[error("cannot read {}: is {mount} mounted?", path.display())]
    NotMounted {
        /// The file.
        path: PathBuf,
        /// The usual mount point of the file system, or its name.
        mount: &'static str,
        /// The error of the kernel.
        source: io::Error,
    },
    /// The providers cannot be read.
    #[error("cannot read the providers in sysfs")]
    Providers(#[source] io::Error),
    /// There is no file at a path, or this process may not look at it.
    #[error(
        "cannot look at {}: name a file, directory or block device that there is", path.display()
    )]
    Target {
        /// The path.
        path: PathBuf,
        /// The error of the kernel.
        source: io::Error,
    },
    /// A record does not have the block device.
    #[error("{} was not recorded", path.display())]
    NotRecorded {
        /// The path of its node.
        path: PathBuf,
    },
    /// A text is not the record of a machine.
    #[error("not a recorded fabric")]
    Record(#[source] serde_json::Error),
    /// A record has another version.
    #[error("a fabric of version {found}, this program reads {expected}: record it again")]
    Version {
        /// The version of the record.
        found: u32,
        /// The version that this library reads.
        expected: u32,
    },
    /// A record has a function twice.
    #[error("{address} is there twice: record the fabric again")]
    Duplicate {
        /// The function.
        address: PciAddress,
    },
    /// A record has a function above itself.
    #[error("{address} is above itself: record the fabric again")]
    Circle {
        /// The function.
        address: PciAddress,
    },
    /// A record has a function below a bridge that it does not have.
    #[error("{address} is below {parent}, which is not there: record the fabric again")]
    NoParent {
        /// The function.
        address: PciAddress,
        /// The bridge.
        parent: PciAddress,
    },
}
