// SPDX-License-Identifier: GPL-2.0

//! Devices below a file or a block device, and whether they take device memory.
//!
//! The block layer passes pages of device memory on only where each queue on the way says that it
//! can: those of NVMe drives on PCI Express and of md's raid0, raid1 and raid10. All others make
//! direct I/O fail with EREMOTEIO. Nothing in sysfs tells; this is what the kernel's source says.

use std::{
    fmt, fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use anyhow::{Context, Result};
use rustix::ioctl::{ioctl, opcode, Getter, Opcode};
use serde::Serialize;

use super::{BlockDevice, BlockKind, DirectIo, Fabric, Mount};

/// Object that a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A block device, by its major and minor number.
    Device(String),
    /// A file or directory, by its whole path.
    File(String),
    /// A file or directory of XFS whose data is on the realtime device, by its whole path.
    RealtimeFile(String),
}

impl Target {
    /// Looks at a path of this machine.
    ///
    /// # Errors
    ///
    /// If there is no such file, or it may not be looked at.
    pub fn of(path: &Path) -> Result<Self> {
        let look = || {
            let metadata = fs::metadata(path)?;
            if metadata.file_type().is_block_device() {
                let number = metadata.rdev();
                let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
                return Ok(Self::Device(format!("{major}:{minor}")));
            }
            let path = fs::canonicalize(path)?;
            let text = path.to_string_lossy().into_owned();
            let is_file = metadata.is_file() || metadata.is_dir();
            Ok(match is_file && is_realtime(&path) {
                true => Self::RealtimeFile(text),
                false => Self::File(text),
            })
        };
        look().map_err(|error: std::io::Error| {
            anyhow::Error::new(error).context(format!(
                "cannot look at {}: name a file, directory or block device that there is",
                path.display()
            ))
        })
    }

    /// Looks at a path of a machine that was recorded.
    ///
    /// # Errors
    ///
    /// If it is in /dev and no block device that was recorded.
    pub fn recorded(path: &Path, fabric: &Fabric) -> Result<Self> {
        let text = path.to_string_lossy().into_owned();
        if !path.starts_with("/dev") || path.starts_with("/dev/shm") {
            return Ok(Self::File(text));
        }
        let device = fabric.device_of_source(&text).with_context(|| {
            format!("{text} was not recorded: `p2pmem topo --replay FILE` shows what was")
        })?;
        Ok(Self::Device(device.number.clone()))
    }
}

/// Returns whether the data of a file is on the realtime device of its XFS, or that of new files of
/// a directory will be. What cannot be looked at is taken for an ordinary file.
fn is_realtime(path: &Path) -> bool {
    /// `struct fsxattr`, of which the flags come first.
    type Attributes = [u32; 7];
    /// `FS_IOC_FSGETXATTR` of linux/fs.h.
    const GET: Opcode = opcode::read::<Attributes>(b'X', 31);
    /// `FS_XFLAG_REALTIME` and `FS_XFLAG_RTINHERIT`.
    const REALTIME: u32 = 0x1 | 0x100;

    let look = || -> std::io::Result<Attributes> {
        let file = fs::File::open(path)?;
        // SAFETY: The request writes this structure.
        Ok(unsafe { ioctl(&file, Getter::<GET, Attributes>::new())? })
    };
    look().is_ok_and(|attributes| attributes[0] & REALTIME != 0)
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
    pub functions: Vec<String>,
    /// Which of the block devices takes no device memory, and why.
    pub refusal: Option<String>,
}

impl fmt::Display for BlockDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, .. } = self;
        match &self.kind {
            BlockKind::Disk { .. } if self.functions.is_empty() => write!(f, "{name}"),
            BlockKind::Disk { .. } => write!(f, "{name} ({})", self.functions.join(", ")),
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
            functions: vec![format!("0000:0{number}:00.0")],
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
        assert_eq!(root.functions, ["0000:00:00.0", "0000:01:00.0"]);
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
