// SPDX-License-Identifier: GPL-2.0

//! Finds processes that have memory allocated, as far as this one may see them.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use serde::Serialize;

use crate::root::Root;

/// A process that has a node open.
///
/// Memory counts for the file that it was allocated through. A process that inherited the file is
/// listed as well, with the same number; memory whose file is closed is listed nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    /// Its number.
    pub pid: i32,
    /// Its name.
    pub name: String,
    /// Bytes that its open files have allocated.
    pub bytes: u64,
    /// Bytes of these in large pages; 0 with a driver that does not report it.
    pub large: u64,
    /// The number of the node, see [`device_number`](crate::sysfs::Entry::device_number).
    #[serde(skip)]
    pub device: u64,
}

/// Returns the users of all nodes. Processes that this one may
/// not look at are left out.
pub fn users(root: &Root) -> io::Result<Vec<User>> {
    let mut found = Vec::new();

    for entry in fs::read_dir(root.proc(""))? {
        let entry = entry?;
        // Other entries are not processes. A process that ended has nothing open.
        if let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        {
            let _ = add_process(&mut found, &entry.path(), pid);
        }
    }
    found.sort_by_key(|user| (user.device, user.pid));

    Ok(found)
}

/// Adds what a process has.
fn add_process(found: &mut Vec<User>, process: &Path, pid: i32) -> io::Result<()> {
    let first = found.len();
    let mut seen: Vec<i32> = Vec::new();

    for entry in fs::read_dir(process.join("fd"))? {
        let entry = entry?;
        let name = entry.file_name();
        let (Some(fd), Ok(file)) = (
            name.to_str().and_then(|name| name.parse().ok()),
            fs::metadata(entry.path()),
        ) else {
            continue;
        };
        if !file.file_type().is_char_device() {
            continue;
        }
        let info = fs::read_to_string(process.join("fdinfo").join(&name)).unwrap_or_default();
        let Some(bytes) = field(&info, "p2pmem-allocated:") else {
            continue;
        };
        let large = field(&info, "p2pmem-large:").unwrap_or(0);
        // A file may have several descriptors.
        if seen.iter().any(|&other| is_same_file(pid, fd, other)) {
            continue;
        }
        seen.push(fd);

        let device = file.rdev();
        match found[first..].iter_mut().find(|user| user.device == device) {
            Some(user) => {
                user.bytes += bytes;
                user.large += large;
            }
            None => found.push(User {
                pid,
                name: fs::read_to_string(process.join("comm"))?.trim().to_owned(),
                bytes,
                large,
                device,
            }),
        }
    }

    Ok(())
}

/// Returns the number in one of the lines that the driver adds to the fdinfo of a file.
fn field(info: &str, name: &str) -> Option<u64> {
    let value = info.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().parse().ok()
}

/// Asks the kernel whether two descriptors of a process are of one open file.
fn is_same_file(pid: i32, one: i32, other: i32) -> bool {
    /// Of linux/kcmp.h.
    const KCMP_FILE: libc::c_int = 0;

    // SAFETY: The call takes numbers only.
    unsafe { libc::syscall(libc::SYS_kcmp, pid, pid, KCMP_FILE, one, other) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Numbers that no process has.
    const FIRST: i32 = 1 << 30;

    #[test]
    fn processes_are_found_by_their_files() {
        let top = tempfile::tempdir().unwrap();
        let root = Root::new(top.path());
        let proc = root.proc("");
        let add = |pid: i32, name: &str, files: &[(i32, &str, &str)]| {
            let process = proc.join(pid.to_string());
            fs::create_dir_all(process.join("fd")).unwrap();
            fs::create_dir_all(process.join("fdinfo")).unwrap();
            fs::write(process.join("comm"), format!("{name}\n")).unwrap();
            for (fd, target, info) in files {
                symlink(target, process.join(format!("fd/{fd}"))).unwrap();
                fs::write(process.join(format!("fdinfo/{fd}")), info).unwrap();
            }
        };
        // As older versions of the driver write it.
        let info = |bytes| format!("pos:\t0\np2pmem-allocated:\t{bytes}\n");
        let with_large = |bytes, large| format!("{}p2pmem-large:\t{large}\n", info(bytes));
        // Any character devices will do.
        let files: &[(i32, &str, &str)] = &[
            (0, "/dev/null", "pos:\t0\n"),
            (3, "/dev/null", &info(4096)),
            (4, "/dev/null", &with_large(8192, 4096)),
            (5, "/dev/zero", &with_large(0, 0)),
            (6, "/", &info(1)),
        ];
        add(FIRST + 1, "two", &files[1..2]);
        add(FIRST, "one", files);
        add(FIRST + 2, "none", &files[..1]);
        fs::create_dir_all(proc.join("sys")).unwrap();

        let found = users(&root);
        let device = |path| fs::metadata(path).unwrap().rdev();
        let user = |pid, name: &str, bytes, large, path| User {
            pid,
            name: name.to_owned(),
            bytes,
            large,
            device: device(path),
        };
        assert_eq!(
            found.unwrap(),
            [
                user(FIRST, "one", 12288, 4096, "/dev/null"),
                user(FIRST + 1, "two", 4096, 0, "/dev/null"),
                user(FIRST, "one", 0, 0, "/dev/zero"),
            ]
        );
    }
}
