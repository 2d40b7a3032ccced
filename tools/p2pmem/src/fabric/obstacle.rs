// SPDX-License-Identifier: GPL-2.0

//! File systems and block devices that cannot take part in direct I/O with the memory of a
//! provider.
//!
//! A stacked device may report success although one of its members failed: md's raid1 and raid10
//! do. So each member is looked at before data is moved.

use std::fmt;

use serde::Serialize;

use super::{
    block_device::BlockDevice,
    record::{Fabric, ProviderRecord},
    stack::{Handling, Stack},
    verdict::Reach,
};
use crate::pci::PciAddress;

/// A file system or block device that cannot take part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Obstacle {
    /// Its name.
    pub name: String,
    /// In which way.
    pub kind: ObstacleKind,
    /// Why, in a line.
    pub why: String,
}

/// In which way something cannot take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObstacleKind {
    /// It is a file system that does not pass device memory on.
    FileSystem,
    /// Its queue takes no device memory.
    NotTaken,
    /// It is a drive that does not reach the memory, or one of its paths does not.
    NotReached,
}

/// Expectation of direct I/O before it is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// It works.
    Works,
    /// It is not refused, and some machines lose the data.
    Unproven,
    /// It fails: this is in the way.
    Fails(Obstacle),
    /// It is not known.
    Unknown,
}

