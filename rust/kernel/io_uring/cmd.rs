// SPDX-License-Identifier: GPL-2.0

//! Commands to a file by io_uring, and buffers that a driver registers for the ring.
//!
//! A driver may put memory into a slot of the caller's buffer table. Reads and writes that name the
//! slot then use the memory directly: it is neither mapped nor pinned. The ring owns something of
//! the driver for as long as the buffer is in use, and drops it afterwards: when the slot is
//! emptied and the last request has ended, or when the ring is gone.
//!
//! C header: [`include/linux/io_uring/cmd.h`](srctree/include/linux/io_uring/cmd.h)

use kernel::{
    error::to_result,
    prelude::*,
    sync::{
        new_mutex,
        Arc,
        Mutex, //
    },
    transmute::FromBytes,
    types::{
        ForeignOwnable,
        Opaque, //
    }, //
};

use crate::{
    bindings,
    gate::UseGuard,
    p2pmem::Allocation, //
};

use core::{
    ffi::c_void,
    marker::PhantomData,
    ops::Range,
    ptr, //
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
    /// The buffer is the source of a transfer.
    Source,
    /// Data may be read into it.
    Destination,
    /// Either.
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

    /// Returns what the caller wrote into the command's own field. That may be changed by the
    /// caller at any time: it is read once.
    pub fn payload<T: FromBytes>(&self) -> T {
        // The field of an entry of the usual size.
        const { assert!(size_of::<T>() <= 16) };

        // SAFETY: By the type invariants, the command is valid. Its field has at least that many
        // bytes, which are any.
        unsafe {
            bindings::io_uring_sqe_cmd(self.command)
                .cast::<T>()
                .read_volatile()
        }
    }

    /// Puts a part of peer-to-peer memory, in bytes, into a slot of the caller's table. Takes time
    /// that does not depend on the length. The memory is held, and `owner` kept, until the ring
    /// does not use the buffer any more, which may be before this returns.
    ///
    /// `owner` is made from the [`Slot`], by which it can be emptied later.
    ///
    /// # Errors
    ///
    /// `ERANGE` if the part is empty, not within the memory, or longer than 4 GiB; `EINVAL` if the
    /// ring has no slot of that number; `EBUSY` if it is in use; `ENOMEM`; and errors of `owner`.
    pub fn register<T: Send + 'static>(
        &self,
        number: u32,
        memory: UseGuard<Allocation>,
        part: Range<usize>,
        direction: Direction,
        owner: impl FnOnce(Arc<Slot>) -> Result<T>,
    ) -> Result {
        let segment = memory.segment(part)?;
        let slot = Slot::new(number)?;
        let owner = owner(slot.clone())?;
        let registered = Registered {
            slot: slot.clone(),
            memory,
            owner,
        };
        let foreign = KBox::new(registered, GFP_KERNEL_ACCOUNT)?.into_foreign();
        let directions = match direction {
            Direction::Source => 1 << bindings::ITER_SOURCE,
            Direction::Destination => 1 << bindings::ITER_DEST,
            Direction::Both => 1 << bindings::ITER_SOURCE | 1 << bindings::ITER_DEST,
        };
        let (mut ring, mut node) = (ptr::null_mut(), ptr::null_mut());

        // SAFETY: The command is being issued with these flags. The segment is one of valid pages,
        // which `foreign` keeps until it is released.
        let registered = to_result(unsafe {
            bindings::io_buffer_register_slot(
                self.command,
                &segment,
                Some(release::<T>),
                foreign,
                directions,
                number,
                self.flags,
                &mut ring,
                &mut node,
            )
        });
        if registered.is_err() {
            // SAFETY: The ring did not take it.
            unsafe { release::<T>(foreign) };
        }
        let mut state = slot.state.lock();
        if matches!(*state, State::Pending) {
            *state = State::Filled { ring, node };
        }

        registered
    }

    /// Empties a slot that a driver filled. Requests that use the buffer go on.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the ring has no slot of that number, or it is empty; `EBUSY` if the caller
    /// filled it.
    pub fn unregister(&self, slot: u32) -> Result {
        // SAFETY: The command is being issued with these flags.
        to_result(unsafe { bindings::io_buffer_unregister(self.command, slot, self.flags) })
    }
}

/// Location of a buffer.
enum State {
    /// Not yet in a ring.
    Pending,
    /// In a ring, whose table knows it by `node`. That is only compared.
    Filled {
        ring: *mut c_void,
        node: *mut c_void,
    },
    /// The ring does not use it any more.
    Released,
}

// SAFETY: The pointers are only compared, but by the thread that has the ring.
unsafe impl Send for State {}

/// A slot of a ring that a driver filled.
///
/// The buffer may outlive the ring: it can be cloned into the table of another one.
#[pin_data]
pub struct Slot {
    number: u32,
    #[pin]
    state: Mutex<State>,
}

impl Slot {
    fn new(number: u32) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                number,
                state <- new_mutex!(State::Pending),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Empties the slot if the ring is one of the calling thread's: no new request finds the buffer
    /// there. Requests that use it go on, and keep it until they end. May sleep, but not for the
    /// ring.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the ring is in use at this moment, `EPERM` if it is another thread's.
    pub fn try_empty(&self) -> Result {
        let (ring, node) = match *self.state.lock() {
            State::Pending => return Err(EBUSY),
            State::Filled { ring, node } => (ring, node),
            State::Released => return Ok(()),
        };

        // Without our lock: emptying calls the release.
        //
        // SAFETY: The C side compares `ring` with the rings of this thread before it uses it.
        to_result(unsafe { bindings::io_buffer_try_empty_slot(ring, self.number, node) })
    }
}

/// State that a ring owns. Dropped in this order: the owner may be what keeps this code loaded.
struct Registered<T> {
    slot: Arc<Slot>,
    #[expect(dead_code)]
    memory: UseGuard<Allocation>,
    #[expect(dead_code)]
    owner: T,
}

/// # Safety
///
/// `owner` must be a box of a [`Registered<T>`] that was turned into a foreign one, and not be used
/// any more.
unsafe extern "C" fn release<T>(owner: *mut c_void) {
    // SAFETY: By the safety requirements.
    let registered = unsafe { KBox::<Registered<T>>::from_foreign(owner) };

    *registered.slot.state.lock() = State::Released;
}
