// SPDX-License-Identifier: GPL-2.0

//! Everything at once, at random. Needs the topology devices.
//!
//! Processes use the memory of several devices in all ways while these are unbound, reset, pulled,
//! or have faults, and the module is unloaded. What each of them does follows from the seed, which
//! is printed: the same `TORTURE_SEED` does the same again, as far as processes can be told when.
//! `TORTURE_SECONDS` says for how long.

use std::{
    env,
    fs::{self, File, OpenOptions},
    os::fd::AsFd,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context, Result};
use fastrand::Rng;
use p2pmem::{Handle, Provider as Node};
use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    io::Errno,
    mm::{madvise, mprotect, mremap_fixed, Advice, MprotectFlags, MremapFlags},
};

use super::{
    controller::{cmb_of, CAP_HIGH, CMBLOC, CMBS, CMBSZ, DATA, PMRCAP, PMRS, REGISTER, STATUS_ON},
    hotplug, pusher, uring,
};
use crate::{
    cases,
    guest::{
        bind, describe, devices, drive_named, insmod, is_loaded, patience, read_at, restore, rmmod,
        sleep, unbind, wait_until, write_at, Child, Map, PAGE, WINDOW,
    },
    lab_device::{self, Id, LabDevice, ALL_ONES, LEAVE, MEMORY, NVME},
};

cases!("torture": seeded);

const NODES: &[&str] = &[
    "/dev/p2pmem0",
    "/dev/p2pmem0",
    "/dev/p2pmem1",
    "/dev/p2pmem2",
    "/dev/p2pmem3",
    "/dev/p2pmem4",
];
const WORKERS: u64 = 4;
const LIMIT: Duration = Duration::from_secs(60);
/// Each disturbance gets through in a run of so many seconds.
const LONG: Duration = Duration::from_secs(60);

/// Something that happens while workers use the memory. Returns whether it could be done.
type Disturbance = fn(&mut Storm) -> Result<bool>;

const DISTURBANCES: &[(&str, Disturbance)] = &[
    ("unbound", |_| with_device(true, unbind)),
    ("bound", |_| with_device(false, bind)),
    ("reset", |_| reset()),
    ("pulled", |_| pull()),
    ("plugged", |_| plug()),
    ("unloaded", Storm::unload),
    ("loaded", |_| load()),
    ("worker killed", Storm::kill_one),
    ("sleep", |_| fall_asleep()),
    ("endpoint bound", |_| bind_lab_device(MEMORY)),
    ("endpoint unbound", |_| unbind_lab_device(MEMORY)),
    ("endpoint reset", |_| reset_lab_device(MEMORY)),
    ("endpoint all ones", |storm| storm.order(MEMORY, ALL_ONES)),
    ("endpoint replaced", |_| replace()),
    ("controller bound", |_| bind_lab_device(NVME)),
    ("controller unbound", |_| unbind_lab_device(NVME)),
    ("controller reset", |_| reset_lab_device(NVME)),
    ("PMR error", |storm| storm.order(NVME, STATUS_ON)),
];

fn number(name: &str) -> Result<Option<u64>> {
    match env::var(name) {
        Ok(text) => Ok(Some(
            text.parse().with_context(|| format!("{name}={text}"))?,
        )),
        Err(_) => Ok(None),
    }
}

fn seeded() -> Result<()> {
    let seed = number("TORTURE_SEED")?.unwrap_or_else(|| fastrand::u64(0..1 << 32));
    let seconds = number("TORTURE_SECONDS")?.unwrap_or(10);
    println!("# TORTURE_SEED={seed} TORTURE_SECONDS={seconds}");

    pusher::insert()?;
    wait_until(LIMIT, "the nvme driver gives up", || {
        with_lab_device(NVME, |device| Ok(!device.is_bound()))
    })?;
    let mut storm = Storm {
        seed,
        rng: Rng::with_seed(seed),
        workers: Vec::new(),
        started: 0,
    };
    let mut done = [0; DISTURBANCES.len()];
    let end = Instant::now() + Duration::from_secs(seconds);
    storm.fill_up()?;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(storm.rng.u64(0..60)));
        let index = storm.disturb(&done)?;
        done[index] += 1;
        storm.look_after_workers()?;
    }
    storm.kill_all()?;

    let mut never = Vec::new();
    for ((name, _), count) in DISTURBANCES.iter().zip(done) {
        println!("# {name}: {count} times");
        if count == 0 {
            never.push(*name);
        }
    }
    calm_down()?;
    ensure!(
        Duration::from_secs(seconds) < patience(LONG) || never.is_empty(),
        "never in {seconds} s: {}",
        never.join(", ")
    );
    Ok(())
}

