// SPDX-License-Identifier: GPL-2.0

//! A device's peer-to-peer memory, and all who use it.
//!
//! Lock order, outermost first:
//!
//! 1. the device lock (probe, unbind, and the bus notifier by which devices are adopted), then the
//!    misc device lock (open): neither is taken by us with one of the following held;
//! 2. the mmap lock of a process (mmap, faults, the end of a VMA);
//! 3. the gate of a provider. Entering never waits. Closing waits for those inside, so it is done
//!    with none of these locks held but the device lock, which nobody takes inside;
//! 4. the lock of a registry, or of the list of adopted devices: nothing is called with it held.
//!
//! A provider outlives the binding of its device, since open files and mappings refer to it.
//! [`Provider::revoke`] is the end of the binding; after it the provider is an empty shell.

use kernel::{
    device::Device,
    new_poll_condvar,
    prelude::*,
    sync::{
        aref::ARef,
        poll::PollCondVar,
        Arc, //
    },
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    }, //
};

use kernel_ext::{
    fs::Mapping,
    gate::{
        Gate,
        Gated,
        Guard, //
    },
    p2pmem::{
        Allocation,
        Pinned, //
    },
    pci::p2pdma::Pool,
    task::Process, //
};

use crate::{
    driver::Regions,
    region::Region,
    registry::Registry, //
};

/// How often somebody who waits says for whom.
const REPORT_INTERVAL: Delta = Delta::from_secs(10);

/// Memory that was given out.
pub(crate) type Pages = Arc<Gated<Allocation>>;

/// An entry of the list of memory that was given out.
struct Lease {
    pages: Pages,
    /// In bytes.
    size: u64,
    /// Who asked for it.
    owner: Process,
}

/// A device's peer-to-peer memory.
#[pin_data]
pub(crate) struct Provider {
    device: ARef<Device>,
    gate: Arc<Gate>,
    pool: Gated<Pool>,
    regions: Regions,
    /// Where open files are mapped.
    #[pin]
    files: Registry<Mapping>,
    #[pin]
    leases: Registry<Lease>,
    /// Who waits for the device to go away.
    #[pin]
    pub(crate) gone: PollCondVar,
}

impl Provider {
    /// Creates a provider of the memory in `pool`, which is that of `regions`.
    pub(crate) fn new(device: &Device, pool: Pool, regions: Regions) -> Result<Arc<Self>> {
        let gate = Arc::pin_init(Gate::new(), GFP_KERNEL)?;
        let pool = Gated::new(gate.clone(), pool);

        Arc::pin_init(
            pin_init!(Self {
                device: device.into(),
                gate,
                pool,
                regions,
                files <- Registry::new(),
                leases <- Registry::new(),
                gone <- new_poll_condvar!(),
            }),
            GFP_KERNEL,
        )
    }

    /// Enters the gate: the device stays bound while the guard lives. `ENODEV` once it is gone.
    pub(crate) fn enter(&self) -> Result<Guard<'_>> {
        self.gate.enter().ok_or(ENODEV)
    }

    /// Returns whether the device is gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.gate.is_closed()
    }

    /// Returns where the memory lies.
    pub(crate) fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Returns how much memory there is, in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.regions.iter().map(|region| region.size).sum()
    }

    /// Returns how many bytes are given out.
    pub(crate) fn allocated(&self) -> u64 {
        self.leases.sum(|lease| lease.size)
    }

    /// Makes an open file known, so that its mappings are found when the device goes away. The
    /// caller is inside the gate.
    pub(crate) fn add_file(&self, mapping: Mapping, _inside: &Guard<'_>) -> Result<u64> {
        self.files.insert(mapping)
    }

    /// Forgets an open file.
    pub(crate) fn remove_file(&self, key: u64) {
        drop(self.files.remove(key));
    }

    /// Gives out `size` bytes. The memory goes back to the pool when the device goes away, or
    /// when [`Provider::remove_lease`] was called and the pages are dropped.
    ///
    /// `EINVAL` if `size` is not a multiple of the page size, `ENOMEM` if no free run is that
    /// long.
    pub(crate) fn lease(&self, size: usize, inside: &Guard<'_>) -> Result<(u64, Pages)> {
        let pool = self.pool.get(inside).ok_or(ENODEV)?;
        let allocation = Allocation::new(pool.alloc(size)?)?;
        let pages = Arc::new(Gated::new(self.gate.clone(), allocation), GFP_KERNEL)?;

        let key = self.leases.insert(Lease {
            pages: pages.clone(),
            size: size as u64,
            owner: Process::current(),
        })?;

        Ok((key, pages))
    }

    /// Takes memory off the list of what was given out.
    pub(crate) fn remove_lease(&self, key: u64) {
        drop(self.leases.remove(key));
    }

    /// Takes the memory back from everybody, since the device goes away.
    ///
    /// When this returns, no system call is under way on behalf of the device, no process can
    /// reach its memory, and DMA into memory that was given out has ended. The caller must have
    /// made sure that no more files are opened.
    pub(crate) fn revoke(&self) {
        let closed = self.gate.close();

        // No page is mapped any more from here on, so one pass reaches all. A VMA that a process
        // is just making cannot escape either: its pages would be mapped by a fault.
        while let Some(mapping) = self.files.pop() {
            mapping.unmap();
        }

        let mut in_flight = KVec::new();
        while let Some(lease) = self.leases.pop() {
            let pinned = lease.pages.take(&closed).and_then(Allocation::release);
            if let Some(pinned) = pinned {
                // Without memory for it, the kernel waits for these pages later and says nothing.
                let _ = in_flight.push((lease.owner, pinned), GFP_KERNEL);
            }
        }

        drop(self.pool.take(&closed));
        self.gone.notify_all();
        self.wait_for(in_flight);
    }

    /// Waits until nobody refers to pages any more, and says from time to time for whom.
    fn wait_for(&self, mut pages: KVec<(Process, Pinned)>) {
        const FIRST: Delta = Delta::from_micros(100);
        const LONGEST: Delta = Delta::from_millis(20);

        let mut since = Instant::<Monotonic>::now();
        let mut pause = FIRST;

        loop {
            pages.retain(|(_, pinned)| pinned.bytes() != 0);
            if pages.is_empty() {
                return;
            }
            if since.elapsed() >= REPORT_INTERVAL {
                since = Instant::now();
                for (owner, pinned) in &pages {
                    dev_warn!(
                        self.device,
                        "waiting for DMA into {} bytes that {} asked for\n",
                        pinned.bytes(),
                        owner
                    );
                }
            }
            fsleep(pause);
            pause = (pause * 2).min(LONGEST);
        }
    }
}
