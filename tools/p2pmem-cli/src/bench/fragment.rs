// SPDX-License-Identifier: GPL-2.0

//! Fragments of a pool.

use anyhow::{Context, Result};
use p2pmem::{Buffer, Provider};
use rustix::io::Errno;

/// Fills the pool with pieces of that many bytes, and frees every other one. The rest stays
/// allocated as long as the returned value.
///
/// # Errors
///
/// Anything but a full pool.
pub fn fragment(provider: &Provider, size: u64) -> Result<Vec<Buffer>> {
    let size = usize::try_from(size)?;
    let mut pieces = Vec::new();
    loop {
        match Buffer::map(provider, size) {
            Ok(piece) => pieces.push(piece),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOSPC) => break,
            Err(error) => return Err(error).context("filling the pool"),
        }
    }
    let mut keep = false;
    pieces.retain(|_| {
        keep = !keep;
        keep
    });
    Ok(pieces)
}
