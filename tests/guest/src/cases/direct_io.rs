// SPDX-License-Identifier: GPL-2.0

//! Direct I/O between drives and device memory.

use anyhow::{ensure, Result};
use rustix::io::Errno;

use crate::{
    cases,
    guest::{copy_through, drive, read_at, write_at, Child, Map, Provider, PAGE, WINDOW},
};

cases!(
    "direct_io": both_ways, odd_places, from_untouched_memory, unmap_in_flight, kill_in_flight,
    after_fork,
);

const MIB: usize = 1 << 20;

/// Copies from one drive to the other through device memory.
fn copy(from: u32, to: u32, map: &Map, range: std::ops::Range<usize>, seed: u64) -> Result<()> {
    copy_through(map, range, &drive(from)?, &drive(to)?, seed)
}

fn both_ways() -> Result<()> {
    let map = Map::new(Provider::first()?.open()?, 4 * MIB)?;
    for (seed, length) in (10..).zip([PAGE, 64 << 10, MIB, 4 * MIB]) {
        copy(0, 1, &map, 0..length, seed)?;
        copy(1, 0, &map, 0..length, seed + 100)?;
    }
    Ok(())
}

fn odd_places() -> Result<()> {
    let map = Map::new(Provider::first()?.open()?, 6 * MIB)?;
    map.fill(0..map.len(), 99);
    for (seed, (start, length)) in (20..).zip([
        (PAGE, PAGE),
        (7 * PAGE, 64 << 10),
        (WINDOW - PAGE, 2 * PAGE),
        (WINDOW - 3 * PAGE, MIB),
        (5 * MIB - PAGE, MIB),
        // Not even a page.
        (512, 512),
        (PAGE + 1024, 3072),
    ]) {
        copy(0, 1, &map, start..start + length, seed)?;
    }
    // Bytes beside the range were not touched.
    map.check(0..512, 99)?;
    map.check(4 * PAGE..7 * PAGE, 99)
}

fn from_untouched_memory() -> Result<()> {
    // The drive is the first to touch the memory, and the CPU sees what it wrote.
    let map = Map::new(Provider::first()?.open()?, 3 * WINDOW)?;
    let ordinary = Map::ordinary(WINDOW)?;
    ordinary.fill(0..WINDOW, 1);
    write_at(&drive(0)?, &ordinary, 0..WINDOW, 0)?;
    read_at(&drive(0)?, &map, WINDOW..2 * WINDOW, 0)?;
    for offset in (0..WINDOW).step_by(8) {
        ensure!(
            map.get(WINDOW + offset) == ordinary.get(offset),
            "at {offset:#x}"
        );
    }
    Ok(())
}

fn unmap_in_flight() -> Result<()> {
    let provider = Provider::first()?;
    let file = provider.open()?;
    for _ in 0..20 {
        let map = Map::new(&file, 8 * MIB)?;
        let start = map.at(0) as usize;
        std::thread::scope(|scope| -> Result<()> {
            let reader = scope.spawn(move || -> Result<u32> {
                let source = drive(0)?;
                let map = Map::from_raw(start as *mut u8, 8 * MIB);
                let mut reads = 0;
                // Until the memory is gone.
                let result = loop {
                    match read_at(&source, &map, 0..8 * MIB, 0) {
                        Ok(()) => reads += 1,
                        Err(Errno::FAULT | Errno::IO) => break Ok(reads),
                        Err(error) => break Err(error.into()),
                    }
                };
                map.into_raw();
                result
            });
            std::thread::sleep(std::time::Duration::from_millis(10));
            drop(map);
            reader.join().expect("it does not panic")?;
            Ok(())
        })?;
        provider.expect_full()?;
    }
    Ok(())
}

fn kill_in_flight() -> Result<()> {
    let provider = Provider::first()?;
    for _ in 0..10 {
        let child = Child::spawn(|| {
            let map = Map::new(provider.open()?, 8 * MIB)?;
            let (source, destination) = (drive(0)?, drive(1)?);
            loop {
                read_at(&source, &map, 0..8 * MIB, 0)?;
                write_at(&destination, &map, 0..8 * MIB, 0)?;
            }
        })?;
        std::thread::sleep(std::time::Duration::from_millis(50));
        child.kill()?;
        child.expect_signal(libc::SIGKILL)?;
        provider.expect_full()?;
    }
    Ok(())
}

fn after_fork() -> Result<()> {
    let provider = Provider::first()?;
    let map = Map::new(provider.open()?, MIB)?;
    copy(0, 1, &map, 0..MIB, 1)?;
    Child::spawn(|| copy(1, 0, &map, 0..MIB, 2))?.expect_success()?;
    copy(0, 1, &map, 0..MIB, 3)
}
