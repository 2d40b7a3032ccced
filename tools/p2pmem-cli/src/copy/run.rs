// SPDX-License-Identifier: GPL-2.0

//! Runs copies.

use std::{
    ops::Range,
    sync::{
        atomic::{AtomicBool, Ordering},
        PoisonError,
    },
    thread,
    time::Instant,
};

use anyhow::Result;
use p2pmem::{direct::DirectFile, Io, Memory};
use serde::Serialize;

use super::{
    plan::CopyPlan,
    random::{fill, spoil, SPOILED},
    work::Work,
};
use crate::{cpu_access, room::Room};

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

/// Options that reduce the memory needed.
const LESS: &str = "--chunk, --depth or --threads";

/// Copies. Calls `progress` with the number of bytes of each chunk that arrived. Once `stop` is set
/// no chunk is begun any more, and those in flight arrive.
///
/// # Errors
///
/// Those that are found before anything is copied. What fails later is in the summary.
pub fn run(
    source: &DirectFile,
    destination: &DirectFile,
    memory: &Memory,
    plan: &CopyPlan,
    progress: &(dyn Fn(u64) + Sync),
    stop: &AtomicBool,
) -> Result<Summary> {
    plan.check(source, destination)?;
    let work = Work::new(source, destination, plan, progress, stop)?;
    let bytes = plan.memory().filter(|bytes| *bytes <= isize::MAX as u64);
    let Some(bytes) = bytes else {
        anyhow::bail!("no machine has that much memory: choose a smaller --chunk or --depth");
    };
    let mut room = Room::new(memory, LESS, plan.threads);
    let mut buffers = Vec::new();
    for _ in 0..plan.threads {
        buffers.push(room.staging(memory, plan.io, bytes, plan.depth)?);
        room.served += 1;
    }
    for staging in &mut buffers {
        if plan.spoil {
            spoil(staging, plan.seed)?;
        }
        for access in &plan.accesses {
            let start = plan.buffer_offset as usize;
            cpu_access::run(staging.memory()?, start, *access, plan.seed)?;
        }
    }

    if plan.spoil && !plan.skip_write {
        // Other data than that of `--fill`.
        let seed = plan.seed ^ SPOILED;
        fill(destination, plan.destination_offset, plan.bytes, seed, stop)?;
    }

    let started = Instant::now();
    thread::scope(|scope| {
        for staging in &mut buffers {
            let work = &work;
            scope.spawn(move || {
                let result = match plan.io {
                    Io::Pread => work.step_by_step(staging, started),
                    Io::Uring | Io::UringFixed => work.pipeline(staging, started),
                };
                if let Err(error) = result {
                    work.fail(u64::MAX, error);
                }
            });
        }
    });
    drop(buffers);

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
        make_holes(destination, plan, &holes, arrived).and_then(|()| Ok(destination.sync()?))
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
fn make_holes(
    destination: &DirectFile,
    plan: &CopyPlan,
    holes: &[Range<u64>],
    arrived: u64,
) -> Result<()> {
    let start = plan.destination_offset;
    for hole in holes {
        destination.make_hole(start + hole.start..start + hole.end)?;
    }
    match holes.last() {
        Some(last) if last.end == arrived => destination.extend(start + arrived)?,
        _ => (),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{env, fs, os::unix::fs::FileExt, path::PathBuf};

    use p2pmem::Buffer;
    use tempfile::TempDir;

    use super::*;
    use crate::copy::{compare, fill, Comparison};

    /// Two files, which go away with the test.
    struct Pair(TempDir);

    impl Pair {
        /// Makes a source of random data and an empty destination where the build is: file systems
        /// in memory may not take direct I/O.
        fn new(length: usize) -> Self {
            let program = env::current_exe().unwrap();
            let folder = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
            let mut data = vec![0; length];
            fastrand::Rng::with_seed(1).fill(&mut data);
            fs::write(folder.path().join("source"), data).unwrap();
            Self(folder)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn open(&self) -> (DirectFile, DirectFile) {
            (
                DirectFile::source(&self.path("source")).unwrap(),
                DirectFile::destination(&self.path("destination"), false).unwrap(),
            )
        }

        fn data(&self) -> (Vec<u8>, Vec<u8>) {
            let read = |name| fs::read(self.path(name)).unwrap();
            (read("source"), read("destination"))
        }
    }

    fn plan(bytes: u64) -> CopyPlan {
        CopyPlan {
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

    fn copy(pair: &Pair, plan: &CopyPlan) -> Result<Summary> {
        let (source, destination) = pair.open();
        run(&source, &destination, &Memory::Host, plan, &|_| (), &NEVER)
    }

    #[test]
    fn files_are_copied_by_threads_with_a_short_last_chunk() {
        let pair = Pair::new(100 << 10);
        let summary = copy(
            &pair,
            &CopyPlan {
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
    fn holes_are_kept() {
        const MIB: u64 = 1 << 20;
        let pair = Pair::new(64 << 10);
        let path = pair.path("source");
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(4 * MIB).unwrap();
        file.write_all_at(&[1; 8 << 10], 2 * MIB).unwrap();
        // Of old data nothing is left where the source has a hole, and all of it behind.
        fs::write(pair.path("destination"), vec![7; 5 << 20]).unwrap();
        let summary = copy(&pair, &plan(4 * MIB)).unwrap();
        assert_eq!(summary.bytes, 4 * MIB);
        assert_eq!(summary.holes, 4 * MIB - (72 << 10));
        assert_eq!(summary.tail, MIB);
        let (source, destination) = pair.data();
        assert!(destination[..4 << 20] == source);
        assert!(destination[4 << 20..].iter().all(|byte| *byte == 7));
        // A part that begins and ends in holes.
        let part = CopyPlan {
            source_offset: MIB,
            destination_offset: 8 * MIB,
            ..plan(2 * MIB)
        };
        assert_eq!(copy(&pair, &part).unwrap().holes, 2 * MIB - (8 << 10));
        let (source, destination) = pair.data();
        assert_eq!(destination.len() as u64, 10 * MIB);
        assert!(destination[8 << 20..] == source[1 << 20..3 << 20]);
        // Nothing but a hole.
        let hole = CopyPlan {
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
        let pair = Pair::new(64 << 10);
        let parts = CopyPlan {
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
        let pair = Pair::new(64 << 10);
        let good = plan(64 << 10);
        for (wrong, word) in [
            (
                CopyPlan {
                    chunk: 0,
                    ..good.clone()
                },
                "--chunk",
            ),
            (
                CopyPlan {
                    chunk: 1000,
                    ..good.clone()
                },
                "multiples of 4 KiB",
            ),
            (
                CopyPlan {
                    bytes: 1000,
                    ..good.clone()
                },
                "multiples of 4 KiB",
            ),
            (
                CopyPlan {
                    source_offset: 512,
                    ..good.clone()
                },
                "multiples of 4 KiB",
            ),
            (
                CopyPlan {
                    source_offset: 4096,
                    ..good.clone()
                },
                "is shorter than 4 KiB + 64 KiB",
            ),
            (
                CopyPlan {
                    bytes: 68 << 10,
                    ..good.clone()
                },
                "is shorter than 68 KiB",
            ),
            (
                CopyPlan {
                    depth: 2,
                    ..good.clone()
                },
                "--threads",
            ),
            (
                CopyPlan {
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
        let pair = Pair::new(64 << 10);
        let path = pair.path("source");
        let (source, same) = (
            DirectFile::source(&path).unwrap(),
            DirectFile::destination(&path, false).unwrap(),
        );
        let half = plan(32 << 10);
        for (from, to, good) in [
            (0, 0, false),
            (0, 28 << 10, false),
            (28 << 10, 0, false),
            (0, 32 << 10, true),
            (32 << 10, 0, true),
        ] {
            let plan = CopyPlan {
                source_offset: from,
                destination_offset: to,
                ..half.clone()
            };
            let result = run(&source, &same, &Memory::Host, &plan, &|_| (), &NEVER);
            assert_eq!(result.is_ok(), good, "{from} {to}");
        }
    }

    #[test]
    fn files_that_overlap_begin_again() {
        let pair = Pair::new(40 << 10);
        let twice = CopyPlan {
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
        let pair = Pair::new(64 << 10);
        let (source, destination) = pair.open();
        let stop = AtomicBool::new(false);
        let progress = |_| stop.store(true, Ordering::Relaxed);
        let summary = run(
            &source,
            &destination,
            &Memory::Host,
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
        let pair = Pair::new(64 << 10);
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
        let pair = Pair::new(64 << 10);
        let (_, destination) = pair.open();
        let mut seen = Vec::new();
        for seed in [1, 1, 2] {
            fill(&destination, 4096, 8192, seed, &NEVER).unwrap();
            seen.push(pair.data().1);
        }
        assert!(seen[0] == seen[1] && seen[1] != seen[2]);
    }
}
