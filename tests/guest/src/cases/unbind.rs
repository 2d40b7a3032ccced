// SPDX-License-Identifier: GPL-2.0

//! The device goes away while it is used.

use std::{
    fs::{self, File, OpenOptions},
    os::{fd::AsFd, unix::fs::MetadataExt},
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
        bind, choose, drive, drive_named, expect_errno, expect_io_errno, on_debug_kernel, patience,
        qemu, read_at, restore, rounds, sleep, unbind, wait_until, write_at, Child, Map, Mark,
        Provider, PAGE, READ_WRITE, WINDOW,
    },
    kmod::TestFile,
};

cases!(
    "unbind":
    live_mapping, not_touched_yet, calls_fail_afterwards, poll_wakes, while_written,
    forked_child, file_closed, second_node, many_mappings, direct_io_in_flight, twenty_rounds,
    mapping_of_before_stays_dead, racing_mmap, caller_that_blocks, before_the_area_is_linked,
    before_the_area_is_linked_in_mainline, other_mount_namespace, function_reset, asleep, process_that_ends,
    looked_at_by_others, says_for_whom_it_waits, ten_thousand_mappings,
);

/// Unbinding must never wait for a process.
const PROMPT: Duration = Duration::from_secs(5);

/// Unbinds, and checks that it is done at once.
pub fn unbind_promptly(provider: &Provider) -> Result<()> {
    let started = Instant::now();
    unbind(&provider.pci)?;
    ensure!(
        started.elapsed() < patience(PROMPT),
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
    let child = Child::spawn_ready(|ready| {
        let map = Map::new(provider.open()?, 4 * WINDOW)?;
        ready();
        loop {
            map.fill(0..map.len(), 1);
        }
    })?;
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
        let child = Child::spawn_ready(|ready| {
            let map = Map::new(provider.open()?, 4 * WINDOW)?;
            let (source, destination) = (drive(0)?, drive(1)?);
            ready();
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

    // All of the memory is free for a new process.
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

    for _ in 0..rounds(30) {
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
    // SAFETY: No other code has the descriptor.
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

/// A function that runs between the file's part of mmap() and the linking of the area.
const BEFORE_LINKING: &str = "mas_store_prealloc";

/// Maps a file in a child process, which the kernel delays at that place, and has it touch the
/// memory `after` it was mapped. Returns when the child is there.
///
/// It ends well if there is no mapping, since the device is gone.
fn map_slowly(file: impl AsFd, after: Duration) -> Result<Child> {
    let (reader, writer) = rustix::pipe::pipe()?;
    let child = Child::spawn(|| {
        let test = TestFile::open()?;
        test.delay(BEFORE_LINKING, 1000)?;
        rustix::io::write(&writer, b"1")?;
        let started = Instant::now();
        let map = Map::with(&file, PAGE, READ_WRITE, MapFlags::SHARED, 0);
        ensure!(started.elapsed() > Duration::from_millis(900), "no delay");
        ensure!(test.hits(BEFORE_LINKING)? >= 1);
        let map = match map {
            Ok(map) => map,
            Err(Errno::NODEV) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        std::thread::sleep(after);
        loop {
            // A process that gets here still has the memory of a device that is gone.
            map.set(0, 1);
            std::thread::sleep(Duration::from_millis(100));
        }
    })?;
    drop(writer);
    rustix::io::read(&reader, &mut [0; 1])?;
    // Let it come to the delay.
    std::thread::sleep(Duration::from_millis(300));
    Ok(child)
}

fn before_the_area_is_linked() -> Result<()> {
    for _ in 0..3 {
        // The memory of a node is allocated when the area is linked: there is none any more.
        let provider = Provider::first()?;
        let child = map_slowly(&provider.open()?, Duration::ZERO)?;
        unbind_promptly(&provider)?;
        child.expect_success()?;
        restore()?;

        // That of a dma-buf is there before, and gone when it is touched.
        let provider = Provider::first()?;
        let handle = Node::open(&provider.path)?.alloc(PAGE as u64, 0)?;
        let child = map_slowly(&handle, Duration::ZERO)?;
        unbind_promptly(&provider)?;
        child.expect_signal(libc::SIGBUS)?;
        restore()?;
    }
    Ok(())
}

/// The same window with the kernel's own file: it is open there. If this fails one day, mainline
/// was repaired.
fn before_the_area_is_linked_in_mainline() -> Result<()> {
    let provider = Provider::first()?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(provider.device.join("p2pmem/allocate"))?;
    let mut child = map_slowly(&file, Duration::from_millis(500))?;
    drop(file);
    let pci = provider.pci.clone();
    let started = Instant::now();
    let unbinding = std::thread::spawn(move || unbind(&pci));
    std::thread::sleep(Duration::from_secs(3));
    // The child lives on with the memory, and the kernel waits for it.
    if unbinding.is_finished() {
        child.expect_signal(libc::SIGBUS)?;
        anyhow::bail!("mainline is repaired");
    }
    child.kill()?;
    ensure!(child.wait()?.terminating_signal() == Some(libc::SIGKILL));
    unbinding.join().expect("no panic")?;
    ensure!(started.elapsed() >= Duration::from_secs(3));
    Ok(())
}

fn other_mount_namespace() -> Result<()> {
    let provider = Provider::first()?;
    let number = fs::metadata(&provider.path)?.rdev();
    let (reader, writer) = rustix::pipe::pipe()?;
    let child = Child::spawn(|| {
        // A container, with a /dev of its own.
        // SAFETY: Affects this process only.
        unsafe {
            ensure!(libc::unshare(libc::CLONE_NEWNS) == 0);
            let (none, dev, kind) = (c"none".as_ptr(), c"/dev".as_ptr(), c"tmpfs".as_ptr());
            let private = libc::MS_REC | libc::MS_PRIVATE;
            let root = c"/".as_ptr();
            ensure!(libc::mount(none, root, none, private, std::ptr::null()) == 0);
            ensure!(libc::mount(none, dev, kind, 0, std::ptr::null()) == 0);
            ensure!(libc::mknod(c"/dev/mine".as_ptr(), libc::S_IFCHR | 0o600, number) == 0);
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/mine")?;
        let map = Map::new(&file, WINDOW)?;
        rustix::io::write(&writer, b"1")?;
        loop {
            map.fill(0..WINDOW, 1);
        }
    })?;
    rustix::io::read(&reader, &mut [0; 1])?;
    unbind_promptly(&provider)?;
    child.expect_signal(libc::SIGBUS)
}

/// Mappings survive a reset of the function: no driver is notified of it.
/// Mappings stay while all devices sleep.
fn asleep() -> Result<()> {
    let provider = Provider::first()?;
    let map = Map::new(provider.open()?, WINDOW)?;
    for round in 0..3 {
        map.fill(0..WINDOW, round);
        sleep()?;
        map.check(0..WINDOW, round)?;
        read_at(&drive(0)?, &map, 0..WINDOW, 0)?;
    }
    Ok(())
}

fn function_reset() -> Result<()> {
    let provider = Provider::first()?;
    let map = Map::new(provider.open()?, WINDOW)?;
    map.fill(0..WINDOW, 1);
    fs::write(provider.device.join("reset"), "1")?;
    map.check(0..WINDOW, 1)?;
    read_at(&drive(0)?, &map, 0..WINDOW, 0)?;
    unbind_promptly(&provider)?;
    expect_gone(&map)
}

/// Processes that fork, end, and are killed, while the device goes away.
fn process_that_ends() -> Result<()> {
    for round in 0..rounds(20) as u64 {
        let provider = Provider::first()?;
        let children = (0..4)
            .map(|number| {
                Child::spawn(|| {
                    let map = Map::new(provider.open()?, 4 * WINDOW)?;
                    loop {
                        for offset in (0..map.len()).step_by(WINDOW) {
                            // Without touching: the kernel reads for us.
                            map.is_readable(offset)?;
                        }
                        let child = Child::spawn(|| {
                            map.unmap(PAGE..WINDOW)?;
                            map.is_readable(0)?;
                            Ok(())
                        })?;
                        match number % 2 {
                            0 => child.expect_success()?,
                            _ => drop(child),
                        }
                    }
                })
            })
            .collect::<Result<Vec<_>>>()?;
        std::thread::sleep(Duration::from_millis(5 * (round % 7)));
        if round % 2 == 0 {
            children[0].kill()?;
            children[1].kill()?;
        }
        unbind_promptly(&provider)?;
        drop(children);
        restore()?;
    }
    Ok(())
}

/// Other processes that read the memory of one that has it mapped.
fn looked_at_by_others() -> Result<()> {
    let provider = Provider::first()?;
    let map = Map::new(provider.open()?, WINDOW)?;
    map.fill(0..WINDOW, 1);
    let look = || -> (bool, bool) {
        let mut word = [0_u8; 8];
        let local = libc::iovec {
            iov_base: word.as_mut_ptr().cast(),
            iov_len: 8,
        };
        let remote = libc::iovec {
            iov_base: map.at(0).cast(),
            iov_len: 8,
        };
        // SAFETY: The kernel checks the addresses of the other process.
        let read = unsafe {
            let parent = libc::getppid();
            libc::process_vm_readv(parent, &local, 1, &remote, 1, 0) == 8
        };
        let file = File::open(format!("/proc/{}/mem", std::os::unix::process::parent_id()));
        let seen = file.is_ok_and(|file| {
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut word, map.at(0) as u64).is_ok()
        });
        (read, seen)
    };
    for gone in [false, true] {
        if gone {
            unbind_promptly(&provider)?;
        }
        // Whether the kernel allows it is its own business; that it survives is ours.
        Child::spawn(|| {
            let seen = look();
            ensure!(!gone || seen == (false, false), "{seen:?} after the end");
            Ok(())
        })?
        .expect_success()?;
    }
    Ok(())
}

/// Limits the drive disk0 to so many requests in a second; 0 for any number.
pub fn slow_drive(requests: u32) {
    slow_drive_named("disk0", requests);
}

/// As [`slow_drive`], for any drive.
pub fn slow_drive_named(name: &str, requests: u32) {
    const LIMITS: &str = r#""bps": 0, "bps_rd": 0, "bps_wr": 0, "iops_rd": 0, "iops_wr": 0"#;
    qemu(
        "block_set_io_throttle",
        &format!(r#""id": "{name}", "iops": {requests}, {LIMITS}"#),
    );
    std::thread::sleep(Duration::from_millis(500));
}

/// Makes a drive slow, and has a child process read from it into device memory.
pub fn slow_read(provider: &Provider, source: File, length: usize) -> Result<Child> {
    slow_drive(1);
    let child = Child::spawn(|| {
        let map = Map::new(provider.open()?, length)?;
        match read_at(&source, &map, 0..length, 0) {
            // Unbinding waited for requests in flight.
            Ok(()) | Err(Errno::FAULT | Errno::IO) => Ok(()),
            Err(error) => Err(error.into()),
        }
    })?;
    wait_until(Duration::from_secs(5), "the child has memory", || {
        Ok(provider.available()? != provider.size)
    })?;
    Ok(child)
}

/// DMA that takes long: the drive is made slow.
fn says_for_whom_it_waits() -> Result<()> {
    const LENGTH: usize = 16 << 20;
    let provider = Provider::first()?;
    let source = drive_named("disk0")?;
    let child = slow_read(&provider, source, LENGTH)?;
    std::thread::sleep(Duration::from_millis(500));

    let words = ["waiting for DMA into ", " bytes that guest-tests["];
    unbind_says(&provider, &words, || {
        slow_drive(0);
        Ok(())
    })?;
    child.expect_success()
}

/// Unbinds a device, which must wait until a user releases the memory, and name the user in the
/// log.
pub fn unbind_says(
    provider: &Provider,
    words: &[&str],
    let_go: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let mark = Mark::new()?;
    let pci = provider.pci.clone();
    let unbinding = std::thread::spawn(move || unbind(&pci));
    let said = wait_until(Duration::from_secs(15), "the log says who", || {
        Ok(mark.expect(words).is_ok())
    });
    let waits = !unbinding.is_finished();
    let_go()?;
    unbinding.join().expect("no panic")?;
    said?;
    ensure!(waits, "it did not wait");
    Ok(())
}

/// 10,000 mappings that come and go against 200 unbinds.
fn ten_thousand_mappings() -> Result<()> {
    let (mappings, unbinds) = if on_debug_kernel() {
        (rounds(2_000), rounds(40))
    } else {
        (rounds(10_000), rounds(200))
    };
    // Little memory, since binding takes long for much of it.
    let pci = Provider::first()?.pci;
    choose(&format!("{pci} bar2+8M"))?;
    unbind(&pci)?;
    restore()?;
    let provider = Provider::first()?;
    let path = provider.path.clone();
    let counter = Map::shared(PAGE)?;
    let children = (0..2)
        .map(|_| {
            Child::spawn(|| {
                let mut file = None;
                while counter.count(0) < mappings as u64 || counter.get(8) == 0 {
                    let Some(open) = &file else {
                        file = OpenOptions::new().read(true).write(true).open(&path).ok();
                        continue;
                    };
                    match Map::with(open, 16 * PAGE, READ_WRITE, MapFlags::SHARED, 0) {
                        Ok(map) => {
                            map.is_readable(3 * PAGE)?;
                            counter.add(0);
                        }
                        Err(Errno::NODEV) => file = None,
                        Err(error) => return Err(error.into()),
                    }
                }
                Ok(())
            })
        })
        .collect::<Result<Vec<_>>>()?;
    for round in 0..unbinds {
        unbind_promptly(&provider)?;
        bind(&provider.pci)?;
        // Some mappings for each.
        let share = (round * mappings / unbinds) as u64;
        wait_until(Duration::from_secs(60), "enough mappings", || {
            Ok(counter.count(0) >= share)
        })?;
    }
    counter.set(8, 1);
    for child in children {
        child.expect_success()?;
    }
    restore()?;
    Provider::first()?.expect_full()?;
    choose(&format!("{pci} default"))?;
    unbind(&pci)?;
    restore()
}
