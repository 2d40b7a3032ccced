// SPDX-License-Identifier: GPL-2.0

//! The tree of functions.

use std::fmt::Write;

use p2pmem::fabric::{Fabric, Function, Port, ProviderRecord};
use pci_ids::FromId;
use termtree::Tree;

/// Draws the tree of functions.
pub fn tree(fabric: &Fabric, all: bool) -> String {
    let mut buses: Vec<_> = fabric.children(None).map(bus).collect();
    buses.dedup();
    let mut text = String::new();
    for root in buses {
        let (domain, number) = root;
        let functions: Vec<_> = fabric
            .children(None)
            .filter(|function| bus(function) == root)
            .collect();
        let leaves: Vec<_> = functions
            .iter()
            .filter_map(|function| subtree(fabric, function, all))
            .collect();
        if leaves.is_empty() {
            continue;
        }
        let host = functions
            .iter()
            .find(|function| function.class.starts_with("0600"))
            .map_or(String::new(), |host| {
                format!(", host bridge {}:{}", host.vendor, host.device)
            });
        let _ = write!(
            text,
            "{}",
            Tree::new(format!("root bus {domain:04x}:{number:02x}{host}")).with_leaves(leaves)
        );
    }
    text
}

/// Returns domain and bus of a function.
fn bus(function: &Function) -> (u32, u8) {
    function.address.bus()
}

/// Draws a function and those below it, or nothing if none of them matters.
fn subtree(fabric: &Fabric, function: &Function, all: bool) -> Option<Tree<String>> {
    let leaves: Vec<_> = fabric
        .children(Some(function.address))
        .filter_map(|child| subtree(fabric, child, all))
        .collect();
    let matters = all
        || !leaves.is_empty()
        || fabric.is_client(function)
        || fabric.provider_of(function.address).is_some()
        || function.could_provide()
        || function.moves_data() && !function.unassigned.is_empty();
    matters.then(|| Tree::new(label(fabric, function)).with_leaves(leaves))
}

/// How many lanes a link may have.
const MOST_LANES: u32 = 32;

/// Says how a function is kept apart from others, as far as that is known.
fn isolation(function: &Function) -> Vec<String> {
    let mut words = Vec::new();
    if function.port.is_none() {
        words.extend(
            function
                .iommu
                .as_ref()
                .map(|iommu| format!("IOMMU group {}", iommu.group)),
        );
    }
    for (name, enabled) in [
        ("ATS", function.ats),
        ("PASID", function.pasid),
        ("PRI", function.pri),
    ] {
        words.extend(
            enabled.map(|enabled| format!("{name} {}", if enabled { "on" } else { "off" })),
        );
    }
    if let Some(acs) = &function.acs {
        for (set, what) in [
            (acs.redirects(), "ACS redirects"),
            (acs.blocks_translated(), "ACS blocks translated requests"),
            (acs.passes_translated(), "ACS passes translated requests"),
        ] {
            words.extend(set.then(|| what.to_owned()));
        }
    }
    words
}

/// Returns what is written at a function.
fn label(fabric: &Fabric, function: &Function) -> String {
    let mut words = Vec::new();
    match function.port {
        Some(Port::Root) => words.push("root port".to_owned()),
        Some(Port::Upstream) => words.push("switch, upstream port".to_owned()),
        Some(Port::Downstream) => words.push("switch, downstream port".to_owned()),
        Some(Port::Bridge) => words.push("bridge".to_owned()),
        None => {
            words.extend(
                fabric
                    .drives_of(function.address)
                    .map(|drive| drive.name.clone()),
            );
            words.extend(
                fabric
                    .provider_of(function.address)
                    .map(ProviderRecord::node),
            );
            let driver = function.driver.as_deref();
            words.push(driver.unwrap_or("no driver").to_owned());
            if fabric.provider_of(function.address).is_none() && function.could_provide() {
                words.push("could be a provider".to_owned());
            }
            for bar in &function.unassigned {
                words.push(format!("BAR {bar} without an address"));
            }
        }
    }
    if let Some(link) = &function.link {
        // Functions of the root complex have no link: Linux shows a width of 255 lanes or none.
        if (1..=MOST_LANES).contains(&link.max_width) {
            let now = format!("x{} {}", link.width, link.speed);
            let best = format!("x{} {}", link.max_width, link.max_speed);
            words.push(match link.width {
                0 => format!("link down (of {best})"),
                _ if now == best => now,
                _ => format!("{now} (of {best})"),
            });
        }
    }
    words.extend(isolation(function));
    let several_nodes = fabric
        .functions
        .iter()
        .any(|function| function.numa_node.is_some_and(|node| node > 0));
    if let (Some(node), true) = (function.numa_node, several_nodes) {
        words.push(format!("NUMA node {node}"));
    }
    let name = match function.port {
        Some(_) => String::new(),
        None => model(function).map_or(String::new(), |name| format!(" {name}")),
    };
    format!(
        "{}  {}:{}{name}  {}",
        function.address,
        function.vendor,
        function.device,
        words.join(", ")
    )
}

/// Returns the name of a device, or that of its vendor, as the PCI ID repository has them.
fn model(function: &Function) -> Option<&'static str> {
    let id = |text: &str| u16::from_str_radix(text, 16).ok();
    let (vendor, device) = (id(&function.vendor)?, id(&function.device)?);
    let device = pci_ids::Device::from_vid_pid(vendor, device).map(pci_ids::Device::name);
    device.or_else(|| Some(pci_ids::Vendor::from_id(vendor)?.name()))
}
