// SPDX-License-Identifier: GPL-2.0

//! `p2pmem verify`.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use anyhow::{anyhow, Result};
use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use p2pmem::{direct::DirectFile, size, Io, PciAddress, Root};

use crate::{
    direct_io::open_destination,
    preflight::Preflight,
    table, terminal,
    verify::{
        run as verify, Data, DataVerdict, VerifyCheck, VerifyDirection, VerifyPlan, VerifyReport,
    },
    via::open_memory,
};
use serde::Serialize;

use super::{cause::cause, complete::memory, force::or_force, interrupt, output};

/// Prove with data that a drive and device memory reach each other.
///
/// Each direction is tried for itself: with calls and mapped memory, and with memory that is
/// registered with io_uring, if this process may register it (see p2pmem config --slots). What
/// arrives is compared with what goes through ordinary memory. The target has other data before, so
/// that a transfer that moved nothing is seen.
///
/// If DRIVE is a mirror or lies on one (md raid1 and raid10, dm-mirror, LVM raid1), what was
/// written is read back from each member.
///
/// Without --write only the direction from the drive to the memory is tried, with what the drive
/// has.
#[derive(Args)]
#[command(
    after_help = "Example:\n  p2pmem verify /dev/nvme0n1 --via /dev/p2pmem0 --write\n\n\
    Exit status: 1 if a direction does not work, 130 if interrupted."
)]
pub struct Arguments {
    /// The drive, or a file on it.
    drive: PathBuf,
    /// The provider: its node, name or number, or the PCI address of its device; `none` for
    /// ordinary memory. Default: the only one.
    #[arg(long, add = ArgValueCandidates::new(memory))]
    via: Option<String>,
    /// How much is moved each time: bytes, or with K, M or G.
    #[arg(long, short, value_parser = size::parse, default_value = "1M")]
    size: u64,
    /// Offset on the drive.
    #[arg(long, short, value_parser = size::parse, default_value = "0")]
    offset: u64,
    /// Write to the drive as well: zeroes, ones, addresses, random data. What was there is put
    /// back, also if this is interrupted or killed, and if the device that has the memory goes
    /// away. It is LOST if the power fails, or the drive does.
    #[arg(long)]
    write: bool,
    /// Start of the random data. Default: at random.
    #[arg(long)]
    seed: Option<u64>,
    /// Write to a block device even if it is in use, and go on even if a block device below DRIVE
    /// takes no device memory or does not reach it.
    #[arg(long)]
    force: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
struct Verified<'a> {
    drive: &'a Path,
    /// The node of the provider, or `host`.
    via: &'a Path,
    /// The PCI address of its device. Null for ordinary memory.
    pci: Option<PciAddress>,
    /// Whether what the CPU writes to the memory is there.
    memory: Option<bool>,
    /// Whether data gets from the drive to the memory.
    read: Option<bool>,
    /// Whether data gets from the memory to the drive. Null without --write.
    write: Option<bool>,
    #[serde(flatten)]
    report: &'a VerifyReport,
}

/// Verifies, and says which direction works.
pub fn run(arguments: &Arguments) -> Result<()> {
    let Arguments {
        drive,
        via,
        size,
        offset,
        write,
        seed,
        force,
        json,
    } = arguments;

    let plan = VerifyPlan {
        offset: *offset,
        bytes: *size,
        write: *write,
        seed: seed.unwrap_or_else(|| fastrand::u64(..)),
    };
    let via = open_memory(&Root::default(), via.as_deref())?;
    let preflight = Preflight::new(&via)?;
    if drive.exists() && !force {
        or_force(preflight.check(drive, true))?;
    }
    let source = if *write && drive.exists() {
        open_destination(drive, *force)?
    } else {
        DirectFile::source(drive)?
    };
    let stop = interrupt::flag()?;
    let report = verify(&source, &via, &plan, preflight.fabric(), &stop)?;

    let unproven = preflight.unproven(drive)?;
    let failure = report.failure().map(|check| {
        let probable = match check.is_wrong() {
            true => iommu(&unproven),
            false => String::new(),
        };
        anyhow!(
            "{} and {} do not reach each other, {}: {}{probable}",
            drive.display(),
            via.device().unwrap_or_else(|| "ordinary memory".to_owned()),
            way(check.direction),
            match &check.verdict {
                // The reason is in the table, or in the JSON.
                DataVerdict::Refused { .. } =>
                    format!("refused: {}", cause(&preflight, &[&source])),
                _ => outcome(check),
            }
        )
    });

    if *json {
        let verified = Verified {
            drive,
            via: via.path(),
            pci: via.pci(),
            memory: report.works(VerifyDirection::Memory),
            read: report.works(VerifyDirection::Read),
            write: report.works(VerifyDirection::Write),
            report: &report,
        };
        output::print("verify", &verified, failure)?;
    } else {
        terminal::print(&text(&report))?;
        failure.map_or(Ok(()), Err)?;
    }
    if report.interrupted {
        interrupt::exit();
    }
    Ok(())
}

