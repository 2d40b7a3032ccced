// SPDX-License-Identifier: GPL-2.0

//! Chunks of a copy: the threads take them, and count those that arrived.

use std::{
    collections::BTreeSet,
    iter,
    ops::Range,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Mutex, PoisonError,
    },
    time::Instant,
};

use anyhow::{ensure, Result};
use p2pmem::{
    direct::{DirectFile, Direction, Transfer},
    StagingBuffer,
};
use rustix::io::Errno;

use super::plan::CopyPlan;

/// A part of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chunk {
    /// Counts on when copying begins again.
    number: u64,
    source: u64,
    destination: u64,
    length: usize,
}

/// A chunk in flight.
#[derive(Clone, Copy)]
struct Flight {
    chunk: Chunk,
    transfer: Transfer,
}

/// State that the threads share.
pub struct Work<'a> {
    source: &'a DirectFile,
    destination: &'a DirectFile,
    plan: &'a CopyPlan,
    progress: &'a (dyn Fn(u64) + Sync),
    stop: &'a AtomicBool,
    /// The parts that are moved, and the number of the first chunk of each.
    parts: Vec<(u64, Range<u64>)>,
    /// Chunks that each file has.
    source_chunks: u64,
    destination_chunks: u64,
    /// The chunk to be begun next.
    pub next: AtomicU64,
    pub bytes: AtomicU64,
    finished: Mutex<Finished>,
    failed: AtomicBool,
    /// Error of the first chunk that failed, and its offset.
    pub failure: Mutex<Option<(u64, anyhow::Error)>>,
}

/// The chunks that arrived.
#[derive(Default)]
struct Finished {
    /// All before this number did.
    all_before: u64,
    /// And these, behind one that did not.
    more: BTreeSet<u64>,
}

impl Finished {
    fn add(&mut self, number: u64) {
        self.more.insert(number);
        while self.more.remove(&self.all_before) {
            self.all_before += 1;
        }
    }
}

impl<'a> Work<'a> {
    pub fn new(
        source: &'a DirectFile,
        destination: &'a DirectFile,
        plan: &'a CopyPlan,
        progress: &'a (dyn Fn(u64) + Sync),
        stop: &'a AtomicBool,
    ) -> Result<Self> {
        let mut chunks = 0;
        let mut parts = Vec::new();
        for part in plan.parts(source, destination)? {
            let first = chunks;
            chunks += (part.end - part.start).div_ceil(plan.chunk);
            parts.push((first, part));
        }
        let source_chunks = plan.chunks_of(Direction::Read, source, plan.source_offset, chunks);
        let destination_chunks = plan.chunks_of(
            Direction::Write,
            destination,
            plan.destination_offset,
            chunks,
        );
        ensure!(
            chunks == 0 || (source_chunks > 0 && destination_chunks > 0),
            "a file has less than one --chunk behind its offset: choose a smaller one"
        );

        Ok(Self {
            source,
            destination,
            plan,
            progress,
            stop,
            parts,
            source_chunks,
            destination_chunks,
            next: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            finished: Mutex::default(),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
        })
    }

    /// Returns how many chunks there are. The last one of each part may be shorter.
    pub fn chunks(&self) -> u64 {
        self.parts.last().map_or(0, |(first, part)| {
            first + (part.end - part.start).div_ceil(self.plan.chunk)
        })
    }

    /// Returns where a chunk begins that does not begin again, counted from the start of the data,
    /// and how long it is.
    fn place(&self, number: u64) -> (u64, u64) {
        let index = self.parts.partition_point(|(first, _)| *first <= number);
        let (first, part) = &self.parts[index - 1];
        let start = part.start + (number - first) * self.plan.chunk;
        (start, self.plan.chunk.min(part.end - start))
    }

    /// Returns what a chunk is.
    fn chunk(&self, number: u64) -> Chunk {
        let plan = self.plan;
        let within = number % self.chunks();
        let (start, length) = self.place(within);
        // After the end of a file, chunks continue at its offset.
        let place = |chunks| match within < chunks {
            true => start,
            false => within % chunks * plan.chunk,
        };
        Chunk {
            number,
            source: plan.source_offset + place(self.source_chunks),
            destination: plan.destination_offset + place(self.destination_chunks),
            length: length as usize,
        }
    }

    /// Returns how many bytes from the start on arrived, or are holes.
    pub fn arrived(&self) -> u64 {
        let finished = self.finished.lock();
        let all_before = finished.unwrap_or_else(PoisonError::into_inner).all_before;
        if all_before >= self.chunks() {
            self.plan.bytes
        } else {
            self.place(all_before).0
        }
    }

    /// Returns the holes within so many bytes from the start on.
    pub fn holes(&self, arrived: u64) -> Vec<Range<u64>> {
        let mut holes = Vec::new();
        let mut at = 0;
        let ends = self.parts.iter().map(|(_, part)| part.clone());
        for part in ends.chain(iter::once(self.plan.bytes..self.plan.bytes)) {
            holes.push(at..part.start.min(arrived));
            at = part.end;
        }
        holes.retain(|hole| hole.start < hole.end);
        holes
    }

