// SPDX-License-Identifier: GPL-2.0

//! Device memory in large pages, and all that takes them apart.

use std::{
    fs::{self, File, OpenOptions},
    ops::Range,
    os::fd::AsRawFd,
    path::Path,
    time::Duration,
};

use anyhow::{ensure, Context, Result};
use p2pmem::{abi, Provider as Node};
use rustix::{
    io::Errno,
    mm::{madvise, mprotect, Advice, MapFlags, MprotectFlags, MremapFlags},
};

use super::{
    handle::{alloc, write_combining_bits, CACHING},
    unbind::{slow_drive, unbind_says},
};
use crate::{
    cases,
    guest::{
        bind, choose, copy_through, drive, drive_named, expect_errno, last_errno, put_on_drive,
        read_at, restore, rounds, unbind, wait_until, Child, Map, Provider, PAGE, READ_WRITE,
        WINDOW,
    },
    kmod::{Entry, TestFile},
};

cases!(
    "large": leaf_and_folio, capability, at_an_address_that_does_not_fit, dma_buf, dma_buf_at_offsets,
    shared_by_fork, read_fault_then_write, whatever_the_system_setting, not_for_those_who_opted_out,
    direct_io, unmap_a_part, protect_a_part, move_a_part, drop_a_part, clear_references,
    split_by_debugfs, memory_failure, fork_storm, racing_faults, racing_faults_of_both_kinds,
    fragmented_pool, nearly_full_pool,
    pages_go_back_to_mainline, unmapped_with_reads_in_flight, killed_with_reads_in_flight,
    unbind_with_outstanding_reads, two_regions, told_by_fdinfo_and_debugfs, memory_of_the_kernel, fresh_piece_by_piece,
);

const SHARED: MapFlags = MapFlags::SHARED;
/// Pages of a large page, as a power of two.
const LARGE: u32 = 9;

/// Returns the order of pages that this kernel maps: that of a large page, or 0.
pub fn order(provider: &Provider) -> Result<u32> {
    let info = Node::open(&provider.path)?.info()?;
    Ok(if info.capabilities & abi::P2PMEM_CAP_LARGE_PAGES != 0 {
        LARGE
    } else {
        0
    })
}

/// Checks by which entry and which folio a place of a mapping is there.
pub fn expect_orders(map: &Map, offset: usize, leaf: u32, folio: u32) -> Result<Entry> {
    let entry = TestFile::open()?.pte(map.at(offset))?;
    ensure!(entry.value != 0, "nothing is mapped at {offset:#x}");
    ensure!(
        (entry.leaf_order, entry.folio_order) == (leaf, folio),
        "at {offset:#x}: {entry:?}, expected leaf {leaf} and folio {folio}"
    );
    Ok(entry)
}

fn leaf_and_folio() -> Result<()> {
    let provider = Provider::first()?;
    let order = order(&provider)?;
    let length = 2 * WINDOW + 3 * PAGE;
    let map = Map::placed(provider.open()?, length, 0, 0)?;
    map.fill(0..length, 1);
    for offset in [0, WINDOW - PAGE, WINDOW, 2 * WINDOW - PAGE] {
        expect_orders(&map, offset, order, order)?;
    }
    // Runs shorter than a large page: a folio of two pages, and one page.
    for (offset, folio) in [(2 * WINDOW, order.min(1)), (length - PAGE, 0)] {
        expect_orders(&map, offset, 0, folio)?;
    }
    map.check(0..length, 1)?;
    // The kernel chooses an aligned address by itself.
    let map = Map::new(provider.open()?, WINDOW)?;
    map.fill(0..WINDOW, 1);
    expect_orders(&map, WINDOW - PAGE, order, order)?;
    // Short ones are in as few folios as possible.
    let map = Map::new(provider.open()?, WINDOW - PAGE)?;
    map.fill(0..map.len(), 2);
    for (offset, folio) in [(0, 8), (WINDOW / 2, 7), (WINDOW - 2 * PAGE, 0)] {
        expect_orders(&map, offset, 0, folio.min(order))?;
    }
    map.check(0..map.len(), 2)
}

