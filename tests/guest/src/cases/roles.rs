// SPDX-License-Identifier: GPL-2.0

//! Other users of p2pdma inside of the kernel: who looks for memory, and who does DMA to it. What
//! they do is in tests/kmod/roles.rs, which checks addresses by itself.

use std::fs;

use anyhow::{ensure, Context, Result};

use crate::{
    cases,
    guest::{address_named, bind, unbind, Map, Mark, Provider},
    kmod::with_roles,
};

cases!("roles": share_memory, find_none_when_unbound, take_turns);

/// Returns where a BAR starts.
fn start_of(provider: &Provider, bar: usize) -> Result<u64> {
    let text = fs::read_to_string(provider.device.join("resource"))?;
    let line = text.lines().nth(bar).context("no BAR")?;
    let start = line.split_whitespace().next().context("an empty line")?;
    Ok(u64::from_str_radix(start.trim_start_matches("0x"), 16)?)
}

fn share_memory() -> Result<()> {
    let provider = Provider::first()?;
    // On this machine addresses of the bus are those of the CPU.
    let start = format!("maps {:#x}, 1048576 bytes", start_of(&provider, 2)?);
    let mark = Mark::new()?;
    with_roles(|| {
        mark.expect(&["2 clients", &provider.pci, "distance 8"])?;
        for serial in ["disk0", "disk1"] {
            let pci = address_named(serial)?;
            mark.expect(&["p2pmem_roles", &pci, "distance 4"])?;
            mark.expect(&["p2pmem_roles", &pci, &start])?;
        }
        provider.expect_taken(0)
    })
}

fn find_none_when_unbound() -> Result<()> {
    let provider = Provider::first()?;
    unbind(&provider.pci)?;
    let mark = Mark::new()?;
    with_roles(|| mark.expect(&["2 clients: no memory"]))?;
    Ok(bind(&provider.pci)?)
}

/// With all memory given to user space there is none for others, who say so and leave nothing
/// behind.
fn take_turns() -> Result<()> {
    let provider = Provider::first()?;
    let all = Map::new(provider.open()?, provider.size)?;
    let result = with_roles(|| Ok(()));
    ensure!(
        result.is_err_and(|error| format!("{error:#}").contains("No space left")),
        "memory out of a pool that is empty"
    );
    drop(all);
    provider.expect_full()?;
    with_roles(|| Ok(()))
}
