// SPDX-License-Identifier: GPL-2.0

//! The root directory of a machine, and small files of its sysfs and procfs.

use std::{
    fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

/// The root directory of a machine: `/` for this one. Tests make others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(PathBuf);

impl Default for Root {
    fn default() -> Self {
        Self::new("/")
    }
}

impl Root {
    /// Returns the root at a path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Returns a path below the root.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.join(path)
    }

    /// Returns a path below the mount point of sysfs.
    pub fn sys(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.join("sys").join(path)
    }

    /// Returns a path below the mount point of procfs.
    pub fn proc(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.join("proc").join(path)
    }

    /// Returns a path below the folder of device nodes.
    pub fn dev(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.join("dev").join(path)
    }
}

/// Returns the text of a small file without the white space around it.
pub fn text(path: impl AsRef<Path>) -> io::Result<String> {
    Ok(fs::read_to_string(path)?.trim().to_owned())
}

/// Returns the decimal number in a small file.
///
/// # Errors
///
/// Those of reading; `InvalidData` if it has something else.
pub fn number<T: FromStr>(path: impl AsRef<Path>) -> io::Result<T> {
    text(path)?.parse().map_err(|_| wrong("not a number"))
}

/// Reads a number as the kernel writes hexadecimal ones, with `0x`.
pub fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// Returns the last part of a path.
pub fn name(path: impl AsRef<Path>) -> String {
    let name = path.as_ref().file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Returns the name of the object that a link leads to.
pub fn link_name(path: impl AsRef<Path>) -> io::Result<String> {
    Ok(name(fs::read_link(path)?))
}

/// Returns the paths in a folder, in the order of their names; nothing if there is no folder.
pub fn entries(path: impl AsRef<Path>) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries.map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// Returns the error of a file that has other contents than expected.
pub(crate) fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
