// SPDX-License-Identifier: GPL-2.0

//! The test module, tests/kmod/p2pmem_test.h. It is loaded when it is first needed.

use std::{
    fs::{File, OpenOptions},
    os::fd::AsRawFd,
};

use anyhow::{ensure, Context, Result};
use rustix::io::Errno;

use crate::guest::last_errno;

const MODULE: &str = "/modules/p2pmem_test.ko";
const NODE: &str = "/dev/p2pmem_test";

const CLAIM: u64 = 0x4008_be01;

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

    /// Takes a BAR, as a driver does.
    pub fn claim(&self, pci: &str, bar: u16) -> Result<()> {
        #[repr(C)]
        struct Bar {
            domain: u32,
            bus: u8,
            devfn: u8,
            bar: u16,
        }
        let parts: Vec<_> = pci
            .split([':', '.'])
            .map(|part| u32::from_str_radix(part, 16))
            .collect::<Result<_, _>>()?;
        let [domain, bus, device, function] = parts[..] else {
            anyhow::bail!("{pci} is not an address");
        };
        ensure!(bus < 256 && device < 32 && function < 8);
        let mut argument = Bar {
            domain,
            bus: bus as u8,
            devfn: ((device << 3) | function) as u8,
            bar,
        };
        Ok(self.request(CLAIM, &mut argument)?)
    }
}
