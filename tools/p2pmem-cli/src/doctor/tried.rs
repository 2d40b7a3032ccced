// SPDX-License-Identifier: GPL-2.0

//! Results of small direct reads into device memory, beside the expectation.

use serde::Serialize;

use super::check::{Check, Status};
use p2pmem::{
    fabric::{Fabric, Obstacle, ObstacleKind, Prospect, ProviderRecord, Stack},
    size, PciAddress,
};

use crate::{
    trial::{Outcome, Trial, Untried},
    verify::DataVerdict,
};

/// A read, and what was expected of it.
#[derive(Clone, Debug, Serialize)]
pub struct Tried {
    /// The path that was named.
    pub path: String,
    /// The path that was read, or a drive below it.
    pub file: String,
    /// The node of the provider.
    pub via: String,
    /// The address of its PCI function.
    pub pci: PciAddress,
    /// Expectation of the tables: `works`, `unproven`, `fails`, `unknown`.
    pub expected: String,
    /// Why it should fail.
    pub why: Option<String>,
    /// Result.
    #[serde(flatten)]
    pub trial: Trial,
    /// Whether it is on several drives, one of which does not reach the memory.
    #[serde(skip)]
    is_partly: bool,
    #[serde(skip)]
    is_array: bool,
}

impl Tried {
    /// Puts a read of `file` beside what is known of its stack.
    pub fn new(
        fabric: &Fabric,
        stack: &Stack,
        provider: &ProviderRecord,
        path: &str,
        file: &str,
        trial: Trial,
    ) -> Self {
        let prospect = fabric.prospect(stack, provider);
        let expected = prospect.to_string();
        let not_reached = matches!(
            &prospect,
            Prospect::Fails(Obstacle {
                kind: ObstacleKind::NotReached,
                ..
            })
        );
        Self {
            path: path.to_owned(),
            file: file.to_owned(),
            via: provider.node(),
            pci: provider.id.pci,
            expected,
            why: match prospect {
                Prospect::Fails(obstacle) => Some(obstacle.why),
                _ => None,
            },
            trial,
            is_partly: not_reached && stack.drives(fabric).len() > 1,
            is_array: stack
                .devices
                .iter()
                .filter_map(|name| fabric.block_device(name))
                .any(|device| device.is_stacked()),
        }
    }

    fn arrived(&self) -> bool {
        self.trial.outcome == Outcome::Read(DataVerdict::Equal)
    }

    fn range(&self) -> String {
        format!(
            "{} at {}",
            size::format(self.trial.bytes),
            self.trial.offset
        )
    }

    /// Reports it. `elsewhere` is whether the same path works with other memory.
    fn check(&self, elsewhere: bool) -> Check {
        let name = format!("try {}", self.file);
        let check =
            |status, found: &str| Check::new(&name, status, format!("into {}: {found}", self.via));
        let why = self.why.as_deref();
        let lost = |found: &str| {
            check(Status::Problem, found)
                .because("The read reported success, and other data arrived than the drive has.")
                .cured_by(format!(
                    "Do not use this memory with it. `p2pmem verify {}` tells more.",
                    self.file
                ))
        };
        match &self.trial.outcome {
            Outcome::Untried(Untried { reason }) => check(Status::Unknown, "was not tried")
                .because(format!("{reason}."))
                .cured_by("Name a file with data, or a block device, that you may read."),
            Outcome::Read(DataVerdict::Equal) => {
                let note = match self.trial.uniform {
                    true => "; all of its bytes are the same, which proves less",
                    false => "",
                };
                let found = format!("{} arrived{note}", self.range());
                match why {
                    // Another one was read.
                    Some(why) if self.is_partly => check(Status::Warning, &found)
                        .because(format!("It has another drive: {why}."))
                        .cured_by("See the check of the path."),
                    Some(why) => check(Status::Warning, &found)
                        .because(format!("It was expected to fail: {why}."))
                        .cured_by("Report what `p2pmem topo --record FILE` writes."),
                    None => check(Status::Ok, &found),
                }
            }
            Outcome::Read(DataVerdict::Refused { reason }) => {
                let status = if elsewhere {
                    Status::Warning
                } else {
                    Status::Problem
                };
                let refused = check(status, &format!("refused: {reason}"));
                match why {
                    Some(why) => refused
                        .because(format!("{why}."))
                        .cured_by("See the check of the path."),
                    None if self.is_array => refused
                        .because(
                            "A running array goes on to refuse when a member that takes no device \
                             memory was taken out of it.",
                        )
                        .cured_by("Stop the array and assemble it again without those members."),
                    None => refused
                        .because("Nothing is known that is in the way.")
                        .cured_by(
                            "See the kernel's log, and p2pmem doctor --errno with that error.",
                        ),
                }
            }
            Outcome::Read(DataVerdict::Stale { .. }) => lost("the data did not arrive"),
            Outcome::Read(DataVerdict::AllOnes { .. }) => {
                lost("all ones arrived: no device answers")
            }
            Outcome::Read(DataVerdict::Garbage { .. }) => lost("garbage arrived"),
        }
    }
}

/// Reports reads.
pub fn tried(all: &[Tried]) -> Vec<Check> {
    all.iter()
        .map(|one| {
            let elsewhere = all
                .iter()
                .any(|other| other.file == one.file && other.arrived());
            one.check(elsewhere)
        })
        .collect()
}
