// SPDX-License-Identifier: GPL-2.0

//! Files and block devices past the page cache.

use std::{
    ffi::c_int,
    fs::{File, OpenOptions},
    ops::Range,
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{bail, ensure, Context, Result};
use rustix::{
    fs::{fallocate, ioctl_blksszget, seek, FallocateFlags, OFlags, SeekFrom},
    io::Errno,
    ioctl::{ioctl, opcode, Getter, Opcode},
};

use crate::Buffer;

/// Whether data comes from a file or goes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The file is read.
    Read,
    /// The file is written.
    Write,
}

/// A file or block device that is read or written past the page cache.
#[derive(Debug)]
pub struct Direct {
    file: File,
    path: PathBuf,
    length: u64,
    /// Offsets and lengths of I/O must be multiples of this many bytes.
    granule: u64,
    /// Whether its length is fixed.
    block_device: bool,
    /// Its identity: the number of a block device; device and inode of a file.
    identity: (u64, u64),
}

impl Direct {
    /// Opens a source.
    pub fn source(path: &Path) -> Result<Self> {
        Self::open(path, OpenOptions::new().read(true), OFlags::empty())
    }

    /// Opens a destination. A file that does not exist is made, but not in /dev. A block device
    /// that is in use, by a file system for example, is refused unless `force` is set.
    pub fn destination(path: &Path, force: bool) -> Result<Self> {
        let exclusive = match path.metadata() {
            Ok(metadata) if metadata.file_type().is_block_device() && !force => OFlags::EXCL,
            _ => OFlags::empty(),
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if exclusive.is_empty() && !path.starts_with("/dev") {
            options.create(true);
        }
        let opened = Self::open(path, &mut options, exclusive).map_err(|error| {
            match error
                .downcast_ref::<std::io::Error>()
                .and_then(Errno::from_io_error)
            {
                Some(Errno::BUSY) => error.context("it is in use: unmount it, or pass --force"),
                _ => error,
            }
        })?;
        // The kernel refuses each write, not the opening.
        ensure!(
            !opened.block_device || !is_read_only(&opened.file)?,
            "{} is read-only: choose another device, or make it writable (blockdev --setrw)",
            path.display()
        );
        Ok(opened)
    }

    fn open(path: &Path, options: &mut OpenOptions, flags: OFlags) -> Result<Self> {
        let flags = (flags | OFlags::DIRECT).bits() as i32;
        let file = options
            .custom_flags(flags)
            .open(path)
            .with_context(|| format!("cannot open {} for direct I/O", path.display()))?;
        let metadata = file.metadata()?;
        let block_device = metadata.file_type().is_block_device();
        let (granule, identity) = if block_device {
            (u64::from(ioctl_blksszget(&file)?), (metadata.rdev(), 0))
        } else {
            (4096, (metadata.dev(), metadata.ino()))
        };

        Ok(Self {
            length: seek(&file, SeekFrom::End(0))?,
            path: path.to_owned(),
            file,
            granule,
            block_device,
            identity,
        })
    }

    /// Returns where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Returns what offsets and lengths of I/O must be multiples of, in bytes.
    pub fn granule(&self) -> u64 {
        self.granule
    }

    /// Returns whether writing beyond its end makes it longer.
    pub fn grows(&self) -> bool {
        !self.block_device
    }

    /// Returns whether both are the same file or block device.
    pub fn is_same(&self, other: &Self) -> bool {
        self.block_device == other.block_device && self.identity == other.identity
    }

    /// Returns the file, for requests that are made elsewhere.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns the parts of a range that have data, in order: all of it, unless this is a file with
    /// holes. They begin and end at multiples of the granule, or where the range does.
    pub fn data(&self, range: Range<u64>) -> Result<Vec<Range<u64>>> {
        let mut parts: Vec<Range<u64>> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let part = match (self.block_device, seek(&self.file, SeekFrom::Data(at))) {
                (false, Ok(start)) if start >= range.end => break,
                // There is only a hole behind.
                (false, Err(Errno::NXIO)) => break,
                (false, Ok(start)) => {
                    let end = seek(&self.file, SeekFrom::Hole(start))
                        .with_context(|| format!("cannot look for holes of {}", self.name()))?;
                    start / self.granule * self.granule..end.next_multiple_of(self.granule)
                }
                // A file system that does not know holes.
                (_, _) => at..range.end,
            };
            at = part.end;
            let part = part.start.max(range.start)..part.end.min(range.end);
            match parts.last_mut() {
                Some(last) if last.end >= part.start => last.end = part.end,
                _ => parts.push(part),
            }
        }
        Ok(parts)
    }

