// SPDX-License-Identifier: GPL-2.0

//! `p2pmem unbind`.

use anyhow::{Context, Result};
use clap::Args;
use p2pmem::manage::{self, Device, Roots};

use super::{
    change::{report, Change},
    interrupt,
};

/// Take a PCI device from p2pmem_rs, and give it back to its own driver.
///
/// Undoes what bind did: regions that were chosen are forgotten as well. Whoever has the memory mapped
/// gets SIGBUS; DMA that is under way is waited for. A device that p2pmem_rs has by its ID is left
/// without a driver.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    p2pmem unbind p2pmem0\n  \
    p2pmem unbind 0000:05:00.0 --dry-run")]
pub struct Arguments {
    /// The device, like 0000:05:00.0 or 05:00.0, or its node.
    device: String,
    /// Print what would be done as shell commands, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Unbinds a device, and says which driver it has.
pub fn run(arguments: &Arguments) -> Result<()> {
    let roots = Roots::default();
    let device = Device::find(&roots, &arguments.device)?;
    let plan = manage::unbind(&roots, &device)?;

    // What was begun is finished, or undone.
    let _signals = interrupt::flag()?;
    if !arguments.dry_run {
        plan.run(&roots, || Ok(()))
            .with_context(|| format!("cannot unbind {}", device.pci))?;
    }
    let change = Change {
        driver: device.driver(&roots),
        ..Change::new(&device, &plan, arguments.dry_run)
    };
    report(&change, arguments.json, || match &change.driver {
        Some(driver) => println!("{} is back with {driver}", change.pci),
        None => println!(
            "{0} has no driver now: p2pmem bind {0} binds it again",
            change.pci
        ),
    })
}
