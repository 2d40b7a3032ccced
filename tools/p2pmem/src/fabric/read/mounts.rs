// SPDX-License-Identifier: GPL-2.0

//! Reads mounts, and the block devices of file systems that have several.

use std::fs;

use crate::{
    error::Error,
    fabric::{
        block_device::BlockDevice,
        record::{Fabric, Mount},
    },
    mountinfo::{self, MountInfo},
    root::{entries, name, text, Root},
};

/// Reads the mounts of this process.
pub(super) fn mounts(root: &Root) -> Result<Vec<Mount>, Error> {
    let path = root.proc("self/mountinfo");
    let text = fs::read_to_string(&path).map_err(|source| Error::NotMounted {
        path,
        mount: "/proc",
        source,
    })?;
    Ok(mountinfo::parse(&text).into_iter().map(mount).collect())
}

fn mount(info: MountInfo) -> Mount {
    let mut options = info.options.iter();
    Mount {
        devices: Vec::new(),
        realtime: options
            .find(|(name, _)| name == "rtdev")
            .and_then(|(_, value)| value.clone()),
        layers: match &*info.kind {
            "overlay" => layers(&info.options),
            _ => Vec::new(),
        },
        number: info.number,
        point: info.point,
        kind: info.kind,
        source: info.source,
    }
}

/// Returns the directories of an overlay, by its options.
fn layers(options: &[(String, Option<String>)]) -> Vec<String> {
    const NAMES: &[&str] = &["upperdir", "lowerdir", "lowerdir+", "datadir+"];
    options
        .iter()
        .filter(|(name, _)| NAMES.contains(&&**name))
        .filter_map(|(_, paths)| paths.as_deref())
        .flat_map(|paths| paths.split(':'))
        .filter(|path| !path.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Returns the names of the block devices of a file system that has several: mountinfo names one.
pub(super) fn several_devices(root: &Root, fabric: &Fabric, mount: &Mount) -> Vec<String> {
    let Some(device) = fabric.device_of_source(&mount.source) else {
        return Vec::new();
    };
    match &*mount.kind {
        "btrfs" => devices_of_btrfs(root, device),
        "f2fs" => {
            let map = root.proc(format!("fs/f2fs/{}/disk_map", device.name));
            devices_of_f2fs(fabric, &text(map).unwrap_or_default())
        }
        _ => Vec::new(),
    }
}

/// Returns the block devices that a map of f2fs lists, which has these lines only if there are
/// several: `Disk: 0 (zoned=0): 0x0000000000 - 0x000001ffff on /dev/nvme0n1`.
fn devices_of_f2fs(fabric: &Fabric, map: &str) -> Vec<String> {
    map.lines()
        .filter(|line| line.starts_with("Disk:"))
        .filter_map(|line| fabric.device_of_source(line.rsplit_once(" on ")?.1))
        .map(|device| device.name.clone())
        .collect()
}

/// Returns the block devices of a btrfs, if there are several.
fn devices_of_btrfs(root: &Root, device: &BlockDevice) -> Vec<String> {
    entries(root.sys("fs/btrfs"))
        .iter()
        .map(|folder| {
            let devices = entries(folder.join("devices"));
            devices.iter().map(name).collect::<Vec<_>>()
        })
        .find(|devices| devices.len() > 1 && devices.contains(&device.name))
        .unwrap_or_default()
}
