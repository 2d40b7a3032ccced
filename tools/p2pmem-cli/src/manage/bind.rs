// SPDX-License-Identifier: GPL-2.0

//! Binds devices to the driver.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Result};
use p2pmem::{
    sysfs::{self, Entry},
    Root,
};

use super::{
    choices,
    device::{device_folder, driver_folder, Device, DRIVER, NO_DRIVER},
    in_use,
    memory::DeviceMemory,
    plan::{put, ChangePlan},
    registers,
};

/// Limit for a node to come up.
const LIMIT: Duration = Duration::from_secs(30);

/// Plans to bind a device to the driver, with certain regions, or those that were chosen before.
///
/// # Errors
///
/// The driver is not loaded, has the device already and would not do anything else with it, or
/// would find no memory; the device is a bridge. The device is in use or reserved for another
/// driver; these only without `force`.
pub fn bind(
    root: &Root,
    device: &Device,
    regions: Option<&str>,
    force: bool,
) -> Result<ChangePlan> {
    let pci = device.pci;
    let folder = device_folder(root, pci);
    let mut plan = ChangePlan::new(device);

    // Tells whether the driver is loaded, too.
    let chosen = choices::of(root, pci)?;
    let driver = device.driver(root);
    ensure!(
        driver.as_deref() != Some(DRIVER) || regions.is_some(),
        "{pci} is bound to {DRIVER} already: pass --regions to change its memory"
    );
    if is_bridge(&folder)? {
        bail!("{pci} is a bridge: choose a device behind it");
    }
    if !force {
        if let Some(use_) = in_use::use_of(root, device, &mut plan.notes)? {
            bail!("{pci} is in use: {use_}: end the use, or pass --force");
        }
        in_use::refuse_if_allocated(device)?;
    }
    let before = device.driver_override(root);
    // The BAR that belongs to an ID is in the driver's table only.
    let by_id = before.as_deref() == Some(NO_DRIVER);
    match regions.or(chosen.as_deref()) {
        None | Some("default") if by_id || driver.as_deref() == Some(DRIVER) => (),
        text => DeviceMemory::read(&folder, pci)?.check(text.unwrap_or("default"))?,
    }
    let is_reserved = before.as_deref().is_some_and(|name| name != DRIVER);
    if let (Some(other), true, false) = (&before, is_reserved && !by_id, force) {
        bail!(
            "{pci} is reserved for {other} (driver_override), which p2pmem unbind would not put \
             back: pass --force"
        );
    }
    // On the way back, any driver is allowed before one is bound.
    let path = folder.join("driver_override");
    let mut before = before.unwrap_or_default();
    if let Some(driver) = driver {
        if is_reserved {
            plan.set(path.clone(), "", std::mem::take(&mut before));
        }
        plan.take(root, driver);
    }
    if before != DRIVER {
        plan.set(path, DRIVER, before);
    }
    if let Some(regions) = regions {
        plan.choose(root, regions)?;
    }
    plan.add(root.sys("bus/pci/drivers_probe"), &pci.to_string(), None);

    Ok(plan)
}

/// Returns whether a device is a bridge to other devices. One to another host is not.
fn is_bridge(folder: &Path) -> Result<bool> {
    const BRIDGE: u32 = 0x06;
    const OTHER: u32 = 0x80;

    let class = registers::class(folder)?;
    Ok(class >> 16 == BRIDGE && (class >> 8) & 0xff != OTHER
        || folder.join("secondary_bus_number").exists())
}

/// Waits until a device that was bound has its node, and returns that. If none comes the device is
/// unbound again.
pub fn wait_for_node(root: &Root, device: &Device) -> Result<Entry> {
    let result = find_node(root, device);
    if result.is_err() && device.driver(root).as_deref() == Some(DRIVER) {
        put(
            &driver_folder(root, DRIVER).join("unbind"),
            &device.pci.to_string(),
        )?;
    }
    result
}

fn find_node(root: &Root, device: &Device) -> Result<Entry> {
    let pci = device.pci;
    ensure!(
        device.driver(root).as_deref() == Some(DRIVER),
        "{DRIVER} refused the device: see dmesg"
    );

    let deadline = Instant::now() + LIMIT;
    loop {
        let entry = sysfs::providers(root)?
            .into_iter()
            .find(|entry| entry.id.pci == pci);
        if let Some(entry) = entry {
            if root.dev(entry.id.name()).exists() {
                return Ok(entry);
            }
        }
        ensure!(
            Instant::now() < deadline,
            "no node came up within {} s: see dmesg",
            LIMIT.as_secs()
        );
        thread::sleep(Duration::from_millis(10));
    }
}
