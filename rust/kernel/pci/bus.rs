// SPDX-License-Identifier: GPL-2.0

//! Which drivers the devices of the PCI bus have.
//!
//! C header: [`include/linux/device/bus.h`](srctree/include/linux/device/bus.h)

use kernel::{
    device::Core,
    error::to_result,
    pci,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        new_mutex,
        Mutex, //
    },
    types::Opaque, //
};

use crate::{
    bindings,
    devres::Group,
    pci::{
        as_raw,
        tree, //
    },
};

use core::{
    cell::Cell,
    ffi::c_void,
    ops::Deref,
    ptr, //
};

/// A device that is bound to a driver, which may be another module's.
///
/// In contrast to a [`pci::Device<Bound>`] nothing can be added to its resources: the device keeps
/// these until its own driver is unbound, and calls functions of a module that may be gone by then.
///
/// # Invariants
///
/// The device is bound for as long as a reference to this lives.
#[repr(transparent)]
pub struct BoundDevice(pci::Device);

impl BoundDevice {
    /// Returns the name of the driver.
    pub fn driver_name(&self) -> &CStr {
        // SAFETY: By the type invariants, the device has a driver, which has a name. Both live for
        // as long as the device is bound.
        unsafe { CStr::from_char_ptr((*(*as_raw(&self.0)).dev.driver).name) }
    }

    fn as_core(&self) -> &pci::Device<Core<'_>> {
        // SAFETY: By the type invariants, the device is bound. Contexts are no part of the layout.
        unsafe { &*ptr::from_ref(self).cast() }
    }
}

impl Deref for BoundDevice {
    type Target = pci::Device;

    fn deref(&self) -> &pci::Device {
        &self.0
    }
}

/// A bound device as a [`BusEvents`] sees it: what the events adds to the resources of the device
/// is released before the driver is unbound, or watching ends.
///
/// # Invariants
///
/// The device is locked.
pub struct NotifiedDevice<'a> {
    pdev: &'a BoundDevice,
    groups: &'a Groups,
    /// Whether the driver is going to be unbound by the caller.
    is_unbinding: bool,
    is_left: Cell<bool>,
}

impl NotifiedDevice<'_> {
    /// Calls a function that adds to the resources of the device, and returns what it returns. If
    /// it fails, what it added is released at once; otherwise after the next
    /// [`BusEvents::unbinding`], or by [`NotifiedDevice::release`]. May sleep.
    pub fn acquire<R>(
        &self,
        function: impl FnOnce(&pci::Device<Core<'_>>) -> Result<R>,
    ) -> Result<R> {
        let core = self.pdev.as_core();
        let (group, value) = Group::collect(core, || function(core))?;

        if let Err(group) = self.groups.add(self.pdev, group) {
            drop(value);
            group.release(core);
            return Err(ENOMEM);
        }
        Ok(value)
    }

    /// Leaves the acquired resources to the device, which releases them after its driver was
    /// removed. Returns whether that is possible: only in [`BusEvents::unbinding`] of a driver that
    /// is being unbound. [`BusEvents::unbound`] follows.
    pub fn leave(&self) -> bool {
        self.is_left.set(self.is_unbinding);
        self.is_unbinding
    }

    /// Releases all that was acquired, the last one first. May sleep.
    pub fn release(&self) {
        while let Some(group) = self.groups.take_last(self.pdev) {
            group.release(self.pdev.as_core());
        }
    }
}

impl Deref for NotifiedDevice<'_> {
    type Target = BoundDevice;

    fn deref(&self) -> &BoundDevice {
        self.pdev
    }
}

/// Resources of devices that a events acquired.
#[pin_data]
struct Groups {
    #[pin]
    list: Mutex<KVec<(ARef<pci::Device>, Group)>>,
}

