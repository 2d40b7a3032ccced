// SPDX-License-Identifier: GPL-2.0

//! The test module, tests/kmod/p2pmem_test.h. It is loaded when it is first needed.

use std::{
    fs::{File, OpenOptions},
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{ensure, Context, Result};
use rustix::io::Errno;

use crate::{coverage, guest::last_errno};

const MODULE: &str = "/modules/p2pmem_test.ko";
const NODE: &str = "/dev/p2pmem_test";
const ROLES: &str = "/modules/p2pmem_roles.ko";

const PTE: u64 = 0xc018_be00;
const CLAIM: u64 = 0x4008_be01;
const DETOUR: u64 = 0xc040_be02;
const MISTAKE: u64 = 0xbe03;
const IMPORT: u64 = 0xc020_be04;
const LINGER: u64 = 0xc008_be05;
const READ: u64 = 0xc010_be06;
const WRITE: u64 = 0xc010_be07;

/// The importer obeys when the memory goes away.
pub const REVOCABLE: u32 = 1 << 0;
/// It knows what memory of other devices is.
pub const PEER: u32 = 1 << 1;
/// It is one of the old kind.
pub const STATIC: u32 = 1 << 2;

/// A deliberate mistake.
#[derive(Clone, Copy)]
pub enum Mistake {
    UseAfterFree,
    LockOrder,
    Leak,
}

/// The mapping of an address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    address: u64,
    /// The entry of the page table, 0 if there is none.
    pub value: u64,
    /// Orders of the entry and of the folio: pages as powers of two.
    pub leaf_order: u32,
    pub folio_order: u32,
}

/// An open file. What it was asked for is undone when it is dropped.
pub struct TestFile(File);

