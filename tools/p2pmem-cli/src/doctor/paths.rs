// SPDX-License-Identifier: GPL-2.0

//! Checks of files, directories and block devices.

use p2pmem::fabric::{DirectIo, Fabric, Handling, Prospect, Stack};

use super::{
    check::{Check, Status},
    ways::{cure, reached, Ways},
};

/// Checks whether all paths reach the same memory, if there are several.
pub fn together(ways: &Ways, stacks: &[(&str, Stack)]) -> Option<Check> {
    // Faults of a single one were reported already.
    let takes_none =
        |(_, stack): &(&str, Stack)| stack.functions.is_empty() || stack.refusal.is_some();
    if stacks.len() < 2 || stacks.iter().any(takes_none) {
        return None;
    }
    let all = || stacks.iter().flat_map(|(_, stack)| &stack.functions);
    let common: Vec<_> = ways
        .providers()
        .into_iter()
        .filter(|&number| all().all(|function| ways.works(number, *function)))
        .map(|number| format!("/dev/p2pmem{number}"))
        .collect();
    let alone = |(_, stack): &(&str, Stack)| {
        ways.best(&stack.functions)
            .is_some_and(|best| best.reach.works() == Some(true))
    };
    const NAME: &str = "all paths";
    if !common.is_empty() {
        let found = format!("reach {}", common.join(", "));
        return Some(Check::new(NAME, Status::Ok, found));
    }
    stacks.iter().all(alone).then(|| {
        Check::new(NAME, Status::Problem, "reach no memory that is the same")
            .because("Each reaches another provider: nothing can be copied between them.")
            .cured_by(
                "See the drives above. `p2pmem copy --via none` copies through ordinary memory.",
            )
    })
}

/// Command that shows what the tables do not know.
const TRY: &str = "p2pmem doctor --try FILE";

/// Checks what is below a path, and whether that reaches memory.
pub fn block_stack(fabric: &Fabric, ways: &Ways, path: &str, stack: &Stack) -> Check {
    let found = match &*stack.description {
        "" => "neither mounted nor a block device in sysfs",
        description => description,
    };
    let check = |status| Check::new(path, status, found);
    match stack.handling() {
        Handling::FileSystemRefuses(why) => {
            let error = stack.direct_io.map_or("", DirectIo::error);
            check(Status::Problem)
                .because(format!(
                    "{why}; direct reads into mapped memory fail with {error}."
                ))
                .cured_by("Use ext4 or XFS on an NVMe drive of this machine.")
        }
        Handling::Copied => check(Status::Warning)
            .because("The files are in host memory, and the CPU copies: no device does DMA.")
            .cured_by("Use a file system on an NVMe drive."),
        Handling::Layered => check(Status::Unknown)
            .because("Direct I/O goes on to the file system of one of the layers.")
            .cured_by(format!(
                "Name the directory of the upper layer, which /proc/self/mountinfo shows, or a \
                 file: {TRY}."
            )),
        Handling::NoDevice => check(Status::Unknown)
            .because("There is no block device below it that could be looked at.")
            .cured_by(format!(
                "Name a file on a local file system, or a block device, or try it: {TRY}."
            )),
        Handling::DeviceRefuses(why) => check(Status::Problem)
            .because(format!(
                "{why}; direct I/O with mapped memory fails with EREMOTEIO. Memory in a slot of an \
                 io_uring is not refused, and data may be lost."
            ))
            .cured_by(
                "Put the data on an NVMe drive, a partition of one, or md raid0, raid1 or raid10 of \
                 NVMe drives that all reach the memory.",
            ),
        Handling::UnknownFileSystem => check(Status::Unknown)
            .because("It is not known how this file system does direct I/O.")
            .cured_by(format!("Try it with a file: {TRY}.")),
        Handling::Passed => reach(fabric, ways, path, stack, found),
    }
}

/// Checks whether the drives below a path reach memory.
fn reach(fabric: &Fabric, ways: &Ways, path: &str, stack: &Stack, found: &str) -> Check {
    let unknown = || {
        Check::new(path, Status::Unknown, found)
            .because(
                "All block devices take device memory; no provider tells the way to the drive.",
            )
            .cured_by("See the checks of the module and the providers.")
    };
    let Some(verdict) = ways.best(&stack.functions) else {
        return unknown();
    };
    let mut providers = fabric.providers.iter();
    let Some(provider) = providers.find(|one| one.id.number == verdict.provider) else {
        return unknown();
    };
    let found_way = || format!("{found}; {}", reached(verdict));
    match fabric.prospect(stack, provider) {
        Prospect::Works if stack.direct_io == Some(DirectIo::Checksummed) => {
            Check::new(path, Status::Warning, found_way())
                .because(
                    "The CPU copies what is written to files with checksums or several copies, and \
                     checks what is read.",
                )
                .cured_by(
                    "Turn checksums off for new files (chattr +C DIRECTORY), or use ext4 or XFS.",
                )
        }
        Prospect::Works => Check::new(path, Status::Ok, found_way()),
        Prospect::Unproven => {
            let drives = fabric.unproven(stack, provider);
            let drive = drives.first().copied().unwrap_or_default();
            Check::new(path, Status::Warning, found_way())
                .because(format!(
                    "An IOMMU translates the addresses of {drive}: some machines lose that data, and \
                     report success."
                ))
                .cured_by(format!("Prove that data arrives: p2pmem verify, or {TRY}."))
        }
        Prospect::Fails(_) => Check::new(path, Status::Problem, found)
            .because(format!(
                "{} does not reach /dev/p2pmem{}: {}; {}",
                verdict.client,
                verdict.provider,
                verdict.why,
                if fabric.is_redundant(stack) {
                    "writes may succeed all the same, and leave OLD DATA on that drive; reads may fail."
                } else {
                    "direct I/O fails with EINVAL."
                }
            ))
            .cured_by(cure(verdict)),
        Prospect::Unknown => unknown(),
    }
}
