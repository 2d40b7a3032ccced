// SPDX-License-Identifier: GPL-2.0

//! `p2pmem list`.

use std::{io, path::PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use p2pmem::{
    size,
    sysfs::{self, Details, Entry},
    users::{users, User},
    PciAddress, Root,
};

use crate::{table, terminal};
use rustix::param::page_size;
use serde::Serialize;

use super::output;

/// Show the providers of device memory.
///
/// Needs no privileges. Root sees all processes that use the memory; other users see their own.
///
/// PAGE is the size of the pages that memory is mapped in. LARGE is how much of the allocated
/// memory is in large pages.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    p2pmem list --users\n  \
    p2pmem list --json")]
pub struct Arguments {
    /// Show the processes that have the nodes open as well.
    #[arg(long)]
    users: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Output of `--json`.
#[derive(Serialize)]
struct Listing {
    /// By the numbers of the nodes.
    providers: Vec<Listed>,
}

/// A provider.
#[derive(Serialize)]
struct Listed {
    /// The node.
    path: PathBuf,
    /// The address of the PCI device.
    pci: PciAddress,
    /// PCI vendor ID, four hexadecimal digits.
    vendor: String,
    /// PCI device ID, four hexadecimal digits.
    device: String,
    /// Free bytes of the device's pool, which the kernel itself uses as well.
    available: u64,
    /// The unit of allocation in bytes.
    granule: u64,
    /// The size of the pages that memory is mapped in: that of large pages, or the granule if there
    /// are none.
    page: u64,
    #[serde(flatten)]
    details: Details,
    /// Processes that have the node open.
    users: Vec<User>,
}

impl Listed {
    fn new(entry: Entry, users: &[User]) -> io::Result<Self> {
        let device = entry.device_number()?;
        let users = users.iter().filter(|user| user.device == device);
        let granule = page_size() as u64;
        let details = entry.details()?;

        Ok(Self {
            available: entry.available()?,
            page: details.large_page.max(granule),
            details,
            users: users.cloned().collect(),
            path: entry.id.path(),
            pci: entry.id.pci,
            vendor: entry.vendor,
            device: entry.product,
            granule,
        })
    }
}

/// Shows the providers.
pub fn run(arguments: &Arguments) -> Result<()> {
    let users = users(&Root::default()).context("cannot read /proc")?;
    let mut providers = Vec::new();
    for entry in sysfs::providers(&Root::default()).context("cannot read sysfs")? {
        let id = entry.id;
        match Listed::new(entry, &users) {
            Ok(listed) => providers.push(listed),
            // It went away at this very moment.
            Err(error) if sysfs::is_gone(&error) => {}
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "cannot read attributes of {id} in sysfs: does p2pmem_rs fit this program?"
                    )
                })
            }
        }
    }

    if arguments.json {
        output::print("list", Listing { providers }, None)?;
    } else if providers.is_empty() {
        terminal::print("no providers: load p2pmem_rs, and bind a device to it (p2pmem bind)\n")?;
    } else {
        print(&providers)?;
        if arguments.users {
            terminal::print("\n")?;
            print_users(&providers)?;
        }
    }

    Ok(())
}

fn print(providers: &[Listed]) -> Result<()> {
    let mut rows = Vec::new();
    for provider in providers {
        // A kind or BAR that several regions have is named once.
        let words = |of: fn(&sysfs::Region) -> String| {
            let mut words: Vec<_> = provider.details.regions.iter().map(of).collect();
            words.dedup();
            words.join(",")
        };
        rows.push(vec![
            provider.path.display().to_string(),
            provider.pci.to_string(),
            format!("{}:{}", provider.vendor, provider.device),
            words(|region| region.kind.clone()),
            words(|region| region.bar.to_string()),
            size::format(provider.details.size),
            size::format(provider.available),
            size::format(provider.page),
            provider
                .details
                .numa_node
                .map_or("-".to_owned(), |node| node.to_string()),
            provider.users.len().to_string(),
        ]);
    }
    terminal::print(&table::render(
        &[
            "NODE", "DEVICE", "ID", "KIND", "BAR", "SIZE#", "FREE#", "PAGE#", "NUMA#", "USERS#",
        ],
        rows,
        None,
    ))
}

fn print_users(providers: &[Listed]) -> Result<()> {
    let mut rows = Vec::new();
    for provider in providers {
        for user in &provider.users {
            rows.push(vec![
                provider.path.display().to_string(),
                user.pid.to_string(),
                user.name.clone(),
                size::format(user.bytes),
                size::format(user.large),
            ]);
        }
    }
    terminal::print(&table::render(
        &["NODE", "PID#", "NAME", "ALLOCATED#", "LARGE#"],
        rows,
        None,
    ))
}
