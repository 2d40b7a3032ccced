// SPDX-License-Identifier: GPL-2.0

//! `p2pmem apply`.

use std::{fmt::Write, path::PathBuf, process};

use anyhow::{anyhow, Result};
use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use p2pmem::{PciAddress, Root};

use serde::Serialize;

use crate::{
    apply::{self, Difference, Groups, Line, Mistake, Pairing, FOLDER},
    manage::Device,
    terminal,
};

use super::{complete::nodes_and_devices, interrupt, output};

/// Configure devices as /etc/p2pmem/regions.d says.
///
/// Reads all files there whose names end in .conf, binds the devices that they name, sets regions,
/// settings, group and mode of their nodes, and prints what differed. A device that is as its line
/// says is not touched. A device that is not there is left out. udev runs this when a device, a
/// node or the module appears.
///
/// A line is a device, its regions, and settings:
///
///     0000:05:00.0 bar2@0+64M limit-per-user=16M
///     1af4:1110 serial=00-11-22-33-44-55-66-77 group=storage mode=660
///     0000:03:00.0 pmr
///     0000:06:00.0 take=on clear=off slots=nobody
#[derive(Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  \
    p2pmem apply --dry-run\n  \
    p2pmem apply 0000:05:00.0"
)]
pub struct Arguments {
    /// Only these devices, like 0000:05:00.0 or 05:00.0, or their nodes.
    #[arg(add = ArgValueCandidates::new(nodes_and_devices))]
    device: Vec<String>,
    /// The folder with the files.
    #[arg(long, value_name = "DIRECTORY", default_value = FOLDER)]
    folder: PathBuf,
    /// Print what differs, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Exit with status 0 if a line names the device, else 1. For udev rules.
    #[arg(long, hide = true, requires = "device", conflicts_with = "dry_run")]
    find: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Output of `--json`.
#[derive(Serialize)]
struct Applied {
    /// Devices that have a line, in the order of the lines.
    devices: Vec<Outcome>,
    /// Places of lines whose device is not there.
    absent: Vec<String>,
    /// Whether nothing was changed.
    dry_run: bool,
}

/// The result for a device.
#[derive(Serialize)]
struct Outcome {
    /// The address of the PCI device.
    pci: PciAddress,
    /// File and number of the line.
    place: String,
    /// State that was not as in the line.
    differences: Vec<Difference>,
    /// Why it could not be configured. Null for success.
    error: Option<String>,
}

/// Configures devices.
pub fn run(arguments: &Arguments) -> Result<()> {
    let root = Root::default();
    let groups = Groups::read();
    let (lines, mistakes) = apply::read(&arguments.folder, &groups);
    if arguments.find {
        process::exit(i32::from(!is_named(&root, &lines, &arguments.device)));
    }

    let _lock = match arguments.dry_run || lines.is_empty() {
        true => None,
        false => Some(apply::lock()?),
    };
    if _lock.is_some() {
        apply::load_module(&root)?;
    }
    let Pairing {
        mut pairs,
        mistakes: more,
        absent,
    } = apply::pair(&root, &lines)?;
    let mut mistakes: Vec<Mistake> = mistakes.into_iter().chain(more).collect();
    if !arguments.device.is_empty() {
        let mut named = Vec::new();
        for text in &arguments.device {
            named.push(Device::find(&root, text)?.pci);
        }
        pairs.retain(|(device, _)| named.contains(&device.pci));
        // Other lines are for runs of their own.
        mistakes.clear();
        let is_nameless = |pci: &&PciAddress| !pairs.iter().any(|(device, _)| device.pci == **pci);
        if let Some(pci) = named.iter().find(is_nameless) {
            mistakes.push(Mistake {
                place: arguments.folder.display().to_string(),
                text: format!("no line names {pci}: add one"),
            });
        }
    }

    // A change that was begun is finished, or undone.
    let _signals = interrupt::flag()?;
    let mut applied = Applied {
        devices: Vec::new(),
        absent: absent.iter().map(|line| line.place.clone()).collect(),
        dry_run: arguments.dry_run,
    };
    for (device, line) in pairs {
        let result = apply::apply(&root, &device, &line, &groups, arguments.dry_run);
        let (differences, error) = match result {
            Ok(differences) => (differences, None),
            Err(error) => (Vec::new(), Some(format!("{error:#}"))),
        };
        applied.devices.push(Outcome {
            pci: device.pci,
            place: line.place,
            differences,
            error,
        });
    }

    let failed = failures(&applied, &mistakes);
    if arguments.json {
        return output::print("apply", applied, failed);
    }
    terminal::print(&text_of(&applied, &absent))?;
    failed.map_or(Ok(()), Err)
}

/// Returns whether a line names one of the devices. A serial number that is not known yet counts.
fn is_named(root: &Root, lines: &[Line], devices: &[String]) -> bool {
    let found: Vec<_> = devices
        .iter()
        .filter_map(|text| Some(Device::find(root, text).ok()?.pci))
        .collect();
    lines.iter().any(|line| {
        let addresses = apply::devices_of(root, line, true).unwrap_or_default();
        addresses.iter().any(|address| found.contains(address))
    })
}

/// Returns all that failed, a line each.
fn failures(applied: &Applied, mistakes: &[Mistake]) -> Option<anyhow::Error> {
    let failed = applied.devices.iter().filter_map(|outcome| {
        let error = outcome.error.as_ref()?;
        Some(format!("{}: {}: {error}", outcome.place, outcome.pci))
    });
    let lines: Vec<_> = mistakes
        .iter()
        .map(ToString::to_string)
        .chain(failed)
        .collect();
    (!lines.is_empty()).then(|| anyhow!("{}", lines.join("\np2pmem: ")))
}

fn text_of(applied: &Applied, absent: &[Line]) -> String {
    let mut text = String::new();
    for outcome in &applied.devices {
        for Difference { name, from, to } in &outcome.differences {
            let _ = writeln!(text, "{}: {name}: {from} -> {to}", outcome.pci);
        }
    }
    for line in absent {
        let _ = writeln!(text, "{}: {} is not there", line.place, line.device);
    }
    if text.is_empty()
        && applied
            .devices
            .iter()
            .all(|outcome| outcome.error.is_none())
    {
        text = "nothing differs\n".to_owned();
    }
    text
}
