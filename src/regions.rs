// SPDX-License-Identifier: GPL-2.0

//! Which memory of a device to register: finds it, claims it, and registers it with p2pdma.

pub(crate) mod bar;
mod display;
pub(crate) mod file;
mod policy;
pub(crate) mod range;
pub(crate) mod spec;

use kernel::{
    device::Core,
    pci,
    prelude::*, //
};

use kernel_ext::{
    pci::{
        p2pdma,
        request_range,
        request_region,
        STD_NUM_BARS, //
    },
    security, //
};

use crate::nvme::{
    self,
    Switches, //
};

use bar::{
    bar,
    is_nvme_controller,
    trim,
    NAME, //
};
use range::{
    Region,
    RegionError, //
};
use spec::{
    RegionSpec,
    RegionSpecs, //
};

/// Finds what to register: what the administrator chose, the BAR `known` that the ID table names,
/// the memory of an NVMe controller, or else the BAR that most likely is memory. The regions, and
/// the registers of a controller, are claimed as long as the device is bound.
pub(crate) fn find(
    pdev: &pci::Device<Core<'_>>,
    known: Option<u32>,
    switches: &mut Switches,
) -> Result<KVec<Region>> {
    let specs = file::specs(pdev);
    let controller = is_nvme_controller(pdev);
    let mut regions = KVec::new();

    if controller {
        request_region(pdev, nvme::BAR, NAME).inspect_err(|_| log_in_use(pdev, nvme::BAR))?;
    }
    match (specs, known) {
        (Some(specs), _) => choose(pdev, known, &specs, &mut regions, switches)?,
        (None, Some(number)) => {
            let bar = bar(pdev, number)?;
            add(pdev, trim(pdev, &bar, 0, bar.size), &mut regions)?;
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
            let found = policy::default_bar(&bars).and_then(|bar| trim(pdev, bar, 0, bar.size));
            add(pdev, found, &mut regions)?;
        }
    }

    range::disjoint(&regions).map_err(|error| refuse(pdev, error))?;
    for region in &regions {
        // The rest of the BAR may hold registers that a program has mapped.
        if !(controller && region.bar == nvme::BAR) {
            request_range(pdev, region.bar, region.offset, region.size, NAME)
                .inspect_err(|_| log_in_use(pdev, region.bar))?;
        }
    }

    Ok(regions)
}

/// Finds what the administrator chose: all of it, or nothing.
fn choose(
    pdev: &pci::Device<Core<'_>>,
    known: Option<u32>,
    specs: &RegionSpecs,
    regions: &mut KVec<Region>,
    switches: &mut Switches,
) -> Result {
    let wanted = nvme::Memory {
        cmb: specs.list().contains(&RegionSpec::Cmb),
        pmr: specs.list().contains(&RegionSpec::Pmr),
    };
    if wanted.cmb || wanted.pmr {
        if !is_nvme_controller(pdev) {
            dev_err!(
                pdev,
                "no NVMe controller, so that it has neither CMB nor PMR: choose a BAR\n"
            );
            return Err(EINVAL);
        }
        nvme::discover(pdev, wanted, regions, switches)?;
    }

    for spec in specs.list() {
        if let RegionSpec::Bar {
            number,
            offset,
            size,
        } = *spec
        {
            if known != Some(number) {
                check_access(pdev)?;
            }
            let bar = bar(pdev, number)?;
            let found = trim(pdev, &bar, offset, bar.length(offset, size));
            add(pdev, found, regions)?;
        }
    }

    Ok(())
}

/// Checks that a BAR may be given to user space of which only the administrator says that it is
/// memory: as that of any device, by which a process could do what the kernel does not allow.
fn check_access(pdev: &pci::Device) -> Result {
    security::check_pci_access().inspect_err(|_| {
        dev_err!(
            pdev,
            "the kernel is locked down: only CMB, PMR and memory known by its ID can be registered\n"
        )
    })
}

/// Adds a region, or says why it cannot be.
fn add(
    pdev: &pci::Device,
    found: Result<Region, RegionError>,
    regions: &mut KVec<Region>,
) -> Result {
    let region = found.map_err(|error| refuse(pdev, error))?;

    Ok(regions.push(region, GFP_KERNEL)?)
}

fn refuse(pdev: &pci::Device, error: RegionError) -> Error {
    dev_err!(pdev, "{}\n", error);

    EINVAL
}

fn log_in_use(pdev: &pci::Device, bar: u32) {
    dev_err!(
        pdev,
        "BAR {} is claimed by another driver: \
         unbind that driver first (see /proc/iomem)\n",
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
