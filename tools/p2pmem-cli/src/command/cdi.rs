// SPDX-License-Identifier: GPL-2.0

//! `p2pmem cdi`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use p2pmem::Root;

use crate::{cdi, output_file};

/// Print a specification of all nodes for containers (CDI, the Container Device Interface).
///
/// With it in /etc/cdi or /run/cdi, a container gets a node by the number of the node or by the
/// address of the PCI device: podman run --device p2pmem.dev/memory=0000:05:00.0. Write it again
/// when nodes change: numbers of nodes are given in the order in which devices are bound.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    p2pmem cdi\n  \
    p2pmem cdi --output /etc/cdi/p2pmem.json")]
pub struct Arguments {
    /// Write to a file, which is replaced at once.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Prints a specification.
pub fn run(arguments: &Arguments) -> Result<()> {
    let found = cdi::read(&Root::default()).context("cannot read sysfs")?;
    let text = serde_json::to_string_pretty(&found)? + "\n";
    output_file::replace_or_print(arguments.output.as_deref(), &text)
}
