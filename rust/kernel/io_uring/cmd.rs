// SPDX-License-Identifier: GPL-2.0

//! Commands to a file by io_uring, and buffers that a driver registers for the ring.
//!
//! A driver may put memory into a slot of the caller's buffer table. Reads and writes that name the
//! slot then use the memory directly: it is neither mapped nor pinned. The ring owns something of
//! the driver for as long as the buffer is in use, and drops it afterwards: when the slot is emptied
//! and the last request has ended, or when the ring is gone.
//!
//! C header: [`include/linux/io_uring/cmd.h`](srctree/include/linux/io_uring/cmd.h)

use kernel::{
    error::to_result,
    prelude::*,
    transmute::FromBytes,
    types::{
        ForeignOwnable,
        Opaque, //
    }, //
};

use crate::{
    bindings,
    gate::Hold,
    p2pmem::Allocation, //
};

use core::{
    ffi::c_void,
    marker::PhantomData,
    ops::Range, //
};

/// A command that is being issued (`struct io_uring_cmd`).
///
/// # Invariants
///
/// The command is valid, and is issued with `flags`.
pub struct Command<'a> {
    command: *mut bindings::io_uring_cmd,
    flags: c_uint,
    _lifetime: PhantomData<&'a Opaque<bindings::io_uring_cmd>>,
}

/// Which way requests may use a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What is in the buffer may be written elsewhere.
    Source,
    /// Data may be read into it as well.
    Both,
}

impl<'a> Command<'a> {
    /// # Safety
    ///
    /// `command` must be one that is being issued during `'a` with these flags.
    pub(crate) unsafe fn from_raw(command: *mut bindings::io_uring_cmd, flags: c_uint) -> Self {
        // INVARIANT: As the caller says.
        Self {
            command,
            flags,
            _lifetime: PhantomData,
        }
    }

    /// Returns the number of the command.
    pub fn number(&self) -> u32 {
        // SAFETY: By the type invariants, the command is valid.
        unsafe { bindings::io_uring_cmd_op(self.command) }
    }

    /// Returns what the caller wrote into the command's own field. That may be changed by the caller
    /// at any time: it is read once.
    pub fn payload<T: FromBytes>(&self) -> T {
        // What is there in an entry of the usual size.
        const { assert!(size_of::<T>() <= 16) };

        // SAFETY: By the type invariants, the command is valid. Its field has at least that many
        // bytes, which are any.
        unsafe {
            bindings::io_uring_sqe_cmd(self.command)
                .cast::<T>()
                .read_volatile()
        }
    }

    /// Puts a part of peer-to-peer memory, in bytes, into a slot of the caller's table. Takes time that
    /// does not depend on the length. The memory is held, and `owner` kept, until the ring does not
    /// use the buffer any more, which may be before this returns.
    ///
    /// # Errors
    ///
    /// `ERANGE` if the part is empty, not within the memory, or longer than 4 GiB; `EINVAL` if
    /// there is no such slot; `EBUSY` if it is in use; `ENOMEM`.
    pub fn register<T: Send + 'static>(
        &self,
        slot: u32,
        memory: Hold<Allocation>,
        part: Range<usize>,
        direction: Direction,
        owner: T,
    ) -> Result {
        let segment = memory.segment(part)?;
        let owner = KBox::new(Registered { memory, owner }, GFP_KERNEL)?.into_foreign();
        let directions = match direction {
            Direction::Source => 1 << bindings::ITER_SOURCE,
            Direction::Both => 1 << bindings::ITER_SOURCE | 1 << bindings::ITER_DEST,
        };

        // SAFETY: The command is being issued with these flags. The segment is one of valid pages,
        // which `owner` keeps until it is released.
        let registered = to_result(unsafe {
            bindings::io_buffer_register_bvec(
                self.command,
                &segment,
                1,
                Some(release::<T>),
                owner,
                directions,
                slot,
                self.flags,
            )
        });
        if registered.is_err() {
            // SAFETY: The ring did not take it.
            unsafe { release::<T>(owner) };
        }

        registered
    }

    /// Empties a slot that a driver filled. Requests that use the buffer go on.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no such slot, or nothing in it; `EBUSY` if the caller filled it.
    pub fn unregister(&self, slot: u32) -> Result {
        // SAFETY: The command is being issued with these flags.
        to_result(unsafe { bindings::io_buffer_unregister(self.command, slot, self.flags) })
    }
}

/// What a ring owns. Dropped in this order: the owner may be what keeps this code loaded.
struct Registered<T> {
    #[expect(dead_code)]
    memory: Hold<Allocation>,
    #[expect(dead_code)]
    owner: T,
}

/// # Safety
///
/// `owner` must be a box of a [`Registered<T>`] that was turned into a foreign one, and not be used
/// any more.
unsafe extern "C" fn release<T>(owner: *mut c_void) {
    // SAFETY: By the safety requirements.
    drop(unsafe { KBox::<Registered<T>>::from_foreign(owner) });
}
