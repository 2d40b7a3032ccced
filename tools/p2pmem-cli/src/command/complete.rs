// SPDX-License-Identifier: GPL-2.0

//! Completions of shells: providers, and devices.

use std::ffi::OsString;

use clap::Command;
use clap_complete::{engine::CompletionCandidate, CompleteEnv};
use p2pmem::{
    fabric::{Fabric, Function},
    sysfs, Root,
};

/// Answers a shell, if it was one that started the program, and ends the program then. Scripts that
/// `p2pmem generate` wrote do so.
pub fn answer(command: fn() -> Command) {
    CompleteEnv::with_factory(command).complete();
}

/// Returns a word for each provider, explained by the address of its device.
fn for_each_provider(word: impl Fn(&sysfs::Entry) -> OsString) -> Vec<CompletionCandidate> {
    let entries = sysfs::providers(&Root::default()).unwrap_or_default();
    let candidate = |entry: sysfs::Entry| {
        CompletionCandidate::new(word(&entry)).help(Some(entry.id.pci.to_string().into()))
    };
    entries.into_iter().map(candidate).collect()
}

/// Returns the nodes of providers.
pub fn providers() -> Vec<CompletionCandidate> {
    for_each_provider(|entry| entry.id.path().into())
}

/// Returns what data can go through: providers, and ordinary memory.
pub fn memory() -> Vec<CompletionCandidate> {
    let ordinary = CompletionCandidate::new("none").help(Some("ordinary memory".into()));
    providers().into_iter().chain([ordinary]).collect()
}

/// Returns the numbers of providers.
pub fn numbers() -> Vec<CompletionCandidate> {
    for_each_provider(|entry| entry.id.number.to_string().into())
}

/// Returns the addresses of PCI functions that could be providers, or are.
pub fn devices() -> Vec<CompletionCandidate> {
    let Ok(fabric) = Fabric::read(&Root::default()) else {
        return Vec::new();
    };
    let device = |function: &Function| {
        let driver = function.driver.as_deref().unwrap_or("no driver");
        let help = format!("{}:{}, {driver}", function.vendor, function.device);
        CompletionCandidate::new(function.address.to_string()).help(Some(help.into()))
    };
    let is_offered = |function: &&Function| {
        !function.is_bridge() && (function.could_provide() || !function.bars.is_empty())
    };
    let functions = fabric.functions.iter().filter(is_offered);
    functions.map(device).collect()
}

/// Returns providers, and the addresses of PCI functions.
pub fn nodes_and_devices() -> Vec<CompletionCandidate> {
    providers().into_iter().chain(devices()).collect()
}
