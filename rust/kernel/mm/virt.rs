// SPDX-License-Identifier: GPL-2.0

//! Virtual memory areas whose pages are provided on fault.
//!
//! [`kernel::mm::virt`] can set up a VMA; here is what a driver needs to populate one later:
//! [`Operations`] with a fault handler, their reference-counted private data, and the insertion
//! of many pages at once.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use kernel::{
    error::to_result,
    mm::virt::{
        flags,
        VmaMixedMap,
        VmaNew,
        VmaRef, //
    },
    page::PAGE_SHIFT,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    },
    types::{
        ForeignOwnable,
        Opaque, //
    }, //
};

use crate::bindings;

use core::marker::PhantomData;

/// What a fault handler tells the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The page table has an entry now (`VM_FAULT_NOPAGE`).
    Mapped,
    /// There is nothing at that address (`VM_FAULT_SIGBUS`).
    SigBus,
    /// No memory for page tables (`VM_FAULT_OOM`).
    OutOfMemory,
}

impl Outcome {
    fn as_raw(self) -> bindings::vm_fault_t {
        match self {
            Self::Mapped => bindings::vm_fault_reason_VM_FAULT_NOPAGE,
            Self::SigBus => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
            Self::OutOfMemory => bindings::vm_fault_reason_VM_FAULT_OOM,
        }
    }
}

/// A page fault under way (`struct vm_fault`).
///
/// # Invariants
///
/// The fault is being handled, and the mmap read lock or the VMA read lock is held.
#[repr(transparent)]
pub struct Fault(Opaque<bindings::vm_fault>);

impl Fault {
    /// Returns the area that was touched.
    pub fn vma(&self) -> &VmaRef {
        // SAFETY: By the type invariants, the fault is valid, and its VMA is locked.
        unsafe { VmaRef::from_raw((*self.0.get()).__bindgen_anon_1.vma) }
    }

    /// Returns the address that was touched, rounded down to its page.
    pub fn address(&self) -> usize {
        // SAFETY: By the type invariants, the fault is valid.
        unsafe { (*self.0.get()).__bindgen_anon_1.address }
    }
}

/// Operations of a VMA (`struct vm_operations_struct`).
///
/// The implementing type is the private data of the VMA. Each VMA that comes into being by fork,
/// by splitting or by moving holds a reference; the last one to go drops the value, with the
/// mmap lock held.
pub trait Operations: Send + Sync + 'static {
    /// Makes the page at the faulting address present. May sleep.
    fn fault(this: ArcBorrow<'_, Self>, fault: &Fault) -> Outcome;
}

struct Table<T>(PhantomData<T>);

impl<T: Operations> Table<T> {
    const OPERATIONS: bindings::vm_operations_struct = bindings::vm_operations_struct {
        open: Some(Self::open),
        close: Some(Self::close),
        fault: Some(Self::fault),
        huge_fault: Some(Self::huge_fault),
        ..pin_init::zeroed()
    };

    const fn get() -> &'static bindings::vm_operations_struct {
        &Self::OPERATIONS
    }

    /// # Safety
    ///
    /// `vma` must be valid, and its private data be set by [`set_operations`] with the same `T`.
    unsafe extern "C" fn open(vma: *mut bindings::vm_area_struct) {
        // SAFETY: By the safety requirements, `vm_private_data` comes from `into_foreign()`, and
        // the VMA that this one is a copy of keeps the value alive.
        let data = unsafe { Arc::<T>::borrow((*vma).vm_private_data) };

        // The new VMA owns this reference; `close()` takes it back.
        let _ = Arc::from(data).into_foreign();
    }

    /// # Safety
    ///
    /// As for [`Self::open`]; the VMA must not be used any more.
    unsafe extern "C" fn close(vma: *mut bindings::vm_area_struct) {
        // SAFETY: By the safety requirements, `vm_private_data` comes from `into_foreign()`, and
        // this VMA owns that reference.
        drop(unsafe { Arc::<T>::from_foreign((*vma).vm_private_data) });
    }

    /// # Safety
    ///
    /// `vmf` must be valid and under way, in a VMA as for [`Self::open`].
    unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: `vmf` is valid and the VMA is locked. `Fault` is a transparent wrapper.
        let fault = unsafe { &*vmf.cast::<Fault>() };
        // SAFETY: By the safety requirements, `vm_private_data` comes from `into_foreign()`, and
        // the VMA, which is locked, keeps the value alive.
        let data = unsafe { Arc::<T>::borrow((*fault.vma().as_ptr()).vm_private_data) };

        T::fault(data, fault).as_raw()
    }

    /// Called where there is no page table yet, if transparent huge pages are on (`always`, or `madvise`
    /// and asked for). What is inserted brings its own; before [`Self::fault`] the kernel makes one that
    /// would not be used.
    ///
    /// # Safety
    ///
    /// As for [`Self::fault`].
    unsafe extern "C" fn huge_fault(
        vmf: *mut bindings::vm_fault,
        order: c_uint,
    ) -> bindings::vm_fault_t {
        const PAGE_TABLE: usize = bindings::PMD_SHIFT as usize - PAGE_SHIFT;

        if order as usize != PAGE_TABLE {
            return bindings::vm_fault_reason_VM_FAULT_FALLBACK;
        }
        // SAFETY: By the safety requirements.
        unsafe { Self::fault(vmf) }
    }
}

