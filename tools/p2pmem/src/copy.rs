// SPDX-License-Identifier: GPL-2.0

//! Copying through device memory: direct reads into a buffer, direct writes out of it.

use std::{
    fs::{File, OpenOptions},
    io::{Seek, SeekFrom},
    os::{fd::AsFd, unix::fs::FileTypeExt, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{bail, ensure, Context, Result};
use rustix::{
    fs::{ioctl_blksszget, OFlags},
    io::Errno,
};

use crate::{size, Buffer};

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
}

impl Direct {
    /// Opens a source.
    pub fn source(path: &Path) -> Result<Self> {
        Self::open(path, OpenOptions::new().read(true), OFlags::empty())
    }

    /// Opens a destination. A block device that is in use, by a file system for example, is
    /// refused unless `force` is set.
    pub fn destination(path: &Path, force: bool) -> Result<Self> {
        let exclusive = match path.metadata() {
            Ok(metadata) if metadata.file_type().is_block_device() && !force => OFlags::EXCL,
            _ => OFlags::empty(),
        };
        Self::open(path, OpenOptions::new().read(true).write(true), exclusive).map_err(|error| {
            match error
                .downcast_ref::<std::io::Error>()
                .and_then(Errno::from_io_error)
            {
                Some(Errno::BUSY) => error.context("it is in use: unmount it, or say --force"),
                _ => error,
            }
        })
    }

    fn open(path: &Path, options: &mut OpenOptions, flags: OFlags) -> Result<Self> {
        let flags = (flags | OFlags::DIRECT).bits() as i32;
        let mut file = options
            .custom_flags(flags)
            .open(path)
            .with_context(|| format!("cannot open {} for direct I/O", path.display()))?;
        let block_device = file.metadata()?.file_type().is_block_device();
        let granule = if block_device {
            u64::from(ioctl_blksszget(&file)?)
        } else {
            4096
        };

        Ok(Self {
            length: file.seek(SeekFrom::End(0))?,
            path: path.to_owned(),
            file,
            granule,
            block_device,
        })
    }

    /// Returns the length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Returns the file, for requests that are made elsewhere.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Fills `buffer` from `offset` on.
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match rustix::io::pread(&self.file, &mut buffer[done..], offset + done as u64) {
                Ok(0) => bail!("{} ends at {}", self.path.display(), offset + done as u64),
                Ok(count) => done += count,
                Err(Errno::INTR) => (),
                Err(error) => return Err(self.explain("read", offset, error)),
            }
        }
        Ok(())
    }

    /// Writes `buffer` at `offset`.
    fn write(&self, buffer: &[u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match rustix::io::pwrite(&self.file, &buffer[done..], offset + done as u64) {
                Ok(0) => bail!(
                    "{} is full at {}",
                    self.path.display(),
                    offset + done as u64
                ),
                Ok(count) => done += count,
                Err(Errno::INTR) => (),
                Err(error) => return Err(self.explain("write", offset, error)),
            }
        }
        Ok(())
    }

    /// Says what an error of direct I/O with device memory most likely means.
    fn explain(&self, what: &str, offset: u64, error: Errno) -> anyhow::Error {
        let reason = match error {
            Errno::REMOTEIO | Errno::INVAL => {
                ": its PCIe port cannot reach the device memory (another root port, ACS or IOMMU \
                 on the way), or its block layer does not take such memory (dm, raid5, loop)"
            }
            Errno::NODEV | Errno::FAULT => ": the device that has the memory went away",
            _ => "",
        };
        anyhow::Error::new(error).context(format!(
            "cannot {what} {} at {offset}{reason}",
            self.path.display()
        ))
    }
}

/// Copies `bytes` bytes from the start of `source` to that of `destination`, through `buffer`, a
/// buffer's length at a time. Calls `progress` with the number of bytes of each step.
pub fn copy(
    source: &Direct,
    destination: &Direct,
    buffer: &mut Buffer,
    bytes: u64,
    mut progress: impl FnMut(u64),
) -> Result<()> {
    let granule = source.granule.max(destination.granule);
    ensure!(
        bytes % granule == 0 && buffer.len() as u64 % granule == 0,
        "direct I/O is in multiples of {}: choose --size and --chunk so",
        size::format(granule)
    );
    for (file, grows) in [(source, false), (destination, !destination.block_device)] {
        ensure!(
            bytes <= file.length || grows,
            "{} is shorter than {}: choose a smaller --size",
            file.path.display(),
            size::format(bytes)
        );
    }

    let mut offset = 0;
    while offset < bytes {
        let step = (bytes - offset).min(buffer.len() as u64);
        let slice = buffer.as_mut_slice(step as usize);
        source.read(slice, offset)?;
        destination.write(slice, offset)?;
        progress(step);
        offset += step;
    }
    rustix::fs::fsync(destination.file.as_fd())?;

    Ok(())
}

/// Reads both into ordinary memory and returns the offset of the first byte that differs.
pub fn compare(one: &Direct, other: &Direct, bytes: u64) -> Result<Option<u64>> {
    const STEP: u64 = 1 << 20;
    let mut left = Buffer::ordinary(STEP as usize)?;
    let mut right = Buffer::ordinary(STEP as usize)?;

    let mut offset = 0;
    while offset < bytes {
        let step = (bytes - offset).min(STEP);
        let left = left.as_mut_slice(step as usize);
        let right = right.as_mut_slice(step as usize);
        one.read(left, offset)?;
        other.read(right, offset)?;
        if let Some(index) = first_difference(left, right) {
            return Ok(Some(offset + index as u64));
        }
        offset += step;
    }

    Ok(None)
}

fn first_difference(left: &[u8], right: &[u8]) -> Option<usize> {
    if left == right {
        return None;
    }
    left.iter().zip(right).position(|(a, b)| a != b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_found() {
        assert_eq!(first_difference(b"", b""), None);
        assert_eq!(first_difference(b"abc", b"abc"), None);
        assert_eq!(first_difference(b"abc", b"abd"), Some(2));
        assert_eq!(first_difference(b"xbc", b"abd"), Some(0));
    }

    #[test]
    fn a_source_that_is_missing_is_named() {
        let error = Direct::source(Path::new("/nonexistent")).unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent"));
    }
}