    /// Makes a range of a file read as zeroes, without taking room where the file system can do
    /// that.
    pub fn make_hole(&self, range: Range<u64>) -> Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let length = range.end - range.start;
        match fallocate(&self.file, flags, range.start, length) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                const STEP: u64 = 1 << 20;
                let mut zeroes = Buffer::ordinary(STEP as usize)?;
                let mut at = range.start;
                // Beyond its end a file has zeroes by itself.
                let length = self.file.metadata()?.len();
                let end = range.end.min(length.next_multiple_of(self.granule));
                while at < end {
                    let step = (end - at).min(STEP);
                    self.write(zeroes.as_mut_slice(step as usize), at)?;
                    at += step;
                }
                Ok(())
            }
            Err(error) => {
                Err(error).with_context(|| format!("cannot make a hole in {}", self.name()))
            }
        }
    }

    /// Makes a file that is shorter so long.
    pub fn extend(&self, length: u64) -> Result<()> {
        if self.file.metadata()?.len() < length {
            self.file
                .set_len(length)
                .with_context(|| format!("cannot make {} longer", self.name()))?;
        }
        Ok(())
    }

    fn name(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// Waits until what was written is on the medium.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.file)
            .with_context(|| format!("cannot make {} keep its data", self.path.display()))
    }

    /// Fills ordinary memory from `offset` on.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.read_into(buffer, offset, None)
    }

    /// Writes ordinary memory at `offset`.
    pub fn write(&self, buffer: &[u8], offset: u64) -> Result<()> {
        self.write_from(buffer, offset, None)
    }

    /// Fills `buffer` from `offset` on. `device` names the provider that the memory is of.
    pub fn read_into(&self, buffer: &mut [u8], offset: u64, device: Option<&str>) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let offset = offset + done as u64;
            match rustix::io::pread(&self.file, &mut buffer[done..], offset) {
                Ok(0) => return Err(self.ended(Way::Read, offset)),
                Ok(count) => done += count,
                Err(Errno::INTR) => (),
                Err(error) => return Err(self.explain(Way::Read, offset, error, device)),
            }
        }
        Ok(())
    }

    /// Writes `buffer` at `offset`. `device` names the provider that the memory is of.
    pub fn write_from(&self, buffer: &[u8], offset: u64, device: Option<&str>) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let offset = offset + done as u64;
            match rustix::io::pwrite(&self.file, &buffer[done..], offset) {
                Ok(0) => return Err(self.ended(Way::Write, offset)),
                Ok(count) => done += count,
                Err(Errno::INTR) => (),
                Err(error) => return Err(self.explain(Way::Write, offset, error, device)),
            }
        }
        Ok(())
    }

    /// Says that a request moved nothing.
    pub fn ended(&self, way: Way, offset: u64) -> anyhow::Error {
        let what = match way {
            Way::Read => "ends",
            Way::Write => "is full",
        };
        anyhow::anyhow!("{} {what} at {offset}", self.path.display())
    }

    /// Says what an error of direct I/O most likely means. `device` names the provider of the
    /// memory, if that is not ordinary.
    pub fn explain(
        &self,
        way: Way,
        offset: u64,
        error: Errno,
        device: Option<&str>,
    ) -> anyhow::Error {
        let what = match way {
            Way::Read => "read",
            Way::Write => "write",
        };
        let mut text = format!("cannot {what} {} at {offset}", self.path.display());
        if let Some(device) = device {
            let with = match way {
                Way::Read => "into",
                Way::Write => "from",
            };
            text += &format!(" {with} {device}");
        }
        text += match (error, device) {
            (Errno::NODEV | Errno::FAULT, Some(_)) => ": the device that has the memory went away",
            (Errno::NXIO | Errno::NODEV, _) => ": the drive went away",
            (Errno::IO, _) => ": the drive failed: see the kernel's log",
            (Errno::NOSPC, _) => ": there is no room for it",
            _ => "",
        };
        anyhow::Error::new(error).context(text)
    }

    /// Refuses a range that direct I/O cannot reach.
    pub fn check_range(&self, way: Way, offset: u64, bytes: u64) -> Result<()> {
        let grows = way == Way::Write && self.grows();
        match offset.checked_add(bytes) {
            Some(end) if end <= self.length || grows => Ok(()),
            _ => bail!(
                "{} is shorter than {}: choose a smaller --size, --count or offset",
                self.path.display(),
                match offset {
                    0 => crate::size::format(bytes),
                    _ => format!(
                        "{} + {}",
                        crate::size::format(offset),
                        crate::size::format(bytes)
                    ),
                }
            ),
        }
    }
}

/// Returns whether the kernel takes no writes for a block device.
fn is_read_only(file: &File) -> Result<bool> {
    /// `BLKROGET` of linux/fs.h.
    const GET: Opcode = opcode::none(0x12, 94);

    // SAFETY: The request writes an int.
    let value = unsafe { ioctl(file, Getter::<GET, c_int>::new())? };
    Ok(value != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_is_missing_is_named() {
        let error = Direct::source(Path::new("/nonexistent")).unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent"));
    }

    #[test]
    fn nothing_is_made_in_dev() {
        let path = Path::new("/dev/p2pmem-nonexistent");
        assert!(Direct::destination(path, true).is_err());
        assert!(!path.exists());
    }
}
