// SPDX-License-Identifier: GPL-2.0

//! Peer-to-peer memory: from a run of bytes in a device to pages that anybody may refer to.
//!
//! Memory from a pool starts as a [`Chunk`]. Its owner is the kernel, which can give it back at
//! any time. To be mapped to user space it becomes an [`Allocation`], whose pages are reference
//! counted; there is no way back, since a page that was once visible may be referred to by DMA
//! that is under way. Each conversion consumes what it converts, so that a chunk whose pages
//! are in use cannot be freed by mistake.
//!
//! C header: [`include/linux/pci-p2pdma.h`](srctree/include/linux/pci-p2pdma.h)

use kernel::{
    alloc::{
        flags::__GFP_NOWARN,
        KVVec, //
    },
    mm::virt::VmaMixedMap,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    pci,
    prelude::*,
    sync::aref::ARef, //
};

use crate::{
    bindings,
    mm::virt,
    pci::{
        as_raw,
        Resource, //
    }, //
};

use core::{
    ffi::c_void,
    mem::{
        self,
        ManuallyDrop, //
    },
    ops::Range,
    ptr::{
        self,
        NonNull, //
    },
};

mod list;

pub use list::{
    List,
    Mapped, //
};

/// A run of peer-to-peer memory that belongs to the kernel.
///
/// # Invariants
///
/// - `address` and `size` are those of memory from `pci_alloc_p2pmem(pdev)`, whole pages, that was
///   not given back. The owner of the chunk owns that memory.
/// - Nobody refers to its pages: their reference counts are 0.
/// - One reference to the pagemap of the pages is owned. It keeps the pages, and the pool of the
///   device, until it is put, whatever happens to the driver of the device.
pub struct Chunk {
    pdev: ARef<pci::Device>,
    address: NonNull<c_void>,
    size: usize,
}

// SAFETY: The memory can be given back by any thread.
unsafe impl Send for Chunk {}
// SAFETY: Nothing can be done with a shared reference but to read the fields.
unsafe impl Sync for Chunk {}

impl Chunk {
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
        // INVARIANT: As the caller says. A page of a pool that nobody was given has no
        // references, and `pci_alloc_p2pmem()` takes one to the pagemap.
        Self {
            pdev,
            address,
            size,
        }
    }
}

impl Chunk {
    /// Returns the CPU addresses of all the memory that was registered together with this run.
    pub fn pagemap_range(&self) -> Range<u64> {
        // SAFETY: The memory has pages, they belong to a pagemap, and the chunk owns a reference to
        // that, whose only range does not change.
        let range = unsafe {
            let page = bindings::virt_to_page(self.address.as_ptr());
            *(*bindings::page_pgmap(page))
                .__bindgen_anon_1
                .range
                .as_ref()
        };

        // The C side counts the last byte in.
        range.start..range.end + 1
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, the memory was not given back and nobody uses it, and
        // the pool exists for as long as the reference to the pagemap, which this call puts.
        unsafe { bindings::pci_free_p2pmem(as_raw(&self.pdev), self.address.as_ptr(), self.size) };
    }
}

/// Peer-to-peer memory as pages with a reference count each.
///
/// Pages can be mapped to user space, and then be used by direct I/O like any memory. When the
/// value is dropped, pages that nobody else refers to go back to the pool at once, in runs. Pages
/// that are still mapped or pinned go back when their last user lets go of them.
///
/// # Invariants
///
/// - `address` is that of memory from the pool of `pdev`, and `pages` are the pages of that memory,
///   in order, at least one; or none, once the memory was given back.
/// - One reference to each page is owned, and one reference to their pagemap for each page. They
///   keep the pages and the pool of the device, whatever happens to the driver of the device.
pub struct Allocation {
    pdev: ARef<pci::Device>,
    address: NonNull<c_void>,
    pages: KVVec<*mut bindings::page>,
}

// SAFETY: References to pages can be put by any thread.
unsafe impl Send for Allocation {}
// SAFETY: With a shared reference pages can be mapped, which locks what it needs.
unsafe impl Sync for Allocation {}

