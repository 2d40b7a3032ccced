// SPDX-License-Identifier: GPL-2.0

//! Measurements of transfers between memory and a drive.

use std::{fs::File, os::unix::fs::FileExt};

use anyhow::{ensure, Context, Result};
use io_uring::{squeue::Entry, IoUring};

use super::{
    request::{mainline, submit, BenchRequest, Round},
    subject::{Kind, What},
};
use p2pmem::{
    direct::{DirectFile, Direction},
    uring, Buffer, Handle,
};

/// The unit of the memory, for each size of a read: a program that moves data has some of these. It
/// is a large page of most machines.
const LARGE_PAGE: usize = 2 << 20;

/// Returns the operation. A lack of memory is an error here, not later.
pub fn round<'a>(
    request: &BenchRequest<'a>,
    what: What,
    kind: Kind,
    drive: &'a DirectFile,
    size: u32,
    depth: u32,
) -> Result<Round<'a>> {
    if what == What::Pread {
        return pread(request, kind, drive, size as usize);
    }
    let length = depth as usize * size as usize;
    let mut memory = RingMemory::new(request, kind, length, depth)?;
    let entries: Vec<_> = (0..depth)
        .map(|index| memory.transfer(what, drive.file(), index, size))
        .collect();

    let clock = request.clock;
    Ok(Box::new(move |count| {
        clock.measure(count / depth, || memory.run(&entries, length as u64))
    }))
}

/// Reads the start of a drive again and again, without a ring.
fn pread<'a>(
    request: &BenchRequest<'a>,
    kind: Kind,
    drive: &'a DirectFile,
    size: usize,
) -> Result<Round<'a>> {
    let clock = request.clock;
    let length = size.next_multiple_of(LARGE_PAGE);
    let mut buffer = match kind {
        Kind::Mainline => Buffer::map(&mainline(request.device)?, length)?,
        Kind::Ordinary => Buffer::ordinary(length)?,
        _ => Buffer::map(request.provider, length)?,
    };

    Ok(Box::new(move |count| {
        clock.measure(count, || {
            let bytes = drive
                .file()
                .read_at(buffer.as_mut_slice(size), 0)
                .context("is the memory the drive's peer (p2pmem topo tells)?")?;
            ensure!(bytes == size, "a short transfer: {bytes} of {size} bytes");
            Ok(())
        })
    }))
}

/// Memory that a ring uses.
struct RingMemory {
    ring: IoUring,
    /// Whether it is in a slot.
    fixed: bool,
    /// The mapping, and the descriptor that must stay open.
    buffer: Option<Buffer>,
    _handle: Option<Handle>,
}

impl RingMemory {
    fn new(request: &BenchRequest<'_>, kind: Kind, length: usize, depth: u32) -> Result<Self> {
        let provider = request.provider;
        let length = length.next_multiple_of(LARGE_PAGE);
        let mut ring = IoUring::new(depth)?;
        let mut handle = None;
        let buffer = match kind {
            Kind::Mainline => Some(Buffer::map(&mainline(request.device)?, length)?),
            Kind::Registered => {
                let memory = provider.alloc(length as u64, 0)?;
                ring.submitter().register_buffers_sparse(1)?;
                submit(&mut ring, &[uring::register(provider, &memory, 0, 0, 0)])?;
                handle = Some(memory);
                None
            }
            Kind::Ordinary | Kind::OrdinaryRegistered => Some(Buffer::ordinary(length)?),
            _ => Some(Buffer::map(provider, length)?),
        };
        if let (Kind::OrdinaryRegistered, Some(buffer)) = (kind, &buffer) {
            uring::register_ordinary(&ring, buffer)?;
        }

        Ok(Self {
            ring,
            fixed: matches!(kind, Kind::Registered | Kind::OrdinaryRegistered),
            buffer,
            _handle: handle,
        })
    }

    /// Returns the request that moves the part with a number, from or to the same place of the
    /// drive.
    fn transfer(&self, what: What, file: &File, index: u32, size: u32) -> Entry {
        let base = self
            .buffer
            .as_ref()
            .map_or(std::ptr::null_mut(), Buffer::as_ptr);
        let address = base.wrapping_add(index as usize * size as usize);
        let offset = u64::from(index) * u64::from(size);
        let direction = match what {
            What::Write => Direction::Write,
            _ => Direction::Read,
        };
        uring::transfer(direction, self.fixed, file, address, size, offset)
    }

    /// Does all transfers at a time.
    fn run(&mut self, entries: &[Entry], length: u64) -> Result<()> {
        let bytes = submit(&mut self.ring, entries)
            .context("is the memory the drive's peer (p2pmem topo tells)?")?;
        ensure!(
            bytes == length,
            "a short transfer: {bytes} of {length} bytes"
        );
        Ok(())
    }
}
