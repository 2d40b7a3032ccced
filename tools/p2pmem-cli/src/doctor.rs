// SPDX-License-Identifier: GPL-2.0

//! Checks what peer-to-peer DMA needs: kernel, module, providers, ports, drives, files.
//!
//! All checks are made on a [`Fabric`], so that they can be made for a recorded machine as well.

mod errno;
mod isolation;
mod memory;
mod tried;

use std::fmt;

use rustix::param::page_size;
use serde::Serialize;

pub use errno::{explain, Explanation};
use p2pmem::{
    fabric::{
        BlockDevice, DirectIo, Fabric, Function, Provider, Reach, Stack, Target, Translation,
        Verdict,
    },
    size,
};
pub use tried::{tried, Tried};

use crate::{table, topo};

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Something works, but not as well as it could, or not everywhere.
    Warning,
    /// Something does not work.
    Problem,
    /// It cannot be told.
    Unknown,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
            Self::Unknown => "unknown",
        })
    }
}

/// A check that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Subject of the check.
    pub name: String,
    /// How it went.
    pub status: Status,
    /// Finding.
    pub found: String,
    /// Why it is so; empty where nothing is to be explained.
    pub cause: String,
    /// Cure; empty if none is needed.
    pub cure: String,
}

impl Check {
    fn new(name: impl Into<String>, status: Status, found: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            status,
            found: found.into(),
            cause: String::new(),
            cure: String::new(),
        }
    }

    fn because(mut self, cause: impl Into<String>) -> Self {
        self.cause = cause.into();
        self
    }

    fn cured_by(mut self, cure: impl Into<String>) -> Self {
        self.cure = cure.into();
        self
    }
}

/// Makes all checks, and one for each path, which is given with what it leads to.
pub fn examine(fabric: &Fabric, paths: &[(String, Target)]) -> Vec<Check> {
    let ways = Ways::new(fabric);
    let mut checks = vec![
        kernel_release(fabric),
        kernel_options(fabric),
        module(fabric),
        providers(fabric),
    ];
    checks.extend(fabric.providers.iter().map(permissions));
    checks.extend(fabric.providers.iter().map(pages));
    checks.extend(memory::unused(fabric));
    checks.extend(memory::decoding(fabric));
    checks.push(iommu(fabric, &ways));
    checks.push(acs(fabric, &ways));
    checks.extend(isolation::translated_requests(fabric, &ways));
    checks.extend(isolation::groups(fabric, &ways));
    checks.extend(drives(fabric, &ways));
    checks.extend(pairs(fabric, &ways));
    let stacks: Vec<_> = paths
        .iter()
        .map(|(path, target)| (path.as_str(), fabric.stack(target)))
        .collect();
    for (path, stack) in &stacks {
        checks.push(block_stack(fabric, &ways, path, stack));
    }
    checks.extend(together(&ways, &stacks));
    checks
}

/// Returns how many checks went so.
pub fn count(checks: &[Check], status: Status) -> usize {
    checks.iter().filter(|check| check.status == status).count()
}

/// Writes checks as text, in lines of at most `width` characters.
pub fn render(checks: &[Check], width: u16) -> String {
    let name = checks
        .iter()
        .map(|check| check.name.chars().count())
        .max()
        .unwrap_or(0);
    // Below what was found, unless a long name leaves little room for it.
    let indent = (9 + name + 2).min(usize::from(width) / 3);

    let mut text = String::new();
    for check in checks {
        let head = format!(
            "{:<7}  {:<name$}  {}",
            check.status, check.name, check.found
        );
        text += &table::wrap(&head, indent, width);
        for (what, explanation) in [("cause", &check.cause), ("cure", &check.cure)] {
            if !explanation.is_empty() {
                let line = format!("{:9}{what}: {explanation}", "");
                text += &table::wrap(&line, 11, width);
            }
        }
    }
    text + &format!(
        "\nproblems: {}, warnings: {}, unknown: {}\n",
        count(checks, Status::Problem),
        count(checks, Status::Warning),
        count(checks, Status::Unknown)
    )
}

fn kernel_release(fabric: &Fabric) -> Check {
    const LEAST: (u32, u32) = (7, 3);
    let release = &fabric.kernel.release;
    let mut numbers = release
        .split(|character: char| !character.is_ascii_digit())
        .map(str::parse);
    let version = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => {
            return Check::new("kernel", Status::Unknown, format!("release `{release}`"))
                .cured_by("Compare with 7.3 by hand: older kernels cannot load the module.")
        }
    };
    if version >= LEAST {
        return Check::new("kernel", Status::Ok, release);
    }
    Check::new("kernel", Status::Problem, release)
        .because(
            "Before 7.3 device files of Rust drivers do not hold their module: rmmod would crash.",
        )
        .cured_by("Boot a kernel of 7.3 or newer: Debian 13 has one in trixie-backports.")
}

