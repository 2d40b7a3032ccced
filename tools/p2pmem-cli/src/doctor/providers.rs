// SPDX-License-Identifier: GPL-2.0

//! Checks of providers.

use p2pmem::{
    fabric::{Fabric, Function, ProviderRecord},
    size,
};
use rustix::param::page_size;

use super::{
    check::{Check, Status},
    memory,
};

pub fn providers(fabric: &Fabric) -> Check {
    const NAME: &str = "providers";
    if !fabric.providers.is_empty() {
        let all: Vec<_> = fabric
            .providers
            .iter()
            .map(|one| {
                format!(
                    "{} ({}, {})",
                    one.node(),
                    one.id.pci,
                    size::format(one.size)
                )
            })
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

pub fn permissions(provider: &ProviderRecord) -> Check {
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
pub fn pages(provider: &ProviderRecord) -> Check {
    let name = format!("{} pages", provider.id.name());
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
