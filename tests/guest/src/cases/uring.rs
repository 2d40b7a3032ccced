// SPDX-License-Identifier: GPL-2.0

//! Memory in the buffer table of an io_uring.

use std::{
    fs::{self, File, OpenOptions},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{ensure, Context, Result};
use io_uring::{opcode, squeue::Entry, types::Fd, IoUring};
use p2pmem::{abi::P2PMEM_ALLOC_IRREVOCABLE, uring, Handle, Provider as Node};
use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    io::Errno,
    mm::MapFlags,
};

use super::{
    handle::alloc,
    unbind::{unbind_promptly, unbind_says},
};
use crate::{
    cases,
    guest::{
        become_user, check_drive, choose, drive, errno, expect_errno, last_errno, on_debug_kernel,
        put_on_drive, restore, rmmod, rounds, unbind, wait_until, Child, Map, Provider, PAGE,
        READ_WRITE, WINDOW,
    },
    kmod::TestFile,
};

cases!(
    "uring": foreign_dmabuf, unbind_while_a_slot_is_filled, read_and_write, part_of_a_buffer, no_slot, full_slot, nonsense, of_another_node,
    read_only, write_only, not_mapped_and_not_pinned, slot_is_emptied, ring_is_closed, process_is_killed,
    handle_is_closed, module_stays, time_does_not_depend_on_size, unbind_empties_own_slots,
    unbind_waits_and_says_for_whom, cloned_into_another_ring, takes_a_privilege, polled_when_the_device_goes, requests_in_flight, emptied_in_flight, example_in_c,
);

const SLOTS: u32 = 4;

pub fn ring() -> Result<IoUring> {
    let ring = IoUring::new(8)?;
    ring.submitter().register_buffers_sparse(SLOTS)?;
    Ok(ring)
}

