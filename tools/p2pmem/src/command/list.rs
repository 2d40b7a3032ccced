// SPDX-License-Identifier: GPL-2.0

//! `p2pmem list`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use p2pmem::{size, sysfs};
use serde::Serialize;

use super::open;

/// Show the providers of device memory.
#[derive(Args)]
pub struct Arguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Listing {
    providers: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    path: PathBuf,
    pci: String,
    vendor: String,
    device: String,
    size: u64,
    allocated: u64,
    available: u64,
    granule: u32,
    regions: Vec<Region>,
}

#[derive(Serialize)]
struct Region {
    bar: u32,
    offset: u64,
    size: u64,
}

/// Shows the providers.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut providers = Vec::new();
    for entry in sysfs::providers(Path::new("/sys")).context("cannot read sysfs")? {
        let provider = open(&entry.path)?;
        let info = provider.info()?;
        let regions = (0..info.regions)
            .map(|index| {
                let region = provider.region(index)?;
                Ok(Region {
                    bar: region.bar,
                    offset: region.offset,
                    size: region.size,
                })
            })
            .collect::<Result<_>>()?;

        providers.push(Listed {
            available: entry.available()?,
            path: entry.path,
            pci: entry.pci,
            vendor: entry.vendor,
            device: entry.product,
            size: info.size,
            allocated: info.allocated,
            granule: info.granule,
            regions,
        });
    }

    if arguments.json {
        println!("{}", serde_json::to_string(&Listing { providers })?);
    } else if providers.is_empty() {
        println!("no providers: load p2pmem_rs, and bind a device to it");
    } else {
        println!(
            "{:<14} {:<13} {:<10} {:>4} {:>10} {:>10}",
            "NODE", "DEVICE", "ID", "BAR", "SIZE", "FREE"
        );
        for provider in providers {
            let bars: Vec<_> = provider
                .regions
                .iter()
                .map(|region| region.bar.to_string())
                .collect();
            println!(
                "{:<14} {:<13} {:<10} {:>4} {:>10} {:>10}",
                provider.path.display(),
                provider.pci,
                format!("{}:{}", provider.vendor, provider.device),
                bars.join(","),
                size::format(provider.size),
                size::format(provider.available),
            );
        }
    }

    Ok(())
}
