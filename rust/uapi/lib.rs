// SPDX-License-Identifier: GPL-2.0

//! User-space interface.
//!
//! Types and numbers shared with user space, generated from the C headers.
//!
//! C header: [`include/uapi/linux/p2pmem.h`](srctree/include/uapi/linux/p2pmem.h)

#![allow(missing_docs, non_camel_case_types, unreachable_pub)]

use kernel::transmute::{
    AsBytes,
    FromBytes, //
};

type __u32 = u32;
type __u64 = u64;

include!(concat!(
    env!("P2PMEM_RS_OBJ"),
    "/rust/uapi/uapi_generated.rs"
));

// SAFETY: Integers only, and no padding between or after them (asserted below).
unsafe impl AsBytes for p2pmem_info {}
// SAFETY: Integers only: any bytes will do.
unsafe impl FromBytes for p2pmem_info {}
// SAFETY: Integers only, and no padding between or after them (asserted below).
unsafe impl AsBytes for p2pmem_region {}
// SAFETY: Integers only: any bytes will do.
unsafe impl FromBytes for p2pmem_region {}

// The sum of the fields' sizes: equal only where there is no padding, for 32-bit and 64-bit
// callers alike.
const _: () = assert!(size_of::<p2pmem_info>() == 2 * size_of::<u64>() + 2 * size_of::<u32>());
const _: () = assert!(size_of::<p2pmem_region>() == 2 * size_of::<u32>() + 2 * size_of::<u64>());