/// Submits a request and waits for its result.
pub fn submit(ring: &mut IoUring, entry: &Entry) -> Result<usize, Errno> {
    // SAFETY: What the request refers to lives until it has completed, which is waited for.
    unsafe { ring.submission().push(entry).expect("there is room") };
    loop {
        match ring.submit_and_wait(1) {
            Ok(_) => break,
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => (),
            Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }
    let result = ring.completion().next().expect("it completed").result();
    usize::try_from(result).map_err(|_| Errno::from_raw_os_error(-result))
}

pub fn register(ring: &mut IoUring, node: &Node, handle: &Handle, slot: u32) -> Result<(), Errno> {
    submit(ring, &uring::register(node, handle, slot, 0, 0)).map(drop)
}

pub fn unregister(ring: &mut IoUring, node: &Node, slot: u32) -> Result<(), Errno> {
    submit(ring, &uring::unregister(node, slot)).map(drop)
}

/// Of a drive into a slot, from an offset of the slot on.
pub fn read_request(file: &File, slot: u16, offset: usize, length: usize) -> Entry {
    opcode::ReadFixed::new(
        Fd(file.as_raw_fd()),
        std::ptr::without_provenance_mut(offset),
        length as u32,
        slot,
    )
    .build()
}

fn write_request(file: &File, slot: u16, offset: usize, length: usize) -> Entry {
    opcode::WriteFixed::new(
        Fd(file.as_raw_fd()),
        std::ptr::without_provenance(offset),
        length as u32,
        slot,
    )
    .build()
}

fn read_and_write() -> Result<()> {
    let provider = Provider::first()?;
    let (node, handle) = alloc(&provider, WINDOW)?;
    let (source, target) = (drive(0)?, drive(1)?);
    put_on_drive(&source, WINDOW, 1)?;
    put_on_drive(&target, WINDOW, 2)?;
    let mut ring = ring()?;
    register(&mut ring, &node, &handle, 2)?;
    ensure!(submit(&mut ring, &read_request(&source, 2, 0, WINDOW))? == WINDOW);
    ensure!(submit(&mut ring, &write_request(&target, 2, 0, WINDOW))? == WINDOW);
    check_drive(&target, WINDOW, 1)?;
    // The processor sees the same.
    let map = Map::new(&handle, WINDOW)?;
    map.check(0..WINDOW, 1)?;
    unregister(&mut ring, &node, 2)?;
    let result = submit(&mut ring, &read_request(&source, 2, 0, PAGE));
    expect_errno(result, Errno::FAULT, "an empty slot")
}

fn part_of_a_buffer() -> Result<()> {
    let provider = Provider::first()?;
    let (node, handle) = alloc(&provider, 16 * PAGE)?;
    let source = drive(0)?;
    put_on_drive(&source, PAGE, 1)?;
    let map = Map::new(&handle, 16 * PAGE)?;
    map.fill(0..16 * PAGE, 5);
    let mut ring = ring()?;
    submit(&mut ring, &uring::register(&node, &handle, 0, 3, 2))?;
    // Addresses count from the start of the part.
    ensure!(submit(&mut ring, &read_request(&source, 0, PAGE, PAGE))? == PAGE);
    map.check(0..4 * PAGE, 5)?;
    map.check(5 * PAGE..16 * PAGE, 5)?;
    let expected = Map::ordinary(PAGE)?;
    expected.fill(0..PAGE, 1);
    ensure!((0..PAGE)
        .step_by(8)
        .all(|at| map.get(4 * PAGE + at) == expected.get(at)));
    // Nothing beyond it.
    for (offset, length) in [
        (PAGE, 2 * PAGE),
        (2 * PAGE, PAGE),
        (usize::MAX - PAGE + 1, PAGE),
    ] {
        let result = submit(&mut ring, &read_request(&source, 0, offset, length));
        expect_errno(result, Errno::FAULT, &format!("{offset:#x}+{length:#x}"))?;
    }
    // The rest.
    submit(&mut ring, &uring::register(&node, &handle, 1, 15, 0))?;
    let result = submit(&mut ring, &read_request(&source, 1, 0, 2 * PAGE));
    expect_errno(result, Errno::FAULT, "more than the last page")?;
    for (first, count) in [
        (16, 0),
        (16, 1),
        (15, 2),
        (0, 17),
        (u32::MAX, 0),
        (0, u32::MAX),
    ] {
        let result = submit(&mut ring, &uring::register(&node, &handle, 2, first, count));
        expect_errno(result, Errno::RANGE, &format!("{first}+{count}"))?;
    }
    Ok(())
}

/// A dma-buf of ordinary memory, which the debug kernel has none of.
fn foreign_dmabuf() -> Result<()> {
    if on_debug_kernel() {
        return Ok(());
    }
    const CREATE: u64 = 0x4018_7542;
    let (node, _handle) = alloc(&Provider::first()?, PAGE)?;
    let file = rustix::fs::memfd_create("pages", rustix::fs::MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&file, PAGE as u64)?;
    rustix::fs::fcntl_add_seals(&file, rustix::fs::SealFlags::SHRINK)?;
    let maker = File::open("/dev/udmabuf").context("/dev/udmabuf")?;
    // struct udmabuf_create: memfd, flags, offset, size.
    let mut argument = [file.as_raw_fd() as u64, 0, PAGE as u64];
    // SAFETY: The argument is what the request reads.
    let fd = unsafe { libc::ioctl(maker.as_raw_fd(), CREATE, &mut argument) };
    ensure!(fd >= 0, "udmabuf: {}", last_errno());
    // SAFETY: A new descriptor.
    let foreign = unsafe { OwnedFd::from_raw_fd(fd) };

    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&foreign.as_raw_fd().to_ne_bytes());
    let entry = uring::command(&node, p2pmem::abi::URING_REGISTER, bytes);
    let result = submit(&mut ring()?, &entry);
    expect_errno(result, Errno::INVAL, "memory of another exporter")
}

