// SPDX-License-Identifier: GPL-2.0

//! Block devices, and whether their queues take device memory.
//!
//! The block layer passes pages of device memory on only where each queue on the way says that it
//! can: those of NVMe drives on PCI Express and of md's raid0, raid1 and raid10. All others make
//! direct I/O fail with EREMOTEIO. Nothing in sysfs tells; this is what the kernel's source says.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::pci::{self, PciAddress};

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
    pub functions: Vec<PciAddress>,
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

impl fmt::Display for BlockDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, .. } = self;
        match &self.kind {
            BlockKind::Disk { .. } if self.functions.is_empty() => write!(f, "{name}"),
            BlockKind::Disk { .. } => write!(f, "{name} ({})", pci::list(&self.functions)),
            BlockKind::Partition => write!(f, "{name}"),
            BlockKind::DeviceMapper { mapped, .. } => {
                write!(f, "{name} ({} {mapped})", self.maker())
            }
            BlockKind::Md { level } => write!(f, "{name} (md {level})"),
            BlockKind::Loop { backing } => write!(f, "{name} (loop, {backing})"),
        }
    }
}

impl BlockDevice {
    /// Returns who made a device of the device mapper.
    fn maker(&self) -> &'static str {
        const MAKERS: &[(&str, &str)] = &[
            ("CRYPT-", "dm-crypt"),
            ("LVM-", "LVM"),
            ("mpath-", "multipath"),
            ("part", "kpartx"),
        ];
        let BlockKind::DeviceMapper { uuid, .. } = &self.kind else {
            return "device mapper";
        };
        MAKERS
            .iter()
            .find(|(start, _)| uuid.starts_with(start))
            .map_or("device mapper", |&(_, maker)| maker)
    }

    /// Returns whether it is put on top of others in a way that matters here.
    pub fn is_stacked(&self) -> bool {
        !matches!(self.kind, BlockKind::Disk { .. } | BlockKind::Partition)
    }

    /// Says why its queue takes no device memory, if it does not.
    pub fn refusal(&self) -> Option<String> {
        match &self.kind {
            BlockKind::Partition => None,
            BlockKind::Disk { driver } if driver == "nvme" && !self.functions.is_empty() => None,
            BlockKind::Disk { driver } if driver.is_empty() => Some(format!(
                "{} is no NVMe drive on PCI Express: no others take device memory",
                self.name
            )),
            BlockKind::Disk { driver } => Some(format!(
                "{} is driven by {driver}, which takes no device memory: only nvme does",
                self.name
            )),
            BlockKind::DeviceMapper { .. } => Some(format!(
                "{} is {}: the device mapper takes no device memory",
                self.name,
                self.maker()
            )),
            BlockKind::Md { level } if ["raid0", "raid1", "raid10"].contains(&&**level) => None,
            BlockKind::Md { level } => Some(format!(
                "{} is md {level}: only raid0, raid1 and raid10 take device memory",
                self.name
            )),
            BlockKind::Loop { .. } => Some(format!(
                "{} is a loop device, which takes no device memory",
                self.name
            )),
        }
    }

    /// Returns whether it has each block on several members, so that it can go on without one.
    pub fn is_redundant(&self) -> bool {
        matches!(&self.kind, BlockKind::Md { level } if level == "raid1" || level == "raid10")
    }
}
