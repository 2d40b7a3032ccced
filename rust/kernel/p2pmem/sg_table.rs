// SPDX-License-Identifier: GPL-2.0

//! Peer-to-peer memory as a scatterlist, which devices map for their DMA.
//!
//! C header: [`include/linux/scatterlist.h`](srctree/include/linux/scatterlist.h)

use kernel::{
    dma::DataDirection,
    error::to_result,
    pci,
    prelude::*,
    scatterlist::SGTable,
    sync::aref::ARef, //
};

use crate::{
    bindings,
    pci::{
        as_raw,
        bus::BoundDevice, //
    }, //
};

use core::{
    ffi::c_void,
    mem::ManuallyDrop,
    ptr::{
        self,
        NonNull, //
    },
};

/// A run of peer-to-peer memory that belongs to the kernel, as a scatterlist.
///
/// # Invariants
///
/// - `table.sgl` is a list from `pci_p2pmem_alloc_sgl(pdev)` with `table.orig_nents` entries, at
///   least one, that was not given back. The owner of the value owns the list and its memory.
/// - One reference to the pagemap of the memory is owned. It keeps the pool of the device.
pub struct P2pSgTable {
    pdev: ARef<pci::Device>,
    table: bindings::sg_table,
}

// SAFETY: The memory can be given back by any thread.
unsafe impl Send for P2pSgTable {}
// SAFETY: With a shared reference one can only ask where the memory is.
unsafe impl Sync for P2pSgTable {}

impl P2pSgTable {
    /// Takes over a list that was just allocated.
    ///
    /// # Safety
    ///
    /// `list` must be one from `pci_p2pmem_alloc_sgl(pdev)` with `count` entries, that the caller
    /// owns.
    pub(crate) unsafe fn from_raw(
        pdev: ARef<pci::Device>,
        list: NonNull<bindings::scatterlist>,
        count: u32,
    ) -> Self {
        // INVARIANT: By the safety requirements. An allocation takes a reference to the pagemap.
        Self {
            pdev,
            table: bindings::sg_table {
                sgl: list.as_ptr(),
                nents: count,
                orig_nents: count,
            },
        }
    }

    /// Returns the address of the first byte for the kernel itself.
    fn address(&self) -> *mut c_void {
        // SAFETY: By the type invariants, the list has an entry.
        unsafe { bindings::sg_virt(self.table.sgl) }
    }

    /// Returns whether the first page is one of peer-to-peer memory (`is_pci_p2pdma_page()`).
    pub fn is_p2pdma(&self) -> bool {
        // SAFETY: By the type invariants, the address is one of memory that has pages.
        unsafe { bindings::is_pci_p2pdma_page(bindings::virt_to_page(self.address())) }
    }

    /// Returns the CPU address of the first byte.
    pub fn physical_address(&self) -> u64 {
        // SAFETY: As above.
        unsafe { bindings::page_to_phys(bindings::virt_to_page(self.address())) }
    }

    /// Returns the address of the first byte on the PCI bus (`pci_p2pmem_virt_to_bus()`).
    pub fn bus_address(&self) -> u64 {
        // SAFETY: The device is valid, and has its pool as long as there is a reference to the
        // pagemap.
        unsafe { bindings::pci_p2pmem_virt_to_bus(as_raw(&self.pdev), self.address()) }
    }

    /// Maps the memory for DMA of a device (`dma_map_sgtable()`), until [`MappedSgTable::unmap`].
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `EREMOTEIO` if the device cannot reach the memory, `EINVAL` for no direction, and what else
    /// mapping says. The memory goes back to the pool then.
    pub fn map(
        mut self,
        device: &BoundDevice,
        direction: DataDirection,
    ) -> Result<MappedSgTable<'_>> {
        if direction == DataDirection::None {
            return Err(EINVAL);
        }

        // SAFETY: The device is valid.
        let raw = unsafe { &raw mut (*as_raw(device)).dev };

        // SAFETY: The device is bound, and the list valid and not mapped: who maps it gives it
        // away.
        to_result(unsafe { bindings::dma_map_sgtable(raw, &mut self.table, direction.into(), 0) })?;

        // INVARIANT: Was just mapped.
        Ok(MappedSgTable {
            list: self,
            device,
            direction,
        })
    }
}

impl Drop for P2pSgTable {
    fn drop(&mut self) {
        // SAFETY: By the type invariants. The pool exists for as long as the reference to the
        // pagemap, which this call puts.
        unsafe { bindings::pci_p2pmem_free_sgl(as_raw(&self.pdev), self.table.sgl) };
    }
}

/// A [`P2pSgTable`] that a device may access. If it is forgotten, the memory is lost, which stays
/// mapped.
///
/// # Invariants
///
/// The list is mapped for the device, in that direction.
pub struct MappedSgTable<'a> {
    list: P2pSgTable,
    device: &'a BoundDevice,
    direction: DataDirection,
}

impl MappedSgTable<'_> {
    /// Returns the addresses that the device is to use.
    pub fn addresses(&self) -> &SGTable {
        // SAFETY: The table is valid, and does not change while it is mapped.
        unsafe { SGTable::from_raw(ptr::from_ref(&self.list.table).cast_mut()) }
    }

    /// Ends the mapping. The device must not access the memory any more.
    pub fn unmap(self) -> P2pSgTable {
        let mut this = ManuallyDrop::new(self);
        this.end();

        // SAFETY: The value is neither used nor dropped any more: the list moves.
        unsafe { ptr::read(&this.list) }
    }

    /// Unmaps. To be done once, last.
    fn end(&mut self) {
        // SAFETY: The device is valid.
        let raw = unsafe { &raw mut (*as_raw(self.device)).dev };

        // SAFETY: By the type invariants.
        unsafe { bindings::dma_unmap_sgtable(raw, &mut self.list.table, self.direction.into(), 0) };
    }
}

impl Drop for MappedSgTable<'_> {
    fn drop(&mut self) {
        self.end();
    }
}
