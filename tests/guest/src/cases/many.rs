// SPDX-License-Identifier: GPL-2.0

//! Much, and large: mappings, files, providers, a BAR. What it costs is said in lines that `make
//! bench` collects.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{ensure, Context, Result};
use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    fs::{seek, SeekFrom},
    io::Errno,
    mm::MapFlags,
    process::{setrlimit, Resource, Rlimit},
};

use super::unbind::unbind_promptly;
use crate::{
    cases,
    guest::{
        bind, drive, expect_errno, on_debug_kernel, put_on_drive, read_at, restore, rmmod, unbind,
        wait_until, Child, Map, Mark, Provider, PAGE, READ_WRITE, WINDOW,
    },
    programs::says,
};

cases!("many": mappings_of_a_process, mappings_when_the_device_goes, open_files);

/// Returns how much memory is not free, in KiB.
fn memory_in_use() -> Result<i64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let of = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        number
            .and_then(|word| word.parse::<i64>().ok())
            .context("no number")
    };
    Ok(of("MemTotal:")? - of("MemFree:")? - of("Cached:")? - of("Buffers:")?)
}

/// Calls a function, and says what that cost.
fn measured<T>(what: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
    let (before, started) = (memory_in_use()?, Instant::now());
    let result = run()?;
    let seconds = started.elapsed().as_secs_f64();
    let memory = memory_in_use()? - before;
    println!("# measured: {what}: {seconds:.2} s, {memory:+} KiB of ordinary memory");
    Ok(result)
}

/// Maps as many single pages as there are: 32,768 of 128 MiB.
fn single_pages(provider: &Provider) -> Result<Vec<Map>> {
    let file = provider.open()?;
    let count = provider.size / PAGE / if on_debug_kernel() { 64 } else { 1 };
    let maps: Vec<_> = (0..count)
        .map(|_| Map::new(&file, PAGE))
        .collect::<Result<_>>()?;
    provider.expect_taken(count * PAGE)?;
    if count * PAGE == provider.size {
        let one_more = Map::with(&file, PAGE, READ_WRITE, MapFlags::SHARED, 0);
        expect_errno(one_more, Errno::NOSPC, "one page more")?;
    }
    Ok(maps)
}

fn mappings_of_a_process() -> Result<()> {
    let provider = Provider::first()?;
    let maps = measured("map each page of the pool", || single_pages(&provider))?;
    let count = maps.len();
    println!("# {count} mappings");
    measured("write to each", || {
        (0..)
            .zip(&maps)
            .for_each(|(number, map)| map.set(0, number));
        Ok(())
    })?;
    for (number, map) in (0..).zip(&maps) {
        ensure!(map.get(0) == number && map.get(8) == 0, "mapping {number}");
    }
    let lines = fs::read_to_string("/proc/self/maps")?;
    let node = provider.path.to_string_lossy().into_owned();
    ensure!(lines.lines().filter(|line| line.ends_with(&node)).count() == count);

    put_on_drive(&drive(0)?, PAGE, 5)?;
    for map in maps.iter().step_by(count / 16) {
        read_at(&drive(0)?, map, 0..PAGE, 0)?;
        map.check(0..PAGE, 5)?;
    }
    // Pages go back in any order.
    let (even, odd): (Vec<_>, Vec<_>) = (0..).zip(maps).partition(|(number, _)| number % 2 == 0);
    measured("unmap every other one", || {
        drop(even);
        provider.expect_taken(count / 2 * PAGE)
    })?;
    for (number, map) in odd.iter().skip(1) {
        ensure!(
            number % (count / 16) == 0 || map.get(0) == *number as u64,
            "mapping {number}"
        );
    }
    measured("unmap the rest", || {
        drop(odd);
        provider.expect_full()
    })
}

fn mappings_when_the_device_goes() -> Result<()> {
    let provider = Provider::first()?;
    // One after the other they go away: all are gone when unbinding has ended.
    let (ready, ended) = (Map::shared(PAGE)?, Map::shared(PAGE)?);
    let child = Child::spawn(|| {
        let maps = single_pages(&provider)?;
        maps.iter().for_each(|map| map.set(0, 1));
        ready.add(0);
        while ended.count(0) == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
        let (_reader, writer) = rustix::pipe::pipe()?;
        for map in &maps {
            expect_errno(
                map.write_byte(&writer, 0),
                Errno::FAULT,
                "a page that is gone",
            )?;
        }
        Ok(())
    })?;
    wait_until(Duration::from_secs(60), "all is mapped", || {
        Ok(ready.count(0) > 0)
    })?;
    measured("unbind with a mapping for each page", || {
        unbind_promptly(&provider)
    })?;
    ended.add(0);
    child.expect_success()?;
    restore()
}

fn open_files() -> Result<()> {
    const COUNT: usize = 1000;
    let provider = Provider::first()?;
    let limit = Some(COUNT as u64 + 100);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit,
            maximum: limit,
        },
    )?;
    let files = measured("open the node 1,000 times", || {
        (0..COUNT)
            .map(|_| provider.open())
            .collect::<Result<Vec<_>>>()
    })?;
    let maps: Vec<_> = files
        .iter()
        .map(|file| Map::new(file, PAGE))
        .collect::<Result<_>>()?;
    provider.expect_taken(COUNT * PAGE)?;
    for (number, map) in (0..).zip(&maps) {
        map.set(0, number);
    }
    for (number, map) in (0..).zip(&maps) {
        ensure!(map.get(0) == number, "mapping {number}");
    }
    measured("unbind with 1,000 open files", || {
        unbind_promptly(&provider)
    })?;
    for (file, map) in files.iter().zip(&maps) {
        expect_errno(seek(file, SeekFrom::End(0)), Errno::NODEV, "lseek")?;
        let mut entries = [PollFd::new(file, PollFlags::IN)];
        ensure!(poll(&mut entries, Some(&Timespec::default()))? == 1);
        ensure!(entries[0].revents().contains(PollFlags::HUP));
        ensure!(!map.is_readable(0)?);
    }
    drop((files, maps));
    restore()
}

