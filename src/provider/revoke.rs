// SPDX-License-Identifier: GPL-2.0

//! The end of a provider: the memory is taken back from all users.

use kernel::{
    prelude::*,
    sync::Arc,
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic,
        Msecs, //
    }, //
};

use kernel_ext::{
    gate::Closed,
    workqueue::{
        Retry,
        RetryWork, //
    }, //
};

use super::{
    allocations::Taken,
    Provider, //
};

/// How long to wait before the log says for whom, and how often it says so again.
const FIRST_REPORT: Delta = Delta::from_millis(100);
const REPORT_INTERVAL: Delta = Delta::from_secs(10);

impl Provider {
    /// Takes the memory back from all users, since the device goes away. [`Provider::finish`] is
    /// the second half.
    ///
    /// When this returns, no system call is under way on behalf of the device, and no process can
    /// reach its memory. The caller must have made sure that no more files are opened. Does not
    /// wait for DMA.
    pub(crate) fn withdraw(&self) {
        let closed = self.gate.close();
        self.gone.notify_all();
        // Charges stay until the memory is freed.
        self.charged
            .with_closed(&closed, |mut charged| drop(charged.take()));

        // Pages are mapped from inside the gate only, by a fault or when a VMA is made: from here
        // on none are, so that one pass reaches all.
        self.inode.unmap();
        // All are told before any is waited for.
        self.revoke_exports();
        self.empty_own_slots();
    }

    /// Waits for DMA into memory that was allocated, and gives all of that back. No other device
    /// has it when this returns.
    pub(crate) fn finish(&self) {
        let closed = self.gate.close();

        self.wait_for_importers();
        self.free_all(&closed);
    }

    fn revoke_exports(&self) {
        let mut key = 0;
        while let Some((found, exported)) = self.exports.next(key) {
            exported.revoke();
            key = found + 1;
        }
    }

    /// Empties slots in rings of this thread, which cannot do it while it waits for them. What is
    /// left, like requests that are under way, is waited for with the memory.
    fn empty_own_slots(&self) {
        /// For how long a ring may be in use by other threads, in milliseconds.
        const PATIENCE: u32 = 1000;

        let mut key = 0;
        while let Some((found, slot)) = self.slots.next(key) {
            for _ in 0..PATIENCE {
                if slot.try_empty() != Err(EBUSY) {
                    break;
                }
                fsleep(Delta::from_millis(1));
            }
            key = found + 1;
        }
    }

    fn wait_for_importers(&self) {
        while let Some(exported) = self.exports.pop() {
            self.wait(
                || exported.is_in_use(),
                || {
                    exported.for_each_importer(&mut |importer| {
                        dev_warn!(
                            self.device(),
                            "waiting for {}, which has imported memory\n",
                            importer.name()
                        );
                    });
                },
            );
        }
    }

    /// Gives all memory back to the pool.
    fn free_all(&self, closed: &Closed<'_>) {
        // From here on it is not done in the background.
        self.allocations.disable();

        loop {
            if let Some(taken) = self.allocations.take_next((0, 0), false) {
                self.revoke_memory(taken, closed);
            } else if let Some(taken) = self.allocations.take_next((0, 0), true) {
                self.drain(taken, closed);
            } else if self.allocations.is_empty() {
                break;
            } else {
                // The last user of some memory gives it back at this moment.
                fsleep(Delta::from_millis(1));
            }
        }
    }

    /// Gives memory back, but for what DMA uses.
    fn revoke_memory(&self, taken: Taken, closed: &Closed<'_>) {
        self.wait(
            || taken.memory.is_held(),
            || {
                dev_warn!(
                    self.device(),
                    "waiting for an io_uring with {} bytes that {} allocated\n",
                    taken.bytes,
                    taken.owner
                );
            },
        );
        let outstanding = taken.memory.with_closed(closed, |memory| memory.revoke());

        self.allocations
            .put_back(taken.key, taken.memory, outstanding.unwrap_or(0));
    }

    /// Waits for DMA into memory.
    fn drain(&self, taken: Taken, closed: &Closed<'_>) {
        let release = || taken.memory.with_closed(closed, |memory| memory.release());

        self.wait(
            || release().is_some_and(|outstanding| outstanding != 0),
            || {
                let bytes = taken
                    .memory
                    .with_closed(closed, |memory| memory.referred_bytes());
                dev_warn!(
                    self.device(),
                    "waiting for DMA into {} bytes that {} allocated\n",
                    bytes.unwrap_or(0),
                    taken.owner
                );
            },
        );
        self.allocations.put_back(taken.key, taken.memory, 0);
    }

    /// Waits while something is so, and reports from time to time.
    fn wait(&self, is_so: impl Fn() -> bool, report: impl Fn()) {
        const FIRST: Delta = Delta::from_micros(100);
        const LONGEST: Delta = Delta::from_millis(20);

        let mut since = Instant::<Monotonic>::now();
        let mut due = FIRST_REPORT;
        let mut pause = FIRST;

        while is_so() {
            if since.elapsed() >= due {
                since = Instant::now();
                due = REPORT_INTERVAL;
                report();
            }
            fsleep(pause);
            pause = (pause * 2).min(LONGEST);
        }
    }
}

/// The second half of the revocation of a provider, in the background: for a device that is gone,
/// whose own driver ends the DMA that would be waited for. What is left when this is dropped is
/// waited for.
pub(crate) struct Rest(Arc<Provider>);

impl Rest {
    /// Prepares for it.
    pub(crate) fn new(provider: &Arc<Provider>) -> Result<Pin<KBox<RetryWork<Self>>>> {
        let rest = Arc::new(Self(provider.clone()), GFP_KERNEL)?;

        KBox::pin_init(RetryWork::new(rest), GFP_KERNEL)
    }
}

impl Retry for Rest {
    const INTERVAL: Msecs = 1;

    fn retry(&self) -> bool {
        self.0.finish();
        false
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        if self.0.is_gone() {
            self.0.finish();
        }
    }
}
