// SPDX-License-Identifier: GPL-2.0

//! Device memory that control groups have, and may have: the files `dmem.*` of a group.
//!
//! Without `CONFIG_CGROUP_DMEM` nothing is counted, and there is no limit.
//!
//! C header: [`include/linux/cgroup_dmem.h`](srctree/include/linux/cgroup_dmem.h)

use kernel::{
    error::{
        from_err_ptr,
        to_result, //
    },
    prelude::*,
    str::CStr, //
};

use crate::bindings;

use core::{
    ffi::c_void,
    ptr, //
};

/// Memory of a device that groups have parts of.
///
/// # Invariants
///
/// The pointer is that of a registered region, or null where the kernel does not count.
pub struct DeviceMemory(*mut c_void);

// SAFETY: A region can be unregistered by any thread.
unsafe impl Send for DeviceMemory {}
// SAFETY: The C side locks what it needs.
unsafe impl Sync for DeviceMemory {}

impl DeviceMemory {
    /// Registers memory of `size` bytes, at least one, by a name that no other has
    /// (`dmem_cgroup_register_region()`). May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(size: u64, name: &CStr) -> Result<Self> {
        // SAFETY: The name ends with a zero, and is copied.
        let region = from_err_ptr(unsafe { bindings::dmem_register(size, name.as_char_ptr()) })?;

        // INVARIANT: Was just registered.
        Ok(Self(region))
    }

    /// Counts bytes for the group of the calling thread, until the charge is dropped
    /// (`dmem_cgroup_try_charge()`). May sleep.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if that is more than the group, or one above it, may have; `ENOMEM`.
    pub fn charge(&self, size: u64) -> Result<Charge> {
        let mut pool = ptr::null_mut();

        // SAFETY: By the type invariants, and `pool` is valid for writing.
        to_result(unsafe { bindings::dmem_try_charge(self.0, size, &mut pool) })?;

        // INVARIANT: Was just charged.
        Ok(Charge { pool, size })
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // SAFETY: By the type invariants; charges keep what they need.
        unsafe { bindings::dmem_unregister(self.0) };
    }
}

/// Bytes that count for a group. May outlive what they are part of.
///
/// # Invariants
///
/// So many bytes were charged to `pool`, or it is null where the kernel does not count.
pub struct Charge {
    pool: *mut c_void,
    size: u64,
}

// SAFETY: Bytes can be uncharged by any thread.
unsafe impl Send for Charge {}
// SAFETY: Nothing can be done with a shared reference.
unsafe impl Sync for Charge {}

impl Drop for Charge {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::dmem_uncharge(self.pool, self.size) };
    }
}
