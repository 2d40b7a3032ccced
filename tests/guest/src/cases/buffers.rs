// SPDX-License-Identifier: GPL-2.0

//! Properties of allocated memory: it is cleared, limited, and listed.

use std::{
    fs::{self, File, OpenOptions},
    io::Read,
    os::fd::AsRawFd,
};

use anyhow::{ensure, Context, Result};
use p2pmem::{abi, Provider as Node};
use rustix::{io::Errno, mm::MapFlags};

use crate::{
    cases,
    guest::{
        become_user, expect_errno, expect_io_errno, unbind, Child, Map, Provider, PAGE, READ_WRITE,
        WINDOW,
    },
};

cases!(
    "buffers": old_data_is_cleared, mainline_shows_old_data, clearing_can_be_turned_off,
    limit_of_a_file, limit_of_a_user, limits_are_reserved_first, limits_of_nonsense, no_room_is_not_no_memory, largest_run,
    attributes, fdinfo, list_for_developers, place_of_the_device, bus_address_for_root_only, trace_events,
);

const LENGTH: usize = 4 * WINDOW;

/// Leaves data in memory that goes back to the pool.
fn leave_data(provider: &Provider) -> Result<()> {
    let map = Map::new(provider.open()?, provider.size)?;
    map.fill(0..LENGTH, 1);
    map.set(provider.size - 8, 1);
    Ok(())
}

/// Counts the words that are not zero.
fn old_words(map: &Map, length: usize) -> usize {
    (0..length)
        .step_by(8)
        .filter(|&offset| map.get(offset) != 0)
        .count()
}

fn old_data_is_cleared() -> Result<()> {
    let provider = Provider::first()?;
    leave_data(&provider)?;
    let map = Map::new(provider.open()?, provider.size)?;
    ensure!(old_words(&map, LENGTH) == 0, "old data is seen");
    ensure!(map.get(provider.size - 8) == 0, "the end is not cleared");
    drop(map);

    // A handle as well, and through a drive: what direct I/O reads of it.
    leave_data(&provider)?;
    let node = Node::open(&provider.path)?;
    let handle = node.alloc(LENGTH as u64, 0)?;
    let map = Map::new(&handle, LENGTH)?;
    ensure!(old_words(&map, LENGTH) == 0, "old data is seen in a handle");
    Ok(())
}

/// Users of the kernel's own file see data of others.
fn mainline_shows_old_data() -> Result<()> {
    let provider = Provider::first()?;
    leave_data(&provider)?;
    let allocate = OpenOptions::new()
        .read(true)
        .write(true)
        .open(provider.device.join("p2pmem/allocate"))?;
    let map = Map::new(&allocate, LENGTH)?;
    ensure!(
        old_words(&map, LENGTH) != 0,
        "mainline clears memory now: say so in docs/faults.md"
    );
    Ok(())
}

/// A setting of a provider. Undone when it is dropped.
struct Setting {
    path: std::path::PathBuf,
    before: String,
}