/// The device goes away when memory is on its way into a ring: it is waited for, and then taken
/// out.
fn unbind_while_a_slot_is_filled() -> Result<()> {
    const FUNCTION: &str = "io_rsrc_node_alloc";
    let provider = Provider::first()?;
    let (node, handle) = alloc(&provider, PAGE)?;
    let test = TestFile::open()?;
    test.delay(FUNCTION, 300)?;
    std::thread::scope(|scope| {
        let filler = scope.spawn(|| -> Result<()> {
            let mut ring = ring()?;
            Ok(register(&mut ring, &node, &handle, 0)?)
        });
        wait_until(Duration::from_secs(10), "the slot is being filled", || {
            Ok(test.hits(FUNCTION)? > 0)
        })?;
        unbind(&provider.pci)?;
        filler.join().expect("no panic")
    })?;
    drop(test);
    restore()
}

fn no_slot() -> Result<()> {
    let (node, handle) = alloc(&Provider::first()?, PAGE)?;
    let mut with = ring()?;
    for slot in [SLOTS, SLOTS + 1, u32::MAX] {
        let result = register(&mut with, &node, &handle, slot);
        expect_errno(result, Errno::INVAL, &format!("slot {slot}"))?;
        let result = unregister(&mut with, &node, slot);
        expect_errno(result, Errno::INVAL, &format!("emptying slot {slot}"))?;
    }
    expect_errno(
        unregister(&mut with, &node, 0),
        Errno::INVAL,
        "an empty slot",
    )?;
    let mut without = IoUring::new(8)?;
    let result = register(&mut without, &node, &handle, 0);
    expect_errno(result, Errno::INVAL, "a ring without a table")
}

fn full_slot() -> Result<()> {
    let provider = Provider::first()?;
    let (node, handle) = alloc(&provider, PAGE)?;
    let mut ring = ring()?;
    register(&mut ring, &node, &handle, 0)?;
    let result = register(&mut ring, &node, &handle, 0);
    expect_errno(result, Errno::BUSY, "a slot that is in use")?;
    // The same memory in another one is fine, and each is emptied for itself.
    register(&mut ring, &node, &handle, 1)?;
    unregister(&mut ring, &node, 0)?;
    register(&mut ring, &node, &handle, 0)?;
    drop(handle);
    provider.expect_taken(PAGE)?;
    unregister(&mut ring, &node, 0)?;
    provider.expect_taken(PAGE)?;
    unregister(&mut ring, &node, 1)?;
    provider.expect_taken(0)
}

fn nonsense() -> Result<()> {
    let provider = Provider::first()?;
    let (node, handle) = alloc(&provider, PAGE)?;
    let mut ring = ring()?;
    // Descriptors of other things, and of nothing.
    for (fd, error) in [
        (-1, Errno::BADF),
        (1000, Errno::BADF),
        (node.as_fd().as_raw_fd(), Errno::INVAL),
        (ring.as_raw_fd(), Errno::INVAL),
        (0, Errno::INVAL),
    ] {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&i32::to_ne_bytes(fd));
        let entry = uring::command(&node, p2pmem::abi::URING_REGISTER, bytes);
        expect_errno(
            submit(&mut ring, &entry),
            error,
            &format!("descriptor {fd}"),
        )?;
    }
    // Commands that do not exist.
    let known = p2pmem::abi::URING_REGISTER;
    for number in [
        0,
        1,
        known ^ 0xff,
        known ^ (1 << 16),
        known ^ (3 << 30),
        p2pmem::abi::ALLOC,
    ] {
        let entry = uring::command(&node, number, [0; 16]);
        expect_errno(
            submit(&mut ring, &entry),
            Errno::OPNOTSUPP,
            &format!("{number:#x}"),
        )?;
    }
    // Fields that must be zero.
    register(&mut ring, &node, &handle, 0)?;
    for byte in 4..16 {
        let mut bytes = [0; 16];
        bytes[byte] = 1;
        let entry = uring::command(&node, p2pmem::abi::URING_UNREGISTER, bytes);
        expect_errno(
            submit(&mut ring, &entry),
            Errno::INVAL,
            &format!("byte {byte}"),
        )?;
    }
    unregister(&mut ring, &node, 0).map_err(Into::into)
}

