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
    time::{Duration, Instant},
};

use anyhow::{bail, Context, Result};
use fastrand::Rng;
use p2pmem::{Handle, Provider as Node};
use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    io::Errno,
    mm::{madvise, mprotect, mremap_fixed, Advice, MprotectFlags, MremapFlags},
};

use super::{
    controller::{cmb_of, CAP_HIGH, CMBLOC, CMBS, CMBSZ, DATA, PMRCAP, PMRS, REGISTER, STATUS_ON},
    hotplug, uring,
};
use crate::{
    cases,
    guest::{
        bind, describe, devices, drive_named, insmod, is_loaded, read_at, restore, rmmod, unbind,
        write_at, Child, Map, PAGE, WINDOW,
    },
    lab_device::{self, LabDevice, ALL_ONES, LEAVE, MEMORY, NVME},
};

cases!("torture": seeded);

const NODES: &[&str] = &[
    "/dev/p2pmem0",
    "/dev/p2pmem0",
    "/dev/p2pmem1",
    "/dev/p2pmem2",
    "/dev/p2pmem3",
];
const WORKERS: u64 = 4;

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

    let end = Instant::now() + Duration::from_secs(seconds);
    let mut generation = 0;
    let mut start = |number: u64| {
        generation += 1;
        let rng = Rng::with_seed(seed.wrapping_mul(WORKERS) + number + (generation << 40));
        Child::spawn(move || worker(rng, number))
    };
    let mut children = (0..WORKERS).map(&mut start).collect::<Result<Vec<_>>>()?;

    let mut rng = Rng::with_seed(seed);
    let mut done = [0; 7];
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(rng.u64(0..60)));
        let action = rng.usize(0..done.len());
        if disturb(action, &mut rng)? {
            done[action] += 1;
        }
        for (number, child) in (0..).zip(&mut children) {
            let Some(status) = child.try_wait()? else {
                continue;
            };
            if status.terminating_signal() != Some(libc::SIGBUS) {
                bail!(
                    "worker {number} of seed {seed} ended, {}: {}",
                    describe(status),
                    child.complaint()?
                );
            }
            *child = start(number)?;
        }
    }
    for child in children {
        child.kill()?;
    }
    println!("# unbound, bound, reset, unloaded, loaded, fault, pulled: {done:?} times");
    sound()?;
    if devices()?.is_empty() {
        hotplug::plug()?;
    }
    restore()
}

/// Does something to the device. Returns whether it could be done.
fn disturb(action: usize, rng: &mut Rng) -> Result<bool> {
    // Files of a device that is just being pulled may be gone in the middle.
    let device = devices().unwrap_or_default().into_iter().next();
    let Some(pci) = device else {
        hotplug::plug()?;
        return Ok(false);
    };
    Ok(match action {
        // The device may have been bound by the module, or unbound before.
        0 => unbind(&pci).is_ok(),
        1 => bind(&pci).is_ok(),
        2 => fs::write(format!("/sys/bus/pci/devices/{pci}/reset"), "1").is_ok(),
        3 => rmmod().is_ok(),
        4 => match insmod() {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => bail!("insmod: {error}"),
        },
        5 => is_loaded() && fault(rng)?,
        _ => {
            if rng.bool() || !is_loaded() {
                return Ok(false);
            }
            hotplug::pull()?;
            true
        }
    })
}

/// Makes a fault in a device that QEMU does not have, or ends one. Returns whether it could be
/// done.
fn fault(rng: &mut Rng) -> Result<bool> {
    let id = if rng.bool() { MEMORY } else { NVME };
    let device = LabDevice::find(id)?;
    let done = match rng.u32(0..6) {
        0 => {
            // Unbinds it.
            drop(device);
            return Ok(true);
        }
        1 => {
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
            !device.is_bound() && device.bind("default")?
        }
        2 => device.reset().is_ok(),
        3 | 4 => {
            let number = if id == NVME { STATUS_ON } else { ALL_ONES };
            // Ready, or with an error: also when it is switched on again after a reset.
            device.order(number, rng.u64(0..2))?;
            true
        }
        _ if id == MEMORY => {
            device.order(LEAVE, 0)?;
            device.pull("memory", || Ok(()))?;
            lab_device::plug("memory", "dn3", MEMORY)?.keep();
            true
        }
        _ => false,
    };
    device.keep();
    Ok(done)
}

/// Ends all faults.
fn sound() -> Result<()> {
    if !is_loaded() {
        insmod()?;
    }
    for (id, number) in [(MEMORY, ALL_ONES), (NVME, STATUS_ON)] {
        LabDevice::find(id)?.order(number, 0)?;
    }
    Ok(())
}

/// Uses the memory until the process is killed, or touches what is gone.
fn worker(mut rng: Rng, number: u64) -> Result<()> {
    let disk = drive_named(if number % 2 == 0 { "disk0" } else { "disk1" })?;
    // Each worker writes to a part of its own.
    let place = number << 23;
    let mut files: Vec<File> = Vec::new();
    let mut maps: Vec<Map> = Vec::new();
    let mut handles: Vec<Handle> = Vec::new();

    loop {
        let pick = |rng: &mut Rng, length: usize| (length > 0).then(|| rng.usize(0..length));
        match rng.u32(0..20) {
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
                        Err(error) => allowed(error)?,
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
                        Err(error) => allowed(error.into())?,
                    }
                }
            }
            19 => {
                if let (Some(file), Some(handle)) = (files.last(), handles.last()) {
                    through_a_ring(&Node::from(file.try_clone()?), handle, &disk)?;
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

/// Errors that may be returned without memory, or without a device.
fn allowed(error: std::io::Error) -> Result<()> {
    match Errno::from_io_error(&error) {
        Some(Errno::NODEV | Errno::NOMEM | Errno::NOSPC) => Ok(()),
        _ => Err(error.into()),
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
