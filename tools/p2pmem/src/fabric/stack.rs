// SPDX-License-Identifier: GPL-2.0

//! Devices below a file or a block device.

use std::path::Path;

use serde::Serialize;

use super::{
    block_device::BlockDevice,
    file_system::DirectIo,
    record::{Fabric, Mount},
    target::Target,
};
use crate::pci::PciAddress;

/// How a file or block device handles the memory of direct I/O, whichever provider that is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handling {
    /// The file system takes no device memory, for this reason.
    FileSystemRefuses(String),
    /// The files are in host memory, and the CPU copies.
    Copied,
    /// It passes the memory on to another file system, which is not known.
    Layered,
    /// No block device below it is known.
    NoDevice,
    /// A block device takes no device memory, for this reason.
    DeviceRefuses(String),
    /// All block devices take device memory. The file system is not known.
    UnknownFileSystem,
    /// It passes the memory on to drives.
    Passed,
}

/// A file or block device, and all that is below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stack {
    /// All of it in a line; empty if nothing is known.
    pub description: String,
    /// The file system, for what is not a block device itself.
    pub file_system: Option<String>,
    /// How that handles the memory of direct I/O.
    pub direct_io: Option<DirectIo>,
    /// The block devices from the top down, by name.
    pub devices: Vec<String>,
    /// Whether the file system has several, and may have copies of data on them.
    pub several: bool,
    /// The PCI functions of the drives at the bottom.
    pub functions: Vec<PciAddress>,
    /// Which of the block devices takes no device memory, and why.
    pub refusal: Option<String>,
}

impl Stack {
    /// Returns the drives at the bottom.
    pub fn drives<'a>(&self, fabric: &'a Fabric) -> Vec<&'a BlockDevice> {
        let devices = self.devices.iter();
        devices
            .filter_map(|name| fabric.block_device(name))
            .filter(|device| !device.functions.is_empty())
            .collect()
    }

    /// Returns how it handles the memory of direct I/O.
    pub fn handling(&self) -> Handling {
        if let Some(why) = self.file_refusal() {
            return Handling::FileSystemRefuses(why);
        }
        match (self.direct_io, &self.refusal) {
            (Some(DirectIo::Copied), _) => Handling::Copied,
            (Some(DirectIo::Layered), _) => Handling::Layered,
            _ if self.devices.is_empty() => Handling::NoDevice,
            (_, Some(why)) => Handling::DeviceRefuses(why.clone()),
            (Some(DirectIo::Unknown), _) => Handling::UnknownFileSystem,
            _ => Handling::Passed,
        }
    }

    /// Returns why the file system takes no device memory, if it does not.
    pub fn file_refusal(&self) -> Option<String> {
        self.direct_io?.refusal(self.file_system.as_deref()?)
    }
}

impl Fabric {
    /// Returns block devices, those that they consist of, and so on, each once.
    fn levels<'a>(&'a self, names: Vec<&'a str>) -> Vec<Vec<&'a BlockDevice>> {
        let mut levels: Vec<Vec<&BlockDevice>> = Vec::new();
        let mut wanted = names;
        while !wanted.is_empty() {
            let mut level = Vec::new();
            for device in wanted.drain(..).filter_map(|name| self.block_device(name)) {
                if !levels
                    .iter()
                    .flatten()
                    .chain(&level)
                    .any(|one| *one == device)
                {
                    level.push(device);
                }
            }
            wanted.extend(
                level
                    .iter()
                    .flat_map(|device| device.below.iter().map(String::as_str)),
            );
            levels.push(level);
        }
        levels.retain(|level| !level.is_empty());
        levels
    }

    /// Returns a block device and all that it consists of, from the top down.
    pub fn all_below<'a>(&'a self, name: &'a str) -> Vec<&'a BlockDevice> {
        self.levels(vec![name]).into_iter().flatten().collect()
    }

    /// Returns what a file is on: the mount with the longest path above it, the last one of these.
    fn mount_of(&self, path: &str) -> Option<&Mount> {
        self.mounts
            .iter()
            .filter(|mount| Path::new(path).starts_with(&mount.point))
            .max_by_key(|mount| mount.point.len())
    }

    /// Returns what all layers of an overlay are on, if that is the same.
    fn mount_of_layers(&self, mount: &Mount) -> Option<&Mount> {
        let mut mounts = mount.layers.iter().map(|path| self.mount_of(path));
        let first = mounts.next()??;
        let is_same =
            |other: Option<&Mount>| other.is_some_and(|other| other.number == first.number);
        // A path that leads back to an overlay is one of another mount namespace.
        (first.kind != mount.kind && mounts.all(is_same)).then_some(first)
    }