/// A handle of before the device was bound again is one of another provider.
fn of_another_node() -> Result<()> {
    let provider = Provider::first()?;
    let (old, handle) = alloc(&provider, PAGE)?;
    unbind(&provider.pci)?;
    let mut ring = ring()?;
    let result = register(&mut ring, &old, &handle, 0);
    expect_errno(result, Errno::NODEV, "on a node that is gone")?;
    restore()?;
    let new = Node::open(&Provider::first()?.path)?;
    let result = register(&mut ring, &new, &handle, 0);
    expect_errno(result, Errno::XDEV, "memory of another provider")
}

fn read_only() -> Result<()> {
    let provider = Provider::first()?;
    let node = Node::from(File::open(&provider.path)?);
    let handle = node.alloc(PAGE as u64, 0)?;
    let mut ring = ring()?;
    register(&mut ring, &node, &handle, 0)?;
    let result = submit(&mut ring, &read_request(&drive(0)?, 0, 0, PAGE));
    expect_errno(result, Errno::FAULT, "reading into it")?;
    ensure!(submit(&mut ring, &write_request(&drive(0)?, 0, 0, PAGE))? == PAGE);
    Ok(())
}

fn write_only() -> Result<()> {
    let provider = Provider::first()?;
    let node = Node::from(OpenOptions::new().write(true).open(&provider.path)?);
    let handle = node.alloc(PAGE as u64, 0)?;
    let mut ring = ring()?;
    register(&mut ring, &node, &handle, 0)?;
    ensure!(submit(&mut ring, &read_request(&drive(0)?, 0, 0, PAGE))? == PAGE);
    let result = submit(&mut ring, &write_request(&drive(0)?, 0, 0, PAGE));
    expect_errno(result, Errno::FAULT, "writing from it")
}

fn not_mapped_and_not_pinned() -> Result<()> {
    let provider = Provider::first()?;
    let (node, handle) = alloc(&provider, WINDOW)?;
    let mut ring = ring()?;
    register(&mut ring, &node, &handle, 0)?;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    ensure!(
        !maps.contains("dmabuf") && !maps.contains("p2pmem"),
        "{maps}"
    );
    ensure!(submit(&mut ring, &read_request(&drive(0)?, 0, 0, WINDOW))? == WINDOW);
    let status = std::fs::read_to_string("/proc/self/status")?;
    let pinned = status.lines().find(|line| line.starts_with("VmPin:"));
    ensure!(pinned.context("VmPin")?.contains(" 0 kB"), "{pinned:?}");
    Ok(())
}

fn slot_is_emptied() -> Result<()> {
    let provider = Provider::first()?;
    for _ in 0..rounds(200) {
        let (node, handle) = alloc(&provider, 16 * PAGE)?;
        let mut ring = ring()?;
        register(&mut ring, &node, &handle, 1)?;
        drop(handle);
        provider.expect_taken(16 * PAGE)?;
        // By the usual call as well.
        unregister(&mut ring, &node, 1)?;
        provider.expect_taken(0)?;
    }
    Ok(())
}

fn ring_is_closed() -> Result<()> {
    let provider = Provider::first()?;
    for _ in 0..rounds(50) {
        let (node, handle) = alloc(&provider, WINDOW)?;
        let mut ring = ring()?;
        register(&mut ring, &node, &handle, 0)?;
        register(&mut ring, &node, &handle, 3)?;
        drop((node, handle));
        provider.expect_taken(WINDOW)?;
        drop(ring);
        provider.expect_full()?;
    }
    Ok(())
}

fn process_is_killed() -> Result<()> {
    let provider = Provider::first()?;
    let source = drive(0)?;
    for round in 0..rounds(20) as u64 {
        let child = Child::spawn(|| {
            let (node, handle) = alloc(&provider, WINDOW)?;
            let mut ring = ring()?;
            register(&mut ring, &node, &handle, 0)?;
            drop((node, handle));
            loop {
                submit(&mut ring, &read_request(&source, 0, 0, WINDOW))?;
            }
        })?;
        wait_until(Duration::from_secs(5), "it has memory", || {
            Ok(provider.available()? != provider.size)
        })?;
        std::thread::sleep(Duration::from_millis(5 + round));
        child.kill()?;
        child.expect_signal(libc::SIGKILL)?;
        provider.expect_full()?;
    }
    Ok(())
}