fn text(report: &VerifyReport) -> String {
    let mut text = String::new();
    let mut reasons = Vec::new();
    let rows = groups(report).into_iter().map(|group| {
        let result = match &group.first.verdict {
            DataVerdict::Refused { reason } => {
                let known = reasons.iter().position(|other| other == reason);
                let index = known.unwrap_or_else(|| {
                    reasons.push(reason.clone());
                    reasons.len() - 1
                });
                format!("refused [{}]", index + 1)
            }
            _ => outcome(group.first),
        };
        let memory = match group.first.io {
            Io::Pread | Io::Uring => "mapped",
            Io::UringFixed => "registered",
        };
        vec![
            way(group.first.direction).to_owned(),
            memory.to_owned(),
            group.data.join(", "),
            result,
        ]
    });
    text += &table::render(&["DIRECTION", "MEMORY", "DATA", "RESULT"], rows, None);
    for (number, reason) in (1..).zip(reasons) {
        let _ = writeln!(text, "[{number}] {reason}");
    }
    for (direction, untried) in [
        (VerifyDirection::Read, ""),
        (VerifyDirection::Write, ": it takes --write"),
    ] {
        let result = match report.works(direction) {
            Some(true) => "works",
            Some(false) => "does not work",
            None => "was not tried",
        };
        let why = match report.works(direction) {
            None if !report.interrupted => untried,
            _ => "",
        };
        let _ = writeln!(text, "{} {result}{why}", way(direction));
    }
    if report.slot_refused {
        let _ = writeln!(
            text,
            "registered memory was not tried: it needs CAP_SYS_RAWIO, see p2pmem config --slots"
        );
    }
    if let Some(reason) = &report.members_unknown {
        let _ = writeln!(
            text,
            "members of the array were not read one by one: {reason}"
        );
    }
    if report.uniform && report.works(VerifyDirection::Write).is_none() {
        let _ = writeln!(
            text,
            "all bytes of the drive are the same, which proves little: say --write, or choose \
             another --offset"
        );
    }
    let _ = writeln!(
        text,
        "{} at {}, seed {}{}",
        size::format(report.bytes),
        report.offset,
        report.seed,
        if report.interrupted {
            ", interrupted"
        } else {
            ""
        }
    );
    text
}

/// Checks that had the same result.
struct Group<'a> {
    first: &'a VerifyCheck,
    /// Data of each.
    data: Vec<&'static str>,
}

/// Puts together what differs in the data only, in the order of the first of each.
fn groups(report: &VerifyReport) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for check in &report.checks {
        let data = match check.data {
            Data::Found => "of the drive",
            Data::Zeroes => "zeroes",
            Data::Ones => "ones",
            Data::Address => "addresses",
            Data::Random => "random",
        };
        let is_same = |other: &VerifyCheck| {
            (other.direction, other.io) == (check.direction, check.io)
                && (&other.member, &other.verdict) == (&check.member, &check.verdict)
        };
        match groups.iter_mut().find(|group| is_same(group.first)) {
            Some(group) => group.data.push(data),
            None => groups.push(Group {
                first: check,
                data: vec![data],
            }),
        }
    }
    groups
}

fn way(direction: VerifyDirection) -> &'static str {
    match direction {
        VerifyDirection::Memory => "CPU to memory",
        VerifyDirection::Read => "drive to memory",
        VerifyDirection::Write => "memory to drive",
    }
}

/// Says that an IOMMU is probably the cause of lost data, if it can be.
fn iommu(unproven: &[String]) -> String {
    if unproven.is_empty() {
        return String::new();
    }
    "; probably the IOMMU is the cause: it translates, and does not know the addresses that are used \
     below a switch"
        .to_owned()
}

fn outcome(check: &VerifyCheck) -> String {
    let member = check.member.as_ref();
    let member = member.map_or(String::new(), |name| format!("on member {name}: "));
    let outcome = match &check.verdict {
        DataVerdict::Equal => "equal".to_owned(),
        DataVerdict::Stale { offset } => {
            format!("stale: what belongs at offset {offset} did not arrive")
        }
        DataVerdict::AllOnes { offset } => {
            format!("all ones at offset {offset}: no device answers")
        }
        DataVerdict::Garbage { offset } => format!("garbage at offset {offset}"),
        DataVerdict::Refused { reason } => reason.clone(),
    };
    member + &outcome
}
