// SPDX-License-Identifier: GPL-2.0

//! PCI peer-to-peer memory from user space.
//!
//! A [`Provider`] is an open `/dev/p2pmemN`, a [`Buffer`] is device memory that is mapped, a
//! [`Handle`] is memory with a descriptor. Direct I/O (`O_DIRECT`) into a buffer goes from device
//! to device; [`copy`] does just that, and [`verify`] proves that it works. With [`uring`] it needs
//! no mapping.

pub mod abi;
mod access;
pub mod bench;
mod buffer;
pub mod copy;
mod direct;
pub mod doctor;
pub mod fabric;
mod handle;
mod keeper;
pub mod manage;
mod members;
mod passage;
mod pci;
pub mod preflight;
mod provider;
pub mod size;
pub mod stream;
pub mod sysfs;
pub mod table;
pub mod trial;
pub mod uring;
pub mod users;
pub mod verify;
mod via;

/// Policy of the driver, without the parts that need a kernel.
#[allow(dead_code, unreachable_pub)]
#[path = "."]
mod driver {
    #[path = "."]
    pub(crate) mod regions {
        #[path = "../../../src/regions/policy.rs"]
        pub(crate) mod policy;
        #[path = "../../../src/regions/range.rs"]
        pub(crate) mod range;
        #[path = "../../../src/regions/spec.rs"]
        pub(crate) mod spec;
    }

    #[path = "."]
    pub(crate) mod nvme {
        #[path = "../../../src/nvme/cmb.rs"]
        pub(crate) mod cmb;
        #[path = "../../../src/nvme/regs.rs"]
        pub(crate) mod regs;
    }
}

pub use buffer::Buffer;
pub use handle::Handle;
pub use provider::Provider;
pub use via::{choose, open, Via};
