// SPDX-License-Identifier: GPL-2.0

//! Output of commands that change a device.

use std::path::PathBuf;

use crate::manage::{ChangePlan, Device, Step};
use anyhow::Result;
use p2pmem::PciAddress;
use serde::Serialize;

use super::output;
use crate::terminal;

/// Output of `--json`.
#[derive(Serialize)]
pub struct Change {
    /// The address of the PCI device.
    pub pci: PciAddress,
    /// The driver that has the device now. Null if none has.
    pub driver: Option<String>,
    /// The node that it has now. Null if it has none, and after a dry run.
    pub path: Option<PathBuf>,
    /// Whether nothing was done.
    pub dry_run: bool,
    /// Files and lines that were written, or would be.
    pub steps: Vec<Step>,
}

impl Change {
    /// Begins with what was planned.
    pub fn new(device: &Device, plan: &ChangePlan, dry_run: bool) -> Self {
        Self {
            pci: device.pci,
            driver: None,
            path: None,
            dry_run,
            steps: plan.steps().to_vec(),
        }
    }
}

/// Prints the notes of a plan to standard error.
pub fn note(plan: &ChangePlan) {
    for note in plan.notes() {
        terminal::complain(&format!("p2pmem: {note}"));
    }
}

/// Prints what was done, in words that the command knows, or what would be.
pub fn report(
    command: &str,
    change: &Change,
    json: bool,
    words: impl FnOnce() -> String,
) -> Result<()> {
    if json {
        return output::print(command, change, None);
    }
    terminal::print(&if change.dry_run {
        change.steps.iter().fold(String::new(), |mut text, step| {
            text.push_str(&step.to_string());
            text.push('\n');
            text
        })
    } else {
        words()
    })
}
