// SPDX-License-Identifier: GPL-2.0

//! Objects that paths lead to.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use rustix::ioctl::{ioctl, opcode, Getter, Opcode};

use super::record::Fabric;
use crate::error::Error;

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
    pub fn of(path: &Path) -> Result<Self, Error> {
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
        look().map_err(|source: io::Error| Error::Target {
            path: path.to_owned(),
            source,
        })
    }

    /// Looks at a path of a machine that was recorded.
    ///
    /// # Errors
    ///
    /// If it is in /dev and no block device that was recorded.
    pub fn recorded(path: &Path, fabric: &Fabric) -> Result<Self, Error> {
        let text = path.to_string_lossy().into_owned();
        if !path.starts_with("/dev") || path.starts_with("/dev/shm") {
            return Ok(Self::File(text));
        }
        let device = fabric.device_of_source(&text);
        let device = device.ok_or_else(|| Error::NotRecorded {
            path: path.to_owned(),
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

    let look = || -> io::Result<Attributes> {
        let file = fs::File::open(path)?;
        // SAFETY: The request writes this structure.
        Ok(unsafe { ioctl(&file, Getter::<GET, Attributes>::new())? })
    };
    look().is_ok_and(|attributes| attributes[0] & REALTIME != 0)
}
