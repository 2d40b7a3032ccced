// SPDX-License-Identifier: GPL-2.0

//! Shared buffers of peer-to-peer memory.
//!
//! A dma-buf is memory with a file descriptor: it can be mapped, passed to other processes, and
//! given to other devices, which import it. Here is the exporter's side, for memory of a PCI device
//! that may go away: importers are asked to unmap it ([`Exported::revoke`]).
//!
//! Importers must be able to access memory of other devices at all, and to unmap it on revocation.
//! Importers that cannot unmap are refused, unless the exporter allows them.
//!
//! C headers: [`include/linux/dma-buf.h`](srctree/include/linux/dma-buf.h),
//! [`include/linux/dma-buf-mapping.h`](srctree/include/linux/dma-buf-mapping.h)

use kernel::{
    device::Device,
    error::{
        from_err_ptr,
        from_result, //
    },
    fs::File,
    mm::virt::VmaNew,
    module::this_module,
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

use crate::{
    bindings,
    fs::AnonInode,
    gate::UseGuard,
    p2pmem::Allocation,
    pci::as_raw, //
};

use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    ptr::{
        self,
        NonNull, //
    }, //
};

/// The memory of a dma-buf: an [`Allocation`] that may be taken back.
#[vtable]
pub trait Memory: Send + Sync + 'static {
    /// Name of the exporter, in lists of all dma-bufs.
    const NAME: &'static CStr;

    /// Returns what dma-bufs of this kind are known by: a static.
    fn kind() -> &'static Kind<Self>
    where
        Self: Sized;

    /// Holds the memory, while other devices access it. [`None`] if it is gone. Must not sleep.
    fn hold(&self) -> Option<UseGuard<Allocation>>;

    /// Sets up a VMA that shows the memory. Its offset and length lie within the buffer. May sleep.
    fn mmap(&self, vma: &VmaNew) -> Result;

    /// The last user is gone. May sleep.
    fn released(&self);
}

/// Access to a dma-buf: the mode of its file, and which importers it admits.
#[derive(Clone, Copy)]
pub struct Access {
    /// The access mode of the file (`O_RDONLY`, `O_RDWR`).
    pub mode: u32,
    /// Whether devices may import it that cannot unmap on revocation. The memory cannot be taken
    /// back before they have unmapped it.
    pub irrevocable: bool,
}

/// State that the lock of the reservation object guards.
struct State {
    /// Null before there is one, and when it is being released.
    dmabuf: *mut bindings::dma_buf,
    /// Mappings of importers, each known by its scatter-gather table.
    mappings: KVec<(*mut bindings::sg_table, UseGuard<Allocation>)>,
}

/// Memory that is exported, as its exporter has it. That may outlive the dma-buf, and the dma-buf
/// may outlive the memory.
///
/// # Invariants
///
/// - `resv` is initialised. `state` is accessed with its lock held only.
/// - `state.dmabuf` is null or valid.
/// - `state.mappings` has an entry for each table of an importer. What it holds is the memory in
///   that table.
#[pin_data(PinnedDrop)]
pub struct Exported<T: Memory> {
    #[pin]
    resv: Opaque<bindings::dma_resv>,
    state: UnsafeCell<State>,
    irrevocable: bool,
    /// The file of the dma-buf has its address space.
    inode: Arc<AnonInode>,
    data: T,
}

// SAFETY: Everything is shared, and guarded by the lock of `resv` where it changes.
unsafe impl<T: Memory> Send for Exported<T> {}
// SAFETY: As above.
unsafe impl<T: Memory> Sync for Exported<T> {}

