// SPDX-License-Identifier: GPL-2.0

//! The `p2pmem` command.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{bail, ensure, Context, Result};
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use p2pmem::{
    bench,
    copy::{compare, copy, Direct},
    size, sysfs, Buffer, Provider,
};
use serde::Serialize;

/// PCI peer-to-peer memory: buffers in devices, and direct I/O between devices through them.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit status: 0 if all went well, 1 if something failed, 2 for a wrong command line."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the providers of device memory.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Copy a file or block device to another, through device memory.
    #[command(after_help = "Example:\n  \
        p2pmem copy /dev/nvme0n1 /dev/nvme1n1 --via /dev/p2pmem0 --size 64M --check")]
    Copy {
        /// What is read.
        source: PathBuf,
        /// What is overwritten, from its start on.
        destination: PathBuf,
        /// The provider of the memory.
        #[arg(long, default_value = "/dev/p2pmem0")]
        via: PathBuf,
        /// How much is copied: bytes, or with K, M or G. Default: all of the source.
        #[arg(long, value_parser = size::parse)]
        size: Option<u64>,
        /// How much goes through the memory at a time.
        #[arg(long, value_parser = size::parse, default_value = "1M")]
        chunk: u64,
        /// Read both back and compare.
        #[arg(long)]
        check: bool,
        /// Write to a block device even if it is in use.
        #[arg(long)]
        force: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Measure what reads from a drive cost by the kind of memory that they go to.
    ///
    /// Nothing is written to the drive. The memory must be the drive's peer.
    #[command(
        after_help = "Example:\n  p2pmem bench /dev/nvme0n1 --via /dev/p2pmem0 --depth 1,16"
    )]
    Bench {
        /// What is read.
        drive: PathBuf,
        /// The provider of the memory.
        #[arg(long, default_value = "/dev/p2pmem0")]
        via: PathBuf,
        /// How much is read at a time, a multiple of 4K and less than 4G.
        #[arg(long, value_parser = size::parse, default_value = "1M")]
        size: u64,
        /// How many reads are under way at a time: up to 64.
        #[arg(long, value_delimiter = ',', default_value = "1,16", value_parser = clap::value_parser!(u32).range(1..=64))]
        depth: Vec<u32>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Serialize)]
struct Listing {
    providers: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    path: PathBuf,
    pci: String,
    vendor: String,
    device: String,
    size: u64,
    allocated: u64,
    available: u64,
    granule: u32,
    regions: Vec<Region>,
}

#[derive(Serialize)]
struct Region {
    bar: u32,
    offset: u64,
    size: u64,
}

#[derive(Serialize)]
struct Copied {
    bytes: u64,
    chunk: u64,
    seconds: f64,
    via: PathBuf,
    source: PathBuf,
    destination: PathBuf,
    /// Null where no check was asked for.
    verified: Option<bool>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::List { json } => list(json),
        Command::Copy {
            source,
            destination,
            via,
            size,
            chunk,
            check,
            force,
            json,
        } => run_copy(&source, &destination, &via, size, chunk, check, force)
            .and_then(|copied| report(&copied, json)),
        Command::Bench {
            drive,
            via,
            size,
            depth,
            json,
        } => run_bench(&drive, &via, size, &depth, json),
    };

    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("p2pmem: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn open(path: &Path) -> Result<Provider> {
    Provider::open(path).with_context(|| {
        format!(
            "cannot open {}: is p2pmem_rs loaded, the device bound, and are you root?",
            path.display()
        )
    })
}

