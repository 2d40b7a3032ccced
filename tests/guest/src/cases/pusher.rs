// SPDX-License-Identifier: GPL-2.0

//! A device that writes to memory by itself, as an FPGA or an accelerator does: to memory of a
//! provider, which its driver (tests/kmod/p2pmem_pusher.c) imports. Needs the topology devices.

use std::{
    fs::{File, OpenOptions},
    os::fd::{AsFd, AsRawFd},
    os::unix::fs::FileExt,
    path::Path,
    time::Duration,
};

use anyhow::{ensure, Context, Result};
use p2pmem::{abi::P2PMEM_ALLOC_IRREVOCABLE, Handle, Provider as Node};
use rustix::{fs::OFlags, io::Errno};

use super::unbind::unbind_says;
use crate::{
    cases,
    guest::{
        bind, check_drive, drive_named, expect_errno, last_errno, pattern, restore, rounds, unbind,
        wait_until, write_at, Child, Map, Provider, PAGE, WINDOW,
    },
    lab_device::{LabDevice, PUSHER},
};

cases!(
    "pusher": into_ordinary_memory, into_another_device, into_its_own_memory, revoked_while_it_writes,
    its_own_memory_goes, one_that_cannot_let_go, unplugged_from_its_driver,
);

const MODULE: &str = "/modules/p2pmem_pusher.ko";
const NODE: &str = "/dev/p2pmem_pusher";

const START: u64 = 0x4010_bf00;
const STATUS: u64 = 0x8010_bf01;
const STOP: u64 = 0xbf02;

const REVOCABLE: u32 = 1 << 0;
const FOREVER: u32 = 1 << 1;

/// How far the device is.
#[repr(C)]
#[derive(Debug, Default)]
struct Status {
    busy: u32,
    error: u32,
    rounds: u32,
    revoked: u32,
}

/// The device with its driver, which goes with this value.
struct Pusher {
    file: Option<File>,
    pci: String,
}

/// Loads the driver of the device.
pub(super) fn insert() -> Result<()> {
    let file = File::open(MODULE).context(MODULE)?;
    rustix::system::finit_module(&file, c"", 0).context(MODULE)
}

/// Unloads it.
pub(super) fn remove() -> Result<()> {
    let flags = OFlags::NONBLOCK.bits() as i32;
    rustix::system::delete_module(c"p2pmem_pusher", flags).context("the module is in use")
}

/// Has the device write to memory for some time, if it writes nowhere else.
pub(super) fn push(memory: &Handle, length: usize, time: Duration) -> Result<()> {
    let file = match OpenOptions::new().read(true).write(true).open(NODE) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Ok(()),
        result => result.context(NODE)?,
    };
    let fd = memory.as_fd().as_raw_fd();
    let mut argument = [fd as u32, REVOCABLE | FOREVER, length as u32, 1];
    match request(&file, START, &mut argument) {
        Ok(()) => std::thread::sleep(time),
        Err(Errno::NODEV) => (),
        Err(error) => return Err(error).context("starting the device that writes"),
    }
    Ok(())
}

