// SPDX-License-Identifier: GPL-2.0

//! `p2pmem doctor`.

use std::path::{Path, PathBuf};

use anyhow::{anyhow, Result};
use clap::Args;
use p2pmem::{
    doctor::{self, Check, Explanation, Status},
    fabric::{Fabric, Target},
};
use serde::Serialize;

use super::{output, print, topo::replay, width};

/// Check all that device memory needs, and say what to do about what is wrong.
///
/// Checks the kernel, the module, providers, permissions, memory that is not used, IOMMU, ACS, ATS,
/// isolation and drives, and the block devices below each PATH. Several PATHs must reach the same
/// memory. With --errno only explains the error, unless there is a PATH. A problem makes the exit
/// status 1.
#[derive(Args)]
#[command(after_help = "Example:\n  p2pmem doctor /srv/data")]
pub struct Arguments {
    /// Files, directories or block devices that are to be read or written.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// An error that a program got: a name or a number.
    #[arg(long, value_name = "NAME_OR_NUMBER", allow_hyphen_values = true)]
    errno: Option<String>,
    /// Take the machine from a file that `p2pmem topo --record` wrote, `-` for standard input.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// What --json prints.
#[derive(Serialize)]
struct Report {
    /// The error that was asked for.
    errno: Option<&'static Explanation>,
    /// The checks, in the order in which to cure; empty if none was asked for.
    checks: Vec<Check>,
}

/// Checks and explains. Fails if there is a problem.
pub fn run(arguments: &Arguments) -> Result<()> {
    let errno = arguments
        .errno
        .as_deref()
        .map(doctor::explain)
        .transpose()?;
    let checks = if errno.is_some() && arguments.paths.is_empty() {
        Vec::new()
    } else {
        examine(arguments)?
    };
    let report = Report { errno, checks };

    let problems = doctor::count(&report.checks, Status::Problem);
    let failure = (problems > 0)
        .then(|| anyhow!("problems: {problems}; each has a cure, begin with the first"));

    if arguments.json {
        return output::print("doctor", report, failure);
    }
    if let Some(explanation) = errno {
        print(&explanation.to_string())?;
    }
    if !report.checks.is_empty() {
        print(&doctor::render(&report.checks, width()))?;
    }
    failure.map_or(Ok(()), Err)
}

fn examine(arguments: &Arguments) -> Result<Vec<Check>> {
    let recorded = arguments.replay.as_deref().map(replay).transpose()?;
    let target = |path: &Path| match &recorded {
        Some(fabric) => Target::recorded(path, fabric),
        None => Target::of(path),
    };
    let targets = arguments
        .paths
        .iter()
        .map(|path| Ok((path.display().to_string(), target(path)?)))
        .collect::<Result<Vec<_>>>()?;
    let fabric = match recorded {
        Some(fabric) => fabric,
        None => Fabric::read(Path::new("/"))?,
    };
    Ok(doctor::examine(&fabric, &targets))
}
