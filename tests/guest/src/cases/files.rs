// SPDX-License-Identifier: GPL-2.0

//! The node, and memory with a descriptor, as programs that map files find them: what `stat()`
//! tells, a library that was written for files (memmap2), and the examples in tests/example.

use std::{
    fs::{File, OpenOptions},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    },
    process::Command,
};

use anyhow::{ensure, Context, Result};
use memmap2::{Advice, MmapMut, MmapOptions};
use rustix::{
    fs::{fadvise, fallocate, ftruncate, seek, FallocateFlags, OFlags, SeekFrom},
    io::Errno,
};

use super::handle::alloc;
use crate::{
    cases,
    guest::{
        check_drive, drive, expect_errno, expect_io_errno, pattern, put_on_drive, Map, Provider,
        PAGE, WINDOW,
    },
};

cases!(
    "files": node_has_no_length, opened_in_any_way, memmap2_with_a_length,
    memmap2_without_a_length, memmap2_of_a_descriptor, example_in_c, example_in_rust,
    examples_of_the_library,
);

/// A device node has no length. Programs pass one instead.
fn node_has_no_length() -> Result<()> {
    let provider = Provider::first()?;
    let file = provider.open()?;
    let stat = file.metadata()?;
    ensure!(stat.file_type().is_char_device() && stat.len() == 0);
    // That neither changes, nor need it: who asks for the end is told.
    expect_errno(ftruncate(&file, 1 << 20), Errno::INVAL, "ftruncate")?;
    let result = fallocate(&file, FallocateFlags::empty(), 0, 1 << 20);
    expect_errno(result, Errno::NODEV, "fallocate")?;
    ensure!(seek(&file, SeekFrom::End(0))? == provider.size as u64);
    fadvise(&file, 0, None, rustix::fs::Advice::WillNeed)?;
    let mut bytes = 0;
    // SAFETY: The request writes a number, if it is known.
    ensure!(unsafe { libc::ioctl(file.as_raw_fd(), libc::FIONREAD, &mut bytes) } == -1);
    ensure!(!rustix::termios::isatty(&file));
    Ok(())
}

fn opened_in_any_way() -> Result<()> {
    let provider = Provider::first()?;
    let open = |flags: OFlags| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags.bits() as i32)
            .open(&provider.path)
    };
    // As numpy's "w+" and fio open what they map. Nothing is made anew.
    for flags in [
        OFlags::CREATE | OFlags::TRUNC,
        OFlags::CREATE,
        OFlags::APPEND,
        OFlags::NONBLOCK,
        OFlags::SYNC,
        OFlags::EXCL,
        OFlags::NOFOLLOW | OFlags::NOCTTY,
    ] {
        map_and_check(&open(flags)?)?;
    }
    expect_io_errno(open(OFlags::DIRECT), Errno::INVAL, "O_DIRECT of the node")?;
    // A descriptor of another program.
    let file = provider.open()?;
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    map_and_check(&OpenOptions::new().read(true).write(true).open(again)?)?;
    provider.expect_full()
}

fn map_and_check(file: &File) -> Result<()> {
    let map = Map::new(file, 2 * PAGE)?;
    map.fill(0..2 * PAGE, 1);
    map.check(0..2 * PAGE, 1)
}

/// Uses a mapping of the library as device memory: both drives have the same afterwards.
fn copy_by(memory: &mut MmapMut, seed: u64) -> Result<()> {
    let (source, target) = (drive(0)?, drive(1)?);
    put_on_drive(&source, memory.len(), seed)?;
    put_on_drive(&target, memory.len(), seed + 1)?;
    source.read_exact_at(memory, 0)?;
    for offset in (0..memory.len()).step_by(PAGE) {
        let word = memory[offset..offset + 8].try_into()?;
        ensure!(
            u64::from_le_bytes(word) == pattern(seed, offset),
            "{offset:#x}"
        );
    }
    target.write_all_at(memory, 0)?;
    check_drive(&target, memory.len(), seed)
}

