// SPDX-License-Identifier: GPL-2.0

//! Proof that the debug kernel finds mistakes: one of each kind is made on purpose. In a boot of
//! their own, and locks first: these are not checked any more after any report. Needs the debug
//! kernel.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

use crate::{
    cases,
    guest::{wait_until, Child, Mark},
    harness::ExpectedMistake,
    kmod::{Mistake, TestFile},
};

cases!("debug": lock_order, leak, use_after_free);

/// Makes a mistake, which must be reported.
fn reported(mistake: Mistake, words: &[&str]) -> Result<()> {
    let mark = Mark::new()?;
    TestFile::open()?.make(mistake)?;
    mark.expect(words)?;
    // The harness looks for reports as well, and must have seen this one.
    Err(ExpectedMistake.into())
}

fn use_after_free() -> Result<()> {
    let words = ["BUG: KASAN: slab-use-after-free in test_mistake"];
    reported(Mistake::UseAfterFree, &words)
}

fn lock_order() -> Result<()> {
    let words = ["WARNING: possible circular locking dependency detected"];
    reported(Mistake::LockOrder, &words)
}

/// The debug kernel finds objects without references that are a few seconds old.
fn leak() -> Result<()> {
    const FILE: &str = "/sys/kernel/debug/kmemleak";
    fs::write(FILE, "clear").context(FILE)?;
    // In a process that ends: what is left on its stack would keep the first of the objects, and
    // that the others, by what the allocator left in them.
    Child::spawn(|| TestFile::open()?.make(Mistake::Leak))?.expect_success()?;
    wait_until(Duration::from_secs(60), "the leak is found", || {
        std::thread::sleep(Duration::from_secs(5));
        fs::write(FILE, "scan")?;
        Ok(fs::read_to_string(FILE)?.contains("test_mistake"))
    })?;
    Ok(fs::write(FILE, "clear")?)
}
