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
pub mod fabric;
mod handle;
pub mod members;
pub mod pci;
mod provider;
pub mod size;
pub mod stream;
pub mod sysfs;
pub mod uring;
pub mod users;

pub use buffer::Buffer;
pub use handle::Handle;
pub use provider::Provider;
