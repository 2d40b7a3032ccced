// SPDX-License-Identifier: GPL-2.0

//! Mapping device memory.

use std::{fs, fs::File};

use anyhow::{ensure, Context, Result};
use rustix::{
    io::Errno,
    mm::{madvise, mprotect, mremap, Advice, MapFlags, MprotectFlags, MremapFlags},
};

use crate::{
    cases,
    guest::{expect_errno, last_errno, Child, Map, Provider, PAGE, READ, READ_WRITE, WINDOW},
    kmod::TestFile,
};

cases!(
    "mmap": one_page, sixty_four_kib, two_mib, across_windows, whole_bar, odd_length,
    more_than_there_is, full_and_free_in_the_middle, private, wrong_offset, zero_length,
    read_only, write_without_right, populate, first_touch_maps_a_window,
    window_with_pages_present, dont_need, mremap_grow, mremap_move, mremap_duplicate,
    two_mappings_differ, several_opens, protect_and_write, flags, uncached, lock, core_dump_leaves_it_out,
);

const SHARED: MapFlags = MapFlags::SHARED;

/// Maps, writes and reads memory of a certain length.
fn map_of(length: usize) -> Result<()> {
    let provider = Provider::first()?;
    let file = provider.open()?;
    let map = Map::new(&file, length)?;
    provider.expect_taken(length)?;

    map.fill(0..length, 1);
    map.check(0..length, 1)?;
    // The same memory, seen by another process.
    Child::spawn(|| map.check(0..length, 1))?.expect_success()?;

    drop(map);
    provider.expect_taken(0)
}

fn one_page() -> Result<()> {
    map_of(PAGE)
}

fn sixty_four_kib() -> Result<()> {
    map_of(64 << 10)
}

fn two_mib() -> Result<()> {
    map_of(WINDOW)
}

fn across_windows() -> Result<()> {
    map_of((3 << 20) + PAGE)
}

fn whole_bar() -> Result<()> {
    map_of(Provider::first()?.size)
}

fn odd_length() -> Result<()> {
    let provider = Provider::first()?;
    let map = Map::new(provider.open()?, PAGE + 1)?;
    provider.expect_taken(2 * PAGE)?;
    map.fill(0..PAGE, 1);
    drop(map);
    provider.expect_taken(0)
}

fn more_than_there_is() -> Result<()> {
    let provider = Provider::first()?;
    let file = provider.open()?;

    for length in [provider.size + 1, provider.size + PAGE, 1 << 40] {
        let result = Map::with(&file, length, READ_WRITE, SHARED, 0);
        expect_errno(result, Errno::NOSPC, &format!("{length:#x} bytes"))?;
        provider.expect_taken(0)?;
    }
    // Half of it twice fits, one page more does not.
    let _one = Map::new(&file, provider.size / 2)?;
    let _two = Map::new(&file, provider.size / 2)?;
    expect_errno(
        Map::with(&file, PAGE, READ_WRITE, SHARED, 0),
        Errno::NOSPC,
        "one page more",
    )
}

fn full_and_free_in_the_middle() -> Result<()> {
    const PIECE: usize = 1 << 20;
    let provider = Provider::first()?;
    let file = provider.open()?;
    let mut maps = Vec::new();
    while provider.available()? >= PIECE {
        let map = Map::new(&file, PIECE)?;
        map.set(0, maps.len() as u64);
        maps.push(map);
    }
    ensure!(maps.len() == provider.size / PIECE);
    expect_errno(
        Map::with(&file, PAGE, READ_WRITE, SHARED, 0),
        Errno::NOSPC,
        "a full pool",
    )?;

    let middle = maps.len() / 2;
    drop(maps.remove(middle));
    // Two holes of a piece each are no run of two.
    drop(maps.remove(1));
    let result = Map::with(&file, 2 * PIECE, READ_WRITE, SHARED, 0);
    expect_errno(result, Errno::NOSPC, "no run is that long")?;
    maps.push(Map::new(&file, PIECE)?);
    maps.push(Map::new(&file, PIECE)?);
    provider.expect_taken(provider.size)?;

    // No process touched the memory of another one.
    ensure!(maps[0].get(0) == 0 && maps[1].get(0) == 2 && maps[2].get(0) == 3);
    Ok(())
}