impl Groups {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            list <- new_mutex!(KVec::new()),
        })
    }

    /// Adds a group, or gives it back without memory for that.
    fn add(&self, pdev: &pci::Device, group: Group) -> Result<(), Group> {
        let mut list = self.list.lock();

        if list.reserve(1, GFP_KERNEL).is_err() {
            return Err(group);
        }
        // There is room for it.
        list.push_within_capacity((pdev.into(), group))
            .map_err(|error| error.0 .1)
    }

    /// Takes the group of a device out that was added last.
    fn take_last(&self, pdev: &pci::Device) -> Option<Group> {
        let mut list = self.list.lock();
        let index = list
            .iter()
            .rposition(|(other, _)| tree::is_same(other, pdev))?;

        list.remove(index).ok().map(|(_, group)| group)
    }

    /// Forgets the groups of a device, which it has released.
    fn forget(&self, pdev: &pci::Device) {
        self.list
            .lock()
            .retain(|(other, _)| !tree::is_same(other, pdev));
    }

    /// Returns a device with a group.
    fn any(&self) -> Option<ARef<pci::Device>> {
        self.list.lock().first().map(|(pdev, _)| pdev.clone())
    }
}

/// Receives the events of a bus.
///
/// The methods are called with the device lock held, so that they follow each other and the device
/// stays bound until they return. They may sleep.
pub trait BusEvents: Send + Sync + 'static {
    /// A device was bound to its driver. May be called more than once for the same binding.
    fn bound(&self, pdev: &NotifiedDevice<'_>);

    /// A device is about to be unbound and its driver does not know yet, or watching ends. Follows
    /// each [`BusEvents::bound`], and may be called without. What was acquired is released
    /// afterwards.
    fn unbinding(&self, pdev: &NotifiedDevice<'_>);

    /// A device was unbound: the resources of its driver and those of the events are released. Not
    /// called when watching ends.
    fn unbound(&self, pdev: &pci::Device);
}

/// Calls a [`BusEvents`] for as long as it lives.
///
/// # Invariants
///
/// `block` is registered with the PCI bus.
#[pin_data(PinnedDrop)]
pub struct BusNotifier<T: BusEvents> {
    #[pin]
    events: T,
    #[pin]
    groups: Groups,
    /// Devices that are bound now are not told of any more.
    ending: Atomic<bool>,
    #[pin]
    block: Opaque<bindings::notifier_block>,
}

// SAFETY: A notifier can be unregistered by any thread, and the events is `Send`.
unsafe impl<T: BusEvents> Send for BusNotifier<T> {}
// SAFETY: The events is `Sync`; nothing else can be reached by a shared reference.
unsafe impl<T: BusEvents> Sync for BusNotifier<T> {}

impl<T: BusEvents> BusNotifier<T> {
    /// Starts to watch. Tells the events of devices that are bound already, too.
    ///
    /// Sleeps, and takes the device lock of each device of the bus in turn.
    pub fn new(events: impl PinInit<T>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            events <- events,
            groups <- Groups::new(),
            ending: Atomic::new(false),
            block <- Opaque::try_ffi_init(|slot: *mut bindings::notifier_block| {
                let block = bindings::notifier_block {
                    notifier_call: Some(Self::notify),
                    ..Default::default()
                };

                // SAFETY: `slot` is valid for writing.
                unsafe { slot.write(block) };

                // SAFETY: The block is initialised, and is pinned until it is unregistered when
                // `Self` is dropped. The events was initialised before.
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

    /// Tells the events once more of a device, if that is bound. `name` is that of the kernel, like
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

    /// Tells the events of all devices that are bound that watching ends. [`BusNotifier::resume`]
    /// follows.
    ///
    /// Sleeps, and takes the device lock of each device of the bus in turn.
    pub fn pause(&self) {
        self.ending.store(true, Relaxed);
        self.for_each();
    }

    /// Starts to watch again.
    ///
    /// Sleeps, and takes the device lock of each device of the bus in turn.
    pub fn resume(&self) {
        self.ending.store(false, Relaxed);
        self.for_each();
    }

    /// Returns the events.
    pub fn events(&self) -> &T {
        &self.events
    }

    /// Tells the events of all devices that are bound: that they are, or that watching ends.
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
                    self.unbinding(pdev, false);
                } else {
                    self.events.bound(&self.watched(pdev, false));
                }
            })
        };
    }

    /// Returns a device, which is locked, as the events sees it.
    fn watched<'a>(&'a self, pdev: &'a BoundDevice, is_unbinding: bool) -> NotifiedDevice<'a> {
        // INVARIANT: As the caller says.
        NotifiedDevice {
            pdev,
            groups: &self.groups,
            is_unbinding,
            is_left: Cell::new(false),
        }
    }

    /// Ends what the events does with a device, which is locked.
    fn unbinding(&self, pdev: &BoundDevice, is_unbinding: bool) {
        let pdev = self.watched(pdev, is_unbinding);

        self.events.unbinding(&pdev);
        if !pdev.is_left.get() {
            pdev.release();
        }
    }

    /// # Safety
    ///
    /// `block` must be part of a `BusNotifier<T>`, `dev` be a valid device of the PCI bus that is
    /// locked.
    unsafe extern "C" fn notify(
        block: *mut bindings::notifier_block,
        event: c_ulong,
        dev: *mut c_void,
    ) -> c_int {
        // SAFETY: By the safety requirements. The events is initialised before the block is
        // registered, and is dropped after that was unregistered.
        let this = unsafe { &*kernel::container_of!(Opaque::cast_from(block), Self, block) };

        // CAST: Events are small numbers.
        match event as c_uint {
            bindings::bus_notifier_event_BUS_NOTIFY_BOUND_DRIVER => {
                if !this.ending.load(Relaxed) {
                    // SAFETY: The device is one of the PCI bus, was just bound, and is locked.
                    let pdev = unsafe { from_device(dev.cast()) };
                    this.events.bound(&this.watched(pdev, false));
                }
            }
            bindings::bus_notifier_event_BUS_NOTIFY_UNBIND_DRIVER => {
                // SAFETY: The device is one of the PCI bus, is still bound, and is locked.
                this.unbinding(unsafe { from_device(dev.cast()) }, true);
            }
            bindings::bus_notifier_event_BUS_NOTIFY_UNBOUND_DRIVER => {
                // SAFETY: The device is one of the PCI bus; `pci::Device` is a transparent wrapper
                // of `Opaque<struct pci_dev>`.
                let pdev: &pci::Device = unsafe {
                    let dev = dev.cast::<bindings::device>();
                    &*kernel::container_of!(dev, bindings::pci_dev, dev).cast()
                };
                this.groups.forget(pdev);
                this.events.unbound(pdev);
            }
            _ => (),
        }

        // CAST: A small number.
        bindings::NOTIFY_DONE as c_int
    }
}

