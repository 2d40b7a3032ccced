// SPDX-License-Identifier: GPL-2.0

//! Beside the kernel's own `p2pmem/allocate`.

use std::fs::OpenOptions;

use anyhow::{Context, Result};

use crate::{
    cases,
    guest::{drive, read_at, Map, Provider, WINDOW},
};

cases!("mainline": side_by_side);

fn side_by_side() -> Result<()> {
    let provider = Provider::first()?;
    let allocate = OpenOptions::new()
        .read(true)
        .write(true)
        .open(provider.device.join("p2pmem/allocate"))
        .context("p2pmem/allocate")?;
    let ours = Map::new(provider.open()?, WINDOW)?;
    let theirs = Map::new(&allocate, WINDOW)?;
    provider.expect_taken(2 * WINDOW)?;

    ours.fill(0..WINDOW, 1);
    theirs.fill(0..WINDOW, 2);
    ours.check(0..WINDOW, 1)?;
    theirs.check(0..WINDOW, 2)?;

    // Both take direct I/O at the same time.
    let (one, two) = (drive(0)?, drive(1)?);
    crate::guest::write_at(&one, &ours, 0..WINDOW, 0)?;
    crate::guest::write_at(&two, &theirs, 0..WINDOW, 0)?;
    read_at(&two, &ours, 0..WINDOW, 0)?;
    read_at(&one, &theirs, 0..WINDOW, 0)?;
    ours.check(0..WINDOW, 2)?;
    theirs.check(0..WINDOW, 1)?;

    drop(theirs);
    provider.expect_taken(WINDOW)?;
    drop(ours);
    provider.expect_taken(0)
}
