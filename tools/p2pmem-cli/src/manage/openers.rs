// SPDX-License-Identifier: GPL-2.0

//! Finds processes that have a device node of a device open, by their descriptors. Those of other
//! users are visible to root only.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::fs::{makedev, statx, AtFlags, FileType, StatxFlags, CWD};

use p2pmem::Root;

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name below /dev.
    pub name: String,
    is_block: bool,
    /// Its number.
    number: u64,
}

impl Node {
    /// Returns whether a path leads to it.
    pub fn is_at(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|file| {
            let is_block = file.file_type().is_block_device();
            let is_device = is_block || file.file_type().is_char_device();
            is_device && (is_block, file.rdev()) == (self.is_block, self.number)
        })
    }
}

/// Returns the nodes of a device of sysfs, and of all devices below it.
pub fn nodes(folder: &Path) -> Vec<Node> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        found.extend(node(&folder));
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            // Not through links, which lead to other devices.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    found
}

/// Returns the node of a device of sysfs, if it has one.
fn node(folder: &Path) -> Option<Node> {
    let text = fs::read_to_string(folder.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    let subsystem = fs::read_link(folder.join("subsystem")).unwrap_or_default();
    // A node may have another name than its device, and lie in a folder.
    let uevent = fs::read_to_string(folder.join("uevent")).unwrap_or_default();
    let name = uevent
        .lines()
        .find_map(|line| line.strip_prefix("DEVNAME="));
    Some(Node {
        name: match name {
            Some(name) => name.to_owned(),
            None => folder.file_name()?.to_string_lossy().into_owned(),
        },
        is_block: subsystem.ends_with("block"),
        number: makedev(major.parse().ok()?, minor.parse().ok()?),
    })
}

/// Open nodes, by the descriptors of all processes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Openers {
    /// A node that a process has open, in words.
    pub first: Option<String>,
    /// Number of processes whose descriptors cannot be read.
    pub hidden: usize,
}

/// Looks for processes that have one of the nodes open, other than this one.
pub fn look(root: &Root, nodes: &[Node]) -> io::Result<Openers> {
    let mut found = Openers::default();
    for process in fs::read_dir(root.proc(""))? {
        let folder = process?.path();
        let pid = folder.file_name().and_then(|name| name.to_str());
        let Some(pid) = pid.and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid == std::process::id() {
            continue;
        }
        let descriptors = match fs::read_dir(folder.join("fd")) {
            Ok(descriptors) => descriptors,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                found.hidden += 1;
                continue;
            }
            // The process ended.
            Err(_) => continue,
        };
        let open = descriptors.flatten().find_map(|descriptor| {
            let (is_block, number) = device_of(&descriptor.path())?;
            let is = |node: &&Node| (node.is_block, node.number) == (is_block, number);
            nodes.iter().find(is)
        });
        if let (Some(node), None) = (open, &found.first) {
            let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
            found.first = Some(format!(
                "/dev/{} is open in {} (pid {pid})",
                node.name,
                name.trim()
            ));
        }
    }
    Ok(found)
}

/// Returns whether a descriptor is one of a block device, and the number of its device. [`None`] if
/// it is one of no device.
fn device_of(descriptor: &Path) -> Option<(bool, u64)> {
    // Sockets, pipes and the like have no path. A server of files may not answer, and is not asked.
    if !fs::read_link(descriptor).ok()?.is_absolute() {
        return None;
    }
    let file = statx(CWD, descriptor, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE).ok()?;
    let is_block = match FileType::from_raw_mode(file.stx_mode.into()) {
        FileType::BlockDevice => true,
        FileType::CharacterDevice => false,
        _ => return None,
    };
    Some((is_block, makedev(file.stx_rdev_major, file.stx_rdev_minor)))
}
