// SPDX-License-Identifier: GPL-2.0

//! The device goes away while it is used.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{ensure, Result};
use p2pmem::Provider as Node;
use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    io::Errno,
    mm::MapFlags,
};

use crate::{
    cases,
    guest::{
        bind, drive, expect_errno, expect_io_errno, read_at, restore, unbind, write_at, Child, Map,
        Provider, PAGE, READ_WRITE, WINDOW,
    },
};

cases!(
    "unbind":
    live_mapping, not_touched_yet, calls_fail_afterwards, poll_wakes, while_written,
    forked_child, file_closed, second_node, many_mappings, direct_io_in_flight, twenty_rounds,
    mapping_of_before_stays_dead, racing_mmap, caller_that_blocks,
);

/// Unbinding must never wait for a process.
const PROMPT: Duration = Duration::from_secs(5);

/// Unbinds, and checks that it is done at once.
fn unbind_promptly(provider: &Provider) -> Result<()> {
    let started = Instant::now();
    unbind(&provider.pci)?;
    ensure!(
        started.elapsed() < PROMPT,
        "unbind took {:?}",
        started.elapsed()
    );
    ensure!(!provider.path.exists(), "the node is still there");
    Ok(())
}

/// Touching the memory raises SIGBUS, and the kernel finds nothing there either.
fn expect_gone(map: &Map) -> Result<()> {
    for offset in [0, map.len() - PAGE] {
        Child::spawn(|| {
            map.set(offset, 1);
            Ok(())
        })?
        .expect_signal(libc::SIGBUS)?;
        Child::spawn(|| {
            let _ = map.get(offset);
            Ok(())
        })?
        .expect_signal(libc::SIGBUS)?;
        ensure!(!map.is_readable(offset)?, "still readable");
    }
    Ok(())
}

fn live_mapping() -> Result<()> {
    let provider = Provider::first()?;
    let file = provider.open()?;
    let map = Map::new(&file, 2 * WINDOW)?;
    map.fill(0..map.len(), 1);
    unbind_promptly(&provider)?;
    expect_gone(&map)?;

    bind(&provider.pci)?;
    restore()?;
    let again = Provider::first()?;
    ensure!(
        again.path == provider.path && again.pci == provider.pci,
        "another number"
    );
    Map::new(again.open()?, WINDOW)?.fill(0..WINDOW, 2);
    // The old file and the old mapping stay dead.
    expect_gone(&map)?;
    expect_errno(
        Map::with(&file, PAGE, READ_WRITE, MapFlags::SHARED, 0),
        Errno::NODEV,
        "mmap by the old file",
    )
}

fn not_touched_yet() -> Result<()> {
    let provider = Provider::first()?;
    let map = Map::new(provider.open()?, WINDOW)?;
    unbind_promptly(&provider)?;
    expect_gone(&map)
}

fn calls_fail_afterwards() -> Result<()> {
    let provider = Provider::first()?;
    let node = Node::open(&provider.path)?;
    unbind_promptly(&provider)?;

    expect_io_errno(node.info(), Errno::NODEV, "info")?;
    expect_io_errno(node.region(0), Errno::NODEV, "region")?;
    expect_errno(
        Map::with(&node, PAGE, READ_WRITE, MapFlags::SHARED, 0),
        Errno::NODEV,
        "mmap",
    )?;
    expect_io_errno(File::open(&provider.path), Errno::NOENT, "open")
}

fn poll_wakes() -> Result<()> {
    let provider = Provider::first()?;
    let file = provider.open()?;
    let ask = |limit| -> Result<PollFlags> {
        let mut files = [PollFd::new(&file, PollFlags::IN)];
        poll(
            &mut files,
            Some(&Timespec {
                tv_sec: limit,
                tv_nsec: 0,
            }),
        )?;
        Ok(files[0].revents())
    };
    ensure!(ask(0)?.is_empty(), "events while the device is there");

    let child = Child::spawn(|| {
        let events = ask(20)?;
        ensure!(events == PollFlags::ERR | PollFlags::HUP, "{events:?}");
        Ok(())
    })?;
    std::thread::sleep(Duration::from_millis(50));
    unbind_promptly(&provider)?;
    child.expect_success()?;
    ensure!(ask(0)? == PollFlags::ERR | PollFlags::HUP);
    Ok(())
}

