// SPDX-License-Identifier: GPL-2.0

//! The PCIe fabric of a machine: functions, ports, drives, providers, and who reaches whom.
//!
//! A [`Fabric`] is read from sysfs by any user, written as JSON, and read back on any machine.
//! [`verdicts`](Fabric::verdicts) says which device reaches the memory of which provider, and why
//! not.

mod block;
mod file_system;
mod obstacle;
mod read;
mod routes;
mod verdict;

use std::{collections::BTreeMap, path::Path};

use anyhow::{ensure, Context, Result};
use serde::{Deserialize, Serialize};

pub use block::{Stack, Target};
pub use file_system::DirectIo;
pub use obstacle::{Obstacle, ObstacleKind, Prospect};
pub use routes::{Redirection, Route, RouteKind};
pub use verdict::{Reach, Verdict};

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
    pub providers: Vec<Provider>,
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

/// A PCI function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// Its address, like `0000:03:00.0`.
    #[serde(rename = "pci", alias = "address")]
    pub address: String,
    /// The address of the bridge above it; absent on a root bus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Class, subclass and programming interface: six hexadecimal digits.
    pub class: String,
    /// Vendor ID: four hexadecimal digits.
    pub vendor: String,
    /// Device ID: four hexadecimal digits.
    pub device: String,
    /// Type of a bridge; absent for other functions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// The driver that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// The NUMA node that it is near to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<u32>,
    /// Its link upwards, if it is a PCI Express device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Link>,
    /// Mode of the IOMMU for it, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iommu: Option<Iommu>,
    /// Its memory BARs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bars: Vec<Bar>,
    /// The numbers of its memory BARs that have no address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unassigned: Vec<u32>,
    /// Whether it is an NVMe controller with a Controller Memory Buffer, as its driver says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cmb: bool,
    /// Its Command register: four hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The size of a bridge's prefetchable window in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// Its Access Control Services, if p2pmem_rs reports them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acs: Option<Acs>,
    /// Whether Address Translation Services are enabled; absent if it has none or none are
    /// reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ats: Option<bool>,
    /// Whether Process Address Space IDs are enabled; absent as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pasid: Option<bool>,
    /// Whether the Page Request Interface is enabled; absent as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pri: Option<bool>,
}

/// Access Control Services of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acs {
    /// Its ACS Capability register: four hexadecimal digits.
    pub capability: String,
    /// Its ACS Control register: four hexadecimal digits.
    pub control: String,
}

impl Acs {
    const TRANSLATION_BLOCKING: u16 = 0x02;
    const DIRECT_TRANSLATED: u16 = 0x40;

    fn controls(&self, bit: u16) -> bool {
        u16::from_str_radix(&self.control, 16).is_ok_and(|value| value & bit != 0)
    }

    /// Returns whether it refuses requests with addresses that were translated before.
    pub fn blocks_translated(&self) -> bool {
        self.controls(Self::TRANSLATION_BLOCKING)
    }

    /// Returns the register without that, as the kernel parameter `config_acs` has it. All bits are
    /// named: Linux takes others from what the firmware set.
    pub fn not_blocking(&self) -> String {
        let value = u16::from_str_radix(&self.control, 16).unwrap_or(0);
        format!("{:07b}", value & !Self::TRANSLATION_BLOCKING)
    }

    /// Returns whether requests with translated addresses go straight to peers, even where it
    /// redirects others.
    pub fn passes_translated(&self) -> bool {
        self.controls(Self::DIRECT_TRANSLATED)
    }

    /// Returns whether it redirects requests of peers to the root complex.
    pub fn redirects(&self) -> bool {
        self.controls(Redirection::REQUESTS)
    }
}

/// Type of a bridge. p2pmem_rs reports it; without that it is known by its place, since the part of
/// config space that says it is for root only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Port {
    /// A root port.
    Root,
    /// The upstream port of a switch.
    Upstream,
    /// A downstream port of a switch.
    Downstream,
    /// A bridge with a side that is not PCI Express.
    Bridge,
}