fn memmap2_with_a_length() -> Result<()> {
    let provider = Provider::first()?;
    let file = provider.open()?;
    // SAFETY: No other code uses this memory.
    let mut memory = unsafe { MmapOptions::new().len(2 * WINDOW).map_mut(&file)? };
    ensure!(memory.len() == 2 * WINDOW && memory.iter().all(|&byte| byte == 0));
    provider.expect_taken(2 * WINDOW)?;
    memory[..PAGE].fill(7);
    memory.flush()?;
    memory.flush_async()?;
    memory.flush_range(PAGE, PAGE)?;
    for advice in [
        Advice::Normal,
        Advice::Random,
        Advice::Sequential,
        Advice::WillNeed,
    ] {
        memory.advise(advice)?;
    }
    // Memory of a device is never swapped out, and the kernel pins none of it for this.
    expect_io_errno(memory.lock(), Errno::REMOTEIO, "mlock")?;
    let memory = memory.make_read_only()?;
    ensure!(memory[..PAGE].iter().all(|&byte| byte == 7));
    let mut memory = memory.make_mut()?;
    copy_by(&mut memory, 3)?;
    drop(memory);
    provider.expect_taken(0)?;

    // SAFETY: As above.
    let result = unsafe { MmapOptions::new().len(PAGE).map_copy(&file) };
    expect_io_errno(result.map(drop), Errno::INVAL, "a private mapping")
}

/// The library asks `stat()`, which says 0 of any device: an empty slice, for which it maps a page.
fn memmap2_without_a_length() -> Result<()> {
    let provider = Provider::first()?;
    // SAFETY: No other code uses this memory.
    let memory = unsafe { MmapMut::map_mut(&provider.open()?)? };
    ensure!(memory.is_empty());
    provider.expect_taken(PAGE)
}

/// Memory with a descriptor has a length that `stat()` tells.
fn memmap2_of_a_descriptor() -> Result<()> {
    let provider = Provider::first()?;
    let (_node, handle) = alloc(&provider, 2 * WINDOW)?;
    let file = File::from(OwnedFd::from(handle));
    ensure!(file.metadata()?.len() == 2 * WINDOW as u64);
    // SAFETY: No other code uses this memory.
    let mut memory = unsafe { MmapMut::map_mut(&file)? };
    ensure!(memory.len() == 2 * WINDOW);
    copy_by(&mut memory, 5)?;
    // A dma-buf is the kernel's file, which knows nothing of this.
    expect_io_errno(memory.flush(), Errno::INVAL, "flush")?;
    drop((memory, file));
    provider.expect_full()
}

/// Runs a program of tests/example, which copies 4 MiB.
pub fn example(program: &mut Command) -> Result<()> {
    const LENGTH: usize = 4 << 20;
    let provider = Provider::first()?;
    put_on_drive(&drive(0)?, LENGTH, 6)?;
    put_on_drive(&drive(1)?, LENGTH, 7)?;
    let run = program
        .arg(&provider.path)
        .args(["/dev/nvme0n1", "/dev/nvme1n1"])
        .output()?;
    let said = String::from_utf8_lossy(&run.stderr);
    ensure!(run.status.success(), "{}: {said}", run.status);
    check_drive(&drive(1)?, LENGTH, 6)?;
    provider.expect_full()?;

    // It says why it does not work, and with what.
    let wrong = program.arg("one too many").output()?;
    ensure!(!wrong.status.success() && !wrong.stderr.is_empty());
    Ok(())
}

fn example_in_c() -> Result<()> {
    example(&mut Command::new("example-map"))
}

fn example_in_rust() -> Result<()> {
    example(&mut Command::new("example-map-rust"))
}

fn examples_of_the_library() -> Result<()> {
    for name in ["map", "child", "uring"] {
        let mut program = Command::new(format!("example-library-{name}"));
        example(&mut program).with_context(|| name.to_owned())?;
    }
    Ok(())
}