fn handle_is_closed() -> Result<()> {
    let provider = Provider::first()?;
    let (node, handle) = alloc(&provider, WINDOW)?;
    let (source, target) = (drive(0)?, drive(1)?);
    put_on_drive(&source, WINDOW, 9)?;
    let mut ring = ring()?;
    register(&mut ring, &node, &handle, 0)?;
    drop((node, handle));
    submit(&mut ring, &read_request(&source, 0, 0, WINDOW))?;
    // The memory was not allocated again.
    let all = Map::with(
        &provider.open()?,
        provider.size - WINDOW,
        READ_WRITE,
        MapFlags::SHARED,
        0,
    )?;
    all.fill(0..PAGE, 1);
    submit(&mut ring, &write_request(&target, 0, 0, WINDOW))?;
    check_drive(&target, WINDOW, 9)
}

fn module_stays() -> Result<()> {
    let provider = Provider::first()?;
    let (node, handle) = alloc(&provider, PAGE)?;
    let mut ring = ring()?;
    register(&mut ring, &node, &handle, 0)?;
    drop((node, handle));
    expect_errno(rmmod(), Errno::AGAIN, "rmmod with memory in a ring")?;
    drop(ring);
    wait_until(Duration::from_secs(5), "rmmod", || Ok(rmmod().is_ok()))?;
    restore()
}

/// More than twice as long would be a sign that it does: sizes differ by a factor of 16384.
fn time_does_not_depend_on_size() -> Result<()> {
    let provider = Provider::first()?;
    let mut ring = ring()?;
    let node = Node::open(&provider.path)?;
    let mut shortest = |size: usize| -> Result<Duration> {
        let handle = node.alloc(size as u64, 0)?;
        let mut best = Duration::MAX;
        for _ in 0..200 {
            let started = Instant::now();
            register(&mut ring, &node, &handle, 0)?;
            best = best.min(started.elapsed());
            unregister(&mut ring, &node, 0)?;
        }
        Ok(best)
    };
    let (small, large) = (shortest(2 * PAGE)?, shortest(64 << 20)?);
    ensure!(
        large < 2 * small,
        "{small:?} for 8 KiB, {large:?} for 64 MiB"
    );
    Ok(())
}

/// Unbinds in the process, and the thread, that has memory in a ring.
fn unbind_empties_own_slots() -> Result<()> {
    let provider = Provider::first()?;
    let (node, handle) = alloc(&provider, WINDOW)?;
    let mut ring = ring()?;
    register(&mut ring, &node, &handle, 0)?;
    register(&mut ring, &node, &handle, 3)?;
    let source = drive(0)?;
    put_on_drive(&source, WINDOW, 4)?;
    ensure!(submit(&mut ring, &read_request(&source, 0, 0, WINDOW))? == WINDOW);

    unbind_promptly(&provider)?;
    for slot in [0, 3] {
        let result = submit(&mut ring, &read_request(&source, slot, 0, PAGE));
        expect_errno(result, Errno::FAULT, "a slot of a device that is gone")?;
        let result = unregister(&mut ring, &node, slot.into());
        expect_errno(result, Errno::INVAL, "emptying it once more")?;
    }
    let result = register(&mut ring, &node, &handle, 1);
    expect_errno(result, Errno::NODEV, "one more")?;
    restore()?;

    // The ring goes on with the device that was bound again, and with slots of its own.
    let provider = Provider::first()?;
    let (node, handle) = alloc(&provider, WINDOW)?;
    register(&mut ring, &node, &handle, 0)?;
    ensure!(submit(&mut ring, &read_request(&source, 0, 0, WINDOW))? == WINDOW);
    Ok(())
}

