// SPDX-License-Identifier: GPL-2.0

//! PCI devices, as the command line names them.

use std::{fs, path::PathBuf};

use anyhow::{ensure, Context, Result};
use p2pmem::{
    root::link_name,
    sysfs::{self, Entry},
    PciAddress, Root,
};

/// The driver.
pub const DRIVER: &str = "p2pmem_rs";
/// Value of `driver_override` that keeps all drivers from a device: no driver has this name.
pub const NO_DRIVER: &str = "none";

/// A PCI device, as the command line names it.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its address.
    pub pci: PciAddress,
    /// Its node, if it has one.
    pub node: Option<Entry>,
}

impl Device {
    /// Finds a device by its address, with or without the domain, or by its node: `/dev/p2pmem0`,
    /// `p2pmem0` or `0`.
    pub fn find(root: &Root, text: &str) -> Result<Self> {
        let entries = sysfs::providers(root).context("cannot read sysfs")?;
        let mut entries = entries.into_iter();

        if let Some(number) = sysfs::node_number(text) {
            let node = entries
                .find(|entry| entry.id.number == number)
                .with_context(|| {
                    format!("there is no /dev/p2pmem{number}: p2pmem list shows all nodes")
                })?;
            return Ok(Self {
                pci: node.id.pci,
                node: Some(node),
            });
        }

        let pci: Option<PciAddress> = text.parse().ok();
        let pci = pci.with_context(|| {
            format!("{text} is not a device: write it like 0000:05:00.0, 05:00.0 or p2pmem0")
        })?;
        ensure!(
            device_folder(root, pci).exists(),
            "there is no PCI device {pci}: lspci -D lists those there are"
        );
        Ok(Self {
            node: entries.find(|entry| entry.id.pci == pci),
            pci,
        })
    }

    /// Returns the driver that has the device.
    pub fn driver(&self, root: &Root) -> Option<String> {
        driver_of(root, self.pci)
    }

    /// Returns the only driver that may have it.
    pub fn driver_override(&self, root: &Root) -> Option<String> {
        let text =
            fs::read_to_string(device_folder(root, self.pci).join("driver_override")).ok()?;
        // The kernel shows none as "(null)".
        Some(text.trim().to_owned()).filter(|name| !name.is_empty() && name != "(null)")
    }
}

/// Returns the driver that has a device.
pub fn driver_of(root: &Root, pci: PciAddress) -> Option<String> {
    link_name(device_folder(root, pci).join("driver")).ok()
}

/// Returns the folder of a driver in sysfs.
pub fn driver_folder(root: &Root, name: &str) -> PathBuf {
    root.sys("bus/pci/drivers").join(name)
}

/// Returns the folder of a device in sysfs.
pub fn device_folder(root: &Root, pci: PciAddress) -> PathBuf {
    root.sys("bus/pci/devices").join(pci.to_string())
}
