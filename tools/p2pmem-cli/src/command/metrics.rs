// SPDX-License-Identifier: GPL-2.0

//! `p2pmem metrics`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use p2pmem::Root;

use crate::{metrics, output_file};

/// Print metrics of all providers for monitoring, in the text format of OpenMetrics.
///
/// Size, free memory, the longest free run and allocated memory of each provider need no
/// privileges. Memory by user and memory that DMA still uses are in debugfs, which only root reads.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    p2pmem metrics\n  \
    p2pmem metrics --output /var/lib/prometheus/node-exporter/p2pmem.prom")]
pub struct Arguments {
    /// Write to a file, which is replaced at once, for the textfile collector of node_exporter.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Prints metrics.
pub fn run(arguments: &Arguments) -> Result<()> {
    let text = metrics::read(&Root::default()).context("cannot read sysfs")?;
    output_file::replace_or_print(arguments.output.as_deref(), &text)
}
