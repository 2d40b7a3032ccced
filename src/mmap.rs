// SPDX-License-Identifier: GPL-2.0

//! Memory in the address space of a process.
//!
//! `mmap()` of a node takes the memory from the pool, so that it fails there and not later. Pages
//! become present when they are touched, all that one page table spans at a time. They are not
//! inserted by `mmap()`: the kernel links the VMA to the file only afterwards, and a device that goes
//! away in between would not find it.

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
    Caching,
    Fault,
    Operations,
    Outcome, //
};

use crate::{
    buffer::Buffer,
    provider::Provider, //
};

/// Handles `mmap()` of a node by an open file of it.
pub(crate) fn map_new(provider: &Arc<Provider>, file: u64, vma: &VmaNew) -> Result {
    let inside = provider.enter()?;

    if !virt::is_shared(vma) || virt::page_offset(vma) != 0 {
        return Err(EINVAL);
    }
    let size = vma.end() - vma.start();
    let buffer = Buffer::new(provider, file, size, Caching::Uncached, &inside)?;

    set_up(vma, buffer);
    Ok(())
}

/// Handles `mmap()` of memory that is there, at an offset that lies within it.
pub(crate) fn map(buffer: &Arc<Buffer>, vma: &VmaNew) -> Result {
    let _inside = buffer.provider().enter()?;

    if !virt::is_shared(vma) {
        return Err(EINVAL);
    }

    set_up(vma, buffer.clone());
    Ok(())
}

/// The VMA owns the buffer from here on; those that fork, partial `munmap()` and `mremap()` make of it
/// hold references as well.
fn set_up(vma: &VmaNew, buffer: Arc<Buffer>) {
    vma.set_mixedmap();
    vma.set_dontexpand();
    vma.set_dontdump();
    virt::set_random_access(vma);
    virt::set_caching(vma, buffer.caching);
    virt::set_operations(vma, buffer);
}

impl Operations for Buffer {
    fn fault(this: ArcBorrow<'_, Self>, fault: &Fault) -> Outcome {
        match populate(&this, fault) {
            // Somebody else was faster.
            Ok(()) | Err(EBUSY) => Outcome::Mapped,
            Err(ENOMEM) => Outcome::OutOfMemory,
            Err(_) => Outcome::SigBus,
        }
    }
}

fn populate(buffer: &Buffer, fault: &Fault) -> Result {
    let inside = buffer.provider().enter()?;
    let allocation = buffer.pages(&inside)?;
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
