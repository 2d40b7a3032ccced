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

/// Whether device memory can be mapped in large pages: the kernel has transparent huge pages, and
/// DAX, with whose areas they are split and copied soundly. PREEMPT_RT kernels have no huge pages.
pub const LARGE_PAGES: bool = cfg!(all(CONFIG_TRANSPARENT_HUGEPAGE, CONFIG_FS_DAX));

/// The order of a large page: what one page table spans.
pub const LARGE_PAGE_ORDER: u32 = bindings::PMD_SHIFT - PAGE_SHIFT as u32;

/// The size of a large page, in bytes.
pub const LARGE_PAGE_SIZE: usize = 1 << bindings::PMD_SHIFT;

/// Result of a fault handler.
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

    /// Returns where the large page around the address starts, if all of it is in the VMA.
    pub fn large_page_start(&self) -> Option<usize> {
        let (vma, start) = (self.vma(), self.address() & !(LARGE_PAGE_SIZE - 1));

        (start >= vma.start() && start.checked_add(LARGE_PAGE_SIZE)? <= vma.end()).then_some(start)
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

    /// Makes the large page around the faulting address present, or less than that. Called where
    /// there was no page table just now, or where a large page is mapped that was not to be written
    /// to. May sleep.
    fn large_fault(this: ArcBorrow<'_, Self>, fault: &Fault) -> Outcome;
}

pub(crate) struct Table<T>(PhantomData<T>);

impl<T: Operations> Table<T> {
    pub(crate) const OPERATIONS: bindings::vm_operations_struct = bindings::vm_operations_struct {
        open: Some(Self::open),
        close: Some(Self::close),
        fault: Some(Self::fault),
        huge_fault: Some(Self::huge_fault),
        map_pages: Some(map_no_pages),
        ..pin_init::zeroed()
    };

    const fn get() -> &'static bindings::vm_operations_struct {
        &Self::OPERATIONS
    }

    /// # Safety
    ///
    /// `vma` must be valid, and its private data be set by [`set_operations`] with the same `T`.
    unsafe extern "C" fn open(vma: *mut bindings::vm_area_struct) {
        // SAFETY: By the safety requirements, and the VMA that this one is a copy of keeps the
        // value alive.
        if let Some(data) = unsafe { Self::data(vma) } {
            // The new VMA owns this reference; `close()` takes it back.
            let _ = Arc::from(data).into_foreign();
        }
    }

    /// Returns the data of a VMA. One that got none, because making it failed, may be left over
    /// where removing it failed as well.
    ///
    /// # Safety
    ///
    /// `vma` must be valid and locked during `'a`, and its private data be null or come from
    /// `into_foreign()`.
    unsafe fn data<'a>(vma: *mut bindings::vm_area_struct) -> Option<ArcBorrow<'a, T>> {
        // SAFETY: By the safety requirements.
        let data = unsafe { (*vma).vm_private_data };

        // SAFETY: By the safety requirements, and the VMA owns a reference.
        (!data.is_null()).then(|| unsafe { Arc::<T>::borrow(data) })
    }

    /// # Safety
    ///
    /// As for [`Self::open`]; the VMA must not be used any more.
    unsafe extern "C" fn close(vma: *mut bindings::vm_area_struct) {
        // SAFETY: By the safety requirements, the VMA is valid.
        let data = unsafe { (*vma).vm_private_data };

        if !data.is_null() {
            // SAFETY: By the safety requirements, it comes from `into_foreign()`, and this VMA owns
            // that reference.
            drop(unsafe { Arc::<T>::from_foreign(data) });
        }
    }

    /// # Safety
    ///
    /// `vmf` must be valid and under way, in a VMA as for [`Self::open`].
    unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: `vmf` is valid and the VMA is locked. `Fault` is a transparent wrapper.
        let fault = unsafe { &*vmf.cast::<Fault>() };
        // SAFETY: By the safety requirements.
        let data = unsafe { Self::data(fault.vma().as_ptr()) };

        data.map_or(Outcome::SigBus, |data| T::fault(data, fault))
            .as_raw()
    }

    /// # Safety
    ///
    /// As for [`Self::fault`].
    unsafe extern "C" fn huge_fault(
        vmf: *mut bindings::vm_fault,
        order: c_uint,
    ) -> bindings::vm_fault_t {
        if order != LARGE_PAGE_ORDER {
            return bindings::vm_fault_reason_VM_FAULT_FALLBACK;
        }
        // SAFETY: `vmf` is valid and the VMA is locked. `Fault` is a transparent wrapper.
        let fault = unsafe { &*vmf.cast::<Fault>() };
        // SAFETY: As for `fault()`.
        let data = unsafe { Self::data(fault.vma().as_ptr()) };

        data.map_or(Outcome::SigBus, |data| T::large_fault(data, fault))
            .as_raw()
    }
}

/// Maps nothing around a fault. The existence of this function lets the kernel call
/// [`Operations::fault`] with the lock of the VMA only: without one it takes that of all of the
/// process's memory, and starts afresh.
///
/// # Safety
///
/// Has no requirements.
unsafe extern "C" fn map_no_pages(
    _vmf: *mut bindings::vm_fault,
    _start: usize,
    _end: usize,
) -> bindings::vm_fault_t {
    0
}

/// Properties of an area that is about to be made (`struct vm_area_desc`).
///
/// # Invariants
///
/// The description is valid, and no other thread uses it.
#[repr(transparent)]
pub struct AreaDescription(Opaque<bindings::vm_area_desc>);

impl AreaDescription {
    /// # Safety
    ///
    /// `description` must be one that is being filled in during `'a`.
    pub(crate) unsafe fn from_raw<'a>(description: *mut bindings::vm_area_desc) -> &'a Self {
        // SAFETY: By the safety requirements. The type is a transparent wrapper.
        unsafe { &*description.cast() }
    }