impl fmt::Display for Prospect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Works => "works",
            Self::Unproven => "unproven",
            Self::Fails(_) => "fails",
            Self::Unknown => "unknown",
        })
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Fabric {
    /// Returns what cannot take part in direct I/O of a stack with the memory of a provider, from
    /// the top down. Drives whose route the driver does not list are left out.
    pub fn obstacles(&self, stack: &Stack, provider: &ProviderRecord) -> Vec<Obstacle> {
        let devices = stack
            .devices
            .iter()
            .filter_map(|name| self.block_device(name))
            .filter_map(|device| match device.refusal() {
                Some(why) => Some(Obstacle {
                    name: device.name.clone(),
                    kind: ObstacleKind::NotTaken,
                    why,
                }),
                None => self.not_reached(device, provider),
            });
        let file_system = stack.file_refusal().map(|why| Obstacle {
            name: stack.file_system.clone().unwrap_or_default(),
            kind: ObstacleKind::FileSystem,
            why,
        });
        file_system.into_iter().chain(devices).collect()
    }

    /// Returns what is known of direct I/O between a stack and the memory of a provider.
    pub fn prospect(&self, stack: &Stack, provider: &ProviderRecord) -> Prospect {
        let works = |address: PciAddress| {
            let function = self.function(address)?;
            self.verdict(provider, function).reach.works()
        };
        if let Some(obstacle) = self.obstacles(stack, provider).into_iter().next() {
            return Prospect::Fails(obstacle);
        }
        match stack.handling() {
            Handling::Copied => Prospect::Works,
            Handling::Passed if stack.functions.is_empty() => Prospect::Unknown,
            Handling::Passed if !self.unproven(stack, provider).is_empty() => Prospect::Unproven,
            Handling::Passed if stack.functions.iter().all(|one| works(*one) == Some(true)) => {
                Prospect::Works
            }
            _ => Prospect::Unknown,
        }
    }

    /// Returns why a drive does not reach the memory by each of its paths.
    fn not_reached(&self, device: &BlockDevice, provider: &ProviderRecord) -> Option<Obstacle> {
        device.functions.iter().find_map(|&address| {
            let verdict = self.verdict(provider, self.function(address)?);
            (verdict.reach == Reach::None).then(|| Obstacle {
                name: device.name.clone(),
                kind: ObstacleKind::NotReached,
                why: format!(
                    "{} ({address}) does not reach {}: {}",
                    device.name,
                    provider.node(),
                    verdict.why
                ),
            })
        })
    }

    /// Returns whether a stack may go on without a member that fails: writes succeed then, and that
    /// member keeps its old data.
    pub fn is_redundant(&self, stack: &Stack) -> bool {
        let mut devices = stack.devices.iter();
        stack.several
            || devices.any(|name| {
                self.block_device(name)
                    .is_some_and(BlockDevice::is_redundant)
            })
    }

    /// Returns the drives of a stack whose way to the memory stays below a switch although an IOMMU
    /// translates: some machines lose that data, and report success.
    pub fn unproven<'a>(&'a self, stack: &'a Stack, provider: &'a ProviderRecord) -> Vec<&'a str> {
        let is_unproven = |&address: &PciAddress| {
            let function = self.function(address);
            let reach = function.map(|function| self.verdict(provider, function).reach);
            reach == Some(Reach::Switch) && self.translates(address)
        };
        stack
            .devices
            .iter()
            .filter_map(|name| self.block_device(name))
            .filter(|device| device.functions.iter().any(is_unproven))
            .map(|device| device.name.as_str())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::{BlockKind, Function, Iommu, Mount, Port, Route, RouteKind, Target};
    use std::path::Path;

    fn function(address: &str, parent: Option<&str>) -> Function {
        Function {
            address: address.parse().unwrap(),
            parent: parent.map(|one| one.parse().unwrap()),
            class: "010802".to_owned(),
            ..Function::default()
        }
    }

    fn drive(name: &str, number: &str, functions: &[&str]) -> BlockDevice {
        BlockDevice {
            name: name.to_owned(),
            number: number.to_owned(),
            kind: BlockKind::Disk {
                driver: "nvme".to_owned(),
            },
            below: Vec::new(),
            functions: functions.iter().map(|one| one.parse().unwrap()).collect(),
            stable_writes: false,
        }
    }

    fn md(name: &str, number: &str, level: &str, below: &[&str]) -> BlockDevice {
        BlockDevice {
            name: name.to_owned(),
            number: number.to_owned(),
            kind: BlockKind::Md {
                level: level.to_owned(),
            },
            below: below.iter().map(|one| (*one).to_owned()).collect(),
            functions: Vec::new(),
            stable_writes: false,
        }
    }

    fn route(address: &str, kind: RouteKind) -> Route {
        Route {
            address: address.parse().unwrap(),
            kind,
            distance: None,
            through: None,
            acs: Vec::new(),
            hosts: vec!["8086:29c0".to_owned()],
        }
    }

    /// Drives at 1 and 2 reach the memory, the one at 3 does not, the one at 4 has a path of each
    /// kind.
    fn fabric() -> Fabric {
        let mut port = function("0000:00:01.0", None);
        port.port = Some(Port::Root);
        let below = |number| function(&format!("0000:0{number}:00.0"), Some("0000:00:01.0"));
        let mut functions = vec![port];
        functions.extend((1..=3).map(below));
        functions[1].iommu = Some(Iommu {
            group: 1,
            kind: "DMA-FQ".to_owned(),
        });
        functions[2].iommu = Some(Iommu {
            group: 2,
            kind: "identity".to_owned(),
        });
        Fabric {
            functions,
            block_devices: vec![
                drive("nvme1n1", "259:1", &["0000:01:00.0"]),
                drive("nvme2n1", "259:2", &["0000:02:00.0"]),
                drive("nvme3n1", "259:3", &["0000:03:00.0"]),
                drive("nvme4n1", "259:4", &["0000:02:00.0", "0000:03:00.0"]),
                md("md0", "9:0", "raid1", &["nvme1n1", "nvme2n1"]),
                md("md1", "9:1", "raid10", &["nvme1n1", "nvme3n1"]),
                md("md2", "9:2", "raid5", &["nvme1n1", "nvme2n1"]),
                md("md3", "9:3", "raid0", &["nvme1n1", "nvme3n1"]),
            ],
            providers: vec![ProviderRecord {
                routes: Some(vec![
                    route("0000:01:00.0", RouteKind::Switch),
                    route("0000:02:00.0", RouteKind::Switch),
                    route("0000:03:00.0", RouteKind::None),
                ]),
                ..ProviderRecord::default()
            }],
            ..Fabric::default()
        }
    }

    fn stack(fabric: &Fabric, name: &str) -> Stack {
        let path = format!("/dev/{name}");
        fabric.stack(&Target::recorded(Path::new(&path), fabric).unwrap())
    }

    #[test]
    fn a_member_that_does_not_reach_is_named() {
        let fabric = fabric();
        let obstacles = |name: &str| fabric.obstacles(&stack(&fabric, name), &fabric.providers[0]);

        assert!(obstacles("nvme1n1").is_empty() && obstacles("md0").is_empty());
        for (name, member) in [
            ("nvme3n1", "nvme3n1"),
            ("md1", "nvme3n1"),
            ("md3", "nvme3n1"),
        ] {
            let found = obstacles(name);
            assert_eq!(found.len(), 1, "{name}");
            assert_eq!(found[0].kind, ObstacleKind::NotReached);
            assert_eq!(found[0].name, member);
            let why = format!("{member} (0000:03:00.0) does not reach /dev/p2pmem0: ");
            assert!(found[0].to_string().starts_with(&why), "{}", found[0]);
        }
        // One of two paths.
        assert_eq!(obstacles("nvme4n1")[0].kind, ObstacleKind::NotReached);
        let raid5 = obstacles("md2");
        assert_eq!((raid5.len(), raid5[0].kind), (1, ObstacleKind::NotTaken));
        // An unknown device is no obstacle.
        let silent = ProviderRecord::default();
        assert!(fabric.obstacles(&stack(&fabric, "md1"), &silent).is_empty());
    }

    #[test]
    fn what_is_known_before_it_is_tried() {
        let mut fabric = fabric();
        let prospect = |fabric: &Fabric, name: &str| {
            let stack = stack(fabric, name);
            fabric.prospect(&stack, &fabric.providers[0]).to_string()
        };
        for (name, known) in [
            ("nvme1n1", "unproven"),
            ("nvme2n1", "works"),
            ("nvme3n1", "fails"),
            ("md0", "unproven"),
            ("md2", "fails"),
        ] {
            assert_eq!(prospect(&fabric, name), known, "{name}");
        }
        fabric.providers[0].routes = None;
        assert_eq!(prospect(&fabric, "nvme2n1"), "unknown");

        let mount = |kind: &str| Mount {
            number: "259:2".to_owned(),
            point: "/".to_owned(),
            kind: kind.to_owned(),
            source: "/dev/nvme2n1".to_owned(),
            devices: Vec::new(),
            realtime: None,
            layers: Vec::new(),
        };
        let mut fabric = self::fabric();
        for (kind, known) in [
            ("ext4", "works"),
            ("btrfs", "works"),
            ("vfat", "fails"),
            ("iso9660", "fails"),
            ("overlay", "unknown"),
            ("new", "unknown"),
        ] {
            fabric.mounts = vec![mount(kind)];
            let stack = fabric.stack(&Target::File("/file".to_owned()));
            let found = fabric.prospect(&stack, &fabric.providers[0]);
            assert_eq!(found.to_string(), known, "{kind}");
            if let Prospect::Fails(obstacle) = found {
                assert_eq!(obstacle.kind, ObstacleKind::FileSystem);
            }
        }
    }

    #[test]
    fn mirrors_go_on_without_a_member() {
        let fabric = fabric();
        for (name, redundant) in [
            ("nvme1n1", false),
            ("md0", true),
            ("md1", true),
            ("md3", false),
        ] {
            assert_eq!(
                fabric.is_redundant(&stack(&fabric, name)),
                redundant,
                "{name}"
            );
        }
    }

    #[test]
    fn what_an_iommu_should_not_see_is_to_be_proved() {
        let fabric = fabric();
        for (name, drives) in [
            ("nvme1n1", &["nvme1n1"][..]),
            ("nvme2n1", &[]),
            ("nvme3n1", &[]),
        ] {
            let stack = stack(&fabric, name);
            assert_eq!(
                fabric.unproven(&stack, &fabric.providers[0]),
                drives,
                "{name}"
            );
        }
    }
}
