// SPDX-License-Identifier: GPL-2.0

//! Devices of the lab that QEMU does not have (tests/devices), and the orders that they take.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{ensure, Context, Result};

use crate::guest::{choose, copy_between, devices_with, qemu, unbind, wait_until, Provider};

const DEVICES: &str = "/sys/bus/pci/devices";
const LIMIT: Duration = Duration::from_secs(30);

/// Vendor and device.
pub type Id = (&'static str, &'static str);

/// Memory with registers at its beginning, and a page at [`TRAPPED`] that faults reach.
pub const MEMORY: Id = ("0x1234", "0xf001");
/// Memory with the table of the vectors in it.
pub const MSIX: Id = ("0x1234", "0xf011");
/// A controller whose registers a case chooses.
pub const NVME: Id = ("0x1234", "0xf002");
/// One that writes to memory of others.
pub const PUSHER: Id = ("0x1234", "0xf003");
/// Memory that the driver knows by its ID.
pub const IOMEM: Id = ("0x1de5", "0x1000");

/// Offset in the BAR of the page that faults reach.
pub const TRAPPED: u64 = 10 << 20;

/// Orders that each device takes.
pub const ALL_ONES: u32 = 1;
pub const SLOW: u32 = 2;
pub const LEAVE: u32 = 3;
pub const POWER_CYCLE: u32 = 4;

/// A device. It has no driver after it is dropped.
pub struct LabDevice {
    pub pci: String,
}

impl LabDevice {
    /// Returns the device with an ID.
    pub fn find(id: Id) -> Result<Self> {
        let mut found = devices_with(&[id])?;
        let pci = found.pop().with_context(|| format!("no device {id:?}"))?;
        Ok(Self { pci })
    }

    /// Returns the directory of the device.
    pub fn path(&self) -> PathBuf {
        Path::new(DEVICES).join(&self.pci)
    }

    /// Binds it to the driver, after memory was chosen. Returns whether the driver took it.
    pub fn bind(&self, what: &str) -> Result<bool> {
        choose(&format!("{} {what}", self.pci))?;
        fs::write(self.path().join("driver_override"), "p2pmem_rs")?;
        let _ = fs::write("/sys/bus/pci/drivers_probe", &self.pci);
        Ok(self.is_bound())
    }

    pub fn is_bound(&self) -> bool {
        self.path().join("driver").exists()
    }

    /// Returns the node of the device.
    pub fn provider(&self) -> Result<Provider> {
        Provider::of(&self.pci)?.context("there is no node")
    }

    /// Leaves it bound, if it is.
    pub fn keep(self) -> String {
        std::mem::take(&mut std::mem::ManuallyDrop::new(self).pci)
    }

    /// Resets the function.
    pub fn reset(&self) -> Result<()> {
        Ok(fs::write(self.path().join("reset"), "1")?)
    }

    /// Writes to the configuration space.
    pub fn configure(&self, at: u64, value: &[u8]) -> Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .open(self.path().join("config"))?;
        Ok(file.write_all_at(value, at)?)
    }

    /// Gives an order to the device: tests/devices/src/config.rs.
    pub fn order(&self, number: u32, value: u64) -> Result<()> {
        const VALUE: u64 = 0xc4;
        const ORDER: u64 = 0xcc;
        self.configure(VALUE, &(value as u32).to_le_bytes())?;
        self.configure(VALUE + 4, &((value >> 32) as u32).to_le_bytes())?;
        self.configure(ORDER, &number.to_le_bytes())?;
        if number != LEAVE {
            let config = fs::read(self.path().join("config"))?;
            let done = config[ORDER as usize..][..4] == number.to_le_bytes();
            ensure!(done, "the device does not know order {number:#x}");
        }
        Ok(())
    }

    /// Pulls the device, which the topology names so, and does something before it is gone.
    pub fn pull(&self, name: &str, during: impl FnOnce() -> Result<()>) -> Result<()> {
        qemu("device_del", &format!(r#""id": "{name}""#));
        during()?;
        wait_until(LIMIT, "the device is gone", || Ok(!self.path().exists()))
    }
}

impl Drop for LabDevice {
    fn drop(&mut self) {
        // It may have been pulled.
        if self.path().exists() {
            if self.is_bound() {
                unbind(&self.pci).expect("the device can be unbound");
            }
            fs::write(self.path().join("driver_override"), "\n").expect("an attribute");
        }
        choose(&format!("{} default", self.pci)).expect("the default can be set");
    }
}

/// Copies from drive to drive through memory of a provider.
pub fn copy(provider: &Provider) -> Result<()> {
    copy_between("disk0", "disk1", provider, 64 << 10)
}

/// Plugs a device in again, which the topology names so.
pub fn plug(name: &str, port: &str, id: Id) -> Result<LabDevice> {
    let options = r#""rombar": 0, "x-no-posted-writes": true"#;
    let socket = format!(r#""socket": {{"type": "unix", "path": "{name}.sock"}}"#);
    let place = format!(r#""driver": "vfio-user-pci", "id": "{name}", "bus": "{port}""#);
    qemu("device_add", &format!("{place}, {options}, {socket}"));
    wait_until(LIMIT, "the device is back", || {
        Ok(!devices_with(&[id])?.is_empty())
    })?;
    LabDevice::find(id)
}
