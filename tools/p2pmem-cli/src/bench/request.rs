// SPDX-License-Identifier: GPL-2.0

//! Requests for measurements, and what all of them use.

use std::{io, path::Path, time::Duration};

use anyhow::{Context, Result};
use io_uring::{squeue::Entry, IoUring};
use p2pmem::Provider;

use super::{
    clock::Clock,
    subject::{Kind, What},
};

/// A request for measurements.
#[derive(Clone, Copy, Debug)]
pub struct BenchRequest<'a> {
    /// The provider of the memory.
    pub provider: &'a Provider,
    /// The directory of its PCI device.
    pub device: &'a Path,
    /// The drive that is read, and overwritten if [`What::Write`] is asked for.
    pub drive: Option<&'a Path>,
    /// The operations.
    pub what: &'a [What],
    /// Bytes of each: multiples of the page size, less than 4 GiB.
    pub sizes: &'a [u64],
    /// Numbers of requests in flight, for operations with a drive.
    pub depths: &'a [u32],
    /// Number of threads that run in parallel, each with memory of its own.
    pub threads: u32,
    /// Whether [`Kind::Frames`] is compared as well, when memory is mapped.
    pub floor: bool,
    /// Number of rounds.
    pub rounds: u32,
    /// The clock of the measurement.
    pub clock: Clock,
}

impl BenchRequest<'_> {
    /// Returns the kinds of memory that are compared.
    pub fn kinds(&self, what: What) -> Vec<Kind> {
        let mut kinds = what.kinds().to_vec();
        if self.floor && matches!(what, What::Map | What::Unmap) {
            kinds.push(Kind::Frames);
        }
        kinds
    }
}

/// Repeats an operation so many times, and returns the time that it took.
pub type Round<'a> = Box<dyn FnMut(u32) -> Result<Duration> + Send + 'a>;

/// Opens the file by which mainline allocates device memory.
pub fn mainline(device: &Path) -> Result<std::fs::File> {
    let path = device.join("p2pmem/allocate");
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))
}

/// Submits requests, waits for all of them, and returns the sum of their results.
pub fn submit(ring: &mut IoUring, entries: &[Entry]) -> Result<u64> {
    for entry in entries {
        // SAFETY: What the requests refer to lives until they have completed, which is waited for.
        unsafe { ring.submission().push(entry)? };
    }
    let mut sum = 0;
    let mut left = entries.len();
    let mut failure = None;
    while left > 0 {
        match ring.submit_and_wait(left) {
            // Stopped, and gone on with.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            result => drop(result?),
        }
        for event in ring.completion() {
            left -= 1;
            match u64::try_from(event.result()) {
                Ok(bytes) => sum += bytes,
                Err(_) => failure = Some(io::Error::from_raw_os_error(-event.result())),
            }
        }
    }
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(sum),
    }
}
