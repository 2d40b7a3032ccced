// SPDX-License-Identifier: GPL-2.0

//! Which bytes of which BAR become peer-to-peer memory.
//!
//! Arithmetic only: no kernel types, so that it is tested on the build machine as well. What the
//! kernel would refuse with a backtrace is refused here with a reason.

use core::{
    fmt,
    ops::RangeInclusive, //
};

/// What the kernel asks of a range.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// What start and size must be multiples of, in bytes: a power of two.
    pub(crate) alignment: u64,
    /// CPU addresses that can be mapped.
    pub(crate) mappable: RangeInclusive<u64>,
}

/// A Base Address Register of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bar {
    /// Its number, 0 to 5.
    pub(crate) number: u32,
    /// CPU address of its first byte.
    pub(crate) start: u64,
    /// Length in bytes, 0 if it is not known.
    pub(crate) size: u64,
    /// What it is.
    pub(crate) kind: Kind,
    /// Whether it has an address.
    pub(crate) assigned: bool,
}

/// What a BAR gives access to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The device has no such BAR.
    Absent,
    /// I/O ports.
    Io,
    /// Memory.
    Memory {
        /// Reading has no side effects.
        prefetchable: bool,
        /// The BAR is 64 bits wide.
        wide: bool,
    },
}

/// A range of a BAR that can be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// Number of the BAR.
    pub(crate) bar: u32,
    /// Bytes from the start of the BAR.
    pub(crate) offset: u64,
    /// Length in bytes.
    pub(crate) size: u64,
    /// What it is.
    pub(crate) content: Content,
}

/// What memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Memory of a BAR.
    Bar,
    /// An NVMe Controller Memory Buffer.
    Cmb,
    /// An NVMe Persistent Memory Region.
    Pmr,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bar => "bar",
            Self::Cmb => "cmb",
            Self::Pmr => "pmr",
        })
    }
}

/// Why a BAR cannot be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The device has no such BAR.
    Absent { bar: u32 },
    /// No BAR of the device is memory that could serve.
    NoMemory,
    /// The BAR is one of I/O ports.
    Io { bar: u32 },
    /// The BAR has no address.
    Unassigned { bar: u32 },
    /// No whole unit of `alignment` bytes fits.
    TooSmall { bar: u32, size: u64, alignment: u64 },
    /// The range does not lie within the BAR.
    Beyond { bar: u32 },
    /// The kernel cannot map that far.
    Unmappable { bar: u32, end: u64, limit: u64 },
    /// Two regions share bytes.
    Overlap { bar: u32 },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Absent { bar } => {
                write!(f, "the device has no BAR {bar}: choose a memory BAR it has")
            }
            Self::NoMemory => {
                write!(f, "no BAR of the device is memory: choose another device")
            }
            Self::Io { bar } => {
                write!(f, "BAR {bar} is I/O ports: choose a memory BAR")
            }
            Self::Unassigned { bar } => write!(
                f,
                "BAR {bar} has no address: boot with pci=realloc, or enable above 4G decoding"
            ),
            Self::TooSmall {
                bar,
                size,
                alignment,
            } => write!(
                f,
                "{size} bytes of BAR {bar} hold no aligned {alignment} bytes: \
                 choose a larger range or BAR"
            ),
            Self::Beyond { bar } => {
                write!(f, "the range ends beyond BAR {bar}: choose a smaller one")
            }
            Self::Unmappable { bar, end, limit } => write!(
                f,
                "the range of BAR {bar} ends at {end:#x}, the kernel maps up to {limit:#x}: \
                 boot with nokaslr, or set a lower MMIO base in the firmware"
            ),
            Self::Overlap { bar } => {
                write!(
                    f,
                    "two regions of BAR {bar} overlap: choose such that do not"
                )
            }
        }
    }
}

/// Returns what can be registered of a range of `bar`: the largest part whose start and size are
/// multiples of the alignment.
pub(crate) fn part(bar: &Bar, offset: u64, size: u64, limits: &Limits) -> Result<Region, Refusal> {
    let number = bar.number;
    let alignment = limits.alignment;

    match bar.kind {
        Kind::Absent => return Err(Refusal::Absent { bar: number }),
        Kind::Io => return Err(Refusal::Io { bar: number }),
        Kind::Memory { .. } => (),
    }
    if !bar.assigned {
        return Err(Refusal::Unassigned { bar: number });
    }

    let beyond = Refusal::Beyond { bar: number };
    if offset.checked_add(size).ok_or(beyond)? > bar.size {
        return Err(beyond);
    }
    // The range is within the BAR, so that nothing below overflows.
    bar.start.checked_add(bar.size).ok_or(beyond)?;
    let start = bar.start + offset;
    let end = start + size;
    let too_small = Refusal::TooSmall {
        bar: number,
        size,
        alignment,
    };

    let mask = alignment - 1;
    let first = start.checked_add(mask).ok_or(too_small)? & !mask;
    let last = end & !mask;
    if first >= last {
        return Err(too_small);
    }
    if !limits.mappable.contains(&first) || !limits.mappable.contains(&(last - 1)) {
        return Err(Refusal::Unmappable {
            bar: number,
            end: last - 1,
            limit: *limits.mappable.end(),
        });
    }

    Ok(Region {
        bar: number,
        offset: first - bar.start,
        size: last - first,
        content: Content::Bar,
    })
}

/// Checks that no two regions share a byte.
pub(crate) fn disjoint(regions: &[Region]) -> Result<(), Refusal> {
    for (index, one) in regions.iter().enumerate() {
        let shares = |other: &Region| {
            // Regions lie within BARs, so that the sums do not overflow.
            one.bar == other.bar
                && one.offset < other.offset + other.size
                && other.offset < one.offset + one.size
        };
        if regions.iter().skip(index + 1).any(shares) {
            return Err(Refusal::Overlap { bar: one.bar });
        }
    }

    Ok(())
}

/// Returns the BAR that most likely is memory, of a device that nobody said anything about: the
/// largest prefetchable 64-bit one, or else the largest memory BAR.
///
/// One without an address counts as small, but may be chosen: that it has none is the reason then.
pub(crate) fn choose(bars: &[Bar]) -> Result<&Bar, Refusal> {
    let rank = |bar: &&Bar| match bar.kind {
        Kind::Memory { prefetchable, wide } => Some((prefetchable && wide, bar.size)),
        Kind::Absent | Kind::Io => None,
    };

    bars.iter()
        .filter(|bar| rank(bar).is_some())
        .max_by_key(rank)
        .ok_or(Refusal::NoMemory)
}
