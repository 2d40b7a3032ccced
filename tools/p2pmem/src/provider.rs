// SPDX-License-Identifier: GPL-2.0

//! Providers of device memory.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
    path::Path,
};

use rustix::ioctl::{ioctl, Getter, Updater};

use crate::{abi, handle::Handle};

/// An open `/dev/p2pmemN`.
#[derive(Debug)]
pub struct Provider {
    file: File,
}

impl Provider {
    /// Opens a node.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self {
            file: OpenOptions::new().read(true).write(true).open(path)?,
        })
    }

    /// Returns what the provider is. `ENODEV` if the device is gone.
    pub fn info(&self) -> io::Result<abi::p2pmem_info> {
        // SAFETY: The request writes a structure of this type.
        Ok(unsafe { ioctl(&self.file, Getter::<{ abi::INFO }, abi::p2pmem_info>::new())? })
    }

    /// Returns one of the provider's regions. `EINVAL` if the index is out of range.
    pub fn region(&self, index: u32) -> io::Result<abi::p2pmem_region> {
        let mut region = abi::p2pmem_region {
            index,
            ..Default::default()
        };
        // SAFETY: The request reads and writes a structure of this type.
        unsafe {
            ioctl(
                &self.file,
                Updater::<{ abi::REGION }, abi::p2pmem_region>::new(&mut region),
            )?;
        }

        Ok(region)
    }

    /// Allocates memory, and returns it as a descriptor. `flags` are `P2PMEM_ALLOC_*`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `size` is not a multiple of the granule, `ENOSPC` if no free run is that long,
    /// `EDQUOT` if the administrator does not allow so much, `ENOMEM`, `ENODEV` if the device is
    /// gone.
    pub fn alloc(&self, size: u64, flags: u32) -> io::Result<Handle> {
        let mut request = abi::p2pmem_alloc {
            size,
            flags,
            ..Default::default()
        };
        // SAFETY: The request reads and writes a structure of this type.
        unsafe {
            ioctl(
                &self.file,
                Updater::<{ abi::ALLOC }, abi::p2pmem_alloc>::new(&mut request),
            )?;
        }

        // SAFETY: The kernel just made this descriptor for us.
        Ok(Handle::from(unsafe { OwnedFd::from_raw_fd(request.fd) }))
    }
}

/// A node that was opened in another way.
impl From<File> for Provider {
    fn from(file: File) -> Self {
        Self { file }
    }
}

impl AsFd for Provider {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