impl<T: Memory> Exported<T> {
    /// Makes a dma-buf of `size` bytes, which is mapped through the address space of `inode`. May
    /// sleep.
    pub fn new(
        size: usize,
        access: Access,
        inode: Arc<AnonInode>,
        data: T,
    ) -> Result<(Arc<Self>, DmaBuf)> {
        // INVARIANT: There is no dma-buf yet, and no mapping.
        let this = Arc::pin_init(
            pin_init!(Self {
                // SAFETY: Initialises the object, which is pinned.
                resv <- unsafe {
                    pin_init::pin_init_from_closure(|slot: *mut Opaque<bindings::dma_resv>| {
                        bindings::dma_resv_init(slot.cast());
                        Ok::<_, core::convert::Infallible>(())
                    })
                },
                state: UnsafeCell::new(State {
                    dmabuf: ptr::null_mut(),
                    mappings: KVec::new(),
                }),
                irrevocable: access.irrevocable,
                inode,
                data,
            }),
            GFP_KERNEL_ACCOUNT,
        )?;

        let owned = this.clone().into_foreign();
        let info = bindings::dma_buf_export_info {
            exp_name: T::NAME.as_char_ptr(),
            owner: this_module::<T::OwnerModule>().as_ptr(),
            ops: T::kind().operations(),
            size,
            // CAST: The flags of files are small numbers.
            flags: access.mode as c_int,
            resv: this.resv.get(),
            priv_: owned,
        };

        // SAFETY: The structure is filled in. The reservation object lives as long as `this`, which
        // the dma-buf owns a reference to.
        match from_err_ptr(unsafe { bindings::dma_buf_export(&info) }) {
            Ok(dmabuf) => {
                // SAFETY: The dma-buf is new and its file not in use. It owns a reference to
                // `this`, and by that to the inode.
                unsafe { this.inode.share_with((*dmabuf).file) };
                this.lock().state().dmabuf = dmabuf;
                // SAFETY: Not an error, so a dma-buf, and the reference is owned.
                let dmabuf = DmaBuf(unsafe { NonNull::new_unchecked(dmabuf) });
                Ok((this, dmabuf))
            }
            Err(error) => {
                // SAFETY: Comes from `into_foreign()` above, and is the only reference.
                drop(unsafe { Arc::<Self>::from_foreign(owned) });
                Err(error)
            }
        }
    }

    /// Returns what is behind the dma-buf.
    pub fn data(&self) -> &T {
        &self.data
    }

    /// Tells all importers that the memory goes away. They may have it for a while still: as long
    /// as [`Exported::is_in_use`]. [`Memory::hold`] must return none from before this call on. May
    /// sleep.
    pub fn revoke(&self) {
        let mut locked = self.lock();
        let dmabuf = locked.state().dmabuf;

        if !dmabuf.is_null() {
            // SAFETY: By the type invariants, the dma-buf is valid, and its lock is held.
            unsafe { bindings::dma_buf_invalidate_mappings(dmabuf) };
        }
    }

    /// Returns whether importers may still access the memory: they have it mapped, or what they
    /// said that they wait for has not happened. May sleep.
    pub fn is_in_use(&self) -> bool {
        let mut locked = self.lock();

        // With the lock held, so that no importer unmaps and leaves a fence in between.
        //
        // SAFETY: By the type invariants, the object is initialised.
        let settled = unsafe {
            bindings::dma_resv_test_signaled(
                self.resv.get(),
                bindings::dma_resv_usage_DMA_RESV_USAGE_BOOKKEEP,
            )
        };

        !locked.state().mappings.is_empty() || !settled
    }

    /// Calls a function for each device that is attached.
    pub fn for_each_importer(&self, mut call: impl FnMut(&Device)) {
        let mut locked = self.lock();
        let dmabuf = locked.state().dmabuf;
        if dmabuf.is_null() {
            return;
        }

        // SAFETY: By the type invariants, the dma-buf is valid. Its list of attachments is guarded
        // by the lock, which is held, and each has a device.
        unsafe {
            let head = &raw mut (*dmabuf).attachments;
            let mut node = (*head).next;

            while node != head {
                let attachment = kernel::container_of!(node, bindings::dma_buf_attachment, node);
                call(Device::from_raw((*attachment).dev));
                node = (*node).next;
            }
        }
    }

    fn lock(&self) -> Locked<'_, T> {
        // SAFETY: By the type invariants, the object is initialised. Without a context it cannot
        // fail.
        unsafe { bindings::dma_resv_lock(self.resv.get(), ptr::null_mut()) };

        Locked(self)
    }
}

#[pinned_drop]
impl<T: Memory> PinnedDrop for Exported<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants, the object is initialised, and has no user any more.
        unsafe { bindings::dma_resv_fini(self.resv.get()) };
    }
}

/// The lock of the reservation object, held.
struct Locked<'a, T: Memory>(&'a Exported<T>);

impl<T: Memory> Locked<'_, T> {
    fn state(&mut self) -> &mut State {
        // SAFETY: The lock is held, and `self` is borrowed exclusively.
        unsafe { &mut *self.0.state.get() }
    }
}