fn private() -> Result<()> {
    let provider = Provider::first()?;
    let file = provider.open()?;
    for prot in [READ, READ_WRITE] {
        let result = Map::with(&file, PAGE, prot, MapFlags::PRIVATE, 0);
        expect_errno(result, Errno::INVAL, "a private mapping")?;
    }
    provider.expect_taken(0)
}

fn wrong_offset() -> Result<()> {
    let provider = Provider::first()?;
    let file = provider.open()?;
    for offset in [PAGE as u64, 2 << 20, 1 << 40] {
        let result = Map::with(&file, PAGE, READ_WRITE, SHARED, offset);
        expect_errno(result, Errno::INVAL, &format!("offset {offset:#x}"))?;
    }
    provider.expect_taken(0)
}

fn zero_length() -> Result<()> {
    let provider = Provider::first()?;
    let result = Map::with(provider.open()?, 0, READ_WRITE, SHARED, 0);
    expect_errno(result, Errno::INVAL, "no length")
}

fn read_only() -> Result<()> {
    let provider = Provider::first()?;
    let file = provider.open()?;
    let map = Map::with(&file, 2 * PAGE, READ, SHARED, 0)?;
    let _ = map.get(0);
    Child::spawn(|| {
        map.set(0, 1);
        Ok(())
    })?
    .expect_signal(libc::SIGSEGV)?;

    // SAFETY: The range is that of the mapping.
    unsafe {
        mprotect(
            map.at(0).cast(),
            2 * PAGE,
            MprotectFlags::READ | MprotectFlags::WRITE,
        )?
    };
    map.fill(0..2 * PAGE, 2);
    map.check(0..2 * PAGE, 2)
}

fn write_without_right() -> Result<()> {
    let provider = Provider::first()?;
    let file = File::open(&provider.path)?;
    let result = Map::with(&file, PAGE, READ_WRITE, SHARED, 0);
    expect_errno(
        result,
        Errno::ACCESS,
        "a writable mapping of a file opened for reading",
    )?;
    provider.expect_taken(0)?;

    let map = Map::with(&file, PAGE, READ, SHARED, 0)?;
    let _ = map.get(0);
    let flags = MprotectFlags::READ | MprotectFlags::WRITE;
    // SAFETY: The range is that of the mapping.
    let result = unsafe { mprotect(map.at(0).cast(), PAGE, flags) };
    expect_errno(result, Errno::ACCESS, "mprotect to writable")
}

fn populate() -> Result<()> {
    let provider = Provider::first()?;
    let length = 2 * WINDOW + 3 * PAGE;
    let map = Map::with(
        provider.open()?,
        length,
        READ_WRITE,
        SHARED | MapFlags::POPULATE,
        0,
    )?;
    // mainline's population stops at the first page of device memory: what came along with that
    // is present, the rest comes when it is touched.
    let present = map.present()?;
    let window = (map.at(0) as usize + 1).next_multiple_of(WINDOW) - map.at(0) as usize;
    ensure!(present[..window.min(length) / PAGE]
        .iter()
        .all(|present| *present));
    map.fill(0..length, 5);
    map.check(0..length, 5)
}

/// Returns the offset of the first page of a mapping that begins a page table.
fn first_window(map: &Map) -> usize {
    (map.at(0) as usize).next_multiple_of(WINDOW) - map.at(0) as usize
}

fn first_touch_maps_a_window() -> Result<()> {
    let provider = Provider::first()?;
    let map = Map::new(provider.open()?, 3 * WINDOW)?;
    ensure!(
        map.present()?.iter().all(|present| !present),
        "present before it was touched"
    );

    // A page in the middle of a page table's span.
    let start = first_window(&map);
    map.set(start + WINDOW / 2, 1);
    for (page, present) in map.present()?.into_iter().enumerate() {
        let expected = (start..start + WINDOW).contains(&(page * PAGE));
        ensure!(present == expected, "page {page}: {present}");
    }
    map.fill(0..map.len(), 3);
    map.check(0..map.len(), 3)
}

