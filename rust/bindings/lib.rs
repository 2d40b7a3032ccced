// SPDX-License-Identifier: GPL-2.0

//! Bindings.
//!
//! The C functions and constants that [`kernel::bindings`] lacks, and all of that crate's.
//! Types are always those of [`kernel::bindings`].

#![allow(
    clippy::all,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    unreachable_pub,
    unused_imports,
    unsafe_op_in_unsafe_fn
)]

mod generated {
    use kernel::{
        bindings::*,
        ffi, //
    };

    include!(concat!(
        env!("P2PMEM_RS_OBJ"),
        "/rust/bindings/bindings_generated.rs"
    ));
}

mod helpers {
    use kernel::{
        bindings::*,
        ffi, //
    };

    include!(concat!(
        env!("P2PMEM_RS_OBJ"),
        "/rust/bindings/bindings_helpers_generated.rs"
    ));
}

// A function on some architectures, a macro on others.
pub use helpers::pgprot_writecombine;

pub use generated::*;
pub use helpers::*;
pub use kernel::bindings::*;