#[pinned_drop]
impl<T: BusEvents> PinnedDrop for BusNotifier<T> {
    fn drop(self: Pin<&mut Self>) {
        // While the notifier is still there, so that no device is unbound without being told of.
        self.pause();
        // A device that is being unbound at this moment releases what was left to it, with its lock
        // held.
        while let Some(pdev) = self.groups.any() {
            // SAFETY: The device is valid, and one of the PCI bus.
            unsafe { self.tell(&raw mut (*as_raw(&pdev)).dev) };
        }

        // Waits for calls that are under way.
        //
        // SAFETY: By the type invariants, the block is registered.
        unsafe {
            bindings::bus_unregister_notifier(&raw const bindings::pci_bus_type, self.block.get())
        };
    }
}

/// Calls a function with a device that is bound to a driver, and stays bound during the call.
/// Returns [`None`] if it is not bound.
///
/// Sleeps, and takes the device lock: the function must not unbind the device, nor call this for
/// the same one.
pub fn with_bound<R>(
    pdev: &pci::Device,
    f: impl FnOnce(&BoundDevice) -> R, //
) -> Option<R> {
    // SAFETY: The device is valid.
    unsafe { if_bound(&raw mut (*as_raw(pdev)).dev, f) }
}

/// Calls a function with a device and its lock held, if it is bound.
///
/// # Safety
///
/// `dev` must be a valid device of the PCI bus.
unsafe fn if_bound<R>(dev: *mut bindings::device, f: impl FnOnce(&BoundDevice) -> R) -> Option<R> {
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
unsafe fn from_device<'a>(dev: *mut bindings::device) -> &'a BoundDevice {
    // INVARIANT: By the safety requirements.
    // SAFETY: As above; `BoundDevice` and `pci::Device` are transparent wrappers of
    // `Opaque<struct pci_dev>`.
    unsafe { &*kernel::container_of!(dev, bindings::pci_dev, dev).cast() }
}
