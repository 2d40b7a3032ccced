// SPDX-License-Identifier: GPL-2.0

//! Sleepable revocation.
//!
//! A [`Gate`] stands between the callers of a driver and the device. A caller that uses the
//! device enters the gate and may sleep inside. When the device goes away the gate is closed: no
//! caller enters any more, and closing waits for those that are inside. A value that only exists as
//! long as the device does is kept in a [`SleepableRevocable`]: it is reached from inside the gate,
//! and is changed behind the closed gate only.
//!
//! [`Revocable`](kernel::revocable::Revocable) is the same for code that does not sleep.
//!
//! C header: [`include/linux/srcu.h`](srctree/include/linux/srcu.h)
//!
//! # Examples
//!
//! ```ignore
//! let gate = Arc::pin_init(Gate::new(), GFP_KERNEL)?;
//! let value = Arc::pin_init(SleepableRevocable::new(gate.clone(), 42), GFP_KERNEL)?;
//!
//! // A system call.
//! let guard = gate.enter().ok_or(ENODEV)?;
//! assert_eq!(value.get(&guard), Some(&42));
//! drop(guard);
//!
//! // The device goes away.
//! let closed = gate.close();
//! assert_eq!(value.with_closed(&closed, |mut value| replace(&mut *value, 0)), Some(42));
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
    ops::Deref,
    ptr, //
};

use pin_init::Wrapper;

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
    pub fn enter(&self) -> Option<RegistrationGuard<'_>> {
        let srcu = self.srcu.read_lock();

        // The order of this load and the store in `close()` is that of the SRCU read side and of
        // the grace period: a reader that the grace period does not wait for sees the store.
        if self.closed.load(Relaxed) {
            return None;
        }

        // INVARIANT: The gate was open inside the read-side critical section.
        Some(RegistrationGuard {
            gate: self,
            _srcu: srcu,
        })
    }

    /// Returns whether the gate is closed or being closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Closes the gate and waits until all callers inside have left.
    ///
    /// May be called more than once. Sleeps; must not be called from inside.
    pub fn close(&self) -> Closed<'_> {
        self.closed.store(true, Relaxed);
        self.srcu.synchronize();

        // INVARIANT: All guards are gone, and `enter()` creates no more.
        Closed { gate: self }
    }
}

/// Proof that its owner is inside a [`Gate`].
///
/// # Invariants
///
/// [`Gate::close`] does not return while a guard of that gate exists.
pub struct RegistrationGuard<'a> {
    gate: &'a Gate,
    _srcu: srcu::Guard<'a>,
}

/// Proof that a [`Gate`] is closed and empty.
///
/// # Invariants
///
/// No [`RegistrationGuard`] of the gate exists, nor will one exist again.
#[derive(Clone, Copy)]
pub struct Closed<'a> {
    gate: &'a Gate,
}

/// A value that is used from inside a [`Gate`], and can be changed when that is closed.
///
/// A user that needs it for longer than a call holds it: there is no exclusive access then.
///
/// # Invariants
///
/// - A mutable reference to `value` exists only where `self` is borrowed exclusively; or while
///   `claimed` is 1, and no [`RegistrationGuard`] of `gate` and no [`UseGuard`] of this value
///   exists.
/// - `holds` is the number of [`UseGuard`]s. It grows only while there is a [`RegistrationGuard`]
///   of `gate`.
#[pin_data]
pub struct SleepableRevocable<T> {
    gate: Arc<Gate>,
    holds: Atomic<usize>,
    claimed: Atomic<i32>,
    #[pin]
    value: UnsafeCell<T>,
}

// SAFETY: The value is owned, and can be changed by another thread.
unsafe impl<T: Send> Send for SleepableRevocable<T> {}
// SAFETY: The value is shared between guards, which needs `Sync`, and can be changed through a
// shared reference, which needs `Send`. Access is ordered by the gate.
unsafe impl<T: Send + Sync> Sync for SleepableRevocable<T> {}

impl<T> SleepableRevocable<T> {
    /// Puts a value behind `gate`.
    pub fn new(gate: Arc<Gate>, value: impl PinInit<T, Error>) -> impl PinInit<Self, Error> {
        // INVARIANT: There is no reference yet.
        try_pin_init!(Self {
            gate,
            holds: Atomic::new(0),
            claimed: Atomic::new(0),
            value <- UnsafeCell::pin_init(value),
        })
    }

    /// Returns the value. [`None`] if `guard` is not of this value's gate.
    pub fn get<'a>(&'a self, guard: &'a RegistrationGuard<'_>) -> Option<&'a T> {
        if !ptr::eq(guard.gate, &*self.gate) {
            return None;
        }

        // SAFETY: `guard` is one of `self.gate`. It exists for as long as the returned reference,
        // so that by the type invariants there is no mutable one.
        Some(unsafe { &*self.value.get() })
    }

    /// Holds the value beyond the guard. [`None`] if the guard is one of another gate.
    pub fn hold(this: &Arc<Self>, guard: &RegistrationGuard<'_>) -> Option<UseGuard<T>> {
        this.get(guard)?;
        // INVARIANT: The guard exists, so there is no exclusive access before it is dropped. Then
        // this is seen.
        this.holds.fetch_add(1, Relaxed);

        Some(UseGuard(this.clone()))
    }

    /// Returns whether there is a [`UseGuard`] of the value.
    pub fn is_held(&self) -> bool {
        self.holds.load(Acquire) != 0
    }

    /// Passes the value to `change`, behind a closed gate. [`None`] if there is a [`UseGuard`] of
    /// it, if another thread does the same at this moment, or if `closed` is not of this value's
    /// gate.
    pub fn with_closed<R>(
        &self,
        closed: &Closed<'_>,
        change: impl FnOnce(Pin<&mut T>) -> R,
    ) -> Option<R> {
        if !ptr::eq(closed.gate, &*self.gate) || self.is_held() {
            return None;
        }
        if self.claimed.xchg(1, Full) != 0 {
            return None;
        }

        // SAFETY: `closed` shows that no guard of the gate exists, so that the value is not held
        // any more either, and `claimed` was 0 until now. The value is pinned: `self` is made by a
        // pinned initializer only.
        let result = change(unsafe { Pin::new_unchecked(&mut *self.value.get()) });

        self.claimed.store(0, Release);
        Some(result)
    }

    /// Returns the value of one that is borrowed exclusively, so that there is neither guard nor
    /// [`UseGuard`] in use.
    pub fn value_mut(self: Pin<&mut Self>) -> Pin<&mut T> {
        // SAFETY: The value is pinned with `self`.
        unsafe { self.map_unchecked_mut(|this| this.value.get_mut()) }
    }
}

/// A value behind a [`Gate`] to which there is no exclusive access while this exists.
///
/// # Invariants
///
/// It is counted in the value's `holds`.
pub struct UseGuard<T>(Arc<SleepableRevocable<T>>);

impl<T> Deref for UseGuard<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariants, only shared references to the value exist.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> Drop for UseGuard<T> {
    fn drop(&mut self) {
        // Exclusive access comes after all that was done with it.
        self.0.holds.fetch_sub(1, Release);
    }
}