/// This kernel cannot empty a slot of another thread's ring. The log says so at once.
fn unbind_waits_and_says_for_whom() -> Result<()> {
    let provider = Provider::first()?;
    let (node, handle) = alloc(&provider, WINDOW)?;
    let mut ring = ring()?;
    register(&mut ring, &node, &handle, 0)?;
    let source = drive(0)?;
    put_on_drive(&source, WINDOW, 4)?;
    let started = Instant::now();
    let words = [
        &provider.pci,
        "waiting for an io_uring with 2097152 bytes that guest-tests[",
    ];
    unbind_says(&provider, &words, || {
        ensure!(
            started.elapsed() < crate::guest::patience(Duration::from_secs(3)),
            "not at once"
        );
        // Requests still work, into memory that is still there.
        ensure!(submit(&mut ring, &read_request(&source, 0, 0, WINDOW))? == WINDOW);
        let result = register(&mut ring, &node, &handle, 1);
        expect_errno(result, Errno::NODEV, "one more")?;
        Ok(unregister(&mut ring, &node, 0)?)
    })?;
    restore()
}

/// A buffer that was cloned into another ring outlives the ring that it was registered in.
fn cloned_into_another_ring() -> Result<()> {
    /// Of linux/io_uring.h.
    const CLONE_BUFFERS: libc::c_long = 30;
    let source = drive(0)?;
    put_on_drive(&source, WINDOW, 9)?;
    for _ in 0..rounds(10) {
        let provider = Provider::first()?;
        let (node, handle) = alloc(&provider, WINDOW)?;
        let mut first = ring()?;
        register(&mut first, &node, &handle, 0)?;
        let mut second = IoUring::new(8)?;
        let mut argument = [0_u32; 8];
        argument[0] = first.as_raw_fd() as u32;
        // SAFETY: The argument is as long as the request reads.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                second.as_raw_fd(),
                CLONE_BUFFERS,
                argument.as_ptr(),
                1,
            )
        };
        ensure!(result == 0, "cloning: {}", crate::guest::last_errno());
        drop(first);
        // The ring that the driver knows is gone; the memory is not.
        ensure!(submit(&mut second, &read_request(&source, 0, 0, WINDOW))? == WINDOW);
        Map::new(&handle, WINDOW)?.check(0..WINDOW, 9)?;
        drop(handle);
        let words = [
            &provider.pci,
            "waiting for an io_uring with 2097152 bytes that guest-tests[",
        ];
        unbind_says(&provider, &words, || {
            drop(second);
            Ok(())
        })?;
        restore()?;
    }
    Ok(())
}

/// A slot passes checks of the block layer, so that it takes a right, or what the administrator
/// says.
fn takes_a_privilege() -> Result<()> {
    let provider = Provider::first()?;
    let (node, handle) = alloc(&provider, PAGE)?;
    let name = provider.path.file_name().context("a name")?;
    let setting = std::path::Path::new("/sys/class/misc")
        .join(name)
        .join("slots");
    ensure!(fs::read_to_string(&setting)? == "privileged\n");
    let attempt = |expected: Result<(), Errno>| -> Result<()> {
        let mut ring = ring()?;
        let slot = register(&mut ring, &node, &handle, 0);
        ensure!(slot == expected, "a slot: {slot:?}, expected {expected:?}");
        let export = errno(node.alloc(PAGE as u64, P2PMEM_ALLOC_IRREVOCABLE).map(drop));
        ensure!(
            export == expected,
            "an export: {export:?}, expected {expected:?}"
        );
        // Revocable memory needs no privilege.
        node.alloc(PAGE as u64, 0)?;
        Ok(())
    };
    let as_user = |expected| -> Result<()> {
        Child::spawn(|| {
            become_user()?;
            attempt(expected)
        })?
        .expect_success()
    };

    attempt(Ok(()))?;
    as_user(Err(Errno::PERM))?;
    fs::write(&setting, "everybody")?;
    as_user(Ok(()))?;
    fs::write(&setting, "nobody")?;
    let none = attempt(Err(Errno::PERM)).and_then(|()| as_user(Err(Errno::PERM)));
    fs::write(&setting, "privileged")?;
    none?;
    for nonsense in ["", "root", "1", "privileged everybody"] {
        if !nonsense.is_empty() {
            expect_errno(errno(fs::write(&setting, nonsense)), Errno::INVAL, nonsense)?;
        }
    }
    ensure!(fs::read_to_string(&setting)? == "privileged\n");
    Ok(())
}

