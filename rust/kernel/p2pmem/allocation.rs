// SPDX-License-Identifier: GPL-2.0

//! Memory whose pages are reference counted.

use kernel::{
    alloc::KVVec,
    mm::virt::VmaMixedMap,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    pci,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Acquire,
            Atomic,
            Release, //
        },
        new_mutex,
        Mutex, //
    }, //
};

use crate::{
    bindings,
    mm::virt::{
        self,
        Fault,
        LARGE_PAGES,
        LARGE_PAGE_SIZE, //
    },
    pci::{
        as_raw,
        Resource, //
    },
    task, //
};

use core::{
    mem::ManuallyDrop,
    ops::Range,
    ptr::{
        self,
        NonNull, //
    },
};

use super::{
    bits::Bits,
    pieces::Pieces,
    pool_memory::{
        pagemap_ref,
        PoolMemory, //
    }, //
};

/// How many pages are given to `vm_insert_pages()` at a time: as many as it inserts with the lock
/// held. Their addresses are on the stack.
const BATCH: usize = 8;

/// Peer-to-peer memory as pages with reference counts.
///
/// The memory consists of *pieces*: its parts in each aligned span of a large page. Where the
/// kernel has large pages of device memory a whole span is one folio, and what is shorter, at both
/// ends, is in folios that are as large as possible; elsewhere all is single pages. A piece is
/// prepared before its first use: it is cleared, read back, and gets its first references. Until
/// then it is as it came from the pool.
///
/// The owner keeps a reference of its own to each piece. Pages can be mapped to user space, and be
/// used by direct I/O like any memory; each use adds references. [`Allocation::release`] gives a
/// piece back when the owner's reference is the last one, and never before: the kernel's own
/// function for the last reference does not see these pages.
///
/// # Invariants
///
/// - `first` is the first page of memory from the pool of `pdev`, and `pieces` are its parts.
/// - Before the release all pieces are owned; afterwards those in `prepared`. For each owned piece
///   a reference to the pagemap is owned. It keeps the pages and the pool of the device,
///   independent of what happens to the driver of the device.
/// - Of a piece in `prepared` a reference to each of its folios is owned. A piece that is not in it
///   has pages without references.
#[pin_data(PinnedDrop)]
pub struct Allocation {
    pdev: ARef<pci::Device>,
    first: NonNull<bindings::page>,
    pieces: Pieces,
    /// Whether pieces are cleared before their first use.
    clear: bool,
    prepared: Bits,
    /// Whether all pieces were prepared at once: then there is nothing to look at.
    all_prepared: Atomic<bool>,
    released: bool,
    /// Held while a piece is prepared, and while pages are inserted where a large page could be:
    /// page table and large page exclude each other.
    #[pin]
    lock: Mutex<()>,
}

// SAFETY: References to pages can be put by any thread.
unsafe impl Send for Allocation {}
// SAFETY: With a shared reference pages can be prepared and mapped, which locks what it needs.
unsafe impl Sync for Allocation {}

