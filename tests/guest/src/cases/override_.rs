// SPDX-License-Identifier: GPL-2.0

//! Devices that are bound on purpose. Needs the topology any-bar: its devices have the same ID, one
//! of them a large BAR. Behind that there is no memory in QEMU: what it holds is not looked at.

use std::{fs, path::Path};

use anyhow::{ensure, Context, Result};
use p2pmem::Provider as Node;

use crate::{
    cases,
    guest::{kernel_log, unbind, Map, Provider, PAGE, WINDOW},
};

cases!("override": largest_bar, bar_too_small);

const DEVICES: &str = "/sys/bus/pci/devices";
const LARGE: u64 = 64 << 20;

/// Returns the address of the test device with a large BAR, or of the one without.
fn device(large: bool) -> Result<String> {
    for entry in fs::read_dir(DEVICES)? {
        let entry = entry?;
        let id = |name| fs::read_to_string(entry.path().join(name));
        if (id("vendor")?.trim(), id("device")?.trim()) != ("0x1b36", "0x0005") {
            continue;
        }
        // The size of the BAR's file is that of the BAR.
        let has_large = (0..6).any(|bar| {
            fs::metadata(entry.path().join(format!("resource{bar}")))
                .is_ok_and(|file| file.len() == LARGE)
        });
        if has_large == large {
            return Ok(entry.file_name().to_string_lossy().into_owned());
        }
    }
    anyhow::bail!("there is no such test device")
}

/// Asks for a device to be driven by the module. Returns whether it is.
fn take(pci: &str) -> Result<bool> {
    fs::write(format!("{DEVICES}/{pci}/driver_override"), "p2pmem_rs")?;
    // Fails when the driver refuses the device.
    let _ = fs::write("/sys/bus/pci/drivers_probe", pci);
    Ok(Path::new(&format!("{DEVICES}/{pci}/driver")).exists())
}

/// Undoes [`take`].
fn give_back(pci: &str) -> Result<()> {
    if Path::new(&format!("{DEVICES}/{pci}/driver")).exists() {
        unbind(pci)?;
    }
    Ok(fs::write(format!("{DEVICES}/{pci}/driver_override"), "\n")?)
}

fn largest_bar() -> Result<()> {
    let pci = device(true)?;
    ensure!(take(&pci)?, "not bound");
    let provider = Provider::first()?;
    ensure!(provider.pci == pci && provider.size as u64 == LARGE);

    let region = Node::open(&provider.path)?.region(0)?;
    let file = fs::metadata(provider.device.join(format!("resource{}", region.bar)))?;
    ensure!(
        (region.offset, region.size) == (0, file.len()),
        "{region:?}"
    );

    let map = Map::new(provider.open()?, WINDOW + PAGE)?;
    let _ = (map.get(0), map.get(WINDOW));
    provider.expect_taken(WINDOW + PAGE)?;
    give_back(&pci)?;
    ensure!(!map.is_readable(0)?, "still there");
    Ok(())
}

fn bar_too_small() -> Result<()> {
    let pci = device(false)?;
    ensure!(!take(&pci)?, "bound");
    give_back(&pci)?;
    ensure!(Provider::all()?.is_empty(), "there is a node");
    let log = kernel_log()?;
    log.lines()
        .find(|line| {
            line.contains(&pci)
                && line.contains("4096 bytes of BAR 0 hold no aligned 2097152 bytes: choose")
        })
        .context("the log does not say why")?;
    Ok(())
}
