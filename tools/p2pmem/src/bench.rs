// SPDX-License-Identifier: GPL-2.0

//! What a read costs by the kind of memory that it goes to.
//!
//! All kinds are measured in turn, round by round, and the best round of each counts: what else
//! the machine does meanwhile disturbs all of them alike.

use std::{
    fs::{File, OpenOptions},
    os::fd::AsRawFd,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{ensure, Context, Result};
use io_uring::{opcode, squeue::Entry, types::Fd, IoUring};
use serde::Serialize;

use crate::{copy::Direct, uring, Buffer, Handle, Provider};

/// Where a read goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Device memory that the kernel's own `p2pmem/allocate` mapped.
    Mainline,
    /// Device memory that the node mapped.
    Mapped,
    /// Device memory in a slot of the ring.
    Registered,
    /// Ordinary memory.
    Ordinary,
    /// Ordinary memory in a slot of the ring.
    OrdinaryRegistered,
}

/// All kinds; the first one is what the others are compared to.
pub const KINDS: [Kind; 5] = [
    Kind::Mainline,
    Kind::Mapped,
    Kind::Registered,
    Kind::Ordinary,
    Kind::OrdinaryRegistered,
];

/// What was measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Row {
    /// Where the reads went to.
    pub kind: Kind,
    /// How many were under way at a time.
    pub depth: u32,
    /// Bytes of each.
    pub size: u64,
    /// Time for each, in the best round, in microseconds.
    pub microseconds: f64,
    /// That, divided by what it is for [`Kind::Mainline`] at the same depth.
    pub ratio: f64,
}

/// Memory that a ring reads into.
struct Target {
    kind: Kind,
    ring: IoUring,
    /// What is mapped, and what must stay open.
    buffer: Option<Buffer>,
    _handle: Option<Handle>,
}

impl Target {
    fn new(kind: Kind, device: &Path, provider: &Provider, length: usize) -> Result<Self> {
        let mut ring = IoUring::new(64)?;
        let mut handle = None;
        let buffer = match kind {
            Kind::Mainline => {
                let path = device.join("p2pmem/allocate");
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(&path)
                    .with_context(|| format!("cannot open {}", path.display()))?;
                Some(Buffer::map(&file, length)?)
            }
            Kind::Mapped => Some(Buffer::map(provider, length)?),
            Kind::Registered => {
                let memory = provider.alloc(length as u64, 0)?;
                ring.submitter().register_buffers_sparse(1)?;
                let entry = uring::register(provider, &memory, 0, 0, 0);
                run(&mut ring, &[entry], 1)?;
                handle = Some(memory);
                None
            }
            Kind::Ordinary | Kind::OrdinaryRegistered => Some(Buffer::ordinary(length)?),
        };
        if let (Kind::OrdinaryRegistered, Some(buffer)) = (kind, &buffer) {
            let table = [libc::iovec {
                iov_base: buffer.as_ptr().cast(),
                iov_len: length,
            }];
            // SAFETY: The memory is mapped for longer than the ring exists.
            unsafe { ring.submitter().register_buffers(&table)? };
        }

        Ok(Self {
            kind,
            ring,
            buffer,
            _handle: handle,
        })
    }

    /// Reads from the start of a file on, so many at a time, each into its own part.
    fn read(&mut self, file: &File, depth: u32, size: u32, count: u32) -> Result<Duration> {
        let base = self
            .buffer
            .as_ref()
            .map_or(std::ptr::null_mut(), Buffer::as_ptr);
        let entries: Vec<_> = (0..depth)
            .map(|index| {
                let address = base.wrapping_add(index as usize * size as usize);
                let offset = u64::from(index) * u64::from(size);
                let fd = Fd(file.as_raw_fd());
                match self.kind {
                    Kind::Registered | Kind::OrdinaryRegistered => {
                        opcode::ReadFixed::new(fd, address, size, 0)
                            .offset(offset)
                            .build()
                    }
                    _ => opcode::Read::new(fd, address, size).offset(offset).build(),
                }
            })
            .collect();

        let started = Instant::now();
        for _ in 0..count.div_ceil(depth) {
            let bytes = run(&mut self.ring, &entries, entries.len())?;
            ensure!(bytes == u64::from(depth) * u64::from(size), "a short read");
        }

        Ok(started.elapsed() / count.next_multiple_of(depth))
    }
}

/// Submits requests, waits for all of them, and returns the sum of their results.
fn run(ring: &mut IoUring, entries: &[Entry], count: usize) -> Result<u64> {
    for entry in entries {
        // SAFETY: What the requests refer to lives until they have completed, which is waited for.
        unsafe { ring.submission().push(entry)? };
    }
    ring.submit_and_wait(count)?;

    let mut sum = 0;
    for event in ring.completion() {
        sum += u64::try_from(event.result())
            .map_err(|_| std::io::Error::from_raw_os_error(-event.result()))?;
    }
    Ok(sum)
}

/// Measures reads of `size` bytes from a drive at several depths. `device` is the directory of the
/// provider's PCI device.
pub fn reads(
    drive: &Path,
    provider: &Provider,
    device: &Path,
    size: u32,
    depths: &[u32],
) -> Result<Vec<Row>> {
    /// Reads of each round, and rounds.
    const READS: u32 = 64;
    const ROUNDS: u32 = 8;

    let drive = Direct::source(drive)?;
    let mut rows = Vec::new();

    for &depth in depths {
        let length = depth as usize * size as usize;
        let mut targets = KINDS
            .iter()
            .map(|&kind| {
                Target::new(kind, device, provider, length)
                    .with_context(|| format!("{kind:?} memory, {length} bytes"))
            })
            .collect::<Result<Vec<_>>>()?;
        let mut best = [Duration::MAX; KINDS.len()];
        // The first round warms up.
        for round in 0..=ROUNDS {
            for (target, best) in targets.iter_mut().zip(&mut best) {
                let took = target
                    .read(drive.file(), depth, size, READS)
                    .with_context(|| format!("reading into {:?} memory", target.kind))?;
                if round > 0 {
                    *best = took.min(*best);
                }
            }
        }
        for (kind, took) in KINDS.into_iter().zip(best) {
            rows.push(Row {
                kind,
                depth,
                size: size.into(),
                microseconds: took.as_secs_f64() * 1e6,
                ratio: took.as_secs_f64() / best[0].as_secs_f64(),
            });
        }
    }

    Ok(rows)
}
