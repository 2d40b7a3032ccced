// SPDX-License-Identifier: GPL-2.0

//! `p2pmem bench`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use p2pmem::{bench, size, sysfs};

use super::open;

/// Measure what reads from a drive cost by the kind of memory that they go to.
///
/// Nothing is written to the drive. The memory must be the drive's peer.
#[derive(Args)]
#[command(after_help = "Example:\n  p2pmem bench /dev/nvme0n1 --via /dev/p2pmem0 --depth 1,16")]
pub struct Arguments {
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
}

/// Measures, and prints a table.
pub fn run(arguments: &Arguments) -> Result<()> {
    let Arguments {
        drive,
        via,
        size,
        depth,
        json,
    } = arguments;

    let size = u32::try_from(*size)
        .ok()
        .filter(|size| size % 4096 == 0 && *size > 0)
        .context("--size is not a multiple of 4K below 4G: choose one, like 1M")?;
    let provider = open(via)?;
    let entry = sysfs::providers(Path::new("/sys"))?
        .into_iter()
        .find(|entry| entry.path.file_name() == via.file_name())
        .with_context(|| format!("{} is not a node in /dev", via.display()))?;
    let rows = bench::reads(drive, &provider, &entry.device, size, depth)?;

    if *json {
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
