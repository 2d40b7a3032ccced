// SPDX-License-Identifier: GPL-2.0

//! Which drivers the devices of the PCI bus have.
//!
//! C header: [`include/linux/device/bus.h`](srctree/include/linux/device/bus.h)

use kernel::{
    device::{
        Bound,
        Core, //
    },
    error::to_result,
    pci,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    types::Opaque, //
};

use crate::{
    bindings,
    pci::as_raw, //
};

use core::{
    ffi::c_void,
    ptr, //
};

/// Somebody who wants to know.
///
/// Both methods are called with the device lock held, so that they follow each other and the device
/// stays bound meanwhile. They may sleep.
pub trait Watcher: Send + Sync + 'static {
    /// A device was bound to its driver. May be called more than once for the same binding.
    fn bound(&self, pdev: &pci::Device<Core<'_>>);

    /// A device is about to be unbound and its driver does not know yet, or watching ends. Follows
    /// each [`Watcher::bound`], and may be called without.
    fn unbinding(&self, pdev: &pci::Device<Core<'_>>);
}

/// Calls a [`Watcher`] for as long as it lives.
///
/// # Invariants
///
/// `block` is registered with the PCI bus.
#[pin_data(PinnedDrop)]
pub struct Watch<T: Watcher> {
    #[pin]
    watcher: T,
    /// Devices that are bound now are not told of any more.
    ending: Atomic<bool>,
    #[pin]
    block: Opaque<bindings::notifier_block>,
}

// SAFETY: A notifier can be unregistered by any thread, and the watcher is `Send`.
unsafe impl<T: Watcher> Send for Watch<T> {}
// SAFETY: The watcher is `Sync`; nothing else can be reached by a shared reference.
unsafe impl<T: Watcher> Sync for Watch<T> {}

impl<T: Watcher> Watch<T> {
    /// Starts to watch. Tells the watcher of devices that are bound already, too.
    ///
    /// Sleeps, and takes the device lock of each device of the bus in turn.
    pub fn new(watcher: impl PinInit<T>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            watcher <- watcher,
            ending: Atomic::new(false),
            block <- Opaque::try_ffi_init(|slot: *mut bindings::notifier_block| {
                let block = bindings::notifier_block {
                    notifier_call: Some(Self::notify),
                    ..Default::default()
                };

                // SAFETY: `slot` is valid for writing.
                unsafe { slot.write(block) };

                // SAFETY: The block is initialised, and is pinned until it is unregistered when
                // `Self` is dropped. The watcher was initialised before.
                to_result(unsafe {
                    bindings::bus_register_notifier(&raw const bindings::pci_bus_type, slot)
                })
            }),
        })
        .pin_chain(|this| {
            this.for_each();
            Ok(())
        })
    }

    /// Tells the watcher once more of a device, if that is bound. `name` is that of the kernel, like
    /// `0000:05:00.0`.
    ///
    /// Sleeps, and takes the device lock.
    pub fn tell_again(&self, name: &CStr) {
        // SAFETY: The match function takes the name of a device, and looks at nothing else.
        let dev = unsafe {
            bindings::bus_find_device(
                &raw const bindings::pci_bus_type,
                ptr::null_mut(),
                name.as_char_ptr().cast(),
                Some(bindings::device_match_name),
            )
        };
        if dev.is_null() {
            return;
        }

        // SAFETY: The device is valid, and one of the PCI bus.
        unsafe { self.tell(dev) };
        // SAFETY: The reference is one that `bus_find_device()` took.
        unsafe { bindings::put_device(dev) };
    }

    /// Tells the watcher of all devices that are bound: that they are, or that watching ends.
    fn for_each(&self) {
        // It fails only if `each` does.
        //
        // SAFETY: `each` gets a pointer to `self`, which lives during this call, and is called for
        // valid devices of the PCI bus.
        unsafe {
            bindings::bus_for_each_dev(
                &raw const bindings::pci_bus_type,
                ptr::null_mut(),
                ptr::from_ref(self).cast_mut().cast(),
                Some(Self::each),
            )
        };
    }

    /// # Safety
    ///
    /// `dev` must be a valid device of the PCI bus, `this` point to a `Self`.
    unsafe extern "C" fn each(dev: *mut bindings::device, this: *mut c_void) -> c_int {
        // SAFETY: By the safety requirements.
        unsafe { (*this.cast::<Self>()).tell(dev) };

        0
    }

    /// # Safety
    ///
    /// `dev` must be a valid device of the PCI bus.
    unsafe fn tell(&self, dev: *mut bindings::device) {
        // SAFETY: By the safety requirements.
        unsafe {
            if_bound(dev, |pdev| {
                // The device lock orders this after the store, once the device was told of its end.
                if self.ending.load(Relaxed) {
                    self.watcher.unbinding(pdev);
                } else {
                    self.watcher.bound(pdev);
                }
            })
        };
    }

    /// # Safety
    ///
    /// `block` must be part of a `Watch<T>`, `dev` be a valid device of the PCI bus that is locked.
    unsafe extern "C" fn notify(
        block: *mut bindings::notifier_block,
        event: c_ulong,
        dev: *mut c_void,
    ) -> c_int {
        // SAFETY: By the safety requirements. The watcher is initialised before the block is
        // registered, and is dropped after that was unregistered.
        let this = unsafe { &*kernel::container_of!(Opaque::cast_from(block), Self, block) };

        // CAST: Events are small numbers.
        match event as c_uint {
            bindings::bus_notifier_event_BUS_NOTIFY_BOUND_DRIVER => {
                if !this.ending.load(Relaxed) {
                    // SAFETY: The device is one of the PCI bus, was just bound, and is locked.
                    this.watcher.bound(unsafe { from_device(dev.cast()) });
                }
            }
            bindings::bus_notifier_event_BUS_NOTIFY_UNBIND_DRIVER => {
                // SAFETY: The device is one of the PCI bus, is still bound, and is locked.
                this.watcher.unbinding(unsafe { from_device(dev.cast()) });
            }
            _ => (),
        }

        // CAST: A small number.
        bindings::NOTIFY_DONE as c_int
    }
}