fn capability() -> Result<()> {
    let provider = Provider::first()?;
    let node = provider.path.file_name().context("a name")?;
    let attribute = Path::new("/sys/class/misc").join(node).join("large_page");
    let told: usize = fs::read_to_string(attribute)?.trim().parse()?;
    ensure!(told == if order(&provider)? == 0 { 0 } else { WINDOW });
    // The lab's kernels, but for PREEMPT_RT, have them.
    let version = fs::read_to_string("/proc/version")?;
    ensure!(told != 0 || version.contains("PREEMPT_RT"), "{version}");
    Ok(())
}

fn at_an_address_that_does_not_fit() -> Result<()> {
    let provider = Provider::first()?;
    let order = order(&provider)?;
    let length = 3 * WINDOW;
    let map = Map::placed(provider.open()?, length, 0, 5 * PAGE)?;
    map.fill(0..length, 2);
    for offset in (0..length).step_by(WINDOW / 2) {
        expect_orders(&map, offset, 0, order)?;
    }
    map.check(0..length, 2)?;
    let child = Child::spawn(|| map.check(0..length, 2))?;
    child.expect_success()?;
    drop(map);
    provider.expect_taken(0)
}

fn dma_buf() -> Result<()> {
    let provider = Provider::first()?;
    let order = order(&provider)?;
    let node = Node::open(&provider.path)?;
    for flags in [0, abi::P2PMEM_ALLOC_WRITE_COMBINING] {
        let handle = node.alloc(2 * WINDOW as u64, flags)?;
        let map = Map::placed(&handle, 2 * WINDOW, 0, 0)?;
        map.fill(0..2 * WINDOW, 3);
        let entry = expect_orders(&map, WINDOW, order, order)?;
        let expected = if flags == 0 {
            1 << 4
        } else {
            write_combining_bits()
        };
        ensure!(entry.value & CACHING == expected, "{entry:?}");
        map.check(0..2 * WINDOW, 3)?;
    }
    Ok(())
}

fn dma_buf_at_offsets() -> Result<()> {
    let provider = Provider::first()?;
    let order = order(&provider)?;
    let (_node, handle) = alloc(&provider, 4 * WINDOW)?;
    let whole = Map::placed(&handle, 4 * WINDOW, 0, 0)?;
    whole.fill(0..4 * WINDOW, 4);
    // By large pages where offset and address fit, by the pages of the same folios otherwise.
    for (offset, skew, leaf) in [
        (WINDOW, 0, order),
        (2 * WINDOW, PAGE, 0),
        (PAGE, 0, 0),
        (WINDOW + PAGE, PAGE, 0),
    ] {
        let length = 2 * WINDOW;
        let map = Map::placed(&handle, length, offset, skew)?;
        for at in (0..length).step_by(PAGE) {
            ensure!(map.get(at) == whole.get(offset + at), "{offset:#x}+{at:#x}");
        }
        expect_orders(&map, PAGE, leaf, order)?;
    }
    // If address and offset are shifted by the same, a large page is in between.
    let map = Map::placed(&handle, 2 * WINDOW, PAGE, PAGE)?;
    ensure!(map.get(0) == whole.get(PAGE) && map.get(WINDOW) == whole.get(WINDOW + PAGE));
    expect_orders(&map, 0, 0, order)?;
    expect_orders(&map, WINDOW, order, order)?;
    drop((map, whole, handle));
    provider.expect_taken(0)
}

