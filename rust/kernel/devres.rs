// SPDX-License-Identifier: GPL-2.0

//! Resources of a device that are released together, before the device is unbound.
//!
//! C header: [`include/linux/device/devres.h`](srctree/include/linux/device/devres.h)

use kernel::{
    device::Bound,
    pci,
    prelude::*, //
};

use crate::{
    bindings,
    pci::as_raw, //
};

use core::{
    ffi::c_void,
    ptr::{
        self,
        NonNull, //
    }, //
};

/// A group of resources of a device (`devres_open_group()`).
///
/// If it is not released, the device releases the resources when it is unbound, as usual. A module
/// that adds resources to a device of another driver must release them before it is unloaded.
pub(crate) struct Group(NonNull<c_void>);

// SAFETY: The pointer is only compared with those of the groups of a device.
unsafe impl Send for Group {}
// SAFETY: As above.
unsafe impl Sync for Group {}

impl Group {
    /// Makes a group of what `acquire` adds to the resources of a device. If it fails, all of that
    /// is released.
    ///
    /// The caller holds the device lock, so that no other thread adds resources. May sleep.
    pub(crate) fn collect<T>(
        pdev: &pci::Device<Bound>,
        acquire: impl FnOnce() -> Result<T>,
    ) -> Result<(Self, T)> {
        // SAFETY: The device is valid.
        let dev = unsafe { &raw mut (*as_raw(pdev)).dev };

        // SAFETY: The device is valid and bound. Null stands for an identity of its own.
        let id = unsafe { bindings::devres_open_group(dev, ptr::null_mut(), bindings::GFP_KERNEL) };
        let group = Self(NonNull::new(id).ok_or(ENOMEM)?);

        match acquire() {
            Ok(value) => {
                // SAFETY: The group was opened above and is still open.
                unsafe { bindings::devres_close_group(dev, id) };
                Ok((group, value))
            }
            Err(error) => {
                group.release(pdev);
                Err(error)
            }
        }
    }

    /// Releases the resources, the last one first. May sleep.
    ///
    /// The device must be the one that the group was made of, and not have been unbound since; the
    /// kernel warns otherwise.
    pub(crate) fn release(self, pdev: &pci::Device<Bound>) {
        // SAFETY: The device is valid. A group that it does not have is not touched.
        unsafe { bindings::devres_release_group(&raw mut (*as_raw(pdev)).dev, self.0.as_ptr()) };
    }
}
