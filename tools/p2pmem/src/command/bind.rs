// SPDX-License-Identifier: GPL-2.0

//! `p2pmem bind`.

use anyhow::{Context, Result};
use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use p2pmem::manage::{self, Device, Roots};

use super::{
    change::{note, report, Change},
    complete::devices,
    interrupt,
};

/// Give a PCI device to p2pmem_rs, which makes its memory a node.
///
/// The driver that has the device loses it. What can be known is checked before: that the device is no
/// bridge, that there is memory to register where the regions tell, and that nothing uses the device (a
/// mount, swap, a device that a drive is part of, a loop device, a process that has a device node open).
/// If p2pmem_rs refuses the device, the driver gets it back, and the error has the reason.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    p2pmem bind 0000:05:00.0 --regions 'bar2@16M+64M'\n  \
    p2pmem bind 05:00.0 --regions bar2+32M --regions bar4\n  \
    p2pmem bind 03:00.0 --regions cmb --dry-run")]
pub struct Arguments {
    /// The device, like 0000:05:00.0 or 05:00.0, or its node.
    #[arg(add = ArgValueCandidates::new(devices))]
    device: String,
    /// What to take of it: cmb, pmr, or barN[@OFFSET][+SIZE], in bytes or with K, M or G; or default.
    ///
    /// Can be given several times. Without it, what was chosen before or is taken by default.
    #[arg(long, value_parser = super::config::regions)]
    regions: Vec<String>,
    /// Take the device even if it is in use.
    #[arg(long)]
    force: bool,
    /// Print what would be done as shell commands, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Binds a device, and says which node it has.
pub fn run(arguments: &Arguments) -> Result<()> {
    let roots = Roots::default();
    let device = Device::find(&roots, &arguments.device)?;
    let regions = arguments.regions.join(" ");
    let regions = Some(&*regions).filter(|regions| !regions.is_empty());
    let plan = manage::bind(&roots, &device, regions, arguments.force)?;

    note(&plan);
    // What was begun is finished, or undone.
    let _signals = interrupt::flag()?;
    let node = match arguments.dry_run {
        true => None,
        false => Some(
            plan.run(&roots, || manage::wait_for_node(&roots, &device))
                .with_context(|| format!("cannot bind {}", device.pci))?,
        ),
    };
    let change = Change {
        driver: device.driver(&roots),
        path: node.map(|node| node.path),
        ..Change::new(&device, &plan, arguments.dry_run)
    };
    report("bind", &change, arguments.json, || match &change.path {
        Some(path) => format!("{} is {}\n", change.pci, path.display()),
        None => format!("{} has no node\n", change.pci),
    })
}
