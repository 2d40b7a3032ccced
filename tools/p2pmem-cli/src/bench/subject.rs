// SPDX-License-Identifier: GPL-2.0

//! Operations and kinds of memory that are measured.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// An operation that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// Memory is mapped, each page is touched, and it is unmapped.
    Map,
    /// Memory whose pages are all present is unmapped.
    Unmap,
    /// Memory is mapped, and touched for the first time, a span of 2 MiB after the other: the
    /// longest of them.
    FirstTouch,
    /// Memory is put into a slot of an io_uring, and taken out.
    Register,
    /// The CPU writes to memory.
    Store,
    /// The CPU reads from memory.
    Load,
    /// A drive is read into memory.
    Read,
    /// Memory is written to a drive.
    Write,
    /// A drive is read into memory by `pread()`, one read at a time.
    Pread,
}

impl What {
    /// Returns the kinds of memory that are compared. The first one is the baseline.
    pub fn kinds(self) -> &'static [Kind] {
        use Kind::*;
        match self {
            Self::Map | Self::Unmap => &[Mainline, Mapped, Ordinary],
            Self::FirstTouch => &[Mapped],
            Self::Pread => &[Mainline, Mapped, Ordinary],
            Self::Register => &[OrdinaryRegistered, Registered],
            Self::Store | Self::Load => &[Ordinary, Mapped, WriteCombining],
            Self::Read | Self::Write => {
                &[Mainline, Mapped, Registered, Ordinary, OrdinaryRegistered]
            }
        }
    }

    /// Returns whether a drive is needed.
    pub fn needs_drive(self) -> bool {
        matches!(self, Self::Read | Self::Write | Self::Pread)
    }

    /// Returns whether several requests can be in flight.
    pub fn has_depth(self) -> bool {
        matches!(self, Self::Read | Self::Write)
    }

    /// Returns how many bytes there can be at the most.
    pub fn limit(self) -> u64 {
        match self {
            Self::Map | Self::Unmap | Self::FirstTouch => u64::MAX,
            _ => u32::MAX.into(),
        }
    }

    /// Returns the number of repetitions in a round.
    pub fn count(self, size: u64) -> u32 {
        let bytes: u64 = match self {
            // Does not depend on the size.
            Self::Register => return 64,
            Self::Map | Self::Unmap => 16 << 20,
            Self::FirstTouch => return 1,
            Self::Store | Self::Load => 1 << 20,
            Self::Read | Self::Write | Self::Pread => 64 << 20,
        };
        (bytes / size).clamp(1, 64) as u32
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Map => "map, touch, unmap",
            Self::Unmap => "unmap",
            Self::FirstTouch => "first touch, longest of 2 MiB",
            Self::Register => "register with io_uring, unregister",
            Self::Store => "store by the CPU",
            Self::Load => "load by the CPU",
            Self::Read => "read from the drive",
            Self::Write => "write to the drive",
            Self::Pread => "pread from the drive",
        })
    }
}

/// A kind of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Device memory that the kernel's own `p2pmem/allocate` mapped.
    Mainline,
    /// Device memory that the node mapped, uncached.
    Mapped,
    /// Device memory that is mapped so that writes are combined.
    WriteCombining,
    /// Device memory in a slot of the ring.
    Registered,
    /// Ordinary memory.
    Ordinary,
    /// Ordinary memory in a slot of the ring.
    OrdinaryRegistered,
    /// The device's BAR as page frames, mapped by the kernel's own `resourceN`. Nothing can be
    /// cheaper, and no I/O be done with it.
    Frames,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mainline => "mainline's p2pmem/allocate, mapped",
            Self::Mapped => "the node, mapped",
            Self::WriteCombining => "the node, write-combining",
            Self::Registered => "the node, registered with io_uring",
            Self::Ordinary => "ordinary memory",
            Self::OrdinaryRegistered => "ordinary memory, registered",
            Self::Frames => "page frames of the BAR, no I/O",
        })
    }
}
