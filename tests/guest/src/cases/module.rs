// SPDX-License-Identifier: GPL-2.0

//! Loading and unloading, and the node in /dev.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    time::Duration,
};

use anyhow::{ensure, Result};
use rustix::io::Errno;

use crate::{
    cases,
    guest::{expect_errno, insmod, is_loaded, restore, rmmod, wait_until, Map, Provider, PAGE},
};

cases!("module": node, load_and_unload_twenty_times, load_twice, unload_in_use);

/// Unloads the module. A process that reads its files may hold it for a moment.
fn unload() -> Result<()> {
    wait_until(Duration::from_secs(5), "rmmod", || match rmmod() {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN) => Ok(false),
        Err(error) => Err(error.into()),
    })
}

fn node() -> Result<()> {
    let provider = Provider::first()?;
    let metadata = fs::metadata(&provider.path)?;

    ensure!(
        provider.path.ends_with("p2pmem0"),
        "{:?} is not the lowest number",
        provider.path
    );
    ensure!(
        metadata.permissions().mode() & 0o7777 == 0o600,
        "mode {:o}",
        metadata.mode()
    );
    ensure!((metadata.uid(), metadata.gid()) == (0, 0), "not root's");
    // The parent of the node is the PCI device, and that is bound to the driver.
    let driver = fs::canonicalize(provider.device.join("driver"))?;
    ensure!(driver.ends_with("p2pmem_rs"), "{driver:?}");
    let published = fs::read_to_string(provider.device.join("p2pmem/published"))?;
    ensure!(published.trim() == "1", "not published");
    provider.expect_taken(0)
}

fn load_and_unload_twenty_times() -> Result<()> {
    for _ in 0..20 {
        let provider = Provider::first()?;
        Map::new(provider.open()?, PAGE)?.fill(0..PAGE, 1);
        unload()?;
        ensure!(!is_loaded() && !provider.path.exists(), "something is left");
        restore()?;
    }
    Ok(())
}

fn load_twice() -> Result<()> {
    expect_errno(insmod(), Errno::EXIST, "insmod of a loaded module")
}

fn unload_in_use() -> Result<()> {
    let provider = Provider::first()?;
    let file = provider.open()?;
    expect_errno(rmmod(), Errno::AGAIN, "rmmod with an open file")?;

    let map = Map::new(&file, PAGE)?;
    drop(file);
    expect_errno(rmmod(), Errno::AGAIN, "rmmod with a mapping")?;
    map.fill(0..PAGE, 1);
    map.check(0..PAGE, 1)?;

    drop(map);
    unload()
}
