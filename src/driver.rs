// SPDX-License-Identifier: GPL-2.0

//! The PCI driver: from a device to a provider.

use kernel::{
    debugfs,
    device::{
        Bound,
        Core, //
    },
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
    pci::{
        device_id,
        driver::Driver,
        enable_device,
        p2pdma,
        request_range,
        request_region,
        MsixCapability,
        Resource,
        STD_NUM_BARS, //
    },
    security, //
};

use crate::{
    choice::{
        Choice,
        Choices, //
    },
    config,
    file::File,
    number::{
        self,
        Number, //
    },
    nvme::{
        self,
        Switches, //
    },
    provider::{
        List,
        Provider, //
    },
    region::{
        self,
        Bar,
        Kind,
        Limits,
        Refusal,
        Region,
        Reserved, //
    },
    shared::Shared, //
};

/// Who has the BAR, in /proc/iomem.
pub(crate) const NAME: &CStr = <crate::LocalModule as kernel::ModuleMetadata>::NAME;

/// The PCI driver.
pub(crate) struct P2pmem;

/// What is known of a device by its ID.
pub(crate) struct Model {
    /// The BAR that is memory.
    bar: u32,
}

kernel_ext::pci_device_table!(
    PCI_TABLE,
    PCI_ALIASES,
    Model,
    [
        // Pure memory endpoints: no disk is ever taken away by loading the module.
        // QEMU inter-VM shared memory.
        (device_id(0x1af4, 0x1110), Model { bar: 2 }),
        // Eideticom IOMEM.
        (device_id(0x1de5, 0x1000), Model { bar: 0 }),
        // Microsemi MTRAMON NVRAM.
        (device_id(0x11f8, 0xf117), Model { bar: 4 }),
    ]
);

/// A device that is bound. Its fields are dropped in this order, before the device's memory.
#[pin_data]
pub(crate) struct Binding {
    /// First, nobody finds out more, and no more files are opened.
    #[pin]
    _list: debugfs::File<List>,
    #[pin]
    _node: Registration<File>,
    /// Then the memory is taken back from those that are open.
    revocation: Revocation,
    /// How it is switched on.
    switches: Switches,
    /// Then the number may be used again.
    _number: Number,
}

impl Binding {
    /// Gives the memory in `pool`, which is that of `regions`, to user space. `adopted` says whether
    /// another driver has the device.
    pub(crate) fn new<'a>(
        pdev: &'a pci::Device<Bound>,
        pool: p2pdma::Pool,
        regions: Regions,
        switches: Switches,
        adopted: bool,
    ) -> Result<impl PinInit<Self, Error> + 'a> {
        let number = Number::take_lowest().inspect_err(|_| {
            dev_err!(
                pdev,
                "there are {} providers, which is the most\n",
                number::MAX
            )
        })?;
        let name = CString::try_from_fmt(fmt!("p2pmem{}", number.get()))?;

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
            _list <- folder.read_only_file(c"allocations", List(provider.clone())),
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
            _number: number,
        }))
    }

    /// Returns the provider.
    pub(crate) fn provider(&self) -> &Arc<Provider> {
        &self.revocation.provider
    }

    /// Switches memory on again after the device was reset or without power. If that is not possible it is taken back from
    /// all processes.
    fn restarted(&self, pdev: &pci::Device) {
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

    /// Has dropping this wait for no DMA. The caller sees to the [`Rest`](crate::provider::Rest).
    pub(crate) fn leave_rest(&self) {
        self.revocation.leaves_rest.store(true, Relaxed);
    }
}

/// Revokes a provider when it is dropped.
struct Revocation {
    provider: Arc<Provider>,
    /// Whether dropping leaves the wait for DMA to a [`Rest`](crate::provider::Rest).
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

impl pci::Driver for P2pmem {
    type IdInfo = Model;
    type Data<'bound> = Binding;
    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        pdev: &'bound pci::Device<Core<'_>>,
        model: Option<&'bound Model>,
    ) -> impl PinInit<Binding, Error> + 'bound {
        pin_init::pin_init_scope(move || {
            enable_device(pdev)?;
            if crate::module_parameters::debug.value() != 0 {
                say_bars(pdev)?;
            }

            let mut switches = Switches::new();
            let regions = find_regions(pdev, model, &mut switches)?;
            let pool = register(pdev, &regions)?;
            p2pdma::publish(pdev, true);

            Binding::new(pdev, pool, regions, switches, false)
        })
    }

    fn unbind<'bound>(pdev: &'bound pci::Device<Core<'_>>, _binding: Pin<&Binding>) {
        // Nobody who looks for memory finds it any more. The rest is done by dropping the binding.
        p2pdma::publish(pdev, false);
    }
}

