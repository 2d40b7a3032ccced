// SPDX-License-Identifier: GPL-2.0

//! Sleep of the whole system: suspend and hibernation.
//!
//! C header: [`include/linux/suspend.h`](srctree/include/linux/suspend.h)

use kernel::{
    error::to_result,
    prelude::*,
    types::Opaque, //
};

use crate::bindings;

use core::ffi::c_void;

/// Is told of sleep. The methods follow each other, and may sleep.
pub trait Sleeper: Send + Sync + 'static {
    /// The system is going to sleep: processes still run, and devices work. If this fails the
    /// system stays awake.
    fn prepare(&self) -> Result;

    /// The system is awake again, or did not sleep after all: processes run already. May be called
    /// without [`Sleeper::prepare`].
    fn awake(&self);
}

/// Tells a [`Sleeper`] for as long as it lives (`register_pm_notifier()`).
///
/// # Invariants
///
/// `block` is registered.
#[pin_data(PinnedDrop)]
pub struct SleepNotifier<T: Sleeper> {
    sleeper: T,
    #[pin]
    block: Opaque<bindings::notifier_block>,
}

// SAFETY: A notifier can be unregistered by any thread, and the sleeper is `Send`.
unsafe impl<T: Sleeper> Send for SleepNotifier<T> {}
// SAFETY: Nothing can be done with a shared reference.
unsafe impl<T: Sleeper> Sync for SleepNotifier<T> {}

impl<T: Sleeper> SleepNotifier<T> {
    /// Starts to tell.
    pub fn new(sleeper: T) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            sleeper,
            block <- Opaque::try_ffi_init(|slot: *mut bindings::notifier_block| {
                let block = bindings::notifier_block {
                    notifier_call: Some(Self::notify),
                    ..Default::default()
                };

                // SAFETY: `slot` is valid for writing.
                unsafe { slot.write(block) };

                // SAFETY: The block is initialised, and is pinned until it is unregistered when
                // `Self` is dropped. The sleeper was initialised before.
                to_result(unsafe { bindings::sleep_notifier_register(slot) })
            }),
        })
    }

    /// # Safety
    ///
    /// `block` must be part of a `SleepNotifier<T>`.
    unsafe extern "C" fn notify(
        block: *mut bindings::notifier_block,
        event: c_ulong,
        _: *mut c_void,
    ) -> c_int {
        // SAFETY: By the safety requirements. The sleeper is initialised before the block is
        // registered, and is dropped after that was unregistered.
        let this = unsafe { &*kernel::container_of!(Opaque::cast_from(block), Self, block) };

        // SAFETY: Plain numbers.
        unsafe {
            if bindings::sleep_is_prepared(event) {
                if let Err(error) = this.sleeper.prepare() {
                    return bindings::notifier_from_errno(error.to_errno());
                }
            } else if bindings::sleep_is_over(event) {
                this.sleeper.awake();
            }
        }

        // CAST: A small number.
        bindings::NOTIFY_DONE as c_int
    }
}

#[pinned_drop]
impl<T: Sleeper> PinnedDrop for SleepNotifier<T> {
    fn drop(self: Pin<&mut Self>) {
        // Waits for a call that is under way.
        //
        // SAFETY: By the type invariants, the block is registered.
        unsafe { bindings::sleep_notifier_unregister(self.block.get()) };
    }
}
