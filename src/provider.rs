// SPDX-License-Identifier: GPL-2.0

//! A device's peer-to-peer memory, and its users.
//!
//! Lock order, outermost first:
//!
//! 1. the device lock (probe, unbind, and the bus notifier by which devices are adopted), then the
//!    misc device lock (open): neither is taken by us with one of the following held;
//! 2. the mmap lock of a process (mmap, faults, the end of a VMA);
//! 3. the gate of a provider. Entering never waits. Closing waits for those inside, so it is done
//!    with none of these locks held but the device lock, which no caller takes inside;
//! 4. the lock of an allocation, while a piece of it is prepared, and of a pool, while memory is
//!    aligned;
//! 5. the lock of a registry, of the allocations, of the users, or of the list of adopted devices:
//!    nothing is called with it held.
//!
//! The lock of an io_uring, under which a slot is filled or released, comes before 3 to 5. It is
//! not taken inside the gate, nor waited for by revocation: a user can hold it for any time.
//!
//! A provider outlives the binding of its device, since open files and mappings refer to it.
//! [`Provider::withdraw`] and [`Provider::finish`] are the end of the binding; after them it is an
//! empty shell.

use kernel::{
    device::{
        Bound,
        Device, //
    },
    new_poll_condvar,
    pci,
    prelude::*,
    str::CString,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        poll::PollCondVar,
        Arc, //
    }, //
};

use kernel_ext::{
    cgroup::DeviceMemory,
    fs::AnonInode,
    gate::{
        Gate,
        RegistrationGuard,
        SleepableRevocable, //
    },
    io_uring::cmd::Slot,
    p2pmem::Allocation,
    pci::{
        p2pdma::Pool,
        Resource, //
    },
    task,
    workqueue::RetryWork, //
};

use crate::regions::range::Region;

mod account;
mod allocations;
pub(crate) mod buffer;
mod registry;
pub(crate) mod revoke;

pub(crate) use account::Account;
pub(crate) use allocations::{
    Key,
    Memory, //
};

use account::Accounts;
use allocations::{
    AllocationEntry,
    Allocations,
    Place,
    Summary, //
};
use registry::Registry;

/// Processes that may have memory which is not mapped: in a slot of an io_uring, or exported to
/// devices that cannot unmap on revocation.
///
/// Both pass checks of the kernel that mapped memory does not pass: whether a block device takes
/// memory of devices at all, and that requests for it are not merged with others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// No process.
    Nobody,
    /// A process that may do raw I/O (`CAP_SYS_RAWIO`).
    Privileged,
    /// Every process that may open the node.
    Everybody,
}

impl Privilege {
    pub(crate) const ALL: [Self; 3] = [Self::Nobody, Self::Privileged, Self::Everybody];

    /// Returns the name in sysfs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Privileged => "privileged",
            Self::Everybody => "everybody",
        }
    }
}

/// Settings that the administrator changes while the device is in use.
pub(crate) struct Settings {
    /// Whether memory is cleared before its first use.
    pub(crate) clear: Atomic<bool>,
    /// Processes that may fill slots, as an index of [`Privilege::ALL`].
    slots: Atomic<u32>,
}

impl Settings {
    /// Returns who may have memory that is not mapped.
    pub(crate) fn slots(&self) -> Privilege {
        let index = self.slots.load(Relaxed) as usize;

        Privilege::ALL
            .get(index)
            .copied()
            .unwrap_or(Privilege::Nobody)
    }

    /// Sets who may have memory that is not mapped. Memory that a process has stays there.
    pub(crate) fn set_slots(&self, privilege: Privilege) {
        self.slots.store(privilege as u32, Relaxed);
    }
}

/// Memory that other devices may have imported.
pub(crate) trait Export: Send + Sync {
    /// Asks importers to unmap the memory, and refuses it to others from now on. Does not wait.
    fn revoke(&self);

    /// Returns whether an importer has it mapped still. May sleep.
    fn is_in_use(&self) -> bool;

    /// Passes each importer to `see`, which must not sleep for long.
    fn for_each_importer(&self, see: &mut dyn FnMut(&Device));
}

/// A device's peer-to-peer memory.
#[pin_data]
pub(crate) struct Provider {
    pdev: ARef<pci::Device>,
    gate: Arc<Gate>,
    pool: Pool,
    regions: KVec<Region>,
    /// Whether another driver has the device.
    adopted: bool,
    pub(crate) settings: Settings,
    pub(crate) accounts: Arc<Accounts>,
    /// Charges of control groups. None once the device is gone: its name can be used again then.
    charged: Pin<KBox<SleepableRevocable<Option<DeviceMemory>>>>,
    /// Through its address space all files and dma-bufs are mapped.
    pub(crate) inode: Arc<AnonInode>,
    /// Allocations. An entry is added inside the gate.
    #[pin]
    allocations: RetryWork<Allocations>,
    /// Exports that other devices may have imported. An entry is added inside the gate.
    #[pin]
    pub(crate) exports: Registry<Arc<dyn Export>>,
    /// Slots of rings that memory is in.
    #[pin]
    pub(crate) slots: Registry<Arc<Slot>>,
    /// Waiters for the end of the device.
    #[pin]
    pub(crate) gone: PollCondVar,
}

