// SPDX-License-Identifier: GPL-2.0

//! `p2pmem unbind`.

use super::{
    change::{note, report, Change},
    complete::providers,
    interrupt,
};
use p2pmem::Root;

use crate::manage::{self, Device, Unbind, DRIVER, NO_DRIVER};
use anyhow::{Context, Result};
use clap::Args;
use clap_complete::engine::ArgValueCandidates;

/// Unbind a PCI device from p2pmem_rs, and bind it to its own driver again.
///
/// A device whose ID p2pmem_rs knows is left without a driver: its driver_override is `none` until
/// bind. Regions that were chosen are kept for the next bind. Without --force, the command fails if
/// memory is in use; with it, processes that have it mapped get SIGBUS, and unbinding waits for DMA
/// in flight.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    p2pmem unbind p2pmem0\n  \
    p2pmem unbind p2pmem0 --force --forget\n  \
    p2pmem unbind 0000:05:00.0 --dry-run")]
pub struct Arguments {
    /// The device, like 0000:05:00.0 or 05:00.0, or its node.
    #[arg(add = ArgValueCandidates::new(providers))]
    device: String,
    /// Unbind even if memory is in use.
    #[arg(long)]
    force: bool,
    /// Forget the regions that were chosen as well.
    #[arg(long)]
    forget: bool,
    /// Print what would be done as shell commands, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Unbinds a device, and says which driver it has.
pub fn run(arguments: &Arguments) -> Result<()> {
    let root = Root::default();
    let device = Device::find(&root, &arguments.device)?;
    let how = Unbind {
        force: arguments.force,
        forget: arguments.forget,
        dry_run: arguments.dry_run,
    };

    // A change that was begun is finished, or undone.
    let _signals = interrupt::flag()?;
    let plan = manage::unbind(&root, &device, how)?;
    note(&plan);
    let mut change = Change::new(&device, &plan, arguments.dry_run);
    if !arguments.dry_run {
        let failed = || format!("cannot unbind {}", device.pci);
        plan.run(&root, || Ok(())).with_context(failed)?;
        // One that was reserved for the driver without being bound may be bound by its ID now.
        if device.driver(&root).as_deref() == Some(DRIVER) {
            let more = manage::unbind(&root, &device, how)?;
            more.run(&root, || Ok(())).with_context(failed)?;
            change.steps.extend(more.steps().iter().cloned());
        }
    }
    change.driver = device.driver(&root);

    report("unbind", &change, arguments.json, || {
        let pci = &device.pci;
        let mut text = match &change.driver {
            Some(driver) => format!("{pci} is bound to {driver} again\n"),
            None if device.driver_override(&root).as_deref() == Some(NO_DRIVER) => format!(
                "{pci} has no driver now, because its driver_override is {NO_DRIVER}: \
                 p2pmem bind {pci} binds it again\n"
            ),
            None => format!("{pci} has no driver now: p2pmem bind {pci} binds it again\n"),
        };
        if let Ok(Some(regions)) = manage::choices::of(&root, *pci) {
            text += &format!(
                "the next bind registers {regions} (p2pmem unbind --forget forgets them)\n"
            );
        }
        text
    })
}
