// SPDX-License-Identifier: GPL-2.0

//! Which bytes of which BAR become peer-to-peer memory.
//!
//! Arithmetic only: no kernel types, so that it is tested on the build machine as well. What the
//! kernel would refuse with a backtrace is refused here with a reason.

use core::{
    fmt,
    ops::RangeInclusive, //
};

/// Requirements of the kernel on a range.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Start and size are multiples of this many bytes: a power of two.
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
    /// Its kind.
    pub(crate) kind: BarKind,
    /// Whether it has an address.
    pub(crate) assigned: bool,
}

impl Bar {
    /// Returns how long a range from `offset` on is, in bytes: without a size up to the end of the
    /// BAR.
    pub(crate) fn length(&self, offset: u64, size: Option<u64>) -> u64 {
        size.unwrap_or(self.size.saturating_sub(offset))
    }
}

/// Kind of a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarKind {
    /// The device has no BAR of that number.
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
    /// Its kind.
    pub(crate) kind: MemoryKind,
}

/// Kind of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemoryKind {
    /// Memory of a BAR.
    Bar,
    /// An NVMe Controller Memory Buffer.
    Cmb,
    /// An NVMe Persistent Memory Region.
    Pmr,
}

impl fmt::Display for MemoryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bar => "bar",
            Self::Cmb => "cmb",
            Self::Pmr => "pmr",
        })
    }
}

/// Bytes of a BAR that are never registered: the device's own registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reserved {
    /// Number of the BAR.
    pub(crate) bar: u32,
    /// Bytes from the start of the BAR.
    pub(crate) offset: u64,
    /// Length in bytes.
    pub(crate) size: u64,
    /// Name in messages.
    pub(crate) name: &'static str,
}

impl Reserved {
    /// Registers of an NVMe controller, and doorbells of 64 Ki pairs of queues.
    pub(crate) const NVME: Self = Self {
        bar: 0,
        offset: 0,
        size: 0x1000 + (64 << 10) * 8,
        name: "registers",
    };

    /// Returns where the MSI-X table and the Pending Bit Array lie, by the registers of the
    /// capability: PCI Local Bus Specification 3.0, section 6.8.2.
    pub(crate) fn msix(control: u16, table: u32, pba: u32) -> [Self; 2] {
        let vectors = u64::from(control & 0x7ff) + 1;
        let at = |register: u32, size, name| Self {
            bar: register & 0x7,
            offset: u64::from(register & !0x7),
            size,
            name,
        };

        [
            at(table, vectors * 16, "MSI-X table"),
            at(pba, vectors.div_ceil(64) * 8, "MSI-X Pending Bit Array"),
        ]
    }

    fn end(&self) -> u64 {
        self.offset.saturating_add(self.size)
    }

    /// Returns whether a range of a BAR holds some of the bytes.
    pub(crate) fn is_in(&self, bar: u32, offset: u64, size: u64) -> bool {
        self.bar == bar && self.offset < offset.saturating_add(size) && offset < self.end()
    }
}

/// Why a BAR cannot be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RegionError {
    /// The device has no BAR of that number.
    Absent { bar: u32 },
    /// No BAR of the device is memory that could serve.
    NoMemory,
    /// The BAR is one of I/O ports.
    Io { bar: u32 },
    /// The BAR has no address.
    Unassigned { bar: u32 },
    /// No whole unit of `alignment` bytes fits.
    TooSmall { bar: u32, size: u64, alignment: u64 },
    /// No whole unit of `alignment` bytes is free of registers.
    Registers {
        bar: u32,
        name: &'static str,
        alignment: u64,
    },
    /// The range does not lie within the BAR.
    Beyond { bar: u32 },
    /// The kernel cannot map that far.
    Unmappable { bar: u32, end: u64, limit: u64 },
    /// Two regions share bytes.
    Overlap {
        bar: u32,
        one: MemoryKind,
        other: MemoryKind,
    },
}