/// As many providers as there can be. Needs the topology fanout.
pub mod fanout {
    use super::*;

    cases!("fanout": providers_at_once);
}

fn providers_at_once() -> Result<()> {
    const COUNT: usize = 256;
    rmmod()?;
    measured("load the module with 256 devices", restore)?;
    let mut all = Provider::all()?;
    ensure!(all.len() == COUNT, "{} providers", all.len());
    for (number, provider) in all.iter().enumerate() {
        ensure!(provider.path.ends_with(format!("p2pmem{number}")) && provider.path.exists());
    }

    // All of all of them, at once.
    let maps: Vec<_> = all
        .iter()
        .map(|provider| Map::new(provider.open()?, provider.size))
        .collect::<Result<_>>()?;
    for (number, map) in (0..).zip(&maps) {
        map.fill(0..PAGE, number);
        map.set(map.len() - 8, number);
    }
    for (number, map) in (0..).zip(&maps) {
        map.check(0..PAGE, number)?;
        ensure!(map.get(map.len() - 8) == number);
    }
    let listed = says(&["list"])?;
    ensure!(listed.matches("/dev/p2pmem").count() == COUNT, "{listed}");

    // There is no number for one more.
    let more = fs::read_dir("/sys/bus/pci/devices")?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| fs::read_to_string(path.join("device")).is_ok_and(|id| id.trim() == "0x0005"))
        .context("no pci-testdev")?;
    let pci = more
        .file_name()
        .context("no name")?
        .to_string_lossy()
        .into_owned();
    fs::write(more.join("driver_override"), "p2pmem_rs")?;
    let mark = Mark::new()?;
    ensure!(bind(&pci).is_err(), "there are 257 providers");
    mark.expect(&[&pci, "256 providers"])?;
    // One that goes makes room, and the others are as they were.
    let gone = all.remove(100);
    unbind(&gone.pci)?;
    bind(&pci)?;
    let other = Provider::of(&pci)?.context("it has no node")?;
    ensure!(other.path == gone.path, "{:?}", other.path);
    for (number, map) in (0..).zip(&maps) {
        ensure!(map.is_readable(0)? == (number != 100), "provider {number}");
    }
    unbind(&pci)?;
    fs::write(more.join("driver_override"), "\n")?;
    drop(maps);
    restore()?;
    measured("unload the module", || Ok(rmmod()?))?;
    restore()
}

/// Needs the topology large-bar.
pub mod huge {
    use super::*;

    cases!("huge": bar_of_64_gib);
}

fn bar_of_64_gib() -> Result<()> {
    const GIB: usize = 1 << 30;
    const SIZE: usize = 64 * GIB;
    rmmod()?;
    measured("load the module with 64 GiB", restore)?;
    let provider = Provider::first()?;
    ensure!(provider.size == SIZE, "{}", provider.size);
    let file = provider.open()?;
    let map = measured("map 64 GiB", || Map::new(&file, SIZE))?;
    provider.expect_taken(SIZE)?;
    let one_more = Map::with(&file, PAGE, READ_WRITE, MapFlags::SHARED, 0);
    expect_errno(one_more, Errno::NOSPC, "one page more")?;

    measured("touch a page of each GiB", || {
        for number in 0..64 {
            map.set(number * GIB + PAGE, number as u64 + 1);
        }
        map.set(SIZE - 8, 65);
        Ok(())
    })?;
    for number in 0..64 {
        ensure!(
            map.get(number * GIB + PAGE) == number as u64 + 1,
            "{number} GiB"
        );
        ensure!(map.get(number * GIB) == 0, "{number} GiB");
    }
    ensure!(map.get(SIZE - 8) == 65);

    // Far from the start as well, and where numbers of 32 bits end.
    const LENGTH: usize = 1 << 20;
    put_on_drive(&drive(0)?, LENGTH, 9)?;
    for start in [0, 4 * GIB - LENGTH / 2, 33 * GIB + WINDOW, SIZE - LENGTH] {
        read_at(&drive(0)?, &map, start..start + LENGTH, 0)?;
        for offset in (0..LENGTH).step_by(PAGE) {
            let (found, expected) = (map.get(start + offset), crate::guest::pattern(9, offset));
            ensure!(found == expected, "at {:#x}: {found:#x}", start + offset);
        }
    }
    measured("unmap 64 GiB", || {
        drop(map);
        provider.expect_full()
    })?;

    let map = Map::new(&file, SIZE)?;
    map.set(63 * GIB, 1);
    measured("unbind with 64 GiB mapped", || unbind_promptly(&provider))?;
    ensure!(!map.is_readable(63 * GIB)?);
    drop((map, file));
    wait_until(Duration::from_secs(5), "the node is gone", || {
        Ok(!provider.path.exists())
    })?;
    restore()
}
