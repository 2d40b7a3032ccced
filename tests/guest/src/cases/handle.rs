// SPDX-License-Identifier: GPL-2.0

//! Memory that has a descriptor: mapped, passed on, imported by other devices.

use std::{
    fs::{self, File},
    os::fd::AsFd,
    time::Duration,
};

use anyhow::{ensure, Result};
use p2pmem::{
    abi::{P2PMEM_ALLOC_FIXED, P2PMEM_ALLOC_IRREVOCABLE, P2PMEM_ALLOC_WRITE_COMBINING},
    Handle, Provider as Node,
};
use rustix::{
    io::{fcntl_getfd, Errno, FdFlags},
    mm::MapFlags,
};

use super::unbind::unbind_says;
use crate::{
    cases,
    guest::{
        address_named, copy_through, drive, expect_errno, expect_io_errno, read_at, restore,
        rounds, unbind, Child, Map, Provider, PAGE, READ, READ_WRITE, WINDOW,
    },
    kmod::{TestFile, PEER, REVOCABLE, STATIC},
};

cases!(
    "handle": mapped_anywhere_any_often, size_and_name, closed_on_exec, given_to_a_child,
    freed_with_its_last_user, direct_io, direct_io_after_closing, nonsense, read_only_node,
    write_combining, seen_by_dma_buf_statistics, unbind_takes_it_back, unbind_races_with_mapping,
    many, imported, imported_and_revoked, imported_by_one_that_takes_its_time, not_imported,
    imported_by_one_that_cannot_let_go, functions_of_export,
);

/// Allocates memory through a node of its own.
pub fn alloc(provider: &Provider, size: usize) -> Result<(Node, Handle)> {
    let node = Node::open(&provider.path)?;
    let handle = node.alloc(size as u64, 0)?;
    Ok((node, handle))
}

fn part(handle: impl AsFd, offset: usize, length: usize) -> Result<Map, Errno> {
    Map::with(handle, length, READ_WRITE, MapFlags::SHARED, offset as u64)
}

fn mapped_anywhere_any_often() -> Result<()> {
    let provider = Provider::first()?;
    let (_node, handle) = alloc(&provider, 3 * WINDOW)?;
    provider.expect_taken(3 * WINDOW)?;
    let whole = part(&handle, 0, 3 * WINDOW)?;
    let middle = part(&handle, WINDOW + PAGE, WINDOW)?;
    let end = part(&handle, 3 * WINDOW - PAGE, PAGE)?;
    provider.expect_taken(3 * WINDOW)?;

    whole.fill(0..3 * WINDOW, 1);
    for offset in (0..WINDOW).step_by(8) {
        ensure!(middle.get(offset) == whole.get(WINDOW + PAGE + offset));
    }
    end.set(8, 42);
    ensure!(whole.get(3 * WINDOW - PAGE + 8) == 42);

    for (offset, length) in [
        (3 * WINDOW, PAGE),
        (0, 3 * WINDOW + PAGE),
        (WINDOW, 2 * WINDOW + PAGE),
        (usize::MAX & !(PAGE - 1), PAGE),
    ] {
        ensure!(
            part(&handle, offset, length).is_err(),
            "{offset:#x}+{length:#x}"
        );
    }
    let private = Map::with(&handle, PAGE, READ_WRITE, MapFlags::PRIVATE, 0);
    expect_errno(private, Errno::INVAL, "a private mapping")
}

fn size_and_name() -> Result<()> {
    let provider = Provider::first()?;
    let (_node, handle) = alloc(&provider, 5 * PAGE)?;
    ensure!(handle.size()? == 5 * PAGE as u64);
    handle.set_name(c"a name of its own")?;
    let told = fs::read_to_string(format!(
        "/proc/self/fdinfo/{}",
        std::os::fd::AsRawFd::as_raw_fd(&handle.as_fd())
    ))?;
    ensure!(told.contains("name:\ta name of its own") && told.contains("exp_name:\tp2pmem_rs"));
    Ok(())
}

fn closed_on_exec() -> Result<()> {
    let (_node, handle) = alloc(&Provider::first()?, PAGE)?;
    ensure!(fcntl_getfd(&handle)?.contains(FdFlags::CLOEXEC));
    Ok(())
}

fn given_to_a_child() -> Result<()> {
    let provider = Provider::first()?;
    let (node, handle) = alloc(&provider, WINDOW)?;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let child = Child::spawn(|| {
        let handle = Handle::from(super::share::receive(&theirs)?);
        let map = part(&handle, 0, WINDOW)?;
        map.check(0..WINDOW, 7)?;
        map.fill(0..WINDOW, 8);
        Ok(())
    })?;
    let map = part(&handle, 0, WINDOW)?;
    map.fill(0..WINDOW, 7);
    super::share::send(&ours, handle.as_fd())?;
    drop(node);
    child.expect_success()?;
    map.check(0..WINDOW, 8)?;
    provider.expect_taken(WINDOW)
}

