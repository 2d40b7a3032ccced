// SPDX-License-Identifier: GPL-2.0

//! Device memory in the buffer table of an io_uring.
//!
//! The ring must have been given a table, like with
//! [`Submitter::register_buffers_sparse`](io_uring::Submitter::register_buffers_sparse). Reads and
//! writes then name a slot of it; their addresses count from 0 at the start of the memory. They cost
//! neither mapping nor pinning.

use std::{
    mem,
    os::fd::{AsFd, AsRawFd},
};

use io_uring::{opcode::UringCmd16, squeue::Entry, types::Fd};

use crate::{abi, Handle, Provider};

/// Returns a command that puts memory of a provider into a slot: `count` granules from granule
/// `first` on, or all from there on if `count` is 0.
///
/// Its result is 0, or an error: see `struct p2pmem_uring_register`. Descriptors must be open until it
/// has completed.
pub fn register(provider: &Provider, handle: &Handle, slot: u32, first: u32, count: u32) -> Entry {
    let request = abi::p2pmem_uring_register {
        fd: handle.as_fd().as_raw_fd(),
        slot,
        first,
        count,
    };
    // SAFETY: Both are sixteen bytes without padding.
    let bytes = unsafe { mem::transmute::<abi::p2pmem_uring_register, [u8; 16]>(request) };

    command(provider, abi::URING_REGISTER, bytes)
}

/// Returns a command that empties a slot. Requests that use the memory go on.
pub fn unregister(provider: &Provider, slot: u32) -> Entry {
    let request = abi::p2pmem_uring_unregister {
        slot,
        ..Default::default()
    };
    // SAFETY: Both are sixteen bytes without padding.
    let bytes = unsafe { mem::transmute::<abi::p2pmem_uring_unregister, [u8; 16]>(request) };

    command(provider, abi::URING_UNREGISTER, bytes)
}

/// Returns any command to a provider: its number, and the data that goes with it.
pub fn command(provider: &Provider, number: u32, bytes: [u8; 16]) -> Entry {
    UringCmd16::new(Fd(provider.as_fd().as_raw_fd()), number)
        .cmd(bytes)
        .build()
}
