// SPDX-License-Identifier: GPL-2.0

//! The whole drawing: the tree, and the tables below it.

use std::fmt::Write;

use p2pmem::{
    fabric::{Fabric, ProviderRecord, Reach, Target, Verdict},
    size,
};

use super::{
    report::{Options, TopoReport},
    translation::translation,
    tree::tree,
};
use crate::table;

/// Writes all of it as text.
pub fn render(fabric: &Fabric, options: &Options) -> String {
    let report = TopoReport::new(fabric, options);
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

fn describe(provider: &ProviderRecord) -> String {
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