impl Driver for P2pmem {
    fn restarted<'bound>(pdev: &'bound pci::Device<Core<'_>>, binding: Pin<&Binding>) {
        binding.restarted(pdev);
    }
}

/// Where memory lies: at least one region.
pub(crate) type Regions = KVec<Region>;

/// Returns the BAR of a device as plain numbers.
pub(crate) fn bar(pdev: &pci::Device, number: u32) -> Result<Bar> {
    let resource = Resource::of(pdev, number)?;

    Ok(Bar {
        number,
        start: resource.start,
        size: resource.size,
        kind: if resource.is_memory() {
            Kind::Memory {
                prefetchable: resource.is_prefetchable(),
                wide: resource.is_64bit(),
            }
        } else if resource.is_io() {
            Kind::Io
        } else {
            Kind::Absent
        },
        assigned: resource.is_assigned(),
    })
}

/// Writes the table of all BARs to the log.
fn say_bars(pdev: &pci::Device) -> Result {
    for number in 0..STD_NUM_BARS {
        let resource = Resource::of(pdev, number)?;
        if resource.is_memory() || resource.is_io() {
            dev_info!(
                pdev,
                "BAR {}: {}{}{}, address {:#x}{}, {} bytes, flags {:#x}\n",
                number,
                if resource.is_memory() {
                    "memory"
                } else {
                    "I/O ports"
                },
                if resource.is_64bit() { ", 64-bit" } else { "" },
                if resource.is_prefetchable() {
                    ", prefetchable"
                } else {
                    ""
                },
                resource.start,
                if resource.is_assigned() {
                    ""
                } else {
                    " (not assigned)"
                },
                resource.size,
                resource.flags
            );
        }
    }

    Ok(())
}

/// Returns the ranges of a device's BARs that are never registered.
fn reserved(pdev: &pci::Device) -> [Option<Reserved>; 3] {
    let (table, pba) = match MsixCapability::of(pdev) {
        Some(MsixCapability {
            control,
            table,
            pba,
        }) => {
            let [table, pba] = Reserved::msix(control, table, pba);
            (Some(table), Some(pba))
        }
        None => (None, None),
    };
    let registers = nvme::is_controller(pdev).then_some(Reserved::NVME);

    [registers, table, pba]
}

/// Returns the part of a range of a BAR that can be registered, and says what is lost.
pub(crate) fn usable(
    pdev: &pci::Device,
    bar: &Bar,
    offset: u64,
    size: u64,
) -> Result<Region, Refusal> {
    let limits = Limits {
        alignment: p2pdma::alignment(),
        mappable: p2pdma::mappable(),
    };
    let reserved = reserved(pdev);
    let inside = |one: &&Reserved| one.is_in(bar.number, offset, size);
    for one in reserved.iter().flatten().filter(inside) {
        dev_info!(
            pdev,
            "BAR {}: left out: {}, {} bytes at offset {:#x}\n",
            bar.number,
            one.name,
            one.size,
            one.offset
        );
    }
    let region = region::part(bar, offset, size, &reserved, &limits)?;

    if region.size < size {
        dev_warn!(
            pdev,
            "BAR {}: {} of {} bytes are lost, memory comes in aligned units of {} bytes\n",
            bar.number,
            size - region.size,
            size,
            limits.alignment
        );
    }

    Ok(region)
}

