// SPDX-License-Identifier: GPL-2.0

//! The device is pulled. Needs the topologies hotplug and, for the second group, hotplug-native.

use std::{fs, time::Duration};

use anyhow::{ensure, Result};
use rustix::io::Errno;

use super::{large::leave_reads_in_flight, unbind::slow_drive};
use crate::{
    cases,
    guest::{
        devices, drive_named, on_debug_kernel, qemu, read_at, rounds, wait_until, write_at, Child,
        Map, Provider, PAGE, WINDOW,
    },
};

cases!("hotplug": fifty_times_under_load, pulled_with_outstanding_reads);

const LIMIT: Duration = Duration::from_secs(30);
const PLUGGED: &str = "/tmp/plugged";

/// Waits for the provider with that much memory.
fn provider(size: usize) -> Result<Provider> {
    let mut found = None;
    wait_until(LIMIT, "the provider is there", || {
        // Its files may be made in the middle of it.
        let all = Provider::all().unwrap_or_default();
        found = all.into_iter().find(|one| one.size == size);
        Ok(found.as_ref().is_some_and(|one| one.path.exists()))
    })?;
    Ok(found.expect("was found"))
}

/// Starts processes that use the memory of a provider in all ways.
fn load(provider: &Provider, drives: (&str, &str)) -> Result<Vec<Child>> {
    let length = 2 * WINDOW;
    let mut children = Vec::new();
    // Writes and reads, until the memory is gone.
    children.push(Child::spawn_ready(|ready| {
        let map = Map::new(provider.open()?, length)?;
        ready();
        loop {
            map.fill(0..length, 1);
            map.check(0..PAGE, 1)?;
        }
    })?);
    // Direct I/O into it and out of it.
    for _ in 0..2 {
        children.push(Child::spawn_ready(|ready| {
            let map = Map::new(provider.open()?, length)?;
            ready();
            let (source, destination) = (drive_named(drives.0)?, drive_named(drives.1)?);
            loop {
                for result in [
                    read_at(&source, &map, 0..length, 0),
                    write_at(&destination, &map, 0..length, 0),
                ] {
                    match result {
                        Ok(()) => (),
                        // The memory is gone; or the drive, which is pulled as well.
                        Err(Errno::FAULT | Errno::IO | Errno::NODEV | Errno::NXIO) => map.set(0, 1),
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        })?);
    }
    // Has it, and never touches it again.
    children.push(Child::spawn_ready(|ready| {
        let map = Map::new(provider.open()?, length)?;
        ready();
        map.fill(0..length, 2);
        while map.is_readable(PAGE)? {
            std::thread::sleep(Duration::from_millis(20));
        }
        map.set(0, 1);
        Ok(())
    })?);
    Ok(children)
}

/// The device is pulled while a drive writes to memory that has no mapping any more.
fn pulled_with_outstanding_reads() -> Result<()> {
    const LENGTH: usize = 4 * WINDOW;
    for _ in 0..rounds(5) {
        let provider = provider(64 << 20)?;
        let child = leave_reads_in_flight(&provider, LENGTH)?;
        let slow = std::thread::spawn(|| {
            std::thread::sleep(Duration::from_secs(2));
            slow_drive(0);
        });
        pull()?;
        slow.join().expect("no panic");
        // DMA in flight is waited for, or fails as the memory does.
        child.expect_success()?;
        plug()?;
    }
    provider(64 << 20).map(drop)
}

fn expect_all_gone(provider: &Provider, children: Vec<Child>) -> Result<()> {
    for child in children {
        child.expect_signal(libc::SIGBUS)?;
    }
    wait_until(LIMIT, "the device is gone", || {
        Ok(!provider.path.exists() && !provider.device.exists())
    })
}

/// Which of the devices that were plugged in one after the other is there: the first one was there
/// from the beginning.
fn plugged() -> Result<u32> {
    match fs::read_to_string(PLUGGED) {
        Ok(text) => Ok(text.parse()?),
        Err(_) => Ok(0),
    }
}

/// Pulls the device.
pub fn pull() -> Result<()> {
    let name = match plugged()? {
        0 => "bar0".to_owned(),
        number => format!("bar-{number}"),
    };
    qemu("device_del", &format!(r#""id": "{name}""#));
    wait_until(LIMIT, "the device is gone", || {
        Ok(devices().is_ok_and(|all| all.is_empty()))
    })
}

/// Plugs another device in, after one was pulled.
pub fn plug() -> Result<()> {
    let last = plugged()?;
    let next = last + 1;
    qemu(
        "object-add",
        &format!(
            r#""qom-type": "memory-backend-ram", "id": "memory-{next}", "size": 67108864, "share": true"#
        ),
    );
    qemu(
        "device_add",
        &format!(
            r#""driver": "ivshmem-plain", "id": "bar-{next}", "bus": "dn2", "memdev": "memory-{next}""#
        ),
    );
    if last > 0 {
        qemu("object-del", &format!(r#""id": "memory-{last}""#));
    }
    fs::write(PLUGGED, next.to_string())?;
    wait_until(LIMIT, "the device is back", || {
        Ok(devices().is_ok_and(|all| !all.is_empty()))
    })
}

fn fifty_times_under_load() -> Result<()> {
    // The debug kernel takes five seconds for each.
    let count = if on_debug_kernel() { 10 } else { rounds(50) };
    for round in 0..count as u64 {
        let provider = provider(64 << 20)?;
        let children = load(&provider, ("disk0", "disk1"))?;
        std::thread::sleep(Duration::from_millis(7 * (round % 5)));
        pull()?;
        expect_all_gone(&provider, children)?;
        plug()?;
    }
    provider(64 << 20).map(drop)
}

/// By the port's own hot-plug, since the firmware's knows nothing of bridges.
pub mod native {
    use super::*;

    cases!("native": whole_switch);
}

/// A switch with a provider and drives below it.
fn whole_switch() -> Result<()> {
    let provider = provider(32 << 20)?;
    let children = load(&provider, ("disk2", "disk3"))?;
    std::thread::sleep(Duration::from_millis(50));
    qemu("device_del", r#""id": "up1""#);
    expect_all_gone(&provider, children)?;
    ensure!(Provider::all()?.len() == 1, "the other one is there still");
    Ok(())
}
