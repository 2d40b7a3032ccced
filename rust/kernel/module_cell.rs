// SPDX-License-Identifier: GPL-2.0

//! State that callbacks of a module share which receive no data of their own.
//!
//! The probe function of a driver knows the device, and nothing of the module that the driver is
//! part of. A [`ModuleCell`] refers to what it needs, for as long as the module lends it.
//!
//! # Examples
//!
//! ```ignore
//! static SETTINGS: ModuleCell<Settings> = ModuleCell::new();
//!
//! // When the module is loaded. Dropped before the module goes.
//! let loan = SETTINGS.lend(Arc::new(Settings::default(), GFP_KERNEL)?)?;
//!
//! // In a callback.
//! let settings = SETTINGS.get().ok_or(ENODEV)?;
//! ```

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed, //
        },
        rcu,
        Arc,
        ArcBorrow, //
    },
    types::ForeignOwnable, //
};

use core::{
    ffi::c_void,
    marker::PhantomData,
    ptr, //
};

/// A place for a reference to a value, usually a static.
///
/// # Invariants
///
/// `value` is 0, or the address of an [`Arc<T>`] that was turned into a foreign one. That owns its
/// reference until the place was cleared and an RCU grace period has passed.
pub struct ModuleCell<T: Send + Sync + 'static> {
    value: Atomic<usize>,
    _type: PhantomData<T>,
}

impl<T: Send + Sync> ModuleCell<T> {
    /// Creates an empty place.
    #[expect(clippy::new_without_default, reason = "a static takes no default")]
    pub const fn new() -> Self {
        // INVARIANT: Empty.
        Self {
            value: Atomic::new(0),
            _type: PhantomData,
        }
    }

    /// Puts a value there until the loan is dropped. `EBUSY` if there is one.
    pub fn lend(&'static self, value: Arc<T>) -> Result<ModuleCellGuard<T>> {
        let address = value.into_foreign().expose_provenance();

        // INVARIANT: The place owns the reference from here on.
        if self.value.cmpxchg(0, address, Full).is_err() {
            // SAFETY: Comes from `into_foreign()` above, and is the only reference.
            drop(unsafe { Arc::<T>::from_foreign(ptr::with_exposed_provenance_mut(address)) });
            return Err(EBUSY);
        }

        Ok(ModuleCellGuard { place: self })
    }

    /// Returns the value, or [`None`] if none is lent. Does not sleep.
    pub fn get(&self) -> Option<Arc<T>> {
        let _guard = rcu::read_lock();
        let address = self.value.load(Acquire);
        if address == 0 {
            return None;
        }

        // SAFETY: By the type invariants, the place owns this reference; it cannot be dropped
        // before the guard is.
        let value: ArcBorrow<'_, T> =
            unsafe { Arc::<T>::borrow(ptr::with_exposed_provenance_mut::<c_void>(address)) };

        Some(value.into())
    }
}

/// Clears a [`ModuleCell`] when it is dropped. That may sleep.
pub struct ModuleCellGuard<T: Send + Sync + 'static> {
    place: &'static ModuleCell<T>,
}

impl<T: Send + Sync> Drop for ModuleCellGuard<T> {
    fn drop(&mut self) {
        let address = self.place.value.xchg(0, Relaxed);
        rcu::synchronize_rcu();

        // SAFETY: There is one loan of a place that is not empty, so that this is the address which
        // was put there. The cell is empty, so that no reader sees the pointer any more.
        drop(unsafe { Arc::<T>::from_foreign(ptr::with_exposed_provenance_mut(address)) });
    }
}