fn freed_with_its_last_user() -> Result<()> {
    let provider = Provider::first()?;
    let (node, handle) = alloc(&provider, WINDOW)?;
    let map = part(&handle, PAGE, 3 * PAGE)?;
    drop(node);
    provider.expect_taken(WINDOW)?;
    drop(handle);
    // A mapping is a user, of the whole.
    provider.expect_taken(WINDOW)?;
    map.fill(0..3 * PAGE, 1);
    drop(map);
    provider.expect_taken(0)
}

fn direct_io() -> Result<()> {
    let provider = Provider::first()?;
    let (_node, handle) = alloc(&provider, 2 * WINDOW)?;
    let map = part(&handle, PAGE, WINDOW)?;
    copy_through(&map, 0..WINDOW, &drive(0)?, &drive(1)?, 3)
}

fn direct_io_after_closing() -> Result<()> {
    let provider = Provider::first()?;
    let source = drive(0)?;
    for round in 0..rounds(20) {
        let (_node, handle) = alloc(&provider, WINDOW)?;
        let map = part(&handle, 0, WINDOW)?;
        drop(handle);
        std::thread::scope(|scope| -> Result<()> {
            let reader = scope.spawn(|| read_at(&source, &map, 0..WINDOW, 0));
            std::thread::sleep(Duration::from_micros(100 * round as u64));
            map.unmap(0..WINDOW)?;
            match reader.join().expect("no panic") {
                Ok(()) | Err(Errno::FAULT) => Ok(()),
                Err(error) => Err(error.into()),
            }
        })?;
        // Already unmapped.
        std::mem::forget(map);
    }
    provider.expect_full()
}

fn nonsense() -> Result<()> {
    let provider = Provider::first()?;
    let node = Node::open(&provider.path)?;
    for size in [0, 1, PAGE as u64 - 1, PAGE as u64 + 8] {
        expect_io_errno(node.alloc(size, 0), Errno::INVAL, &format!("{size} bytes"))?;
    }
    for flag in [3, 7, 16, 31] {
        let result = node.alloc(PAGE as u64, 1 << flag);
        expect_io_errno(result, Errno::INVAL, &format!("flag {flag}"))?;
    }
    let fixed = node.alloc(PAGE as u64, P2PMEM_ALLOC_FIXED);
    expect_io_errno(fixed, Errno::OPNOTSUPP, "a place")?;
    provider.expect_taken(0)?;

    // A result that cannot be written leaves nothing behind.
    let before = fs::read_dir("/proc/self/fd")?.count();
    let memory = Map::ordinary(PAGE)?;
    memory.set(0, PAGE as u64);
    // SAFETY: The range is that of the mapping.
    unsafe { rustix::mm::mprotect(memory.at(0).cast(), PAGE, rustix::mm::MprotectFlags::READ)? };
    // SAFETY: The kernel checks the argument.
    let result = unsafe {
        libc::ioctl(
            crate::guest::raw(node.as_fd()),
            u64::from(p2pmem::abi::ALLOC),
            memory.at(0),
        )
    };
    ensure!(result == -1 && crate::guest::last_errno() == Errno::FAULT);
    ensure!(fs::read_dir("/proc/self/fd")?.count() == before);
    provider.expect_taken(0)
}

fn read_only_node() -> Result<()> {
    let provider = Provider::first()?;
    let node = Node::from(File::open(&provider.path)?);
    let handle = node.alloc(PAGE as u64, 0)?;
    let result = Map::with(&handle, PAGE, READ_WRITE, MapFlags::SHARED, 0);
    expect_errno(result, Errno::ACCESS, "writable")?;
    let map = Map::with(&handle, PAGE, READ, MapFlags::SHARED, 0)?;
    ensure!(map.get(0) == 0);
    // SAFETY: The range is that of the mapping.
    let result =
        unsafe { rustix::mm::mprotect(map.at(0).cast(), PAGE, rustix::mm::MprotectFlags::WRITE) };
    expect_errno(result, Errno::ACCESS, "made writable")
}

/// Of an entry of an x86 page table: write-through and cache disable. The bit of the attribute
/// table is at another place in each level, and is not used.
pub const CACHING: u64 = 0x18;

/// Returns those bits of an entry that combines writes.
pub fn write_combining_bits() -> u64 {
    // Without the table of page attributes there is no write-combining.
    let has_table = std::path::Path::new("/sys/kernel/debug/x86/pat_memtype_list").exists();

    if has_table {
        1 << 3
    } else {
        1 << 4
    }
}