/// A link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Lanes in use; 0 if the link is down.
    pub width: u32,
    /// Lanes that there are.
    pub max_width: u32,
    /// The rate, like `8.0 GT/s`.
    pub speed: String,
    /// The highest rate.
    pub max_speed: String,
}

/// Mode of an IOMMU for a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Iommu {
    /// The group: its members are not isolated from each other.
    pub group: u32,
    /// The type of its domain as sysfs says: `DMA`, `DMA-FQ`, `identity`, `blocked`, ...
    pub kind: String,
}

impl Iommu {
    /// Returns whether it translates the addresses that the function uses.
    pub fn translates(&self) -> bool {
        self.kind != "identity"
    }
}

/// A memory BAR with an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bar {
    /// Its number.
    pub number: u32,
    /// Its length in bytes.
    pub size: u64,
    /// Whether it is prefetchable.
    pub prefetchable: bool,
}

/// A block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockDevice {
    /// Its name in /dev.
    pub name: String,
    /// Major and minor number, like `259:0`.
    pub number: String,
    /// Its kind.
    #[serde(flatten)]
    pub kind: BlockKind,
    /// The block devices that it consists of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub below: Vec<String>,
    /// The PCI functions that are the drive: several where it has several paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<String>,
    /// Whether data must not change while it is written.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stable_writes: bool,
}

/// Kind of a block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum BlockKind {
    /// A drive.
    Disk {
        /// Its driver: `nvme`, `sd`, `virtio_blk`, ...; empty if it is not known.
        driver: String,
    },
    /// A partition.
    Partition,
    /// Of the device mapper: LVM, dm-crypt, multipath, ...
    DeviceMapper {
        /// Its name in /dev/mapper.
        mapped: String,
        /// Its UUID, which begins with who made it.
        uuid: String,
    },
    /// Of the md driver.
    Md {
        /// Its level, like `raid1`.
        level: String,
    },
    /// A file as a block device.
    Loop {
        /// The file.
        backing: String,
    },
}

/// A provider of device memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// The N of /dev/p2pmemN.
    pub number: u32,
    /// The address of its PCI function.
    pub pci: String,
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

