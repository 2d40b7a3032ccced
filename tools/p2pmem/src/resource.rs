// SPDX-License-Identifier: GPL-2.0

//! Resources of PCI functions: lines of the file `resource` in sysfs.

use crate::root::hexadecimal;

/// A range of addresses of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The first address.
    pub start: u64,
    /// The last address.
    pub end: u64,
    /// Flags of linux/ioport.h.
    pub flags: u64,
}

/// Reads the text of a `resource` file, in which the BARs come first. A line of another form is
/// [`None`].
///
/// # Examples
///
/// ```
/// use p2pmem::resource;
///
/// let all: Vec<_> = resource::parse("0x800000000 0x807ffffff 0x14220c\n").collect();
/// let bar = all[0].unwrap();
/// assert_eq!(bar.length(), Some(128 << 20));
/// assert!(bar.is_memory() && bar.is_prefetchable() && bar.is_wide());
/// ```
pub fn parse(text: &str) -> impl DoubleEndedIterator<Item = Option<Resource>> + '_ {
    text.lines().map(|line| {
        let mut words = line.split_whitespace().map(hexadecimal);
        Some(Resource {
            start: words.next()??,
            end: words.next()??,
            flags: words.next()??,
        })
    })
}

impl Resource {
    const IO: u64 = 0x100;
    const MEMORY: u64 = 0x200;
    const PREFETCHABLE: u64 = 0x2000;
    const WIDE: u64 = 0x10_0000;
    const UNSET: u64 = 0x2000_0000;

    /// Returns whether it is a range of I/O ports.
    pub fn is_io(self) -> bool {
        self.flags & Self::IO != 0
    }

    /// Returns whether it is a range of memory.
    pub fn is_memory(self) -> bool {
        self.flags & Self::MEMORY != 0
    }

    /// Returns whether reads of the memory have no effect.
    pub fn is_prefetchable(self) -> bool {
        self.flags & Self::PREFETCHABLE != 0
    }

    /// Returns whether addresses of 64 bits fit.
    pub fn is_wide(self) -> bool {
        self.flags & Self::WIDE != 0
    }

    /// Returns whether the range has addresses: otherwise it has a length only.
    pub fn is_assigned(self) -> bool {
        self.flags & Self::UNSET == 0
    }

    /// Returns the length in bytes. 0 for a resource that is absent.
    pub fn length(self) -> Option<u64> {
        match self.flags {
            0 => Some(0),
            _ => self.end.checked_sub(self.start)?.checked_add(1),
        }
    }
}