    /// Returns the next chunk that is to be begun.
    fn take(&self, started: Instant) -> Option<Chunk> {
        if self.stop.load(Ordering::Relaxed) || self.failed.load(Ordering::Relaxed) {
            return None;
        }
        let chunks = self.chunks();
        let is_left = |number: u64| match self.plan.duration {
            Some(duration) => chunks > 0 && started.elapsed() < duration,
            None => number < chunks,
        };
        self.next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |number| {
                is_left(number).then_some(number + 1)
            })
            .ok()
            .map(|number| self.chunk(number))
    }

    /// Counts a chunk that arrived.
    fn finish(&self, chunk: Chunk) {
        self.bytes.fetch_add(chunk.length as u64, Ordering::Relaxed);
        if chunk.number < self.chunks() {
            let finished = self.finished.lock();
            finished
                .unwrap_or_else(PoisonError::into_inner)
                .add(chunk.number);
        }
        (self.progress)(chunk.length as u64);
    }

    /// Has all threads stop. Of several failures that of the first chunk is kept.
    pub fn fail(&self, number: u64, error: anyhow::Error) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.as_ref().is_none_or(|(other, _)| number < *other) {
            *failure = Some((number, error));
        }
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Returns the transfer of a chunk in a direction.
    fn transfer(&self, direction: Direction, chunk: Chunk) -> Transfer {
        let offset = match direction {
            Direction::Read => chunk.source,
            Direction::Write => chunk.destination,
        };
        Transfer::new(direction, offset, chunk.length)
    }

    /// Returns the file of a direction.
    fn file(&self, direction: Direction) -> &DirectFile {
        match direction {
            Direction::Read => self.source,
            Direction::Write => self.destination,
        }
    }

    /// Copies chunk after chunk.
    pub fn step_by_step(&self, staging: &mut StagingBuffer<'_>, started: Instant) -> Result<()> {
        let place = self.plan.buffer_offset as usize;
        while let Some(chunk) = self.take(started) {
            for (direction, skip) in [
                (Direction::Read, self.plan.skip_read),
                (Direction::Write, self.plan.skip_write),
            ] {
                if skip {
                    continue;
                }
                let offset = self.transfer(direction, chunk).offset();
                let file = self.file(direction);
                if let Err(error) = staging.transfer(direction, file, offset, place, chunk.length) {
                    self.fail(chunk.number, error.into());
                    return Ok(());
                }
            }
            self.finish(chunk);
        }
        Ok(())
    }

    /// Copies several chunks at a time, each of which is written as soon as it was read.
    pub fn pipeline(&self, staging: &mut StagingBuffer<'_>, started: Instant) -> Result<()> {
        let mut flights: Vec<Option<Flight>> = vec![None; self.plan.depth as usize];
        let mut completions = Vec::new();
        loop {
            for (index, slot) in flights.iter_mut().enumerate() {
                if slot.is_some() {
                    continue;
                }
                let Some(chunk) = self.take(started) else {
                    break;
                };
                let first = match self.plan.skip_read {
                    true => Direction::Write,
                    false => Direction::Read,
                };
                let flight = Flight {
                    chunk,
                    transfer: self.transfer(first, chunk),
                };
                *slot = Some(flight);
                self.submit(staging, index, flight)?;
            }
            if flights.iter().all(Option::is_none) {
                return Ok(());
            }
            staging.wait(&mut completions)?;
            for (number, result) in completions.drain(..) {
                let index = number as usize;
                if let Some(flight) = flights[index] {
                    flights[index] = self.advance(staging, index, flight, result)?;
                }
            }
            if let Err(error) = staging.check_device() {
                self.fail(u64::MAX, error.into());
            }
        }
    }

    /// Takes a result of a chunk's request and makes the next one, until the chunk has ended.
    fn advance(
        &self,
        staging: &mut StagingBuffer<'_>,
        index: usize,
        mut flight: Flight,
        result: Result<usize, Errno>,
    ) -> Result<Option<Flight>> {
        let direction = flight.transfer.direction();
        let file = self.file(direction);
        if let Err(error) = flight
            .transfer
            .advance(file.path(), result, staging.device())
        {
            self.fail(flight.chunk.number, error.into());
            return Ok(None);
        }
        if flight.transfer.left() == 0 {
            if direction == Direction::Write || self.plan.skip_write {
                self.finish(flight.chunk);
                return Ok(None);
            }
            flight.transfer = self.transfer(Direction::Write, flight.chunk);
        }
        self.submit(staging, index, flight)?;
        Ok(Some(flight))
    }

    /// Makes the request for what is left of a chunk in one direction.
    fn submit(&self, staging: &mut StagingBuffer<'_>, index: usize, flight: Flight) -> Result<()> {
        let place = self.plan.buffer_offset + index as u64 * self.plan.chunk;
        let file = self.file(flight.transfer.direction());
        Ok(staging.submit(file, &flight.transfer, place as usize, index as u64)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_before_the_first_that_is_missing_are_counted() {
        let mut finished = Finished::default();
        for (number, all_before) in [(1, 0), (3, 0), (0, 2), (2, 4), (4, 5)] {
            finished.add(number);
            assert_eq!(finished.all_before, all_before);
        }
        assert!(finished.more.is_empty());
    }
}