fn window_with_pages_present() -> Result<()> {
    let provider = Provider::first()?;
    // At an address that no large page fits to.
    let map = Map::placed(provider.open()?, 3 * WINDOW, 0, PAGE)?;
    map.fill(0..map.len(), 4);
    let start = first_window(&map);
    let page = |number: usize| start + number * PAGE;

    // Holes in the middle of a span: each is filled when it is touched, up to the next page
    // that is there, and the pages are the right ones.
    for (first, last) in [(10, 20), (30, 31), (100, 512)] {
        // SAFETY: The range is within the mapping.
        unsafe {
            madvise(
                map.at(page(first)).cast(),
                (last - first) * PAGE,
                Advice::LinuxDontNeed,
            )?;
        }
    }
    map.check(page(15)..page(16), 4)?;
    let present = map.present()?;
    let first = start / PAGE;
    ensure!(
        !present[first + 10] && !present[first + 14],
        "before the touched page"
    );
    ensure!(
        present[first + 15] && present[first + 19],
        "from the touched page on"
    );
    ensure!(
        !present[first + 30] && !present[first + 100],
        "beyond the mapped pages"
    );
    map.check(0..map.len(), 4)
}

fn dont_need() -> Result<()> {
    let provider = Provider::first()?;
    let map = Map::new(provider.open()?, WINDOW)?;
    map.fill(0..WINDOW, 6);
    // SAFETY: The range is that of the mapping.
    unsafe { madvise(map.at(0).cast(), WINDOW, Advice::LinuxDontNeed)? };
    ensure!(
        map.present()?.iter().all(|present| !present),
        "still present"
    );
    provider.expect_taken(WINDOW)?;
    map.check(0..WINDOW, 6)
}

fn mremap_grow() -> Result<()> {
    let provider = Provider::first()?;
    let map = Map::new(provider.open()?, PAGE)?;
    map.fill(0..PAGE, 1);
    for flags in [MremapFlags::empty(), MremapFlags::MAYMOVE] {
        // SAFETY: The range is that of the mapping.
        let result = unsafe { mremap(map.at(0).cast(), PAGE, 2 * PAGE, flags) };
        expect_errno(result, Errno::FAULT, "growth")?;
    }
    provider.expect_taken(PAGE)?;
    map.check(0..PAGE, 1)
}

fn mremap_move() -> Result<()> {
    let provider = Provider::first()?;
    let length = WINDOW + 5 * PAGE;
    let map = Map::new(provider.open()?, length)?;
    map.fill(0..WINDOW, 8);
    let place = Map::ordinary(length)?.into_raw();

    let old = map.into_raw();
    let flags = MremapFlags::MAYMOVE;
    // SAFETY: The old range is that of the mapping, the new one that of an unused mapping.
    let new = unsafe { rustix::mm::mremap_fixed(old.cast(), length, length, flags, place.cast())? };
    let map = Map::from_raw(new.cast(), length);
    map.check(0..WINDOW, 8)?;
    map.fill(WINDOW..length, 8);
    map.check(0..length, 8)?;
    provider.expect_taken(length)?;

    // A piece of it that moves alone keeps its place in the memory.
    let piece = Map::ordinary(PAGE)?.into_raw();
    // SAFETY: As above.
    let new = unsafe {
        rustix::mm::mremap_fixed(map.at(WINDOW).cast(), PAGE, PAGE, flags, piece.cast())?
    };
    let piece = Map::from_raw(new.cast(), PAGE);
    ensure!(
        piece.get(8) == crate::guest::pattern(8, WINDOW + 8),
        "another page"
    );
    drop(map);
    provider.expect_taken(length)?;
    drop(piece);
    provider.expect_taken(0)
}

fn mremap_duplicate() -> Result<()> {
    let provider = Provider::first()?;
    let map = Map::new(provider.open()?, PAGE)?;
    // An old length of 0 would make a second mapping of the same pages.
    // SAFETY: The range is that of the mapping.
    let result = unsafe { mremap(map.at(0).cast(), 0, PAGE, MremapFlags::MAYMOVE) };
    expect_errno(result, Errno::FAULT, "duplicating")?;
    provider.expect_taken(PAGE)
}

fn two_mappings_differ() -> Result<()> {
    let provider = Provider::first()?;
    let file = provider.open()?;
    let (one, two) = (Map::new(&file, WINDOW)?, Map::new(&file, WINDOW)?);
    one.fill(0..WINDOW, 1);
    two.fill(0..WINDOW, 2);
    one.check(0..WINDOW, 1)?;
    two.check(0..WINDOW, 2)?;
    provider.expect_taken(2 * WINDOW)?;
    drop(one);
    provider.expect_taken(WINDOW)?;
    two.check(0..WINDOW, 2)
}

