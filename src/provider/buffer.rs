// SPDX-License-Identifier: GPL-2.0

//! Allocated memory with its users: mappings, dma-bufs, slots of an io_uring.

use kernel::{
    prelude::*,
    sync::{
        Arc,
        UniqueArc, //
    }, //
};

use kernel_ext::{
    gate::{
        RegistrationGuard,
        SleepableRevocable,
        UseGuard, //
    },
    mm::virt::Caching,
    p2pmem::Allocation, //
};

use super::{
    Account,
    Key,
    Memory,
    Provider, //
};

/// Memory of a provider. Each user holds a reference; with the last one it goes back to the pool.
pub(crate) struct Buffer {
    provider: Arc<Provider>,
    key: Key,
    /// There until this is dropped.
    memory: Option<Memory>,
    /// How mappings of it are accessed.
    pub(crate) caching: Caching,
}

impl Buffer {
    /// Allocates `size` bytes for an open file. Each piece of them is cleared before its first use.
    ///
    /// `EINVAL` if `size` is not a multiple of the page size; `ENOSPC` if no free run is that long;
    /// `EDQUOT` if that is more than the file or its user may have; `ENOMEM`; `ENODEV`.
    pub(crate) fn new(
        provider: &Arc<Provider>,
        account: &Arc<Account>,
        size: usize,
        caching: Caching,
        inside: &RegistrationGuard<'_>,
    ) -> Result<Arc<Self>> {
        let place = UniqueArc::new_uninit(GFP_KERNEL_ACCOUNT)?;
        let (key, memory) = provider.allocate(account, size, inside)?;

        Ok(place
            .write(Self {
                provider: provider.clone(),
                key,
                memory: Some(memory),
                caching,
            })
            .into())
    }

    /// Returns whose memory it is.
    pub(crate) fn provider(&self) -> &Arc<Provider> {
        &self.provider
    }

    /// Returns the memory.
    pub(crate) fn allocation<'a>(
        &'a self,
        inside: &'a RegistrationGuard<'_>,
    ) -> Result<&'a Allocation> {
        let memory = self.memory.as_ref();

        memory.and_then(|memory| memory.get(inside)).ok_or(ENODEV)
    }

    /// Holds the memory beyond this call. `ENODEV` if it was revoked.
    pub(crate) fn hold(&self) -> Result<UseGuard<Allocation>> {
        let inside = self.provider.enter()?;
        let memory = self.memory.as_ref();

        memory
            .and_then(|memory| SleepableRevocable::hold(memory, &inside))
            .ok_or(ENODEV)
    }

    /// Clears all of the memory now, where that is to be done, not when it is first used. `EINTR`
    /// if the caller is killed during that, `ENODEV` if the device is to go, `EIO` if it does not
    /// return what was written.
    pub(crate) fn prepare(&self, inside: &RegistrationGuard<'_>) -> Result {
        self.allocation(inside)?
            .prepare(|| self.provider.enter().map(drop))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        drop(self.memory.take());
        self.provider.free(self.key);
    }
}
