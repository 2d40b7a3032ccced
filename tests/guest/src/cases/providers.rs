// SPDX-License-Identifier: GPL-2.0

//! Several providers in one machine. Needs the topology switch-two-bars.

use anyhow::{ensure, Result};

use crate::{
    cases,
    guest::{bind, restore, unbind, Map, Provider, WINDOW},
};

cases!("providers": are_independent, take_the_lowest_number);

fn pair() -> Result<(Provider, Provider)> {
    let mut all = Provider::all()?;
    ensure!(all.len() == 2, "{} providers, expected 2", all.len());
    let second = all.remove(1);
    Ok((all.remove(0), second))
}

fn are_independent() -> Result<()> {
    let (one, two) = pair()?;
    ensure!(one.size != two.size, "both are of the same size");
    let (first, second) = (
        Map::new(one.open()?, WINDOW)?,
        Map::new(two.open()?, WINDOW)?,
    );
    first.fill(0..WINDOW, 1);
    second.fill(0..WINDOW, 2);

    unbind(&one.pci)?;
    ensure!(!first.is_readable(0)?, "the first is still there");
    second.check(0..WINDOW, 2)?;
    two.expect_taken(WINDOW)?;
    ensure!(two.path.exists());
    restore()
}

fn take_the_lowest_number() -> Result<()> {
    let (one, two) = pair()?;
    ensure!(one.path.ends_with("p2pmem0") && two.path.ends_with("p2pmem1"));

    // The first device gets the lowest free number.
    unbind(&one.pci)?;
    unbind(&two.pci)?;
    bind(&two.pci)?;
    bind(&one.pci)?;
    let (first, second) = pair()?;
    ensure!(
        first.path.ends_with("p2pmem0") && first.pci == two.pci,
        "{:?}",
        first.path
    );
    ensure!(
        second.path.ends_with("p2pmem1") && second.pci == one.pci,
        "{:?}",
        second.path
    );

    unbind(&first.pci)?;
    bind(&first.pci)?;
    ensure!(
        pair()?.0.pci == two.pci,
        "the number that became free was not taken"
    );
    Ok(())
}
