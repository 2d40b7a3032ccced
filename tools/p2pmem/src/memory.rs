// SPDX-License-Identifier: GPL-2.0

//! The memory that data goes through: of a device, or ordinary memory to compare with.

use std::{
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    io::Errno,
};

use crate::{abi, pci::PciAddress, provider::Provider, provider_id::ProviderId};

/// Memory that data goes through.
#[derive(Debug)]
pub enum Memory {
    /// Memory of a device.
    Device {
        /// Its provider.
        provider: Provider,
        /// The provider's node.
        path: PathBuf,
        /// The provider's identity; nothing for a node elsewhere than in /dev.
        id: Option<ProviderId>,
    },
    /// Ordinary memory, to compare with.
    Host,
}

impl Memory {
    /// Returns the provider, if the memory is a device's.
    pub fn provider(&self) -> Option<&Provider> {
        match self {
            Self::Device { provider, .. } => Some(provider),
            Self::Host => None,
        }
    }

    /// Returns the node, or `host`.
    pub fn path(&self) -> &Path {
        match self {
            Self::Device { path, .. } => path,
            Self::Host => Path::new("host"),
        }
    }

    /// Returns the PCI address of the device, if it is known.
    pub fn pci(&self) -> Option<PciAddress> {
        match self {
            Self::Device { id, .. } => id.map(|id| id.pci),
            Self::Host => None,
        }
    }

    /// Returns the node and the PCI address of its device, if the memory is a device's.
    pub fn device(&self) -> Option<String> {
        match self {
            Self::Device { path, id, .. } => Some(match id {
                Some(id) => format!("{} ({})", path.display(), id.pci),
                None => path.display().to_string(),
            }),
            Self::Host => None,
        }
    }

    /// Returns whether the memory can be put into a ring.
    pub fn registers(&self) -> io::Result<bool> {
        match self {
            Self::Device { provider, .. } => {
                Ok(provider.info()?.capabilities & (1 << abi::NR_URING_REGISTER) != 0)
            }
            Self::Host => Ok(true),
        }
    }

    /// Returns whether the device went away.
    pub fn is_gone(&self) -> io::Result<bool> {
        let Self::Device { provider, .. } = self else {
            return Ok(false);
        };
        let node = provider.as_fd();
        let mut polled = [PollFd::from_borrowed_fd(node, PollFlags::empty())];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        match poll(&mut polled, Some(&now)) {
            Ok(_) => Ok(polled[0].revents().contains(PollFlags::HUP)),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
