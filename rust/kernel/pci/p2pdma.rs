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
    str::CString,
    sync::{
        aref::ARef,
        new_mutex,
        Mutex, //
    }, //
};

use crate::{
    bindings,
    p2pmem::{
        P2pSgTable,
        PoolMemory, //
    },
    pci::{
        as_raw,
        bus,
        from_raw,
        tree, //
    },
};

use core::{
    ops::RangeInclusive,
    ptr::{
        self,
        NonNull, //
    },
};

/// Returns the alignment, in bytes and a power of two, that start, offset and size of a registered
/// range need.
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

/// From how many times its alignment on a run is worth being taken twice.
const MANY: usize = 2;

/// Shows that the device of a [`Pool`] is bound and has peer-to-peer memory.
struct Registered;

/// The pool of a device's registered peer-to-peer memory.
///
/// It may outlive the binding of the device to its driver. Memory comes out of it only until
/// then.
pub struct Pool {
    pdev: ARef<pci::Device>,
    registered: Devres<Registered>,
    /// Held while memory is taken in order to give a part of it back.
    adjusting: Pin<KBox<Mutex<()>>>,
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
/// `EINVAL` for a range that is empty, not aligned, not [`mappable`], or not in a memory BAR;
/// `ENOMEM` also for memory that is registered already; `EOPNOTSUPP` if the BARs of this device
/// cannot be mapped.
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

    Pool::new(pdev)
}

/// Says whether others may find the memory of a device (`pci_p2pmem_publish()`).
pub fn publish(pdev: &pci::Device<Core<'_>>, publish: bool) {
    // SAFETY: The device is valid and bound. Without registered memory the call does nothing.
    unsafe { bindings::pci_p2pmem_publish(as_raw(pdev), publish) };
}

/// How far requests of devices travel to the memory of another one: the sum of their hops between
/// ports (`pci_p2pdma_distance_many()`).
///
/// [`None`] if there is a device that the kernel does not let do DMA to that memory, or no device.
/// The kernel may write to the log which host bridge it does not know. May sleep.
pub fn distance(provider: &pci::Device, clients: &[&pci::Device]) -> Result<Option<u32>> {
    let mut clients = raw_clients(clients)?;
    let count = clients.len().try_into()?;

    // SAFETY: A valid device, and a list of valid devices.
    let hops = unsafe {
        bindings::pci_p2pdma_distance_many(as_raw(provider), clients.as_mut_ptr(), count, false)
    };

    Ok(u32::try_from(hops).ok())
}

/// Returns a device with published memory that all of these can reach, and whose distance is the
/// least (`pci_p2pmem_find_many()`), or [`None`].
///
/// Nothing keeps that device bound. May sleep.
///
/// # Errors
///
/// `ENOMEM`.
pub fn find(clients: &[&pci::Device]) -> Result<Option<ARef<pci::Device>>> {
    let mut clients = raw_clients(clients)?;
    let count = clients.len().try_into()?;

    // SAFETY: A list of valid devices.
    let found = unsafe { bindings::pci_p2pmem_find_many(clients.as_mut_ptr(), count) };

    // SAFETY: Null, or a device to which a reference is owned.
    Ok(unsafe { from_raw(found) })
}

/// Returns a list of devices as the C side takes them.
fn raw_clients(clients: &[&pci::Device]) -> Result<KVec<*mut bindings::device>> {
    let mut raw = KVec::with_capacity(clients.len(), GFP_KERNEL)?;
    for client in clients {
        // SAFETY: The device is valid.
        raw.push(unsafe { &raw mut (*as_raw(client)).dev }, GFP_KERNEL)?;
    }

    Ok(raw)
}

/// Whether a driver that moves data is to do so through peer-to-peer memory, and through whose:
/// what administrators write to an attribute of it.
pub enum P2pmemEnable {
    /// `0`: it is not.
    Off,
    /// `1`: it is, through any that it finds.
    Any,
    /// The address of a device.
    Of(ARef<pci::Device>),
}

impl P2pmemEnable {
    /// Reads what was written (`pci_p2pdma_enable_store()`). May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV` for a device that does not exist or has not published memory, and for what is
    /// neither a device nor a truth value.
    pub fn parse(text: &CStr) -> Result<Self> {
        let mut pdev = ptr::null_mut();
        let mut wanted = false;

        // SAFETY: The text ends with a zero, and both places are valid for writing.
        to_result(unsafe {
            bindings::pci_p2pdma_enable_store(text.as_char_ptr(), &mut pdev, &mut wanted)
        })?;

        // SAFETY: Null, or a device to which a reference is owned.
        Ok(match unsafe { from_raw(pdev) } {
            Some(pdev) => Self::Of(pdev),
            None if wanted => Self::Any,
            None => Self::Off,
        })
    }

    /// Returns what is to be read (`pci_p2pdma_enable_show()`): one line. `ENOMEM`.
    pub fn show(&self) -> Result<CString> {
        let (pdev, wanted) = match self {
            Self::Off => (ptr::null_mut(), false),
            Self::Any => (ptr::null_mut(), true),
            Self::Of(pdev) => (as_raw(pdev), true),
        };
        // A page and one byte, so that there is a zero behind all that is written.
        let mut page = KVec::from_elem(0_u8, PAGE_SIZE + 1, GFP_KERNEL)?;

        // SAFETY: The buffer is a page long, and the device null or valid.
        unsafe { bindings::pci_p2pdma_enable_show(page.as_mut_ptr().cast(), pdev, wanted) };

        let text = CStr::from_bytes_until_nul(&page).map_err(|_| EINVAL)?;
        Ok(CString::try_from(text)?)
    }
}

