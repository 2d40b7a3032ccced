// SPDX-License-Identifier: GPL-2.0

//! The interface of the driver, as `include/uapi/linux/p2pmem.h` defines it.

use rustix::ioctl::{opcode, Opcode};

#[allow(missing_docs, non_camel_case_types)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/abi.rs"));
}

pub use generated::{
    p2pmem_alloc, p2pmem_info, p2pmem_region, p2pmem_uring_register, p2pmem_uring_unregister,
    P2PMEM_ALLOC_FIXED, P2PMEM_ALLOC_IRREVOCABLE, P2PMEM_ALLOC_WRITE_COMBINING,
    P2PMEM_CAP_LARGE_PAGES, P2PMEM_INFO_ADOPTED, P2PMEM_INFO_CLEARED, P2PMEM_KIND_BAR,
    P2PMEM_KIND_CMB, P2PMEM_KIND_PMR,
};

/// The type of all requests.
pub const MAGIC: u8 = generated::P2PMEM_IOC_MAGIC as u8;
/// Asks what a provider is.
pub const INFO: Opcode = opcode::read::<p2pmem_info>(MAGIC, generated::P2PMEM_NR_INFO as u8);
/// Asks where a region lies.
pub const REGION: Opcode =
    opcode::read_write::<p2pmem_region>(MAGIC, generated::P2PMEM_NR_REGION as u8);
/// Allocates memory.
pub const ALLOC: Opcode =
    opcode::read_write::<p2pmem_alloc>(MAGIC, generated::P2PMEM_NR_ALLOC as u8);
/// Fills a slot of a ring. A command of io_uring.
pub const URING_REGISTER: Opcode =
    opcode::write::<p2pmem_uring_register>(MAGIC, generated::P2PMEM_NR_URING_REGISTER as u8);
/// The number of that command, for the capabilities of `p2pmem_info`.
pub const NR_URING_REGISTER: u32 = generated::P2PMEM_NR_URING_REGISTER;
/// Empties it.
pub const URING_UNREGISTER: Opcode =
    opcode::write::<p2pmem_uring_unregister>(MAGIC, generated::P2PMEM_NR_URING_UNREGISTER as u8);

// Sizes of the ABI, the same for 32-bit and 64-bit callers.
const _: () = assert!(size_of::<p2pmem_info>() == 64);
const _: () = assert!(size_of::<p2pmem_region>() == 40);
const _: () = assert!(size_of::<p2pmem_alloc>() == 24);
const _: () = assert!(size_of::<p2pmem_uring_register>() == 16);
const _: () = assert!(size_of::<p2pmem_uring_unregister>() == 16);
