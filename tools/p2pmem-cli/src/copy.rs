// SPDX-License-Identifier: GPL-2.0

//! Copying through device memory: direct reads into it, direct writes out of it.
//!
//! The data is cut into chunks. Each thread has memory for as many chunks as it may have in flight,
//! and takes the next chunk as soon as one of its own has arrived. So the chunks that were begun
//! are always the first ones, and once all of them have ended there is no gap. Holes of a file are
//! not read: the chunks are those of the parts that have data.

use std::{
    collections::BTreeSet,
    iter,
    ops::Range,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Mutex, PoisonError,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Result};
use p2pmem::{direct::Way, size, Buffer};
use rustix::io::Errno;
use serde::Serialize;

use crate::{access, passage::Passage, via::Via};

pub use crate::{access::Access, passage::Io};
pub use p2pmem::direct::Direct;

/// Source range and method of a copy. Sizes and offsets are in bytes.
#[derive(Clone, Debug)]
pub struct Plan {
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
    pub accesses: Vec<Access>,
    /// Fill the memory and the destination with random data before, to detect data that does not
    /// arrive, even if all of the source is zeroes.
    pub spoil: bool,
    /// Seed of random data.
    pub seed: u64,
}

/// Result of a copy.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Bytes that arrived, including holes.
    pub bytes: u64,
    /// Bytes in holes of the source, which were not moved.
    pub holes: u64,
    /// Time in seconds, including that until the destination has the data for good.
    pub seconds: f64,
    /// Bytes that were moved, for each second.
    pub bytes_per_second: f64,
    /// Whether it was told to stop before the end.
    pub interrupted: bool,
    /// Bytes from the start on that arrived, if the copy ended early. [`None`] if copying began
    /// again, or the destination did not keep them.
    pub stopped_at: Option<u64>,
    /// Bytes of the destination behind the copy, which are as before.
    pub tail: u64,
    /// The first error.
    #[serde(skip)]
    pub failure: Option<anyhow::Error>,
}

impl Plan {
    /// Returns the bytes of memory that each thread needs.
    fn memory(&self) -> Option<u64> {
        self.chunk
            .checked_mul(self.depth.into())?
            .checked_add(self.buffer_offset)
    }

