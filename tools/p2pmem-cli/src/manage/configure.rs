// SPDX-License-Identifier: GPL-2.0

//! Changes settings of devices.

use std::fs;

use anyhow::{ensure, Context, Result};
use p2pmem::{
    sysfs::{self, Entry, Slots},
    Root,
};

use super::{
    device::{device_folder, Device, DRIVER},
    memory::DeviceMemory,
    plan::ChangePlan,
};

/// Settings to change. [`None`] leaves a setting as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Regions to register from the next time on that the device is bound, or `default`.
    pub regions: Option<String>,
    /// Whether memory is cleared when it is allocated.
    pub clear: Option<bool>,
    /// Limit of each open file in bytes; 0 for no limit.
    pub limit_per_file: Option<u64>,
    /// Limit of each user in bytes; 0 for no limit.
    pub limit_per_user: Option<u64>,
    /// Processes that may fill slots of an io_uring.
    pub slots: Option<Slots>,
}

/// Plans to set something.
///
/// # Errors
///
/// The driver is not loaded, or the device has no node to set anything of.
pub fn configure(root: &Root, device: &Device, settings: &Settings) -> Result<ChangePlan> {
    let mut plan = ChangePlan::new(device);

    let of_node = [
        (
            "clear",
            settings.clear.map(|clear| u64::from(clear).to_string()),
        ),
        (
            "limit_per_file",
            settings.limit_per_file.map(|bytes| bytes.to_string()),
        ),
        (
            "limit_per_user",
            settings.limit_per_user.map(|bytes| bytes.to_string()),
        ),
        ("slots", settings.slots.map(|slots| slots.name().to_owned())),
    ];
    for (name, value) in of_node {
        let Some(value) = value else { continue };
        let node = device.node.as_ref().with_context(|| {
            format!(
                "{0} has no node: bind it first (p2pmem bind {0})",
                device.pci
            )
        })?;
        let path = node.node.join(name);
        let before = fs::read_to_string(&path).with_context(|| match path.exists() {
            true => format!("cannot read {}", path.display()),
            false => format!("{DRIVER} does not have the setting {name}: load a newer version"),
        })?;
        plan.set(path, &value, before.trim().to_owned());
    }
    if let Some(regions) = &settings.regions {
        if regions != "default" {
            DeviceMemory::read(&device_folder(root, device.pci), device.pci)?.check(regions)?;
        }
        plan.choose(root, regions)?;
    }

    Ok(plan)
}

/// Checks that a driver that has a device gives its PMR away, if that was asked for just now.
///
/// # Errors
///
/// It does not. The driver tells the reason in the kernel's log.
pub fn check_adopted(root: &Root, device: &Device, settings: &Settings) -> Result<()> {
    let regions = settings.regions.as_deref().unwrap_or_default();
    let driver = match device.driver(root) {
        Some(driver) if driver != DRIVER => driver,
        _ => return Ok(()),
    };
    if !regions.split_whitespace().any(|word| word == "pmr") {
        return Ok(());
    }

    let is_pmr = |node: &Entry| {
        let details = node.details();
        node.id.pci == device.pci
            && details.is_ok_and(|details| details.regions.iter().any(|one| one.kind == "pmr"))
    };
    ensure!(
        sysfs::providers(root)?.iter().any(is_pmr),
        "{DRIVER} did not register the PMR beside {driver}"
    );
    Ok(())
}
