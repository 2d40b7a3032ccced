// SPDX-License-Identifier: GPL-2.0

//! Providers of device memory.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use rustix::ioctl::{ioctl, Getter, Updater};

use crate::abi;

/// An open `/dev/p2pmemN`.
#[derive(Debug)]
pub struct Provider {
    file: File,
}

impl Provider {
    /// Opens a node.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: OpenOptions::new().read(true).write(true).open(path)?,
        })
    }

    /// Returns what the provider is. `ENODEV` if the device is gone.
    pub fn info(&self) -> io::Result<abi::p2pmem_info> {
        // SAFETY: The request writes such a structure.
        Ok(unsafe { ioctl(&self.file, Getter::<{ abi::INFO }, abi::p2pmem_info>::new())? })
    }

    /// Returns where one of the provider's regions lies. `EINVAL` if there is no such region.
    pub fn region(&self, index: u32) -> io::Result<abi::p2pmem_region> {
        let mut region = abi::p2pmem_region {
            index,
            ..Default::default()
        };
        // SAFETY: The request reads and writes such a structure.
        unsafe {
            ioctl(
                &self.file,
                Updater::<{ abi::REGION }, abi::p2pmem_region>::new(&mut region),
            )?;
        }

        Ok(region)
    }
}

impl AsFd for Provider {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
