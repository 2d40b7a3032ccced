// SPDX-License-Identifier: GPL-2.0

//! Memory that several processes or threads use.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Barrier,
};

use anyhow::{bail, ensure, Context, Result};
use rustix::net::{
    recvmsg, sendmsg, socketpair, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage,
    RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use crate::{
    cases,
    guest::{Child, Map, Provider, PAGE, WINDOW},
};

cases!(
    "share": fork, parent_ends_first, fork_before_touch, unrelated_processes, file_by_socket,
    file_closed, unmap_head, unmap_middle, unmap_tail, unmap_in_pieces, map_over, kill, exec,
    racing_faults,
);

fn fork() -> Result<()> {
    let provider = Provider::first()?;
    let map = Map::new(provider.open()?, WINDOW)?;
    map.fill(0..WINDOW, 1);
    Child::spawn(|| {
        map.check(0..WINDOW, 1)?;
        map.fill(0..WINDOW, 2);
        Ok(())
    })?
    .expect_success()?;
    map.check(0..WINDOW, 2)?;
    provider.expect_taken(WINDOW)
}

fn parent_ends_first() -> Result<()> {
    let provider = Provider::first()?;
    let (reader, writer) = rustix::pipe::pipe()?;
    // The child of this child goes on when that has ended.
    Child::spawn(|| {
        let map = Map::new(provider.open()?, WINDOW)?;
        map.fill(0..WINDOW, 1);
        // Asked for now: that process may be gone when the next one begins.
        let parent = Some(rustix::process::getpid());
        let grandchild = Child::spawn(|| {
            while rustix::process::getppid() == parent {
                std::thread::yield_now();
            }
            map.check(0..WINDOW, 1)?;
            provider.expect_taken(WINDOW)?;
            rustix::io::write(&writer, b"!")?;
            Ok(())
        })?;
        // Not waited for, and not killed.
        std::mem::forget(grandchild);
        Ok(())
    })?
    .expect_success()?;
    drop(writer);

    let mut answer = [0];
    ensure!(
        rustix::io::read(&reader, &mut answer)? == 1,
        "the last process failed"
    );
    provider.expect_full()
}

fn fork_before_touch() -> Result<()> {
    let provider = Provider::first()?;
    let map = Map::new(provider.open()?, WINDOW)?;
    Child::spawn(|| {
        map.fill(0..WINDOW, 3);
        Ok(())
    })?
    .expect_success()?;
    map.check(0..WINDOW, 3)
}

fn unrelated_processes() -> Result<()> {
    let provider = Provider::first()?;
    let barrier = |socket: &std::os::fd::OwnedFd| -> Result<()> {
        rustix::io::write(socket, b"!")?;
        ensure!(
            rustix::io::read(socket, &mut [0])? == 1,
            "the other one is gone"
        );
        Ok(())
    };
    let (one, two) = pair()?;
    let work = |socket, seed| -> Result<()> {
        let map = Map::new(provider.open()?, 4 * WINDOW)?;
        map.fill(0..4 * WINDOW, seed);
        barrier(&socket)?;
        map.check(0..4 * WINDOW, seed)?;
        provider.expect_taken(8 * WINDOW)?;
        barrier(&socket)
    };
    let (other_one, other_two) = (one.try_clone()?, two.try_clone()?);
    let first = Child::spawn(|| work(other_one, 1))?;
    let second = Child::spawn(|| work(other_two, 2))?;
    drop((one, two));
    first.expect_success()?;
    second.expect_success()?;
    provider.expect_full()
}

fn pair() -> Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Receives a file from another process.
pub fn receive(socket: impl AsFd) -> Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::empty(),
    )?;
    let Some(RecvAncillaryMessage::ScmRights(mut files)) = control.drain().next() else {
        bail!("no file came");
    };
    files.next().context("no file came")
}

/// Sends a file to another process.
pub fn send(socket: impl AsFd, file: BorrowedFd<'_>) -> Result<()> {
    let files = [file];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    ensure!(control.push(SendAncillaryMessage::ScmRights(&files)));
    sendmsg(
        socket,
        &[IoSlice::new(b"!")],
        &mut control,
        SendFlags::empty(),
    )?;
    Ok(())
}

fn file_by_socket() -> Result<()> {
    let provider = Provider::first()?;
    let (one, two) = pair()?;
    let child = Child::spawn(|| {
        let map = Map::new(receive(&two)?, WINDOW)?;
        map.fill(0..WINDOW, 1);
        map.check(0..WINDOW, 1)?;
        provider.expect_taken(WINDOW)
    })?;

    let file = provider.open()?;
    send(&one, file.as_fd())?;
    drop(file);
    child.expect_success()?;
    provider.expect_full()
}