/// The state of a run.
struct Storm {
    seed: u64,
    rng: Rng,
    workers: Vec<Child>,
    /// How many were started.
    started: u64,
}

impl Storm {
    /// Does one thing that can be done at this moment, and returns its index. Until each was done,
    /// and half of the time from then on, it is one of those that were done least.
    fn disturb(&mut self, done: &[u32]) -> Result<usize> {
        let mut order: Vec<_> = (0..done.len()).collect();
        self.rng.shuffle(&mut order);
        if self.rng.bool() || done.contains(&0) {
            order.sort_by_key(|&index| done[index]);
        }
        for index in order {
            let (name, disturbance) = DISTURBANCES[index];
            if disturbance(self).context(name)? {
                return Ok(index);
            }
        }
        bail!("nothing can be done")
    }

    /// Starts the workers that are missing.
    fn fill_up(&mut self) -> Result<()> {
        while self.workers.len() < WORKERS as usize {
            let number = self.started;
            self.started += 1;
            let rng = Rng::with_seed(self.seed.wrapping_add(number << 40));
            self.workers
                .push(Child::spawn(move || worker(rng, number % WORKERS))?);
        }
        Ok(())
    }

    /// Starts others for workers that ended, as they do when they touch memory that is gone.
    fn look_after_workers(&mut self) -> Result<()> {
        for mut worker in std::mem::take(&mut self.workers) {
            match worker.try_wait()? {
                None => self.workers.push(worker),
                Some(status) => ensure!(
                    status.terminating_signal() == Some(libc::SIGBUS),
                    "a worker of seed {} ended, {}: {}",
                    self.seed,
                    describe(status),
                    worker.complaint()?
                ),
            }
        }
        self.fill_up()
    }

    /// Kills all workers, and waits until they have ended.
    fn kill_all(&mut self) -> Result<()> {
        self.look_after_workers()?;
        for worker in &self.workers {
            worker.kill()?;
        }
        self.workers
            .drain(..)
            .try_for_each(|mut worker| worker.wait().map(drop))
    }

    fn kill_one(&mut self) -> Result<bool> {
        let index = self.rng.usize(0..self.workers.len());
        let mut worker = self.workers.swap_remove(index);
        worker.kill()?;
        worker.wait()?;
        Ok(true)
    }

    /// Unloads the module. It can be unloaded when none of the workers has a file open: nothing
    /// else keeps it.
    fn unload(&mut self) -> Result<bool> {
        if !is_loaded() {
            return Ok(false);
        }
        let unloaded = || match rmmod() {
            Ok(()) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(error).context("rmmod"),
        };
        if !unloaded()? {
            self.kill_all()?;
            wait_until(LIMIT, "the module can be unloaded", unloaded)?;
        }
        Ok(true)
    }

    /// Makes a fault in a device that QEMU does not have, or ends it.
    fn order(&mut self, id: Id, number: u32) -> Result<bool> {
        let value = self.rng.u64(0..2);
        with_lab_device(id, |device| device.order(number, value).map(|()| true))
    }
}

/// Does something to the device that others know by its ID, if it is there and is in that state.
fn with_device(bound: bool, act: fn(&str) -> std::io::Result<()>) -> Result<bool> {
    let Some(pci) = devices()?.into_iter().next() else {
        return Ok(false);
    };
    let folder = Path::new("/sys/bus/pci/devices").join(&pci);
    if !is_loaded() || folder.join("driver").exists() != bound {
        return Ok(false);
    }
    act(&pci)?;
    Ok(true)
}

