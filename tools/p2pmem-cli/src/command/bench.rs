// SPDX-License-Identifier: GPL-2.0

//! `p2pmem bench`.

use std::{fs, path::PathBuf};

use anyhow::{ensure, Context, Result};
use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use p2pmem::{size, sysfs, Root};

use super::{complete::providers, output};
use crate::{
    bench::{self, plot, BenchReport, BenchRequest, Clock, Row, Setup, What},
    preflight::{proof_is_due, Preflight},
    table, terminal, units,
    via::{choose, open, open_memory},
};

/// Measure the cost of memory, by its kind and by size.
///
/// Compares device memory with ordinary memory, and with memory of mainline's own files. Each kind
/// is measured in turn, several times: MIN, MEDIAN and MAX are the times of these rounds for one
/// operation, in microseconds. The rate and the ratio to the baseline are those of the fastest
/// round. Figures of virtual machines say little of real ones.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    p2pmem bench /dev/nvme0n1 --via p2pmem0 --depth 1,16\n  \
    p2pmem bench --what store,load --size 4K,64K,1M --plot cpu.svg\n  \
    p2pmem bench /dev/nvme1n1 --what read,write --write --json >report\n  \
    p2pmem bench --replay report --plot report.svg")]
pub struct Arguments {
    /// The drive that is read or written. It must reach the memory.
    drive: Option<PathBuf>,
    /// The provider of the memory: a node, its number, or the address of its device. Default: the
    /// only one there is.
    #[arg(long, add = ArgValueCandidates::new(providers))]
    via: Option<String>,
    /// Operations to measure. Default: read if a drive is named, else all that need no drive.
    #[arg(long, value_delimiter = ',')]
    what: Vec<What>,
    /// Bytes per operation: multiples of 4K, less than 4G.
    #[arg(long, value_parser = size::parse, value_delimiter = ',', default_value = "1M")]
    size: Vec<u64>,
    /// Number of reads and writes in flight: up to 64.
    #[arg(long, value_delimiter = ',', default_value = "1,16", value_parser = clap::value_parser!(u32).range(1..=64))]
    depth: Vec<u32>,
    /// Number of rounds.
    #[arg(long, default_value = "8", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Number of threads that run in parallel, each with memory of its own: up to 64.
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// First fill the pool with pieces of this size and free every other one.
    #[arg(long, value_parser = size::parse, value_name = "SIZE")]
    fragment: Option<u64>,
    /// Compare mapping with that of bare page frames, for which the kernel must have been booted
    /// with iomem=relaxed.
    #[arg(long)]
    floor: bool,
    /// Count the time that processors spend, without the time that they wait.
    #[arg(long)]
    cpu_time: bool,
    /// Show the results of an earlier run from a file of its JSON.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["drive", "what", "write"])]
    replay: Option<PathBuf>,
    /// Measure writes, too: they DESTROY the data on the drive.
    #[arg(long)]
    write: bool,
    /// Draw charts, and write them to a file as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Measures, and prints a table.
pub fn run(arguments: &Arguments) -> Result<()> {
    let report = match &arguments.replay {
        Some(path) => fs::read(path)
            .map_err(anyhow::Error::from)
            .and_then(|text| Ok(serde_json::from_slice(&text)?))
            .with_context(|| format!("{} is not the output of bench --json", path.display()))?,
        None => measure(arguments)?,
    };

    if let Some(path) = &arguments.plot {
        fs::write(path, plot::svg(&report)?)
            .with_context(|| format!("cannot write {}: choose another file", path.display()))?;
    }
    if arguments.json {
        output::print("bench", &report, None)?;
    } else {
        print(&report)?;
    }
    Ok(())
}

fn measure(arguments: &Arguments) -> Result<BenchReport> {
    let what = match (&*arguments.what, &arguments.drive) {
        ([], Some(_)) => &[What::Read][..],
        ([], None) => &[What::Map, What::Register, What::Store, What::Load],
        (what, _) => what,
    };
    ensure!(
        arguments.write || !what.contains(&What::Write),
        "measuring writes destroys the data on the drive: pass --write to allow it"
    );
    let entries = sysfs::providers(&Root::default()).context("cannot read sysfs")?;
    let entry = choose(&entries, arguments.via.as_deref())?;
    let provider = open(&entry.id.path())?;
    let unproven = preflight(arguments)?;
    let _pieces = arguments
        .fragment
        .map(|size| bench::fragment(&provider, size))
        .transpose()?;

    let clock = if arguments.cpu_time {
        Clock::Processor
    } else {
        Clock::Time
    };
    let details = entry.details().context("cannot read sysfs")?;
    let mut report = bench::run(&BenchRequest {
        provider: &provider,
        device: &entry.device,
        drive: arguments.drive.as_deref(),
        what,
        sizes: &arguments.size,
        depths: &arguments.depth,
        threads: arguments.threads,
        floor: arguments.floor,
        rounds: arguments.rounds,
        clock,
    })?;
    let drive = arguments.drive.as_deref();
    report.setup = Setup::new(entry, &details, drive, clock, arguments.rounds);
    if !unproven.is_empty() {
        report.notes.push(proof_is_due(&unproven));
    }
    Ok(report)
}

/// Refuses a drive that does not exchange data with the memory: of a slot, the kernel does not
/// refuse it. Returns the drives below it of which it is not known whether data arrives.
fn preflight(arguments: &Arguments) -> Result<Vec<String>> {
    let Some(drive) = arguments.drive.as_ref().filter(|drive| drive.exists()) else {
        return Ok(Vec::new());
    };
    let memory = open_memory(&Root::default(), arguments.via.as_deref())?;
    let preflight = Preflight::new(&memory)?;
    preflight.check(drive, true)?;
    preflight.unproven(drive)
}

fn print(report: &BenchReport) -> Result<()> {
    terminal::print(&text(report))?;
    for note in &report.notes {
        terminal::complain(&format!("note: {note}"));
    }
    Ok(())
}

/// Writes the machine, and a table for each comparison.
fn text(report: &BenchReport) -> String {
    let mut text = format!("{}\n", report.setup);
    for rows in report
        .rows
        .chunk_by(|one, other| (one.what, one.baseline) == (other.what, other.baseline))
    {
        let Row { what, baseline, .. } = rows[0];
        text += &format!("\n{what}; baseline: {baseline}\n");
        let microseconds = |seconds: f64| format!("{:.1}", seconds * 1e6);
        let rows = rows.iter().map(|row| {
            vec![
                row.kind.to_string(),
                size::format(row.size),
                row.depth.to_string(),
                row.threads.to_string(),
                microseconds(row.seconds.min),
                microseconds(row.seconds.median),
                microseconds(row.seconds.max),
                units::rate(row.bytes_per_second),
                format!("{:.2}", row.ratio),
            ]
        });
        text += &table::render(
            &[
                "KIND OF MEMORY",
                "SIZE#",
                "DEPTH#",
                "THREADS#",
                "MIN us#",
                "MEDIAN us#",
                "MAX us#",
                "RATE#",
                "RATIO#",
            ],
            rows,
            None,
        );
    }
    text
}
