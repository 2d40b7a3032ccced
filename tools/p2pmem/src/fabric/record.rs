// SPDX-License-Identifier: GPL-2.0

//! The record of a machine: what was read, and its form as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    block_device::{BlockDevice, BlockKind},
    function::Function,
    installation::Installation,
    routes::Route,
};
use crate::{error::Error, pci::PciAddress, provider_id::ProviderId};

/// The version of what is written as JSON.
pub const VERSION: u32 = 1;

/// The parts of a machine that matter to peer-to-peer DMA.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fabric {
    /// [`VERSION`].
    pub version: u32,
    /// Remarks on the machine.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// The kernel.
    pub kernel: Kernel,
    /// The processor.
    pub cpu: Cpu,
    /// The PCI functions, by address.
    pub functions: Vec<Function>,
    /// The block devices, by name.
    pub block_devices: Vec<BlockDevice>,
    /// The providers of device memory, by number.
    pub providers: Vec<ProviderRecord>,
    /// Mounts, in the order of mounting.
    pub mounts: Vec<Mount>,
}

/// A kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Output of `uname -r`.
    pub release: String,
    /// Its command line.
    pub command_line: String,
    /// Some options that it was built with, as `CONFIG_RUST: y`; absent if there is no
    /// `/boot/config-RELEASE`. An option that is off is `n`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<BTreeMap<String, String>>,
    /// Whether the module p2pmem_rs is loaded.
    pub module_loaded: bool,
    /// Output of `uname -v`: it names the build, and on Debian the version of the package.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub build: String,
    /// The version of the module: that of its source, and the kernel build that it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_version: Option<String>,
    /// The installation of the module, if that was read. Records of older versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installation: Option<Installation>,
}

/// A processor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// The vendor as in `/proc/cpuinfo`, like `AuthenticAMD`. Empty if it is not known.
    pub vendor: String,
    /// The family of x86 processors, 0 for others.
    pub family: u32,
}

impl Cpu {
    /// Returns whether it is an AMD Zen or newer: Linux allows these to forward between root ports.
    pub fn is_zen(&self) -> bool {
        self.vendor == "AuthenticAMD" && self.family >= 0x17
    }
}

/// A provider of device memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderRecord {
    /// Its node, and its PCI function.
    #[serde(flatten)]
    pub id: ProviderId,
    /// How many bytes of memory it has.
    pub size: u64,
    /// Regions, as the driver reports them: `bar2@0x0+0x8000000:bar`.
    pub regions: Vec<String>,
    /// Whether who made this record may read and write the node.
    pub usable: bool,
    /// The size of a large page in bytes, 0 if memory is mapped in base pages only; absent if the
    /// driver does not report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub large_page: Option<u64>,
    /// The ways to other functions; absent if the driver does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<Route>>,
}

impl ProviderRecord {
    /// Returns its node.
    pub fn node(&self) -> String {
        self.id.to_string()
    }
}

/// Something mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Major and minor number of the device, like `259:1`.
    pub number: String,
    /// Mount point.
    pub point: String,
    /// The file system.
    pub kind: String,
    /// Source of the mount, as written by the mounter.
    pub source: String,
    /// The names of its block devices, where the file system has several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// The name of the block device with the data of realtime files (XFS), where it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realtime: Option<String>,
    /// The directories whose files it shows (overlay).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
}

impl Fabric {
    /// Reads what was written as JSON.
    ///
    /// # Errors
    ///
    /// If it is not JSON of this form, of another version, or has functions below what it does not
    /// have.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_str(text).map_err(Error::Record)?;
        if version != VERSION {
            return Err(Error::Version {
                found: version,
                expected: VERSION,
            });
        }
        let mut fabric: Self = serde_json::from_str(text).map_err(Error::Record)?;

        fabric.functions.sort_by_key(|one| one.address);
        fabric.check()?;
        Ok(fabric)
    }

    /// Writes JSON, with a line for each value.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a record has no maps but those of texts")
    }

    /// Checks that bridges are there, and that nothing is there twice or below itself. Functions
    /// are in order.
    fn check(&self) -> Result<(), Error> {
        for pair in self.functions.windows(2) {
            if pair[0].address == pair[1].address {
                return Err(Error::Duplicate {
                    address: pair[0].address,
                });
            }
        }
        for function in &self.functions {
            let address = function.address;
            if self.way_up(address).count() > self.functions.len() {
                return Err(Error::Circle { address });
            }
            match function.parent {
                Some(parent) if self.function(parent).is_none() => {
                    return Err(Error::NoParent { address, parent });
                }
                _ => (),
            }
        }
        Ok(())
    }

    /// Returns a function by its address.
    pub fn function(&self, address: PciAddress) -> Option<&Function> {
        self.functions
            .iter()
            .find(|function| function.address == address)
    }

    /// Returns a block device by its name.
    pub fn block_device(&self, name: &str) -> Option<&BlockDevice> {
        self.block_devices.iter().find(|device| device.name == name)
    }

    /// Returns the block device that a path in /dev names.
    pub(super) fn device_of_source(&self, path: &str) -> Option<&BlockDevice> {
        let name = path.strip_prefix("/dev/")?;
        self.block_devices.iter().find(|device| {
            match (&device.kind, name.strip_prefix("mapper/")) {
                (BlockKind::DeviceMapper { mapped, .. }, Some(name)) => mapped == name,
                _ => device.name == name,
            }
        })
    }

    /// Returns the drives that a function is.
    pub fn drives_of(&self, address: PciAddress) -> impl Iterator<Item = &BlockDevice> {
        self.block_devices
            .iter()
            .filter(move |device| device.functions.contains(&address))
    }

    /// Returns the provider that a function is.
    pub fn provider_of(&self, address: PciAddress) -> Option<&ProviderRecord> {
        self.providers
            .iter()
            .find(|provider| provider.id.pci == address)
    }

    /// Returns the functions below a bridge, or those of the root buses.
    pub fn children(&self, parent: Option<PciAddress>) -> impl Iterator<Item = &Function> {
        self.functions
            .iter()
            .filter(move |function| function.parent == parent)
    }

    /// Returns the function with this address, the bridge above it, and so on. A loop of bridges
    /// ends it after one more than there are functions.
    pub fn way_up(&self, address: PciAddress) -> impl Iterator<Item = &Function> {
        std::iter::successors(self.function(address), |function| {
            self.function(function.parent?)
        })
        .take(self.functions.len() + 1)
    }
}
