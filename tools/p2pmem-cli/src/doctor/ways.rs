// SPDX-License-Identifier: GPL-2.0

//! Routes between devices and memory.

use p2pmem::{
    fabric::{Fabric, ProviderRecord, Reach, Verdict},
    PciAddress,
};

/// Checks which device reaches which memory.
pub struct Ways {
    /// For each provider that tells, each function.
    pub verdicts: Vec<Verdict>,
}

impl Ways {
    pub fn new(fabric: &Fabric) -> Self {
        let telling = fabric.providers.iter().filter(|one| one.routes.is_some());
        Self {
            verdicts: telling.flat_map(|one| fabric.verdicts(one)).collect(),
        }
    }

    /// Returns the verdicts on drives that take device memory.
    pub fn of_drives<'a>(&'a self, fabric: &'a Fabric) -> impl Iterator<Item = &'a Verdict> {
        self.verdicts.iter().filter(|verdict| {
            fabric
                .drives_of(verdict.client)
                .any(|drive| drive.refusal().is_none())
        })
    }

    /// Returns the verdicts on a provider.
    pub fn of<'a>(&'a self, provider: &'a ProviderRecord) -> impl Iterator<Item = &'a Verdict> {
        self.verdicts
            .iter()
            .filter(|verdict| verdict.provider == provider.id.number)
    }

    /// Returns the numbers of the providers that tell.
    pub fn providers(&self) -> Vec<u32> {
        let mut numbers: Vec<_> = self.verdicts.iter().map(|one| one.provider).collect();
        numbers.dedup();
        numbers
    }

    /// Returns whether a function reaches a provider.
    pub fn works(&self, provider: u32, function: PciAddress) -> bool {
        self.verdicts.iter().any(|one| {
            one.provider == provider && one.client == function && one.reach.works() == Some(true)
        })
    }

    /// Returns the verdicts on these functions and memory that is not their own.
    pub fn others<'a>(&'a self, functions: &'a [PciAddress]) -> impl Iterator<Item = &'a Verdict> {
        self.verdicts
            .iter()
            .filter(|one| functions.contains(&one.client) && one.reach != Reach::Own)
    }

    /// Returns the best verdict on all of these functions that a single provider allows: that on
    /// the function that is worst off.
    pub fn best(&self, functions: &[PciAddress]) -> Option<&Verdict> {
        self.providers()
            .into_iter()
            .filter_map(|number| {
                self.verdicts
                    .iter()
                    .filter(|one| one.provider == number && functions.contains(&one.client))
                    .max_by_key(|one| badness(one.reach))
            })
            .min_by_key(|one| badness(one.reach))
    }
}

fn badness(reach: Reach) -> u32 {
    match reach {
        Reach::Switch => 0,
        Reach::HostBridge => 1,
        // Of no use to others.
        Reach::Own => 2,
        Reach::Unknown => 3,
        Reach::None => 4,
    }
}

/// Says why a provider is not reached.
pub fn refused(verdict: &Verdict) -> String {
    format!("/dev/p2pmem{}: {}", verdict.provider, verdict.why)
}

/// Says how a provider is reached.
pub fn reached(verdict: &Verdict) -> String {
    format!(
        "reaches /dev/p2pmem{} ({}): {}",
        verdict.provider, verdict.reach, verdict.why
    )
}

/// The check that speaks of ports that redirect.
pub const ACS: &str = "ACS";

/// Says what to do about a verdict: the cure for ports that redirect is that of all of them.
pub fn cure(verdict: &Verdict) -> String {
    if verdict.acs.is_empty() {
        verdict.cure.clone()
    } else {
        format!("See {ACS}.")
    }
}