impl Provider {
    /// Returns its node.
    pub fn node(&self) -> String {
        format!("/dev/p2pmem{}", self.number)
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
    pub fn from_json(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_str(text)
            .context("not a recorded fabric: write one with `p2pmem topo --record FILE`")?;
        ensure!(
            version == VERSION,
            "a fabric of version {version}, this program reads {VERSION}: record it again"
        );
        let mut fabric: Self = serde_json::from_str(text)
            .context("not a recorded fabric: write one with `p2pmem topo --record FILE`")?;

        fabric
            .functions
            .sort_by(|one, other| one.address.cmp(&other.address));
        fabric.check()?;
        Ok(fabric)
    }

    /// Reads a file of JSON.
    pub fn load(path: &Path) -> Result<Self> {
        std::fs::read_to_string(path)
            .map_err(anyhow::Error::from)
            .and_then(|text| Self::from_json(&text))
            .with_context(|| format!("cannot read {}", path.display()))
    }

    /// Writes JSON, with a line for each value.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// Checks that bridges are there, and that nothing is there twice or below itself. Functions
    /// are in order.
    fn check(&self) -> Result<()> {
        for pair in self.functions.windows(2) {
            ensure!(
                pair[0].address != pair[1].address,
                "{} is there twice: record the fabric again",
                pair[0].address
            );
        }
        for function in &self.functions {
            ensure!(
                self.way_up(&function.address).count() <= self.functions.len(),
                "{} is above itself: record the fabric again",
                function.address
            );
            if let Some(parent) = &function.parent {
                ensure!(
                    self.function(parent).is_some(),
                    "{} is below {parent}, which is not there: record the fabric again",
                    function.address
                );
            }
        }
        Ok(())
    }

    /// Returns a function by its address.
    pub fn function(&self, address: &str) -> Option<&Function> {
        self.functions
            .iter()
            .find(|function| function.address == address)
    }

    /// Returns a block device by its name.
    pub fn block_device(&self, name: &str) -> Option<&BlockDevice> {
        self.block_devices.iter().find(|device| device.name == name)
    }

    /// Returns the drives that a function is.
    pub fn drives_of<'a>(&'a self, address: &'a str) -> impl Iterator<Item = &'a BlockDevice> {
        self.block_devices
            .iter()
            .filter(move |device| device.functions.iter().any(|one| one == address))
    }

    /// Returns the provider that a function is.
    pub fn provider_of(&self, address: &str) -> Option<&Provider> {
        self.providers
            .iter()
            .find(|provider| provider.pci == address)
    }

    /// Returns the functions below a bridge, or those of the root buses.
    pub fn children<'a>(&'a self, parent: Option<&'a str>) -> impl Iterator<Item = &'a Function> {
        self.functions
            .iter()
            .filter(move |function| function.parent.as_deref() == parent)
    }

    /// Returns the function with this address, the bridge above it, and so on. A loop of bridges
    /// ends it after one more than there are functions.
    pub fn way_up<'a>(&'a self, address: &str) -> impl Iterator<Item = &'a Function> {
        std::iter::successors(self.function(address), |function| {
            self.function(function.parent.as_deref()?)
        })
        .take(self.functions.len() + 1)
    }

    /// Returns how the IOMMU treats the devices of this machine.
    pub fn translation(&self) -> Translation {
        let mut used = self.functions.iter().filter_map(|one| one.iommu.as_ref());
        match used.clone().next() {
            None => Translation::Off,
            Some(_) if used.any(Iommu::translates) => Translation::On,
            Some(_) => Translation::PassThrough,
        }
    }
}

/// How an IOMMU treats the devices of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Translation {
    /// There is no IOMMU in use.
    Off,
    /// All devices use physical addresses.
    PassThrough,
    /// Some or all devices use addresses that are translated.
    On,
}

impl Function {
    /// Returns whether a bit of its Command register is set, and true if that is not known.
    fn commands(&self, bit: u16) -> bool {
        let value = self.command.as_deref();
        let value = value.and_then(|value| u16::from_str_radix(value, 16).ok());
        value.is_none_or(|value| value & bit != 0)
    }

    /// Returns whether it answers requests to its memory; a bridge, whether it passes them on.
    pub fn decodes_memory(&self) -> bool {
        self.commands(0x02)
    }

    /// Returns whether it may make requests; a bridge, whether it passes those from below on.
    pub fn masters_bus(&self) -> bool {
        self.commands(0x04)
    }

    /// Returns class and subclass: four hexadecimal digits.
    pub fn class_code(&self) -> &str {
        self.class.get(..4).unwrap_or(&self.class)
    }

    /// Returns whether it is a bridge of any kind.
    pub fn is_bridge(&self) -> bool {
        self.class.starts_with("06")
    }

    /// Returns whether it is of a kind that one would have exchange data with device memory:
    /// storage, network, display, memory, processors and what has no class, as many FPGAs.
    pub fn moves_data(&self) -> bool {
        const CLASSES: &[&str] = &["01", "02", "03", "05", "0b", "0c06", "11", "12", "ff"];
        CLASSES.iter().any(|class| self.class.starts_with(class))
    }

    /// Returns whether it has memory that could be registered, but no driver that does so: a CMB,
    /// or unused memory.
    pub fn could_provide(&self) -> bool {
        const LEAST: u64 = 2 << 20;
        let memory = |bar: &Bar| bar.prefetchable && bar.size >= LEAST;
        self.cmb
            || self.driver.is_none()
                && self.moves_data()
                && !self.class.starts_with("03")
                && self.bars.iter().any(memory)
    }
}
