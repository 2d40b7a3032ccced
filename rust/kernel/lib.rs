// SPDX-License-Identifier: GPL-2.0

//! Abstractions that the [`kernel`] crate lacks for a driver that maps PCI memory to user space.
//!
//! Every module here stands for one C header, knows nothing of the driver, and could move into
//! the [`kernel`] crate as it is. All unsafe code of the module is in this crate.

#[path = "../bindings/lib.rs"]
mod bindings;
#[path = "../uapi/lib.rs"]
pub mod uapi;

pub mod cgroup;
mod devres;
pub mod dma_buf;
pub mod fs;
pub mod gate;
pub mod io_uring;
pub mod miscdevice;
pub mod mm;
pub mod module;
pub mod module_cell;
pub mod p2pmem;
pub mod pci;
pub mod security;
pub mod suspend;
mod sysfs;
pub mod task;
pub mod workqueue;
