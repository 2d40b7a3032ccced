// SPDX-License-Identifier: GPL-2.0

//! Regions that were chosen for devices: a file of the driver.

use std::{fs, io, path::PathBuf};

use anyhow::{bail, Context, Result};
use p2pmem::{PciAddress, Root};

use super::device::DRIVER;

/// Returns the path of the file.
pub fn path(root: &Root) -> PathBuf {
    root.sys("module").join(DRIVER).join("regions")
}

/// Returns pairs of a device and its regions.
pub fn read(root: &Root) -> Result<Vec<(PciAddress, String)>> {
    let path = path(root);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter_map(|(device, regions)| {
                Some((PciAddress::from_name(device)?, regions.to_owned()))
            })
            .collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("{DRIVER} is not loaded: run modprobe {DRIVER}")
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Returns the regions of a device.
pub fn of(root: &Root, pci: PciAddress) -> Result<Option<String>> {
    let mut choices = read(root)?.into_iter();
    Ok(choices
        .find(|(device, _)| *device == pci)
        .map(|(_, regions)| regions))
}
