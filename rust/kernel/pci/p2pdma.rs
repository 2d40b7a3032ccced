// SPDX-License-Identifier: GPL-2.0

//! PCI peer-to-peer DMA.
//!
//! C header: [`include/linux/pci-p2pdma.h`](srctree/include/linux/pci-p2pdma.h)

use kernel::{
    device::{
        Bound,
        Core, //
    },
    devres::Devres,
    error::to_result,
    page::PAGE_SIZE,
    pci,
    prelude::*,
    sync::aref::ARef, //
};

use crate::{
    bindings,
    p2pmem::Chunk,
    pci::as_raw, //
};

use core::{
    ops::RangeInclusive,
    ptr::{
        self,
        NonNull, //
    },
};

/// Returns the alignment, in bytes and a power of two, that start, offset and size of a registered range need.
///
/// Struct pages come in units of that size (`memremap_compat_align()`).
pub fn alignment() -> u64 {
    // SAFETY: Has no requirements.
    let alignment = unsafe { bindings::memremap_compat_align() };

    alignment as u64
}

/// Returns the CPU addresses of which struct pages can be made (`mhp_get_pluggable_range()`).
pub fn mappable() -> RangeInclusive<u64> {
    // SAFETY: Has no requirements.
    let range = unsafe { bindings::mhp_get_pluggable_range(true) };

    range.start..=range.end
}

/// Shows that the device of a [`Pool`] is bound and has peer-to-peer memory.
struct Registered;

/// The pool of a device's registered peer-to-peer memory.
///
/// It may outlive the binding of the device to its driver. Memory comes out of it only until
/// then.
pub struct Pool {
    pdev: ARef<pci::Device>,
    registered: Devres<Registered>,
}

/// Registers a range of a BAR as peer-to-peer memory, until the device is unbound
/// (`pci_p2pdma_add_resource()`).
///
/// The memory gets struct pages and becomes part of the device's pool, which is returned.
/// `offset` and `size` are in bytes; they and the start of the BAR must be multiples of
/// [`alignment`]. The device must be enabled. May sleep.
///
/// # Errors
///
/// `EINVAL` for a range that is empty, not aligned, not [`mappable`], or not in a memory BAR; `ENOMEM` also for
/// memory that is registered already; `EOPNOTSUPP` if the BARs of this device cannot be mapped.
pub fn add_resource(
    pdev: &pci::Device<Core<'_>>,
    bar: u32,
    offset: u64,
    size: usize,
) -> Result<Pool> {
    // The C side takes 0 for "up to the end", and warns of what is not aligned.
    let bits = pdev.resource_start(bar)? | offset | size as u64;
    if size == 0 || bits & (alignment() - 1) != 0 {
        return Err(EINVAL);
    }

    // SAFETY: The device is valid and being bound. The C side checks BAR and range.
    to_result(unsafe {
        bindings::pci_p2pdma_add_resource(as_raw(pdev), bar.try_into()?, size, offset)
    })?;

    Ok(Pool {
        pdev: pdev.into(),
        // Added to the resources of the device after its memory, so revoked before that is gone.
        registered: Devres::new(pdev.as_ref(), Ok::<_, Error>(Registered))?,
    })
}

/// Says whether others may find the memory of a device (`pci_p2pmem_publish()`).
pub fn publish(pdev: &pci::Device<Core<'_>>, publish: bool) {
    // SAFETY: The device is valid and bound. Without registered memory the call does nothing.
    unsafe { bindings::pci_p2pmem_publish(as_raw(pdev), publish) };
}

/// How far requests of a device travel to the memory of another one, in hops between ports
/// (`pci_p2pdma_distance_many()`).
///
/// [`None`] if the kernel does not let the device do DMA to that memory. Does not sleep.
pub fn distance(provider: &pci::Device, client: &pci::Device) -> Option<u32> {
    // SAFETY: The device is valid.
    let mut client = unsafe { &raw mut (*as_raw(client)).dev };

    // SAFETY: A valid device, and a list of one that is valid.
    let hops =
        unsafe { bindings::pci_p2pdma_distance_many(as_raw(provider), &mut client, 1, false) };

    u32::try_from(hops).ok()
}

impl Pool {
    /// Returns the pool of a device whose driver registered and published memory, or [`None`].
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn of(pdev: &pci::Device<Bound>) -> Result<Option<Self>> {
        let raw = as_raw(pdev);
        // SAFETY: The device is valid.
        let mut client = unsafe { &raw mut (*raw).dev };

        // The device itself is the provider that is nearest to it, if it is one. There is no other
        // way to ask, and trying to allocate is none: with p2pdma but without a pool that crashes.
        //
        // SAFETY: A list of one valid device.
        let found = unsafe { bindings::pci_p2pmem_find_many(&mut client, 1) };
        // SAFETY: Null, or a reference to a device that is owned.
        unsafe { bindings::pci_dev_put(found) };
        if !ptr::eq(found, raw) {
            return Ok(None);
        }

        Ok(Some(Self {
            pdev: pdev.into(),
            // Added to the resources of the device after its memory, so revoked before that is
            // gone.
            registered: Devres::new(pdev.as_ref(), Ok::<_, Error>(Registered))?,
        }))
    }

    /// Takes memory from the pool, `size` bytes in one run. Does not sleep.
    ///
    /// The bytes are what the last owner left.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `size` is 0 or not a multiple of the page size, `ENOSPC` if there is no free
    /// run of that length, `ENODEV` once the device was unbound.
    pub fn alloc(&self, size: usize) -> Result<Chunk> {
        if size == 0 || size % PAGE_SIZE != 0 {
            return Err(EINVAL);
        }

        // The guard keeps the device bound, so that it has a pool.
        let _registered = self.registered.try_access().ok_or(ENODEV)?;

        // SAFETY: The device is valid, and has a pool.
        let address = unsafe { bindings::pci_alloc_p2pmem(as_raw(&self.pdev), size) };
        let address = NonNull::new(address).ok_or(ENOSPC)?;

        // SAFETY: The memory was just allocated with this size, and is owned.
        Ok(unsafe { Chunk::from_raw(self.pdev.clone(), address, size) })
    }
}
