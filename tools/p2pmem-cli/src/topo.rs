// SPDX-License-Identifier: GPL-2.0

//! Draws the fabric, and lists who reaches whom.

use std::fmt::Write;

use pci_ids::FromId;
use serde::Serialize;
use termtree::Tree;

use p2pmem::fabric::{Fabric, Function, Port, Provider, Reach, Target, Translation, Verdict};
use p2pmem::size;

use crate::table;

/// Options of the drawing.
#[derive(Clone, Debug)]
pub struct Options {
    /// The number of the only provider that matters; all if there is none.
    pub provider: Option<u32>,
    /// Whether functions are shown that matter to no provider.
    pub all: bool,
    /// How many characters a line may have.
    pub width: u16,
}

/// Output of `p2pmem topo --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report<'a> {
    /// Mode of the IOMMU.
    pub translation: Translation,
    /// Each provider with each of its clients.
    pub verdicts: Vec<Verdict>,
    /// Facts behind the verdict.
    pub fabric: &'a Fabric,
}

impl<'a> Report<'a> {
    /// Judges what `options` ask for.
    pub fn new(fabric: &'a Fabric, options: &Options) -> Self {
        Self {
            translation: fabric.translation(),
            verdicts: fabric
                .providers
                .iter()
                .filter(|one| {
                    options
                        .provider
                        .is_none_or(|number| one.id.number == number)
                })
                .flat_map(|provider| verdicts(fabric, provider, options.all))
                .collect(),
            fabric,
        }
    }
}

fn verdicts(fabric: &Fabric, provider: &Provider, all: bool) -> Vec<Verdict> {
    let mut verdicts = fabric.verdicts(provider);
    verdicts.retain(|verdict| {
        all || fabric
            .function(verdict.client)
            .is_some_and(|function| fabric.is_client(function))
    });
    verdicts
}

/// Writes all of it as text.
pub fn render(fabric: &Fabric, options: &Options) -> String {
    let report = Report::new(fabric, options);
    let mut text = tree(fabric, options.all);
    let mut notes = Vec::new();

    for provider in &fabric.providers {
        let own: Vec<_> = report
            .verdicts
            .iter()
            .filter(|verdict| verdict.provider == provider.id.number)
            .collect();
        if own.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\nWho reaches {}:", describe(provider));
        text += &clients(fabric, &own, &mut notes, options.width);
    }
    if fabric.providers.is_empty() {
        text += "\n";
        text += &table::wrap(
            "No provider of device memory: who reaches whom is known only with one. `p2pmem doctor` \
             says what could be one.",
            0,
            options.width,
        );
    }
    text += &stacked(fabric, options.width);

    let reaches = |reach| report.verdicts.iter().any(|verdict| verdict.reach == reach);
    let translation = translation(
        report.translation,
        reaches(Reach::Switch),
        reaches(Reach::HostBridge),
    );
    text += "\n";
    text += &table::wrap(&format!("IOMMU: {translation}"), 7, options.width);
    if !notes.is_empty() {
        text += "\nWhat to do:\n";
        for (number, note) in (1..).zip(notes) {
            text += &table::wrap(&format!("[{number}] {note}"), 4, options.width);
        }
    }
    text
}

fn describe(provider: &Provider) -> String {
    format!(
        "{} ({}, {})",
        provider.node(),
        size::format(provider.size),
        provider.id.pci
    )
}

/// Says what to do about a verdict. Ports that redirect are dealt with by one parameter for all
/// that have the same kind of way.
fn cure(fabric: &Fabric, verdict: &Verdict, all: &[&Verdict]) -> String {
    if verdict.cure.is_empty() || verdict.acs.is_empty() {
        return verdict.cure.clone();
    }
    let alike = all.iter().filter(|other| other.reach == verdict.reach);
    fabric.acs_cure(verdict.reach, alike.flat_map(|other| &other.acs))
}

/// Writes a table of the devices that reach a provider or do not. Cures go to `notes`.
fn clients(fabric: &Fabric, verdicts: &[&Verdict], notes: &mut Vec<String>, width: u16) -> String {
    let rows = verdicts.iter().map(|verdict| {
        let cure = cure(fabric, verdict, verdicts);
        let note = if cure.is_empty() {
            String::new()
        } else {
            let known = notes.iter().position(|note| *note == cure);
            let index = known.unwrap_or_else(|| {
                notes.push(cure);
                notes.len() - 1
            });
            format!(" [{}]", index + 1)
        };
        vec![
            verdict.client.to_string(),
            verdict.what(),
            verdict.reach.to_string(),
            verdict
                .distance
                .map_or("-".to_owned(), |distance| distance.to_string()),
            format!("{}{note}", verdict.why),
        ]
    });
    table::render(
        &["ADDRESS", "WHAT", "ROUTE", "DISTANCE", "WHY"],
        rows,
        Some(width),
    )
}

/// Writes a table of block devices that are put on others, and of drives that take no device
/// memory.
fn stacked(fabric: &Fabric, width: u16) -> String {
    let rows: Vec<_> = fabric
        .block_devices
        .iter()
        .filter(|device| device.is_stacked() || device.refusal().is_some())
        .map(|device| {
            let below = fabric.all_below(&device.name);
            let refusal = below.iter().find_map(|device| device.refusal());
            // No provider that each member reaches.
            let stack = fabric.stack(&Target::Device(device.number.clone()));
            let out_of_reach: Option<Vec<_>> = fabric
                .providers
                .iter()
                .map(|provider| fabric.obstacles(&stack, provider).into_iter().next())
                .collect();
            let out_of_reach = out_of_reach.and_then(|all| all.into_iter().next());
            let reason = refusal.or(out_of_reach.map(|obstacle| obstacle.why));
            vec![
                device.to_string(),
                device.below.join(", "),
                if reason.is_some() { "no" } else { "yes" }.to_owned(),
                reason.unwrap_or_else(|| "as all that is below it does".to_owned()),
            ]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "\nWhich other block devices take device memory:\n{}",
        table::render(
            &["BLOCK DEVICE", "ON", "TAKES IT", "WHY"],
            rows,
            Some(width)
        )
    )
}

/// Says what an IOMMU means for the ways that there are.
pub fn translation(translation: Translation, switch: bool, host_bridge: bool) -> String {
    let mut text = match translation {
        Translation::Off => "not in use; devices use physical addresses.",
        Translation::PassThrough => "passes through; devices use physical addresses.",
        Translation::On => "translates addresses.",
    }
    .to_owned();
    if translation == Translation::On {
        if switch {
            text += " Within a switch bus addresses are used, which it should not see: some machines \
                     lose that data and report success. `p2pmem verify DRIVE` shows whether it arrives.";
        }
        if host_bridge {
            text +=
                " Through the host bridge it translates addresses of device memory as all others.";
        }
    }
    text
}

/// Draws the tree of functions.
fn tree(fabric: &Fabric, all: bool) -> String {
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
            words.extend(fabric.provider_of(function.address).map(Provider::node));
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
