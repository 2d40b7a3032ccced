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
    debugfs,
    device::Bound,
    fmt,
    new_mutex,
    new_poll_condvar,
    pci,
    prelude::*,
    rbtree::RBTree,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        poll::PollCondVar,
        Arc,
        Mutex, //
    },
    task::Kuid,
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    }, //
};

use kernel_ext::{
    dma_buf::Exported,
    fs::Mapping,
    gate::{
        Gate,
        Gated,
        Guard, //
    },
    p2pmem::Allocation,
    pci::{
        p2pdma::Pool,
        Resource, //
    },
    task::{
        self,
        Process, //
    }, //
};

use crate::{
    dmabuf::Handle,
    driver::Regions,
    region::Region,
    registry::Registry,
    routes, //
};

use core::ops::Range;

/// How often somebody who waits says for whom.
const REPORT_INTERVAL: Delta = Delta::from_secs(10);

/// Memory that was given out.
pub(crate) type Pages = Arc<Gated<Allocation>>;

/// An entry of the list of memory that was given out.
struct Lease {
    pages: Pages,
    /// CPU addresses.
    place: Range<u64>,
    /// Who asked for it, and through which open file.
    owner: Process,
    user: Kuid,
    file: u64,
}

impl Lease {
    fn size(&self) -> u64 {
        self.place.end - self.place.start
    }
}

/// What the administrator decides while the device is in use.
pub(crate) struct Settings {
    /// Whether memory is cleared before it is given out.
    pub(crate) clear: Atomic<bool>,
    /// How many bytes an open file and a user may have; 0 for any number.
    pub(crate) limit_per_file: Atomic<u64>,
    pub(crate) limit_per_user: Atomic<u64>,
}

/// A device's peer-to-peer memory.
#[pin_data]
pub(crate) struct Provider {
    pdev: ARef<pci::Device>,
    gate: Arc<Gate>,
    pool: Gated<Pool>,
    regions: Regions,
    /// Whether another driver has the device.
    adopted: bool,
    pub(crate) settings: Settings,
    /// Where open files and dma-bufs are mapped. An entry is added inside the gate.
    #[pin]
    pub(crate) files: Registry<Mapping>,
    #[pin]
    leases: Registry<Lease>,
    /// What others may have imported. An entry is added inside the gate.
    #[pin]
    pub(crate) exports: Registry<Arc<Exported<Handle>>>,
    /// Who waits for the device to go away.
    #[pin]
    pub(crate) gone: PollCondVar,
    /// How others reach the memory. Taken inside the gate.
    #[pin]
    pub(crate) routes: Mutex<routes::Found>,
}

