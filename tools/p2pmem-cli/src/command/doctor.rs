// SPDX-License-Identifier: GPL-2.0

//! `p2pmem doctor`.

use std::path::{Path, PathBuf};

use anyhow::{anyhow, ensure, Result};
use clap::Args;
use p2pmem::{
    fabric::{Fabric, Target},
    Error, Root,
};

use crate::{
    apply,
    doctor::{self, Check, Explanation, Status, Tried},
    terminal,
    trial::Trial,
    via::open_memory,
};
use serde::Serialize;

use super::{output, topo::replay};

/// Check all that device memory needs, and say what to do about what is wrong.
///
/// Checks the kernel, the module and its installation, the configuration, providers, permissions,
/// memory that is not used, IOMMU, ACS, ATS, isolation and drives, and the block devices below each
/// PATH. Several PATHs must reach the same memory. With --errno only explains the error, unless
/// there is a PATH. A problem makes the exit status 1.
///
/// The stack below a PATH is looked up in tables of Linux 7.3. With --try up to 64 KiB of
/// each PATH are read into the memory of each provider as well, past the page cache, and compared
/// with what a read into ordinary memory returns; where PATH is on several drives, also of each of
/// them. Nothing is written.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  p2pmem doctor /srv/data\n  p2pmem doctor --try /srv/data/file"
)]
pub struct Arguments {
    /// Files, directories or block devices that are to be read or written.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// An error that a program got: a name or a number.
    #[arg(long, value_name = "NAME_OR_NUMBER", allow_hyphen_values = true)]
    errno: Option<String>,
    /// Read a little of each PATH into the memory of each provider, and report what arrives.
    #[arg(long, requires = "paths", conflicts_with = "replay")]
    r#try: bool,
    /// Take the machine from a file that `p2pmem topo --record` wrote, `-` for standard input.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Output of --json.
#[derive(Serialize)]
struct DoctorReport {
    /// The error that was asked for.
    errno: Option<&'static Explanation>,
    /// The checks, in the order in which to cure; empty if none was asked for.
    checks: Vec<Check>,
    /// Reads of --try.
    trials: Vec<Tried>,
}

/// Checks and explains. Fails if there is a problem.
pub fn run(arguments: &Arguments) -> Result<()> {
    let errno = arguments
        .errno
        .as_deref()
        .map(doctor::explain)
        .transpose()?;
    let (checks, trials) = if errno.is_some() && arguments.paths.is_empty() {
        (Vec::new(), Vec::new())
    } else {
        examine(arguments)?
    };
    let report = DoctorReport {
        errno,
        checks,
        trials,
    };

    let problems = doctor::count(&report.checks, Status::Problem);
    let failure = (problems > 0)
        .then(|| anyhow!("problems: {problems}; each has a cure, begin with the first"));

    if arguments.json {
        return output::print("doctor", report, failure);
    }
    if let Some(explanation) = errno {
        terminal::print(&explanation.to_string())?;
    }
    if !report.checks.is_empty() {
        terminal::print(&doctor::render(&report.checks, terminal::width()))?;
    }
    failure.map_or(Ok(()), Err)
}

fn examine(arguments: &Arguments) -> Result<(Vec<Check>, Vec<Tried>)> {
    let recorded = arguments.replay.as_deref().map(replay).transpose()?;
    let target = |path: &Path| match &recorded {
        Some(fabric) => Target::recorded(path, fabric).map_err(|error| match error {
            Error::NotRecorded { .. } => {
                anyhow!("{error}: `p2pmem topo --replay FILE` shows what was")
            }
            error => error.into(),
        }),
        None => Ok(Target::of(path)?),
    };
    let targets = arguments
        .paths
        .iter()
        .map(|path| Ok((path.display().to_string(), target(path)?)))
        .collect::<Result<Vec<_>>>()?;
    let fabric = match recorded {
        Some(fabric) => fabric,
        None => Fabric::read_with_installation(&Root::default())?,
    };
    let mut checks = doctor::examine(&fabric, &targets);
    if arguments.replay.is_none() {
        let found = doctor::configuration(&Root::default(), Path::new(apply::FOLDER));
        checks.extend(found);
    }
    let mut trials = Vec::new();
    if arguments.r#try {
        for (path, target) in &targets {
            trials.extend(try_one(&fabric, path, target)?);
        }
        checks.extend(doctor::tried(&trials));
    }
    Ok((checks, trials))
}

/// Tries a path with the memory of each provider. Of several drives the path may read one only:
/// each is tried, too.
fn try_one(fabric: &Fabric, path: &str, target: &Target) -> Result<Vec<Tried>> {
    let stack = fabric.stack(target);
    let mut files = vec![(path.to_owned(), stack.clone())];
    let drives = stack.drives(fabric);
    if drives.len() > 1 {
        files.extend(drives.into_iter().map(|drive| {
            let target = Target::Device(drive.number.clone());
            (format!("/dev/{}", drive.name), fabric.stack(&target))
        }));
    }

    let usable: Vec<_> = fabric.providers.iter().filter(|one| one.usable).collect();
    ensure!(
        !usable.is_empty(),
        "there is no provider whose memory could be tried: p2pmem doctor tells why"
    );
    let mut trials = Vec::new();
    for provider in usable {
        let via = open_memory(&Root::default(), Some(&provider.node()))?;
        for (file, stack) in &files {
            let trial = Trial::new(Path::new(file), &via);
            trials.push(Tried::new(fabric, stack, provider, path, file, trial));
        }
    }
    Ok(trials)
}
