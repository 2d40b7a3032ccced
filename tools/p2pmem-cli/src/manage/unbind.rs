// SPDX-License-Identifier: GPL-2.0

//! Unbinds devices from the driver.

use std::{fs::OpenOptions, io::Write};

use anyhow::{bail, ensure, Context, Result};
use p2pmem::Root;
use rustix::io::Errno;

use super::{
    choices,
    device::{device_folder, driver_folder, Device, DRIVER, NO_DRIVER},
    in_use,
    plan::{put, ChangePlan},
};

/// Options of [`unbind`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unbind {
    /// Take the memory away from its users.
    pub force: bool,
    /// Forget which regions were chosen.
    pub forget: bool,
    /// Write nothing to find out more: the plan is only to be looked at.
    pub dry_run: bool,
}

/// Plans to undo [`bind`](super::bind::bind): unbind, allow any driver, and let the kernel look for
/// one. The driver would take back a device whose ID it knows: no driver is allowed then.
///
/// # Errors
///
/// The driver is not loaded, or has nothing to do with the device; memory is in use, without
/// `force`.
pub fn unbind(root: &Root, device: &Device, how: Unbind) -> Result<ChangePlan> {
    let pci = device.pci;
    let mut plan = ChangePlan::new(device);
    let choice = choices::of(root, pci)?;
    let path = device_folder(root, pci).join("driver_override");

    let driver = device.driver(root);
    let is_bound = driver.as_deref() == Some(DRIVER);
    if let (Some(driver), false, true) = (&driver, is_bound, device.node.is_some()) {
        bail!(
            "{pci} belongs to {driver}, its memory is only adopted: \
             unload {DRIVER}, or give up a PMR (p2pmem config {pci} --regions default)"
        );
    }
    if !how.force {
        in_use::refuse_if_allocated(device)?;
    }
    let before = device.driver_override(root);
    let is_ours = before.as_deref() == Some(DRIVER);
    let by_id = match is_bound {
        true if is_ours && how.dry_run => {
            plan.notes.push(format!(
                "if {DRIVER} knows the ID of {pci}, `{NO_DRIVER}` is written to its driver_override"
            ));
            false
        }
        true if is_ours => knows_id(root, device)?,
        // Without an override, it was bound by its ID.
        is_bound => is_bound,
    };

    if by_id {
        plan.set(path.clone(), NO_DRIVER, before.unwrap_or_default());
    }
    if is_bound {
        plan.take(root, DRIVER.to_owned());
    }
    if !by_id && is_ours {
        plan.set(path, "", DRIVER.to_owned());
        plan.add(root.sys("bus/pci/drivers_probe"), &pci.to_string(), None);
    }
    if how.forget && choice.is_some() {
        plan.choose(root, "default")?;
    }
    ensure!(
        !plan.steps().is_empty(),
        "{pci} is not bound to {DRIVER}: p2pmem list shows the devices that are"
    );

    Ok(plan)
}

/// Returns whether the driver has the ID of a device that is bound to it and reserved for it.
///
/// The kernel does not list the IDs of a driver. To bind a device that is bound is an error: EBUSY
/// if the driver matches, ENODEV if it does not.
fn knows_id(root: &Root, device: &Device) -> Result<bool> {
    let path = device_folder(root, device.pci).join("driver_override");
    put(&path, "")?;
    let answer = OpenOptions::new()
        .write(true)
        .open(driver_folder(root, DRIVER).join("bind"))
        .and_then(|mut file| file.write_all(device.pci.to_string().as_bytes()));
    put(&path, DRIVER)?;

    match answer {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => Ok(false),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => Ok(true),
        // It was unbound in between, and this bound it.
        Ok(()) => Ok(true),
        Err(error) => Err(error).context("cannot read the IDs of the driver"),
    }
}
