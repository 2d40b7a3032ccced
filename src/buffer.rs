// SPDX-License-Identifier: GPL-2.0

//! Memory that somebody has: mapped, as a dma-buf, or in a slot of an io_uring.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use kernel_ext::{
    gate::{
        Gated,
        Guard,
        Hold, //
    },
    mm::virt::Caching,
    p2pmem::Allocation, //
};

use crate::provider::{
    Pages,
    Provider, //
};

/// Memory of a provider. All who use it hold a reference; with the last one it goes back to the
/// pool.
pub(crate) struct Buffer {
    provider: Arc<Provider>,
    key: u64,
    pages: Pages,
    /// How mappings of it are accessed.
    pub(crate) caching: Caching,
}

impl Buffer {
    /// Allocates `size` bytes for an open file, and clears them.
    ///
    /// `EINVAL` if `size` is not a multiple of the page size; `ENOSPC` if no free run is that long;
    /// `EDQUOT` if that is more than the file or its user may have; `ENOMEM`; `EINTR` if the caller
    /// is killed meanwhile; `ENODEV`.
    pub(crate) fn new(
        provider: &Arc<Provider>,
        file: u64,
        size: usize,
        caching: Caching,
        inside: &Guard<'_>,
    ) -> Result<Arc<Self>> {
        let (key, pages) = provider.lease(file, size, inside)?;
        // From here on, dropping the buffer gives the memory back.
        let buffer = Arc::new(
            Self {
                provider: provider.clone(),
                key,
                pages,
                caching,
            },
            GFP_KERNEL,
        )?;

        provider.clear(buffer.pages(inside)?)?;
        Ok(buffer)
    }

    /// Returns whose memory it is.
    pub(crate) fn provider(&self) -> &Arc<Provider> {
        &self.provider
    }

    /// Returns the memory. `ENODEV` if it was taken back.
    pub(crate) fn pages<'a>(&'a self, inside: &'a Guard<'_>) -> Result<&'a Allocation> {
        self.pages.get(inside).ok_or(ENODEV)
    }

    /// Holds the memory for somebody who needs it beyond this call. `ENODEV` if it was taken back.
    pub(crate) fn hold(&self) -> Result<Hold<Allocation>> {
        let inside = self.provider.enter()?;

        Gated::hold(&self.pages, &inside).ok_or(ENODEV)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.provider.remove_lease(self.key);
    }
}
