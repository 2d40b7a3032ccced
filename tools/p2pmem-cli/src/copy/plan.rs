// SPDX-License-Identifier: GPL-2.0

//! Plans of copies: ranges, method, and what is refused before anything is done.

use std::{ops::Range, time::Duration};

use anyhow::{ensure, Result};
use p2pmem::{
    direct::{DirectFile, Direction},
    size, Io,
};

use crate::{cpu_access::CpuAccess, direct_io::check_range};

/// Source range and method of a copy. Sizes and offsets are in bytes.
#[derive(Clone, Debug)]
pub struct CopyPlan {
    /// Offset in the source.
    pub source_offset: u64,
    /// Offset in the destination.
    pub destination_offset: u64,
    /// Bytes to copy.
    pub bytes: u64,
    /// Bytes of a chunk.
    pub chunk: u64,
    /// Number of threads.
    pub threads: u32,
    /// Number of chunks that each thread has in flight.
    pub depth: u32,
    /// Interface for I/O.
    pub io: Io,
    /// Time for which the copy begins again; [`None`] copies once.
    pub duration: Option<Duration>,
    /// Continue at the start after the end of a file.
    pub overlap: bool,
    /// Leave out the reads.
    pub skip_read: bool,
    /// Leave out the writes.
    pub skip_write: bool,
    /// Unused bytes of memory in front of the chunks.
    pub buffer_offset: u64,
    /// Accesses of the CPU to the memory before the copy.
    pub accesses: Vec<CpuAccess>,
    /// Fill the memory and the destination with random data before, to detect data that does not
    /// arrive, even if all of the source is zeroes.
    pub spoil: bool,
    /// Seed of random data.
    pub seed: u64,
}

impl CopyPlan {
    /// Returns the bytes of memory that each thread needs.
    pub fn memory(&self) -> Option<u64> {
        self.chunk
            .checked_mul(self.depth.into())?
            .checked_add(self.buffer_offset)
    }

    /// Refuses what makes no sense, before anything is done.
    pub fn check(&self, source: &DirectFile, destination: &DirectFile) -> Result<()> {
        let granule = source.granule().max(destination.granule());
        ensure!(self.chunk > 0, "--chunk is 0: choose one, like 1M");
        ensure!(
            self.threads > 0 && self.depth > 0,
            "--threads and --depth must be at least 1"
        );
        ensure!(
            self.chunk <= 1 << 30,
            "--chunk is more than a request can transfer: choose 1G or less"
        );
        ensure!(
            [
                self.bytes,
                self.chunk,
                self.source_offset,
                self.destination_offset,
                self.buffer_offset,
            ]
            .iter()
            .all(|bytes| bytes % granule == 0),
            "direct I/O needs multiples of {}: change --size, --chunk or offsets",
            size::format(granule)
        );
        ensure!(
            self.io != Io::Pread || self.depth == 1,
            "--io pread has one chunk in flight in each thread: choose more --threads instead of \
             --depth"
        );
        if !self.overlap {
            check_range(source, Direction::Read, self.source_offset, self.bytes)?;
            if !self.skip_write {
                check_range(
                    destination,
                    Direction::Write,
                    self.destination_offset,
                    self.bytes,
                )?;
            }
        }
        let apart = self.source_offset.abs_diff(self.destination_offset);
        ensure!(
            !source.is_same(destination)
                || self.skip_write
                || self.skip_read
                || (!self.overlap && apart >= self.bytes),
            "{} would be copied over itself: choose another destination, or offsets so that the \
             ranges do not overlap",
            source.path().display()
        );
        Ok(())
    }

    /// Returns how many chunks a file has from an offset on, of so many that are copied.
    pub fn chunks_of(
        &self,
        direction: Direction,
        file: &DirectFile,
        offset: u64,
        chunks: u64,
    ) -> u64 {
        if self.overlap && !(direction == Direction::Write && file.grows()) {
            file.length().saturating_sub(offset) / self.chunk
        } else {
            chunks
        }
    }

    /// Returns how many bytes are moved. Those of holes are not.
    ///
    /// # Errors
    ///
    /// If a file cannot tell where its holes are.
    pub fn moved(&self, source: &DirectFile, destination: &DirectFile) -> Result<u64> {
        let parts = self.parts(source, destination)?;
        Ok(parts.iter().map(|part| part.end - part.start).sum())
    }

    /// Returns the parts of the data that are moved, counted from its start. Holes are kept where a
    /// file is copied to a file, once.
    pub fn parts(&self, source: &DirectFile, destination: &DirectFile) -> Result<Vec<Range<u64>>> {
        let start = self.source_offset;
        let whole = start..start.saturating_add(self.bytes);
        let keeps_holes = destination.grows()
            && self.duration.is_none()
            && !self.overlap
            && !self.skip_read
            && !self.skip_write;
        let parts = if keeps_holes {
            source.data(whole)?
        } else {
            vec![whole]
        };
        Ok(parts
            .into_iter()
            .map(|part| part.start - start..part.end - start)
            .collect())
    }
}