fn write_combining() -> Result<()> {
    let combined = write_combining_bits();
    let provider = Provider::first()?;
    let node = Node::open(&provider.path)?;
    let test = TestFile::open()?;
    let caching_of = |map: &Map| -> Result<u64> {
        map.set(0, 1);
        Ok(test.pte(map.at(0))?.value & CACHING)
    };
    let plain = node.alloc(WINDOW as u64, 0)?;
    let combining = node.alloc(WINDOW as u64, P2PMEM_ALLOC_WRITE_COMBINING)?;
    // Linux has the types write-back, write-combining, uncached-minus, uncached in this order.
    ensure!(caching_of(&part(&plain, 0, WINDOW)?)? == 1 << 4);
    let map = part(&combining, 0, WINDOW)?;
    ensure!(caching_of(&map)? == combined);
    // Kept by mprotect, fork, and the next fault.
    // SAFETY: The range is that of the mapping.
    unsafe {
        rustix::mm::mprotect(map.at(0).cast(), WINDOW, rustix::mm::MprotectFlags::READ)?;
        rustix::mm::mprotect(
            map.at(0).cast(),
            WINDOW,
            rustix::mm::MprotectFlags::READ | rustix::mm::MprotectFlags::WRITE,
        )?;
    }
    ensure!(caching_of(&map)? == combined);
    Child::spawn(|| {
        map.set(0, 2);
        ensure!(TestFile::open()?.pte(map.at(0))?.value & CACHING == combined);
        Ok(())
    })?
    .expect_success()?;
    // Direct I/O works with each.
    read_at(&drive(0)?, &map, 0..WINDOW, 0)?;
    Ok(())
}

fn seen_by_dma_buf_statistics() -> Result<()> {
    let provider = Provider::first()?;
    let list = || fs::read_to_string("/sys/kernel/debug/dma_buf/bufinfo");
    if list().is_err() {
        // The kernel was built without.
        return Ok(());
    }
    let (_node, handle) = alloc(&provider, 3 * PAGE)?;
    ensure!(list()?.contains("p2pmem_rs"), "{}", list()?);
    drop(handle);
    ensure!(!list()?.contains("p2pmem_rs"));
    Ok(())
}

fn unbind_takes_it_back() -> Result<()> {
    let provider = Provider::first()?;
    let (node, handle) = alloc(&provider, 2 * WINDOW)?;
    let map = part(&handle, WINDOW, WINDOW)?;
    map.fill(0..WINDOW, 1);
    let child = Child::spawn(|| {
        let map = part(&handle, 0, 2 * WINDOW)?;
        loop {
            map.set(0, map.get(WINDOW));
        }
    })?;
    std::thread::sleep(Duration::from_millis(50));
    unbind(&provider.pci)?;
    child.expect_signal(libc::SIGBUS)?;
    ensure!(!map.is_readable(0)?, "still readable");
    expect_errno(part(&handle, 0, PAGE), Errno::NODEV, "mmap")?;
    expect_io_errno(node.alloc(PAGE as u64, 0), Errno::NODEV, "alloc")?;
    // Operations that need no device still work.
    ensure!(handle.size()? == 2 * WINDOW as u64);
    restore()?;
    // The old one stays dead.
    expect_errno(part(&handle, 0, PAGE), Errno::NODEV, "mmap afterwards")?;
    let provider = Provider::first()?;
    let (_node, new) = alloc(&provider, provider.size)?;
    part(&new, 0, provider.size)?.fill(0..PAGE, 1);
    Ok(())
}

