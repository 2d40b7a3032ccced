// SPDX-License-Identifier: GPL-2.0

//! Work that is repeated until it is done.
//!
//! [`kernel::workqueue`] has work items that keep their data alive, and cannot be cancelled. This
//! one ends with its owner.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use kernel::{
    prelude::*,
    sync::{
        static_lock_class,
        Arc, //
    },
    time::{
        msecs_to_jiffies,
        Msecs, //
    },
    types::Opaque, //
};

use crate::bindings;

use core::ops::Deref;

/// Work that repeats.
pub trait Retry: Send + Sync + 'static {
    /// After how many milliseconds it is tried again.
    const INTERVAL: Msecs;

    /// Tries once, and returns whether to try again. May sleep.
    fn retry(&self) -> bool;
}

/// Data, and work that is repeated on it in the background (`struct delayed_work`).
///
/// Dropping it waits for work that is under way, and may sleep.
///
/// # Invariants
///
/// `work` is initialised. Its function is [`RetryWork::run`].
#[pin_data(PinnedDrop)]
pub struct RetryWork<T: Retry> {
    #[pin]
    work: Opaque<bindings::delayed_work>,
    data: Arc<T>,
}

// SAFETY: Work can be queued by any thread, and the data be used by any.
unsafe impl<T: Retry> Send for RetryWork<T> {}
// SAFETY: As above.
unsafe impl<T: Retry> Sync for RetryWork<T> {}

impl<T: Retry> RetryWork<T> {
    /// Creates work that is not scheduled.
    pub fn new(data: Arc<T>) -> impl PinInit<Self> {
        let (work_key, timer_key) = (static_lock_class!(), static_lock_class!());

        pin_init!(Self {
            work <- Opaque::ffi_init(move |slot: *mut bindings::delayed_work| {
                // SAFETY: `slot` is valid for writing, and pinned. The timer's function is the one
                // for delayed work.
                unsafe {
                    bindings::init_work_with_key(
                        &raw mut (*slot).work,
                        Some(Self::run),
                        false,
                        c"p2pmem_retry".as_char_ptr(),
                        work_key.as_ptr(),
                    );
                    bindings::timer_init_key(
                        &raw mut (*slot).timer,
                        Some(bindings::delayed_work_timer_fn),
                        bindings::TIMER_IRQSAFE,
                        c"p2pmem_retry".as_char_ptr(),
                        timer_key.as_ptr(),
                    );
                }
            }),
            data,
        })
    }

    /// Tries after [`Retry::INTERVAL`], and again until [`Retry::retry`] says that it is done. Does
    /// nothing if that is scheduled, or if [`RetryWork::disable`] was called. Does not sleep.
    pub fn schedule(&self) {
        // SAFETY: By the type invariants, the work is initialised. It is disabled before it goes.
        unsafe {
            bindings::queue_delayed_work_on(
                bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
                bindings::system_unbound_wq,
                self.work.get(),
                msecs_to_jiffies(T::INTERVAL),
            )
        };
    }

    /// Cancels what is scheduled, waits for work that is under way, and lets no more be scheduled.
    /// May sleep.
    pub fn disable(&self) {
        // SAFETY: By the type invariants, the work is initialised.
        unsafe { bindings::disable_delayed_work_sync(self.work.get()) };
    }

    /// # Safety
    ///
    /// `work` must be that of a `RetryWork<T>` which is not dropped before this returns.
    unsafe extern "C" fn run(work: *mut bindings::work_struct) {
        // SAFETY: By the safety requirements.
        let this = unsafe {
            let work = kernel::container_of!(work, bindings::delayed_work, work);
            let work = Opaque::cast_from(work);
            &*kernel::container_of!(work, Self, work)
        };

        if this.data.retry() {
            this.schedule();
        }
    }
}

impl<T: Retry> Deref for RetryWork<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.data
    }
}

#[pinned_drop]
impl<T: Retry> PinnedDrop for RetryWork<T> {
    fn drop(self: Pin<&mut Self>) {
        self.disable();
    }
}
