// SPDX-License-Identifier: GPL-2.0

//! `p2pmem copy`.

use std::{path::PathBuf, time::Duration};

use anyhow::{anyhow, Context, Result};
use clap::{value_parser, Args};
use clap_complete::engine::ArgValueCandidates;
use p2pmem::{direct::DirectFile, size, Io, Memory, Root};

use crate::{
    copy::{compare, fill, run as copy, Comparison, CopyPlan},
    cpu_access::CpuAccess,
    direct_io::open_destination,
    preflight::{proof_is_due, Preflight},
    terminal,
    via::open_memory,
};

use super::{
    cause::explain,
    complete::memory,
    copied::{onward, text, Copied},
    force::or_force,
    interrupt,
    io_value::io,
    output,
    progress::bar,
};

/// Copy a file or block device to another, through device memory.
///
/// The data is cut into chunks. Each thread has --depth of them in flight: a chunk is read into the
/// memory, and written from there. io_uring moves a chunk by one request after the other, each of
/// 512 KiB at most, because the kernel repeats longer ones. Ctrl-C ends the copy after the chunks
/// in flight, and the summary shows where it stopped.
///
/// From file to file holes are kept. A file or block device that is longer than what is copied
/// keeps the rest of its data.
#[derive(Args)]
#[command(
    after_help = EXAMPLE,
    after_long_help = format!("{EXAMPLE}\n\n{STATUS}\n\n{P2PMEM_TEST}")
)]
pub struct Arguments {
    /// The file or block device to read.
    source: PathBuf,
    /// The file or block device to overwrite. A missing file is created, but not in /dev.
    destination: PathBuf,
    /// The provider of the memory: its node, name or number, or the PCI address of its device;
    /// `none` for ordinary memory. Default: the only one.
    #[arg(long, add = ArgValueCandidates::new(memory))]
    via: Option<String>,
    /// Bytes to copy, or with K, M or G. Default: all of the source.
    #[arg(long, value_parser = size::parse)]
    size: Option<u64>,
    /// Number of chunks to copy, instead of --size.
    #[arg(long, short, conflicts_with = "size")]
    count: Option<u64>,
    /// Bytes of a chunk.
    #[arg(long, short = 's', value_parser = size::parse, default_value = "1M")]
    chunk: u64,
    /// Number of threads, each with memory of its own.
    #[arg(long, short, default_value = "1", value_parser = value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Number of chunks that each thread has in flight. Default: 4 if there is memory for them, 1
    /// with --io pread.
    #[arg(long, value_parser = value_parser!(u32).range(1..=4096))]
    depth: Option<u32>,
    /// Interface for I/O. Default: uring, or pread if the kernel allows no io_uring.
    #[arg(long, value_parser = io())]
    io: Option<Io>,
    /// Offset in source and destination.
    #[arg(long, short, value_parser = size::parse, default_value = "0")]
    offset: u64,
    /// Offset in the source, instead of --offset.
    #[arg(long, value_parser = size::parse)]
    source_offset: Option<u64>,
    /// Offset in the destination, instead of --offset.
    #[arg(long, value_parser = size::parse)]
    destination_offset: Option<u64>,
    /// Unused bytes of each thread's memory in front of the chunks.
    #[arg(long, value_parser = size::parse, default_value = "0")]
    buffer_offset: u64,
    /// Copy again and again for so many seconds.
    #[arg(long, short = 'D', value_name = "SECONDS")]
    duration: Option<u64>,
    /// Continue at the offset after the end of a file: SIZE may be greater than the file.
    #[arg(long, conflicts_with = "check")]
    overlap: bool,
    /// Do not read: write the contents of the memory.
    #[arg(long, conflicts_with_all = ["check", "skip_write"])]
    skip_read: bool,
    /// Do not write: the destination stays as it is.
    #[arg(long, conflicts_with = "check")]
    skip_write: bool,
    /// Read both back through ordinary memory, and compare them byte by byte. Before the copy, the
    /// destination and the device memory are filled with random data, so that data that does not
    /// arrive is seen. A source with one byte all over proves nothing.
    #[arg(long)]
    check: bool,
    /// Write random data to the source first, through ordinary memory. The data of the source is
    /// lost.
    #[arg(long, conflicts_with = "overlap")]
    fill: bool,
    /// Seed of random data, for --fill and --host-access. Default: a random one.
    #[arg(long)]
    seed: Option<u64>,
    /// Have the CPU write WIDTH random bytes at each of COUNT random places of the memory first,
    /// and read them back. A negative WIDTH only reads. Default COUNT: 64.
    #[arg(long, value_name = "WIDTH[:COUNT]", allow_hyphen_values = true, value_parser = CpuAccess::parse_test)]
    host_access: Option<CpuAccess>,
    /// Have the CPU write zeroes to the first BYTES of the memory first, WIDTH bytes at a time.
    /// Default BYTES: 4096.
    #[arg(long, value_name = "WIDTH[:BYTES]", value_parser = CpuAccess::parse_clear)]
    init: Option<CpuAccess>,
    /// Write to a block device even if it is in use, and copy even if a block device below SOURCE
    /// or DESTINATION takes no device memory or does not reach it.
    #[arg(long)]
    force: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

const EXAMPLE: &str = "Example:\n  \
    p2pmem copy /dev/nvme0n1 /dev/nvme1n1 --via /dev/p2pmem0 -s 64k --threads 2 --check";

const STATUS: &str = "Exit status: 0 if all was copied, and is equal with --check; 1 if something \
    failed; 2 for a wrong command line; 130 if interrupted.";

const P2PMEM_TEST: &str = "\
Options of p2pmem-test (of Eideticom), and their equals:
  p2pmem-test                      p2pmem copy
  NVME-READ NVME-WRITE             SOURCE DESTINATION
  P2PMEM, left out                 --via DEV, --via none
  -s, --chunk_size N               -s, --chunk N
  -c, --chunks N                   -c, --count N
  -t, --threads N                  -t, --threads N, which need not divide the chunks
  -o, --offset N (of the buffer)   --buffer-offset N; -o is for source and destination
  --overlap                        --overlap
  --seed N                         --seed N
  --host_access WIDTH:COUNT        --host-access WIDTH:COUNT
  --init WIDTH:BYTES               --init WIDTH:BYTES
  --skip-read, --skip-write        the same
  -D, --duration SECONDS           -D, --duration SECONDS, not limited by -c
  --check (writes data, parity)    --fill --check (compares each byte)";

/// Copies, and prints a summary.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut copied = do_copy(arguments)?;
    let failure = copied.summary.failure.take().map(|error| {
        let onward = onward(&copied);
        match onward.is_empty() {
            true => error,
            false => anyhow!("{error:#}; {onward}"),
        }
    });
    if arguments.json {
        output::print("copy", &copied, failure)?;
    } else if let Some(error) = failure {
        return Err(error);
    } else {
        terminal::print(&text(&copied))?;
    }
    if !copied.unproven.is_empty() && copied.verified.is_none() {
        terminal::complain(&format!("note: {}", proof_is_due(&copied.unproven)));
    }
    if copied.summary.interrupted {
        interrupt::exit();
    }
    Ok(())
}