fn reset() -> Result<bool> {
    let Some(pci) = devices()?.into_iter().next() else {
        return Ok(false);
    };
    fs::write(format!("/sys/bus/pci/devices/{pci}/reset"), "1")?;
    Ok(true)
}

fn pull() -> Result<bool> {
    if devices()?.is_empty() {
        return Ok(false);
    }
    hotplug::pull()?;
    Ok(true)
}

fn plug() -> Result<bool> {
    if !devices()?.is_empty() {
        return Ok(false);
    }
    hotplug::plug()?;
    // The bus may be binding it at this moment.
    if is_loaded() {
        wait_until(LIMIT, "the device is bound", || {
            with_device(true, |_| Ok(()))
        })?;
    }
    Ok(true)
}

fn load() -> Result<bool> {
    if is_loaded() {
        return Ok(false);
    }
    insmod().context("insmod")?;
    Ok(true)
}

/// The system stays awake while memory is in a ring.
fn fall_asleep() -> Result<bool> {
    match sleep() {
        Ok(()) => Ok(true),
        Err(error) => match error.downcast_ref::<std::io::Error>() {
            Some(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(false),
            _ => Err(error),
        },
    }
}

fn with_lab_device(id: Id, act: impl FnOnce(&LabDevice) -> Result<bool>) -> Result<bool> {
    let device = LabDevice::find(id)?;
    let result = act(&device);
    device.keep();
    result
}

fn bind_lab_device(id: Id) -> Result<bool> {
    with_lab_device(id, |device| {
        if !is_loaded() || device.is_bound() {
            return Ok(false);
        }
        if id == NVME {
            // A CMB of 8 MiB in BAR 2, and a PMR in BAR 4.
            for (register, value) in [
                (CAP_HIGH, PMRS | CMBS),
                (CMBLOC, 2),
                (CMBSZ, cmb_of(8)),
                (PMRCAP, (4 << 5) | DATA),
            ] {
                device.order(REGISTER + register, value)?;
            }
        }
        ensure!(device.bind("default")?, "not bound");
        Ok(true)
    })
}

fn unbind_lab_device(id: Id) -> Result<bool> {
    with_lab_device(id, |device| {
        let bound = device.is_bound();
        if bound {
            unbind(&device.pci)?;
        }
        Ok(bound)
    })
}

fn reset_lab_device(id: Id) -> Result<bool> {
    with_lab_device(id, |device| device.reset().map(|()| true))
}

/// The endpoint is gone without a word. Then it is pulled, and another one is plugged in.
fn replace() -> Result<bool> {
    with_lab_device(MEMORY, |device| {
        device.order(LEAVE, 0)?;
        device.pull("memory", || Ok(()))?;
        lab_device::plug("memory", "dn3", MEMORY)?.keep();
        Ok(true)
    })
}

/// Brings all devices into the state in which they were before.
fn calm_down() -> Result<()> {
    if devices()?.is_empty() {
        plug()?;
    }
    restore()?;
    for (id, number) in [(MEMORY, ALL_ONES), (NVME, STATUS_ON)] {
        // Unbinds it.
        LabDevice::find(id)?.order(number, 0)?;
    }
    pusher::remove()
}

/// Uses the memory until the process is killed, or touches what is gone.
fn worker(mut rng: Rng, number: u64) -> Result<()> {
    // The process that disturbs it comes first, also where both are slow.
    rustix::process::nice(19)?;
    let disk = drive_named(if number % 2 == 0 { "disk0" } else { "disk1" })?;
    // Each worker writes to a part of its own.
    let place = number << 23;
    let mut files: Vec<File> = Vec::new();
    let mut maps: Vec<Map> = Vec::new();
    let mut handles: Vec<Handle> = Vec::new();

    loop {
        let pick = |rng: &mut Rng, length: usize| (length > 0).then(|| rng.usize(0..length));
        match rng.u32(0..21) {
            0 | 1 => {
                let node = NODES[rng.usize(0..NODES.len())];
                files.extend(OpenOptions::new().read(true).write(true).open(node));
            }
            2 => {
                if let Some(index) = pick(&mut rng, files.len()) {
                    files.swap_remove(index);
                }
            }
            3..=5 => {
                if let (Some(file), true) = (files.last(), maps.len() < 8) {
                    let (length, skew) = (length(&mut rng), skew(&mut rng));
                    match Map::placed(file, length, 0, skew) {
                        Ok(map) => maps.push(map),
                        Err(Errno::NODEV | Errno::NOMEM | Errno::NOSPC) => (),
                        Err(error) => bail!("mmap: {error}"),
                    }
                }
            }
            6 => {
                if let Some(index) = pick(&mut rng, maps.len()) {
                    maps.swap_remove(index);
                }
            }
            10 => {
                if let Some(file) = files.first() {
                    ask(file)?;
                }
            }
            16 | 17 if handles.len() < 4 => {
                if let Some(file) = files.last() {
                    let (flags, length) = (rng.u32(0..4), length(&mut rng));
                    match Node::from(file.try_clone()?).alloc(length as u64, flags) {
                        Ok(handle) => handles.push(handle),
                        Err(error) => allowed("allocating", error)?,
                    }
                }
            }
            16..=18 => {
                if let Some(index) = pick(&mut rng, handles.len()) {
                    let handle = match rng.bool() {
                        true => &handles[index],
                        false => &handles.swap_remove(index),
                    };
                    let whole = rustix::fs::seek(handle, rustix::fs::SeekFrom::End(0))? as usize;
                    let offset = match rng.u32(0..3) {
                        0 => 0,
                        1 => (whole - PAGE) & !(WINDOW - 1),
                        _ => PAGE * rng.usize(0..whole / PAGE),
                    };
                    let skew = skew(&mut rng);
                    match Map::placed(handle, whole - offset, offset, skew) {
                        Ok(map) => maps.push(map),
                        Err(error) => allowed("mapping a handle", error.into())?,
                    }
                }
            }
            19 => {
                if let (Some(file), Some(handle)) = (files.last(), handles.last()) {
                    through_a_ring(&Node::from(file.try_clone()?), handle, &disk)?;
                }
            }
            20 => {
                if let Some(handle) = handles.last() {
                    let time = Duration::from_millis(rng.u64(0..20));
                    pusher::push(handle, PAGE, time)?;
                }
            }
            13 => {
                // The remaining parts are mappings of their own.
                if let Some(index) = pick(&mut rng, maps.len()) {
                    let map = maps.swap_remove(index);
                    let start = PAGE * rng.usize(0..map.len() / PAGE);
                    let end = (start + PAGE * rng.usize(1..64)).min(map.len());
                    map.unmap(start..end)?;
                    let (length, first) = (map.len(), map.into_raw());
                    for piece in [0..start, end..length] {
                        if !piece.is_empty() {
                            let at = first.wrapping_add(piece.start);
                            maps.push(Map::from_raw(at, piece.len()));
                        }
                    }
                }
            }
            choice => {
                let Some(index) = pick(&mut rng, maps.len()) else {
                    continue;
                };
                let map = &maps[index];
                let page = PAGE * rng.usize(0..map.len() / PAGE);
                use_map(choice, map, page, &disk, place, &mut rng)?;
            }
        }
    }
}

/// Returns a length of some pages, or about that of some large pages.
fn length(rng: &mut Rng) -> usize {
    match rng.u32(0..6) {
        0 => PAGE,
        1 => PAGE * rng.usize(1..64),
        2 => WINDOW,
        3 => WINDOW * rng.usize(1..4),
        4 => WINDOW * rng.usize(1..4) - PAGE * rng.usize(1..8),
        _ => WINDOW + PAGE * rng.usize(1..600),
    }
}

/// Returns how far behind a multiple of a large page an address is to be.
fn skew(rng: &mut Rng) -> usize {
    match rng.u32(0..3) {
        0 => PAGE * rng.usize(0..WINDOW / PAGE),
        _ => 0,
    }
}

/// Errors that may be returned without memory, without a device, or (EIO) by one that reads all
/// ones where it was cleared.
fn allowed(what: &'static str, error: std::io::Error) -> Result<()> {
    match Errno::from_io_error(&error) {
        Some(Errno::NODEV | Errno::NOMEM | Errno::NOSPC | Errno::IO) => Ok(()),
        _ => Err(error).context(what),
    }
}

/// Reads into a handle by way of a ring. The handle may be one of a device that is gone.
fn through_a_ring(node: &Node, handle: &Handle, disk: &File) -> Result<()> {
    let mut ring = uring::ring()?;
    match uring::register(&mut ring, node, handle, 0) {
        Ok(()) => (),
        Err(Errno::NODEV | Errno::XDEV) => return Ok(()),
        Err(error) => return Err(error).context("registering"),
    }
    let request = uring::read_request(disk, 0, 0, WINDOW);
    match uring::submit(&mut ring, &request) {
        // The device may have been pulled, the slot be emptied, or the memory be shorter.
        Ok(_) | Err(Errno::IO | Errno::REMOTEIO | Errno::INVAL | Errno::FAULT) => Ok(()),
        Err(error) => Err(error).context("reading into a slot"),
    }
}

fn use_map(
    choice: u32,
    map: &Map,
    page: usize,
    disk: &File,
    place: u64,
    rng: &mut Rng,
) -> Result<()> {
    let length = (PAGE * rng.usize(1..256)).min(map.len() - page);
    let range = page..page + length;
    match choice {
        7 => {
            // The kernel looks, and does not mind.
            map.is_readable(page)?;
        }
        // May be the end of this process.
        8 => map.set(page, 1),
        9 | 11 => {
            let result = match choice {
                9 => read_at(disk, map, range, place),
                _ => write_at(disk, map, range, place),
            };
            match result {
                Ok(()) | Err(Errno::FAULT | Errno::IO | Errno::NOMEM) => (),
                Err(error) => bail!("direct I/O: {error}"),
            }
        }
        12 => {
            let child = Child::spawn(|| {
                map.is_readable(page)?;
                map.unmap(range)?;
                Ok(())
            })?;
            if rng.bool() {
                child.expect_success()?;
            }
        }
        15 if length < map.len() => {
            // To a place of its own and back, unless something was mapped there in between.
            let Ok(place) = Map::ordinary(length) else {
                return Ok(());
            };
            let (old, new) = (map.at(page), place.into_raw());
            let flags = MremapFlags::MAYMOVE;
            // SAFETY: A part of the mapping, and a mapping that is replaced.
            unsafe {
                match mremap_fixed(old.cast(), length, length, flags, new.cast()) {
                    Ok(_) => drop(mremap_fixed(new.cast(), length, length, flags, old.cast())?),
                    Err(_) => drop(Map::from_raw(new, length)),
                }
            }
        }
        14 => {
            let advice = match rng.u32(0..4) {
                0 => Advice::LinuxNoHugepage,
                1 => Advice::LinuxHugepage,
                _ => Advice::LinuxDontNeed,
            };
            // SAFETY: Ranges of the mapping; parts may be unmapped, which is an error.
            let _ = unsafe { madvise(map.at(page).cast(), length, advice) };
        }
        _ => {
            for rights in [
                MprotectFlags::READ,
                MprotectFlags::READ | MprotectFlags::WRITE,
            ] {
                // SAFETY: As above.
                let _ = unsafe { mprotect(map.at(page).cast(), length, rights) };
            }
        }
    }
    Ok(())
}

fn ask(file: &File) -> Result<()> {
    let mut files = [PollFd::new(file, PollFlags::IN)];
    poll(
        &mut files,
        Some(&Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        }),
    )?;
    let mut argument = [0_u64; 4];
    // SAFETY: The argument is as long as the request says.
    let result = unsafe {
        libc::ioctl(
            crate::guest::raw(file.as_fd()),
            u64::from(p2pmem::abi::INFO),
            &mut argument,
        )
    };
    match result {
        0 => Ok(()),
        _ if crate::guest::last_errno() == Errno::NODEV => Ok(()),
        _ => bail!("INFO: {}", crate::guest::last_errno()),
    }
}