impl Allocation {
    /// Makes reference-counted pages of memory. `clear` says whether they are cleared before their
    /// first use.
    ///
    /// Takes memory of the kernel for long runs only, a bit for each piece, which is charged to the
    /// memory cgroup of the caller. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. The memory is given back then.
    pub fn new(memory: PoolMemory, clear: bool) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(move || {
            let pieces = Pieces::new(memory.physical_address(), memory.size, LARGE_PAGE_SIZE);
            let prepared = Bits::new(pieces.count())?;

            // From here on nothing fails: the pieces own the memory.
            let memory = ManuallyDrop::new(memory);

            // SAFETY: The memory has pages without references, and a reference to their pagemap is
            // owned, so that more can be taken.
            unsafe {
                if pieces.count() > 1 {
                    let pagemap = pagemap_ref(memory.first.as_ptr());
                    bindings::percpu_ref_get_many(pagemap, pieces.count() - 1);
                }
            }

            // SAFETY: The memory is neither used nor dropped any more: the reference moves.
            let pdev = unsafe { ptr::read(&memory.pdev) };
            trace(
                &pdev,
                bindings::trace_p2pmem_alloc,
                memory.physical_address(),
                memory.size,
            );

            // INVARIANT: With the reference of the memory there is one to the pagemap for each
            // piece. No piece is prepared, and the pages of pool memory have no references.
            Ok(try_pin_init!(Self {
                pdev,
                first: memory.first,
                pieces,
                clear,
                prepared,
                all_prepared: Atomic::new(false),
                released: false,
                lock <- new_mutex!(()),
            }))
        })
    }

    /// Returns at which multiple a run of `size` bytes is best to start, so that it is in few
    /// folios, and as much of it as possible in large pages.
    pub fn alignment(size: usize) -> usize {
        match size.checked_ilog2() {
            Some(order) if LARGE_PAGES => (1 << order).min(LARGE_PAGE_SIZE),
            _ => PAGE_SIZE,
        }
    }

    /// Returns how long the memory is, in bytes.
    pub fn size(&self) -> usize {
        self.pieces.size()
    }

    /// Returns how many bytes of it are in large pages (`mm::virt::LARGE_PAGE_SIZE`).
    pub fn size_in_large_pages(&self) -> usize {
        if LARGE_PAGES {
            self.pieces.bytes_in_whole()
        } else {
            0
        }
    }

    /// Returns whether pieces are cleared before their first use.
    pub fn is_cleared(&self) -> bool {
        self.clear
    }

    /// Returns the CPU address of the first byte.
    pub fn physical_address(&self) -> u64 {
        // SAFETY: By the type invariants, the page is valid.
        unsafe { bindings::page_to_phys(self.first.as_ptr()) }
    }

    /// Returns the device whose memory it is.
    pub fn device(&self) -> &pci::Device {
        &self.pdev
    }

    /// Returns what stands for the device's BAR in the DMA API, or null. It is valid for as long as
    /// the allocation.
    pub(crate) fn provider(&self) -> *mut bindings::p2pdma_provider {
        let bar = Resource::at(&self.pdev, self.physical_address());

        bar.map_or(ptr::null_mut(), |(bar, _)| {
            // SAFETY: The device is valid, and has that BAR. References to the pagemap are owned:
            // as long as there are any, the device keeps what it registered.
            unsafe { bindings::pcim_p2pdma_provider(as_raw(&self.pdev), bar as c_int) }
        })
    }

    /// `ERANGE` if a range of bytes is empty, or not within the memory.
    fn check_range(&self, range: &Range<usize>) -> Result {
        if range.start >= range.end || range.end > self.size() {
            return Err(ERANGE);
        }
        Ok(())
    }

    /// Returns a part of the memory as what block devices take, in bytes from the start. Prepares
    /// all of it first.
    ///
    /// Nothing is counted for it: the caller keeps the allocation for as long as it is used. May
    /// sleep.
    ///
    /// # Errors
    ///
    /// `ERANGE` if the part is empty, not within the memory, or 4 GiB or longer; and what preparing
    /// says.
    pub(crate) fn segment(&self, range: Range<usize>) -> Result<bindings::bio_vec> {
        self.check_range(&range)?;
        let length = range.len().try_into().map_err(|_| ERANGE)?;
        self.prepare(|| Ok(()))?;

        Ok(bindings::bio_vec {
            bv_page: self.page(range.start >> PAGE_SHIFT),
            bv_len: length,
            // CAST: Less than a page.
            bv_offset: (range.start % PAGE_SIZE) as u32,
        })
    }

    /// Prepares all pieces. May sleep, and takes as long as clearing the memory does.
    ///
    /// `proceed` is asked before each piece, and its error ends it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EINTR` if the calling thread is killed; `EIO` if the device does not return the
    /// zeroes that were written; what `proceed` says.
    pub fn prepare(&self, mut proceed: impl FnMut() -> Result) -> Result {
        if self.all_prepared.load(Acquire) {
            return Ok(());
        }
        for index in 0..self.pieces.count() {
            proceed()?;
            self.prepare_piece(index)?;
        }
        self.all_prepared.store(true, Release);

        Ok(())
    }

    /// Maps a range of pages, counted from the start of the allocation, at `address`, by an entry
    /// of the page table for each. Prepares them first.
    ///
    /// The range must be in the span of one page table. Stops at the first entry of that which is
    /// in use. Returns how many pages were mapped if there was at least one. May sleep.
    ///
    /// # Errors
    ///
    /// Errors of preparing. If no page was mapped: `ERANGE` if the range is empty or beyond the
    /// allocation, `EBUSY` if the entry at `address` is in use, or a large page is mapped there,
    /// `EFAULT` if the range is not within the VMA, `ENOMEM` without memory for page tables.
    pub fn map(&self, vma: &VmaMixedMap, address: usize, range: Range<usize>) -> Result<usize> {
        let bytes = range.start << PAGE_SHIFT..range.end << PAGE_SHIFT;
        self.check_range(&bytes)?;
        let mut could_be_large = false;
        for index in self.pieces.covering(&bytes) {
            self.prepare_piece(index)?;
            could_be_large |= LARGE_PAGES && self.pieces.is_whole(index);
        }
        let _inserting = could_be_large.then(|| self.lock.lock());
        if could_be_large && virt::has_large_page(vma, address) {
            return Err(EBUSY);
        }

        let mut mapped = 0;
        while mapped < range.len() {
            let count = BATCH.min(range.len() - mapped);
            let first = self.page(range.start + mapped);
            let pages: [_; BATCH] = core::array::from_fn(|index| first.wrapping_add(index));
            let pages = pages.get(..count).ok_or(ERANGE)?;

            let next = address + (mapped << PAGE_SHIFT);
            // SAFETY: By the type invariants, the pages are valid and have a reference, and they
            // are for user space.
            let inserted = unsafe { virt::insert_pages(vma, next, pages) };
            let inserted = inserted.or_else(|error| if mapped > 0 { Ok(0) } else { Err(error) })?;
            mapped += inserted;
            if inserted < count {
                break;
            }
        }
        self.trace(
            bindings::trace_p2pmem_map,
            bytes.start..bytes.start + (mapped << PAGE_SHIFT),
        );

        Ok(mapped)
    }

    /// Maps the large page at a fault, if the whole span around the faulting address is in the VMA
    /// and is one piece. `first` is the page of the allocation that is at the start of the VMA.
    /// Prepares the piece first.
    ///
    /// Returns whether it was mapped; if not, [`Allocation::map`] is the way. May sleep.
    ///
    /// # Errors
    ///
    /// Errors of preparing, `ENOMEM`.
    pub fn map_large(&self, fault: &Fault, first: usize) -> Result<bool> {
        let Some(start) = fault.large_page_start() else {
            return Ok(false);
        };
        let offset = (first << PAGE_SHIFT) + (start - fault.vma().start());
        if offset >= self.size() {
            return Err(ERANGE);
        }
        let index = self.pieces.at(offset);
        if !LARGE_PAGES || !self.pieces.is_whole(index) || self.pieces.range(index).start != offset
        {
            return Ok(false);
        }
        self.prepare_piece(index)?;

        let _inserting = self.lock.lock();
        // SAFETY: The piece is a folio of the order of large pages, with a reference, for user
        // space. With the lock no other thread inserts pages of it, and no others are in this VMA.
        match unsafe { virt::insert_folio(fault, self.page(offset >> PAGE_SHIFT)) } {
            Err(error) if error == EOPNOTSUPP => return Ok(false),
            result => result?,
        }
        self.trace(bindings::trace_p2pmem_map, self.pieces.range(index));

        Ok(true)
    }

    /// Gives back each piece whose only references are the owner's. Returns how many bytes of the
    /// others there are: 0 means that all of the memory is back in the pool. To be called again
    /// until then.
    ///
    /// May sleep for a lock of the pool, not for users of the memory.
    pub fn release(self: Pin<&mut Self>) -> usize {
        // SAFETY: The fields that are pinned are not moved.
        let this = unsafe { self.get_unchecked_mut() };
        let mut outstanding = 0;
        // A run of pieces that goes back in one go.
        let mut run = 0..0;
        for index in 0..this.pieces.count() {
            let is_owned = !this.released || this.prepared.has(index);
            if is_owned && this.reclaim(index) {
                if run.end != index {
                    this.give_back(run);
                    run = index..index;
                }
                run.end = index + 1;
            } else if is_owned {
                outstanding += this.pieces.range(index).len();
            }
        }
        this.give_back(run);
        // INVARIANT: What is not in `prepared` was given back.
        this.released = true;
        this.all_prepared.store(false, Release);

        outstanding
    }

    /// As [`Allocation::release`], the first time, of an owner that has to give the memory back.
    pub fn revoke(self: Pin<&mut Self>) -> usize {
        self.trace(bindings::trace_p2pmem_revoke, 0..self.size());
        self.release()
    }

    /// Returns how many bytes are in folios with references of users.
    pub fn referred_bytes(&self) -> usize {
        (0..self.pieces.count())
            .filter(|&index| self.prepared.has(index))
            .map(|index| {
                let range = self.pieces.range(index);
                let page = self.page(range.start >> PAGE_SHIFT);

                // SAFETY: By the type invariants, these are folios with references.
                let pages = unsafe {
                    bindings::zone_device_run_referred(page, (range.len() >> PAGE_SHIFT) as c_ulong)
                };
                (pages as usize) << PAGE_SHIFT
            })
            .sum()
    }

    /// Returns a page, counted from the start.
    fn page(&self, index: usize) -> *mut bindings::page {
        // The pages of one pagemap are an array: ZONE_DEVICE needs SPARSEMEM_VMEMMAP.
        self.first.as_ptr().wrapping_add(index)
    }

    /// Makes sure that a piece is prepared.
    fn prepare_piece(&self, index: usize) -> Result {
        if self.prepared.has(index) {
            return Ok(());
        }
        let _preparing = self.lock.lock();
        // Another thread was faster.
        if self.prepared.has(index) {
            return Ok(());
        }
        if self.released {
            return Err(ENODEV);
        }

        let range = self.pieces.range(index);
        let (first, count) = (range.start >> PAGE_SHIFT, range.len() >> PAGE_SHIFT);
        if self.clear {
            // Each piece takes some time, and others may wait for the lock.
            if task::is_killed() {
                return Err(EINTR);
            }
            self.clear(first, count)?;
        }
        // SAFETY: By the type invariants, the pages of this piece have no references, and one to
        // their pagemap is owned.
        unsafe { bindings::zone_device_run_assemble(self.page(first), count as c_ulong) };
        // INVARIANT: The pages have the references that were just made.
        self.prepared.add(index);

        Ok(())
    }

    /// Writes zeroes to pages, through a mapping that combines writes, and reads the end back: by
    /// then they have arrived in the device, since a read does not overtake writes.
    fn clear(&self, first: usize, count: usize) -> Result {
        let mut pages = KVVec::with_capacity(count, GFP_KERNEL)?;
        for index in first..first + count {
            pages.push(self.page(index), GFP_KERNEL)?;
        }

        // SAFETY: The C side only reads the array. The pages are valid, and device memory that
        // the kernel may map with any type but cached.
        let address = unsafe {
            bindings::vmap(
                pages.as_mut_ptr(),
                count.try_into()?,
                bindings::VM_MAP as c_ulong,
                bindings::pgprot_writecombine(bindings::PAGE_KERNEL()),
            )
        };
        let address = NonNull::new(address).ok_or(ENOMEM)?;
        let length = count << PAGE_SHIFT;

        // SAFETY: The mapping is that long, and the memory is not in use yet. It is removed after
        // the writes have left the processor.
        let last = unsafe {
            bindings::memset_io(address.as_ptr(), 0, length);
            bindings::wmb();
            let last = bindings::ioread32(address.as_ptr().byte_add(length - size_of::<u32>()));
            bindings::vunmap(address.as_ptr());
            last
        };

        // All ones are what a device that is gone returns.
        if last == 0 {
            Ok(())
        } else {
            Err(EIO)
        }
    }

    /// Takes the references to a piece away if they are the only ones. It is not prepared any more
    /// then.
    fn reclaim(&mut self, index: usize) -> bool {
        if !self.prepared.has(index) {
            return true;
        }
        let range = self.pieces.range(index);
        let page = self.page(range.start >> PAGE_SHIFT);
        let count = (range.len() >> PAGE_SHIFT) as c_ulong;

        // SAFETY: By the type invariants, a reference to each folio of the piece is owned. If they
        // are the only ones, freezing takes them away, and there can be no others.
        let frozen = unsafe { bindings::zone_device_run_freeze(page, count) };
        if frozen {
            // SAFETY: The folios were just frozen.
            unsafe { bindings::zone_device_run_dissolve(page, count) };
            self.prepared.remove(index);
        }

        frozen
    }

    /// Gives a run of pieces back to the pool, which are owned and not prepared.
    fn give_back(&self, run: Range<usize>) {
        let count = run.len();
        if count == 0 {
            return;
        }
        let range = self.pieces.range(run.start).start..self.pieces.range(run.end - 1).end;
        self.trace(bindings::trace_p2pmem_free, range.clone());

        // SAFETY: For each piece a reference to the pagemap is owned: all but one are put here, the
        // pool's function puts the last. The memory is part of what was allocated, and has no
        // references.
        unsafe {
            let page = self.page(range.start >> PAGE_SHIFT);
            if count > 1 {
                bindings::percpu_ref_put_many(pagemap_ref(page), count - 1);
            }
            bindings::pci_free_p2pmem(
                as_raw(&self.pdev),
                bindings::page_to_virt(page),
                range.len(),
            );
        }
    }

    /// Emits a trace event about a part of the memory, in bytes.
    fn trace(&self, event: Event, part: Range<usize>) {
        let address = self.physical_address() + part.start as u64;

        trace(&self.pdev, event, address, part.len());
    }
}

#[pinned_drop]
impl PinnedDrop for Allocation {
    fn drop(mut self: Pin<&mut Self>) {
        if self.released && self.prepared.is_empty() {
            return;
        }
        // A piece with references of users is lost, with its reference to the pagemap: the device
        // cannot be unbound any more then. Owners call `release()` until nothing is outstanding.
        let outstanding = self.as_mut().release();
        if outstanding != 0 {
            dev_err!(
                self.device(),
                "{outstanding} bytes were dropped while in use: they are lost\n"
            );
        }
    }
}

type Event = unsafe extern "C" fn(*mut bindings::pci_dev, u64, u64);

/// Emits a trace event about memory.
fn trace(pdev: &pci::Device, event: Event, address: u64, size: usize) {
    // SAFETY: The device is valid, the rest are numbers.
    unsafe { event(as_raw(pdev), address, size as u64) };
}