fn shared_by_fork() -> Result<()> {
    let provider = Provider::first()?;
    let order = order(&provider)?;
    let map = Map::placed(provider.open()?, 2 * WINDOW, 0, 0)?;
    map.fill(0..WINDOW, 5);
    let child = Child::spawn(|| {
        map.check(0..WINDOW, 5)?;
        expect_orders(&map, 0, order, order)?;
        map.fill(WINDOW..2 * WINDOW, 5);
        // The child's copy goes, the parent's stays.
        map.unmap(0..WINDOW)
    })?;
    child.expect_success()?;
    map.check(0..2 * WINDOW, 5)?;
    expect_orders(&map, 0, order, order)?;
    drop(map);
    provider.expect_taken(0)
}

fn read_fault_then_write() -> Result<()> {
    let provider = Provider::first()?;
    let order = order(&provider)?;
    let map = Map::placed(provider.open()?, WINDOW, 0, 0)?;
    ensure!(map.get(WINDOW / 2) == 0);
    map.fill(0..WINDOW, 6);
    map.check(0..WINDOW, 6)?;
    expect_orders(&map, 0, order, order)?;
    Ok(())
}

fn whatever_the_system_setting() -> Result<()> {
    const SETTING: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
    let provider = Provider::first()?;
    let order = order(&provider)?;
    let Ok(before) = fs::read_to_string(SETTING) else {
        ensure!(order == 0);
        return Ok(());
    };
    let chosen = before
        .split(['[', ']'])
        .nth(1)
        .context("nothing is chosen")?;
    for setting in ["never", "madvise", "always"] {
        fs::write(SETTING, setting)?;
        let map = Map::placed(provider.open()?, WINDOW, 0, 0)?;
        map.set(0, 1);
        expect_orders(&map, 0, order, order)?;
    }
    fs::write(SETTING, chosen)?;
    Ok(())
}

fn not_for_those_who_opted_out() -> Result<()> {
    let provider = Provider::first()?;
    let order = order(&provider)?;
    let map = Map::placed(provider.open()?, WINDOW, 0, 0)?;
    // SAFETY: The range is that of the mapping.
    let result = unsafe { madvise(map.at(0).cast(), WINDOW, Advice::LinuxNoHugepage) };
    ensure!(result.is_ok() || order == 0);
    map.fill(0..WINDOW, 1);
    expect_orders(&map, 0, 0, order)?;
    map.check(0..WINDOW, 1)?;
    drop(map);
    provider.expect_taken(0)
}

fn direct_io() -> Result<()> {
    let provider = Provider::first()?;
    let (source, target) = (drive(0)?, drive(1)?);
    let map = Map::placed(provider.open()?, 3 * WINDOW, 0, 0)?;
    for (start, end) in [
        (0, 3 * WINDOW),
        (WINDOW - PAGE, WINDOW + PAGE),
        (PAGE, WINDOW),
    ] {
        copy_through(&map, start..end, &source, &target, start as u64 + 7)?;
    }
    Ok(())
}

/// Maps four large pages, has something split them, and looks whether all is as before.
fn split(seed: u64, how: impl FnOnce(&Map) -> Result<()>) -> Result<()> {
    let provider = Provider::first()?;
    let order = order(&provider)?;
    let map = Map::placed(provider.open()?, 4 * WINDOW, 0, 0)?;
    map.fill(0..4 * WINDOW, seed);
    expect_orders(&map, 0, order, order)?;
    how(&map)?;
    map.check(0..WINDOW, seed)?;
    map.check(3 * WINDOW..4 * WINDOW, seed)?;
    drop(map);
    provider.expect_taken(0)
}

fn unmap_a_part() -> Result<()> {
    split(1, |map| {
        map.unmap(WINDOW + 3 * PAGE..WINDOW + 9 * PAGE)?;
        map.check(WINDOW..WINDOW + 3 * PAGE, 1)?;
        map.check(WINDOW + 9 * PAGE..3 * WINDOW, 1)?;
        map.unmap(2 * WINDOW..3 * WINDOW)?;
        // A folio is one piece: it is back when all of it is unmapped.
        Provider::first()?.expect_taken(4 * WINDOW)
    })
}

