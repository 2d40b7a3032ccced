// SPDX-License-Identifier: GPL-2.0

//! Reads block devices.

use std::{fs, path::Path};

use crate::{
    fabric::{
        block_device::{BlockDevice, BlockKind},
        function::Function,
    },
    pci::PciAddress,
    root::{entries, link_name, name, text, Root},
};

/// Reads the block devices, by name.
pub(super) fn block_devices(root: &Root, functions: &[Function]) -> Vec<BlockDevice> {
    entries(root.sys("class/block"))
        .iter()
        .filter_map(|path| block_device(&fs::canonicalize(path).ok()?, functions))
        .collect()
}

/// Reads the directory of a block device. Returns nothing for hidden and unused ones.
fn block_device(path: &Path, functions: &[Function]) -> Option<BlockDevice> {
    if text(path.join("hidden")).is_ok_and(|text| text == "1") {
        return None;
    }
    let mut below: Vec<_> = entries(path.join("slaves")).iter().map(name).collect();
    let mut drive = Vec::new();

    let kind = if path.join("partition").exists() {
        below = path.parent().map(name).into_iter().collect();
        BlockKind::Partition
    } else if path.join("dm").exists() {
        BlockKind::DeviceMapper {
            mapped: text(path.join("dm/name")).unwrap_or_default(),
            uuid: text(path.join("dm/uuid")).unwrap_or_default(),
        }
    } else if path.join("md").exists() {
        BlockKind::Md {
            level: text(path.join("md/level")).unwrap_or_default(),
        }
    } else if name(path).starts_with("loop") {
        BlockKind::Loop {
            backing: text(path.join("loop/backing_file")).ok()?,
        }
    } else {
        drive = functions_of(path);
        // A node that is there for what may come, as those of nbd and zram.
        if drive.is_empty() && text(path.join("size")).is_ok_and(|text| text == "0") {
            return None;
        }
        let driver = link_name(path.join("device/driver")).ok().or_else(|| {
            let function = functions.iter().find(|one| drive.contains(&one.address))?;
            function.driver.clone()
        });
        BlockKind::Disk {
            driver: driver.unwrap_or_default(),
        }
    };
    // A partition has the queue of its disk.
    let queue = match kind {
        BlockKind::Partition => path.parent().unwrap_or(path).join("queue"),
        _ => path.join("queue"),
    };

    Some(BlockDevice {
        stable_writes: text(queue.join("stable_writes")).is_ok_and(|text| text == "1"),
        name: name(path),
        number: text(path.join("dev")).ok()?,
        kind,
        below,
        functions: drive,
    })
}

/// Returns the PCI functions of a drive: the one it lies below, or, if several paths lead to it,
/// those of its NVMe controllers.
fn functions_of(path: &Path) -> Vec<PciAddress> {
    let above = |path: &Path| {
        let mut names = path.ancestors().map(name);
        names.find_map(|name| PciAddress::from_name(&name))
    };

    if let Some(address) = above(path) {
        return vec![address];
    }
    let mut found: Vec<_> = entries(path.join("device"))
        .iter()
        .filter(|path| name(path).starts_with("nvme"))
        .filter_map(|path| above(&fs::canonicalize(path).ok()?))
        .collect();
    found.dedup();
    found
}
