// SPDX-License-Identifier: GPL-2.0

//! Errors of memory that data is staged in.

use std::{io, path::PathBuf};

use rustix::io::Errno;

use crate::{direct::DirectError, size};

/// There is no memory to stage data in, or it is not there any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StagingError {
    /// A slot of a ring does not hold so much.
    #[error("a slot of an io_uring does not hold {}", size::format(*bytes))]
    TooLong {
        /// Bytes that were requested.
        bytes: u64,
    },
    /// The memory cannot be allocated.
    #[error("cannot allocate {} of {}", size::format(*bytes), path.display())]
    Allocate {
        /// The node, or `host`.
        path: PathBuf,
        /// Bytes that were requested.
        bytes: u64,
        /// The error of the kernel.
        source: io::Error,
    },
    /// A ring cannot be made.
    #[error("cannot make an io_uring")]
    Ring(#[source] io::Error),
    /// The driver does not allow this process to fill a slot.
    #[error("this process may not put memory of {} into the ring", node.display())]
    NotPermitted {
        /// The node.
        node: PathBuf,
        /// The error of the kernel.
        source: Errno,
    },
    /// The memory cannot be put into the ring.
    #[error("cannot put the memory into the ring")]
    Register(#[source] io::Error),
    /// The memory cannot be mapped for the CPU.
    #[error("cannot map the memory")]
    Map(#[source] io::Error),
    /// The ring cannot be waited for.
    #[error("cannot wait for the ring")]
    Wait(#[source] io::Error),
    /// The ring has no room for another request, or there is no ring.
    #[error("the ring is full")]
    Full,
    /// The device went away.
    #[error("the device of {} went away", path.display())]
    Gone {
        /// The node.
        path: PathBuf,
    },
    /// A transfer failed.
    #[error(transparent)]
    Direct(#[from] DirectError),
}
