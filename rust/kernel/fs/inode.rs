// SPDX-License-Identifier: GPL-2.0

//! Anonymous inodes, whose address space open files can share.
//!
//! C headers: [`include/linux/fs.h`](srctree/include/linux/fs.h),
//! [`include/linux/pseudo_fs.h`](srctree/include/linux/pseudo_fs.h)

use kernel::{
    error::{
        from_err_ptr,
        to_result, //
    },
    prelude::*,
    sync::Arc,
    types::{
        ForeignOwnable,
        Opaque, //
    }, //
};

use crate::bindings;

use core::{
    cell::UnsafeCell,
    ptr::{
        self,
        NonNull, //
    }, //
};

/// The magic number of the pseudo file system: "p2pm".
const MAGIC: c_ulong = 0x7032_706d;

/// The pseudo file system that the inodes belong to. It is mounted as long as there is an inode.
struct PseudoFs {
    fs_type: Opaque<bindings::file_system_type>,
    mount: UnsafeCell<*mut bindings::vfsmount>,
    count: UnsafeCell<c_int>,
}

// SAFETY: The type is passed to the C side only, which locks it. `simple_pin_fs()` and
// `simple_release_fs()` lock the other two. The mount is read while it is pinned, and does not
// change then.
unsafe impl Sync for PseudoFs {}

static PSEUDO_FS: PseudoFs = PseudoFs {
    // Without an owner: a module that has an inode is not unloaded anyway.
    fs_type: Opaque::new(bindings::file_system_type {
        name: c"p2pmem".to_bytes_with_nul().as_ptr().cast(),
        init_fs_context: Some(init_fs_context),
        kill_sb: Some(bindings::kill_anon_super),
        ..pin_init::zeroed()
    }),
    mount: UnsafeCell::new(ptr::null_mut()),
    count: UnsafeCell::new(0),
};

/// # Safety
///
/// `context` must be one of this file system that is being set up.
unsafe extern "C" fn init_fs_context(context: *mut bindings::fs_context) -> c_int {
    // SAFETY: By the safety requirements.
    if unsafe { bindings::init_pseudo_fs(context, MAGIC) } {
        0
    } else {
        ENOMEM.to_errno()
    }
}

/// An inode that is in no directory (`alloc_anon_inode()`), for its address space.
///
/// Each device node, also of the same device, has an inode of its own, and with it an address space
/// of its own. Files that are redirected to one `AnonInode` have one in common:
/// [`AnonInode::unmap`] reaches every mapping of each of them.
///
/// # Invariants
///
/// `inode` is valid, a reference to it is owned, its `i_private` is what `into_foreign()` returns
/// for the [`Arc`] of this value, and the pseudo file system is pinned for it.
pub struct AnonInode {
    inode: NonNull<bindings::inode>,
}

// SAFETY: References to an inode can be dropped by any thread.
unsafe impl Send for AnonInode {}
// SAFETY: `unmap()` can be called by several threads at the same time; the C side locks.
unsafe impl Sync for AnonInode {}

impl AnonInode {
    /// Creates an inode. May sleep.
    ///
    /// With large pages of device memory (`mm::virt::LARGE_PAGES`) it is a DAX inode, so that areas
    /// with these pages are split and copied with their references.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Arc<Self>> {
        let place = kernel::sync::UniqueArc::new_uninit(GFP_KERNEL)?;
        let (mount, count) = (PSEUDO_FS.mount.get(), PSEUDO_FS.count.get());

        // SAFETY: The type is valid as long as this code is, and the C side locks the other two.
        to_result(unsafe { bindings::simple_pin_fs(PSEUDO_FS.fs_type.get(), mount, count) })?;

        // SAFETY: The mount is valid while it is pinned.
        let inode = from_err_ptr(unsafe { bindings::alloc_anon_inode((**mount).mnt_sb) })
            // SAFETY: The file system was pinned above.
            .inspect_err(|_| unsafe { bindings::simple_release_fs(mount, count) })?;

        // INVARIANT: A new inode, whose only reference is owned. `i_private` is set below.
        let this: Arc<Self> = place
            .write(Self {
                // SAFETY: Not an error, so an inode.
                inode: unsafe { NonNull::new_unchecked(inode) },
            })
            .into();

        let foreign = this.clone().into_foreign();
        // SAFETY: Was just made, and is not used any more: only the address is of interest.
        drop(unsafe { Arc::<Self>::from_foreign(foreign) });

        // SAFETY: The inode is not in use yet.
        unsafe {
            (*inode).i_private = foreign;
            if crate::mm::virt::LARGE_PAGES {
                (*inode).i_flags |= bindings::S_DAX;
            }
        }

        Ok(this)
    }

    /// Removes all pages from all VMAs of the files that share the address space, in every process.
    ///
    /// The VMAs stay: the next access faults. May sleep. Must not be called with a lock held that a
    /// fault handler takes.
    pub fn unmap(&self) {
        // SAFETY: By the type invariants, the inode is valid, and with it its address space. A
        // length of 0 means up to the end.
        unsafe { bindings::unmap_mapping_range((*self.inode.as_ptr()).i_mapping, 0, 0, 1) };
    }

    /// Makes a file share the address space.
    ///
    /// # Safety
    ///
    /// `file` must be valid, not be mapped, and not be in use yet. This inode must outlive it.
    pub(crate) unsafe fn share_with(&self, file: *mut bindings::file) {
        // SAFETY: By the safety requirements; the inode is valid.
        unsafe { (*file).f_mapping = (*self.inode.as_ptr()).i_mapping };
    }

    /// As [`AnonInode::share_with`], for a file that owns a reference until
    /// [`AnonInode::release_file`] is called.
    ///
    /// # Safety
    ///
    /// `file` must be valid, not be mapped, and not be in use yet.
    pub(crate) unsafe fn give_to(self: &Arc<Self>, file: *mut bindings::file) {
        // It is found again by `i_private`.
        let _ = self.clone().into_foreign();

        // SAFETY: By the safety requirements, and the file owns a reference.
        unsafe { self.share_with(file) };
    }

    /// Drops the reference that [`AnonInode::give_to`] gave to a file.
    ///
    /// # Safety
    ///
    /// `mapping` must be the address space of a file that was given it, which does not use it any
    /// more. To be called once for each of these files.
    pub(crate) unsafe fn release_file(mapping: *mut bindings::address_space) {
        // SAFETY: By the safety requirements, the host is the inode of an `AnonInode`, of which one
        // reference was turned into a foreign one.
        drop(unsafe { Arc::<Self>::from_foreign((*(*mapping).host).i_private) });
    }
}

impl Drop for AnonInode {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, a reference is owned, and the file system is pinned for
        // it.
        unsafe {
            bindings::iput(self.inode.as_ptr());
            bindings::simple_release_fs(PSEUDO_FS.mount.get(), PSEUDO_FS.count.get());
        }
    }
}
