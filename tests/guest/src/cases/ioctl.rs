// SPDX-License-Identifier: GPL-2.0

//! Requests.

use std::{
    fs,
    os::{fd::AsFd, unix::fs::PermissionsExt},
};

use anyhow::{ensure, Context, Result};
use p2pmem::{
    abi::{self, p2pmem_info, p2pmem_region},
    Provider as Node,
};
use rustix::{
    fs::{seek, Mode, OFlags, SeekFrom},
    io::Errno,
    mm::{mprotect, msync, MapFlags, MprotectFlags, MsyncFlags, ProtFlags},
};

use crate::{
    cases,
    guest::{
        become_user, expect_errno, last_errno, raw, restore, rounds, unbind, Child, Map, Provider,
        PAGE, READ, READ_WRITE,
    },
};

cases!(
    "ioctl": info, region, unknown_requests, bad_pointers, longer_structures, shorter_structures,
    unprivileged, at_random, place_in_the_file, nothing_to_synchronise, neither_read_nor_written,
    opened_in_other_ways,
);

/// A request with any number and argument.
fn request(file: impl AsFd, number: u64, argument: *mut u8) -> Result<(), Errno> {
    // SAFETY: The kernel checks the argument, which may be anything.
    match unsafe { libc::ioctl(raw(file.as_fd()), number, argument) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// The number of a request with another size of its structure.
fn resized(number: u32, size: usize) -> u64 {
    u64::from(number) & !(0x3fff << 16) | ((size as u64) << 16)
}

fn info() -> Result<()> {
    let provider = Provider::first()?;
    let node = Node::open(&provider.path)?;
    let before = node.info()?;

    ensure!(before.size == provider.size as u64, "size {}", before.size);
    ensure!((before.allocated, before.granule, before.regions) == (0, PAGE as u32, 1));

    let map = Map::new(&node, 3 * PAGE)?;
    let other = Map::new(provider.open()?, PAGE)?;
    ensure!(
        node.info()?.allocated == 4 * PAGE as u64,
        "{} allocated",
        node.info()?.allocated
    );
    drop(map);
    ensure!(node.info()?.allocated == PAGE as u64);
    drop(other);
    ensure!(node.info()?.allocated == 0);

    Ok(())
}

fn region() -> Result<()> {
    let provider = Provider::first()?;
    let region = Node::open(&provider.path)?.region(0)?;

    // The lines of the resource file are the BARs: first and last address, flags.
    let resources = fs::read_to_string(provider.device.join("resource"))?;
    let line = resources
        .lines()
        .nth(region.bar as usize)
        .context("no BAR")?;
    let mut words = line
        .split_whitespace()
        .map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16));
    let (first, last) = (
        words.next().context("first")??,
        words.next().context("last")??,
    );

    ensure!(region.bar == 2, "BAR {}", region.bar);
    ensure!(
        region.offset == 0 && region.size == last - first + 1,
        "{region:?}"
    );
    ensure!(region.size == provider.size as u64);

    for index in [1, 2, u32::MAX] {
        let result = Node::open(&provider.path)?.region(index);
        crate::guest::expect_io_errno(result, Errno::INVAL, "a region that is not there")?;
    }
    Ok(())
}

fn unknown_requests() -> Result<()> {
    let file = Provider::first()?.open()?;
    let map = Map::ordinary(PAGE)?;
    let info = u64::from(abi::INFO);

    for number in [
        0,
        info + 2,                            // another number
        info ^ (1 << 8),                     // another type
        info | (1 << 30),                    // another direction
        info & !(3 << 30),                   // no direction
        u64::from(abi::REGION) & !(2 << 30), // as well
        0xffff_ffff,
        0x5401, // TCGETS
    ] {
        expect_errno(
            request(&file, number, map.at(0)),
            Errno::NOTTY,
            &format!("{number:#x}"),
        )?;
    }
    Ok(())
}

fn bad_pointers() -> Result<()> {
    let file = Provider::first()?.open()?;
    let kernel = 0xffff_8880_0000_0000_usize as *mut u8;
    let readable = Map::ordinary(PAGE)?;
    // SAFETY: The range is that of the mapping.
    unsafe { mprotect(readable.at(0).cast(), PAGE, MprotectFlags::READ)? };

    for number in [abi::INFO, abi::REGION] {
        for pointer in [std::ptr::null_mut(), 8 as *mut u8, kernel, readable.at(0)] {
            expect_errno(
                request(&file, number.into(), pointer),
                Errno::FAULT,
                &format!("{number:#x} with {pointer:?}"),
            )?;
        }
    }
    Ok(())
}

