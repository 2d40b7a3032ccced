// SPDX-License-Identifier: GPL-2.0

//! Uses of a device that keep it from being taken away.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{ensure, Result};
use p2pmem::{
    mountinfo::{self, MountInfo},
    root::{hexadecimal, text},
    size, Root,
};
use rustix::{fs::OFlags, io::Errno};

use super::{
    device::{device_folder, Device},
    openers,
};

/// Fails if memory of a node is in use.
pub fn refuse_if_allocated(device: &Device) -> Result<()> {
    let allocated = match &device.node {
        Some(node) => node.details().map_or(0, |details| details.allocated),
        None => 0,
    };
    ensure!(
        allocated == 0,
        "{} is in use: {} of its memory are allocated (p2pmem list --users shows the processes): end them, or pass \
         --force",
        device.pci,
        size::format(allocated)
    );
    Ok(())
}

/// Returns the use of a device, in words. Notes what this user cannot see.
pub fn use_of(root: &Root, device: &Device, notes: &mut Vec<String>) -> Result<Option<String>> {
    let directory = fs::canonicalize(device_folder(root, device.pci))?;
    let mut nodes = openers::nodes(&directory);

    if let Some(use_) = use_of_function(&directory) {
        return Ok(Some(use_));
    }
    if let Some(use_) = use_of_disks(root, &directory, &mut nodes)? {
        return Ok(Some(use_));
    }
    for entry in fs::read_dir(root.sys("block"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let file = fs::read_to_string(entry.path().join("loop/backing_file"));
        let file = PathBuf::from(file.unwrap_or_default().trim());
        if let Some(node) = nodes.iter().find(|node| node.is_at(&file)) {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            return Ok(Some(format!("/dev/{} is behind /dev/{name}", node.name)));
        }
    }

    // The driver itself counts what is used of its node.
    if device.node.is_some() {
        nodes.retain(|node| !node.name.starts_with("p2pmem"));
    }
    let openers = openers::look(root, &nodes)?;
    if openers.first.is_none() && openers.hidden > 0 && !nodes.is_empty() {
        notes.push(format!(
            "{} may be in use: the descriptors of {} processes cannot be read, which takes root",
            device.pci, openers.hidden
        ));
    }
    Ok(openers.first)
}

/// Returns the use of a function other than by its nodes: networks, virtual functions.
fn use_of_function(directory: &Path) -> Option<String> {
    const IFF_UP: u64 = 1;

    let functions = fs::read_to_string(directory.join("sriov_numvfs")).unwrap_or_default();
    match functions.trim() {
        "" | "0" => (),
        count => return Some(format!("it has {count} virtual functions (sriov_numvfs)")),
    }
    for entry in fs::read_dir(directory.join("net"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let flags = text(entry.path().join("flags")).unwrap_or_default();
        if hexadecimal(&flags).is_some_and(|flags| flags & IFF_UP != 0) {
            let name = entry.file_name();
            return Some(format!("the network {} is up", name.to_string_lossy()));
        }
    }
    None
}

/// Returns the use of the block devices that a device has, in words. Adds the nodes of multipath
/// drives that have it as a path.
fn use_of_disks(
    root: &Root,
    directory: &Path,
    nodes: &mut Vec<openers::Node>,
) -> Result<Option<String>> {
    let Ok(disks) = fs::read_dir(root.sys("block")) else {
        // There are none.
        return Ok(None);
    };
    let mounts = mountinfo::parse(&fs::read_to_string(root.proc("self/mountinfo"))?);
    let swaps = fs::read_to_string(root.proc("swaps")).unwrap_or_default();

    for disk in disks {
        let disk = disk?;
        if !fs::canonicalize(disk.path()).is_ok_and(|path| path.starts_with(directory)) {
            continue;
        }
        let name = disk.file_name().to_string_lossy().into_owned();
        // A drive with several paths is used by a name that tells of none.
        let head = head_of(&name);
        let is_head = head.is_some();
        let name = head.unwrap_or(name);
        let folder = root.sys("block").join(&name);
        if is_head {
            nodes.extend(openers::nodes(&fs::canonicalize(&folder)?));
        }

        let mut parts = vec![(name.clone(), folder.clone())];
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.path().join("partition").exists() {
                let name = entry.file_name().to_string_lossy().into_owned();
                parts.push((name, entry.path()));
            }
        }
        for (name, folder) in parts {
            if let Some(use_) = use_of_part(&name, &folder, &mounts, &swaps) {
                return Ok(Some(use_));
            }
        }
        if is_claimed(&root.dev(&name)) {
            return Ok(Some(format!("/dev/{name} is opened for exclusive use")));
        }
    }

    Ok(None)
}

/// Returns a use of a disk or a partition, by its directory in sysfs, and by procfs.
fn use_of_part(name: &str, folder: &Path, mounts: &[MountInfo], swaps: &str) -> Option<String> {
    let number = fs::read_to_string(folder.join("dev")).unwrap_or_default();
    let node = format!("/dev/{name}");

    let holder = fs::read_dir(folder.join("holders"))
        .ok()
        .and_then(|mut holders| holders.next()?.ok());
    if let Some(holder) = holder {
        let holder = holder.file_name();
        return Some(format!("{node} is part of {}", holder.to_string_lossy()));
    }
    for mount in mounts {
        if mount.number == number.trim() || mount.source == node {
            return Some(format!("{node} is mounted at {}", mount.point));
        }
    }

    swaps
        .lines()
        .any(|line| line.split_whitespace().next() == Some(&node))
        .then(|| format!("{node} is swap space"))
}

/// Returns the drive that a path to it (`nvme0c1n2`) belongs to (`nvme0n2`).
fn head_of(name: &str) -> Option<String> {
    let (subsystem, rest) = name.strip_prefix("nvme")?.split_once('c')?;
    let (_, namespace) = rest.split_once('n')?;

    Some(format!("nvme{subsystem}n{namespace}"))
}

/// Returns whether the kernel, or a program, claimed a disk or a part of it for itself.
fn is_claimed(node: &Path) -> bool {
    let result = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::EXCL.bits() as i32)
        .open(node);

    result.is_err_and(|error| Errno::from_io_error(&error) == Some(Errno::BUSY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_to_a_drive_is_known() {
        assert_eq!(head_of("nvme0c1n2").as_deref(), Some("nvme0n2"));
        assert_eq!(head_of("nvme0n1"), None);
        assert_eq!(head_of("sdc"), None);
    }
}