fn several_opens() -> Result<()> {
    let provider = Provider::first()?;
    let files = (0..50)
        .map(|_| provider.open())
        .collect::<Result<Vec<_>>>()?;
    let maps = files
        .iter()
        .map(|file| Map::new(file, 4 * PAGE))
        .collect::<Result<Vec<_>>>()?;
    drop(files);
    for (seed, map) in (0..).zip(&maps) {
        map.fill(0..4 * PAGE, seed);
    }
    for (seed, map) in (0..).zip(&maps) {
        map.check(0..4 * PAGE, seed)?;
    }
    provider.expect_taken(50 * 4 * PAGE)
}

fn protect_and_write() -> Result<()> {
    let provider = Provider::first()?;
    let map = Map::new(provider.open()?, WINDOW)?;
    map.fill(0..WINDOW, 1);
    let (start, half) = (map.at(0).cast(), WINDOW / 2);
    // SAFETY: The ranges are within the mapping.
    unsafe {
        mprotect(start, half, MprotectFlags::READ)?;
        map.check(0..WINDOW, 1)?;
        Child::spawn(|| {
            map.set(half - PAGE, 0);
            Ok(())
        })?
        .expect_signal(libc::SIGSEGV)?;
        mprotect(start, half, MprotectFlags::empty())?;
        Child::spawn(|| {
            let _ = map.get(0);
            Ok(())
        })?
        .expect_signal(libc::SIGSEGV)?;
        mprotect(start, half, MprotectFlags::READ | MprotectFlags::WRITE)?;
    }
    map.check(0..WINDOW, 1)?;
    map.fill(0..WINDOW, 2);
    map.check(0..WINDOW, 2)
}

fn flags() -> Result<()> {
    let provider = Provider::first()?;
    let map = Map::new(provider.open()?, PAGE)?;
    let flags = map.vm_flags()?;
    let has = |flag: &str| flags.iter().any(|one| one == flag);

    // Shared, mixed map, not expandable, not dumped: and nothing that keeps direct I/O out.
    for flag in ["sh", "ms", "mm", "de", "dd"] {
        ensure!(has(flag), "{flag} is missing: {flags:?}");
    }
    for flag in ["io", "pf", "dc"] {
        ensure!(!has(flag), "{flag} is set: {flags:?}");
    }
    Ok(())
}

fn uncached() -> Result<()> {
    // Of the bits that say how memory is cached PCD (0x10) is set, PWT (0x8) and PAT (0x80) are
    // not.
    let map = Map::new(Provider::first()?.open()?, PAGE)?;
    map.set(0, 1);
    let entry = TestFile::open()?.pte(map.at(0))?.value;
    ensure!(
        entry & 1 == 1 && entry & 0x98 == 0x10,
        "the entry is {entry:#x}"
    );
    Ok(())
}

fn lock() -> Result<()> {
    let provider = Provider::first()?;
    let map = Map::new(provider.open()?, PAGE)?;
    // Long-term pinning is refused for these pages, and the mapping stays good.
    // SAFETY: The range is that of the mapping.
    let result = unsafe { libc::mlock(map.at(0).cast(), PAGE) };
    ensure!(
        result == 0 || last_errno() == Errno::REMOTEIO,
        "{}",
        last_errno()
    );
    map.fill(0..PAGE, 1);
    map.check(0..PAGE, 1)
}

fn core_dump_leaves_it_out() -> Result<()> {
    let provider = Provider::first()?;
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    fs::write("/proc/sys/kernel/core_pattern", "/tmp/core")?;
    let length = 16 << 20;
    Child::spawn(|| {
        let limit = libc::rlimit {
            rlim_cur: libc::RLIM_INFINITY,
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: The limit is valid for the call.
        ensure!(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &limit) } == 0);
        let map = Map::new(provider.open()?, length)?;
        map.fill(0..length, 1);
        // SAFETY: Ends the process.
        unsafe { libc::abort() }
    })?
    .expect_signal(libc::SIGABRT)?;
    fs::write("/proc/sys/kernel/core_pattern", pattern)?;

    let core = fs::metadata("/tmp/core").context("no core dump")?.len();
    fs::remove_file("/tmp/core")?;
    ensure!(
        core < length as u64,
        "the dump of {core} bytes has the mapping in it"
    );
    provider.expect_full()
}
