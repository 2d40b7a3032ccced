// SPDX-License-Identifier: GPL-2.0

//! How file systems do direct I/O, and whether device memory gets through: as in Linux 7.3.
//!
//! Only iomap and the files of block devices ask the queue below whether it takes device memory.
//! Older ways, like `blockdev_direct_IO()`, do not ask, and fail with EREMOTEIO on each block
//! device.

use serde::Serialize;

/// How a file system handles the memory of direct I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DirectIo {
    /// It passes the memory on to its block devices, by iomap.
    Passed,
    /// As above; but the CPU copies what is written to files with checksums or several copies.
    Checksummed,
    /// It takes no device memory: EREMOTEIO.
    Refused,
    /// It reads into memory of its own first, as the block device wants data that does not change:
    /// reads fail with EREMOTEIO, and the CPU copies what is written.
    Bounced,
    /// The files are in host memory, and the CPU copies.
    Copied,
    /// It has no direct I/O: EINVAL.
    Absent,
    /// The data comes from another machine or program: EREMOTEIO.
    Remote,
    /// It passes the memory on to another file system.
    Layered,
    /// It is not known.
    Unknown,
}

impl DirectIo {
    /// Returns what is known of a file system, by its name in mountinfo.
    pub fn of(kind: &str) -> Self {
        match kind {
            "ext2" | "ext3" | "ext4" | "xfs" | "f2fs" | "exfat" | "ntfs" | "ntfs3" | "gfs2"
            | "erofs" | "zonefs" => Self::Passed,
            "btrfs" => Self::Checksummed,
            "vfat" | "msdos" | "hfs" | "hfsplus" | "jfs" | "nilfs2" | "ocfs2" | "udf" | "affs"
            | "zfs" => Self::Refused,
            // That of an initramfs is a tmpfs, unless the kernel has none.
            "tmpfs" | "devtmpfs" | "rootfs" => Self::Copied,
            "ramfs" | "hugetlbfs" | "squashfs" | "iso9660" | "romfs" | "cramfs" | "minix" => {
                Self::Absent
            }
            "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "ceph" | "afs" | "orangefs" | "fuse"
            | "fuseblk" | "virtiofs" => Self::Remote,
            "overlay" => Self::Layered,
            _ => Self::Unknown,
        }
    }

    /// Says why files take no device memory that is mapped, if they do not.
    pub fn refusal(self, kind: &str) -> Option<String> {
        Some(match self {
            Self::Refused => format!(
                "{kind} does direct I/O in a way of its own, which takes no device memory"
            ),
            Self::Bounced => format!(
                "{kind} reads into host memory first, because its block device has stable_writes set"
            ),
            Self::Absent => format!("{kind} has no direct I/O"),
            Self::Remote => {
                format!("the data of {kind} comes from another machine or program, by host memory")
            }
            Self::Passed | Self::Checksummed | Self::Copied | Self::Layered | Self::Unknown => {
                return None
            }
        })
    }

    /// Returns the name of the error that mapped device memory gets, if files take none.
    pub fn error(self) -> &'static str {
        match self {
            Self::Absent => "EINVAL",
            _ => "EREMOTEIO",
        }
    }
}
