// SPDX-License-Identifier: GPL-2.0

//! PCI peer-to-peer memory from user space.
//!
//! A [`Provider`] is an open `/dev/p2pmemN`, a [`Buffer`] is device memory that is mapped, a
//! [`Handle`] is memory with a descriptor. Direct I/O (`O_DIRECT`) into a buffer goes from device
//! to device; with [`uring`] it needs no mapping. A [`fabric::Fabric`] tells which device reaches
//! the memory of which provider.

pub mod abi;
mod buffer;
pub mod direct;
mod error;
pub mod fabric;
mod handle;
pub mod members;
mod memory;
pub mod mmio_copy;
pub mod mountinfo;
pub mod pci;
mod provider;
pub mod root;
pub mod size;
mod staging;
pub mod sysfs;
pub mod uring;
pub mod users;

pub use buffer::Buffer;
pub use error::Error;
pub use handle::Handle;
pub use memory::Memory;
pub use pci::PciAddress;
pub use provider::Provider;
pub use root::Root;
pub use staging::{Io, StagingBuffer, StagingError};