fn protect_a_part() -> Result<()> {
    split(2, |map| {
        let start = map.at(WINDOW + PAGE).cast();
        // SAFETY: The range is within the mapping.
        unsafe { mprotect(start, PAGE, MprotectFlags::READ)? };
        map.check(WINDOW..2 * WINDOW, 2)?;
        // SAFETY: As above.
        unsafe { mprotect(start, PAGE, MprotectFlags::READ | MprotectFlags::WRITE)? };
        map.fill(WINDOW..2 * WINDOW, 2);
        map.check(WINDOW..2 * WINDOW, 2)
    })
}

fn move_a_part() -> Result<()> {
    split(3, |map| {
        let place = Map::ordinary(2 * WINDOW)?.into_raw();
        let length = WINDOW + 7 * PAGE;
        // SAFETY: The old range is within the mapping, the new one is that of one that is not in
        // use.
        let moved = unsafe {
            rustix::mm::mremap_fixed(
                map.at(WINDOW + PAGE).cast(),
                length,
                length,
                MremapFlags::MAYMOVE,
                place.cast(),
            )?
        };
        let moved = Map::from_raw(moved.cast(), length);
        for offset in (0..length).step_by(8) {
            let expected = crate::guest::pattern(3, WINDOW + PAGE + offset);
            ensure!(moved.get(offset) == expected, "at {offset:#x}");
        }
        Ok(())
    })
}

fn drop_a_part() -> Result<()> {
    split(4, |map| {
        for range in [
            WINDOW + PAGE..WINDOW + 2 * PAGE,
            2 * WINDOW..3 * WINDOW,
            WINDOW..3 * WINDOW,
        ] {
            // SAFETY: The range is within the mapping.
            unsafe {
                madvise(
                    map.at(range.start).cast(),
                    range.len(),
                    Advice::LinuxDontNeed,
                )?;
            }
            map.check(WINDOW..3 * WINDOW, 4)?;
        }
        Ok(())
    })
}

fn clear_references() -> Result<()> {
    split(5, |map| {
        for what in ["1", "3", "4"] {
            fs::write("/proc/self/clear_refs", what)?;
            map.check(WINDOW..3 * WINDOW, 5)?;
            map.fill(WINDOW..3 * WINDOW, 5);
        }
        Ok(())
    })
}

fn split_by_debugfs() -> Result<()> {
    const FILE: &str = "/sys/kernel/debug/split_huge_pages";
    split(6, |map| {
        if !Path::new(FILE).exists() {
            return Ok(());
        }
        let (start, end) = (map.at(0) as usize, map.at(0) as usize + map.len());
        let request = format!("{},{start:#x},{end:#x},0", std::process::id());
        // An empty split is no error, and a failed one is not a failure of the module.
        let _ = fs::write(FILE, request);
        let _ = fs::write(FILE, "1");
        map.check(0..map.len(), 6)
    })
}

fn memory_failure() -> Result<()> {
    const FILE: &str = "/sys/devices/system/memory/hard_offline_page";
    split(7, |map| {
        let pagemap = File::open("/proc/self/pagemap")?;
        let mut entry = [0; 8];
        let at = (map.at(WINDOW) as usize / PAGE * 8) as u64;
        std::os::unix::fs::FileExt::read_exact_at(&pagemap, &mut entry, at)?;
        let frame = u64::from_le_bytes(entry) & ((1 << 55) - 1);
        ensure!(frame != 0, "no frame");
        // The kernel has no handler for device memory: it reports that, and nothing else happens.
        let result = fs::write(FILE, format!("{:#x}", frame * PAGE as u64));
        ensure!(result.is_err(), "recovered: tell so in the documentation");
        map.check(0..map.len(), 7)
    })
}

