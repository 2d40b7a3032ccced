// SPDX-License-Identifier: GPL-2.0

//! Access that the kernel denies to all processes, root included.
//!
//! C header: [`include/linux/security.h`](srctree/include/linux/security.h)

use kernel::{
    error::to_result,
    prelude::*, //
};

use crate::bindings;

/// Checks that user space may access PCI devices directly (`LOCKDOWN_PCI_ACCESS`). May sleep.
///
/// # Errors
///
/// `EPERM` if the kernel is locked down, which it writes to the log.
pub fn check_pci_access() -> Result {
    // SAFETY: Has no requirements.
    to_result(unsafe { bindings::security_locked_down_pci() })
}