impl TestFile {
    /// Opens the module's node.
    pub fn open() -> Result<Self> {
        let file = File::open(MODULE).context(MODULE)?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(Errno::EXIST) => (),
            Err(error) => return Err(error).context(MODULE),
        }
        let file = OpenOptions::new().read(true).write(true).open(NODE);
        Ok(Self(file.context(NODE)?))
    }

    fn request<T>(&self, request: u64, argument: &mut T) -> Result<(), Errno> {
        // SAFETY: The argument is what the request reads and writes.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument) } {
            0 => Ok(()),
            _ => Err(last_errno()),
        }
    }

    /// Returns how an address of this process is mapped.
    pub fn pte(&self, address: *const u8) -> Result<Entry> {
        let mut argument = Entry {
            address: address as u64,
            ..Entry::default()
        };
        self.request(PTE, &mut argument)?;
        Ok(argument)
    }

    /// Has this process sleep whenever it is at the beginning of a function of the kernel.
    pub fn delay(&self, symbol: &str, milliseconds: u32) -> Result<()> {
        self.detour(symbol, milliseconds, 0).map(drop)
    }

    /// Has a function of the kernel fail, when this process is to execute it.
    pub fn fail(&self, symbol: &str, error: Errno) -> Result<()> {
        self.replace(symbol, -error.raw_os_error())
    }

    /// Has a function of the kernel return something, not 0, when this process is to execute it.
    pub fn replace(&self, symbol: &str, result: i32) -> Result<()> {
        self.detour(symbol, 0, result).map(drop)
    }

    /// Returns how often this process was there.
    pub fn hits(&self, symbol: &str) -> Result<u32> {
        self.detour(symbol, 0, 0)
    }

    fn detour(&self, symbol: &str, milliseconds: u32, result: i32) -> Result<u32> {
        #[repr(C)]
        struct Detour {
            symbol: [u8; 52],
            milliseconds: u32,
            result: i32,
            hits: u32,
        }
        let mut argument = Detour {
            symbol: [0; 52],
            milliseconds,
            result,
            hits: 0,
        };
        argument.symbol[..symbol.len()].copy_from_slice(symbol.as_bytes());
        self.request(DETOUR, &mut argument)
            .context(symbol.to_owned())?;
        Ok(argument.hits)
    }

    /// Says for how long at most a module under test stays after its code has ended, and returns
    /// how often that began. It stays until 0 is said.
    pub fn linger(&self, milliseconds: u32) -> Result<u32> {
        let mut argument = [milliseconds, 0];
        self.request(LINGER, &mut argument)?;
        Ok(argument[1])
    }

    /// Makes a mistake, which the debug kernel reports.
    pub fn make(&self, mistake: Mistake) -> Result<()> {
        // SAFETY: The argument is a number.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), MISTAKE, mistake as usize) } {
            0 => Ok(()),
            _ => Err(last_errno().into()),
        }
    }

    /// Has a device import a dma-buf. It unmaps it so many milliseconds after revocation.
    /// Returns where the memory is for the device, and its length.
    pub fn import(
        &self,
        fd: impl AsFd,
        pci: &str,
        flags: u32,
        milliseconds: u16,
    ) -> Result<(u64, u64), Errno> {
        #[repr(C)]
        struct Import {
            fd: i32,
            flags: u32,
            domain: u32,
            bus: u8,
            devfn: u8,
            milliseconds: u16,
            address: u64,
            length: u64,
        }
        let (domain, bus, devfn) = numbers(pci).expect("an address");
        let mut argument = Import {
            fd: fd.as_fd().as_raw_fd(),
            flags,
            domain,
            bus,
            devfn,
            milliseconds,
            address: 0,
            length: 0,
        };
        self.request(IMPORT, &mut argument)?;
        Ok((argument.address, argument.length))
    }

    /// Writes to a register, even if a driver has the device: as a reset would.
    pub fn write(&self, pci: &str, bar: u16, offset: u32, value: u32) -> Result<()> {
        self.register(WRITE, pci, bar, offset, value).map(drop)
    }

    /// Reads a register, even if a driver has the device.
    pub fn read(&self, pci: &str, bar: u16, offset: u32) -> Result<u32> {
        self.register(READ, pci, bar, offset, 0)
    }

    fn register(&self, request: u64, pci: &str, bar: u16, offset: u32, value: u32) -> Result<u32> {
        #[repr(C)]
        struct Register {
            bar: Bar,
            offset: u32,
            value: u32,
        }
        let mut argument = Register {
            bar: Bar::new(pci, bar)?,
            offset,
            value,
        };
        self.request(request, &mut argument)?;
        Ok(argument.value)
    }

    /// Takes a BAR, as a driver does.
    pub fn claim(&self, pci: &str, bar: u16) -> Result<()> {
        Ok(self.request(CLAIM, &mut Bar::new(pci, bar)?)?)
    }
}

/// A BAR, as it begins each argument that has one.
#[repr(C)]
struct Bar {
    domain: u32,
    bus: u8,
    devfn: u8,
    bar: u16,
}

impl Bar {
    fn new(pci: &str, bar: u16) -> Result<Self> {
        let (domain, bus, devfn) = numbers(pci)?;
        Ok(Self {
            domain,
            bus,
            devfn,
            bar,
        })
    }
}

/// Returns the numbers in the address of a device: domain, bus, device and function.
fn numbers(pci: &str) -> Result<(u32, u8, u8)> {
    let parts: Vec<_> = pci
        .split([':', '.'])
        .map(|part| u32::from_str_radix(part, 16))
        .collect::<Result<_, _>>()?;
    let [domain, bus, device, function] = parts[..] else {
        anyhow::bail!("{pci} is not an address");
    };
    ensure!(bus < 256 && device < 32 && function < 8);
    Ok((domain, bus as u8, ((device << 3) | function) as u8))
}

/// Has other users inside of the kernel do what they do (tests/kmod/roles.rs), then calls a
/// function.
pub fn with_roles(check: impl FnOnce() -> Result<()>) -> Result<()> {
    let file = File::open(ROLES).context(ROLES)?;
    rustix::system::finit_module(&file, c"", 0).context(ROLES)?;
    let result = check();
    coverage::unload(c"p2pmem_roles")?;
    result
}