fn fork_storm() -> Result<()> {
    let provider = Provider::first()?;
    let map = Map::placed(provider.open()?, 4 * WINDOW + PAGE, 0, 0)?;
    map.fill(0..map.len(), 8);
    for round in 0..rounds(20) {
        let children = (0..6)
            .map(|number| {
                Child::spawn(|| {
                    let at = (number * 97 + round) % 1000 * PAGE;
                    map.unmap(at..at + 5 * PAGE)?;
                    map.check(4 * WINDOW..map.len(), 8)
                })
            })
            .collect::<Result<Vec<_>>>()?;
        for child in children {
            child.expect_success()?;
        }
    }
    map.check(0..map.len(), 8)?;
    drop(map);
    provider.expect_taken(0)
}

fn racing_faults() -> Result<()> {
    let provider = Provider::first()?;
    for _ in 0..rounds(30) {
        let map = Map::placed(provider.open()?, 2 * WINDOW, 0, 0)?;
        std::thread::scope(|scope| {
            for number in 0..4 {
                let map = &map;
                scope.spawn(move || {
                    for offset in [0, WINDOW] {
                        map.add(offset + 8 * number);
                        map.add(offset + 64);
                    }
                });
            }
        });
        // No thread cleared what another one wrote.
        for offset in [0, WINDOW] {
            ensure!(map.count(offset + 64) == 4, "{}", map.count(offset + 64));
            ensure!((0..4).all(|number| map.count(offset + 8 * number) == 1));
        }
    }
    Ok(())
}

/// A thread that is told in the middle that it gets no more large pages: the same span is touched
/// by both kinds of faults.
fn racing_faults_of_both_kinds() -> Result<()> {
    let provider = Provider::first()?;
    let thp_disable = |on: bool| {
        // SAFETY: The call takes numbers only.
        let result =
            unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, libc::c_ulong::from(on), 0, 0, 0) };
        ensure!(result == 0, "{}", last_errno());
        Ok(())
    };
    for round in 0..rounds(200) {
        let map = Map::placed(provider.open()?, WINDOW, 0, 0)?;
        let start = std::sync::Barrier::new(3);
        std::thread::scope(|scope| -> Result<()> {
            for number in 0..2 {
                let (map, start) = (&map, &start);
                scope.spawn(move || {
                    start.wait();
                    for _ in 0..(round * (number + 3)) % 97 {
                        std::hint::spin_loop();
                    }
                    map.add(number * 512);
                });
            }
            start.wait();
            thp_disable(true)
        })?;
        ensure!(map.count(0) == 1 && map.count(512) == 1);
        thp_disable(false)?;
    }
    Ok(())
}

fn fragmented_pool() -> Result<()> {
    let provider = Provider::first()?;
    let order = order(&provider)?;
    let file = provider.open()?;
    // A page in front: the next run that is long enough does not start at a large page.
    let page = Map::new(&file, PAGE)?;
    let map = Map::placed(&file, 4 * WINDOW, 0, 0)?;
    map.fill(0..map.len(), 1);
    expect_orders(&map, 0, order, order)?;
    provider.expect_taken(4 * WINDOW + PAGE)?;
    drop(map);

    // Every other window has a page in its middle: no large page is free, and much memory.
    let mut all = Vec::new();
    while let Ok(map) = Map::with(&file, WINDOW / 2, READ_WRITE, SHARED, 0) {
        all.push(map);
    }
    let free = provider.size / 4;
    for index in (1..all.len())
        .step_by(2)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
    {
        drop(all.swap_remove(index));
    }
    ensure!(provider.available()? > free);
    // These fit into the holes only.
    let holes = (0..8)
        .map(|_| Map::new(&file, WINDOW / 2))
        .collect::<Result<Vec<_>>>()?;
    drop(holes);
    drop(all);
    drop(page);
    provider.expect_taken(0)
}

