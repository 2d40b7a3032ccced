// SPDX-License-Identifier: GPL-2.0

//! Drivers of PCI devices that lose what was set in their registers while they are bound.
//!
//! C headers: [`include/linux/pci.h`](srctree/include/linux/pci.h),
//! [`include/linux/pm.h`](srctree/include/linux/pm.h)

use kernel::{
    device::{
        Core,
        CoreInternal, //
    },
    driver::{
        DriverLayout,
        RegistrationOps, //
    },
    pci,
    prelude::*,
    types::Opaque, //
};

use crate::bindings;

use core::marker::PhantomData;

/// A driver that is told when its device was without power, or was reset.
pub trait Driver: pci::Driver {
    /// The device answers again, as after power-up: the system slept, or the function was reset.
    /// Called before other devices that slept are told of it, with the device lock held. May sleep.
    fn restarted<'bound>(pdev: &'bound pci::Device<Core<'_>>, data: Pin<&Self::Data<'bound>>);
}

/// An adapter for the registration of a [`Driver`]: that of the kernel crate, with more functions.
pub struct Adapter<T: Driver>(PhantomData<T>);

// SAFETY: All is as with the adapter of the kernel crate.
unsafe impl<T: Driver> DriverLayout for Adapter<T> {
    type DriverType = bindings::pci_driver;
    type DriverData<'bound> = T::Data<'bound>;
    const DEVICE_DRIVER_OFFSET: usize = <pci::Adapter<T> as DriverLayout>::DEVICE_DRIVER_OFFSET;
}

// SAFETY: Both functions are those of the adapter of the kernel crate.
unsafe impl<T: Driver> RegistrationOps for Adapter<T> {
    unsafe fn register(
        driver: &Opaque<bindings::pci_driver>,
        name: &'static CStr,
        module: &'static ThisModule,
    ) -> Result {
        // SAFETY: The fields of a driver may be set before it is registered.
        unsafe {
            (*driver.get()).err_handler = &Self::ERROR_HANDLERS;
            (*driver.get()).driver.pm = &Self::POWER_OPERATIONS;
        }

        // SAFETY: By the safety requirements.
        unsafe { <pci::Adapter<T> as RegistrationOps>::register(driver, name, module) }
    }

    unsafe fn unregister(driver: &Opaque<bindings::pci_driver>) {
        // SAFETY: By the safety requirements.
        unsafe { <pci::Adapter<T> as RegistrationOps>::unregister(driver) }
    }
}

impl<T: Driver> Adapter<T> {
    const ERROR_HANDLERS: bindings::pci_error_handlers = bindings::pci_error_handlers {
        reset_done: Some(Self::reset_done),
        ..pin_init::zeroed()
    };

    // Early: by then each device has its registers of the configuration space back, and none does
    // DMA again.
    const POWER_OPERATIONS: bindings::dev_pm_ops = bindings::dev_pm_ops {
        resume_early: Some(Self::resume_early),
        restore_early: Some(Self::resume_early),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// `pdev` must be a device that is bound to the driver, and locked.
    unsafe fn restarted(pdev: *mut bindings::pci_dev) {
        // SAFETY: By the safety requirements; `pci::Device` is a transparent wrapper of
        // `Opaque<struct pci_dev>`.
        let pdev = unsafe { &*pdev.cast::<pci::Device<CoreInternal<'_>>>() };
        // SAFETY: The device is bound, so that the adapter stored the driver's data.
        let data = unsafe { pdev.as_ref().drvdata_borrow::<T::Data<'_>>() };

        T::restarted(pdev, data);
    }

    /// # Safety
    ///
    /// `pdev` must be a locked device that has this driver.
    unsafe extern "C" fn reset_done(pdev: *mut bindings::pci_dev) {
        // SAFETY: The device is valid. With its lock held it is neither bound nor unbound.
        if unsafe { bindings::device_is_bound(&raw mut (*pdev).dev) } {
            // SAFETY: As above.
            unsafe { Self::restarted(pdev) };
        }
    }

    /// # Safety
    ///
    /// `device` must be valid, and one of the PCI bus.
    unsafe extern "C" fn resume_early(device: *mut bindings::device) -> c_int {
        // The device may be unbound at this moment by hot-plug, which may wait for processes that
        // are frozen.
        //
        // SAFETY: The device is valid.
        if unsafe { bindings::device_trylock(device) } == 0 {
            return 0;
        }
        // SAFETY: With the lock the device is neither bound nor unbound. If it is bound, it is to
        // the driver that the caller found: until all devices are resumed none is bound to another
        // one (`device_block_probing()`).
        unsafe {
            if bindings::device_is_bound(device) {
                Self::restarted(kernel::container_of!(device, bindings::pci_dev, dev));
            }
            bindings::device_unlock(device);
        }
        0
    }
}
