// SPDX-License-Identifier: GPL-2.0

//! Device memory in the buffer table of an io_uring.
//!
//! The ring must have been given a table, like with
//! [`Submitter::register_buffers_sparse`](io_uring::Submitter::register_buffers_sparse). Reads and
//! writes then name a slot of it; their addresses count from 0 at the start of the memory. They
//! cost neither mapping nor pinning.
//!
//! # Examples
//!
//! ```no_run
//! use io_uring::IoUring;
//! use p2pmem::{uring, Provider};
//!
//! let provider = Provider::open("/dev/p2pmem0")?;
//! let memory = provider.alloc(1 << 20, 0)?;
//! let mut ring = IoUring::new(8)?;
//! ring.submitter().register_buffers_sparse(1)?;
//! let entry = uring::register(&provider, &memory, 0, 0, 0);
//! // SAFETY: The descriptors of the request are open until it has completed.
//! unsafe { ring.submission().push(&entry)? };
//! ring.submit_and_wait(1)?;
//! assert_eq!(ring.completion().next().map(|event| event.result()), Some(0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::{
    fs::File,
    io, mem,
    os::fd::{AsFd, AsRawFd},
};

use io_uring::{opcode, squeue::Entry, types::Fd, IoUring};

use crate::{abi, buffer::Buffer, direct::Direction, handle::Handle, provider::Provider};

/// Returns a command that puts memory of a provider into a slot: `count` granules from granule
/// `first` on, or all from there on if `count` is 0.
///
/// Its result is 0, or an error: see `struct p2pmem_uring_register`. Descriptors must be open until
/// it has completed.
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
    opcode::UringCmd16::new(Fd(provider.as_fd().as_raw_fd()), number)
        .cmd(bytes)
        .build()
}

/// Returns a request that moves data between memory and a file, at an offset in bytes. With `fixed`
/// the memory is that in slot 0.
pub fn transfer(
    direction: Direction,
    fixed: bool,
    file: &File,
    address: *mut u8,
    length: u32,
    offset: u64,
) -> Entry {
    let fd = Fd(file.as_raw_fd());
    match (direction, fixed) {
        (Direction::Read, true) => opcode::ReadFixed::new(fd, address, length, 0)
            .offset(offset)
            .build(),
        (Direction::Write, true) => opcode::WriteFixed::new(fd, address, length, 0)
            .offset(offset)
            .build(),
        (Direction::Read, false) => opcode::Read::new(fd, address, length)
            .offset(offset)
            .build(),
        (Direction::Write, false) => opcode::Write::new(fd, address, length)
            .offset(offset)
            .build(),
    }
}

/// Puts ordinary memory into slot 0 of a ring that has no table yet. The kernel keeps its pages for
/// as long as they are registered.
pub fn register_ordinary(ring: &IoUring, buffer: &Buffer) -> io::Result<()> {
    let table = [libc::iovec {
        iov_base: buffer.as_ptr().cast(),
        iov_len: buffer.len(),
    }];
    // SAFETY: The memory is mapped during the call, and pages that are used later are kept by the
    // kernel.
    unsafe { ring.submitter().register_buffers(&table) }
}