fn kernel_options(fabric: &Fabric) -> Check {
    const NAME: &str = "kernel options";
    // It could not have been loaded otherwise.
    if fabric.kernel.module_loaded {
        return Check::new(
            NAME,
            Status::Ok,
            "the module is loaded, so they are as needed",
        );
    }
    let Some(config) = &fabric.kernel.config else {
        return Check::new(
            NAME,
            Status::Unknown,
            format!("there is no /boot/config-{}", fabric.kernel.release),
        )
        .cured_by(
            "See that the kernel has CONFIG_PCI_P2PDMA, CONFIG_RUST and CONFIG_ZONE_DEVICE.",
        );
    };
    let missing: Vec<_> = config
        .iter()
        .filter(|(_, value)| *value != "y")
        .map(|(option, _)| option.as_str())
        .collect();
    if missing.is_empty() {
        let all: Vec<_> = config.keys().map(String::as_str).collect();
        return Check::new(NAME, Status::Ok, all.join(", "));
    }
    Check::new(
        NAME,
        Status::Problem,
        format!("without {}", missing.join(", ")),
    )
    .because("The module is made of Rust, and of what these options build.")
    .cured_by("Boot a kernel that has them: Debian's stock 7.3 does.")
}

fn module(fabric: &Fabric) -> Check {
    const NAME: &str = "module";
    if !fabric.kernel.module_loaded {
        return Check::new(NAME, Status::Problem, "p2pmem_rs is not loaded")
            .cured_by("modprobe p2pmem_rs, or insmod build/module/p2pmem_rs.ko");
    }
    let version = fabric.kernel.module_version.as_deref();
    let Some((version, wanted)) = version.and_then(|version| version.split_once(' ')) else {
        let note = match version {
            Some(_) => "; it does not report which build of the kernel it is made for",
            None => "",
        };
        return Check::new(NAME, Status::Ok, format!("p2pmem_rs is loaded{note}"));
    };
    // Either the version of a package, which is a word of it, or all of it.
    let running = &fabric.kernel.build;
    if running == wanted || running.split_whitespace().any(|word| word == wanted) {
        let found = format!("p2pmem_rs {version} is loaded, made for this kernel ({wanted})");
        return Check::new(NAME, Status::Ok, found);
    }
    let found = format!("p2pmem_rs {version} is loaded, made for another kernel ({wanted})");
    Check::new(NAME, Status::Problem, found)
        .because(format!(
            "This one is `{running}`. It has the same release, by which alone the kernel compares: where \
             the two differ, the module writes to wrong places."
        ))
        .cured_by("Unload it, and build it for the kernel that is running, or boot the other one.")
}

fn providers(fabric: &Fabric) -> Check {
    const NAME: &str = "providers";
    if !fabric.providers.is_empty() {
        let all: Vec<_> = fabric
            .providers
            .iter()
            .map(|one| format!("{} ({}, {})", one.node(), one.pci, size::format(one.size)))
            .collect();
        return Check::new(NAME, Status::Ok, all.join(", "));
    }

    let (with_cmb, unbound): (Vec<&Function>, Vec<&Function>) = fabric
        .functions
        .iter()
        .filter(|function| function.could_provide())
        .partition(|function| function.cmb);
    if let Some(first) = unbound.first() {
        return Check::new(
            NAME,
            Status::Problem,
            format!("none, but unused memory: {}", memories(&unbound)),
        )
        .because("The module binds by itself only devices that it knows by their IDs.")
        .cured_by(format!(
            "Load the module, then, if it is this memory that you want: p2pmem bind {}",
            first.address
        ));
    }
    if !with_cmb.is_empty() {
        return Check::new(
            NAME,
            Status::Problem,
            format!("none, but drives with a CMB: {}", memories(&with_cmb)),
        )
        .because("The module adopts the CMB of a drive when it is loaded without adopt=0.")
        .cured_by("Load the module without adopt=0.");
    }
    let waiting: Vec<_> = memory::unused(fabric)
        .into_iter()
        .map(|check| check.name)
        .collect();
    if !waiting.is_empty() {
        let found = format!("none, but there is memory: see {}", waiting.join(", "));
        return Check::new(NAME, Status::Problem, found);
    }
    Check::new(
        NAME,
        Status::Problem,
        "none, and no device with memory that could be one",
    )
    .cured_by(
        "Add a device with a memory BAR, or an NVMe drive with a CMB or a PMR: a PMR of a drive \
         is registered on request by /sys/module/p2pmem_rs/regions.",
    )
}