/// Says that nobody wants to know which pages of a VMA that is being set up were used lately, as `MADV_RANDOM`
/// does: for memory that is never reclaimed it is not worth being remembered.
pub fn set_random_access(vma: &VmaNew) {
    // SAFETY: The VMA is being set up, so that nobody else uses it. Processes may set the flag as well.
    unsafe { (*vma.as_ptr()).__bindgen_anon_2.vm_flags |= bindings::VM_RAND_READ };
}

/// Gives operations to a VMA that is being set up. The VMA owns `data` from now on.
///
/// The rest of the `mmap` handler must not fail: the kernel closes only areas whose handler
/// succeeded. Call it last.
pub fn set_operations<T: Operations>(vma: &VmaNew, data: Arc<T>) {
    let vma = vma.as_ptr();

    // SAFETY: The VMA is being set up, nobody else uses it yet.
    unsafe {
        (*vma).vm_private_data = data.into_foreign();
        (*vma).vm_ops = Table::<T>::get();
    }
}

/// Returns where in the file a VMA starts, in pages.
pub fn page_offset(vma: &VmaRef) -> usize {
    // SAFETY: The VMA is locked, so its offset does not change.
    unsafe { (*vma.as_ptr()).vm_pgoff }
}

/// Returns whether a VMA was made with `MAP_SHARED`.
///
/// `VM_MAYSHARE` is what tells: a shared mapping of a file that was opened for reading only does
/// not have `VM_SHARED`.
pub fn is_shared(vma: &VmaRef) -> bool {
    vma.flags() & flags::MAYSHARE != 0
}

/// How the CPU accesses device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Each access for itself, in order (`pgprot_noncached()`).
    Uncached,
    /// Writes may be combined and be late, until something orders them (`pgprot_writecombine()`).
    WriteCombining,
}

/// Says how the CPU accesses a VMA that is being set up.
pub fn set_caching(vma: &VmaNew, caching: Caching) {
    let vma = vma.as_ptr();

    // SAFETY: The VMA is being set up, nobody else uses it yet.
    unsafe {
        let prot = (*vma).vm_page_prot;
        (*vma).vm_page_prot = match caching {
            Caching::Uncached => bindings::pgprot_noncached(prot),
            Caching::WriteCombining => bindings::pgprot_writecombine(prot),
        };
    }
}

/// Maps `pages` one after the other, starting at `address` (`vm_insert_pages()`).
///
/// Stops at the first entry of the page table that is in use. Returns how many pages were mapped
/// if there was at least one. Each mapped page has one reference more than before. May sleep.
///
/// # Errors
///
/// If no page was mapped: `EBUSY` if the entry at `address` is in use, `EFAULT` if the range is
/// not within the VMA, `ENOMEM` without memory for page tables, `EINVAL` if a page cannot be
/// mapped.
///
/// # Safety
///
/// Each of `pages` must point to a valid page with a reference count that is not 0 during the
/// call, and be allowed to be accessed by the owner of the VMA.
pub(crate) unsafe fn insert_pages(
    vma: &VmaMixedMap,
    address: usize,
    pages: &[*mut bindings::page],
) -> Result<usize> {
    let mut remaining = pages.len();

    // SAFETY: The VMA is locked and has `VM_MIXEDMAP` by its type, so that its flags are not
    // written. The pages are valid by the safety requirements; the C side only reads the array.
    let result = to_result(unsafe {
        bindings::vm_insert_pages(
            vma.as_ptr(),
            address,
            pages.as_ptr().cast_mut(),
            &mut remaining,
        )
    });

    match (pages.len() - remaining, result) {
        (0, Err(error)) => Err(error),
        (inserted, _) => Ok(inserted),
    }
}

/// Returns the run of pages of a VMA that one page table (one PMD entry) spans around `address`:
/// the address of the first one, and their number.
pub fn page_table_window(vma: &VmaRef, address: usize) -> (usize, usize) {
    const SPAN: usize = 1 << bindings::PMD_SHIFT;

    let floor = address & !(SPAN - 1);
    let start = floor.max(vma.start());
    let end = floor.saturating_add(SPAN).min(vma.end());

    (start, (end - start) >> PAGE_SHIFT)
}