impl<T: Memory> Drop for Locked<'_, T> {
    fn drop(&mut self) {
        // SAFETY: The lock is held.
        unsafe { bindings::dma_resv_unlock(self.0.resv.get()) };
    }
}

/// A reference to a dma-buf.
///
/// # Invariants
///
/// The dma-buf is valid and a reference to its file is owned.
pub struct DmaBuf(NonNull<bindings::dma_buf>);

impl DmaBuf {
    /// Returns the dma-buf behind a file descriptor of the calling process (`dma_buf_get()`).
    ///
    /// # Errors
    ///
    /// `EBADF` if the descriptor is not open, `EINVAL` if it is not one of a dma-buf.
    pub fn get(fd: i32) -> Result<Self> {
        // SAFETY: Has no requirements.
        let dmabuf = from_err_ptr(unsafe { bindings::dma_buf_get(fd) })?;

        // INVARIANT: Not an error, so a dma-buf with a reference for us.
        // SAFETY: As above.
        Ok(Self(unsafe { NonNull::new_unchecked(dmabuf) }))
    }

    /// Returns the file.
    pub fn file(&self) -> &File {
        // SAFETY: By the type invariants, the dma-buf and its file are valid. There is no active
        // `fdget_pos()` of it: a dma-buf has no position.
        unsafe { File::from_raw_file((*self.0.as_ptr()).file) }
    }

    /// Returns what is behind a dma-buf of this kind, or [`None`] if it is another exporter's.
    pub fn exported<T: Memory>(&self) -> Option<Arc<Exported<T>>> {
        // SAFETY: By the type invariants, the dma-buf is valid.
        unsafe {
            if !ptr::eq((*self.0.as_ptr()).ops, T::kind().operations()) {
                return None;
            }

            // SAFETY: With operations of this kind it was made by `Exported::<T>::new()`, and has
            // not been released: no other kind is at the same address.
            let exported = Arc::<Exported<T>>::borrow((*self.0.as_ptr()).priv_);
            Some(exported.into())
        }
    }
}

impl Drop for DmaBuf {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, a reference is owned.
        unsafe { bindings::dma_buf_put(self.0.as_ptr()) };
    }
}

/// Operations that all dma-bufs of `T` share. Its address identifies them.
///
/// It has a cell, so that a reference to it that lives for ever is one to a static (or to memory
/// that is never freed), and not to a constant, which may be at the same address as another one.
///
/// # Examples
///
/// ```ignore
/// static KIND: Kind<Handle> = Kind::new();
///
/// impl Memory for Handle {
///     fn kind() -> &'static Kind<Self> {
///         &KIND
///     }
///     // ...
/// }
/// ```
pub struct Kind<T: Memory> {
    operations: UnsafeCell<bindings::dma_buf_ops>,
    _memory: PhantomData<fn() -> T>,
}

// SAFETY: The operations are never changed.
unsafe impl<T: Memory> Sync for Kind<T> {}

impl<T: Memory> Kind<T> {
    /// Creates a kind.
    #[expect(clippy::new_without_default, reason = "a static takes no default")]
    pub const fn new() -> Self {
        Self {
            operations: UnsafeCell::new(bindings::dma_buf_ops {
                attach: Some(Self::attach),
                map_dma_buf: Some(Self::map),
                unmap_dma_buf: Some(Self::unmap),
                release: Some(Self::release),
                mmap: Some(Self::mmap),
                ..pin_init::zeroed()
            }),
            _memory: PhantomData,
        }
    }

    fn operations(&'static self) -> *const bindings::dma_buf_ops {
        self.operations.get()
    }

    /// # Safety
    ///
    /// `dmabuf` must be one of this kind, that is not released during `'a`.
    unsafe fn borrow<'a>(dmabuf: *mut bindings::dma_buf) -> ArcBorrow<'a, Exported<T>> {
        // SAFETY: By the safety requirements, the dma-buf owns a reference, which comes from
        // `into_foreign()`.
        unsafe { Arc::<Exported<T>>::borrow((*dmabuf).priv_) }
    }