    /// Returns whether it is made with `MAP_SHARED`, as [`is_shared`].
    pub fn is_shared(&self) -> bool {
        // SAFETY: By the type invariants.
        unsafe { *self.flags() & flags::MAYSHARE as c_ulong != 0 }
    }

    /// Returns where in the file it starts, in pages.
    pub fn page_offset(&self) -> usize {
        // SAFETY: By the type invariants.
        unsafe { (*self.0.get()).pgoff }
    }

    /// Makes it an area of device memory, whose pages are inserted one by one or in large pages: it
    /// cannot grow, is left out of core dumps, and its pages are not looked at for how often they
    /// are used.
    pub fn set_device_memory(&self, caching: Caching) {
        let description = self.0.get();

        // SAFETY: By the type invariants.
        unsafe {
            *self.flags() |= DEVICE_MEMORY as c_ulong;
            (*description).page_prot = caching.apply((*description).page_prot);
        }
    }

    fn flags(&self) -> *mut c_ulong {
        // SAFETY: By the type invariants.
        unsafe { (&raw mut (*self.0.get()).vma_flags.__vma_flags).cast() }
    }
}

/// Flags of an area of device memory. Which pages were used lately is not recorded, as with
/// `MADV_RANDOM`: for memory that is never reclaimed it is not worth being remembered.
const DEVICE_MEMORY: bindings::vm_flags_t =
    flags::MIXEDMAP | flags::DONTEXPAND | flags::DONTDUMP | bindings::VM_RAND_READ;

/// As [`AreaDescription::set_device_memory`], for a VMA that is being set up.
pub fn set_device_memory(vma: &VmaNew, caching: Caching) {
    let vma = vma.as_ptr();

    // SAFETY: The VMA is being set up, so that no other thread uses it.
    unsafe {
        (*vma).__bindgen_anon_2.vm_flags |= DEVICE_MEMORY;
        (*vma).vm_page_prot = caching.apply((*vma).vm_page_prot);
    }
}

/// Gives operations to a VMA that is being set up. The VMA owns `data` from now on.
///
/// The rest of the `mmap` handler must not fail: the kernel closes only areas whose handler
/// succeeded. Call it last.
pub fn set_operations<T: Operations>(vma: &VmaNew, data: Arc<T>) {
    let vma = vma.as_ptr();

    // SAFETY: The VMA is being set up, and not shared yet.
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

impl Caching {
    fn apply(self, prot: bindings::pgprot_t) -> bindings::pgprot_t {
        // SAFETY: Arithmetic only.
        unsafe {
            match self {
                Self::Uncached => bindings::pgprot_noncached(prot),
                Self::WriteCombining => bindings::pgprot_writecombine(prot),
            }
        }
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

/// Maps a folio of the order of large pages at a fault (`vmf_insert_folio_pmd()`), if its span is
/// not mapped. The folio has one reference more then. If a large page is mapped there that is not
/// to be written to, and the fault is for writing, it can be written to afterwards. If there is a
/// page table nothing is done: the next fault is one of a single page.
///
/// # Errors
///
/// `ENOMEM` without memory for page tables, `EFAULT` if the address is not within the VMA,
/// `EOPNOTSUPP` without [`LARGE_PAGES`], or if the VMA is not one of a DAX inode: it could not be
/// split.
///
/// # Safety
///
/// `head` must point to the first page of a large folio, with a reference count that is not 0
/// during the call, which may be accessed by the owner of the VMA. The whole span must be in the
/// VMA ([`Fault::large_page_start`]). No other thread inserts pages in this span of the VMA during
/// the call.
#[cfg(all(CONFIG_TRANSPARENT_HUGEPAGE, CONFIG_FS_DAX))]
pub(crate) unsafe fn insert_folio(fault: &Fault, head: *mut bindings::page) -> Result {
    let vmf = fault.0.get();

    // SAFETY: By the type invariants of `Fault`.
    if !unsafe { bindings::vma_is_dax(fault.vma().as_ptr()) } {
        return Err(EOPNOTSUPP);
    }
    // SAFETY: By the safety requirements, and the type invariants of `Fault`. The first page of a
    // folio is its start.
    match unsafe { bindings::vmf_insert_large_folio(vmf, head.cast()) } {
        bindings::vm_fault_reason_VM_FAULT_NOPAGE => Ok(()),
        bindings::vm_fault_reason_VM_FAULT_OOM => Err(ENOMEM),
        _ => Err(EFAULT),
    }
}

/// As above, where the kernel has no large pages.
///
/// # Safety
///
/// None.
#[cfg(not(all(CONFIG_TRANSPARENT_HUGEPAGE, CONFIG_FS_DAX)))]
pub(crate) unsafe fn insert_folio(_fault: &Fault, _head: *mut bindings::page) -> Result {
    Err(EOPNOTSUPP)
}

/// Returns whether a large page is mapped at an address of a VMA.
pub(crate) fn has_large_page(vma: &VmaRef, address: usize) -> bool {
    // SAFETY: The VMA is locked, so that its page tables stay.
    LARGE_PAGES && unsafe { bindings::vma_has_large_page(vma.as_ptr(), address) }
}

/// Returns the run of pages of a VMA that one page table (one PMD entry) spans around `address`:
/// the address of the first one, and their number.
pub fn page_table_window(vma: &VmaRef, address: usize) -> (usize, usize) {
    let floor = address & !(LARGE_PAGE_SIZE - 1);
    let start = floor.max(vma.start());
    let end = floor.saturating_add(LARGE_PAGE_SIZE).min(vma.end());

    (start, (end - start) >> PAGE_SHIFT)
}
