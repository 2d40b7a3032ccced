// SPDX-License-Identifier: GPL-2.0

//! `p2pmem topo`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{ensure, Context, Result};
use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use p2pmem::{fabric::Fabric, Error, Root};

use super::{complete::numbers, output};
use crate::terminal;
use crate::topo::{self, Options};

/// Draw the PCIe fabric, and the route of each device to device memory, or the reason for none.
///
/// Shows IOMMU groups, ATS and ACS as well: p2pmem(7) explains them. Needs no privileges. A fabric
/// can be recorded, and drawn on any other machine.
#[derive(Args)]
#[command(after_help = "Example:\n  \
    p2pmem topo --record - | ssh elsewhere p2pmem topo --replay -")]
pub struct Arguments {
    /// Show only the routes to /dev/p2pmemN.
    #[arg(long, value_name = "N", add = ArgValueCandidates::new(numbers))]
    provider: Option<u32>,
    /// Show functions that no route involves as well.
    #[arg(long)]
    all: bool,
    /// Write the fabric as JSON to a file instead, `-` for standard output.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["provider", "all", "json"])]
    record: Option<PathBuf>,
    /// Take the fabric from a recorded file, `-` for standard input.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Draws, or records.
pub fn run(arguments: &Arguments) -> Result<()> {
    let fabric = match &arguments.replay {
        Some(path) => replay(path)?,
        None => Fabric::read_with_installation(&Root::default())?,
    };
    if let Some(path) = &arguments.record {
        return record(&fabric, path);
    }
    if let Some(number) = arguments.provider {
        ensure!(
            fabric.providers.iter().any(|one| one.id.number == number),
            "there is no /dev/p2pmem{number}: `p2pmem topo` shows all nodes"
        );
    }

    let options = Options {
        provider: arguments.provider,
        all: arguments.all,
        width: terminal::width(),
    };
    if arguments.json {
        output::print("topo", topo::TopoReport::new(&fabric, &options), None)
    } else {
        terminal::print(&topo::render(&fabric, &options))
    }
}

/// Reads a fabric that was recorded.
pub fn replay(path: &Path) -> Result<Fabric> {
    if path == Path::new("-") {
        let text = std::io::read_to_string(std::io::stdin());
        return parse(&text.context("cannot read standard input")?);
    }
    fs::read_to_string(path)
        .map_err(anyhow::Error::from)
        .and_then(|text| parse(&text))
        .with_context(|| format!("cannot read {}", path.display()))
}

fn parse(text: &str) -> Result<Fabric> {
    Fabric::from_json(text).map_err(|error| match error {
        Error::Record(source) => anyhow::Error::new(source)
            .context("not a recorded fabric: write one with `p2pmem topo --record FILE`"),
        error => error.into(),
    })
}

fn record(fabric: &Fabric, path: &Path) -> Result<()> {
    let text = fabric.to_json() + "\n";
    if path == Path::new("-") {
        return terminal::print(&text);
    }
    fs::write(path, text)
        .with_context(|| format!("cannot write {}: choose another file", path.display()))
}