impl Setting {
    fn set(provider: &Provider, name: &str, value: &str) -> Result<Self> {
        let path = attribute(provider, name);
        let before = fs::read_to_string(&path)?;
        fs::write(&path, value)?;
        Ok(Self { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        fs::write(&self.path, &self.before).expect("it can be set back");
    }
}

fn attribute(provider: &Provider, name: &str) -> std::path::PathBuf {
    let node = provider.path.file_name().expect("a name");
    std::path::Path::new("/sys/class/misc")
        .join(node)
        .join(name)
}

fn clearing_can_be_turned_off() -> Result<()> {
    let provider = Provider::first()?;
    let node = Node::open(&provider.path)?;
    ensure!(node.info()?.flags & abi::P2PMEM_INFO_CLEARED != 0);
    {
        let _off = Setting::set(&provider, "clear", "0")?;
        ensure!(node.info()?.flags & abi::P2PMEM_INFO_CLEARED == 0);
        leave_data(&provider)?;
        let map = Map::new(provider.open()?, LENGTH)?;
        ensure!(old_words(&map, LENGTH) != 0, "cleared all the same");
        drop(map);
        // Nothing is to be waited for: a short mapping is present before it is touched.
        let map = Map::new(provider.open()?, 4 * PAGE)?;
        ensure!(map.present()? == [true; 4], "not present");
        ensure!(old_words(&map, 4 * PAGE) != 0, "cleared all the same");
    }
    leave_data(&provider)?;
    let map = Map::new(provider.open()?, LENGTH)?;
    ensure!(old_words(&map, LENGTH) == 0, "not cleared");
    for nonsense in ["2", "", "yes", "-1"] {
        let path = attribute(&provider, "clear");
        if !nonsense.is_empty() {
            expect_io_errno(fs::write(path, nonsense), Errno::INVAL, nonsense)?;
        }
    }
    Ok(())
}

fn map_of(file: &File, length: usize) -> Result<Map, Errno> {
    Map::with(file, length, READ_WRITE, MapFlags::SHARED, 0)
}

fn limit_of_a_file() -> Result<()> {
    let provider = Provider::first()?;
    let _limit = Setting::set(&provider, "limit_per_file", "4M")?;
    let (one, two) = (provider.open()?, provider.open()?);
    let first = map_of(&one, 3 << 20)?;
    expect_errno(map_of(&one, (1 << 20) + PAGE), Errno::DQUOT, "more")?;
    let rest = map_of(&one, 1 << 20)?;
    expect_errno(map_of(&one, PAGE), Errno::DQUOT, "a page more")?;
    provider.expect_taken(4 << 20)?;
    // Another file has a limit of its own.
    let other = map_of(&two, 4 << 20)?;
    drop(first);
    drop(map_of(&one, 3 << 20)?);
    // Handles count, even if the node is closed, for who has it.
    let node = Node::open(&provider.path)?;
    let handle = node.alloc(4 << 20, 0)?;
    expect_io_errno(node.alloc(PAGE as u64, 0), Errno::DQUOT, "a handle more")?;
    drop((handle, rest, other));
    drop(node.alloc(PAGE as u64, 0)?);
    Ok(())
}

fn limit_of_a_user() -> Result<()> {
    let provider = Provider::first()?;
    let _limit = Setting::set(&provider, "limit_per_user", "0x400000")?;
    let files = [provider.open()?, provider.open()?];
    let map = map_of(&files[0], 4 << 20)?;
    expect_errno(map_of(&files[1], PAGE), Errno::DQUOT, "by another file")?;
    // A file counts for the user who opened it, also in processes of others.
    let path = std::path::Path::new("/tmp/p2pmem-for-all");
    let number = rustix::fs::stat(&provider.path)?.st_rdev;
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        rustix::fs::FileType::CharacterDevice,
        mode,
        number,
    )?;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    Child::spawn(|| {
        become_user()?;
        expect_errno(map_of(&files[1], PAGE), Errno::DQUOT, "root's, inherited")?;
        let own = OpenOptions::new().read(true).write(true).open(path)?;
        let _map = map_of(&own, 4 << 20)?;
        expect_errno(map_of(&own, PAGE), Errno::DQUOT, "the other user's")
    })?
    .expect_success()?;
    fs::remove_file(path)?;
    drop(map);
    drop(map_of(&files[1], 4 << 20)?);
    Ok(())
}

/// A user who asks for more than is allowed, again and again, takes nothing from others.
fn limits_are_reserved_first() -> Result<()> {
    let provider = Provider::first()?;
    let _limit = Setting::set(
        &provider,
        "limit_per_file",
        &(provider.size - PAGE).to_string(),
    )?;
    let file = provider.open()?;
    let _half = map_of(&provider.open()?, provider.size / 2)?;
    let greedy = Child::spawn_ready(|ready| loop {
        expect_errno(map_of(&file, provider.size), Errno::DQUOT, "all")?;
        ready();
    })?;
    for _ in 0..2000 {
        drop(map_of(&provider.open()?, provider.size / 2)?);
    }
    greedy.kill()?;
    greedy.expect_signal(libc::SIGKILL)
}

fn limits_of_nonsense() -> Result<()> {
    let provider = Provider::first()?;
    for name in ["limit_per_file", "limit_per_user"] {
        let path = attribute(&provider, name);
        for nonsense in ["-1", "x", "1T", "99999999999999999999"] {
            expect_io_errno(fs::write(&path, nonsense), Errno::INVAL, nonsense)?;
        }
        ensure!(fs::read_to_string(&path)?.trim() == "0");
    }
    Child::spawn(|| {
        become_user()?;
        let path = attribute(&provider, "limit_per_user");
        expect_io_errno(fs::write(path, "1"), Errno::ACCESS, "by a user")
    })?
    .expect_success()
}

fn no_room_is_not_no_memory() -> Result<()> {
    let provider = Provider::first()?;
    let node = Node::open(&provider.path)?;
    let size = provider.size as u64;
    for more in [size + PAGE as u64, 1 << 50, u64::MAX & !(PAGE as u64 - 1)] {
        expect_io_errno(node.alloc(more, 0), Errno::NOSPC, &format!("{more:#x}"))?;
    }
    let _all = node.alloc(size, 0)?;
    expect_io_errno(node.alloc(PAGE as u64, 0), Errno::NOSPC, "a page")?;
    expect_errno(map_of(&provider.open()?, PAGE), Errno::NOSPC, "a mapping")
}

fn largest_run() -> Result<()> {
    let provider = Provider::first()?;
    let node = Node::open(&provider.path)?;
    let size = provider.size as u64;
    let piece = size / 8;
    ensure!(node.info()?.largest == size, "of an empty pool");
    let mut maps = (0..8)
        .map(|_| Map::new(&node, piece as usize).map(Some))
        .collect::<Result<Vec<_>>>()?;
    ensure!(node.info()?.largest == 0 && node.info()?.available == 0);
    maps[1] = None;
    maps[4] = None;
    ensure!(node.info()?.largest == piece);
    maps[5] = None;
    ensure!(
        node.info()?.largest == 2 * piece,
        "{}",
        node.info()?.largest
    );
    ensure!(node.info()?.available == 3 * piece);
    maps[7] = None;
    maps[6] = None;
    ensure!(node.info()?.largest == 4 * piece, "at the end");
    // It is there indeed.
    drop(Map::new(&node, 4 * piece as usize)?);
    Ok(())
}

fn attributes() -> Result<()> {
    let provider = Provider::first()?;
    let read = |name| fs::read_to_string(attribute(&provider, name)).context(name);
    let size = provider.size;
    ensure!(read("size")? == format!("{size}\n"));
    ensure!(read("regions")? == format!("bar2@0x0+{size:#x}:bar\n"));
    ensure!(read("adopted")? == "0\n" && read("clear")? == "1\n");
    let map = Map::new(provider.open()?, 3 * PAGE)?;
    ensure!(read("allocated")? == format!("{}\n", 3 * PAGE));
    ensure!(read("available")? == format!("{}\n", size - 3 * PAGE));
    ensure!(read("largest")? == format!("{}\n", size - 3 * PAGE));
    drop(map);
    ensure!(read("allocated")? == "0\n");
    for name in [
        "size",
        "allocated",
        "available",
        "largest",
        "regions",
        "adopted",
    ] {
        let result = OpenOptions::new()
            .write(true)
            .open(attribute(&provider, name))
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"1"));
        ensure!(result.is_err(), "{name} can be written");
    }
    // Held open over the end.
    let mut file = File::open(attribute(&provider, "size"))?;
    unbind(&provider.pci)?;
    ensure!(file.read(&mut [0; 16]).is_err(), "readable afterwards");
    crate::guest::restore()
}

