// SPDX-License-Identifier: GPL-2.0

//! Files for direct I/O, with errors that name options of the command.

use std::path::Path;

use anyhow::{anyhow, Error, Result};
use p2pmem::direct::{DirectError, DirectFile, Direction};
use rustix::io::Errno;

/// Opens a destination. A block device that is in use is refused unless `force` is set.
pub fn open_destination(path: &Path, force: bool) -> Result<DirectFile> {
    DirectFile::destination(path, force).map_err(|error| match error.errno() {
        Some(Errno::BUSY) => Error::new(error).context("it is in use: unmount it, or pass --force"),
        _ => error.into(),
    })
}

/// Refuses a range that direct I/O cannot reach.
pub fn check_range(
    file: &DirectFile,
    direction: Direction,
    offset: u64,
    length: u64,
) -> Result<()> {
    let checked = file.check_range(direction, offset, length);
    checked.map_err(|error| match error {
        DirectError::Short { .. } => {
            anyhow!("{error}: choose a smaller --size, --count or offset")
        }
        _ => error.into(),
    })
}