fn nearly_full_pool() -> Result<()> {
    let provider = Provider::first()?;
    let order = order(&provider)?;
    let file = provider.open()?;
    let page = Map::new(&file, PAGE)?;
    // All the rest, which does not start at a large page: its ends are single pages.
    let length = provider.size - PAGE;
    let map = Map::placed(&file, length, 0, 0)?;
    provider.expect_taken(provider.size)?;
    map.set(0, 1);
    expect_orders(&map, 0, 0, 0)?;
    map.set(PAGE, 1);
    expect_orders(&map, PAGE, 0, order.min(1))?;
    map.set(WINDOW, 2);
    expect_orders(&map, WINDOW, 0, order)?;
    map.set(length - 8, 3);
    ensure!(map.get(0) == 1 && map.get(WINDOW) == 2);
    drop(page);
    drop(map);

    // An address that is behind by as much as the memory.
    let page = Map::new(&file, PAGE)?;
    let map = Map::placed(&file, length, 0, PAGE)?;
    map.set(WINDOW, 2);
    expect_orders(&map, WINDOW, order, order)?;
    drop((map, page));

    // A run of a large page and a page is left, at the end: not worth giving it back for another.
    let page = Map::new(&file, PAGE)?;
    let most = Map::new(&file, provider.size - 2 * WINDOW - PAGE)?;
    let first = Map::new(&file, WINDOW - PAGE)?;
    let map = Map::placed(&file, WINDOW, 0, 0)?;
    provider.expect_taken(provider.size - PAGE)?;
    map.set(0, 1);
    expect_orders(&map, 0, 0, 0)?;
    map.set(PAGE, 1);
    expect_orders(&map, PAGE, 0, order.saturating_sub(1))?;
    drop((map, first, most, page));
    provider.expect_taken(0)
}

/// Freed large pages work as single pages of mainline's own users, and the other way round.
fn pages_go_back_to_mainline() -> Result<()> {
    let provider = Provider::first()?;
    let order = order(&provider)?;
    let source = drive(0)?;
    put_on_drive(&source, 4 * WINDOW, 9)?;
    for _ in 0..rounds(10) {
        let map = Map::placed(provider.open()?, 4 * WINDOW, 0, 0)?;
        read_at(&source, &map, 0..4 * WINDOW, 0)?;
        expect_orders(&map, 0, order, order)?;
        map.check(0..4 * WINDOW, 9)?;
        drop(map);

        let allocate = OpenOptions::new()
            .read(true)
            .write(true)
            .open(provider.device.join("p2pmem/allocate"))?;
        let mainline = Map::new(&allocate, 4 * WINDOW)?;
        // Beside it, from the same pool.
        let ours = Map::placed(provider.open()?, 2 * WINDOW, 0, 0)?;
        mainline.fill(0..4 * WINDOW, 10);
        ours.fill(0..2 * WINDOW, 11);
        read_at(&source, &mainline, PAGE..2 * WINDOW, PAGE as u64)?;
        mainline.check(PAGE..2 * WINDOW, 9)?;
        ours.check(0..2 * WINDOW, 11)?;
        Child::spawn(|| mainline.check(PAGE..2 * WINDOW, 9))?.expect_success()?;
    }
    Ok(())
}

/// Starts a process that reads from a slow drive into device memory, and unmaps that while the
/// reads are in flight. Returns when the memory has no mapping any more.
pub fn leave_reads_in_flight(provider: &Provider, length: usize) -> Result<Child> {
    let source = drive_named("disk0")?;
    put_on_drive(&source, length, 12)?;
    slow_drive(1);
    let child = Child::spawn_ready(|ready| {
        let map = Map::placed(provider.open()?, length, 0, 0)?;
        map.set(0, 1);
        std::thread::scope(|scope| {
            let (map, source) = (&map, &source);
            for part in 0..2 {
                let half = length / 2;
                scope.spawn(move || {
                    let range = part * half..(part + 1) * half;
                    read_at(source, map, range.clone(), range.start as u64)
                });
            }
            std::thread::sleep(Duration::from_millis(700));
            map.unmap(0..length)?;
            ready();
            Ok(())
        })
    })?;
    Ok(child)
}