impl fmt::Display for RegionError {
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
                "BAR {bar} has no address: there was no room for it, `p2pmem doctor` says what to do"
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
            Self::Registers {
                bar,
                name,
                alignment,
            } => write!(
                f,
                "the range of BAR {bar} has the {name} in it, and no aligned {alignment} bytes \
                 beside it: choose another range or BAR"
            ),
            Self::Beyond { bar } => {
                write!(f, "the range ends beyond BAR {bar}: choose a smaller one")
            }
            Self::Unmappable { bar, end, limit } => write!(
                f,
                "the range of BAR {bar} ends at {end:#x}, the kernel maps up to {limit:#x}: \
                 boot with nokaslr, or set a lower MMIO base in the firmware"
            ),
            Self::Overlap {
                bar,
                one: MemoryKind::Bar,
                other: MemoryKind::Bar,
            } => write!(
                f,
                "two regions of BAR {bar} overlap: choose disjoint regions"
            ),
            Self::Overlap { bar, one, other } => {
                write!(
                    f,
                    "{one} and {other} overlap in BAR {bar}: choose one of them"
                )
            }
        }
    }
}

/// Returns what can be registered of a range of `bar`: the largest part whose start and size are
/// multiples of the alignment, and that has nothing in it that is reserved.
pub(crate) fn part(
    bar: &Bar,
    offset: u64,
    size: u64,
    reserved: &[Option<Reserved>],
    limits: &Limits,
) -> Result<Region, RegionError> {
    let number = bar.number;
    let alignment = limits.alignment;

    match bar.kind {
        BarKind::Absent => return Err(RegionError::Absent { bar: number }),
        BarKind::Io => return Err(RegionError::Io { bar: number }),
        BarKind::Memory { .. } => (),
    }
    if !bar.assigned {
        return Err(RegionError::Unassigned { bar: number });
    }

    let beyond = RegionError::Beyond { bar: number };
    let end = offset.checked_add(size).ok_or(beyond)?;
    if end > bar.size {
        return Err(beyond);
    }
    // The range is within the BAR, so that nothing below overflows.
    bar.start.checked_add(bar.size).ok_or(beyond)?;

    let mask = alignment - 1;
    let align = |from: u64, to: u64| {
        let first = (bar.start + from).checked_add(mask)? & !mask;
        let last = (bar.start + to) & !mask;
        (first < last).then_some((first, last))
    };
    let whole = align(offset, end).ok_or(RegionError::TooSmall {
        bar: number,
        size,
        alignment,
    })?;

    let inside = || {
        let reserved = reserved.iter().flatten();
        reserved.filter(|one| one.is_in(number, offset, size))
    };
    // From the start of the range or the end of a reserved one up to the next reserved one.
    let run = |from: u64| {
        let behind = inside().filter(|one| one.end() > from);
        let to = behind.fold(end, |to, one| to.min(one.offset.max(from)));
        (from < to).then(|| align(from, to))?
    };
    let (first, last) = match inside().next() {
        None => whole,
        Some(Reserved { name, .. }) => inside()
            .map(Reserved::end)
            .chain([offset])
            .filter_map(run)
            .max_by_key(|(first, last)| last - first)
            .ok_or(RegionError::Registers {
                bar: number,
                name,
                alignment,
            })?,
    };
    if !limits.mappable.contains(&first) || !limits.mappable.contains(&(last - 1)) {
        return Err(RegionError::Unmappable {
            bar: number,
            end: last - 1,
            limit: *limits.mappable.end(),
        });
    }

    Ok(Region {
        bar: number,
        offset: first - bar.start,
        size: last - first,
        kind: MemoryKind::Bar,
    })
}

/// Checks that no two regions share a byte.
pub(crate) fn disjoint(regions: &[Region]) -> Result<(), RegionError> {
    for (index, one) in regions.iter().enumerate() {
        let shares = |other: &Region| {
            // Regions lie within BARs, so that the sums do not overflow.
            one.bar == other.bar
                && one.offset < other.offset + other.size
                && other.offset < one.offset + one.size
        };
        if let Some(other) = regions.iter().skip(index + 1).find(|other| shares(other)) {
            return Err(RegionError::Overlap {
                bar: one.bar,
                one: one.kind,
                other: other.kind,
            });
        }
    }

    Ok(())
}