    /// Returns what is below a file or block device.
    pub fn stack(&self, target: &Target) -> Stack {
        let by_number = |number: &str| {
            self.block_devices
                .iter()
                .find(|device| device.number == number)
        };
        let mut tops: Vec<&str> = Vec::new();
        let mut file_system = None;
        let mut words = Vec::new();
        match target {
            Target::Device(number) => tops.extend(by_number(number).map(|one| &*one.name)),
            Target::File(path) | Target::RealtimeFile(path) => {
                let mount = self.mount_of(path);
                let lower = mount.and_then(|mount| self.mount_of_layers(mount));
                if lower.is_some() {
                    words.extend(mount.map(|mount| mount.kind.clone()));
                }
                if let Some(mount) = lower.or(mount) {
                    file_system = Some(mount.kind.clone());
                    match (target, &mount.realtime) {
                        (Target::RealtimeFile(_), Some(device)) => tops.push(device),
                        _ => tops.extend(mount.devices.iter().map(String::as_str)),
                    }
                    // A file system that can have several devices (btrfs) has a number of its own.
                    if tops.is_empty() {
                        let top = by_number(&mount.number)
                            .or_else(|| self.device_of_source(&mount.source));
                        tops.extend(top.map(|one| &*one.name));
                    }
                }
            }
        }

        let is_stable = |name: &&str| self.block_device(name).is_some_and(|one| one.stable_writes);
        let direct_io = file_system.as_deref().map(|kind| match DirectIo::of(kind) {
            DirectIo::Passed if kind == "xfs" && tops.iter().any(is_stable) => DirectIo::Bounced,
            direct_io => direct_io,
        });
        let several = tops.len() > 1 && file_system.as_deref() == Some("btrfs");
        let levels = self.levels(tops);
        words.extend(file_system.clone());
        words.extend(levels.iter().map(|level| {
            let level: Vec<_> = level.iter().map(ToString::to_string).collect();
            level.join(", ")
        }));
        let devices: Vec<_> = levels.into_iter().flatten().collect();
        let mut functions: Vec<_> = devices
            .iter()
            .flat_map(|device| device.functions.clone())
            .collect();
        functions.sort();
        functions.dedup();
        Stack {
            description: words.join(" on "),
            file_system,
            direct_io,
            refusal: devices.iter().find_map(|device| device.refusal()),
            devices: devices.iter().map(|device| device.name.clone()).collect(),
            several,
            functions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fabric::block_device::BlockKind, pci};

    fn device(name: &str, number: &str, kind: BlockKind, below: &[&str]) -> BlockDevice {
        BlockDevice {
            name: name.to_owned(),
            number: number.to_owned(),
            kind,
            below: below.iter().map(|name| (*name).to_owned()).collect(),
            functions: Vec::new(),
            stable_writes: false,
        }
    }

    fn nvme(number: u32) -> BlockDevice {
        let driver = "nvme".to_owned();
        BlockDevice {
            functions: vec![format!("0000:0{number}:00.0").parse().unwrap()],
            ..device(
                &format!("nvme{number}n1"),
                &format!("259:{number}"),
                BlockKind::Disk { driver },
                &[],
            )
        }
    }

    fn md(level: &str) -> BlockKind {
        BlockKind::Md {
            level: level.to_owned(),
        }
    }

    fn mount(number: &str, point: &str, kind: &str, source: &str) -> Mount {
        Mount {
            number: number.to_owned(),
            point: point.to_owned(),
            kind: kind.to_owned(),
            source: source.to_owned(),
            devices: Vec::new(),
            realtime: None,
            layers: Vec::new(),
        }
    }

    #[test]
    fn the_first_that_refuses_is_named() {
        let mapped = BlockKind::DeviceMapper {
            mapped: "vault".to_owned(),
            uuid: "CRYPT-LUKS2-1".to_owned(),
        };
        let fabric = Fabric {
            block_devices: vec![
                nvme(0),
                nvme(1),
                device("md0", "9:0", md("raid1"), &["nvme0n1", "nvme1n1"]),
                device("md1", "9:1", md("raid5"), &["nvme0n1", "nvme1n1"]),
                device("dm-0", "254:0", mapped, &["md0"]),
            ],
            mounts: vec![
                mount("9:0", "/", "ext4", "/dev/md0"),
                mount("0:50", "/home", "btrfs", "/dev/mapper/vault"),
                mount("0:51", "/homely", "tmpfs", "tmpfs"),
            ],
            ..Fabric::default()
        };
        let stack = |path: &str| fabric.stack(&Target::File(path.to_owned()));

        let root = stack("/srv/file");
        assert_eq!(root.devices, ["md0", "nvme0n1", "nvme1n1"]);
        assert_eq!(
            root.description,
            "ext4 on md0 (md raid1) on nvme0n1 (0000:00:00.0), nvme1n1 (0000:01:00.0)"
        );
        assert_eq!(pci::list(&root.functions), "0000:00:00.0, 0000:01:00.0");
        assert_eq!(
            (root.file_system.as_deref(), root.refusal),
            (Some("ext4"), None)
        );
        let home = stack("/home/me");
        assert_eq!(home.devices, ["dm-0", "md0", "nvme0n1", "nvme1n1"]);
        assert!(home.refusal.unwrap().contains("dm-0 is dm-crypt"));
        assert!(stack("/homely").devices.is_empty());
        let raid5 = Target::recorded(Path::new("/dev/md1"), &fabric).unwrap();
        assert!(fabric.stack(&raid5).refusal.unwrap().contains("md raid5"));
        assert!(Target::recorded(Path::new("/dev/sda"), &fabric).is_err());
    }

    #[test]
    fn a_realtime_file_is_on_another_device() {
        let mut fabric = Fabric {
            block_devices: vec![nvme(0), nvme(1)],
            mounts: vec![mount("259:0", "/data", "xfs", "/dev/nvme0n1")],
            ..Fabric::default()
        };
        fabric.mounts[0].realtime = Some("nvme1n1".to_owned());
        let path = || "/data/file".to_owned();
        let plain = fabric.stack(&Target::File(path()));
        let realtime = fabric.stack(&Target::RealtimeFile(path()));
        assert_eq!(plain.devices, ["nvme0n1"]);
        assert_eq!(realtime.devices, ["nvme1n1"]);
        assert_eq!(plain.direct_io, Some(DirectIo::Passed));

        // XFS alone reads into memory of its own if data must not change.
        fabric.block_devices[0].stable_writes = true;
        let way = |fabric: &Fabric| fabric.stack(&Target::File(path())).direct_io;
        assert_eq!(way(&fabric), Some(DirectIo::Bounced));
        fabric.mounts[0].kind = "ext4".to_owned();
        assert_eq!(way(&fabric), Some(DirectIo::Passed));
        fabric.mounts[0].kind = "vfat".to_owned();
        assert_eq!(way(&fabric), Some(DirectIo::Refused));
        let device = Target::Device("259:0".to_owned());
        assert_eq!(fabric.stack(&device).direct_io, None);
    }

    #[test]
    fn an_overlay_is_where_all_its_layers_are() {
        let mut fabric = Fabric {
            block_devices: vec![nvme(0), nvme(1)],
            mounts: vec![
                mount("259:0", "/one", "ext4", "/dev/nvme0n1"),
                mount("259:1", "/two", "xfs", "/dev/nvme1n1"),
                mount("0:40", "/both", "overlay", "overlay"),
            ],
            ..Fabric::default()
        };
        let layers = |fabric: &mut Fabric, paths: &[&str]| {
            fabric.mounts[2].layers = paths.iter().map(|&path| path.to_owned()).collect();
            fabric.stack(&Target::File("/both/file".to_owned()))
        };
        let same = layers(&mut fabric, &["/one/upper", "/one/lower"]);
        assert_eq!(
            same.description,
            "overlay on ext4 on nvme0n1 (0000:00:00.0)"
        );
        assert_eq!(same.direct_io, Some(DirectIo::Passed));
        for paths in [
            &["/one/upper", "/two/lower"][..],
            &["/both/upper"],
            &["/none"],
            &[],
        ] {
            let other = layers(&mut fabric, paths);
            assert_eq!(other.direct_io, Some(DirectIo::Layered), "{paths:?}");
            assert!(other.devices.is_empty());
        }
    }

    #[test]
    fn what_consists_of_itself_has_an_end() {
        let fabric = Fabric {
            block_devices: vec![
                device("md0", "9:0", md("raid0"), &["md1"]),
                device("md1", "9:1", md("raid0"), &["md0", "absent"]),
            ],
            ..Fabric::default()
        };
        assert_eq!(fabric.all_below("md0").len(), 2);
    }

    #[test]
    fn a_path_of_this_machine_is_a_file_or_an_error() {
        assert_eq!(
            Target::of(Path::new("/")).unwrap(),
            Target::File("/".to_owned())
        );
        let error = Target::of(Path::new("/nonexistent")).unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent"));
    }
}
