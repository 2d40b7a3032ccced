// SPDX-License-Identifier: GPL-2.0

//! Checks who is isolated from whom: IOMMU groups, and requests with translated addresses (ATS).

use super::{
    check::{Check, Status},
    ways::Ways,
};
use p2pmem::{
    fabric::{Acs, Fabric, Function, ProviderRecord, Reach, Translation, Verdict},
    PciAddress,
};

/// Checks for each provider which devices reach it without passing the IOMMU.
pub(super) fn groups(fabric: &Fabric, ways: &Ways) -> Vec<Check> {
    if fabric.translation() == Translation::Off {
        return Vec::new();
    }
    let telling = fabric.providers.iter().filter(|one| one.routes.is_some());
    telling
        .filter_map(|provider| group(fabric, ways, provider))
        .collect()
}

fn group(fabric: &Fabric, ways: &Ways, provider: &ProviderRecord) -> Option<Check> {
    let name = format!("p2pmem{} group", provider.id.number);
    let group_of = |address: PciAddress| Some(fabric.function(address)?.iommu.as_ref()?.group);
    let own = group_of(provider.id.pci)?;
    let peers: Vec<_> = ways
        .of(provider)
        .filter(|verdict| verdict.reach == Reach::Switch)
        .collect();
    let listed = |peers: &[&Verdict]| {
        let words = peers.iter().map(|peer| {
            let group = group_of(peer.client).map_or("none".to_owned(), |one| one.to_string());
            format!("{} (group {group})", peer.client)
        });
        words.collect::<Vec<_>>().join(", ")
    };
    if peers.is_empty() {
        let found = format!("IOMMU group {own}; no device reaches it but by the root complex");
        return Some(Check::new(name, Status::Ok, found));
    }

    let others: Vec<_> = peers
        .iter()
        .filter(|peer| group_of(peer.client) != Some(own))
        .copied()
        .collect();
    let cause = "No port on the way redirects: their requests do not pass the IOMMU, \
                 in any domain.";
    if others.is_empty() {
        let found = format!("IOMMU group {own}, with {}", listed(&peers));
        return Some(Check::new(name, Status::Ok, found).because(format!(
            "{cause} All belong to one virtual machine or to none."
        )));
    }
    Some(
        Check::new(
            name,
            Status::Warning,
            format!(
                "IOMMU group {own}, but other groups reach it: {}",
                listed(&others)
            ),
        )
        .because(cause)
        .cured_by(
            "Give all of them to one virtual machine or to none, though their groups differ. If they \
             are to be isolated, use a switch whose ports redirect (ACS P2P Request Redirect).",
        ),
    )
}

/// Describes a function for a list.
fn named(function: &Function) -> String {
    match &function.driver {
        Some(driver) => format!("{} ({driver})", function.address),
        None => function.address.to_string(),
    }
}

/// Checks which devices ask for translated addresses, and what becomes of their requests.
pub(super) fn translated_requests(fabric: &Fabric, ways: &Ways) -> Option<Check> {
    const NAME: &str = "ATS";
    let having = |wanted: fn(&Function) -> Option<bool>, enabled: bool| {
        let functions = fabric.functions.iter();
        functions
            .filter(|function| wanted(function) == Some(enabled))
            .map(named)
            .collect::<Vec<_>>()
            .join(", ")
    };
    // Whether all of it was reported is known by the ports: there is one above any device that has
    // ATS.
    let reported = fabric
        .functions
        .iter()
        .any(|function| function.acs.is_some());
    let mut found = Vec::new();
    for (name, wanted) in [
        (NAME, (|one| one.ats) as fn(&Function) -> Option<bool>),
        ("PASID", |one| one.pasid),
        ("PRI", |one| one.pri),
    ] {
        for (enabled, word) in [(true, "on"), (false, "off")] {
            let list = having(wanted, enabled);
            if !list.is_empty() {
                let name = if name == NAME {
                    String::new()
                } else {
                    format!("{name} ")
                };
                found.push(format!("{name}{word}: {list}"));
            }
        }
    }
    if found.is_empty() {
        return reported.then(|| Check::new(NAME, Status::Ok, "no device has it"));
    }
    let found = found.join("; ");

    let enabled: Vec<_> = fabric
        .functions
        .iter()
        .filter(|function| function.ats == Some(true))
        .collect();
    if enabled.is_empty() {
        return Some(Check::new(NAME, Status::Ok, found));
    }
    if let Some((function, port, acs)) = blocked(fabric, &enabled) {
        return Some(
            Check::new(NAME, Status::Problem, found)
                .because(format!(
                    "Port {port} has ACS Translation Blocking on: it refuses the requests of {} with \
                     translated addresses.",
                    function.address
                ))
                .cured_by(format!(
                    "Boot with `pci=config_acs={}@{port}` to let them pass, or with `pci=noats` to have \
                     none.",
                    acs.not_blocking()
                )),
        );
    }
    let mut cause =
        "The IOMMU does not check requests with addresses that it translated before: these \
                     devices are trusted."
            .to_owned();
    for (word, list) in [
        (
            "go straight to the memory",
            peers(fabric, ways, &enabled, true),
        ),
        (
            "are redirected to the root complex as all others",
            peers(fabric, ways, &enabled, false),
        ),
    ] {
        if !list.is_empty() {
            cause += &format!(" Those requests of {list} {word}.");
        }
    }
    Some(Check::new(NAME, Status::Ok, found).because(cause))
}

/// Returns a function whose translated requests a port above it refuses, that port, and its ACS.
fn blocked<'a>(
    fabric: &'a Fabric,
    enabled: &[&'a Function],
) -> Option<(&'a Function, PciAddress, &'a Acs)> {
    enabled.iter().find_map(|&function| {
        let mut ports = fabric.way_up(function.address).skip(1);
        ports.find_map(|port| {
            let acs = port.acs.as_ref()?;
            acs.blocks_translated()
                .then_some((function, port.address, acs))
        })
    })
}

/// Lists those whose translated requests go straight to the memory of a provider, below a port that
/// is above both, or those whose are redirected. That is for the ports above the client to say.
fn peers(fabric: &Fabric, ways: &Ways, enabled: &[&Function], straight: bool) -> String {
    let redirects = |verdict: &Verdict| {
        let mut ports = fabric.way_up(verdict.client).skip(1);
        ports.any(|port| {
            verdict.acs.iter().any(|one| one.port == port.address)
                && port.acs.as_ref().is_none_or(|acs| !acs.passes_translated())
        })
    };
    let mut list: Vec<_> = ways
        .verdicts
        .iter()
        .filter(|verdict| enabled.iter().any(|one| one.address == verdict.client))
        .filter(|verdict| match verdict.reach {
            Reach::Switch => straight,
            Reach::HostBridge | Reach::None if !verdict.acs.is_empty() => {
                redirects(verdict) != straight
            }
            _ => false,
        })
        .map(|verdict| format!("{} to /dev/p2pmem{}", verdict.client, verdict.provider))
        .collect();
    list.dedup();
    list.join(", ")
}
