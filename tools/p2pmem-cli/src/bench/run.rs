// SPDX-License-Identifier: GPL-2.0

//! Runs measurements.

use std::{path::Path, sync::Barrier, thread, time::Duration};

use anyhow::{anyhow, ensure, Context, Result};
use p2pmem::{direct::DirectFile, size};
use rustix::{io::Errno, param::page_size};

use super::{
    cpu, drive,
    report::{BenchReport, Row, Spread},
    request::{BenchRequest, Round},
    subject::What,
};
use crate::errno::errno;

/// Measures. Leaves out, with a note, measurements for which there is not enough memory.
///
/// # Errors
///
/// A size that is not valid, a drive that is missing or in use, or I/O that fails.
pub fn run(request: &BenchRequest<'_>) -> Result<BenchReport> {
    for &size in request.sizes {
        let limit = request.what.iter().map(|what| what.limit()).min();
        ensure!(
            size > 0 && size % page_size() as u64 == 0 && Some(size) <= limit,
            "{} is not a multiple of {} below 4G: choose another --size, like 1M",
            size::format(size),
            size::format(page_size() as u64)
        );
    }

    let mut report = BenchReport::default();
    for &what in request.what {
        let drive = match (what, request.drive) {
            (What::Read | What::Pread, Some(path)) => Some(DirectFile::source(path)?),
            (What::Write, Some(path)) => Some(to_overwrite(path)?),
            _ => None,
        };
        ensure!(
            drive.is_some() || !what.needs_drive(),
            "no drive for {what:?}: pass one, like /dev/nvme0n1"
        );
        let depths = if what.has_depth() {
            request.depths
        } else {
            &[1]
        };
        for &size in request.sizes {
            for &depth in depths {
                compare(&mut report, request, what, drive.as_ref(), size, depth)?;
            }
        }
    }

    Ok(report)
}

/// Measures all kinds of memory in turn.
fn compare(
    report: &mut BenchReport,
    request: &BenchRequest<'_>,
    what: What,
    drive: Option<&DirectFile>,
    size: u64,
    depth: u32,
) -> Result<()> {
    let threads = request.threads;
    let length = size * u64::from(depth);
    if let Some(drive) = drive.filter(|drive| drive.length() < length) {
        report.notes.push(format!(
            "{what}, {} at depth {depth}: left out, the drive has {}",
            size::format(size),
            size::format(drive.length())
        ));
        return Ok(());
    }

    let mut subjects = Vec::new();
    for kind in request.kinds(what) {
        let rounds: Result<Vec<_>> = (0..threads)
            .map(|_| match drive {
                Some(drive) => drive::round(request, what, kind, drive, size as u32, depth),
                None => cpu::round(request, what, kind, size as usize),
            })
            .collect();
        match rounds {
            Ok(rounds) => subjects.push((kind, rounds, Vec::new())),
            Err(error) if is_lack(&error) => report.notes.push(format!(
                "{what}, {}, {kind}: left out, not enough of {}: {error:#}",
                size::format(size),
                size::format(length * u64::from(threads))
            )),
            Err(error) => return Err(error).with_context(|| format!("{what}, {kind}")),
        }
    }

    let count = what.count(size).next_multiple_of(depth);
    // The first round warms up.
    for number in 0..=request.rounds {
        for (kind, rounds, all) in &mut subjects {
            let took = side_by_side(rounds, count).with_context(|| format!("{what}, {kind}"))?;
            if number > 0 {
                all.push(took.as_secs_f64() / f64::from(count));
            }
        }
    }
    let spreads: Vec<_> = subjects
        .into_iter()
        .filter_map(|(kind, _, all)| Some((kind, Spread::new(all)?)))
        .collect();
    let Some(&(baseline, first)) = spreads.first() else {
        return Ok(());
    };
    for (kind, seconds) in spreads {
        report.rows.push(Row {
            what,
            kind,
            size,
            depth,
            threads,
            seconds,
            bytes_per_second: f64::from(threads) * size as f64 / seconds.min,
            baseline,
            ratio: seconds.min / first.min,
        });
    }

    Ok(())
}

/// Does a round in as many threads as there are, and returns how long the slowest took.
fn side_by_side(rounds: &mut [Round<'_>], count: u32) -> Result<Duration> {
    // A thread of its own would have to be started first.
    if let [round] = rounds {
        return round(count);
    }
    let start = Barrier::new(rounds.len());
    thread::scope(|scope| {
        let threads: Vec<_> = rounds
            .iter_mut()
            .map(|round| {
                scope.spawn(|| {
                    start.wait();
                    round(count)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a thread does not panic"))
            .try_fold(Duration::ZERO, |longest, took| Ok(longest.max(took?)))
    })
}

/// Opens a drive that is to be overwritten.
fn to_overwrite(path: &Path) -> Result<DirectFile> {
    DirectFile::destination(path, false).map_err(|error| match error.errno() {
        Some(Errno::BUSY) => anyhow!(
            "{} is in use: unmount it, or choose another drive",
            path.display()
        ),
        _ => error.into(),
    })
}

/// Returns whether the cause of an error is a lack of memory: the request itself was valid.
fn is_lack(error: &anyhow::Error) -> bool {
    // FAULT: io_uring does not take more than 1 GiB.
    const LACK: [Errno; 5] = [
        Errno::NOSPC,
        Errno::DQUOT,
        Errno::NOMEM,
        Errno::NOENT,
        Errno::FAULT,
    ];

    errno(error).is_some_and(|error| LACK.contains(&error))
}