/// Finds what to register: what the administrator chose, the BAR that the ID table names, the memory
/// of an NVMe controller, or else the BAR that most likely is memory. The regions, and the
/// registers of a controller, are claimed as long as the device is bound.
fn find_regions(
    pdev: &pci::Device<Core<'_>>,
    model: Option<&Model>,
    switches: &mut Switches,
) -> Result<Regions> {
    let choices = config::choices(pdev);
    let controller = nvme::is_controller(pdev);
    let mut regions = Regions::new();

    if controller {
        request_region(pdev, nvme::BAR, NAME).inspect_err(|_| say_in_use(pdev, nvme::BAR))?;
    }
    match (choices, model) {
        (Some(choices), _) => choose(pdev, model, &choices, &mut regions, switches)?,
        (None, Some(model)) => {
            let bar = bar(pdev, model.bar)?;
            add(pdev, usable(pdev, &bar, 0, bar.size), &mut regions)?;
        }
        (None, None) if controller => {
            nvme::discover(pdev, nvme::Memory::ANY, &mut regions, switches)?
        }
        (None, None) => {
            check_access(pdev)?;
            let mut bars = KVec::with_capacity(STD_NUM_BARS as usize, GFP_KERNEL)?;
            for number in 0..STD_NUM_BARS {
                bars.push(bar(pdev, number)?, GFP_KERNEL)?;
            }
            let found = region::choose(&bars).and_then(|bar| usable(pdev, bar, 0, bar.size));
            add(pdev, found, &mut regions)?;
        }
    }

    region::disjoint(&regions).map_err(|refusal| refuse(pdev, refusal))?;
    for region in &regions {
        // The rest of the BAR may hold registers that a program has mapped.
        if !(controller && region.bar == nvme::BAR) {
            request_range(pdev, region.bar, region.offset, region.size, NAME)
                .inspect_err(|_| say_in_use(pdev, region.bar))?;
        }
    }

    Ok(regions)
}

/// Finds what the administrator chose: all of it, or nothing.
fn choose(
    pdev: &pci::Device<Core<'_>>,
    model: Option<&Model>,
    choices: &Choices,
    regions: &mut Regions,
    switches: &mut Switches,
) -> Result {
    let wanted = nvme::Memory {
        cmb: choices.list().contains(&Choice::Cmb),
        pmr: choices.list().contains(&Choice::Pmr),
    };
    if wanted.cmb || wanted.pmr {
        if !nvme::is_controller(pdev) {
            dev_err!(
                pdev,
                "no NVMe controller, so that it has neither CMB nor PMR: choose a BAR\n"
            );
            return Err(EINVAL);
        }
        nvme::discover(pdev, wanted, regions, switches)?;
    }

    for choice in choices.list() {
        if let Choice::Bar {
            number,
            offset,
            size,
        } = *choice
        {
            if model.is_none_or(|model| model.bar != number) {
                check_access(pdev)?;
            }
            let bar = bar(pdev, number)?;
            let found = usable(pdev, &bar, offset, bar.length(offset, size));
            add(pdev, found, regions)?;
        }
    }

    Ok(())
}

/// Checks that a BAR may be given to user space of which only the administrator says that it is memory: as that of any device,
/// by which a process could do what the kernel does not allow.
fn check_access(pdev: &pci::Device) -> Result {
    security::check_pci_access().inspect_err(|_| {
        dev_err!(
            pdev,
            "the kernel is locked down: only CMB, PMR and memory known by its ID can be registered\n"
        )
    })
}

/// Adds a region, or says why it cannot be.
fn add(pdev: &pci::Device, found: Result<Region, Refusal>, regions: &mut Regions) -> Result {
    let region = found.map_err(|refusal| refuse(pdev, refusal))?;

    Ok(regions.push(region, GFP_KERNEL)?)
}

fn refuse(pdev: &pci::Device, refusal: Refusal) -> Error {
    dev_err!(pdev, "{}\n", refusal);

    EINVAL
}

fn say_in_use(pdev: &pci::Device, bar: u32) {
    dev_err!(
        pdev,
        "BAR {} is in use: unbind who has it, see /proc/iomem\n",
        bar
    );
}

/// Makes peer-to-peer memory of regions, and returns the pool that holds all of it.
pub(crate) fn register(pdev: &pci::Device<Core<'_>>, regions: &[Region]) -> Result<p2pdma::Pool> {
    let mut pool = None;

    for region in regions {
        let size = region.size.try_into()?;
        let added = p2pdma::add_resource(pdev, region.bar, region.offset, size);
        pool = Some(added.inspect_err(|error| {
            dev_err!(
                pdev,
                "the kernel cannot make peer-to-peer memory of BAR {}: {:?}\n",
                region.bar,
                error
            )
        })?);
    }

    pool.ok_or(ENODEV)
}