fn fdinfo() -> Result<()> {
    let provider = Provider::first()?;
    let (one, two) = (provider.open()?, provider.open()?);
    let _map = map_of(&one, 5 * PAGE)?;
    let told = |file: &File| fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()));
    ensure!(told(&one)?.contains(&format!("p2pmem-allocated:\t{}\n", 5 * PAGE)));
    ensure!(told(&two)?.contains("p2pmem-allocated:\t0\n"));
    unbind(&provider.pci)?;
    ensure!(told(&one)?.contains("p2pmem-allocated:\t0\n"));
    crate::guest::restore()
}

fn list_for_developers() -> Result<()> {
    let provider = Provider::first()?;
    let list = || fs::read_to_string("/sys/kernel/debug/p2pmem0/allocations");
    ensure!(list()?.is_empty(), "{}", list()?);
    let _map = map_of(&provider.open()?, 5 * PAGE)?;
    let line = list()?;
    let words = [format!(
        "guest-tests[{}] uid 0 bytes {} at 0x",
        std::process::id(),
        5 * PAGE
    )];
    ensure!(words.iter().all(|word| line.contains(word)), "{line}");
    Ok(())
}

fn place_of_the_device() -> Result<()> {
    let provider = Provider::first()?;
    let info = Node::open(&provider.path)?.info()?;
    let name = format!(
        "{:04x}:{:02x}:{:02x}.{}",
        info.pci_domain,
        info.pci_bus,
        info.pci_devfn >> 3,
        info.pci_devfn & 7
    );
    ensure!(name == provider.pci, "{name} is not {}", provider.pci);
    // A kernel without NUMA nodes does not have the file.
    let node = fs::read_to_string(provider.device.join("numa_node"));
    let node = node.unwrap_or_else(|_| "-1".to_owned());
    ensure!(node.trim() == info.numa_node.to_string());
    ensure!(info.capabilities & 0b11111 == 0b11111 && info.flags & abi::P2PMEM_INFO_ADOPTED == 0);
    Ok(())
}