/// Lists functions with the memory that they have.
fn memories(functions: &[&Function]) -> String {
    let words: Vec<_> = functions
        .iter()
        .map(|function| {
            let largest = function.bars.iter().max_by_key(|bar| bar.size);
            let bar = largest.map_or(String::new(), |bar| {
                format!(", BAR {} of {}", bar.number, size::format(bar.size))
            });
            format!(
                "{} ({}:{}{bar})",
                function.address, function.vendor, function.device
            )
        })
        .collect();
    words.join(", ")
}

fn permissions(provider: &Provider) -> Check {
    let node = provider.node();
    if provider.usable {
        return Check::new(&node, Status::Ok, "may be read and written");
    }
    Check::new(
        &node,
        Status::Problem,
        "may not be read and written by this user",
    )
    .because("A node is made for root only (mode 0600).")
    .cured_by(
        "Become root, or let a group in by a udev rule: \
             KERNEL==\"p2pmem*\", GROUP=\"disk\", MODE=\"0660\"",
    )
}

/// Reports the size of the pages that memory is mapped in.
fn pages(provider: &Provider) -> Check {
    let name = format!("p2pmem{} pages", provider.number);
    let base = || size::format(page_size() as u64);
    match provider.large_page {
        Some(large) if large > 0 => {
            let large = size::format(large);
            Check::new(
                name,
                Status::Ok,
                format!("{large} where a mapping is long enough, else {}", base()),
            )
        }
        Some(_) => Check::new(name, Status::Warning, base())
            .because(
                "This kernel has no large pages of device memory: mapping and direct I/O take more \
                 time.",
            )
            .cured_by(
                "Boot a kernel with CONFIG_TRANSPARENT_HUGEPAGE and CONFIG_FS_DAX: Debian's stock \
                 7.3 has both, its rt flavour does not.",
            ),
        None => Check::new(name, Status::Warning, base())
            .because("This version of the module does not map large pages.")
            .cured_by("Load a newer version of p2pmem_rs."),
    }
}

/// Checks which device reaches which memory.
struct Ways {
    /// For each provider that tells, each function.
    verdicts: Vec<Verdict>,
}

impl Ways {
    fn new(fabric: &Fabric) -> Self {
        let telling = fabric.providers.iter().filter(|one| one.routes.is_some());
        Self {
            verdicts: telling.flat_map(|one| fabric.verdicts(one)).collect(),
        }
    }

    /// Returns the verdicts on drives that take device memory.
    fn of_drives<'a>(&'a self, fabric: &'a Fabric) -> impl Iterator<Item = &'a Verdict> {
        self.verdicts.iter().filter(|verdict| {
            fabric
                .drives_of(&verdict.client)
                .any(|drive| drive.refusal().is_none())
        })
    }

    /// Returns the verdicts on a provider.
    fn of<'a>(&'a self, provider: &'a Provider) -> impl Iterator<Item = &'a Verdict> {
        self.verdicts
            .iter()
            .filter(|verdict| verdict.provider == provider.number)
    }

    /// Returns the numbers of the providers that tell.
    fn providers(&self) -> Vec<u32> {
        let mut numbers: Vec<_> = self.verdicts.iter().map(|one| one.provider).collect();
        numbers.dedup();
        numbers
    }

    /// Returns whether a function reaches a provider.
    fn works(&self, provider: u32, function: &str) -> bool {
        self.verdicts.iter().any(|one| {
            one.provider == provider && one.client == function && one.reach.works() == Some(true)
        })
    }

    /// Returns the verdicts on these functions and memory that is not their own.
    fn others<'a>(&'a self, functions: &'a [String]) -> impl Iterator<Item = &'a Verdict> {
        self.verdicts
            .iter()
            .filter(|one| functions.contains(&one.client) && one.reach != Reach::Own)
    }

