// SPDX-License-Identifier: GPL-2.0

//! Memory that the kernel owns, and can give back to its pool.

use kernel::{
    page::PAGE_SHIFT,
    pci,
    sync::aref::ARef, //
};

use crate::{
    bindings,
    pci::as_raw, //
};

use core::{
    ffi::c_void,
    mem::ManuallyDrop,
    ops::Range,
    ptr::{
        self,
        NonNull, //
    },
};

/// A run of peer-to-peer memory that belongs to the kernel.
///
/// # Invariants
///
/// - `first` is the first page, and `size` the length, of memory from `pci_alloc_p2pmem(pdev)`,
///   whole pages, that was not given back. The owner of the value owns that memory.
/// - There are no references to its pages: their counts are 0.
/// - One reference to the pagemap of the pages is owned. It keeps the pages, and the pool of the
///   device, until it is put, also after the driver of the device is gone.
pub struct PoolMemory {
    pub(super) pdev: ARef<pci::Device>,
    pub(super) first: NonNull<bindings::page>,
    pub(super) size: usize,
}

// SAFETY: The memory can be given back by any thread.
unsafe impl Send for PoolMemory {}
// SAFETY: Nothing can be done with a shared reference but to read the fields.
unsafe impl Sync for PoolMemory {}

impl PoolMemory {
    /// Takes ownership of memory.
    ///
    /// # Safety
    ///
    /// `address` and `size` must be those of a successful call of `pci_alloc_p2pmem()` for
    /// `pdev`, whose memory the caller owns; `size` must be a multiple of the page size.
    pub(crate) unsafe fn from_raw(
        pdev: ARef<pci::Device>,
        address: NonNull<c_void>,
        size: usize,
    ) -> Self {
        // SAFETY: The memory of a pool has pages, whose addresses are not null.
        let first = unsafe { NonNull::new_unchecked(bindings::virt_to_page(address.as_ptr())) };

        // INVARIANT: As the caller says. A page of a pool that is not allocated has no
        // references, and `pci_alloc_p2pmem()` takes one to the pagemap.
        Self { pdev, first, size }
    }

    /// Returns the CPU address of the first byte.
    pub fn physical_address(&self) -> u64 {
        // SAFETY: By the type invariants, the page is valid.
        unsafe { bindings::page_to_phys(self.first.as_ptr()) }
    }

    /// Returns the CPU addresses of all the memory that was registered together with this run.
    pub fn pagemap_range(&self) -> Range<u64> {
        // SAFETY: The page belongs to a pagemap, and the value owns a reference to that, whose only
        // range does not change.
        let range = unsafe {
            *(*bindings::page_pgmap(self.first.as_ptr()))
                .__bindgen_anon_1
                .range
                .as_ref()
        };

        // The C side counts the last byte in.
        range.start..range.end + 1
    }

    /// Gives back all but a part, in bytes from the start: whole pages, at least one, within the
    /// memory.
    pub(crate) fn trim(self, part: Range<usize>) -> Self {
        debug_assert!(part.start < part.end && part.end <= self.size);
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is neither used nor dropped any more: the reference moves.
        let pdev = unsafe { ptr::read(&this.pdev) };
        for rest in [0..part.start, part.end..this.size] {
            if rest.is_empty() {
                continue;
            }
            // SAFETY: A reference to the pagemap is owned, so that one more can be taken. The rest
            // is memory that is owned and not in use; giving it back puts the reference.
            unsafe {
                bindings::percpu_ref_get_many(pagemap_ref(this.first.as_ptr()), 1);
                bindings::pci_free_p2pmem(
                    as_raw(&pdev),
                    bindings::page_to_virt(this.first.as_ptr()).byte_add(rest.start),
                    rest.len(),
                );
            }
        }

        // INVARIANT: The part is what is left of the memory, with the reference that the whole had.
        Self {
            pdev,
            // SAFETY: Within the memory. Its pages are an array: ZONE_DEVICE needs
            // SPARSEMEM_VMEMMAP.
            first: unsafe { this.first.add(part.start >> PAGE_SHIFT) },
            size: part.len(),
        }
    }
}

impl Drop for PoolMemory {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, the memory was not given back and is not in use, and
        // the pool exists for as long as the reference to the pagemap, which this call puts.
        unsafe {
            bindings::pci_free_p2pmem(
                as_raw(&self.pdev),
                bindings::page_to_virt(self.first.as_ptr()),
                self.size,
            )
        };
    }
}

/// Returns the reference counter of the pagemap that `page` belongs to.
///
/// # Safety
///
/// `page` must be the first one of a folio, of a pagemap to which a reference is held.
pub(super) unsafe fn pagemap_ref(page: *mut bindings::page) -> *mut bindings::percpu_ref {
    // SAFETY: By the safety requirements, the page belongs to a pagemap and that is valid.
    unsafe { &raw mut (*bindings::page_pgmap(page)).ref_ }
}
