// SPDX-License-Identifier: GPL-2.0

//! Checks of the IOMMU and of ports that redirect.

use p2pmem::fabric::{Fabric, Reach, Translation};

use super::{
    check::{Check, Status},
    ways::{Ways, ACS},
};
use crate::topo;

pub fn iommu(fabric: &Fabric, ways: &Ways) -> Check {
    let reaches = |reach| ways.verdicts.iter().any(|one| one.reach == reach);
    let translation = fabric.translation();
    let found = topo::translation(
        translation,
        reaches(Reach::Switch),
        reaches(Reach::HostBridge),
    );
    if translation == Translation::On && reaches(Reach::Switch) {
        let mut drives: Vec<_> = ways
            .of_drives(fabric)
            .filter(|verdict| verdict.reach == Reach::Switch && fabric.translates(verdict.client))
            .flat_map(|verdict| &verdict.drives)
            .map(|drive| format!("/dev/{drive}"))
            .collect();
        drives.sort();
        drives.dedup();
        let drives = match &drives[..] {
            [] => "DRIVE".to_owned(),
            drives => drives.join(", "),
        };
        return Check::new("IOMMU", Status::Warning, found)
            .because(
                "Some machines send what should turn around in the switch through the IOMMU: the data is \
                 lost, and no error is reported.",
            )
            .cured_by(format!(
                "Prove with data that it arrives: p2pmem verify --write, on {drives}. If it is lost, boot \
                 with `iommu.passthrough=1`."
            ));
    }
    Check::new("IOMMU", Status::Ok, found)
}

pub fn acs(fabric: &Fabric, ways: &Ways) -> Check {
    if ways.verdicts.is_empty() {
        return Check::new(
            ACS,
            Status::Unknown,
            "no provider tells which ports redirect",
        );
    }
    let redirected: Vec<_> = ways
        .of_drives(fabric)
        .filter(|verdict| matches!(verdict.reach, Reach::HostBridge | Reach::None))
        .filter(|verdict| !verdict.acs.is_empty())
        .collect();
    let ports = || redirected.iter().flat_map(|verdict| &verdict.acs);
    let mut found: Vec<_> = ports()
        .map(|port| format!("{} ({})", port.port, port.controls().join(", ")))
        .collect();
    found.sort();
    found.dedup();
    if found.is_empty() {
        return Check::new(
            ACS,
            Status::Ok,
            "no port between providers and drives redirects",
        );
    }

    let refused = redirected
        .iter()
        .any(|verdict| verdict.reach == Reach::None);
    let (status, reach, effect) = if refused {
        (
            Status::Problem,
            Reach::None,
            "and Linux does not let it forward them",
        )
    } else {
        (
            Status::Warning,
            Reach::HostBridge,
            "which is a longer way than the switch",
        )
    };
    Check::new(ACS, status, found.join("; "))
        .because(format!(
            "These ports send peer-to-peer requests up to the root complex, {effect}."
        ))
        .cured_by(fabric.acs_cure(reach, ports()))
}