fn polled_when_the_device_goes() -> Result<()> {
    for _ in 0..rounds(10) {
        let provider = Provider::first()?;
        let child = Child::spawn_ready(|ready| {
            let (node, handle) = alloc(&provider, WINDOW)?;
            let mut ring = ring()?;
            register(&mut ring, &node, &handle, 0)?;
            ready();
            // Every program should poll the node.
            let mut files = [PollFd::new(&node, PollFlags::empty())];
            let limit = Timespec {
                tv_sec: 20,
                tv_nsec: 0,
            };
            ensure!(poll(&mut files, Some(&limit))? == 1, "nothing came");
            ensure!(files[0].revents().contains(PollFlags::HUP));
            unregister(&mut ring, &node, 0)?;
            Ok(())
        })?;
        std::thread::sleep(Duration::from_millis(20));
        unbind_promptly(&provider)?;
        child.expect_success()?;
        restore()?;
    }
    Ok(())
}

/// Unbinds while requests of a process are in flight, which does not poll and is killed.
fn requests_in_flight() -> Result<()> {
    let pci = Provider::first()?.pci;
    choose(&format!("{pci} bar2+8M"))?;
    unbind(&pci)?;
    restore()?;
    let source = drive(0)?;
    for round in 0..rounds(20) as u64 {
        let provider = Provider::first()?;
        let child = Child::spawn_ready(|ready| {
            let (node, handle) = alloc(&provider, WINDOW)?;
            let mut ring = ring()?;
            register(&mut ring, &node, &handle, 0)?;
            loop {
                submit(&mut ring, &read_request(&source, 0, 0, WINDOW))?;
                ready();
            }
        })?;
        let unbinding = std::thread::spawn(move || unbind(&provider.pci));
        std::thread::sleep(Duration::from_millis(20 + round));
        ensure!(!unbinding.is_finished(), "it did not wait");
        child.kill()?;
        unbinding.join().expect("no panic")?;
        child.expect_signal(libc::SIGKILL)?;
        restore()?;
        Provider::first()?.expect_full()?;
    }
    choose(&format!("{pci} default"))?;
    unbind(&pci)?;
    restore()
}

/// The slot is emptied while requests use it: they keep the memory.
fn emptied_in_flight() -> Result<()> {
    let provider = Provider::first()?;
    let source = drive(0)?;
    let mut ring = ring()?;
    for _ in 0..rounds(50) {
        let (node, handle) = alloc(&provider, WINDOW)?;
        register(&mut ring, &node, &handle, 0)?;
        drop(handle);
        let entries = [
            read_request(&source, 0, 0, WINDOW),
            read_request(&source, 0, 0, WINDOW),
            uring::unregister(&node, 0),
        ];
        for entry in &entries {
            // SAFETY: What the requests refer to lives until they have completed.
            unsafe { ring.submission().push(entry)? };
        }
        ring.submit_and_wait(3)?;
        for event in ring.completion() {
            ensure!(event.result() >= 0, "{}", event.result());
        }
        provider.expect_full()?;
    }
    Ok(())
}

/// The program in tests/example: its child copies by what it was given.
fn example_in_c() -> Result<()> {
    let provider = Provider::first()?;
    let (source, target) = (drive(0)?, drive(1)?);
    put_on_drive(&source, 1 << 20, 6)?;
    put_on_drive(&target, 1 << 20, 7)?;
    let status = std::process::Command::new("example-copy")
        .arg(&provider.path)
        .args(["/dev/nvme0n1", "/dev/nvme1n1"])
        .status()?;
    ensure!(status.success(), "{status}");
    check_drive(&target, 1 << 20, 6)?;
    provider.expect_full()
}