    /// Refuses what makes no sense, before anything is done.
    pub fn check(&self, source: &Direct, destination: &Direct) -> Result<()> {
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
            source.check_range(Way::Read, self.source_offset, self.bytes)?;
            if !self.skip_write {
                destination.check_range(Way::Write, self.destination_offset, self.bytes)?;
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
    fn chunks_of(&self, way: Way, file: &Direct, offset: u64, chunks: u64) -> u64 {
        if self.overlap && !(way == Way::Write && file.grows()) {
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
    pub fn moved(&self, source: &Direct, destination: &Direct) -> Result<u64> {
        let parts = self.parts(source, destination)?;
        Ok(parts.iter().map(|part| part.end - part.start).sum())
    }

    /// Returns the parts of the data that are moved, counted from its start. Holes are kept where a
    /// file is copied to a file, once.
    fn parts(&self, source: &Direct, destination: &Direct) -> Result<Vec<Range<u64>>> {
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

/// Options that reduce the memory needed.
const LESS: &str = "--chunk, --depth or --threads";

/// Copies. Calls `progress` with the number of bytes of each chunk that arrived. Once `stop` is set
/// no chunk is begun any more, and those in flight arrive.
///
/// # Errors
///
/// Those that are found before anything is copied. What fails later is in the summary.
pub fn run(
    source: &Direct,
    destination: &Direct,
    via: &Via,
    plan: &Plan,
    progress: &(dyn Fn(u64) + Sync),
    stop: &AtomicBool,
) -> Result<Summary> {
    plan.check(source, destination)?;
    let work = Work::new(source, destination, plan, progress, stop)?;
    let memory = plan.memory().filter(|bytes| *bytes <= isize::MAX as u64);
    let Some(memory) = memory else {
        anyhow::bail!("no machine has that much memory: choose a smaller --chunk or --depth");
    };
    let mut room = via.room(LESS, plan.threads);
    let mut passages = Vec::new();
    for _ in 0..plan.threads {
        passages.push(Passage::new(via, plan.io, memory, plan.depth, &room)?);
        room.served += 1;
    }
    for passage in &mut passages {
        if plan.spoil {
            spoil(passage, plan.seed)?;
        }
        for access in &plan.accesses {
            let start = plan.buffer_offset as usize;
            access::run(passage.memory()?, start, *access, plan.seed)?;
        }
    }

    if plan.spoil && !plan.skip_write {
        // Other data than that of `--fill`.
        let seed = plan.seed ^ SPOILED;
        fill(destination, plan.destination_offset, plan.bytes, seed, stop)?;
    }

    let started = Instant::now();
    thread::scope(|scope| {
        for passage in &mut passages {
            let work = &work;
            scope.spawn(move || {
                let result = match plan.io {
                    Io::Pread => work.step_by_step(passage, started),
                    Io::Uring | Io::UringFixed => work.pipeline(passage, started),
                };
                if let Err(error) = result {
                    work.fail(u64::MAX, error);
                }
            });
        }
    });
    drop(passages);

    let arrived = work.arrived();
    let holes = work.holes(arrived);
    let moved = work.bytes.load(Ordering::Relaxed);
    let begins_again = plan.overlap || work.next.load(Ordering::Relaxed) > work.chunks();
    let failure = work.failure.into_inner();
    let mut failure = failure
        .unwrap_or_else(PoisonError::into_inner)
        .map(|(_, error)| error);
    let kept = if plan.skip_write {
        Ok(())
    } else {
        make_holes(destination, plan, &holes, arrived).and_then(|()| destination.sync())
    };
    let is_kept = kept.is_ok();
    if let (None, Err(error)) = (&failure, kept) {
        failure = Some(error);
    }

    let seconds = started.elapsed().as_secs_f64();
    let holes = holes.iter().map(|hole| hole.end - hole.start).sum();
    let bytes = moved + holes;
    let ended_early = plan.duration.is_some() || bytes < plan.bytes;
    let interrupted = failure.is_none() && stop.load(Ordering::Relaxed) && ended_early;
    let is_early = interrupted || failure.is_some();
    let end = plan.destination_offset.saturating_add(plan.bytes);
    Ok(Summary {
        bytes,
        holes,
        seconds,
        bytes_per_second: if seconds > 0.0 {
            moved as f64 / seconds
        } else {
            0.0
        },
        interrupted,
        stopped_at: (is_early && is_kept && !begins_again).then_some(arrived),
        tail: if plan.skip_write {
            0
        } else {
            destination.length().saturating_sub(end)
        },
        failure,
    })
}

/// Makes holes in a destination, of which so much from the start on arrived.
fn make_holes(destination: &Direct, plan: &Plan, holes: &[Range<u64>], arrived: u64) -> Result<()> {
    let start = plan.destination_offset;
    for hole in holes {
        destination.make_hole(start + hole.start..start + hole.end)?;
    }
    match holes.last() {
        Some(last) if last.end == arrived => destination.extend(start + arrived),
        _ => Ok(()),
    }
}

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
    way: Way,
    /// Bytes of it that were read or written already.
    done: usize,
}

/// State that the threads share.
struct Work<'a> {
    source: &'a Direct,
    destination: &'a Direct,
    plan: &'a Plan,
    progress: &'a (dyn Fn(u64) + Sync),
    stop: &'a AtomicBool,
    /// The parts that are moved, and the number of the first chunk of each.
    parts: Vec<(u64, Range<u64>)>,
    /// Chunks that each file has.
    source_chunks: u64,
    destination_chunks: u64,
    /// The chunk to be begun next.
    next: AtomicU64,
    bytes: AtomicU64,
    finished: Mutex<Finished>,
    failed: AtomicBool,
    /// Error of the first chunk that failed, and its offset.
    failure: Mutex<Option<(u64, anyhow::Error)>>,
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
    fn new(
        source: &'a Direct,
        destination: &'a Direct,
        plan: &'a Plan,
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
        let source_chunks = plan.chunks_of(Way::Read, source, plan.source_offset, chunks);
        let destination_chunks =
            plan.chunks_of(Way::Write, destination, plan.destination_offset, chunks);
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
    fn chunks(&self) -> u64 {
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
    fn arrived(&self) -> u64 {
        let finished = self.finished.lock();
        let all_before = finished.unwrap_or_else(PoisonError::into_inner).all_before;
        if all_before >= self.chunks() {
            self.plan.bytes
        } else {
            self.place(all_before).0
        }
    }

    /// Returns the holes within so many bytes from the start on.
    fn holes(&self, arrived: u64) -> Vec<Range<u64>> {
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
    fn fail(&self, number: u64, error: anyhow::Error) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.as_ref().is_none_or(|(other, _)| number < *other) {
            *failure = Some((number, error));
        }
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Returns the file of a direction, and where a chunk lies in it.
    fn file(&self, way: Way, chunk: Chunk) -> (&Direct, u64) {
        match way {
            Way::Read => (self.source, chunk.source),
            Way::Write => (self.destination, chunk.destination),
        }
    }

    /// Copies chunk after chunk.
    fn step_by_step(&self, passage: &mut Passage<'_>, started: Instant) -> Result<()> {
        let place = self.plan.buffer_offset as usize;
        while let Some(chunk) = self.take(started) {
            for (way, skip) in [
                (Way::Read, self.plan.skip_read),
                (Way::Write, self.plan.skip_write),
            ] {
                if skip {
                    continue;
                }
                let (file, offset) = self.file(way, chunk);
                if let Err(error) = passage.transfer(way, file, offset, place, chunk.length) {
                    self.fail(chunk.number, error);
                    return Ok(());
                }
            }
            self.finish(chunk);
        }
        Ok(())
    }

    /// Copies several chunks at a time, each of which is written as soon as it was read.
    fn pipeline(&self, passage: &mut Passage<'_>, started: Instant) -> Result<()> {
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
                let flight = Flight {
                    chunk,
                    way: if self.plan.skip_read {
                        Way::Write
                    } else {
                        Way::Read
                    },
                    done: 0,
                };
                *slot = Some(flight);
                self.submit(passage, index, flight)?;
            }
            if flights.iter().all(Option::is_none) {
                return Ok(());
            }
            passage.wait(&mut completions)?;
            for (number, result) in completions.drain(..) {
                let index = number as usize;
                if let Some(flight) = flights[index] {
                    flights[index] = self.advance(passage, index, flight, result)?;
                }
            }
            if let Err(error) = passage.check_device() {
                self.fail(u64::MAX, error);
            }
        }
    }

    /// Takes a result of a chunk's request and makes the next one, until the chunk has ended.
    fn advance(
        &self,
        passage: &mut Passage<'_>,
        index: usize,
        mut flight: Flight,
        result: Result<usize, Errno>,
    ) -> Result<Option<Flight>> {
        let (file, offset) = self.file(flight.way, flight.chunk);
        let offset = offset + flight.done as u64;
        match result {
            Ok(0) => {
                self.fail(flight.chunk.number, file.ended(flight.way, offset));
                return Ok(None);
            }
            Ok(count) => flight.done += count,
            Err(Errno::INTR) => (),
            Err(error) => {
                let error = file.explain(flight.way, offset, error, passage.device());
                self.fail(flight.chunk.number, error);
                return Ok(None);
            }
        }
        if flight.done == flight.chunk.length {
            if flight.way == Way::Write || self.plan.skip_write {
                self.finish(flight.chunk);
                return Ok(None);
            }
            flight.way = Way::Write;
            flight.done = 0;
        }
        self.submit(passage, index, flight)?;
        Ok(Some(flight))
    }

    /// Makes the request for what is left of a chunk in one direction.
    fn submit(&self, passage: &mut Passage<'_>, index: usize, flight: Flight) -> Result<()> {
        let (file, offset) = self.file(flight.way, flight.chunk);
        let place = (self.plan.buffer_offset + index as u64 * self.plan.chunk) as usize;
        passage.submit(
            flight.way,
            file,
            offset + flight.done as u64,
            place + flight.done,
            flight.chunk.length - flight.done,
            index as u64,
        )
    }
}

/// Makes the seed of data that is to be overwritten differ from that of data that is to arrive.
const SPOILED: u64 = 0x5f0b_11ed;

/// Has the CPU fill memory with random data.
fn spoil(passage: &mut Passage<'_>, seed: u64) -> Result<()> {
    let memory = passage.memory()?;
    let mut random = fastrand::Rng::with_seed(seed ^ SPOILED);
    let mut bytes = [0; 4096];
    for offset in (0..memory.len()).step_by(bytes.len()) {
        let length = bytes.len().min(memory.len() - offset);
        random.fill(&mut bytes);
        memory.store(offset, &bytes[..length]);
    }
    Ok(())
}

/// Bytes of ordinary memory for a transfer.
const STEP: u64 = 1 << 20;

/// Writes random data, of which the seed is the start, through ordinary memory. Stops early when
/// told to.
pub fn fill(file: &Direct, offset: u64, bytes: u64, seed: u64, stop: &AtomicBool) -> Result<()> {
    ensure!(
        offset % file.granule() == 0 && bytes % file.granule() == 0,
        "direct I/O needs multiples of {}: change --size or offsets",
        size::format(file.granule())
    );
    file.check_range(Way::Write, offset, bytes)?;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut memory = Buffer::ordinary(STEP as usize)?;
    let mut done = 0;
    while done < bytes && !stop.load(Ordering::Relaxed) {
        let step = (bytes - done).min(STEP);
        let memory = memory.as_mut_slice(step as usize);
        random.fill(memory);
        file.write(memory, offset + done)?;
        done += step;
    }
    file.sync()
}

/// Result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// All is equal.
    Equal {
        /// Whether all bytes are the same, which proves nothing: lost data may be read as
        /// zeroes.
        uniform: bool,
    },
    /// Offset of the first difference.
    Differs(u64),
}

/// Reads what was copied and its copy into ordinary memory, and compares them. Stops early when
/// told to.
pub fn compare(
    source: &Direct,
    destination: &Direct,
    plan: &Plan,
    bytes: u64,
    stop: &AtomicBool,
) -> Result<Comparison> {
    let mut first = None;
    let mut uniform = true;
    let mut left = Buffer::ordinary(STEP as usize)?;
    let mut right = Buffer::ordinary(STEP as usize)?;

    let mut done = 0;
    while done < bytes && !stop.load(Ordering::Relaxed) {
        let step = (bytes - done).min(STEP);
        let left = left.as_mut_slice(step as usize);
        let right = right.as_mut_slice(step as usize);
        source.read(left, plan.source_offset + done)?;
        destination.read(right, plan.destination_offset + done)?;
        if let Some(index) = first_difference(left, right) {
            return Ok(Comparison::Differs(done + index as u64));
        }
        let value = *first.get_or_insert(left[0]);
        uniform = uniform && left.iter().all(|byte| *byte == value);
        done += step;
    }

    Ok(Comparison::Equal { uniform })
}

fn first_difference(left: &[u8], right: &[u8]) -> Option<usize> {
    if left == right {
        return None;
    }
    left.iter().zip(right).position(|(a, b)| a != b)
}

#[cfg(test)]
mod tests {
    use std::{
        env, fs,
        os::unix::fs::FileExt,
        path::{Path, PathBuf},
        process,
    };

    use super::*;

    #[test]
    fn the_first_difference_is_found() {
        assert_eq!(first_difference(b"", b""), None);
        assert_eq!(first_difference(b"abc", b"abc"), None);
        assert_eq!(first_difference(b"abc", b"abd"), Some(2));
        assert_eq!(first_difference(b"xbc", b"abd"), Some(0));
    }

    /// Two files, which go away with the test.
    struct Pair(PathBuf);

    impl Pair {
        /// Makes a source of random data and an empty destination where the build is: file systems
        /// in memory may not take direct I/O.
        fn new(name: &str, length: usize) -> Self {
            let folder = env::current_exe()
                .unwrap()
                .with_file_name(format!("{name}-{}", process::id()));
            fs::create_dir_all(&folder).unwrap();
            let mut data = vec![0; length];
            fastrand::Rng::with_seed(1).fill(&mut data);
            fs::write(folder.join("source"), data).unwrap();
            Self(folder)
        }

        fn open(&self) -> (Direct, Direct) {
            (
                Direct::source(&self.0.join("source")).unwrap(),
                Direct::destination(&self.0.join("destination"), false).unwrap(),
            )
        }

        fn data(&self) -> (Vec<u8>, Vec<u8>) {
            let read = |name: &Path| fs::read(name).unwrap();
            (
                read(&self.0.join("source")),
                read(&self.0.join("destination")),
            )
        }
    }

    impl Drop for Pair {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn plan(bytes: u64) -> Plan {
        Plan {
            source_offset: 0,
            destination_offset: 0,
            bytes,
            chunk: 16 << 10,
            threads: 1,
            depth: 1,
            io: Io::Pread,
            duration: None,
            overlap: false,
            skip_read: false,
            skip_write: false,
            buffer_offset: 0,
            accesses: Vec::new(),
            spoil: false,
            seed: 1,
        }
    }

    static NEVER: AtomicBool = AtomicBool::new(false);

    fn copy(pair: &Pair, plan: &Plan) -> Result<Summary> {
        let (source, destination) = pair.open();
        run(&source, &destination, &Via::Host, plan, &|_| (), &NEVER)
    }

    #[test]
    fn files_are_copied_by_threads_with_a_short_last_chunk() {
        let pair = Pair::new("short", 100 << 10);
        let summary = copy(
            &pair,
            &Plan {
                threads: 3,
                ..plan(100 << 10)
            },
        )
        .unwrap();
        assert_eq!(summary.bytes, 100 << 10);
        assert!(!summary.interrupted);
        let (source, destination) = pair.data();
        assert!(source == destination);
    }

    #[test]
    fn chunks_before_the_first_that_is_missing_are_counted() {
        let mut finished = Finished::default();
        for (number, all_before) in [(1, 0), (3, 0), (0, 2), (2, 4), (4, 5)] {
            finished.add(number);
            assert_eq!(finished.all_before, all_before);
        }
        assert!(finished.more.is_empty());
    }

    #[test]
    fn holes_are_kept() {
        const MIB: u64 = 1 << 20;
        let pair = Pair::new("holes", 64 << 10);
        let path = pair.0.join("source");
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(4 * MIB).unwrap();
        file.write_all_at(&[1; 8 << 10], 2 * MIB).unwrap();
        // Of old data nothing is left where the source has a hole, and all of it behind.
        fs::write(pair.0.join("destination"), vec![7; 5 << 20]).unwrap();
        let summary = copy(&pair, &plan(4 * MIB)).unwrap();
        assert_eq!(summary.bytes, 4 * MIB);
        assert_eq!(summary.holes, 4 * MIB - (72 << 10));
        assert_eq!(summary.tail, MIB);
        let (source, destination) = pair.data();
        assert!(destination[..4 << 20] == source);
        assert!(destination[4 << 20..].iter().all(|byte| *byte == 7));
        // A part that begins and ends in holes.
        let part = Plan {
            source_offset: MIB,
            destination_offset: 8 * MIB,
            ..plan(2 * MIB)
        };
        assert_eq!(copy(&pair, &part).unwrap().holes, 2 * MIB - (8 << 10));
        let (source, destination) = pair.data();
        assert_eq!(destination.len() as u64, 10 * MIB);
        assert!(destination[8 << 20..] == source[1 << 20..3 << 20]);
        // Nothing but a hole.
        let hole = Plan {
            source_offset: 3 * MIB,
            destination_offset: 12 * MIB,
            ..plan(MIB)
        };
        let summary = copy(&pair, &hole).unwrap();
        assert_eq!((summary.bytes, summary.holes), (MIB, MIB));
        assert_eq!(pair.data().1.len() as u64, 13 * MIB);
    }

    #[test]
    fn parts_of_files_are_copied() {
        let pair = Pair::new("part", 64 << 10);
        let parts = Plan {
            source_offset: 8 << 10,
            destination_offset: 4 << 10,
            buffer_offset: 4 << 10,
            ..plan(20 << 10)
        };
        copy(&pair, &parts).unwrap();
        let (source, destination) = pair.data();
        assert_eq!(destination.len(), 24 << 10);
        assert!(destination[4 << 10..] == source[8 << 10..28 << 10]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let pair = Pair::new("refused", 64 << 10);
        let good = plan(64 << 10);
        for (wrong, word) in [
            (
                Plan {
                    chunk: 0,
                    ..good.clone()
                },
                "--chunk",
            ),
            (
                Plan {
                    chunk: 1000,
                    ..good.clone()
                },
                "multiples of 4 KiB",
            ),
            (
                Plan {
                    bytes: 1000,
                    ..good.clone()
                },
                "multiples of 4 KiB",
            ),
            (
                Plan {
                    source_offset: 512,
                    ..good.clone()
                },
                "multiples of 4 KiB",
            ),
            (
                Plan {
                    source_offset: 4096,
                    ..good.clone()
                },
                "is shorter than 4 KiB + 64 KiB",
            ),
            (
                Plan {
                    bytes: 68 << 10,
                    ..good.clone()
                },
                "is shorter than 68 KiB",
            ),
            (
                Plan {
                    depth: 2,
                    ..good.clone()
                },
                "--threads",
            ),
            (
                Plan {
                    threads: 0,
                    ..good.clone()
                },
                "--threads and --depth",
            ),
        ] {
            let error = copy(&pair, &wrong).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert_eq!(pair.data().1.len(), 0);
    }

    #[test]
    fn a_file_is_not_copied_over_itself() {
        let pair = Pair::new("itself", 64 << 10);
        let path = pair.0.join("source");
        let (source, same) = (
            Direct::source(&path).unwrap(),
            Direct::destination(&path, false).unwrap(),
        );
        let half = plan(32 << 10);
        for (from, to, good) in [
            (0, 0, false),
            (0, 28 << 10, false),
            (28 << 10, 0, false),
            (0, 32 << 10, true),
            (32 << 10, 0, true),
        ] {
            let plan = Plan {
                source_offset: from,
                destination_offset: to,
                ..half.clone()
            };
            let result = run(&source, &same, &Via::Host, &plan, &|_| (), &NEVER);
            assert_eq!(result.is_ok(), good, "{from} {to}");
        }
    }

    #[test]
    fn files_that_overlap_begin_again() {
        let pair = Pair::new("overlap", 40 << 10);
        let twice = Plan {
            overlap: true,
            ..plan(80 << 10)
        };
        assert_eq!(copy(&pair, &twice).unwrap().bytes, 80 << 10);
        let (source, destination) = pair.data();
        // Only whole chunks of the source are read.
        assert_eq!(destination.len(), 80 << 10);
        assert!(destination[..32 << 10] == source[..32 << 10]);
        assert!(destination[32 << 10..64 << 10] == source[..32 << 10]);
    }

    #[test]
    fn it_stops_when_told_to_and_says_where() {
        let pair = Pair::new("stop", 64 << 10);
        let (source, destination) = pair.open();
        let stop = AtomicBool::new(false);
        let progress = |_| stop.store(true, Ordering::Relaxed);
        let summary = run(
            &source,
            &destination,
            &Via::Host,
            &plan(64 << 10),
            &progress,
            &stop,
        )
        .unwrap();
        assert!(summary.interrupted);
        assert_eq!(summary.stopped_at, Some(16 << 10));
        assert_eq!(pair.data().1.len(), 16 << 10);
    }

    #[test]
    fn a_difference_is_found_where_it_is() {
        let pair = Pair::new("compare", 64 << 10);
        let plan = plan(64 << 10);
        copy(&pair, &plan).unwrap();
        let (source, destination) = pair.open();
        let compare = || compare(&source, &destination, &plan, plan.bytes, &NEVER).unwrap();
        assert_eq!(compare(), Comparison::Equal { uniform: false });
        destination
            .write(Buffer::ordinary(4096).unwrap().as_mut_slice(4096), 8192)
            .unwrap();
        assert_eq!(compare(), Comparison::Differs(8192));
    }

    #[test]
    fn the_same_seed_gives_the_same_data() {
        let pair = Pair::new("fill", 64 << 10);
        let (_, destination) = pair.open();
        let mut seen = Vec::new();
        for seed in [1, 1, 2] {
            fill(&destination, 4096, 8192, seed, &NEVER).unwrap();
            seen.push(pair.data().1);
        }
        assert!(seen[0] == seen[1] && seen[1] != seen[2]);
    }
}
