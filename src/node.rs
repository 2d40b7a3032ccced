// SPDX-License-Identifier: GPL-2.0

//! Registers `/dev/p2pmemN` for the memory of a device, and the order in which it goes away.

mod allocations;
mod dmabuf;
mod file;
mod id;
mod ioctl;
mod mmap;
mod routes;
mod shared;
mod sysfs;
mod uring;

use kernel::{
    debugfs,
    device::Bound,
    pci,
    prelude::*,
    str::CString,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    }, //
};

use kernel_ext::{
    miscdevice::{
        Options,
        Registration, //
    },
    pci::p2pdma, //
};

use crate::{
    nvme::Switches,
    provider::Provider,
    regions::range::Region, //
};

use allocations::AllocationsFile;
use file::File;
use id::NodeId;
use shared::Shared;

/// The node of a device. Its fields are dropped in this order, before the device's memory.
#[pin_data]
pub(crate) struct Node {
    /// First: no more files are opened.
    #[pin]
    _allocations: debugfs::File<AllocationsFile>,
    #[pin]
    _node: Registration<File>,
    /// Then the memory is taken back from those that are open.
    revocation: Revocation,
    /// How it is switched on.
    switches: Switches,
    /// Then the number may be used again.
    _id: NodeId,
}

impl Node {
    /// Gives the memory in `pool`, which is that of `regions`, to user space. `adopted` says
    /// whether another driver has the device.
    pub(crate) fn new<'a>(
        pdev: &'a pci::Device<Bound>,
        pool: p2pdma::Pool,
        regions: KVec<Region>,
        switches: Switches,
        adopted: bool,
    ) -> Result<impl PinInit<Self, Error> + 'a> {
        let id = NodeId::take_lowest().inspect_err(|_| {
            dev_err!(pdev, "there are {} providers, which is the most\n", id::MAX)
        })?;
        let name = CString::try_from_fmt(fmt!("p2pmem{}", id.get()))?;

        for region in &regions {
            dev_info!(
                pdev,
                "{}: {} MiB of BAR {} at offset {:#x}\n",
                &*name,
                region.size >> 20,
                region.bar,
                region.offset
            );
        }
        let provider = Provider::new(pdev, pool, regions, adopted)?;
        let folder = debugfs::Dir::new(&name);

        Ok(try_pin_init!(Self {
            _allocations <- folder.read_only_file(c"allocations", AllocationsFile(provider.clone())),
            _node <- Registration::new(
                Options {
                    name,
                    parent: pdev.as_ref(),
                    mode: 0o600,
                },
                Shared::new(provider.clone())?,
            ),
            revocation: Revocation {
                provider,
                leaves_rest: Atomic::new(false),
            },
            switches,
            _id: id,
        }))
    }

    /// Returns the provider.
    pub(crate) fn provider(&self) -> &Arc<Provider> {
        &self.revocation.provider
    }

    /// Switches memory on again after the device was reset or without power. If that is not
    /// possible it is taken back from all processes.
    pub(crate) fn restarted(&self, pdev: &pci::Device) {
        if self.switches.is_empty() {
            return;
        }
        match self.switches.iter().try_for_each(|switch| switch.on(pdev)) {
            Ok(()) => dev_warn!(
                pdev,
                "reset, or without power: what its memory held may be lost\n"
            ),
            Err(error) => {
                dev_err!(
                    pdev,
                    "reset, or without power, and its memory cannot be switched on ({:?}): \
                     taken back from all processes; bind the device again\n",
                    error
                );
                self.provider().withdraw();
            }
        }
    }

    /// Has dropping this wait for no DMA. The caller sees to the
    /// [`Rest`](crate::provider::revoke::Rest).
    pub(crate) fn leave_rest(&self) {
        self.revocation.leaves_rest.store(true, Relaxed);
    }
}

/// Revokes a provider when it is dropped.
struct Revocation {
    provider: Arc<Provider>,
    /// Whether dropping leaves the wait for DMA to a [`Rest`](crate::provider::revoke::Rest).
    leaves_rest: Atomic<bool>,
}

impl Drop for Revocation {
    fn drop(&mut self) {
        self.provider.withdraw();
        if !self.leaves_rest.load(Relaxed) {
            self.provider.finish();
        }
    }
}