/// Starts a process that writes to device memory until it is killed.
fn writer(provider: &Provider) -> Result<Child> {
    let child = Child::spawn(|| {
        let map = Map::new(provider.open()?, 4 * WINDOW)?;
        loop {
            map.fill(0..map.len(), 1);
        }
    })?;
    while provider.available()? == provider.size {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(20));
    Ok(child)
}

fn while_written() -> Result<()> {
    for _ in 0..10 {
        let provider = Provider::first()?;
        let child = writer(&provider)?;
        unbind_promptly(&provider)?;
        child.expect_signal(libc::SIGBUS)?;
        restore()?;
    }
    Ok(())
}

fn forked_child() -> Result<()> {
    let provider = Provider::first()?;
    let map = Map::new(provider.open()?, WINDOW)?;
    map.fill(0..WINDOW, 1);
    let child = Child::spawn(|| loop {
        map.check(0..WINDOW, 1)?;
    })?;
    std::thread::sleep(Duration::from_millis(20));
    unbind_promptly(&provider)?;
    child.expect_signal(libc::SIGBUS)?;
    expect_gone(&map)
}

fn file_closed() -> Result<()> {
    let provider = Provider::first()?;
    let map = Map::new(provider.open()?, WINDOW)?;
    map.fill(0..WINDOW, 1);
    unbind_promptly(&provider)?;
    expect_gone(&map)
}

fn second_node() -> Result<()> {
    let provider = Provider::first()?;
    let number = fs::metadata(&provider.path)?.rdev();
    let path = Path::new("/tmp/second");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o600),
        number,
    )?;
    let opened = OpenOptions::new().read(true).write(true).open(path);
    let result = (|| {
        let one = Map::new(provider.open()?, WINDOW)?;
        let two = Map::new(opened?, WINDOW)?;
        one.fill(0..WINDOW, 1);
        two.fill(0..WINDOW, 2);
        one.check(0..WINDOW, 1)?;
        unbind_promptly(&provider)?;
        expect_gone(&one)?;
        expect_gone(&two)?;
        expect_io_errno(File::open(path), Errno::NODEV, "open of the second node")
    })();
    fs::remove_file(path)?;
    result
}

fn many_mappings() -> Result<()> {
    let provider = Provider::first()?;
    let maps = (0..200)
        .map(|_| Map::new(provider.open()?, 16 * PAGE))
        .collect::<Result<Vec<_>>>()?;
    for map in &maps {
        map.set(0, 1);
    }
    unbind_promptly(&provider)?;
    for map in maps.iter().step_by(20) {
        expect_gone(map)?;
    }
    Ok(())
}

