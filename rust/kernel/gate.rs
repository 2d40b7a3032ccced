// SPDX-License-Identifier: GPL-2.0

//! Sleepable revocation.
//!
//! A [`Gate`] stands between the callers of a driver and the device. Whoever wants to use the
//! device enters the gate and may sleep inside. When the device goes away the gate is closed:
//! nobody enters any more, and closing waits for those who are inside. A value that only exists
//! as long as the device does is kept in a [`Gated`]: it is reached from inside the gate, and
//! can be taken out by whoever closed it.
//!
//! [`Revocable`](kernel::revocable::Revocable) is the same for code that does not sleep.
//!
//! C header: [`include/linux/srcu.h`](srctree/include/linux/srcu.h)
//!
//! # Examples
//!
//! ```ignore
//! let gate = Arc::pin_init(Gate::new(), GFP_KERNEL)?;
//! let value = Gated::new(gate.clone(), 42);
//!
//! // A system call.
//! let guard = gate.enter().ok_or(ENODEV)?;
//! assert_eq!(value.get(&guard), Some(&42));
//! drop(guard);
//!
//! // The device goes away.
//! let closed = gate.close();
//! assert_eq!(value.take(&closed), Some(42));
//! assert!(gate.enter().is_none());
//! ```

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed,
            Release, //
        },
        srcu::{
            self,
            new_srcu, //
        },
        Arc,
        Srcu, //
    }, //
};

use core::{
    cell::UnsafeCell,
    mem::ManuallyDrop,
    ops::Deref,
    ptr, //
};

/// A gate that callers enter and that can be closed once and for all.
#[pin_data]
pub struct Gate {
    #[pin]
    srcu: Srcu,
    closed: Atomic<bool>,
}

impl Gate {
    /// Creates an open gate.
    pub fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            srcu <- new_srcu!(),
            closed: Atomic::new(false),
        })
    }

    /// Enters the gate. Returns [`None`] once it is closed.
    ///
    /// The caller may sleep while it holds the guard, but must not call [`Gate::close`].
    pub fn enter(&self) -> Option<Guard<'_>> {
        let srcu = self.srcu.read_lock();

        // The order of this load and the store in `close()` is that of the SRCU read side and of
        // the grace period: a reader that the grace period does not wait for sees the store.
        if self.closed.load(Relaxed) {
            return None;
        }

        // INVARIANT: The gate was open inside the read-side critical section.
        Some(Guard {
            gate: self,
            _srcu: srcu,
        })
    }

    /// Returns whether the gate is closed or being closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Closes the gate and waits until all who entered it have left.
    ///
    /// May be called more than once. Sleeps; must not be called by one who is inside.
    pub fn close(&self) -> Closed<'_> {
        self.closed.store(true, Relaxed);
        self.srcu.synchronize();

        // INVARIANT: All guards are gone, and `enter()` gives out no more.
        Closed { gate: self }
    }
}

/// Proof that its owner is inside a [`Gate`].
///
/// # Invariants
///
/// [`Gate::close`] does not return while a guard of that gate exists.
pub struct Guard<'a> {
    gate: &'a Gate,
    _srcu: srcu::Guard<'a>,
}

/// Proof that a [`Gate`] is closed and nobody is inside.
///
/// # Invariants
///
/// No [`Guard`] of the gate exists, nor will one exist again.
#[derive(Clone, Copy)]
pub struct Closed<'a> {
    gate: &'a Gate,
}

/// A value that is used from inside a [`Gate`], and taken out when that is closed.
///
/// Who needs it for longer than a call holds it: it cannot be taken out then.
///
/// # Invariants
///
/// - `value` is initialised as long as `taken` is 0. That becomes 1 only while no [`Guard`] of `gate`
///   and no [`Hold`] of this value exists.
/// - `holds` is the number of [`Hold`]s. It grows only while there is a [`Guard`] of `gate`.
pub struct Gated<T> {
    gate: Arc<Gate>,
    holds: Atomic<usize>,
    taken: Atomic<i32>,
    value: UnsafeCell<ManuallyDrop<T>>,
}

// SAFETY: The value is owned, and can be taken out by another thread.
unsafe impl<T: Send> Send for Gated<T> {}
// SAFETY: The value is shared between guards, which needs `Sync`, and can be taken out through a
// shared reference, which needs `Send`. Access is ordered by the gate.
unsafe impl<T: Send + Sync> Sync for Gated<T> {}

impl<T> Gated<T> {
    /// Puts `value` behind `gate`.
    pub fn new(gate: Arc<Gate>, value: T) -> Self {
        // INVARIANT: `value` is initialised and `taken` is 0.
        Self {
            gate,
            holds: Atomic::new(0),
            taken: Atomic::new(0),
            value: UnsafeCell::new(ManuallyDrop::new(value)),
        }
    }

    /// Returns the value. [`None`] if `guard` is not of this value's gate.
    pub fn get<'a>(&'a self, guard: &'a Guard<'_>) -> Option<&'a T> {
        if !ptr::eq(guard.gate, &*self.gate) {
            return None;
        }

        // SAFETY: `guard` is one of `self.gate`. It exists for as long as the returned reference,
        // so that by the type invariants the value was not taken, and will not be.
        Some(unsafe { &*self.value.get() })
    }

    /// Holds the value beyond the guard. [`None`] if it was taken out, or the guard is one of another
    /// gate.
    pub fn hold(this: &Arc<Self>, guard: &Guard<'_>) -> Option<Hold<T>> {
        this.get(guard)?;
        // INVARIANT: The guard exists, so the value is there, and is not taken out before the
        // guard is dropped. Then this is seen.
        this.holds.fetch_add(1, Relaxed);

        Some(Hold(this.clone()))
    }

    /// Returns whether somebody holds the value.
    pub fn is_held(&self) -> bool {
        self.holds.load(Acquire) != 0
    }

    /// Takes the value out. [`None`] if that was done before, if somebody holds it, or if `closed` is
    /// not of this value's gate.
    pub fn take(&self, closed: &Closed<'_>) -> Option<T> {
        if !ptr::eq(closed.gate, &*self.gate) || self.is_held() {
            return None;
        }
        if self.taken.xchg(1, Full) != 0 {
            return None;
        }

        // SAFETY: `closed` shows that no guard of the gate exists, so that nobody holds the value any
        // more either: nobody else refers to it. It is initialised, since `taken` was 0 until now, and nobody else takes it.
        Some(unsafe { ManuallyDrop::take(&mut *self.value.get()) })
    }
}

impl<T> Drop for Gated<T> {
    fn drop(&mut self) {
        if self.taken.load(Relaxed) == 0 {
            // SAFETY: `self` is borrowed exclusively, and the value was not taken.
            unsafe { ManuallyDrop::drop(self.value.get_mut()) };
        }
    }
}

/// A value behind a [`Gate`] that cannot be taken out while this exists.
///
/// # Invariants
///
/// It is counted in the value's `holds`.
pub struct Hold<T>(Arc<Gated<T>>);

impl<T> Deref for Hold<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariants, the value cannot be taken out: it is initialised, and only
        // shared references to it exist.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> Drop for Hold<T> {
    fn drop(&mut self) {
        // Whoever takes the value out sees what was done with it.
        self.0.holds.fetch_sub(1, Release);
    }
}
