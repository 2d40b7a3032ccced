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

type __s32 = i32;
type __u32 = u32;
type __u64 = u64;

include!(concat!(
    env!("P2PMEM_RS_OBJ"),
    "/rust/uapi/uapi_generated.rs"
));

/// Says that structures are plain integers, `$size` bytes in all: equal only where there is no
/// padding, for 32-bit and 64-bit callers alike.
macro_rules! plain {
    ($($name:ident: $size:literal),* $(,)?) => {
        $(
            const _: () = assert!(size_of::<$name>() == $size);
            // SAFETY: Integers only, and no padding between or after them (asserted above).
            unsafe impl AsBytes for $name {}
            // SAFETY: Integers only: any bytes will do.
            unsafe impl FromBytes for $name {}
        )*
    };
}

plain!(
    p2pmem_info: 64,
    p2pmem_region: 40,
    p2pmem_alloc: 24,
    p2pmem_uring_register: 16,
    p2pmem_uring_unregister: 16,
);
