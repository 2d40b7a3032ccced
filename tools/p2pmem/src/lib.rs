// SPDX-License-Identifier: GPL-2.0

//! PCI peer-to-peer memory from user space.
//!
//! A [`Provider`] is an open `/dev/p2pmemN`, a [`Buffer`] is device memory that is mapped, a
//! [`Handle`] is memory with a descriptor. Direct I/O (`O_DIRECT`) into a buffer goes from device
//! to device; with [`uring`] it needs no mapping. A [`fabric::Fabric`] tells which device reaches
//! the memory of which provider.
//!
//! # Examples
//!
//! A read that moves data from a drive to the memory of another device:
//!
//! ```no_run
//! use std::path::Path;
//!
//! use p2pmem::{direct::DirectFile, Buffer, Provider};
//!
//! let provider = Provider::open("/dev/p2pmem0")?;
//! let mut buffer = Buffer::map(&provider, 4 << 20)?;
//! let drive = DirectFile::source(Path::new("/dev/nvme0n1"))?;
//! drive.read_into(buffer.as_mut_slice(4 << 20), 0, None)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The route of each NVMe drive of this machine to each provider:
//!
//! ```no_run
//! use p2pmem::{fabric::Fabric, Root};
//!
//! let fabric = Fabric::read(&Root::default())?;
//! for provider in &fabric.providers {
//!     for verdict in fabric.verdicts(provider) {
//!         println!("{} {}: {}", provider.node(), verdict.client, verdict.reach);
//!     }
//! }
//! # Ok::<(), p2pmem::Error>(())
//! ```
//!
//! The folder `examples/` has whole programs: a copy by a mapping, by a child process, and by an
//! io_uring.

#![deny(clippy::print_stdout, clippy::print_stderr)]

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
mod provider_id;
pub mod resource;
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
pub use provider_id::ProviderId;
pub use root::Root;
pub use staging::{Io, StagingBuffer, StagingError};
