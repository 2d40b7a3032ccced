// SPDX-License-Identifier: GPL-2.0

//! Memory endpoints that QEMU does not have. Needs the topology devices.

use std::{
    fs::{self, OpenOptions},
    time::Duration,
};

use anyhow::{ensure, Result};
use p2pmem::Provider as Node;
use rustix::io::Errno;

use super::{handle, uring};
use crate::{
    cases,
    guest::{
        address_named, bind, drive_named, errno, expect_errno, node_named, read_at, unbind,
        wait_until, write_at, Child, Map, Mark, Provider, PAGE, WINDOW,
    },
    kmod::{TestFile, PEER, REVOCABLE},
    lab_device::{copy, plug, LabDevice, ALL_ONES, IOMEM, LEAVE, MEMORY, MSIX, SLOW, TRAPPED},
    programs::{p2pmem, says},
};

cases!(
    "endpoint": known_by_its_id, msix_table_in_the_memory, registers_beside_memory, slow, all_ones,
    decoding_switched_off, gone_and_back,
);

const MIB: u64 = 1 << 20;

/// Returns what `p2pmem verify` says of a drive and the memory.
fn verify(provider: &Provider) -> Result<String> {
    verify_length(provider, "64K")
}

fn verify_length(provider: &Provider, length: &str) -> Result<String> {
    let node = provider.path.to_string_lossy();
    let run = p2pmem(&[
        "verify",
        &node_named("disk0")?,
        "--via",
        &node,
        "--size",
        length,
        "--write",
    ])?;
    let text = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
    Ok(format!("{}: {text}", run.status))
}

fn known_by_its_id() -> Result<()> {
    let device = LabDevice::find(IOMEM)?;
    let provider = device.provider()?;
    let region = Node::open(&provider.path)?.region(0)?;
    ensure!((region.bar, region.offset, region.size) == (0, 0, 16 * MIB));
    copy(&provider)?;
    drop(device);
    Ok(bind(&provider.pci)?)
}

fn msix_table_in_the_memory() -> Result<()> {
    let device = LabDevice::find(MSIX)?;
    let mark = Mark::new()?;
    ensure!(device.bind("default")?, "not bound");
    for words in [
        "left out: MSI-X table, 128 bytes at offset 0x1000",
        "left out: MSI-X Pending Bit Array, 8 bytes at offset 0x2000",
    ] {
        mark.expect(&[&device.pci, words])?;
    }
    let provider = device.provider()?;
    let region = Node::open(&provider.path)?.region(0)?;
    ensure!((region.offset, region.size) == (2 * MIB, 14 * MIB));
    // There may be nothing else.
    unbind(&device.pci)?;
    let mark = Mark::new()?;
    ensure!(!device.bind("bar2+2M")?, "bound");
    mark.expect(&[
        &device.pci,
        "the range of BAR 2 has the MSI-X table in it, and no aligned 2097152 bytes beside it",
    ])?;
    ensure!(device.bind("default")?, "not bound");
    let provider = device.provider()?;
    let said = verify(&provider)?;
    ensure!(said.starts_with("exit status: 0"), "{said}");
    copy(&provider)
}

/// The registers are those of a program of the user, while others have the memory.
fn registers_beside_memory() -> Result<()> {
    let device = LabDevice::find(MEMORY)?;
    ensure!(device.bind("bar2@2M+8M")?, "not bound");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(device.path().join("resource2"))?;
    let registers = Map::new(file, PAGE)?;
    // SAFETY: Within the mapping, and aligned.
    let read = |at| unsafe { registers.at(at).cast::<u32>().read_volatile() };
    ensure!(read(0) == 0x7265_6773, "{:#x}", read(0));
    let before = read(4);
    let provider = device.provider()?;
    ensure!(provider.size as u64 == 8 * MIB);
    for _ in 0..3 {
        // SAFETY: As above.
        unsafe { registers.at(4).cast::<u32>().write_volatile(1) };
        copy(&provider)?;
    }
    ensure!(read(4) == before + 3, "{}", read(4));
    unbind(&device.pci)?;
    ensure!(read(4) == before + 3, "{}", read(4));
    // By default the registers are taken for memory: nothing tells them from it.
    ensure!(device.bind("default")?, "not bound");
    ensure!(device.provider()?.size as u64 == 32 * MIB);
    Ok(())
}