impl Provider {
    /// Creates a provider of the memory in `pool`, which is that of `regions`.
    pub(crate) fn new(
        pdev: &pci::Device<Bound>,
        pool: Pool,
        regions: KVec<Region>,
        adopted: bool,
    ) -> Result<Arc<Self>> {
        let gate = Arc::pin_init(Gate::new(), GFP_KERNEL)?;
        let accounts = Accounts::new()?;
        let inode = AnonInode::new()?;
        let allocated = Allocations::new()?;
        let size = regions.iter().map(|region| region.size).sum();
        let device: &Device = pdev.as_ref();
        let name = CString::try_from_fmt(fmt!("p2pmem/{}", device.name()))?;
        let charged = Some(DeviceMemory::new(size, &name)?);
        let charged = KBox::pin_init(
            SleepableRevocable::new(gate.clone(), Ok(charged)),
            GFP_KERNEL,
        )?;

        Arc::pin_init(
            pin_init!(Self {
                pdev: pdev.into(),
                gate,
                pool,
                regions,
                adopted,
                settings: Settings {
                    clear: Atomic::new(true),
                    slots: Atomic::new(Privilege::Privileged as u32),
                },
                accounts,
                charged,
                inode,
                allocations <- RetryWork::new(allocated),
                exports <- Registry::new(),
                slots <- Registry::new(),
                gone <- new_poll_condvar!(),
            }),
            GFP_KERNEL,
        )
    }

    /// Enters the gate: the device stays bound while the guard lives. `ENODEV` once it is gone.
    pub(crate) fn enter(&self) -> Result<RegistrationGuard<'_>> {
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

    /// Returns how many bytes are allocated.
    pub(crate) fn allocated(&self) -> u64 {
        self.accounts.allocated()
    }

    /// Returns how many bytes are not allocated.
    pub(crate) fn available(&self) -> u64 {
        self.size().saturating_sub(self.allocated())
    }

    /// Returns the length of the longest run that is not allocated, in bytes.
    pub(crate) fn largest_run(&self) -> Result<u64> {
        let mut longest = 0;
        for region in &self.regions {
            let start = Resource::of(&self.pdev, region.bar)?.start + region.offset;

            longest = longest.max(self.allocations.longest_free(start..start + region.size));
        }

        Ok(longest)
    }

    /// `EPERM` unless the caller may have memory that is not mapped.
    pub(crate) fn check_unmapped_use(&self) -> Result {
        let allowed = match self.settings.slots() {
            Privilege::Nobody => false,
            Privilege::Privileged => task::may_do_raw_io(),
            Privilege::Everybody => true,
        };

        allowed.then_some(()).ok_or(EPERM)
    }

    /// Allocates `size` bytes for an open file. The memory goes back to the pool when the device
    /// goes away, or when [`Provider::free`] was called and no user refers to its pages any more.
    ///
    /// It starts at a large page if a run of that alignment is free.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `size` is not a multiple of the page size, `ENOSPC` if no free run is that
    /// long, `EDQUOT` if it is more than the file, the user, or the control group may have.
    pub(crate) fn allocate(
        &self,
        account: &Arc<Account>,
        size: usize,
        inside: &RegistrationGuard<'_>,
    ) -> Result<(Key, Memory)> {
        if size as u64 > self.size() {
            return Err(ENOSPC);
        }
        let mut reservation = account.reserve(size as u64)?;
        if let Some(Some(charged)) = self.charged.get(inside) {
            let charge = charged.charge(size as u64).map_err(|error| match error {
                // More than the group may have: as with the other limits.
                EAGAIN => EDQUOT,
                error => error,
            })?;
            reservation.keep(charge);
        }
        let place = Place::new(GFP_KERNEL_ACCOUNT)?;

        let run = self.pool.alloc(size, Allocation::alignment(size))?;
        let start = run.physical_address();
        let clear = self.settings.clear.load(Relaxed);
        let allocation = Allocation::new(run, clear);
        let memory = Arc::pin_init(
            SleepableRevocable::new(self.gate.clone(), allocation),
            GFP_KERNEL_ACCOUNT,
        )?;

        let large = memory
            .get(inside)
            .map_or(0, Allocation::size_in_large_pages);
        reservation.set_large(large as u64);
        let entry = AllocationEntry::new(memory.clone(), reservation);
        Ok((self.allocations.insert(place, start, entry), memory))
    }

    /// Passes what is to be told of each allocation to `see`, until that fails. Allocations may
    /// come and go during that.
    pub(crate) fn for_each_allocation<E>(
        &self,
        see: impl FnMut(Summary) -> Result<(), E>,
    ) -> Result<(), E> {
        self.allocations.for_each(see)
    }

    /// Gives memory back that has no user any more. What DMA still uses is given back later.
    ///
    /// The caller must have dropped its references to the memory.
    pub(crate) fn free(&self, key: Key) {
        // Otherwise the device is going away, and the memory is being given back.
        if let Some(memory) = self.allocations.take(key) {
            if self.allocations.give_back(key, memory) {
                self.allocations.schedule();
            }
        }
    }
}
