// SPDX-License-Identifier: GPL-2.0

//! Checks that a slot of an io_uring bypasses, for which it needs a privilege. If a kernel refuses
//! one of these requests, it was repaired: then the privilege can go.

use std::{
    fs::{self, File},
    os::fd::AsRawFd,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{ensure, Result};
use io_uring::{opcode, types::Fd, IoUring};
use rustix::io::Errno;

use super::{
    handle::alloc,
    uring::{register, ring, submit},
};
use crate::{
    cases,
    guest::{expect_errno, open_direct, wait_until, write_at, Map, Provider, WINDOW},
};

cases!("slots": loop_device_takes_one);

/// A loop device, which goes with this value.
pub struct Loop {
    /// The path of the device.
    pub device: String,
    backing: &'static str,
}

impl Loop {
    /// Makes a loop device of a file that is made for it.
    pub fn new(backing: &'static str, size: u64) -> Result<Self> {
        // Built in, on the debug kernel.
        let _ = Command::new("modprobe").arg("loop").status()?;
        let output = Command::new("losetup").arg("-f").output()?;
        let device = String::from_utf8(output.stdout)?.trim().to_owned();
        File::create(backing)?.set_len(size)?;
        wait_until(Duration::from_secs(5), "the loop device is there", || {
            Ok(Path::new(&device).exists())
        })?;
        ensure!(Command::new("losetup")
            .args([&device, backing])
            .status()?
            .success());
        Ok(Self { device, backing })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
        let _ = fs::remove_file(self.backing);
    }
}

/// A block device that does not take device memory refuses what is mapped, and takes a slot: only
/// pages that are pinned are asked what they are.
fn loop_device_takes_one() -> Result<()> {
    const LENGTH: usize = 64 << 10;
    let provider = Provider::first()?;
    let device = Loop::new("/tmp/slots-loop", 1 << 20)?;
    let file = open_direct(&device.device)?;
    let (node, handle) = alloc(&provider, WINDOW)?;
    let map = Map::new(&handle, WINDOW)?;
    map.fill(0..LENGTH, 1);
    expect_errno(
        write_at(&file, &map, 0..LENGTH, 0),
        Errno::REMOTEIO,
        "mapped memory",
    )?;

    let mut ring = ring()?;
    register(&mut ring, &node, &handle, 0)?;
    let request =
        opcode::WriteFixed::new(Fd(file.as_raw_fd()), std::ptr::null(), LENGTH as u32, 0).build();
    ensure!(
        submit(&mut ring, &request)? == LENGTH,
        "a loop device refuses slots now: tell so in the documentation"
    );
    Ok(())
}

/// Needs the topology iommu: a drive and the memory below one switch, and an IOMMU that translates.
pub mod merged {
    use super::*;
    use crate::guest::{drive_named, pattern, put_on_drive, read_at};
    use anyhow::Context;

    cases!("merged": slot_with_ordinary_memory, mapped_with_ordinary_memory);

    const PART: usize = 16 << 10;

    /// Writes four parts of a drive that follow each other at once: the first one from device
    /// memory, the others from ordinary memory. Returns whether the requests of ordinary memory
    /// succeeded, and the drive has their data.
    fn write_four(fixed: bool) -> Result<bool> {
        let provider = Provider::first()?;
        let drive = drive_named("disk0")?;
        put_on_drive(&drive, 4 * PART, 1)?;
        let (node, handle) = alloc(&provider, WINDOW)?;
        let device = Map::new(&handle, WINDOW)?;
        device.fill(0..PART, 2);
        let ordinary = Map::ordinary(4 * PART)?;
        ordinary.fill(0..4 * PART, 3);

        let mut ring: IoUring = ring()?;
        let fd = Fd(drive.as_raw_fd());
        let length = PART as u32;
        let first = if fixed {
            register(&mut ring, &node, &handle, 0)?;
            opcode::WriteFixed::new(fd, std::ptr::null(), length, 0).build()
        } else {
            opcode::Write::new(fd, device.at(0), length).build()
        };
        // The memory below the switch is not checked: this IOMMU does not let it be read.
        let mut entries = vec![first.user_data(0)];
        for part in 1..4 {
            entries.push(
                opcode::Write::new(fd, ordinary.at(part * PART), length)
                    .offset((part * PART) as u64)
                    .build()
                    .user_data(part as u64),
            );
        }
        for entry in &entries {
            // SAFETY: What the requests refer to lives until they have completed, which is waited
            // for.
            unsafe { ring.submission().push(entry)? };
        }
        ring.submit_and_wait(4)?;
        let succeeded = ring
            .completion()
            .filter(|event| event.user_data() != 0)
            .all(|event| event.result() == PART as i32);

        let found = Map::ordinary(4 * PART)?;
        read_at(&drive, &found, 0..4 * PART, 0)?;
        Ok(succeeded
            && (PART..4 * PART)
                .step_by(8)
                .all(|offset| found.get(offset) == pattern(3, offset)))
    }

    /// The requests are merged, and all of their memory is mapped as that of the first one: data of
    /// ordinary memory is lost.
    fn slot_with_ordinary_memory() -> Result<()> {
        let arrived = (0..8)
            .map(|_| write_four(true))
            .collect::<Result<Vec<_>>>()?;
        ensure!(
            arrived.contains(&false),
            "requests of slots are not merged any more: tell so in the documentation"
        );
        Ok(())
    }

    /// Mapped memory is kept apart.
    fn mapped_with_ordinary_memory() -> Result<()> {
        for _ in 0..8 {
            let arrived = write_four(false).context("mapped")?;
            ensure!(arrived, "the ordinary data is lost");
        }
        Ok(())
    }
}

/// Needs a kernel with TCP, which the debug kernel is not.
pub mod sent {
    use super::*;
    use anyhow::Context;
    use std::{
        io::Read,
        net::{TcpListener, TcpStream},
    };

    cases!("sent": without_a_copy);

    const LENGTH: usize = 16 << 10;

    /// Sends memory without a copy. Returns the result of the request, and what arrived.
    fn send(ring: &mut IoUring, memory: *const u8, slot: Option<u16>) -> Result<(i32, Vec<u8>)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let sender = TcpStream::connect(listener.local_addr()?)?;
        let (mut receiver, _) = listener.accept()?;
        let request = opcode::SendZc::new(Fd(sender.as_raw_fd()), memory, LENGTH as u32)
            .buf_index(slot)
            .build();
        // SAFETY: The memory lives until the kernel tells that it does not use it any more, which
        // is waited for.
        unsafe { ring.submission().push(&request)? };
        ring.submit_and_wait(1)?;
        let event = ring.completion().next().context("no event")?;
        let mut arrived = vec![0; event.result().max(0) as usize];
        receiver.read_exact(&mut arrived)?;
        if io_uring::cqueue::more(event.flags()) {
            // A second event tells that the memory is not used any more.
            ring.submit_and_wait(1)?;
            ring.completion().next().context("no second event")?;
        }
        Ok((event.result(), arrived))
    }

    /// The network takes a slot for ordinary memory: an adapter would map it as that. It refuses
    /// mapped device memory.
    fn without_a_copy() -> Result<()> {
        ensure!(Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status()?
            .success());
        let provider = Provider::first()?;
        let (node, handle) = alloc(&provider, WINDOW)?;
        let map = Map::new(&handle, WINDOW)?;
        map.fill(0..LENGTH, 4);
        let mut ring = ring()?;

        let (result, _) = send(&mut ring, map.at(0), None)?;
        ensure!(
            result == -Errno::FAULT.raw_os_error(),
            "mapped memory: {result}"
        );

        register(&mut ring, &node, &handle, 0)?;
        let (result, arrived) = send(&mut ring, std::ptr::null(), Some(0))?;
        ensure!(
            result == LENGTH as i32,
            "the network refuses slots now ({result}): tell so in the documentation"
        );
        // On the way to itself the machine copies it: that works.
        for (offset, word) in arrived.chunks_exact(8).enumerate() {
            ensure!(word == map.get(offset * 8).to_ne_bytes(), "{offset}");
        }
        Ok(())
    }
}