fn bus_address_for_root_only() -> Result<()> {
    let provider = Provider::first()?;
    let node = Node::open(&provider.path)?;
    let resources = fs::read_to_string(provider.device.join("resource"))?;
    let start = resources
        .lines()
        .nth(2)
        .and_then(|line| line.split_whitespace().next())
        .context("BAR 2")?;
    let start = u64::from_str_radix(start.trim_start_matches("0x"), 16)?;
    // On this machine the bus and the processor see the same addresses.
    ensure!(node.region(0)?.bus_address == start);
    ensure!(node.region(0)?.kind == 0);
    Child::spawn(|| {
        become_user()?;
        ensure!(node.region(0)?.bus_address == 0, "told to a user");
        Ok(())
    })?
    .expect_success()
}

fn trace_events() -> Result<()> {
    const TRACING: &str = "/sys/kernel/tracing";
    let file = |name: &str| format!("{TRACING}/{name}");
    if !std::path::Path::new(&file("trace")).exists() {
        rustix::mount::mount(
            "tracefs",
            TRACING,
            "tracefs",
            rustix::mount::MountFlags::empty(),
            None,
        )
        .context("tracefs")?;
    }
    let provider = Provider::first()?;
    fs::write(file("events/p2pmem/enable"), "1")?;
    fs::write(file("trace"), "")?;
    {
        let map = Map::new(provider.open()?, WINDOW + PAGE)?;
        map.set(0, 1);
        map.set(WINDOW, 1);
    }
    let map = Map::new(provider.open()?, PAGE)?;
    unbind(&provider.pci)?;
    drop(map);
    let trace = fs::read_to_string(file("trace"))?;
    fs::write(file("events/p2pmem/enable"), "0")?;
    crate::guest::restore()?;

    let sizes = |event: &str| -> Vec<usize> {
        trace
            .lines()
            .filter(|line| line.contains(&format!("{event}: {} ", provider.pci)))
            .filter_map(|line| line.rsplit_once("size=")?.1.parse().ok())
            .collect()
    };
    ensure!(sizes("p2pmem_alloc") == [WINDOW + PAGE, PAGE], "{trace}");
    ensure!(
        sizes("p2pmem_map").iter().sum::<usize>() == WINDOW + PAGE,
        "{trace}"
    );
    ensure!(sizes("p2pmem_free") == [WINDOW + PAGE, PAGE], "{trace}");
    ensure!(sizes("p2pmem_revoke") == [PAGE], "{trace}");
    Ok(())
}