fn unbind_races_with_mapping() -> Result<()> {
    for round in 0..rounds(20) as u64 {
        let provider = Provider::first()?;
        let child = Child::spawn(|| loop {
            let Ok(node) = Node::open(&provider.path) else {
                return Ok(());
            };
            let Ok(handle) = node.alloc(WINDOW as u64, 0) else {
                return Ok(());
            };
            match part(&handle, 0, WINDOW) {
                Ok(map) if map.is_readable(PAGE)? => (),
                Ok(_) | Err(Errno::NODEV) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        })?;
        std::thread::sleep(Duration::from_millis(5 + round));
        unbind(&provider.pci)?;
        child.expect_success()?;
        restore()?;
        Provider::first()?.expect_full()?;
    }
    Ok(())
}

fn many() -> Result<()> {
    let provider = Provider::first()?;
    let node = Node::open(&provider.path)?;
    let handles = (0..200)
        .map(|_| node.alloc(16 * PAGE as u64, 0))
        .collect::<std::io::Result<Vec<_>>>()?;
    provider.expect_taken(200 * 16 * PAGE)?;
    for (seed, handle) in (0..).zip(&handles) {
        part(handle, 0, 16 * PAGE)?.fill(0..16 * PAGE, seed);
    }
    for (seed, handle) in (0..).zip(&handles) {
        part(handle, 0, 16 * PAGE)?.check(0..16 * PAGE, seed)?;
    }
    unbind(&provider.pci)?;
    restore()?;
    drop(handles);
    Provider::first()?.expect_full()
}

fn imported() -> Result<()> {
    let provider = Provider::first()?;
    let (node, handle) = alloc(&provider, 2 * WINDOW)?;
    let region = node.region(0)?;
    let window = region.bus_address..region.bus_address + region.size;
    for serial in ["disk0", "disk1"] {
        let test = TestFile::open()?;
        let (address, length) =
            test.import(&handle, &address_named(serial)?, PEER | REVOCABLE, 0)?;
        ensure!(
            window.contains(&address),
            "{address:#x} is not in {window:#x?}"
        );
        ensure!(length == 2 * WINDOW as u64, "{length}");
        // The first allocation of an empty pool.
        ensure!(address == window.start);
    }
    let (_, second) = alloc(&provider, PAGE)?;
    let test = TestFile::open()?;
    let (address, _) = test.import(&second, &address_named("disk0")?, PEER | REVOCABLE, 0)?;
    ensure!(address == window.start + 2 * WINDOW as u64);
    // The importer is a user.
    drop(second);
    provider.expect_taken(2 * WINDOW + PAGE)?;
    drop(test);
    provider.expect_taken(2 * WINDOW)
}

fn imported_and_revoked() -> Result<()> {
    for _ in 0..rounds(20) {
        let provider = Provider::first()?;
        let (_node, handle) = alloc(&provider, WINDOW)?;
        let tests = [TestFile::open()?, TestFile::open()?];
        for (test, serial) in tests.iter().zip(["disk0", "disk1"]) {
            test.import(&handle, &address_named(serial)?, PEER | REVOCABLE, 0)?;
        }
        unbind(&provider.pci)?;
        let late = TestFile::open()?;
        let result = late.import(&handle, &address_named("disk0")?, PEER | REVOCABLE, 0);
        expect_errno(result, Errno::NODEV, "importing a gone device")?;
        restore()?;
        Provider::first()?.expect_full()?;
    }
    Ok(())
}

fn imported_by_one_that_takes_its_time() -> Result<()> {
    let provider = Provider::first()?;
    let (_node, handle) = alloc(&provider, WINDOW)?;
    let test = TestFile::open()?;
    let pci = address_named("disk0")?;
    test.import(&handle, &pci, PEER | REVOCABLE, 1000)?;
    let started = std::time::Instant::now();
    unbind(&provider.pci)?;
    ensure!(
        started.elapsed() >= Duration::from_millis(950),
        "it did not wait"
    );
    restore()
}

fn not_imported() -> Result<()> {
    let provider = Provider::first()?;
    let (_node, handle) = alloc(&provider, WINDOW)?;
    let test = TestFile::open()?;
    let pci = address_named("disk0")?;
    for (flags, what) in [
        (STATIC, "of the old kind"),
        (REVOCABLE, "that knows no peers"),
        (PEER, "that cannot unmap on revocation"),
    ] {
        let result = test.import(&handle, &pci, flags, 0);
        expect_errno(result, Errno::OPNOTSUPP, what)?;
    }
    // Not even asked for by the flag.
    let node = Node::open(&provider.path)?;
    let handle = node.alloc(PAGE as u64, P2PMEM_ALLOC_IRREVOCABLE)?;
    let result = test.import(&handle, &pci, STATIC, 0);
    expect_errno(result, Errno::OPNOTSUPP, "of the old kind all the same")
}

fn imported_by_one_that_cannot_let_go() -> Result<()> {
    let provider = Provider::first()?;
    let node = Node::open(&provider.path)?;
    let handle = node.alloc(WINDOW as u64, P2PMEM_ALLOC_IRREVOCABLE)?;
    let test = TestFile::open()?;
    let importer = address_named("disk0")?;
    test.import(&handle, &importer, PEER, 0)?;
    let words = ["waiting for ", &importer, "imported memory"];
    unbind_says(&provider, &words, || {
        drop(test);
        Ok(())
    })?;
    restore()
}

fn functions_of_export() -> Result<()> {
    let provider = Provider::first()?;
    let node = Node::open(&provider.path)?;
    let before = fs::read_dir("/proc/self/fd")?.count();
    for (function, error) in [
        ("dma_buf_export", Errno::NOMEM),
        ("get_unused_fd_flags", Errno::MFILE),
    ] {
        let test = TestFile::open()?;
        test.fail(function, error)?;
        let result = node.alloc(WINDOW as u64, 0);
        ensure!(test.hits(function)? > 0, "{function} was not called");
        drop(test);
        expect_io_errno(result, error, function)?;
        provider.expect_taken(0)?;
    }
    ensure!(
        fs::read_dir("/proc/self/fd")?.count() == before,
        "a descriptor is left"
    );
    drop(node.alloc(WINDOW as u64, 0)?);
    Ok(())
}