fn direct_io_in_flight() -> Result<()> {
    for _ in 0..10 {
        let provider = Provider::first()?;
        let child = Child::spawn(|| {
            let map = Map::new(provider.open()?, 4 * WINDOW)?;
            let (source, destination) = (drive(0)?, drive(1)?);
            loop {
                for result in [
                    read_at(&source, &map, 0..4 * WINDOW, 0),
                    write_at(&destination, &map, 0..4 * WINDOW, 0),
                ] {
                    match result {
                        Ok(()) => (),
                        // The memory is gone, perhaps in the middle.
                        Err(Errno::FAULT | Errno::IO) => return Ok(()),
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        })?;
        while provider.available()? == provider.size {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(30));
        unbind_promptly(&provider)?;
        child.expect_success()?;
        restore()?;
    }
    Ok(())
}

fn twenty_rounds() -> Result<()> {
    for round in 0..20 {
        let provider = Provider::first()?;
        let map = Map::new(provider.open()?, WINDOW)?;
        map.fill(0..WINDOW, round);
        unbind_promptly(&provider)?;
        bind(&provider.pci)?;
        restore()?;
        ensure!(!map.is_readable(0)?, "the old mapping shows something");
        Provider::first()?.expect_taken(0)?;
    }
    Ok(())
}

fn mapping_of_before_stays_dead() -> Result<()> {
    let provider = Provider::first()?;
    let old = Map::new(provider.open()?, WINDOW)?;
    old.fill(0..WINDOW, 1);
    unbind_promptly(&provider)?;
    restore()?;

    // The whole memory belongs to somebody else now.
    let new = Map::new(Provider::first()?.open()?, provider.size)?;
    new.fill(0..WINDOW, 2);
    expect_gone(&old)?;
    // Unmapping a part, forking, and unmapping the rest concern the old one only.
    old.unmap(0..PAGE)?;
    Child::spawn(|| Ok(()))?.expect_success()?;
    drop(old);
    new.check(0..WINDOW, 2)?;
    Provider::first()?.expect_taken(provider.size)
}

fn racing_mmap() -> Result<()> {
    // Processes that map and touch all the time, while the device comes and goes.
    let provider = Provider::first()?;
    let path = provider.path.clone();
    let children = (0..3)
        .map(|seed| {
            Child::spawn(|| loop {
                let Ok(file) = OpenOptions::new().read(true).write(true).open(&path) else {
                    continue;
                };
                for _ in 0..4 {
                    match Map::with(&file, 8 * PAGE, READ_WRITE, MapFlags::SHARED, 0) {
                        // Touched by the kernel for us: no signal.
                        Ok(map) => {
                            map.is_readable((seed % 8) * PAGE)?;
                        }
                        Err(Errno::NODEV) => break,
                        Err(error) => return Err(error.into()),
                    }
                }
            })
        })
        .collect::<Result<Vec<_>>>()?;

    for _ in 0..30 {
        unbind_promptly(&provider)?;
        bind(&provider.pci)?;
        std::thread::sleep(Duration::from_millis(10));
    }
    for child in children {
        child.kill()?;
        child.expect_signal(libc::SIGKILL)?;
    }
    restore()?;
    Provider::first()?.expect_full()
}

fn caller_that_blocks() -> Result<()> {
    // A request whose argument lies in a page that this process never provides.
    const UFFDIO_API: u64 = 0xc018_aa3f;
    const UFFDIO_REGISTER: u64 = 0xc020_aa00;
    let provider = Provider::first()?;
    let page = Map::ordinary(PAGE)?;
    // SAFETY: The structures are what the requests read and write, the range is that of the page.
    let descriptor = unsafe {
        let descriptor = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) as i32;
        ensure!(descriptor >= 0, "userfaultfd");
        let mut api = [0xaa_u64, 0, 0];
        ensure!(
            libc::ioctl(descriptor, UFFDIO_API, &mut api) == 0,
            "UFFDIO_API"
        );
        let mut register = [page.at(0) as u64, PAGE as u64, 1, 0];
        ensure!(
            libc::ioctl(descriptor, UFFDIO_REGISTER, &mut register) == 0,
            "UFFDIO_REGISTER"
        );
        descriptor
    };
    // SAFETY: Nobody else has the descriptor.
    let _faults: std::os::fd::OwnedFd = unsafe { std::os::fd::FromRawFd::from_raw_fd(descriptor) };

    let file = provider.open()?;
    let start = page.at(0) as usize;
    std::thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            // SAFETY: The kernel checks the argument.
            unsafe {
                libc::ioctl(
                    crate::guest::raw(std::os::fd::AsFd::as_fd(&file)),
                    u64::from(p2pmem::abi::INFO),
                    start as *mut u8,
                )
            }
        });
        std::thread::sleep(Duration::from_millis(100));
        let result = unbind_promptly(&provider);
        // Lets the thread go on: the page is an ordinary one now.
        // SAFETY: The range is that of the page.
        unsafe {
            let mut range = [start as u64, PAGE as u64];
            const UFFDIO_UNREGISTER: u64 = 0x8010_aa01;
            ensure!(libc::ioctl(descriptor, UFFDIO_UNREGISTER, &mut range) == 0);
        }
        result
    })
}
