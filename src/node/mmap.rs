// SPDX-License-Identifier: GPL-2.0

//! Memory in the address space of a process.
//!
//! `mmap()` of a node takes the memory from the pool, so that it fails there and not later. That is
//! done when the area is linked to the file: a device that goes away finds it from then on. Pages
//! become present when they are touched, a large page or all that one page table spans. Only where
//! that is little, and needs not be cleared, they are at once.

use kernel::{
    mm::virt::{
        VmaNew,
        VmaRef, //
    },
    page::PAGE_SHIFT,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    }, //
};

use kernel_ext::{
    mm::virt::{
        self,
        AreaDescription,
        Caching,
        Fault,
        Operations,
        Outcome,
        LARGE_PAGE_SIZE, //
    },
    p2pmem::Allocation, //
};

use crate::provider::{
    buffer::Buffer,
    Account,
    Provider, //
};

/// Says what a mapping of a node is like.
pub(crate) fn prepare(provider: &Provider, area: &AreaDescription) -> Result {
    if provider.is_gone() {
        return Err(ENODEV);
    }
    if !area.is_shared() || area.page_offset() != 0 {
        return Err(EINVAL);
    }

    area.set_device_memory(Caching::Uncached);
    Ok(())
}

/// Allocates the memory of a mapping of a node, for an open file. The mapping owns it, and those
/// that fork, partial `munmap()` and `mremap()` make of it hold references as well.
pub(crate) fn mapped(
    provider: &Arc<Provider>,
    account: &Arc<Account>,
    vma: &VmaRef,
) -> Result<Arc<Buffer>> {
    let inside = provider.enter()?;
    let size = vma.end() - vma.start();
    let buffer = Buffer::new(provider, account, size, Caching::Uncached, &inside)?;

    let allocation = buffer.allocation(&inside)?;
    if size < LARGE_PAGE_SIZE && !allocation.is_cleared() {
        if let Some(vma) = vma.as_mixedmap_vma() {
            // Pages that are not mapped now are mapped when they are touched.
            let _ = allocation.map(vma, vma.start(), 0..size >> PAGE_SHIFT);
        }
    }

    Ok(buffer)
}

/// Handles `mmap()` of memory that is there, at an offset that lies within it.
pub(crate) fn map(buffer: &Arc<Buffer>, vma: &VmaNew) -> Result {
    let _inside = buffer.provider().enter()?;

    if !virt::is_shared(vma) {
        return Err(EINVAL);
    }

    virt::set_device_memory(vma, buffer.caching);
    virt::set_operations(vma, buffer.clone());
    Ok(())
}

impl Operations for Buffer {
    fn fault(this: ArcBorrow<'_, Self>, fault: &Fault) -> Outcome {
        handle(&this, fault, map_pages)
    }

    fn large_fault(this: ArcBorrow<'_, Self>, fault: &Fault) -> Outcome {
        handle(&this, fault, map_large_page)
    }
}

/// Handles a fault by `map`, from inside the gate.
fn handle(buffer: &Buffer, fault: &Fault, map: fn(&Allocation, &Fault) -> Result) -> Outcome {
    let result = buffer
        .provider()
        .enter()
        .and_then(|inside| map(buffer.allocation(&inside)?, fault));

    match result {
        // With EBUSY another thread was faster.
        Ok(()) | Err(EBUSY) => Outcome::Mapped,
        Err(ENOMEM) => Outcome::OutOfMemory,
        Err(_) => Outcome::SigBus,
    }
}

/// Maps a large page. Where there is none, its pages one by one: the kernel would make a page table
/// for a smaller fault that would not be used.
fn map_large_page(allocation: &Allocation, fault: &Fault) -> Result {
    if !allocation.map_large(fault, virt::page_offset(fault.vma()))? {
        map_pages(allocation, fault)?;
    }
    Ok(())
}

/// Maps all pages around the one that was touched that one page table spans.
fn map_pages(allocation: &Allocation, fault: &Fault) -> Result {
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