#[pinned_drop]
impl<T: Watcher> PinnedDrop for Watch<T> {
    fn drop(self: Pin<&mut Self>) {
        // While the notifier is still there, so that no device is unbound without being told of.
        self.ending.store(true, Relaxed);
        self.for_each();

        // Waits for calls that are under way.
        //
        // SAFETY: By the type invariants, the block is registered.
        unsafe {
            bindings::bus_unregister_notifier(&raw const bindings::pci_bus_type, self.block.get())
        };
    }
}

/// Calls a function with a device that is bound to a driver, and stays so meanwhile. Returns [`None`] if
/// it is not bound.
///
/// Sleeps, and takes the device lock: the function must not unbind the device, nor call this for the same one.
pub fn with_bound<R>(
    pdev: &pci::Device,
    f: impl FnOnce(&pci::Device<Bound>) -> R, //
) -> Option<R> {
    // SAFETY: The device is valid.
    unsafe { if_bound(&raw mut (*as_raw(pdev)).dev, |pdev| f(pdev)) }
}

/// Calls a function with a device and its lock held, if it is bound.
///
/// # Safety
///
/// `dev` must be a valid device of the PCI bus.
unsafe fn if_bound<R>(
    dev: *mut bindings::device,
    f: impl FnOnce(&pci::Device<Core<'_>>) -> R,
) -> Option<R> {
    // SAFETY: The device is valid.
    unsafe { bindings::device_lock(dev) };
    // SAFETY: The device is valid. With its lock held it is neither bound nor unbound.
    let result = unsafe { bindings::device_is_bound(dev) }.then(|| {
        // SAFETY: The device is one of the PCI bus, bound, and locked.
        f(unsafe { from_device(dev) })
    });
    // SAFETY: The lock was taken above.
    unsafe { bindings::device_unlock(dev) };

    result
}

/// Returns the PCI device that a device is part of.
///
/// # Safety
///
/// `dev` must be a valid device of the PCI bus that is bound and locked, during `'a`.
unsafe fn from_device<'a>(dev: *mut bindings::device) -> &'a pci::Device<Core<'a>> {
    // SAFETY: By the safety requirements; `pci::Device` is a transparent wrapper of
    // `Opaque<struct pci_dev>`.
    unsafe { &*kernel::container_of!(dev, bindings::pci_dev, dev).cast() }
}