    /// Returns the best verdict on all of these functions that a single provider allows: that on
    /// the function that is worst off.
    fn best(&self, functions: &[String]) -> Option<&Verdict> {
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

fn iommu(fabric: &Fabric, ways: &Ways) -> Check {
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
            .filter(|verdict| verdict.reach == Reach::Switch && fabric.translates(&verdict.client))
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

/// The check that speaks of ports that redirect.
const ACS: &str = "ACS";

fn acs(fabric: &Fabric, ways: &Ways) -> Check {
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

/// Says what to do about a verdict: the cure for ports that redirect is that of all of them.
fn cure(verdict: &Verdict) -> String {
    if verdict.acs.is_empty() {
        verdict.cure.clone()
    } else {
        format!("See {ACS}.")
    }
}

/// Checks each drive that takes device memory. If some drives reach memory, the others are not a
/// problem: they may be there for something else.
fn drives(fabric: &Fabric, ways: &Ways) -> Vec<Check> {
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
fn pairs(fabric: &Fabric, ways: &Ways) -> Option<Check> {
    const NAME: &str = "copies";
    let all: Vec<_> = takers(fabric).collect();
    let reaching = |number: u32| {
        let works = |function: &String| ways.works(number, function);
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

/// Checks whether all paths reach the same memory, if there are several.
fn together(ways: &Ways, stacks: &[(&str, Stack)]) -> Option<Check> {
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
        .filter(|&number| all().all(|function| ways.works(number, function)))
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

/// Says why a provider is not reached.
fn refused(verdict: &Verdict) -> String {
    format!("/dev/p2pmem{}: {}", verdict.provider, verdict.why)
}

/// Says how a provider is reached.
fn reached(verdict: &Verdict) -> String {
    format!(
        "reaches /dev/p2pmem{} ({}): {}",
        verdict.provider, verdict.reach, verdict.why
    )
}

/// Command that shows what the tables do not know.
const TRY: &str = "p2pmem doctor --try FILE";

fn block_stack(fabric: &Fabric, ways: &Ways, path: &str, stack: &Stack) -> Check {
    let found = match &*stack.description {
        "" => "neither mounted nor a block device in sysfs",
        description => description,
    };
    let check = |status| Check::new(path, status, found);

    if let Some(refusal) = stack.file_refusal() {
        let error = stack.direct_io.map_or("", DirectIo::error);
        return check(Status::Problem)
            .because(format!(
                "{refusal}; direct reads into mapped memory fail with {error}."
            ))
            .cured_by("Use ext4 or XFS on an NVMe drive of this machine.");
    }
    match stack.direct_io {
        Some(DirectIo::Copied) => {
            return check(Status::Warning)
                .because("The files are in host memory, and the CPU copies: no device does DMA.")
                .cured_by("Use a file system on an NVMe drive.");
        }
        Some(DirectIo::Layered) => {
            return check(Status::Unknown)
                .because("Direct I/O goes on to the file system of one of the layers.")
                .cured_by(format!(
                    "Name the directory of the upper layer, which /proc/self/mountinfo shows, or a \
                     file: {TRY}."
                ));
        }
        _ => (),
    }
    if stack.devices.is_empty() {
        return check(Status::Unknown)
            .because("There is no block device below it that could be looked at.")
            .cured_by(format!(
                "Name a file on a local file system, or a block device, or try it: {TRY}."
            ));
    }
    if let Some(refusal) = &stack.refusal {
        return check(Status::Problem)
            .because(format!(
                "{refusal}; direct I/O with mapped memory fails with EREMOTEIO. Memory in a slot of an \
                 io_uring is not refused, and data may be lost."
            ))
            .cured_by(
                "Put the data on an NVMe drive, a partition of one, or md raid0, raid1 or raid10 of \
                 NVMe drives that all reach the memory.",
            );
    }
    if stack.direct_io == Some(DirectIo::Unknown) {
        return check(Status::Unknown)
            .because("It is not known how this file system does direct I/O.")
            .cured_by(format!("Try it with a file: {TRY}."));
    }
    match ways.best(&stack.functions) {
        Some(verdict) if verdict.reach.works() == Some(true) => {
            let found = format!("{found}; {}", reached(verdict));
            let mut unproven = fabric
                .providers
                .iter()
                .filter(|one| one.number == verdict.provider)
                .flat_map(|one| fabric.unproven(stack, one));
            if let Some(drive) = unproven.next() {
                return Check::new(path, Status::Warning, found)
                    .because(format!(
                        "An IOMMU translates the addresses of {drive}: some machines lose that data, \
                         and report success."
                    ))
                    .cured_by(format!("Prove that data arrives: p2pmem verify, or {TRY}."));
            }
            match stack.direct_io {
                Some(DirectIo::Checksummed) => Check::new(path, Status::Warning, found)
                    .because(
                        "The CPU copies what is written to files with checksums or several copies, and \
                         checks what is read.",
                    )
                    .cured_by(
                        "Turn checksums off for new files (chattr +C DIRECTORY), or use ext4 or XFS.",
                    ),
                _ => Check::new(path, Status::Ok, found),
            }
        }
        Some(verdict) if verdict.reach == Reach::None => check(Status::Problem)
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
        _ => check(Status::Unknown)
            .because(
                "All block devices take device memory; no provider tells the way to the drive.",
            )
            .cured_by("See the checks of the module and the providers."),
    }
}
