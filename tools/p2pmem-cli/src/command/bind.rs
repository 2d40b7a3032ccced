// SPDX-License-Identifier: GPL-2.0

//! `p2pmem bind`.

use super::{
    change::{note, report, Change},
    complete::devices,
    interrupt,
};
use p2pmem::Root;

use crate::manage::{self, Device};
use anyhow::{Context, Result};
use clap::Args;
use clap_complete::engine::ArgValueCandidates;

/// Give a PCI device to p2pmem_rs, which makes its memory a node.
///
/// The current driver of the device is unbound. Before that, the command checks that the device is
/// no bridge, that the regions are memory which can be registered, and that the device is not in
/// use (by a mount, swap, an array of drives, a loop device, a process that has a device node
/// open). If p2pmem_rs refuses the device, its driver is bound again, and the error has the reason.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    p2pmem bind 0000:05:00.0 --regions 'bar2@16M+64M'\n  \
    p2pmem bind 05:00.0 --regions bar2+32M --regions bar4\n  \
    p2pmem bind 03:00.0 --regions cmb --dry-run")]
pub struct Arguments {
    /// The device, like 0000:05:00.0 or 05:00.0, or its node.
    #[arg(add = ArgValueCandidates::new(devices))]
    device: String,
    /// Memory to register: cmb, pmr, or barN[@OFFSET][+SIZE], in bytes or with K, M or G; or
    /// default.
    ///
    /// Can be passed several times. Without it, the regions that were chosen before, or the
    /// default.
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
    let root = Root::default();
    let device = Device::find(&root, &arguments.device)?;
    let regions = arguments.regions.join(" ");
    let regions = Some(&*regions).filter(|regions| !regions.is_empty());
    let plan = manage::bind(&root, &device, regions, arguments.force)?;

    note(&plan);
    // A change that was begun is finished, or undone.
    let _signals = interrupt::flag()?;
    let node = match arguments.dry_run {
        true => None,
        false => Some(
            plan.run(&root, || manage::wait_for_node(&root, &device))
                .with_context(|| format!("cannot bind {}", device.pci))?,
        ),
    };
    let change = Change {
        driver: device.driver(&root),
        path: node.map(|node| node.id.path()),
        ..Change::new(&device, &plan, arguments.dry_run)
    };
    report("bind", &change, arguments.json, || match &change.path {
        Some(path) => format!("{} is {}\n", change.pci, path.display()),
        None => format!("{} has no node\n", change.pci),
    })
}