fn file_closed() -> Result<()> {
    let provider = Provider::first()?;
    let file = provider.open()?;
    let map = Map::new(&file, WINDOW)?;
    drop(file);
    map.fill(0..WINDOW, 1);
    map.check(0..WINDOW, 1)?;
    provider.expect_taken(WINDOW)
}

/// Unmaps a part. The memory is one allocation: it goes back with the last part.
fn unmap_part(part: std::ops::Range<usize>) -> Result<()> {
    let provider = Provider::first()?;
    let length = 2 * WINDOW;
    let map = Map::new(provider.open()?, length)?;
    map.fill(0..length, 1);
    map.unmap(part.clone())?;
    provider.expect_taken(length)?;
    map.check(0..part.start, 1)?;
    map.check(part.end..length, 1)?;
    drop(map);
    provider.expect_taken(0)
}

fn unmap_head() -> Result<()> {
    unmap_part(0..PAGE)?;
    unmap_part(0..WINDOW + PAGE)
}

fn unmap_middle() -> Result<()> {
    unmap_part(PAGE..2 * PAGE)?;
    unmap_part(WINDOW / 2..WINDOW + WINDOW / 2)
}

fn unmap_tail() -> Result<()> {
    unmap_part(2 * WINDOW - PAGE..2 * WINDOW)?;
    unmap_part(PAGE..2 * WINDOW)
}

fn unmap_in_pieces() -> Result<()> {
    let provider = Provider::first()?;
    let length = 64 * PAGE;
    let map = Map::new(provider.open()?, length)?;
    // Not touched before: what is left is still at its place.
    for page in (0..64).step_by(2) {
        map.unmap(page * PAGE..(page + 1) * PAGE)?;
    }
    for page in (1..64).step_by(2) {
        map.fill(page * PAGE..(page + 1) * PAGE, 9);
    }
    for page in (1..64).step_by(2) {
        map.check(page * PAGE..(page + 1) * PAGE, 9)?;
        provider.expect_taken(length)?;
        map.unmap(page * PAGE..(page + 1) * PAGE)?;
    }
    provider.expect_taken(0)
}

fn map_over() -> Result<()> {
    let provider = Provider::first()?;
    let map = Map::new(provider.open()?, WINDOW)?;
    map.fill(0..WINDOW, 1);
    let flags = rustix::mm::MapFlags::PRIVATE | rustix::mm::MapFlags::FIXED;
    // SAFETY: Replaces a part of the mapping by ordinary memory.
    unsafe {
        rustix::mm::mmap_anonymous(map.at(PAGE).cast(), PAGE, crate::guest::READ_WRITE, flags)?;
    }
    ensure!(map.get(PAGE) == 0, "not the new memory");
    map.check(0..PAGE, 1)?;
    map.check(2 * PAGE..WINDOW, 1)?;
    drop(map);
    provider.expect_taken(0)
}

fn kill() -> Result<()> {
    let provider = Provider::first()?;
    for _ in 0..20 {
        let child = Child::spawn(|| {
            let map = Map::new(provider.open()?, 4 * WINDOW)?;
            loop {
                map.fill(0..4 * WINDOW, 1);
            }
        })?;
        while provider.available()? == provider.size {
            std::thread::yield_now();
        }
        child.kill()?;
        child.expect_signal(libc::SIGKILL)?;
        provider.expect_full()?;
    }
    Ok(())
}

fn exec() -> Result<()> {
    let provider = Provider::first()?;
    let mut child = Child::spawn(|| {
        let map = Map::new(provider.open()?, WINDOW)?;
        map.fill(0..WINDOW, 1);
        use std::os::unix::process::CommandExt;
        Err(std::process::Command::new("/bin/sleep")
            .arg("20")
            .exec()
            .into())
    })?;
    while provider.available()? == provider.size {
        std::thread::yield_now();
    }
    provider.expect_full()?;
    child.kill()?;
    child.wait()?;
    Ok(())
}

fn racing_faults() -> Result<()> {
    const THREADS: usize = 4;
    let provider = Provider::first()?;
    let file = provider.open()?;
    for round in 0..20 {
        let map = Map::new(&file, 4 * WINDOW)?;
        let barrier = Barrier::new(THREADS);
        // An address: the pointer itself may not be shared.
        let start = map.at(0) as usize;
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let barrier = &barrier;
                scope.spawn(move || {
                    let map = Map::from_raw(start as *mut u8, 4 * WINDOW);
                    barrier.wait();
                    // All touch each page table's span, at different pages.
                    for page in (thread..4 * WINDOW / PAGE).step_by(THREADS) {
                        map.fill(page * PAGE..(page + 1) * PAGE, round);
                    }
                    map.into_raw();
                });
            }
        });
        map.check(0..4 * WINDOW, round)?;
    }
    Ok(())
}
