// SPDX-License-Identifier: GPL-2.0

//! Measures the cost of memory, by its kind and by size: allocation, registration with a ring,
//! access by the CPU, and transfers between it and a drive.
//!
//! All kinds of a comparison are measured in turn, round by round: what else the machine does at
//! that time disturbs all of them alike. The fastest round of each counts; how far the others are
//! from it is shown.

mod cpu;
mod drive;
pub mod plot;
mod setup;

use std::{fmt, io, path::Path, sync::Barrier, thread, time::Duration};

use anyhow::{anyhow, ensure, Context, Result};
use clap::ValueEnum;
use io_uring::{squeue::Entry, IoUring};
use rustix::{
    io::Errno,
    param::page_size,
    time::{clock_gettime, ClockId},
};
use serde::{Deserialize, Serialize};

use p2pmem::{size, Buffer, Provider};
pub use setup::Setup;

use crate::copy::Direct;

/// An operation that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// Memory is mapped, each page is touched, and it is unmapped.
    Map,
    /// Memory whose pages are all present is unmapped.
    Unmap,
    /// Memory is mapped, and touched for the first time, a span of 2 MiB after the other: the
    /// longest of them.
    FirstTouch,
    /// Memory is put into a slot of an io_uring, and taken out.
    Register,
    /// The CPU writes to memory.
    Store,
    /// The CPU reads from memory.
    Load,
    /// A drive is read into memory.
    Read,
    /// Memory is written to a drive.
    Write,
    /// A drive is read into memory by `pread()`, one read at a time.
    Pread,
}

impl What {
    /// Returns the kinds of memory that are compared. The first one is the baseline.
    pub fn kinds(self) -> &'static [Kind] {
        use Kind::*;
        match self {
            Self::Map | Self::Unmap => &[Mainline, Mapped, Ordinary],
            Self::FirstTouch => &[Mapped],
            Self::Pread => &[Mainline, Mapped, Ordinary],
            Self::Register => &[OrdinaryRegistered, Registered],
            Self::Store | Self::Load => &[Ordinary, Mapped, WriteCombining],
            Self::Read | Self::Write => {
                &[Mainline, Mapped, Registered, Ordinary, OrdinaryRegistered]
            }
        }
    }

    /// Returns whether a drive is needed.
    pub fn needs_drive(self) -> bool {
        matches!(self, Self::Read | Self::Write | Self::Pread)
    }

    /// Returns whether several requests can be in flight.
    fn has_depth(self) -> bool {
        matches!(self, Self::Read | Self::Write)
    }

    /// Returns how many bytes there can be at the most.
    fn limit(self) -> u64 {
        match self {
            Self::Map | Self::Unmap | Self::FirstTouch => u64::MAX,
            _ => u32::MAX.into(),
        }
    }

    /// Returns the number of repetitions in a round.
    fn count(self, size: u64) -> u32 {
        let bytes: u64 = match self {
            // Does not depend on the size.
            Self::Register => return 64,
            Self::Map | Self::Unmap => 16 << 20,
            Self::FirstTouch => return 1,
            Self::Store | Self::Load => 1 << 20,
            Self::Read | Self::Write | Self::Pread => 64 << 20,
        };
        (bytes / size).clamp(1, 64) as u32
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Map => "map, touch, unmap",
            Self::Unmap => "unmap",
            Self::FirstTouch => "first touch, longest of 2 MiB",
            Self::Register => "register with io_uring, unregister",
            Self::Store => "store by the CPU",
            Self::Load => "load by the CPU",
            Self::Read => "read from the drive",
            Self::Write => "write to the drive",
            Self::Pread => "pread from the drive",
        })
    }
}

/// A kind of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Device memory that the kernel's own `p2pmem/allocate` mapped.
    Mainline,
    /// Device memory that the node mapped, uncached.
    Mapped,
    /// Device memory that is mapped so that writes are combined.
    WriteCombining,
    /// Device memory in a slot of the ring.
    Registered,
    /// Ordinary memory.
    Ordinary,
    /// Ordinary memory in a slot of the ring.
    OrdinaryRegistered,
    /// The device's BAR as page frames, mapped by the kernel's own `resourceN`. Nothing can be
    /// cheaper, and no I/O be done with it.
    Frames,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mainline => "mainline's p2pmem/allocate, mapped",
            Self::Mapped => "the node, mapped",
            Self::WriteCombining => "the node, write-combining",
            Self::Registered => "the node, registered with io_uring",
            Self::Ordinary => "ordinary memory",
            Self::OrdinaryRegistered => "ordinary memory, registered",
            Self::Frames => "page frames of the BAR, no I/O",
        })
    }
}

/// A measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The operation.
    pub what: What,
    /// The kind of memory.
    pub kind: Kind,
    /// Bytes of each.
    pub size: u64,
    /// Number of requests that each thread had in flight.
    pub depth: u32,
    /// Number of threads that ran in parallel.
    pub threads: u32,
    /// Time of an operation, by rounds.
    pub seconds: Spread,
    /// Bytes of all threads, divided by the time of the fastest round.
    pub bytes_per_second: f64,
    /// The kind of memory that the ratio refers to.
    pub baseline: Kind,
    /// The time of the fastest round, divided by that of the baseline in the same comparison.
    pub ratio: f64,
}