fn list(json: bool) -> Result<()> {
    let mut providers = Vec::new();
    for entry in sysfs::providers(Path::new("/sys")).context("cannot read sysfs")? {
        let provider = open(&entry.path)?;
        let info = provider.info()?;
        let regions = (0..info.regions)
            .map(|index| {
                let region = provider.region(index)?;
                Ok(Region {
                    bar: region.bar,
                    offset: region.offset,
                    size: region.size,
                })
            })
            .collect::<Result<_>>()?;

        providers.push(Listed {
            available: entry.available()?,
            path: entry.path,
            pci: entry.pci,
            vendor: entry.vendor,
            device: entry.product,
            size: info.size,
            allocated: info.allocated,
            granule: info.granule,
            regions,
        });
    }

    if json {
        println!("{}", serde_json::to_string(&Listing { providers })?);
    } else if providers.is_empty() {
        println!("no providers: load p2pmem_rs, and bind a device to it");
    } else {
        println!(
            "{:<14} {:<13} {:<10} {:>4} {:>10} {:>10}",
            "NODE", "DEVICE", "ID", "BAR", "SIZE", "FREE"
        );
        for provider in providers {
            let bars: Vec<_> = provider
                .regions
                .iter()
                .map(|region| region.bar.to_string())
                .collect();
            println!(
                "{:<14} {:<13} {:<10} {:>4} {:>10} {:>10}",
                provider.path.display(),
                provider.pci,
                format!("{}:{}", provider.vendor, provider.device),
                bars.join(","),
                size::format(provider.size),
                size::format(provider.available),
            );
        }
    }

    Ok(())
}

fn run_copy(
    source_path: &Path,
    destination_path: &Path,
    via: &Path,
    size: Option<u64>,
    chunk: u64,
    check: bool,
    force: bool,
) -> Result<Copied> {
    ensure!(chunk > 0, "--chunk is 0: choose one, like 1M");
    let source = Direct::source(source_path)?;
    let destination = Direct::destination(destination_path, force)?;
    let bytes = size.unwrap_or(source.length());
    let provider = open(via)?;
    let mut buffer = Buffer::map(&provider, usize::try_from(chunk)?).with_context(|| {
        format!(
            "{} has no free run of {}: choose a smaller --chunk",
            via.display(),
            size::format(chunk)
        )
    })?;

    // Hidden where there is no terminal.
    let bar = ProgressBar::new(bytes).with_style(ProgressStyle::with_template(
        "{wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}",
    )?);
    let started = Instant::now();
    copy(&source, &destination, &mut buffer, bytes, |step| {
        bar.inc(step)
    })?;
    let seconds = started.elapsed().as_secs_f64();
    bar.finish_and_clear();

    if check {
        if let Some(offset) = compare(&source, &destination, bytes)? {
            bail!(
                "{} and {} differ at {offset}: the way through {} loses data",
                source_path.display(),
                destination_path.display(),
                via.display()
            );
        }
    }

    Ok(Copied {
        bytes,
        chunk,
        seconds,
        via: via.to_owned(),
        source: source_path.to_owned(),
        destination: destination_path.to_owned(),
        verified: check.then_some(true),
    })
}

fn report(copied: &Copied, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(copied)?);
    } else {
        println!(
            "{} in {:.2} s{}",
            size::format(copied.bytes),
            copied.seconds,
            if copied.verified.is_some() {
                ", both compared equal"
            } else {
                ""
            }
        );
    }

    Ok(())
}

fn run_bench(drive: &Path, via: &Path, size: u64, depths: &[u32], json: bool) -> Result<()> {
    let size = u32::try_from(size)
        .ok()
        .filter(|size| size % 4096 == 0 && *size > 0)
        .context("--size is not a multiple of 4K below 4G: choose one, like 1M")?;
    let provider = open(via)?;
    let entry = sysfs::providers(Path::new("/sys"))?
        .into_iter()
        .find(|entry| entry.path.file_name() == via.file_name())
        .with_context(|| format!("{} is not a node in /dev", via.display()))?;
    let rows = bench::reads(drive, &provider, &entry.device, size, depths)?;

    if json {
        println!("{}", serde_json::to_string(&rows)?);
        return Ok(());
    }
    println!(
        "{:<36} {:>6} {:>12} {:>8}",
        "READS INTO", "DEPTH", "MICROSECONDS", "RATIO"
    );
    for row in rows {
        let kind = match row.kind {
            bench::Kind::Mainline => "mainline's p2pmem/allocate, mapped",
            bench::Kind::Mapped => "the node, mapped",
            bench::Kind::Registered => "the node, registered with io_uring",
            bench::Kind::Ordinary => "ordinary memory",
            bench::Kind::OrdinaryRegistered => "ordinary memory, registered",
        };
        println!(
            "{kind:<36} {:>6} {:>12.1} {:>8.2}",
            row.depth, row.microseconds, row.ratio
        );
    }
    Ok(())
}