/// Refuses files that the memory cannot be copied from or to. Returns the drives below them of
/// which it is not known whether data arrives.
fn look_below(arguments: &Arguments, preflight: &Preflight) -> Result<Vec<String>> {
    let fixed = arguments.io == Some(Io::UringFixed);
    let ends = [
        (&arguments.source, arguments.skip_read),
        (&arguments.destination, arguments.skip_write),
    ];
    let mut unproven = Vec::new();
    for (path, _) in ends.iter().filter(|(_, skipped)| !skipped) {
        if !arguments.force {
            or_force(preflight.check(path, fixed))?;
        }
        unproven.extend(preflight.unproven(path)?);
    }
    if !(arguments.force || arguments.skip_read || arguments.skip_write) {
        or_force(preflight.check_apart(&arguments.source, &arguments.destination))?;
    }
    unproven.sort();
    unproven.dedup();
    Ok(unproven)
}

fn do_copy(arguments: &Arguments) -> Result<Copied> {
    let stop = interrupt::flag()?;
    let via = open_memory(&Root::default(), arguments.via.as_deref())?;
    let source = DirectFile::source(&arguments.source)?;
    let preflight = Preflight::new(&via)?;
    let unproven = look_below(arguments, &preflight)?;
    // A destination that is not written may be in use.
    let destination = if arguments.skip_write {
        DirectFile::source(&arguments.destination)?
    } else {
        open_destination(&arguments.destination, arguments.force)?
    };
    let plan = plan(arguments, &via, &source)?;

    if arguments.fill {
        plan.check(&source, &destination)?;
        let filled = if source.is_same(&destination) && !arguments.skip_write {
            // It is open for writing already, exclusively.
            &destination
        } else {
            &open_destination(&arguments.source, arguments.force)?
        };
        fill(filled, plan.source_offset, plan.bytes, plan.seed, &stop)?;
    }
    plan.check(&source, &destination)?;
    let bar = bar(&plan, plan.moved(&source, &destination)?)?;
    let progress = |bytes| bar.inc(bytes);
    let result = copy(&source, &destination, &via, &plan, &progress, &stop);
    bar.finish_and_clear();
    let mut summary = result?;

    let mut verified = None;
    let mut uniform = None;
    if arguments.check && !summary.interrupted && summary.failure.is_none() {
        let bytes = summary.bytes.min(plan.bytes);
        let comparison = compare(&source, &destination, &plan, bytes, &stop)?;
        summary.interrupted = stop.load(std::sync::atomic::Ordering::Relaxed);
        match comparison {
            Comparison::Equal { uniform: same } if !summary.interrupted => {
                uniform = Some(same && bytes > 0);
                verified = (uniform == Some(false)).then_some(true);
            }
            Comparison::Equal { .. } => (),
            Comparison::Differs(offset) => {
                verified = Some(false);
                summary.failure = Some(anyhow!(
                "{} and {} differ {offset} bytes behind the start: the way through {} changes data, \
                 see p2pmem verify",
                arguments.source.display(),
                arguments.destination.display(),
                via.path().display()
                ));
            }
        }
    }
    let failure = summary.failure.take();
    summary.failure = failure.map(|error| explain(error, &preflight, [&source, &destination]));

    let is_random = arguments.fill || arguments.host_access.is_some();
    Ok(Copied {
        summary,
        chunk: plan.chunk,
        threads: plan.threads,
        depth: plan.depth,
        io: plan.io,
        via: via.path().to_owned(),
        pci: via.pci(),
        source: arguments.source.clone(),
        source_offset: plan.source_offset,
        destination: arguments.destination.clone(),
        destination_offset: plan.destination_offset,
        seed: is_random.then_some(plan.seed),
        verified,
        uniform,
        unproven,
        planned: plan.bytes,
        begins_again: plan.duration.is_some() || plan.overlap,
        is_all: arguments.size.is_none() && arguments.count.is_none(),
    })
}