/// The regions that faults reach.
fn trapped() -> Result<LabDevice> {
    let device = LabDevice::find(MEMORY)?;
    let region = format!("bar2@{TRAPPED}+2M");
    ensure!(device.bind(&region)?, "not bound");
    Ok(device)
}

fn slow() -> Result<()> {
    const SECTOR: usize = 512;
    let device = trapped()?;
    let provider = device.provider()?;
    device.order(SLOW, 1)?;
    let map = Map::new(provider.open()?, WINDOW)?;
    map.fill(0..SECTOR, 3);
    // A drive is as patient.
    write_at(&drive_named("disk0")?, &map, 0..SECTOR, 0)?;
    map.fill(0..64, 4);
    read_at(&drive_named("disk0")?, &map, 0..SECTOR, 0)?;
    map.check(0..SECTOR, 3)?;
    // Unbinding does not wait for users of the memory.
    device.order(SLOW, 20)?;
    let child = Child::spawn_ready(|ready| {
        ready();
        loop {
            map.set(0, map.get(8));
        }
    })?;
    unbind(&device.pci)?;
    child.expect_signal(libc::SIGBUS)?;

    // Nor for all of the memory to be cleared: it is no use any more.
    device.order(SLOW, 0)?;
    ensure!(device.bind(&format!("bar2@{TRAPPED}+8M"))?, "not bound");
    let provider = device.provider()?;
    device.order(SLOW, 1)?;
    let child = Child::spawn_ready(|ready| {
        let node = Node::open(&provider.path)?;
        ready();
        let result = errno(node.alloc(8 * MIB, 0));
        expect_errno(result, Errno::NODEV, "memory of a device that goes")
    })?;
    wait_until(Duration::from_secs(10), "the memory is allocated", || {
        Ok(provider.available()? == 0)
    })?;
    unbind(&device.pci)?;
    child.expect_success()?;
    device.order(SLOW, 0)
}

fn all_ones() -> Result<()> {
    let device = trapped()?;
    let provider = device.provider()?;
    let said = verify(&provider)?;
    ensure!(said.starts_with("exit status: 0"), "{said}");
    device.order(ALL_ONES, 1)?;
    let said = verify(&provider)?;
    ensure!(
        said.starts_with("exit status: 1") && said.contains("all ones"),
        "{said}"
    );
    // Memory that the driver could not clear is not mapped.
    let file = provider.open()?;
    Child::spawn(|| {
        Map::new(&file, PAGE)?.set(0, 1);
        Ok(())
    })?
    .expect_signal(libc::SIGBUS)?;
    let result = errno(Node::from(file).alloc(PAGE as u64, 0));
    expect_errno(result, Errno::IO, "a handle")?;
    let said = verify_length(&provider, "4K")?;
    ensure!(
        said.starts_with("exit status: 1") && said.contains("could not clear it"),
        "{said}"
    );
    // It can be given up, and taken back.
    unbind(&device.pci)?;
    device.order(ALL_ONES, 0)?;
    let device = trapped()?;
    let map = Map::new(device.provider()?.open()?, WINDOW)?;
    map.fill(0..64, 1);
    map.check(0..64, 1)
}