/// Returns the lines of the list of allocations.
fn allocations() -> Result<Vec<String>> {
    let text = fs::read_to_string("/sys/kernel/debug/p2pmem0/allocations")?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn outstanding() -> Result<Vec<String>> {
    let mut lines = allocations()?;
    lines.retain(|line| line.contains("outstanding"));
    Ok(lines)
}

/// Memory that is unmapped with DMA in flight has an owner and a size in the list, goes to no other
/// user, and is back in the end.
fn unmapped_with_reads_in_flight() -> Result<()> {
    const LENGTH: usize = 4 * WINDOW;
    let provider = Provider::first()?;
    let child = leave_reads_in_flight(&provider, LENGTH)?;
    let lines = outstanding()?;
    ensure!(
        lines.len() == 1 && lines[0].starts_with("guest-tests["),
        "{:?}",
        allocations()?
    );
    let bytes: usize = lines[0]
        .split_once(" bytes ")
        .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok())
        .context("no number")?;
    ensure!((1..=LENGTH).contains(&bytes), "{bytes}");
    ensure!(provider.available()? == provider.size - bytes, "{bytes}");

    // All the rest can be had, and that not.
    let allocate = OpenOptions::new()
        .read(true)
        .write(true)
        .open(provider.device.join("p2pmem/allocate"))?;
    let result = Map::with(&allocate, provider.size, READ_WRITE, SHARED, 0);
    ensure!(result.is_err(), "memory under DMA was allocated");
    slow_drive(0);
    child.expect_success()?;
    provider.expect_full()?;
    ensure!(allocations()?.is_empty(), "{:?}", allocations()?);
    // And is as new.
    let map = Map::new(provider.open()?, LENGTH)?;
    ensure!((0..LENGTH).step_by(8).all(|at| map.get(at) == 0));
    Ok(())
}

fn killed_with_reads_in_flight() -> Result<()> {
    let provider = Provider::first()?;
    let source = drive(0)?;
    put_on_drive(&source, 4 * WINDOW, 1)?;
    for _ in 0..rounds(30) {
        let child = Child::spawn_ready(|ready| {
            let map = Map::placed(provider.open()?, 4 * WINDOW + PAGE, 0, 0)?;
            loop {
                read_at(&source, &map, 0..4 * WINDOW, 0)?;
                ready();
            }
        })?;
        child.kill()?;
        child.expect_signal(libc::SIGKILL)?;
        provider.expect_full()?;
    }
    Ok(())
}

/// Unbinding waits for what was unmapped with DMA in flight, and says for whom.
fn unbind_with_outstanding_reads() -> Result<()> {
    let provider = Provider::first()?;
    let child = leave_reads_in_flight(&provider, 4 * WINDOW)?;
    let words = ["waiting for DMA into ", " bytes that guest-tests["];
    unbind_says(&provider, &words, || {
        slow_drive(0);
        Ok(())
    })?;
    child.expect_success()?;
    restore()
}

fn two_regions() -> Result<()> {
    let provider = Provider::first()?;
    let pci = provider.pci.clone();
    choose(&format!("{pci} bar2+16M bar2@32M+16M"))?;
    unbind(&pci)?;
    restore()?;
    let provider = Provider::first()?;
    let order = order(&provider)?;
    ensure!(provider.size == 32 << 20);
    let (one, two) = (
        Map::placed(provider.open()?, 16 << 20, 0, 0)?,
        Map::placed(provider.open()?, 16 << 20, 0, 0)?,
    );
    for (seed, map) in (1..).zip([&one, &two]) {
        map.fill(0..map.len(), seed);
        expect_orders(map, 0, order, order)?;
        expect_orders(map, map.len() - PAGE, order, order)?;
    }
    for (seed, map) in (1..).zip([&one, &two]) {
        map.check(0..map.len(), seed)?;
    }
    let result = Map::with(provider.open()?, PAGE, READ_WRITE, SHARED, 0);
    expect_errno(result, Errno::NOSPC, "a page more")?;
    drop((one, two));
    provider.expect_taken(0)?;
    choose(&format!("{pci} default"))?;
    unbind(&pci)?;
    bind(&pci)?;
    restore()
}