impl Provider {
    /// Creates a provider of the memory in `pool`, which is that of `regions`.
    pub(crate) fn new(
        pdev: &pci::Device<Bound>,
        pool: Pool,
        regions: Regions,
        adopted: bool,
    ) -> Result<Arc<Self>> {
        let gate = Arc::pin_init(Gate::new(), GFP_KERNEL)?;
        let pool = Gated::new(gate.clone(), pool);

        Arc::pin_init(
            pin_init!(Self {
                pdev: pdev.into(),
                gate,
                pool,
                regions,
                adopted,
                settings: Settings {
                    clear: Atomic::new(true),
                    limit_per_file: Atomic::new(0),
                    limit_per_user: Atomic::new(0),
                },
                files <- Registry::new(),
                leases <- Registry::new(),
                exports <- Registry::new(),
                gone <- new_poll_condvar!(),
                routes <- new_mutex!(None),
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

    /// Returns the device.
    pub(crate) fn device(&self) -> &pci::Device {
        &self.pdev
    }

    /// Returns where the memory lies.
    pub(crate) fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Returns whether another driver has the device, and published the memory.
    pub(crate) fn is_adopted(&self) -> bool {
        self.adopted
    }

    /// Returns how much memory there is, in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.regions.iter().map(|region| region.size).sum()
    }

    /// Returns how many bytes are given out.
    pub(crate) fn allocated(&self) -> u64 {
        self.leases.look(|all| all.map(Lease::size).sum())
    }

    /// Returns how many bytes are not given out.
    pub(crate) fn available(&self) -> u64 {
        self.size() - self.allocated()
    }

    /// Returns how many bytes are given out through an open file.
    pub(crate) fn allocated_by(&self, file: u64) -> u64 {
        self.leases.look(|all| {
            all.filter(|lease| lease.file == file)
                .map(Lease::size)
                .sum()
        })
    }

    /// Returns the length of the longest run that is not given out, in bytes.
    pub(crate) fn largest_run(&self) -> Result<u64> {
        let taken = self.leases.look(|all| {
            let mut sorted = RBTree::new();
            for Range { start, end } in all.map(|lease| lease.place.clone()) {
                sorted.try_create_and_insert(start, end, GFP_KERNEL)?;
            }
            Ok::<_, Error>(sorted)
        })?;

        let mut largest = 0;
        for region in &self.regions {
            let start = Resource::of(&self.pdev, region.bar)?.start + region.offset;
            let end = start + region.size;
            let mut free = start;

            for (&first, &last) in &taken {
                if (start..end).contains(&first) {
                    largest = largest.max(first - free);
                    free = last;
                }
            }
            largest = largest.max(end - free);
        }

        Ok(largest)
    }

    /// Gives out `size` bytes to the caller, through an open file. The memory goes back to the pool
    /// when the device goes away, or when [`Provider::remove_lease`] was called and the pages are
    /// dropped.
    ///
    /// `EINVAL` if `size` is not a multiple of the page size, `ENOSPC` if no free run is that
    /// long, `EDQUOT` if it is more than the file or the user may have.
    pub(crate) fn lease(&self, file: u64, size: usize, inside: &Guard<'_>) -> Result<(u64, Pages)> {
        let pool = self.pool.get(inside).ok_or(ENODEV)?;
        let allocation = Allocation::new(pool.alloc(size)?)?;
        let start = allocation.physical_address();
        let lease = Lease {
            pages: Arc::new(Gated::new(self.gate.clone(), allocation), GFP_KERNEL)?,
            place: start..start + size as u64,
            owner: Process::current(),
            user: kernel::current!().uid(),
            file,
        };
        let pages = lease.pages.clone();
        let user = lease.user;

        let key = self.leases.key();
        self.leases.insert_if(key, lease, |all| {
            let limits = [
                self.settings.limit_per_file.load(Relaxed),
                self.settings.limit_per_user.load(Relaxed),
            ];
            if limits == [0, 0] {
                return Ok(());
            }

            let mut used = [size as u64; 2];
            for lease in all {
                if lease.file == file {
                    used[0] += lease.size();
                }
                if lease.user == user {
                    used[1] += lease.size();
                }
            }
            let exceeds = |(used, limit): (u64, u64)| limit != 0 && used > limit;
            if used.into_iter().zip(limits).any(exceeds) {
                return Err(EDQUOT);
            }
            Ok(())
        })?;

        Ok((key, pages))
    }

    /// Clears memory that was just given out, unless the administrator does not want that. `EINTR` if
    /// the caller is killed meanwhile, `ENODEV` if the device is to go.
    pub(crate) fn clear(&self, allocation: &Allocation) -> Result {
        if !self.settings.clear.load(Relaxed) {
            return Ok(());
        }

        allocation.clear(|| {
            if self.is_gone() {
                Err(ENODEV)
            } else if task::is_killed() {
                Err(EINTR)
            } else {
                Ok(())
            }
        })
    }

    /// Takes memory off the list of what was given out.
    pub(crate) fn remove_lease(&self, key: u64) {
        drop(self.leases.remove(key));
    }

    /// Takes the memory back from everybody, since the device goes away.
    ///
    /// When this returns, no system call is under way on behalf of the device, no process can
    /// reach its memory, no other device has it, and DMA into memory that was given out has ended.
    /// The caller must have made sure that no more files are opened.
    pub(crate) fn revoke(&self) {
        let closed = self.gate.close();
        // Who has memory in an io_uring must let go of it.
        self.gone.notify_all();

        // No page is mapped any more from here on, so one pass reaches all. A VMA that a process
        // is just making cannot escape either: its pages would be mapped by a fault.
        while let Some(mapping) = self.files.pop() {
            mapping.unmap();
        }

        // All are told before any is waited for.
        let mut key = 0;
        while let Some((found, exported)) = self.exports.next(key) {
            exported.revoke();
            key = found + 1;
        }
        while let Some(exported) = self.exports.pop() {
            self.wait(
                || exported.is_in_use(),
                || {
                    exported.for_each_importer(|importer| {
                        dev_warn!(
                            self.pdev,
                            "waiting for {}, which has imported memory\n",
                            importer.name()
                        );
                    });
                },
            );
        }

        let mut in_flight = KVec::new();
        while let Some(lease) = self.leases.pop() {
            self.wait(
                || lease.pages.is_held(),
                || {
                    dev_warn!(
                        self.pdev,
                        "waiting for an io_uring with {} bytes that {} asked for\n",
                        lease.size(),
                        lease.owner
                    );
                },
            );
            let pinned = lease.pages.take(&closed).and_then(Allocation::release);
            if let Some(pinned) = pinned {
                // Without memory for it, the kernel waits for these pages later and says nothing.
                let _ = in_flight.push((lease.owner, pinned), GFP_KERNEL);
            }
        }

        drop(self.pool.take(&closed));
        for (owner, pinned) in in_flight {
            self.wait(
                || pinned.bytes() != 0,
                || {
                    dev_warn!(
                        self.pdev,
                        "waiting for DMA into {} bytes that {} asked for\n",
                        pinned.bytes(),
                        owner
                    );
                },
            );
        }
    }

    /// Waits while something is so, and reports from time to time.
    fn wait(&self, is_so: impl Fn() -> bool, report: impl Fn()) {
        const FIRST: Delta = Delta::from_micros(100);
        const LONGEST: Delta = Delta::from_millis(20);

        let mut since = Instant::<Monotonic>::now();
        let mut pause = FIRST;

        while is_so() {
            if since.elapsed() >= REPORT_INTERVAL {
                since = Instant::now();
                report();
            }
            fsleep(pause);
            pause = (pause * 2).min(LONGEST);
        }
    }
}

/// The list of what is given out, for developers: process, user, bytes, and where, a line for each.
pub(crate) struct List(pub(crate) Arc<Provider>);

impl debugfs::Writer for List {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.leases.look(|all| {
            for lease in all {
                let held = if lease.pages.is_held() { " held" } else { "" };
                f.write_fmt(fmt!(
                    "{} uid {} bytes {} at {:#x}{}\n",
                    lease.owner,
                    lease.user.into_uid_in_current_ns(),
                    lease.size(),
                    lease.place.start,
                    held
                ))?;
            }
            Ok(())
        })
    }
}
