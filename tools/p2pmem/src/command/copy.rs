// SPDX-License-Identifier: GPL-2.0

//! `p2pmem copy`.

use std::{path::PathBuf, time::Instant};

use anyhow::{bail, ensure, Context, Result};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use p2pmem::{
    copy::{compare, copy, Direct},
    size, Buffer,
};
use serde::Serialize;

use super::open;

/// Copy a file or block device to another, through device memory.
#[derive(Args)]
#[command(after_help = "Example:\n  \
    p2pmem copy /dev/nvme0n1 /dev/nvme1n1 --via /dev/p2pmem0 --size 64M --check")]
pub struct Arguments {
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

/// Copies, and says what was done.
pub fn run(arguments: &Arguments) -> Result<()> {
    report(&do_copy(arguments)?, arguments.json)
}

fn do_copy(arguments: &Arguments) -> Result<Copied> {
    let &Arguments {
        source: ref source_path,
        destination: ref destination_path,
        ref via,
        size,
        chunk,
        check,
        force,
        json: _,
    } = arguments;

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