fn told_by_fdinfo_and_debugfs() -> Result<()> {
    let provider = Provider::first()?;
    let large = if order(&provider)? == 0 {
        0
    } else {
        2 * WINDOW
    };
    let file = provider.open()?;
    let _map = Map::new(&file, 2 * WINDOW + 3 * PAGE)?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    ensure!(
        info.contains(&format!("p2pmem-large:\t{large}\n")),
        "{info}"
    );
    let lines = allocations()?;
    ensure!(
        lines.len() == 1 && lines[0].ends_with(&format!(" large {large}")),
        "{lines:?}"
    );
    Ok(())
}

/// Kernel memory of a mapping does not grow with each page, and is charged to the process that
/// maps.
fn memory_of_the_kernel() -> Result<()> {
    const GROUPS: &str = "/tmp/cgroup";
    let provider = Provider::first()?;
    let large = order(&provider)? != 0;
    fs::create_dir_all(GROUPS)?;
    let flags = rustix::mount::MountFlags::empty();
    match rustix::mount::mount("none", GROUPS, "cgroup2", flags, None) {
        Ok(()) | Err(Errno::BUSY) => (),
        Err(error) => return Err(error).context("cgroup2"),
    }
    fs::write(format!("{GROUPS}/cgroup.subtree_control"), "+memory")?;
    let group = format!("{GROUPS}/large");
    fs::create_dir_all(&group)?;
    let charged = || -> Result<usize> {
        let text = fs::read_to_string(format!("{group}/memory.stat"))?;
        let number = text.lines().find_map(|line| line.strip_prefix("kernel "));
        Ok(number.context("no number")?.parse()?)
    };
    let child = Child::spawn(|| {
        fs::write(
            format!("{group}/cgroup.procs"),
            std::process::id().to_string(),
        )?;
        let length = provider.size - WINDOW;
        let file = provider.open()?;
        // Allocations that are made once.
        drop(Map::placed(&file, WINDOW, 0, 0)?);
        let before = charged()?;
        let map = Map::placed(&file, length, 0, 0)?;
        for offset in (0..length).step_by(PAGE) {
            map.set(offset, 1);
        }
        let grown = charged()?.saturating_sub(before);
        // Page tables of single pages are as much as that for each 8 MiB.
        let limit = if large { 16 << 10 } else { length / 256 };
        ensure!(grown <= limit, "{grown} bytes for {length}");
        println!("# {grown} bytes of kernel memory for {} MiB", length >> 20);
        Ok(())
    })?;
    child.expect_success()?;
    wait_until(Duration::from_secs(5), "the group is empty", || {
        Ok(fs::remove_dir(&group).is_ok())
    })
}

/// Clears memory by fault, each piece once: what was written stays, and what was not is zero.
fn fresh_piece_by_piece() -> Result<()> {
    let provider = Provider::first()?;
    let whole = Map::new(provider.open()?, provider.size)?;
    for offset in (0..provider.size).step_by(64 << 10) {
        whole.set(offset, 1);
    }
    drop(whole);
    let map = Map::placed(provider.open()?, 6 * WINDOW + 9 * PAGE, 0, 3 * PAGE)?;
    let parts: [Range<usize>; 3] = [
        WINDOW..WINDOW + PAGE,
        3 * WINDOW + PAGE..4 * WINDOW,
        6 * WINDOW..6 * WINDOW + 9 * PAGE,
    ];
    for part in &parts {
        map.fill(part.clone(), 1);
    }
    for offset in (0..map.len()).step_by(8) {
        let expected = if parts.iter().any(|part| part.contains(&offset)) {
            crate::guest::pattern(1, offset)
        } else {
            0
        };
        ensure!(map.get(offset) == expected, "at {offset:#x}");
    }
    Ok(())
}
