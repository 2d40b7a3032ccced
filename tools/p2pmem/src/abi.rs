// SPDX-License-Identifier: GPL-2.0

//! The interface of the driver, as `include/uapi/linux/p2pmem.h` defines it.

use rustix::ioctl::{opcode, Opcode};

#[allow(missing_docs, non_camel_case_types)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/abi.rs"));
}

pub use generated::{p2pmem_info, p2pmem_region};

/// The type of all requests.
pub const MAGIC: u8 = generated::P2PMEM_IOC_MAGIC as u8;
/// Asks what a provider is.
pub const INFO: Opcode = opcode::read::<p2pmem_info>(MAGIC, generated::P2PMEM_NR_INFO as u8);
/// Asks where a region lies.
pub const REGION: Opcode =
    opcode::read_write::<p2pmem_region>(MAGIC, generated::P2PMEM_NR_REGION as u8);

// What the kernel expects, for 32-bit and 64-bit callers alike.
const _: () = assert!(size_of::<p2pmem_info>() == 24);
const _: () = assert!(size_of::<p2pmem_region>() == 24);