fn longer_structures() -> Result<()> {
    let file = Provider::first()?.open()?;
    let map = Map::ordinary(2 * PAGE)?;
    let known = size_of::<p2pmem_info>();

    // A caller with a newer header: the kernel clears what it does not know.
    for size in [known + 1, known + 8, PAGE] {
        map.fill(0..2 * PAGE, 7);
        request(&file, resized(abi::INFO, size), map.at(0))?;
        for offset in (known.next_multiple_of(8)..size & !7).step_by(8) {
            ensure!(
                map.get(offset) == 0,
                "at {offset} of {size} is {:#x}",
                map.get(offset)
            );
        }
        let beyond = size.next_multiple_of(8);
        map.check(beyond..2 * PAGE, 7)?;
    }

    // Fields that the kernel does not know must be zero.
    let known = size_of::<p2pmem_region>();
    for offset in (0..known + 16).step_by(8) {
        map.set(offset, 0);
    }
    let longer = resized(abi::REGION, known + 16);
    request(&file, longer, map.at(0))?;
    ensure!(map.get(16) != 0, "no size");
    map.set(known + 8, 1);
    map.set(0, 0);
    expect_errno(
        request(&file, longer, map.at(0)),
        Errno::TOOBIG,
        "unknown tail",
    )
}

fn shorter_structures() -> Result<()> {
    let file = Provider::first()?.open()?;
    let map = Map::ordinary(PAGE)?;

    // There never was a header with shorter ones.
    for number in [abi::INFO, abi::REGION] {
        for size in [0, 1, 23] {
            map.fill(0..PAGE, 3);
            expect_errno(
                request(&file, resized(number, size), map.at(0)),
                Errno::INVAL,
                &format!("{number:#x} with {size} bytes"),
            )?;
            map.check(0..PAGE, 3)?;
        }
    }
    Ok(())
}

fn unprivileged() -> Result<()> {
    let provider = Provider::first()?;
    let child = Child::spawn(|| {
        become_user()?;
        crate::guest::expect_io_errno(
            fs::File::open(&provider.path),
            Errno::ACCESS,
            "open by a user",
        )
    })?;
    child.expect_success()?;
    ensure!(fs::metadata(&provider.path)?.permissions().mode() & 0o77 == 0);
    Ok(())
}

/// Any request with any argument, and any mapping, by a process without rights that was given the
/// file. The seed is part of what a failure says.
fn at_random() -> Result<()> {
    let provider = Provider::first()?;
    let file = provider.open()?;
    let seed = fastrand::u64(..);
    let child = Child::spawn(|| {
        become_user()?;
        let mut rng = fastrand::Rng::with_seed(seed);
        let memory = Map::ordinary(16 * PAGE)?;
        for _ in 0..rounds(50_000) {
            let size = *rng
                .choice(&[0, 8, 16, 23, 24, 25, 64, 4096, 16383])
                .unwrap();
            let argument = match rng.u32(0..6) {
                0 => std::ptr::null_mut(),
                1 => rng.usize(..) as *mut u8,
                2 => 0xffff_8880_0000_0000_usize as *mut u8,
                // Ends beyond what is mapped.
                3 => memory.at(16 * PAGE - 1 - rng.usize(0..64)),
                _ => {
                    let at = 8 * rng.usize(0..64);
                    memory.set(at, rng.u64(..) >> rng.u32(0..64));
                    memory.at(at)
                }
            };
            let number = match rng.u32(0..4) {
                0 => u64::from(rng.u32(..)),
                1 => resized(abi::INFO, size),
                2 => resized(abi::REGION, size),
                _ => u64::from(abi::INFO) & !0xff | rng.u64(0..256),
            };
            let result = request(&file, number, argument);
            if let Err(error) = result {
                let known = [
                    Errno::NOTTY,
                    Errno::FAULT,
                    Errno::INVAL,
                    Errno::TOOBIG,
                    Errno::BADF,
                    Errno::NOMEM,
                    Errno::NOSPC,
                    Errno::OPNOTSUPP,
                ];
                ensure!(known.contains(&error), "seed {seed}: {number:#x}: {error}");
            }
        }
        for _ in 0..2_000 {
            let length = rng.usize(..) >> rng.u32(0..63);
            let offset = match rng.bool() {
                true => 0,
                false => rng.u64(..) & !(PAGE as u64 - 1),
            };
            // Neither over what is there, nor ordinary memory in any amount.
            let other = (libc::MAP_FIXED | libc::MAP_ANONYMOUS) as u32;
            let flags = MapFlags::from_bits_retain(rng.u32(..) & !other);
            let prot = ProtFlags::from_bits_retain(rng.u32(0..8));
            drop(Map::with(&file, length, prot, flags, offset));
        }
        Ok(())
    })?;
    child.expect_success()?;
    provider.expect_full()
}

