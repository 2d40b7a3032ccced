// SPDX-License-Identifier: GPL-2.0

//! PCI functions.

use serde::{Deserialize, Serialize};

use super::acs::Acs;
use crate::pci::PciAddress;

/// A PCI function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// Its address, like `0000:03:00.0`.
    #[serde(rename = "pci", alias = "address")]
    pub address: PciAddress,
    /// The address of the bridge above it; absent on a root bus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<PciAddress>,
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