    /// # Safety
    ///
    /// Called for a dma-buf of this kind and an attachment that is being made.
    unsafe extern "C" fn attach(
        dmabuf: *mut bindings::dma_buf,
        attachment: *mut bindings::dma_buf_attachment,
    ) -> c_int {
        // SAFETY: By the safety requirements.
        let this = unsafe { Self::borrow(dmabuf) };
        // SAFETY: The attachment is valid, it has a device.
        let (peer, revocable, mut client) = unsafe {
            (
                (*attachment).peer2peer,
                bindings::dma_buf_attach_revocable(attachment),
                (*attachment).dev,
            )
        };

        from_result(|| {
            let memory = this.data.hold().ok_or(ENODEV)?;
            if !peer || !(revocable || this.irrevocable) {
                return Err(EOPNOTSUPP);
            }

            // SAFETY: The device is valid, and so is the client. Who asks again and again must not
            // fill the log.
            unsafe {
                let pdev = as_raw(memory.device());
                if bindings::pci_p2pdma_distance_many(pdev, &mut client, 1, false) < 0 {
                    bindings::dev_warn_unreachable(client, pdev);
                    return Err(EREMOTEIO);
                }
            }

            // Nothing is to be done if its exporter has done it.
            memory.prepare(|| Ok(()))?;
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Called for an attachment to a dma-buf of this kind, whose lock is held.
    unsafe extern "C" fn map(
        attachment: *mut bindings::dma_buf_attachment,
        direction: bindings::dma_data_direction,
    ) -> *mut bindings::sg_table {
        // SAFETY: By the safety requirements.
        let this = unsafe { Self::borrow((*attachment).dmabuf) };
        // SAFETY: The lock is held by the caller, and the dma-buf is valid.
        let (state, size) = unsafe { (&mut *this.state.get(), (*(*attachment).dmabuf).size) };
        let mut table = || {
            // So that nothing can fail once there is a table.
            state.mappings.reserve(1, GFP_KERNEL)?;
            // Under the lock: if this succeeds, a revocation that follows finds the attachment.
            let memory = this.data.hold().ok_or(ENODEV)?;
            if memory.size() != size {
                return Err(EINVAL);
            }
            let mut range = bindings::phys_vec {
                paddr: memory.physical_address(),
                len: memory.size(),
            };
            // The memory keeps what the device has registered, so that there is one.
            let provider = NonNull::new(memory.provider()).ok_or(ENODEV)?;

            // SAFETY: The provider is valid for as long as the memory is held. The attachment is
            // valid by the safety requirements.
            let table = from_err_ptr(unsafe {
                bindings::dma_buf_phys_vec_to_sgt(
                    attachment,
                    provider.as_ptr(),
                    &mut range,
                    1,
                    memory.size(),
                    direction,
                )
            })?;
            // There is room for it.
            let _ = state.mappings.push_within_capacity((table, memory));
            Ok(table)
        };

        table().unwrap_or_else(|error: Error| error.to_ptr())
    }

    /// # Safety
    ///
    /// Called for what [`Self::map`] returned, with the lock held.
    unsafe extern "C" fn unmap(
        attachment: *mut bindings::dma_buf_attachment,
        table: *mut bindings::sg_table,
        direction: bindings::dma_data_direction,
    ) {
        // SAFETY: By the safety requirements.
        let this = unsafe { Self::borrow((*attachment).dmabuf) };

        // SAFETY: The table was made for this attachment, and is not used any more.
        unsafe { bindings::dma_buf_free_sgt(attachment, table, direction) };

        // SAFETY: The lock is held by the caller.
        let state = unsafe { &mut *this.state.get() };
        // Only now may the memory go.
        state.mappings.retain(|(other, _)| *other != table);
    }

    /// # Safety
    ///
    /// `dmabuf` must be one of this kind, whose last user is gone.
    unsafe extern "C" fn release(dmabuf: *mut bindings::dma_buf) {
        // SAFETY: Comes from `into_foreign()`, and there are no other calls.
        let this = unsafe { Arc::<Exported<T>>::from_foreign((*dmabuf).priv_) };

        // Not to be told of a revocation any more.
        this.lock().state().dmabuf = ptr::null_mut();
        this.data.released();
    }

    /// # Safety
    ///
    /// Called for a dma-buf of this kind and a VMA that is being set up.
    unsafe extern "C" fn mmap(
        dmabuf: *mut bindings::dma_buf,
        vma: *mut bindings::vm_area_struct,
    ) -> c_int {
        // SAFETY: By the safety requirements.
        let (this, vma) = unsafe { (Self::borrow(dmabuf), VmaNew::from_raw(vma)) };

        from_result(|| this.data.mmap(vma).map(|()| 0))
    }
}
