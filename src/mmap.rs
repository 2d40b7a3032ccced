// SPDX-License-Identifier: GPL-2.0

//! Memory in the address space of a process.
//!
//! `mmap()` takes the memory from the pool, so that it fails there and not later. Pages become
//! present when they are touched, all that one page table spans at a time. They are not inserted
//! by `mmap()`: the kernel links the VMA to the file only afterwards, and a device that goes away
//! in between would not find it.

use kernel::{
    mm::virt::VmaNew,
    page::PAGE_SHIFT,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    }, //
};

use kernel_ext::mm::virt::{
    self,
    Fault,
    Operations,
    Outcome, //
};

use crate::provider::{
    Pages,
    Provider, //
};

/// Memory that is mapped. The VMAs that show it hold references: those that fork, partial
/// `munmap()` and `mremap()` make of the first one as well. With the last VMA it goes.
struct Buffer {
    provider: Arc<Provider>,
    key: u64,
    pages: Pages,
}

/// Handles `mmap()`.
pub(crate) fn map(provider: &Arc<Provider>, vma: &VmaNew) -> Result {
    let inside = provider.enter()?;

    if !virt::is_shared(vma) || virt::page_offset(vma) != 0 {
        return Err(EINVAL);
    }

    let size = vma.end() - vma.start();
    let (key, pages) = provider.lease(size, &inside)?;
    // From here on, dropping the buffer gives the memory back.
    let buffer = Buffer {
        provider: provider.clone(),
        key,
        pages,
    };
    let buffer = Arc::new(buffer, GFP_KERNEL)?;

    vma.set_mixedmap();
    vma.set_dontexpand();
    vma.set_dontdump();
    virt::set_noncached(vma);
    virt::set_operations(vma, buffer);

    Ok(())
}

impl Operations for Buffer {
    fn fault(this: ArcBorrow<'_, Self>, fault: &Fault) -> Outcome {
        match this.populate(fault) {
            // Somebody else was faster.
            Ok(()) | Err(EBUSY) => Outcome::Mapped,
            Err(ENOMEM) => Outcome::OutOfMemory,
            Err(_) => Outcome::SigBus,
        }
    }
}

impl Buffer {
    fn populate(&self, fault: &Fault) -> Result {
        let inside = self.provider.enter()?;
        let allocation = self.pages.get(&inside).ok_or(ENODEV)?;
        let vma = fault.vma().as_mixedmap_vma().ok_or(EINVAL)?;

        // Which page of the allocation is at an address of the VMA.
        let offset = virt::page_offset(vma);
        let page_at = |address: usize| offset + ((address - vma.start()) >> PAGE_SHIFT);

        let (start, count) = virt::page_table_window(vma, fault.address());
        let first = page_at(start);
        let touched = page_at(fault.address());

        match allocation.map(vma, start, first..first + count) {
            Ok(mapped) if touched < first + mapped => return Ok(()),
            // Some page of the window is present, before the one that was touched. Go on from
            // there, up to the next one that is.
            Ok(_) | Err(EBUSY) => (),
            Err(error) => return Err(error),
        }
        allocation
            .map(vma, fault.address(), touched..first + count)
            .map(drop)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.provider.remove_lease(self.key);
    }
}