impl Allocation {
    /// Makes reference-counted pages of a chunk.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, without memory for the list of pages: a pointer for each, charged to the memory
    /// cgroup of the caller. The chunk is given back then.
    pub fn new(chunk: Chunk) -> Result<Self> {
        let count = chunk.size >> PAGE_SHIFT;
        let mut pages = KVVec::with_capacity(count, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?;

        // SAFETY: The memory of a chunk has pages.
        let first = unsafe { bindings::virt_to_page(chunk.address.as_ptr()) };
        for (index, slot) in pages
            .spare_capacity_mut()
            .iter_mut()
            .take(count)
            .enumerate()
        {
            // The pages of one pagemap are an array: ZONE_DEVICE needs SPARSEMEM_VMEMMAP.
            let page = slot.write(first.wrapping_add(index));
            // As `set_page_count()`, without a call for each page.
            //
            // SAFETY: The page is valid, and by the invariants of the chunk nobody refers to it.
            unsafe { (&raw mut (**page)._refcount.counter).write_volatile(1) };
        }
        // SAFETY: There is room for so many, and all were written.
        unsafe { pages.inc_len(count) };

        // From here on nothing fails: the pages own the memory.
        let chunk = ManuallyDrop::new(chunk);

        // SAFETY: The chunk owns a reference to the pagemap, so that more can be taken.
        unsafe { bindings::percpu_ref_get_many(pagemap_ref(first), count - 1) };

        // INVARIANT: Each page has the one reference that was just set, and with that of the
        // chunk there are `count` references to the pagemap. No pool gives out empty memory.
        let this = Self {
            // SAFETY: The chunk is neither used nor dropped any more: the reference moves.
            pdev: unsafe { ptr::read(&chunk.pdev) },
            address: chunk.address,
            pages,
        };
        this.trace(bindings::trace_p2pmem_alloc, 0..chunk.size);

        Ok(this)
    }

    /// Returns how long the memory is, in bytes.
    pub fn size(&self) -> usize {
        self.pages.len() << PAGE_SHIFT
    }

    /// Returns the CPU address of the first byte.
    pub fn physical_address(&self) -> u64 {
        // SAFETY: The memory of an allocation has pages.
        unsafe { bindings::page_to_phys(bindings::virt_to_page(self.address.as_ptr())) }
    }

    /// Returns the device whose memory it is.
    pub fn device(&self) -> &pci::Device {
        &self.pdev
    }

    /// Returns what stands for the device's BAR in the DMA API, or null. It is valid for as long as the
    /// allocation.
    pub(crate) fn provider(&self) -> *mut bindings::p2pdma_provider {
        let Some((bar, _)) = Resource::at(&self.pdev, self.physical_address()) else {
            return ptr::null_mut();
        };

        // SAFETY: The device is valid, and has such a BAR. References to the pagemap are owned: as
        // long as there are any, the device keeps what it registered.
        unsafe { bindings::pcim_p2pdma_provider(as_raw(&self.pdev), bar as c_int) }
    }

    /// Returns a part of the memory as what block devices take, in bytes from the start, or `ERANGE`.
    ///
    /// Nothing is counted for it: the caller keeps the allocation for as long as it is used.
    pub(crate) fn segment(&self, range: Range<usize>) -> Result<bindings::bio_vec> {
        let first = *self.pages.get(range.start >> PAGE_SHIFT).ok_or(ERANGE)?;
        if range.start >= range.end || range.end > self.size() {
            return Err(ERANGE);
        }

        Ok(bindings::bio_vec {
            bv_page: first,
            bv_len: range.len().try_into().map_err(|_| ERANGE)?,
            // CAST: Less than a page.
            bv_offset: (range.start % PAGE_SIZE) as u32,
        })
    }

    /// Writes zeroes, through a mapping that combines writes. May sleep.
    ///
    /// `proceed` is asked from time to time, and its error ends it.
    ///
    /// # Errors
    ///
    /// `ENOMEM` without memory for page tables; what `proceed` says.
    pub fn clear(&self, mut proceed: impl FnMut() -> Result) -> Result {
        /// How much is mapped at a time, in pages: one page table.
        const WINDOW: usize = 512;

        for pages in self.pages.chunks(WINDOW) {
            proceed()?;
            let length = pages.len() << PAGE_SHIFT;

            // SAFETY: The C side only reads the array. The pages are valid, and device memory that
            // the kernel may map with any type but cached.
            let address = unsafe {
                bindings::vmap(
                    pages.as_ptr().cast_mut(),
                    pages.len().try_into()?,
                    bindings::VM_MAP as c_ulong,
                    bindings::pgprot_writecombine(bindings::PAGE_KERNEL()),
                )
            };
            let address = NonNull::new(address).ok_or(ENOMEM)?;

            // SAFETY: The mapping is that long, and nobody uses the memory yet. It is removed after
            // the writes have left the processor.
            unsafe {
                bindings::memset_io(address.as_ptr(), 0, length);
                bindings::wmb();
                bindings::vunmap(address.as_ptr());
            }
        }

        Ok(())
    }

    /// Maps a range of pages, counted from the start of the allocation, at `address`.
    ///
    /// Stops at the first entry of the page table that is in use. Returns how many pages were
    /// mapped if there was at least one. May sleep.
    ///
    /// # Errors
    ///
    /// If no page was mapped: `ERANGE` if the range is beyond the allocation, `EBUSY` if the
    /// entry at `address` is in use, `EFAULT` if the range is not within the VMA, `ENOMEM`
    /// without memory for page tables.
    pub fn map(&self, vma: &VmaMixedMap, address: usize, range: Range<usize>) -> Result<usize> {
        let start = range.start << PAGE_SHIFT;
        let pages = self.pages.get(range).ok_or(ERANGE)?;

        // SAFETY: By the type invariants, the pages are valid and have a reference, and they are
        // for user space.
        let mapped = unsafe { virt::insert_pages(vma, address, pages)? };
        self.trace(
            bindings::trace_p2pmem_map,
            start..start + (mapped << PAGE_SHIFT),
        );

        Ok(mapped)
    }

    /// Lets those know who trace what is done with a part of the memory, in bytes.
    fn trace(
        &self,
        event: unsafe extern "C" fn(*mut bindings::pci_dev, u64, u64),
        part: Range<usize>,
    ) {
        let address = self.physical_address() + part.start as u64;

        // SAFETY: The device is valid, the rest are numbers.
        unsafe { event(as_raw(&self.pdev), address, part.len() as u64) };
    }

    /// Gives the memory back, and returns what somebody still refers to, if there is something.
    pub fn release(mut self) -> Option<Pinned> {
        let &first = self.pages.first()?;
        self.trace(bindings::trace_p2pmem_revoke, 0..self.size());

        // SAFETY: References to the pagemap are owned, so that one more can be taken.
        unsafe { bindings::percpu_ref_get_many(pagemap_ref(first), 1) };
        self.give_back();

        // INVARIANT: The reference was just taken.
        let pinned = Pinned {
            pages: mem::take(&mut self.pages),
            pagemap: first,
        };
        (pinned.bytes() != 0).then_some(pinned)
    }

    /// Gives all pages back. What is left in `self.pages` is not owned any more: pages that somebody
    /// else refers to.
    fn give_back(&mut self) {
        let count = self.pages.len();
        let mut kept = 0;
        let mut index = 0;

        while let Some(&page) = self.pages.get(index) {
            // SAFETY: By the type invariants, these pages follow each other, and a reference to each is
            // owned. If it is the only one, freezing takes it away, and nobody can get another.
            let frozen = unsafe { bindings::page_ref_freeze_run(page, count - index) };
            // SAFETY: These pages were just frozen, and are not looked at again.
            unsafe { self.free_run(index..index + frozen) };
            index += frozen;

            let Some(&page) = self.pages.get(index) else {
                break;
            };
            // SAFETY: A reference to the page is owned. Whoever puts the last one gives the page
            // back to the pool and puts its reference to the pagemap.
            unsafe { bindings::put_page(page) };
            if let Some(slot) = self.pages.get_mut(kept) {
                *slot = page;
                kept += 1;
            }
            index += 1;
        }

        self.pages.truncate(kept);
    }

    /// Gives pages back that nobody refers to.
    ///
    /// # Safety
    ///
    /// The reference count of each page in `range` must have been frozen, and the references to
    /// the pagemap that are owned for these pages must not be used any more.
    unsafe fn free_run(&self, range: Range<usize>) {
        let count = range.len();
        if count == 0 {
            return;
        }
        let offset = range.start << PAGE_SHIFT;
        self.trace(bindings::trace_p2pmem_free, offset..range.end << PAGE_SHIFT);

        // SAFETY: The memory of an allocation has pages.
        let first = unsafe { bindings::virt_to_page(self.address.as_ptr().byte_add(offset)) };
        // SAFETY: By the safety requirements, `count` references to the pagemap are owned. All
        // but one are put here, the pool's free function puts the last.
        unsafe { bindings::percpu_ref_put_many(pagemap_ref(first), count - 1) };

        // SAFETY: The memory is part of what the pool gave out and nobody refers to it. The pool
        // exists for as long as the reference to the pagemap, which this call puts.
        unsafe {
            bindings::pci_free_p2pmem(
                as_raw(&self.pdev),
                self.address.as_ptr().byte_add(offset),
                count << PAGE_SHIFT,
            )
        };
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // Nothing is there if the memory was released.
        self.give_back();
    }
}

/// Pages that were given back while somebody referred to them, like DMA that is in flight.
///
/// # Invariants
///
/// A reference to the pagemap of the pages is owned, which `pagemap` is one of.
pub struct Pinned {
    pages: KVVec<*mut bindings::page>,
    pagemap: *mut bindings::page,
}

// SAFETY: Reference counts can be read by any thread, and references be put.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Returns how many bytes are still referred to. Pages that went to somebody else meanwhile
    /// count as well.
    pub fn bytes(&self) -> usize {
        let is_used = |&&page: &&*mut bindings::page| {
            // SAFETY: By the type invariants, the page is valid.
            unsafe { bindings::page_ref_count(page) != 0 }
        };

        self.pages.iter().filter(is_used).count() << PAGE_SHIFT
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, the reference is owned.
        unsafe { bindings::percpu_ref_put_many(pagemap_ref(self.pagemap), 1) };
    }
}

/// Returns the reference counter of the pagemap that `page` belongs to.
///
/// # Safety
///
/// `page` must be one of a pagemap to which a reference is held.
unsafe fn pagemap_ref(page: *mut bindings::page) -> *mut bindings::percpu_ref {
    // SAFETY: By the safety requirements, the page belongs to a pagemap and that is valid.
    unsafe { &raw mut (*bindings::page_pgmap(page)).ref_ }
}
