// SPDX-License-Identifier: GPL-2.0

//! Files and block devices that are open for direct I/O.

use std::{
    ffi::c_int,
    fs::{File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{fallocate, ioctl_blksszget, seek, FallocateFlags, OFlags, SeekFrom},
    io::Errno,
    ioctl::{ioctl, opcode, Getter, Opcode},
};

use super::{direction::Direction, error::DirectError, transfer::Transfer};
use crate::buffer::Buffer;

/// A file or block device that is read or written past the page cache.
#[derive(Debug)]
pub struct DirectFile {
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

impl DirectFile {
    /// Opens a source.
    pub fn source(path: &Path) -> Result<Self, DirectError> {
        Self::open(path, OpenOptions::new().read(true), OFlags::empty())
    }

    /// Opens a destination. A file that does not exist is made, but not in /dev. A block device
    /// that is in use, by a file system for example, is refused with `EBUSY` unless `force` is set.
    pub fn destination(path: &Path, force: bool) -> Result<Self, DirectError> {
        let exclusive = match path.metadata() {
            Ok(metadata) if metadata.file_type().is_block_device() && !force => OFlags::EXCL,
            _ => OFlags::empty(),
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if exclusive.is_empty() && !path.starts_with("/dev") {
            options.create(true);
        }
        let opened = Self::open(path, &mut options, exclusive)?;
        // The kernel refuses each write, not the opening.
        let is_read_only = || is_read_only(&opened.file).map_err(opened.failed("look at"));
        if opened.block_device && is_read_only()? {
            return Err(DirectError::ReadOnly {
                path: path.to_owned(),
            });
        }
        Ok(opened)
    }

    fn open(path: &Path, options: &mut OpenOptions, flags: OFlags) -> Result<Self, DirectError> {
        let flags = (flags | OFlags::DIRECT).bits() as i32;
        let mut open = || -> io::Result<Self> {
            let file = options.custom_flags(flags).open(path)?;
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
        };
        open().map_err(|source| DirectError::Open {
            path: path.to_owned(),
            source,
        })
    }

    /// Returns a function that makes the error of an operation.
    fn failed<E: Into<io::Error>>(
        &self,
        operation: &'static str,
    ) -> impl FnOnce(E) -> DirectError + '_ {
        move |source| DirectError::Operation {
            operation,
            path: self.path.clone(),
            source: source.into(),
        }
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
    pub fn data(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, DirectError> {
        let mut parts: Vec<Range<u64>> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let part = match (self.block_device, seek(&self.file, SeekFrom::Data(at))) {
                (false, Ok(start)) if start >= range.end => break,
                // There is only a hole behind.
                (false, Err(Errno::NXIO)) => break,
                (false, Ok(start)) => {
                    let end = seek(&self.file, SeekFrom::Hole(start))
                        .map_err(self.failed("look for holes of"))?;
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
    pub fn make_hole(&self, range: Range<u64>) -> Result<(), DirectError> {
        const STEP: u64 = 1 << 20;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let length = range.end - range.start;
        match fallocate(&self.file, flags, range.start, length) {
            Ok(()) => return Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => (),
            Err(error) => return Err(self.failed("make a hole in")(error)),
        }
        let mut zeroes = Buffer::ordinary(STEP as usize).map_err(self.failed("make a hole in"))?;
        let mut at = range.start;
        // Beyond its end a file has zeroes by itself.
        let metadata = self.file.metadata().map_err(self.failed("look at"))?;
        let end = range.end.min(metadata.len().next_multiple_of(self.granule));
        while at < end {
            let step = (end - at).min(STEP);
            self.write(zeroes.as_mut_slice(step as usize), at)?;
            at += step;
        }
        Ok(())
    }

    /// Makes a file that is shorter so long.
    pub fn extend(&self, length: u64) -> Result<(), DirectError> {
        let metadata = self.file.metadata().map_err(self.failed("look at"))?;
        if metadata.len() < length {
            self.file.set_len(length).map_err(self.failed("extend"))?;
        }
        Ok(())
    }

    /// Waits until what was written is on the medium.
    pub fn sync(&self) -> Result<(), DirectError> {
        rustix::fs::fsync(&self.file).map_err(self.failed("sync"))
    }

    /// Fills ordinary memory from `offset` on.
    pub fn read(&self, memory: &mut [u8], offset: u64) -> Result<(), DirectError> {
        self.read_into(memory, offset, None)
    }

    /// Writes ordinary memory at `offset`.
    pub fn write(&self, memory: &[u8], offset: u64) -> Result<(), DirectError> {
        self.write_from(memory, offset, None)
    }

    /// Fills memory from `offset` on. `provider` names the provider that it is of, for errors.
    pub fn read_into(
        &self,
        memory: &mut [u8],
        offset: u64,
        provider: Option<&str>,
    ) -> Result<(), DirectError> {
        let mut transfer = Transfer::new(Direction::Read, offset, memory.len());
        while transfer.left() > 0 {
            let rest = &mut memory[transfer.done()..];
            let result = rustix::io::pread(&self.file, rest, transfer.offset());
            transfer.advance(&self.path, result, provider)?;
        }
        Ok(())
    }

    /// Writes memory at `offset`. `provider` names the provider that it is of, for errors.
    pub fn write_from(
        &self,
        memory: &[u8],
        offset: u64,
        provider: Option<&str>,
    ) -> Result<(), DirectError> {
        let mut transfer = Transfer::new(Direction::Write, offset, memory.len());
        while transfer.left() > 0 {
            let rest = &memory[transfer.done()..];
            let result = rustix::io::pwrite(&self.file, rest, transfer.offset());
            transfer.advance(&self.path, result, provider)?;
        }
        Ok(())
    }

    /// Refuses a range that the file does not have, and does not get by writing.
    pub fn check_range(
        &self,
        direction: Direction,
        offset: u64,
        length: u64,
    ) -> Result<(), DirectError> {
        let grows = direction == Direction::Write && self.grows();
        match offset.checked_add(length) {
            Some(end) if end <= self.length || grows => Ok(()),
            _ => Err(DirectError::Short {
                path: self.path.clone(),
                offset,
                length,
            }),
        }
    }
}

/// Returns whether the kernel takes no writes for a block device.
fn is_read_only(file: &File) -> io::Result<bool> {
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
        let error = DirectFile::source(Path::new("/nonexistent")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent"));
    }

    #[test]
    fn nothing_is_made_in_dev() {
        let path = Path::new("/dev/p2pmem-nonexistent");
        assert!(DirectFile::destination(path, true).is_err());
        assert!(!path.exists());
    }
}