impl Pool {
    /// Returns the pool of a device whose driver registered and published memory, or [`None`].
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn of(pdev: &pci::Device<Bound>) -> Result<Option<Self>> {
        // The device itself is the provider that is nearest to it, if it is one. There is no other
        // way to ask, and trying to allocate is none: with p2pdma but without a pool that crashes.
        match find(&[pdev])? {
            Some(found) if tree::is_same(&found, pdev) => (),
            _ => return Ok(None),
        }

        Ok(Some(Self::new(pdev)?))
    }

    /// For a device with registered memory.
    fn new(pdev: &pci::Device<Bound>) -> Result<Self> {
        Ok(Self {
            pdev: pdev.into(),
            // Added to the resources of the device after its memory, so revoked before that is
            // gone.
            registered: Devres::new(pdev.as_ref(), Ok::<_, Error>(Registered))?,
            adjusting: KBox::pin_init(new_mutex!(()), GFP_KERNEL)?,
        })
    }

    /// Takes memory from the pool as a list that devices can map, `size` bytes in one run. May
    /// sleep.
    ///
    /// The bytes are what the last owner left. Takes the device lock of the provider.
    ///
    /// # Errors
    ///
    /// As [`Pool::alloc`]; `ENOSPC` also without memory for the list, which the C side does not
    /// tell apart.
    pub fn alloc_list(&self, size: u32) -> Result<P2pSgTable> {
        if size == 0 || size as usize % PAGE_SIZE != 0 {
            return Err(EINVAL);
        }

        // With the guard nothing may sleep. The device lock keeps the device bound as well.
        bus::with_bound(&self.pdev, |pdev| {
            // It may be bound once more, and what was registered be gone.
            self.registered.try_access().ok_or(ENODEV)?;
            let mut count = 0;

            // SAFETY: The device is valid, and has a pool.
            let list = unsafe { bindings::pci_p2pmem_alloc_sgl(as_raw(pdev), &mut count, size) };
            let list = NonNull::new(list).ok_or(ENOSPC)?;

            // SAFETY: The list was just allocated with so many entries, and is owned.
            Ok(unsafe { P2pSgTable::from_raw(self.pdev.clone(), list, count) })
        })
        .ok_or(ENODEV)?
    }

    /// Takes memory from the pool, `size` bytes in one run. Its first byte has a CPU address that
    /// is a multiple of `alignment`, a power of two, if a run of that alignment is free; otherwise
    /// it is any run. May sleep.
    ///
    /// The bytes are what the last owner left.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `size` is 0 or not a multiple of the page size, or `alignment` not a power of
    /// two; `ENOSPC` if there is no free run of that length, `ENODEV` once the device was unbound.
    pub fn alloc(&self, size: usize, alignment: usize) -> Result<PoolMemory> {
        if size == 0 || size % PAGE_SIZE != 0 || !alignment.is_power_of_two() {
            return Err(EINVAL);
        }
        let alignment = alignment.max(PAGE_SIZE);
        let mask = alignment as u64 - 1;
        let fits = |memory: &PoolMemory| memory.physical_address() & mask == 0;

        // The C side takes the first run that is long enough.
        let mut found = self.alloc_first(size)?;
        if let Some(memory) = found.take_if(|memory| fits(memory)) {
            return Ok(memory);
        }

        // One thread at a time takes more than it needs. If that was why there was nothing, there
        // is something now.
        let _adjusting = self.adjusting.lock();
        let found = match found {
            Some(memory) => memory,
            None => self.alloc_first(size)?.ok_or(ENOSPC)?,
        };
        if fits(&found) {
            return Ok(found);
        }

        let more = size.saturating_add(alignment - PAGE_SIZE);
        let aligned = |memory: PoolMemory| {
            let head = (memory.physical_address().wrapping_neg() & mask) as usize;
            memory.trim(head..head + size)
        };
        if let Some(memory) = self.alloc_first(more)? {
            return Ok(aligned(memory));
        }
        // The pool may be too full for both. Of small runs it is not worth being given back for:
        // another user of the pool could be faster.
        if size < alignment.saturating_mul(MANY) {
            return Ok(found);
        }
        drop(found);
        match self.alloc_first(more)? {
            Some(memory) => Ok(aligned(memory)),
            None => self.alloc_first(size)?.ok_or(ENOSPC),
        }
    }

    /// Takes the first free run of `size` bytes, whole pages, from the pool, if there is one. Does
    /// not sleep.
    fn alloc_first(&self, size: usize) -> Result<Option<PoolMemory>> {
        // The guard keeps the device bound, so that it has a pool.
        let _registered = self.registered.try_access().ok_or(ENODEV)?;

        // SAFETY: The device is valid, and has a pool.
        let address = unsafe { bindings::pci_alloc_p2pmem(as_raw(&self.pdev), size) };

        Ok(NonNull::new(address).map(|address| {
            // SAFETY: The memory was just allocated with this size, and is owned.
            unsafe { PoolMemory::from_raw(self.pdev.clone(), address, size) }
        }))
    }
}