fn decoding_switched_off() -> Result<()> {
    const COMMAND: u64 = 4;
    const MEMORY_SPACE: u8 = 1 << 1;
    let device = LabDevice::find(MEMORY)?;
    ensure!(device.bind("bar2@2M+8M")?, "not bound");
    let provider = device.provider()?;
    let map = Map::new(provider.open()?, WINDOW)?;
    map.fill(0..WINDOW, 1);
    let command = fs::read(device.path().join("config"))?[COMMAND as usize];
    ensure!(command & MEMORY_SPACE != 0, "off already");

    // If no device answers, QEMU returns zeroes, and real machines all ones.
    device.configure(COMMAND, &[command & !MEMORY_SPACE])?;
    ensure!(matches!(map.get(0), 0 | u64::MAX), "{:#x}", map.get(0));
    map.set(8, 1);
    let said = verify(&provider)?;
    ensure!(said.starts_with("exit status: 1"), "{said}");
    let said = says(&["doctor"]).or_else(|error| Ok::<_, anyhow::Error>(error.to_string()))?;
    ensure!(said.contains("Memory Space Enable clear"), "{said}");
    // The data is there again.
    device.configure(COMMAND, &[command])?;
    map.check(0..WINDOW, 1)?;
    copy(&provider)?;

    // Off while it is given up, and on when it is bound again.
    device.configure(COMMAND, &[command & !MEMORY_SPACE])?;
    unbind(&device.pci)?;
    ensure!(!map.is_readable(0)?, "still readable");
    ensure!(device.bind("bar2@2M+8M")?, "not bound again");
    copy(&device.provider()?)
}

/// Binds a device that was just plugged in, which the bus may be binding at this moment.
fn bind_plugged(device: &LabDevice) -> Result<()> {
    wait_until(Duration::from_secs(20), "the device is bound", || {
        Ok(device.bind("bar2@2M")? && device.provider().is_ok())
    })
}

/// The device is gone without a word: mapped, with a handle that a drive's device has imported, in
/// a slot of a ring, and under I/O. When it is back, its memory has another size.
fn gone_and_back() -> Result<()> {
    const NAME: &str = "memory";
    const PORT: &str = "dn3";
    let mut device = LabDevice::find(MEMORY)?;
    for (size, next) in [(30, 16), (14, 32)] {
        bind_plugged(&device)?;
        let provider = device.provider()?;
        ensure!(provider.size as u64 == size * MIB, "{}", provider.size);
        let (node, exported) = handle::alloc(&provider, WINDOW)?;
        let test = TestFile::open()?;
        test.import(&exported, &address_named("disk1")?, PEER | REVOCABLE, 0)?;
        let mut ring = uring::ring()?;
        uring::register(&mut ring, &node, &exported, 0)?;
        let untouched = Map::new(&exported, WINDOW)?;
        untouched.fill(0..PAGE, 1);
        let child = Child::spawn_ready(|ready| {
            let map = Map::new(provider.open()?, WINDOW)?;
            let source = drive_named("disk0")?;
            ready();
            loop {
                if read_at(&source, &map, 0..WINDOW, 0).is_err() {
                    map.set(0, 1);
                }
            }
        })?;

        device.order(LEAVE, next * MIB)?;
        let config = fs::read(device.path().join("config"))?;
        ensure!(config[..2] == [0xff, 0xff], "it still answers");
        // For a while the kernel has not noticed. The memory cannot be taken out of a ring of
        // another thread: that is waited for.
        std::thread::sleep(Duration::from_millis(50));
        let mark = Mark::new()?;
        device.pull(NAME, || {
            wait_until(Duration::from_secs(20), "the log says who", || {
                Ok(mark.expect(&["waiting for an io_uring with"]).is_ok())
            })?;
            drop(ring);
            Ok(())
        })?;
        child.expect_signal(libc::SIGBUS)?;
        wait_until(Duration::from_secs(20), "the node is gone", || {
            Ok(!provider.path.exists())
        })?;
        ensure!(!untouched.is_readable(0)?, "still readable");
        drop((untouched, exported, node, test));
        drop(device);
        device = plug(NAME, PORT, MEMORY)?;
        ensure!(fs::metadata(device.path().join("resource2"))?.len() == next * MIB);
    }
    bind_plugged(&device)?;
    copy(&device.provider()?)
}
