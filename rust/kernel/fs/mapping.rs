// SPDX-License-Identifier: GPL-2.0

//! The address space of an open file.
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h)

use kernel::fs::File;

use crate::bindings;

use core::ptr::NonNull;

/// The `struct address_space` through which an open file is mapped.
///
/// It is the place that knows all VMAs of the file. Two device nodes of the same device have two
/// of them, also when the nodes are alike: who wants to reach each mapping of a device keeps one
/// `Mapping` per open file.
///
/// # Invariants
///
/// `inode` is valid, a reference to it is owned, and it is the host of the address space.
pub struct Mapping {
    inode: NonNull<bindings::inode>,
}

// SAFETY: References to an inode can be dropped by any thread.
unsafe impl Send for Mapping {}
// SAFETY: `unmap()` can be called by several threads at the same time; the C side locks.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Returns the address space of `file`.
    pub fn of(file: &File) -> Self {
        // SAFETY: `file` is open, so it has an address space, and that has a host. Both are set
        // when the file is opened and do not change afterwards.
        let inode = unsafe { (*(*file.as_ptr()).f_mapping).host };

        // SAFETY: The open file keeps the inode alive during this call.
        unsafe { bindings::ihold(inode) };

        Self {
            // INVARIANT: The reference was taken above.
            // SAFETY: The host of a file's address space is not null.
            inode: unsafe { NonNull::new_unchecked(inode) },
        }
    }

    /// Removes all pages from all VMAs that map this address space, in every process.
    ///
    /// The VMAs stay: the next access faults. May sleep. Must not be called with a lock held that
    /// a fault handler takes.
    pub fn unmap(&self) {
        // SAFETY: By the type invariants, the inode is valid, and with it its address space. A
        // length of 0 means up to the end.
        unsafe { bindings::unmap_mapping_range((*self.inode.as_ptr()).i_mapping, 0, 0, 1) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, a reference is owned.
        unsafe { bindings::iput(self.inode.as_ptr()) };
    }
}