/// Times of the rounds, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The fastest.
    pub min: f64,
    /// The one in the middle, or the mean of the two there.
    pub median: f64,
    /// The slowest.
    pub max: f64,
}

impl Spread {
    /// Returns that of some rounds, or nothing for none.
    fn new(mut rounds: Vec<f64>) -> Option<Self> {
        rounds.sort_by(f64::total_cmp);
        let middle = rounds.get((rounds.len().max(1) - 1) / 2..=rounds.len() / 2)?;
        Some(Self {
            min: *rounds.first()?,
            median: middle.iter().sum::<f64>() / middle.len() as f64,
            max: *rounds.last()?,
        })
    }
}

/// Results of all measurements.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The machine and the devices.
    pub setup: Setup,
    /// The measurements.
    pub rows: Vec<Row>,
    /// Measurements that were not possible, with their reasons.
    pub notes: Vec<String>,
}

/// A request for measurements.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
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

impl Request<'_> {
    /// Returns the kinds of memory that are compared.
    fn kinds(&self, what: What) -> Vec<Kind> {
        let mut kinds = what.kinds().to_vec();
        if self.floor && matches!(what, What::Map | What::Unmap) {
            kinds.push(Kind::Frames);
        }
        kinds
    }
}

/// Repeats an operation so many times, and returns the time that it took.
type Round<'a> = Box<dyn FnMut(u32) -> Result<Duration> + Send + 'a>;

/// Measures. Leaves out, with a note, measurements for which there is not enough memory.
///
/// # Errors
///
/// A size that is not valid, a drive that is missing or in use, or I/O that fails.
pub fn run(request: &Request<'_>) -> Result<Report> {
    for &size in request.sizes {
        let limit = request.what.iter().map(|what| what.limit()).min();
        ensure!(
            size > 0 && size % page_size() as u64 == 0 && Some(size) <= limit,
            "{} is not a multiple of {} below 4G: choose another --size, like 1M",
            size::format(size),
            size::format(page_size() as u64)
        );
    }

    let mut report = Report::default();
    for &what in request.what {
        let drive = match (what, request.drive) {
            (What::Read | What::Pread, Some(path)) => Some(Direct::source(path)?),
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
                report.compare(request, what, drive.as_ref(), size, depth)?;
            }
        }
    }

    Ok(report)
}

impl Report {
    /// Measures all kinds of memory in turn.
    fn compare(
        &mut self,
        request: &Request<'_>,
        what: What,
        drive: Option<&Direct>,
        size: u64,
        depth: u32,
    ) -> Result<()> {
        let threads = request.threads;
        let length = size * u64::from(depth);
        if let Some(drive) = drive.filter(|drive| drive.length() < length) {
            self.notes.push(format!(
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
                Err(error) if is_lack(&error) => self.notes.push(format!(
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
                let took =
                    side_by_side(rounds, count).with_context(|| format!("{what}, {kind}"))?;
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
            self.rows.push(Row {
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

/// Opens a drive that is to be overwritten.
fn to_overwrite(path: &Path) -> Result<Direct> {
    Direct::destination(path, false).map_err(|error| match errno(&error) {
        Some(Errno::BUSY) => anyhow!(
            "{} is in use: unmount it, or choose another drive",
            path.display()
        ),
        _ => error,
    })
}

/// Returns what the kernel said.
fn errno(error: &anyhow::Error) -> Option<Errno> {
    error
        .downcast_ref::<io::Error>()
        .and_then(Errno::from_io_error)
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

/// Opens what mainline gives device memory by.
fn mainline(device: &Path) -> Result<std::fs::File> {
    let path = device.join("p2pmem/allocate");
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))
}

/// Submits requests, waits for all of them, and returns the sum of their results.
fn submit(ring: &mut IoUring, entries: &[Entry]) -> Result<u64> {
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

/// By what is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Time.
    Time,
    /// Time that the processors spent for this process: waiting does not count.
    Processor,
}

impl Clock {
    /// Measures how long something takes that is done so often.
    fn measure(self, count: u32, mut once: impl FnMut() -> Result<()>) -> Result<Duration> {
        let started = self.now()?;
        for _ in 0..count {
            once()?;
        }
        Ok(self.now()? - started)
    }

    fn now(self) -> Result<Duration> {
        let id = match self {
            Self::Time => ClockId::Monotonic,
            Self::Processor => ClockId::ProcessCPUTime,
        };
        Ok(Duration::try_from(clock_gettime(id))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_have_a_spread() {
        for (rounds, min, median, max) in [
            (&[3.0][..], 3.0, 3.0, 3.0),
            (&[4.0, 1.0], 1.0, 2.5, 4.0),
            (&[9.0, 1.0, 2.0], 1.0, 2.0, 9.0),
            (&[9.0, 1.0, 2.0, 4.0], 1.0, 3.0, 9.0),
        ] {
            let spread = Spread { min, median, max };
            assert_eq!(Spread::new(rounds.to_vec()), Some(spread));
        }
        assert_eq!(Spread::new(Vec::new()), None);
    }
}