/// Programs that map a file ask where it ends, and open it as one that has a place.
fn place_in_the_file() -> Result<()> {
    let provider = Provider::first()?;
    let file = provider.open()?;
    let size = provider.size as u64;
    ensure!(seek(&file, SeekFrom::End(0))? == size);
    ensure!(seek(&file, SeekFrom::Current(-8))? == size - 8);
    ensure!(seek(&file, SeekFrom::Start(PAGE as u64))? == PAGE as u64);
    for wrong in [SeekFrom::End(1), SeekFrom::End(-(size as i64) - 1)] {
        expect_errno(seek(&file, wrong), Errno::INVAL, &format!("{wrong:?}"))?;
    }
    // The place says nothing about a mapping.
    let map = Map::new(&file, PAGE)?;
    map.fill(0..PAGE, 1);
    map.check(0..PAGE, 1)?;
    unbind(&provider.pci)?;
    expect_errno(seek(&file, SeekFrom::End(0)), Errno::NODEV, "afterwards")?;
    restore()
}

/// Written data is in the memory already.
fn nothing_to_synchronise() -> Result<()> {
    let provider = Provider::first()?;
    let file = provider.open()?;
    let map = Map::new(&file, 3 * PAGE)?;
    map.fill(0..3 * PAGE, 1);
    for flags in [MsyncFlags::SYNC, MsyncFlags::ASYNC] {
        // SAFETY: The range is that of the mapping.
        unsafe { msync(map.at(0).cast(), 3 * PAGE, flags)? };
    }
    rustix::fs::fsync(&file)?;
    rustix::fs::fdatasync(&file)?;
    map.check(0..3 * PAGE, 1)
}

/// Access modes count, and other flags mean nothing or are errors, as with any device.
fn opened_in_other_ways() -> Result<()> {
    let provider = Provider::first()?;
    let open = |flags: OFlags| rustix::fs::open(&provider.path, flags, Mode::empty());
    expect_errno(
        open(OFlags::RDWR | OFlags::DIRECT),
        Errno::INVAL,
        "O_DIRECT",
    )?;
    expect_errno(
        open(OFlags::RDWR | OFlags::DIRECTORY),
        Errno::NOTDIR,
        "O_DIRECTORY",
    )?;
    expect_errno(
        open(OFlags::RDWR | OFlags::CREATE | OFlags::EXCL),
        Errno::EXIST,
        "O_EXCL",
    )?;
    for flags in [
        OFlags::TRUNC,
        OFlags::APPEND,
        OFlags::NONBLOCK,
        OFlags::SYNC,
    ] {
        let file = open(OFlags::RDWR | flags).with_context(|| format!("{flags:?}"))?;
        let map = Map::new(&file, PAGE)?;
        map.set(0, 1);
        let mut byte = [0];
        let no_data = "a node with neither read() nor write()";
        expect_errno(rustix::io::write(&file, &byte), Errno::INVAL, no_data)?;
        expect_errno(rustix::io::read(&file, &mut byte), Errno::INVAL, no_data)?;
    }

    // A dma-buf of a write-only node is write-only: for devices, since a mapping must be readable.
    let node = Node::from(fs::File::from(open(OFlags::WRONLY)?));
    let handle = node.alloc(PAGE as u64, 0)?;
    for prot in [ProtFlags::READ, ProtFlags::WRITE, READ_WRITE] {
        let result = Map::with(&handle, PAGE, prot, MapFlags::SHARED, 0);
        expect_errno(result, Errno::ACCESS, "a write-only node")?;
    }
    let mut byte = [0];
    let file = open(OFlags::WRONLY)?;
    expect_errno(rustix::io::read(&file, &mut byte), Errno::BADF, "read")?;
    let file = open(OFlags::RDONLY)?;
    expect_errno(rustix::io::write(&file, &byte), Errno::BADF, "write")?;
    // Neither opens the device.
    let file = open(OFlags::PATH)?;
    let result = Map::with(&file, PAGE, READ, MapFlags::SHARED, 0);
    expect_errno(result, Errno::BADF, "O_PATH")?;
    provider.expect_taken(PAGE)?;
    drop(handle);
    provider.expect_taken(0)
}

fn neither_read_nor_written() -> Result<()> {
    let provider = Provider::first()?;
    let file = provider.open()?;
    let mut byte = [0];
    expect_errno(rustix::io::read(&file, &mut byte), Errno::INVAL, "read")?;
    expect_errno(rustix::io::write(&file, &byte), Errno::INVAL, "write")?;
    expect_errno(
        rustix::io::pread(&file, &mut byte, 0),
        Errno::INVAL,
        "pread",
    )?;
    // Memory of a file that can only be written to cannot be mapped, as with any file.
    let file = fs::OpenOptions::new().write(true).open(&provider.path)?;
    let result = Map::with(&file, PAGE, ProtFlags::WRITE, MapFlags::SHARED, 0);
    expect_errno(
        result,
        Errno::ACCESS,
        "a mapping of a file that cannot be read",
    )?;
    // It is opened for appending as well: that means nothing.
    let file = fs::OpenOptions::new()
        .read(true)
        .append(true)
        .open(&provider.path)?;
    Map::with(&file, PAGE, ProtFlags::READ, MapFlags::SHARED, 0)?;
    Ok(())
}
