// SPDX-License-Identifier: GPL-2.0

//! PCI devices.
//!
//! C header: [`include/linux/pci.h`](srctree/include/linux/pci.h)

use kernel::{
    device::{
        Bound,
        Core,
        DeviceContext, //
    },
    error::to_result,
    pci,
    prelude::*, //
};

use crate::bindings;

use core::{
    mem,
    ptr, //
};

pub mod bus;
pub mod p2pdma;

/// Number of standard Base Address Registers of a device.
pub const STD_NUM_BARS: u32 = bindings::PCI_STD_NUM_BARS;

/// Returns the C device. The one place that knows how [`pci::Device`] is laid out.
pub(crate) fn as_raw<Ctx: DeviceContext>(pdev: &pci::Device<Ctx>) -> *mut bindings::pci_dev {
    // CAST: `pci::Device` is a transparent wrapper of `Opaque<struct pci_dev>`.
    ptr::from_ref(pdev).cast_mut().cast()
}

/// Returns an entry of an ID table, for any subsystem (`PCI_DEVICE()`).
///
/// [`pci::DeviceId::from_id`] does the same for those vendors that have a constant.
pub const fn device_id(vendor: u16, device: u16) -> pci::DeviceId {
    const ANY: u32 = !0;

    // SAFETY: `DeviceId` is a transparent wrapper of `struct pci_device_id`.
    unsafe {
        mem::transmute(bindings::pci_device_id {
            vendor: vendor as u32,
            device: device as u32,
            subvendor: ANY,
            subdevice: ANY,
            class: 0,
            class_mask: 0,
            driver_data: 0,
            override_only: 0,
        })
    }
}

/// Returns the name of the driver that a device is bound to.
pub fn driver_name(pdev: &pci::Device<Bound>) -> &CStr {
    // SAFETY: The device is valid and bound, so that it has a driver, which has a name. Both live
    // for as long as the device is bound.
    unsafe { CStr::from_char_ptr((*(*as_raw(pdev)).dev.driver).name) }
}

/// Enables a device for as long as it is bound to its driver (`pcim_enable_device()`).
pub fn enable_device(pdev: &pci::Device<Core<'_>>) -> Result {
    // SAFETY: The device is valid, and is being bound.
    to_result(unsafe { bindings::pcim_enable_device(as_raw(pdev)) })
}

/// Marks a BAR as used by `name` for as long as the device is bound (`pcim_request_region()`).
///
/// # Errors
///
/// `EBUSY` if somebody else uses the BAR.
pub fn request_region(pdev: &pci::Device<Core<'_>>, bar: u32, name: &'static CStr) -> Result {
    // SAFETY: The device is valid, and is being bound. The C side checks the number of the BAR,
    // and `name` lives for ever.
    to_result(unsafe {
        bindings::pcim_request_region(as_raw(pdev), bar.try_into()?, name.as_char_ptr())
    })
}

/// Returns the address of a BAR as the bus sees it, which may differ from the one that the CPU uses.
pub fn bus_address(pdev: &pci::Device, bar: u32) -> Result<u64> {
    if bar >= STD_NUM_BARS {
        return Err(EINVAL);
    }

    // SAFETY: The device is valid and has such a BAR.
    Ok(unsafe { bindings::pci_bus_address(as_raw(pdev), bar.try_into()?) })
}

/// What the kernel knows of a BAR: its `struct resource`.
#[derive(Clone, Copy, Debug)]
pub struct Resource {
    /// CPU address of the first byte.
    pub start: u64,
    /// Length in bytes, 0 if the BAR does not exist.
    pub size: u64,
    flags: u64,
}

impl Resource {
    /// Returns the resource of one of the [`STD_NUM_BARS`] standard BARs, or `EINVAL`.
    pub fn of(pdev: &pci::Device, bar: u32) -> Result<Self> {
        if bar >= STD_NUM_BARS {
            return Err(EINVAL);
        }
        let number = i32::try_from(bar)?;

        Ok(Self {
            start: pdev.resource_start(bar)?,
            size: pdev.resource_len(bar)?,
            // SAFETY: The device is valid and has such a BAR.
            flags: unsafe { bindings::pci_resource_flags(as_raw(pdev), number) } as u64,
        })
    }

    fn has(&self, flag: u32) -> bool {
        self.flags & u64::from(flag) != 0
    }

    /// Returns whether the BAR is one of I/O ports.
    pub fn is_io(&self) -> bool {
        self.has(bindings::IORESOURCE_IO)
    }

    /// Returns whether the BAR is one of memory.
    pub fn is_memory(&self) -> bool {
        self.has(bindings::IORESOURCE_MEM)
    }

    /// Returns whether the memory is prefetchable.
    pub fn is_prefetchable(&self) -> bool {
        self.has(bindings::IORESOURCE_PREFETCH)
    }

    /// Returns whether the BAR is a 64-bit one.
    pub fn is_64bit(&self) -> bool {
        self.has(bindings::IORESOURCE_MEM_64)
    }

    /// Returns whether the BAR was given an address.
    pub fn is_assigned(&self) -> bool {
        !self.has(bindings::IORESOURCE_UNSET) && self.start != 0
    }
}