fn request<T>(file: &File, number: u64, argument: *mut T) -> Result<(), Errno> {
    // SAFETY: The argument is what the request reads or writes.
    match unsafe { libc::ioctl(file.as_raw_fd(), number, argument) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

impl Pusher {
    fn load() -> Result<Self> {
        insert()?;
        let pci = LabDevice::find(PUSHER)?.keep();
        let file = OpenOptions::new().read(true).write(true).open(NODE)?;
        restore()?;
        Ok(Self {
            file: Some(file),
            pci,
        })
    }

    fn file(&self) -> &File {
        self.file.as_ref().expect("open until it is dropped")
    }

    fn request<T>(&self, number: u64, argument: *mut T) -> Result<(), Errno> {
        request(self.file(), number, argument)
    }

    /// Has the device write a pattern to memory, or to that of its driver.
    fn start(
        &self,
        memory: Option<&Handle>,
        flags: u32,
        length: usize,
        seed: u32,
    ) -> Result<(), Errno> {
        let fd = memory.map_or(-1, |handle| handle.as_fd().as_raw_fd());
        let mut argument = [fd as u32, flags, length as u32, seed];
        self.request(START, &mut argument)
    }

    fn stop(&self) -> Result<(), Errno> {
        self.request(STOP, std::ptr::null_mut::<u32>())
    }

    fn status(&self) -> Result<Status, Errno> {
        let mut status = Status::default();
        self.request(STATUS, &mut status)?;
        Ok(status)
    }

    /// Waits until the device has written all of it so often.
    fn wait(&self, rounds: u32) -> Result<()> {
        wait_until(Duration::from_secs(20), "the device has written", || {
            let status = self.status()?;
            ensure!(status.error == 0, "{status:?}");
            Ok(status.rounds >= rounds)
        })
    }

    /// Unbinds the driver of the device, or binds it again.
    fn driver(&self, what: &str) -> Result<()> {
        let file = Path::new("/sys/bus/pci/drivers/p2pmem_pusher").join(what);
        Ok(std::fs::write(file, &self.pci)?)
    }

    /// The node of the memory that the device has itself, which its driver published.
    fn provider(&self) -> Result<Provider> {
        Provider::of(&self.pci)?.context("its memory has no node")
    }
}

impl Drop for Pusher {
    fn drop(&mut self) {
        self.file = None;
        remove().expect("the module is not in use");
    }
}

/// Memory of a provider with a mapping.
fn alloc(provider: &Provider, length: usize, flags: u32) -> Result<(Handle, Map)> {
    let handle = Node::open(&provider.path)?.alloc(length as u64, flags)?;
    let map = Map::new(&handle, length)?;
    Ok((handle, map))
}

fn into_ordinary_memory() -> Result<()> {
    let pusher = Pusher::load()?;
    pusher.start(None, 0, 4 * PAGE, 3)?;
    expect_errno(pusher.start(None, 0, PAGE, 3), Errno::BUSY, "once more")?;
    pusher.wait(1)?;
    let mut bytes = vec![0; 4 * PAGE];
    pusher.file().read_exact_at(&mut bytes, 0)?;
    for (offset, word) in (0..).step_by(8).zip(bytes.chunks_exact(8)) {
        ensure!(word == pattern(3, offset).to_le_bytes(), "at {offset:#x}");
    }
    Ok(pusher.stop()?)
}

/// A process sees what the device writes, and a drive stores it.
fn pushed(pusher: &Pusher, provider: &Provider) -> Result<()> {
    const LENGTH: usize = WINDOW + 4 * PAGE;
    let before = provider.available()?;
    for seed in 1..4 {
        let (handle, map) = alloc(provider, LENGTH, 0)?;
        map.fill(0..LENGTH, 99);
        pusher.start(Some(&handle), REVOCABLE, LENGTH - PAGE, seed)?;
        pusher.wait(1)?;
        ensure!(pusher.status()?.busy == 0, "it goes on");
        map.check(0..LENGTH - PAGE, seed.into())?;
        ensure!(
            map.get(LENGTH - PAGE) == pattern(99, LENGTH - PAGE),
            "too much"
        );
        let drive = drive_named("disk0")?;
        write_at(&drive, &map, 0..WINDOW, 0)?;
        check_drive(&drive, WINDOW, seed.into())?;
        // The device is a user of the memory.
        drop((handle, map));
        ensure!(provider.available()? < before, "not held");
        pusher.stop()?;
        wait_until(Duration::from_secs(5), "the memory is free", || {
            Ok(provider.available()? == before)
        })?;
    }
    Ok(())
}

fn into_another_device() -> Result<()> {
    let pusher = Pusher::load()?;
    pushed(&pusher, &Provider::first()?)
}

fn into_its_own_memory() -> Result<()> {
    let pusher = Pusher::load()?;
    let provider = pusher.provider()?;
    ensure!(provider.size == 16 << 20, "{}", provider.size);
    pushed(&pusher, &provider)
}

/// Nothing is written any more when unbinding returns: the next owner has the memory for himself.
fn revoked_while_it_writes() -> Result<()> {
    let pusher = Pusher::load()?;
    for round in 0..rounds(3) as u64 {
        let provider = Provider::first()?;
        let (handle, map) = alloc(&provider, 2 * WINDOW, 0)?;
        pusher.start(Some(&handle), REVOCABLE | FOREVER, 2 * WINDOW, 7)?;
        pusher.wait(1)?;
        let reader = Child::spawn_ready(|ready| {
            ready();
            loop {
                map.get(0);
            }
        })?;
        std::thread::sleep(Duration::from_millis(3 * round));
        unbind(&provider.pci)?;
        let status = pusher.status()?;
        ensure!(
            (status.busy, status.error, status.revoked) == (0, 0, 1),
            "{status:?}"
        );
        reader.expect_signal(libc::SIGBUS)?;
        bind(&provider.pci)?;
        restore()?;
        let provider = Provider::first()?;
        // The pool is empty: this is the same memory.
        let (_handle, next) = alloc(&provider, 2 * WINDOW, 0)?;
        next.fill(0..2 * WINDOW, 8);
        std::thread::sleep(Duration::from_millis(20));
        next.check(0..2 * WINDOW, 8)?;
        pusher.stop()?;
    }
    Ok(())
}

/// The driver of the device that has the memory is unbound, while that device writes there itself.
fn its_own_memory_goes() -> Result<()> {
    let pusher = Pusher::load()?;
    let provider = pusher.provider()?;
    let (handle, map) = alloc(&provider, WINDOW, 0)?;
    pusher.start(Some(&handle), REVOCABLE | FOREVER, WINDOW, 1)?;
    pusher.wait(1)?;
    pusher.driver("unbind")?;
    ensure!(!provider.path.exists(), "there is a node");
    ensure!(!map.is_readable(0)?, "still readable");
    expect_errno(pusher.status().map(drop), Errno::NODEV, "status")?;
    pusher.driver("bind")?;
    restore()?;
    pushed(&pusher, &pusher.provider()?)
}

/// An importer that cannot unmap on revocation gets irrevocable memory only, and unbinding waits
/// for it.
fn one_that_cannot_let_go() -> Result<()> {
    let pusher = Pusher::load()?;
    let provider = Provider::first()?;
    let (handle, _map) = alloc(&provider, WINDOW, 0)?;
    let result = pusher.start(Some(&handle), FOREVER, WINDOW, 1);
    expect_errno(result, Errno::OPNOTSUPP, "memory that may be taken back")?;

    let (handle, map) = alloc(&provider, WINDOW, P2PMEM_ALLOC_IRREVOCABLE)?;
    pusher.start(Some(&handle), FOREVER, WINDOW, 1)?;
    pusher.wait(1)?;
    map.check(0..WINDOW, 1)?;
    let words = ["waiting for ", &pusher.pci, "imported memory"];
    unbind_says(&provider, &words, || {
        let status = pusher.status()?;
        ensure!((status.busy, status.revoked) == (1, 0), "{status:?}");
        Ok(pusher.stop()?)
    })?;
    restore()
}

/// The driver of the device that writes is unbound.
fn unplugged_from_its_driver() -> Result<()> {
    let pusher = Pusher::load()?;
    let provider = Provider::first()?;
    let (handle, map) = alloc(&provider, WINDOW, 0)?;
    pusher.start(Some(&handle), REVOCABLE | FOREVER, WINDOW, 1)?;
    pusher.wait(1)?;
    pusher.driver("unbind")?;
    // It does not write any more, and the memory is a process's still.
    map.fill(0..WINDOW, 2);
    std::thread::sleep(Duration::from_millis(20));
    map.check(0..WINDOW, 2)?;
    drop((handle, map));
    provider.expect_full()?;
    pusher.driver("bind")?;
    restore()
}
