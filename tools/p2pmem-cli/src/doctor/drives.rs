// SPDX-License-Identifier: GPL-2.0

//! Checks of drives.

use p2pmem::{
    fabric::{BlockDevice, Fabric, Reach, Verdict},
    PciAddress,
};

use super::{
    check::{Check, Status},
    ways::{cure, reached, refused, Ways},
};

/// Checks each drive that takes device memory. If some drives reach memory, the others are not a
/// problem: they may be there for something else.
pub fn drives(fabric: &Fabric, ways: &Ways) -> Vec<Check> {
    let works = |verdict: &Verdict| verdict.reach.works() == Some(true);
    let some_work = ways.of_drives(fabric).any(works);
    let all: Vec<_> = takers(fabric).collect();
    // Whether another drive reaches the memory of this one.
    let shared = |own: &Verdict| {
        ways.of_drives(fabric)
            .any(|one| one.provider == own.provider && one.reach != Reach::Own && works(one))
    };

    all.iter()
        .map(|drive| {
            let name = format!("drive {}", drive.name);
            match ways.best(&drive.functions) {
                Some(own) if own.reach == Reach::Own && all.len() > 1 && !shared(own) => {
                    let found = format!("reaches only its own memory, /dev/p2pmem{}", own.provider);
                    let check = Check::new(name, Status::Warning, found);
                    match ways.others(&drive.functions).next() {
                        Some(other) => check.because(refused(other)).cured_by(cure(other)),
                        None => check.because("There is no other provider."),
                    }
                }
                Some(verdict) if works(verdict) => Check::new(name, Status::Ok, reached(verdict)),
                Some(verdict) if verdict.reach == Reach::None => {
                    let status = if some_work {
                        Status::Warning
                    } else {
                        Status::Problem
                    };
                    Check::new(name, status, "reaches no provider")
                        .because(refused(verdict))
                        .cured_by(cure(verdict))
                }
                _ => Check::new(name, Status::Unknown, "no provider tells the way to it"),
            }
        })
        .collect()
}

/// Returns the drives that take device memory.
fn takers(fabric: &Fabric) -> impl Iterator<Item = &BlockDevice> {
    fabric
        .block_devices
        .iter()
        .filter(|device| !device.functions.is_empty() && device.refusal().is_none())
}

/// Checks whether any two drives reach the same memory: only then something can be copied between
/// them.
pub fn pairs(fabric: &Fabric, ways: &Ways) -> Option<Check> {
    const NAME: &str = "copies";
    let all: Vec<_> = takers(fabric).collect();
    let reaching = |number: u32| {
        let works = |function: &PciAddress| ways.works(number, *function);
        let drives = all.iter().filter(|one| one.functions.iter().all(works));
        drives.map(|one| one.name.as_str()).collect::<Vec<_>>()
    };
    let known = ways.verdicts.iter().any(|one| one.reach != Reach::Unknown);
    if all.len() < 2 || !known {
        return None;
    }

    let numbers = ways.providers();
    let between: Vec<_> = numbers
        .iter()
        .map(|&number| (number, reaching(number)))
        .filter(|(_, drives)| drives.len() > 1)
        .map(|(number, drives)| format!("{} through /dev/p2pmem{number}", drives.join(", ")))
        .collect();
    if !between.is_empty() {
        return Some(Check::new(NAME, Status::Ok, between.join("; ")));
    }
    // That none reaches anything is said already.
    let some = numbers.iter().any(|&number| !reaching(number).is_empty());
    let other = ways
        .of_drives(fabric)
        .any(|one| matches!(one.reach, Reach::Switch | Reach::HostBridge));
    some.then(|| {
        let status = if other {
            Status::Warning
        } else {
            Status::Problem
        };
        Check::new(NAME, status, "no two drives reach the same memory")
            .because("A copy through device memory needs memory that both drives reach.")
            .cured_by(
                "See the drives above. `p2pmem copy --via none` copies through ordinary memory.",
            )
    })
}