/// Combines the options with defaults.
fn plan(arguments: &Arguments, via: &Memory, source: &DirectFile) -> Result<CopyPlan> {
    let source_offset = arguments.source_offset.unwrap_or(arguments.offset);
    let bytes = match (arguments.size, arguments.count) {
        (Some(bytes), _) => bytes,
        (None, Some(count)) => count
            .checked_mul(arguments.chunk)
            .context("--count and --chunk exceed 64 bits: choose less")?,
        (None, None) => source.length().saturating_sub(source_offset),
    };
    let io = arguments.io.unwrap_or_else(Io::best);
    let depth = match arguments.depth {
        Some(depth) => depth,
        None if io == Io::Pread => 1,
        None => usual_depth(arguments, via)?,
    };

    Ok(CopyPlan {
        source_offset,
        destination_offset: arguments.destination_offset.unwrap_or(arguments.offset),
        bytes,
        chunk: arguments.chunk,
        threads: arguments.threads,
        depth,
        io,
        duration: arguments.duration.map(Duration::from_secs),
        overlap: arguments.overlap,
        skip_read: arguments.skip_read,
        skip_write: arguments.skip_write,
        buffer_offset: arguments.buffer_offset,
        accesses: arguments
            .init
            .into_iter()
            .chain(arguments.host_access)
            .collect(),
        spoil: arguments.check,
        seed: arguments.seed.unwrap_or_else(|| fastrand::u64(..)),
    })
}

/// Returns a depth that there is memory for.
fn usual_depth(arguments: &Arguments, via: &Memory) -> Result<u32> {
    const USUAL: u64 = 4;
    let Some(provider) = via.provider() else {
        // A slot of a ring takes 1 GiB of ordinary memory.
        return Ok(((1 << 30) / arguments.chunk.max(1)).clamp(1, USUAL) as u32);
    };
    let largest = provider.info()?.largest / u64::from(arguments.threads);
    // The limit of a slot of a ring.
    let for_each = largest.min(u32::MAX.into());
    let chunks = for_each.saturating_sub(arguments.buffer_offset) / arguments.chunk.max(1);
    Ok(chunks.clamp(1, USUAL) as u32)
}
