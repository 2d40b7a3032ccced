// SPDX-License-Identifier: GPL-2.0

//! Helpers that cases share: the module, its devices, mappings, processes.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    ptr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context, Result};
use p2pmem::{root, sysfs, Root};
use rustix::{
    fs::OFlags,
    io::Errno,
    mm::{MapFlags, ProtFlags},
    process::{kill_process, waitpid, Pid, Signal, WaitOptions, WaitStatus},
};

use crate::{coverage, harness::TimedOut};

/// The module under test.
pub const MODULE: &str = "/modules/p2pmem_rs.ko";
const DRIVER: &str = "/sys/bus/pci/drivers/p2pmem_rs";
/// PCI IDs that the driver binds.
const IDS: &[(&str, &str)] = &[("0x1af4", "0x1110")];

pub const PAGE: usize = 4096;
/// Bytes that one page table spans.
pub const WINDOW: usize = 2 << 20;

pub const READ: ProtFlags = ProtFlags::READ;
pub const READ_WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

// The module and its devices.

/// Loads the module.
pub fn insmod() -> Result<(), Errno> {
    insmod_with(c"")
}

/// Loads the module with parameters.
pub fn insmod_with(parameters: &std::ffi::CStr) -> Result<(), Errno> {
    let file = File::open(MODULE).map_err(|error| Errno::from_io_error(&error).unwrap())?;
    rustix::system::finit_module(&file, parameters, 0)
}

/// Unloads the module. Does not wait for its users.
pub fn rmmod() -> Result<(), Errno> {
    coverage::unload(c"p2pmem_rs")
}

/// Returns whether the module is loaded.
pub fn is_loaded() -> bool {
    Path::new(DRIVER).exists()
}

/// Returns the addresses of the devices that the driver binds by their IDs, in order.
pub fn devices() -> Result<Vec<String>> {
    devices_with(IDS)
}

/// Returns the addresses of the devices with one of these IDs, in order.
pub fn devices_with(ids: &[(&str, &str)]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/bus/pci/devices")? {
        let entry = entry?;
        let id = |name| fs::read_to_string(entry.path().join(name));
        // A device that was just pulled may still be listed, without its IDs.
        let (Ok(vendor), Ok(device)) = (id("vendor"), id("device")) else {
            continue;
        };
        if ids.contains(&(vendor.trim(), device.trim())) {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found.sort();
    Ok(found)
}

/// Binds a device to the driver.
pub fn bind(pci: &str) -> io::Result<()> {
    fs::write(format!("{DRIVER}/bind"), pci)
}

/// Unbinds a device from the driver.
pub fn unbind(pci: &str) -> io::Result<()> {
    fs::write(format!("{DRIVER}/unbind"), pci)
}

/// Brings the guest into the state that each case expects: module loaded, devices bound.
pub fn restore() -> Result<()> {
    if !is_loaded() {
        insmod().context("cannot load the module")?;
    }
    for pci in devices()? {
        if !Path::new(DRIVER).join(&pci).exists() {
            bind(&pci).with_context(|| format!("cannot bind {pci}"))?;
        }
    }
    wait_until(Duration::from_secs(10), "each pool has its node", || {
        let entries = sysfs::providers(&Root::default())?;
        Ok(entries.len() == pools()?.len() && entries.iter().all(|entry| entry.id.path().exists()))
    })
}

/// The pool of a device whose driver published it.
#[derive(PartialEq, Eq)]
pub struct Pool {
    pub pci: String,
    pub available: u64,
}

/// Returns the pools that there are: those of this driver's devices, and those of others.
pub fn pools() -> Result<Vec<Pool>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/bus/pci/devices")? {
        let entry = entry?;
        let folder = entry.path().join("p2pmem");
        let published = fs::read_to_string(folder.join("published"));
        // A provider that goes away is left out.
        if let (Ok("1"), Ok(available)) = (
            published.as_deref().map(str::trim),
            root::number(folder.join("available")),
        ) {
            found.push(Pool {
                pci: entry.file_name().to_string_lossy().into_owned(),
                available,
            });
        }
    }
    Ok(found)
}

/// The provider that most cases use.
pub struct Provider {
    pub path: PathBuf,
    pub pci: String,
    /// The directory of the PCI device.
    pub device: PathBuf,
    pub size: usize,
}

impl Provider {
    /// Returns the provider with the lowest number.
    pub fn first() -> Result<Self> {
        Self::all()?
            .into_iter()
            .next()
            .context("there is no provider")
    }

    /// Returns all providers, by number.
    pub fn all() -> Result<Vec<Self>> {
        let providers = sysfs::providers(&Root::default())?;
        Ok(providers
            .into_iter()
            .filter_map(|entry| {
                Some(Self {
                    path: entry.id.path(),
                    pci: entry.id.pci.to_string(),
                    // A provider that goes away is left out.
                    size: root::number(entry.device.join("p2pmem/size")).ok()?,
                    device: entry.device,
                })
            })
            .collect())
    }

    /// Returns the provider that a device is, if it is one.
    pub fn of(pci: &str) -> Result<Option<Self>> {
        Ok(Self::all()?.into_iter().find(|one| one.pci == pci))
    }

    /// Opens the node for reading and writing.
    pub fn open(&self) -> Result<File> {
        Ok(OpenOptions::new().read(true).write(true).open(&self.path)?)
    }

    /// Returns the free bytes of the pool.
    pub fn available(&self) -> Result<usize> {
        Ok(root::number(self.device.join("p2pmem/available"))?)
    }

    /// Checks how many bytes of the pool are taken.
    pub fn expect_taken(&self, bytes: usize) -> Result<()> {
        let taken = self.size - self.available()?;
        ensure!(
            taken == bytes,
            "{taken} bytes of the pool are taken, expected {bytes}"
        );
        Ok(())
    }

    /// Waits until nothing of the pool is taken: DMA in flight may take a moment.
    pub fn expect_full(&self) -> Result<()> {
        wait_until(Duration::from_secs(5), "the pool is full again", || {
            Ok(self.available()? == self.size)
        })
    }
}

/// Returns the kernel's log.
fn kernel_log() -> Result<String> {
    const READ_ALL: i32 = 3;
    let mut text = vec![0_u8; 1 << 20];
    // SAFETY: The buffer is as long as is said.
    let length = unsafe { libc::klogctl(READ_ALL, text.as_mut_ptr().cast(), text.len() as i32) };
    ensure!(length >= 0, "klogctl: {}", last_errno());
    text.truncate(length as usize);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Remembers where the kernel's log is now.
pub struct Mark(String);

impl Mark {
    /// Writes a line of its own to the log.
    pub fn new() -> Result<Self> {
        let text = format!("lab: mark {:?}", Instant::now());
        // Without the end of the line it could not be read before the next one is there.
        fs::write("/dev/kmsg", format!("{text}\n"))?;
        Ok(Self(text))
    }

    fn written_since(&self) -> Result<String> {
        let log = kernel_log()?;
        let (_, new) = log
            .rsplit_once(&self.0)
            .with_context(|| format!("{:?} is not in the log of {} bytes", self.0, log.len()))?;
        Ok(new.to_owned())
    }

    /// Returns how many lines with some words were written since.
    pub fn count(&self, words: &str) -> Result<usize> {
        let new = self.written_since()?;
        Ok(new.lines().filter(|line| line.contains(words)).count())
    }

    /// Checks that a line with all of these words was written since.
    pub fn expect(&self, words: &[&str]) -> Result<()> {
        let new = self.written_since()?;
        ensure!(
            new.lines()
                .any(|line| words.iter().all(|word| line.contains(word))),
            "the log does not say {words:?}, but:{new}"
        );
        Ok(())
    }
}

/// Asks for certain memory of a device.
pub fn choose(line: &str) -> Result<(), Errno> {
    errno(fs::write("/sys/module/p2pmem_rs/regions", line))
}

/// Returns what was asked for.
pub fn choices() -> Result<String> {
    Ok(fs::read_to_string("/sys/module/p2pmem_rs/regions")?)
}

/// Has the host do something to the machine, by a command of QMP with arguments in JSON. That it
/// was done is to be seen by what happens.
pub fn qemu(command: &str, arguments: &str) {
    println!("lab: qmp {{\"execute\": \"{command}\", \"arguments\": {{{arguments}}}}}");
}

// Mappings.

/// A mapping. What is left of it goes with this value.
pub struct Map {
    start: *mut u8,
    length: usize,
}

// SAFETY: What is mapped is accessed by volatile reads and writes only, and is the whole process's.
unsafe impl Sync for Map {}

impl Map {
    /// Maps shared memory at offset 0.
    pub fn new(file: impl AsFd, length: usize) -> Result<Self> {
        Ok(Self::with(file, length, READ_WRITE, MapFlags::SHARED, 0)?)
    }

    /// Maps in any way.
    pub fn with(
        file: impl AsFd,
        length: usize,
        prot: ProtFlags,
        flags: MapFlags,
        offset: u64,
    ) -> Result<Self, Errno> {
        // SAFETY: A new mapping, at an address that the kernel chooses.
        let start =
            unsafe { rustix::mm::mmap(ptr::null_mut(), length, prot, flags, file, offset)? };
        Ok(Self {
            start: start.cast(),
            length,
        })
    }

    /// Maps shared memory at an address that is `skew` bytes behind a multiple of a large page.
    pub fn placed(
        file: impl AsFd,
        length: usize,
        offset: usize,
        skew: usize,
    ) -> Result<Self, Errno> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let room = Self::anonymous(length + 2 * WINDOW, flags)?;
        let place = (room.start as usize).next_multiple_of(WINDOW) + skew;
        drop(room);
        let flags = MapFlags::SHARED | MapFlags::FIXED_NOREPLACE;
        // SAFETY: The range is free, and a mapping of another thread is not replaced.
        let start = unsafe {
            rustix::mm::mmap(
                place as *mut _,
                length,
                READ_WRITE,
                flags,
                file,
                offset as u64,
            )?
        };
        Ok(Self::from_raw(start.cast(), length))
    }

    /// Maps ordinary memory.
    pub fn ordinary(length: usize) -> Result<Self> {
        Ok(Self::anonymous(length, MapFlags::PRIVATE)?)
    }

    /// Maps ordinary memory that child processes share.
    pub fn shared(length: usize) -> Result<Self> {
        Ok(Self::anonymous(length, MapFlags::SHARED)?)
    }

    fn anonymous(length: usize, flags: MapFlags) -> Result<Self, Errno> {
        // SAFETY: A new mapping, at an address that the kernel chooses.
        let start =
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), length, READ_WRITE, flags)? };
        Ok(Self {
            start: start.cast(),
            length,
        })
    }

    /// Takes over a mapping that moved.
    pub fn from_raw(start: *mut u8, length: usize) -> Self {
        Self { start, length }
    }

    /// Gives the mapping up without unmapping.
    pub fn into_raw(self) -> *mut u8 {
        let start = self.start;
        std::mem::forget(self);
        start
    }

    pub fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.length);
        self.start.wrapping_add(offset)
    }

    pub fn len(&self) -> usize {
        self.length
    }

    /// Reads a word.
    pub fn get(&self, offset: usize) -> u64 {
        assert!(offset % 8 == 0);
        // SAFETY: Within the mapping, and aligned.
        unsafe { self.at(offset).cast::<u64>().read_volatile() }
    }

    /// Writes a word.
    pub fn set(&self, offset: usize, value: u64) {
        assert!(offset % 8 == 0);
        // SAFETY: Within the mapping, and aligned.
        unsafe { self.at(offset).cast::<u64>().write_volatile(value) };
    }

    fn counter(&self, offset: usize) -> &AtomicU64 {
        assert!(offset % 8 == 0);
        // SAFETY: Within the mapping, and aligned.
        unsafe { AtomicU64::from_ptr(self.at(offset).cast()) }
    }

    /// Counts, with other processes.
    pub fn add(&self, offset: usize) {
        self.counter(offset).fetch_add(1, Ordering::Relaxed);
    }

    /// Returns what was counted.
    pub fn count(&self, offset: usize) -> u64 {
        self.counter(offset).load(Ordering::Relaxed)
    }

    /// Writes a pattern to a range.
    pub fn fill(&self, range: std::ops::Range<usize>, seed: u64) {
        for offset in range.step_by(8) {
            self.set(offset, pattern(seed, offset));
        }
    }

    /// Checks the pattern of a range.
    pub fn check(&self, range: std::ops::Range<usize>, seed: u64) -> Result<()> {
        for offset in range.step_by(8) {
            let (found, expected) = (self.get(offset), pattern(seed, offset));
            ensure!(
                found == expected,
                "at {offset:#x} there is {found:#x}, expected {expected:#x}"
            );
        }
        Ok(())
    }

    /// Unmaps a part.
    pub fn unmap(&self, range: std::ops::Range<usize>) -> Result<()> {
        // SAFETY: A part of this mapping, which the case does not use any more.
        unsafe { rustix::mm::munmap(self.at(range.start).cast(), range.len())? };
        Ok(())
    }

    /// Returns for each page whether it is present in this process.
    pub fn present(&self) -> Result<Vec<bool>> {
        let file = File::open("/proc/self/pagemap")?;
        let first = self.start as usize / PAGE;
        let mut entries = vec![0; self.length.div_ceil(PAGE) * 8];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut entries, first as u64 * 8)?;
        Ok(entries
            .chunks_exact(8)
            .map(|entry| u64::from_le_bytes(entry.try_into().unwrap()) >> 63 == 1)
            .collect())
    }

    /// Returns the words of the VmFlags line of /proc/self/smaps.
    pub fn vm_flags(&self) -> Result<Vec<String>> {
        let smaps = fs::read_to_string("/proc/self/smaps")?;
        let head = format!("{:x}-", self.start as usize);
        smaps
            .lines()
            .skip_while(|line| !line.starts_with(&head))
            .find_map(|line| line.strip_prefix("VmFlags:"))
            .map(|words| words.split_whitespace().map(str::to_owned).collect())
            .context("the mapping is not in smaps")
    }

    /// Returns whether the kernel can read a byte for this process: it gets EFAULT where the
    /// process would get SIGBUS.
    pub fn is_readable(&self, offset: usize) -> Result<bool> {
        let (_reader, writer) = rustix::pipe::pipe()?;
        match self.write_byte(writer, offset) {
            Ok(()) => Ok(true),
            Err(Errno::FAULT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Has the kernel write a byte of the mapping to a file.
    pub fn write_byte(&self, file: impl AsFd, offset: usize) -> Result<(), Errno> {
        // SAFETY: The address is one of this process; the kernel checks it.
        match unsafe { libc::write(raw(file.as_fd()), self.at(offset).cast(), 1) } {
            1 => Ok(()),
            _ => Err(last_errno()),
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: The mapping is not used any more. Parts may be gone already.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.length) };
    }
}

/// Word at an offset, different for each seed.
pub fn pattern(seed: u64, offset: usize) -> u64 {
    let mut word = seed
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(offset as u64)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word ^= word >> 29;
    word | 1
}

pub fn raw(fd: BorrowedFd<'_>) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(&fd)
}

pub fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap()
}

// Drives.

/// Opens a file for direct I/O.
pub fn open_direct(path: impl AsRef<Path>) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::DIRECT.bits() as i32)
        .open(path)
}

/// Opens a drive for direct I/O.
pub fn drive(number: u32) -> Result<File> {
    let path = format!("/dev/nvme{number}n1");
    open_direct(&path).with_context(|| path)
}

/// Returns the directory of a controller that the nvme driver has.
pub fn controller(serial: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir("/sys/class/nvme")? {
        let path = entry?.path();
        if fs::read_to_string(path.join("serial")).is_ok_and(|text| text.trim() == serial) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Returns the PCI address of a controller.
pub fn address_of(controller: &Path) -> Result<String> {
    let device = fs::canonicalize(controller.join("device"))?;
    let name = device.file_name().context("no address")?;
    Ok(name.to_string_lossy().into_owned())
}

/// Returns the PCI address of the controller with a serial number.
pub fn address_named(serial: &str) -> Result<String> {
    address_of(&controller(serial)?.context("no drive")?)
}

/// Returns the node of the drive with a serial number, by the name of its controller.
pub fn node_named(serial: &str) -> Result<String> {
    let path = controller(serial)?.context("no drive")?;
    let name = path.file_name().context("no name")?.to_string_lossy();
    Ok(format!("/dev/{name}n1"))
}

/// Opens the drive with a serial number for direct I/O.
pub fn drive_named(serial: &str) -> Result<File> {
    let node = node_named(serial)?;
    wait_until(Duration::from_secs(5), "the drive is there", || {
        Ok(Path::new(&node).exists())
    })?;
    Ok(open_direct(node)?)
}

/// Reads from a drive into a mapping.
pub fn read_at(
    file: &File,
    map: &Map,
    range: std::ops::Range<usize>,
    offset: u64,
) -> Result<(), Errno> {
    let start = map.at(range.start);
    // SAFETY: The range is within the mapping; the kernel checks the address.
    let done = unsafe { libc::pread(raw(file.as_fd()), start.cast(), range.len(), offset as i64) };
    finish(done, range.len())
}

/// Writes from a mapping to a drive.
pub fn write_at(
    file: &File,
    map: &Map,
    range: std::ops::Range<usize>,
    offset: u64,
) -> Result<(), Errno> {
    let start = map.at(range.start);
    // SAFETY: The range is within the mapping; the kernel checks the address.
    let done = unsafe { libc::pwrite(raw(file.as_fd()), start.cast(), range.len(), offset as i64) };
    finish(done, range.len())
}

fn finish(done: isize, wanted: usize) -> Result<(), Errno> {
    match usize::try_from(done) {
        Ok(done) if done == wanted => Ok(()),
        // A part was done: what follows failed.
        Ok(_) => Err(Errno::IO),
        Err(_) => Err(last_errno()),
    }
}

// Processes.

pub enum Fork {
    Child,
    Parent(Pid),
}

/// Forks. The process must have one thread.
pub fn fork() -> Result<Fork, Errno> {
    // SAFETY: There are no other threads whose locks the child could miss.
    match unsafe { libc::fork() } {
        0 => Ok(Fork::Child),
        pid if pid > 0 => Ok(Fork::Parent(Pid::from_raw(pid).unwrap())),
        _ => Err(last_errno()),
    }
}

/// Ends this process at once, without destructors.
pub fn exit(status: i32) -> ! {
    // SAFETY: Ends the process.
    unsafe { libc::_exit(status) }
}

/// A child process of a case.
pub struct Child {
    pid: Pid,
    report: OwnedFd,
    waited: bool,
}

impl Child {
    /// Runs a function in a child process.
    pub fn spawn(run: impl FnOnce() -> Result<()>) -> Result<Self> {
        let (reader, writer) = rustix::pipe::pipe()?;
        match fork()? {
            Fork::Child => {
                drop(reader);
                let status = match run() {
                    Ok(()) => 0,
                    Err(error) => {
                        use std::io::Write;
                        let _ = File::from(writer).write_all(format!("{error:#}").as_bytes());
                        1
                    }
                };
                exit(status)
            }
            Fork::Parent(pid) => Ok(Self {
                pid,
                report: reader,
                waited: false,
            }),
        }
    }

    /// Starts a process, and waits until it says that it is ready.
    pub fn spawn_ready(run: impl FnOnce(&dyn Fn()) -> Result<()>) -> Result<Self> {
        let said = Map::shared(PAGE)?;
        let mut child = Self::spawn(|| run(&|| said.add(0)))?;
        wait_until(Duration::from_secs(10), "a child process is ready", || {
            if child.try_wait()?.is_some() {
                bail!("a child process ended: {}", child.complaint()?);
            }
            Ok(said.count(0) > 0)
        })?;
        Ok(child)
    }

    /// Kills the process.
    pub fn kill(&self) -> Result<()> {
        Ok(kill_process(self.pid, Signal::KILL)?)
    }

    /// Returns how the process ended, if it did.
    pub fn try_wait(&mut self) -> Result<Option<WaitStatus>> {
        let ended = waitpid(Some(self.pid), WaitOptions::NOHANG)?;
        self.waited |= ended.is_some();
        Ok(ended.map(|(_, status)| status))
    }

    /// Returns what the process that has ended complained of.
    pub fn complaint(&self) -> Result<String> {
        let mut text = String::new();
        io::Read::read_to_string(&mut File::from(self.report.try_clone()?), &mut text)?;
        Ok(text)
    }

    /// Waits for the end of the process, but not for ever.
    pub fn wait(&mut self) -> Result<WaitStatus> {
        let mut ended = None;
        wait_until(Duration::from_secs(30), "a child process ended", || {
            ended = waitpid(Some(self.pid), WaitOptions::NOHANG)?;
            Ok(ended.is_some())
        })?;
        self.waited = true;
        Ok(ended.expect("it ended").1)
    }

    /// Waits, and passes on what the child complained of.
    pub fn expect_success(mut self) -> Result<()> {
        let status = self.wait()?;
        if status.exit_status() == Some(0) {
            return Ok(());
        }
        bail!(
            "a child process failed ({}): {}",
            describe(status),
            self.complaint()?
        )
    }

    /// Waits, and checks that a signal killed the process.
    pub fn expect_signal(mut self, signal: i32) -> Result<()> {
        let status = self.wait()?;
        ensure!(
            status.terminating_signal() == Some(signal),
            "a child process was expected to die of signal {signal}, but: {}",
            describe(status)
        );
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.waited {
            let _ = self.kill();
            let _ = waitpid(Some(self.pid), WaitOptions::empty());
        }
    }
}

/// Says how a process ended.
pub fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => "neither ended nor killed".to_owned(),
    }
}

/// Returns whether this is the kernel that looks for mistakes, and is slow.
pub fn on_debug_kernel() -> bool {
    Path::new("/sys/kernel/debug/kmemleak").exists()
}

/// Returns how long to wait for what takes no longer than `limit` on the stock kernel.
pub fn patience(limit: Duration) -> Duration {
    if on_debug_kernel() {
        4 * limit
    } else {
        limit
    }
}

/// Returns how often to do something that proves more the more often it is done. Where only what is
/// reached counts (make coverage, or FEW_ROUNDS=1 in the environment) a tenth will do.
pub fn rounds(number: usize) -> usize {
    match std::env::var_os("FEW_ROUNDS") {
        Some(_) => number.div_ceil(10),
        None => number,
    }
}

/// Puts a pattern on a drive.
pub fn put_on_drive(drive: &File, length: usize, seed: u64) -> Result<()> {
    let map = Map::ordinary(length)?;
    map.fill(0..length, seed);
    Ok(write_at(drive, &map, 0..length, 0)?)
}

/// Checks that a pattern is on a drive.
pub fn check_drive(drive: &File, length: usize, seed: u64) -> Result<()> {
    let map = Map::ordinary(length)?;
    read_at(drive, &map, 0..length, 0)?;
    map.check(0..length, seed)
}

/// Copies from drive to drive through memory of a provider, and compares in ordinary memory.
pub fn copy_between(
    source: &str,
    destination: &str,
    provider: &Provider,
    length: usize,
) -> Result<()> {
    let (source, destination) = (drive_named(source)?, drive_named(destination)?);
    let map = Map::new(provider.open()?, length)?;
    copy_through(&map, 0..length, &source, &destination, 7)
}

/// Copies a pattern from one drive to the other through a part of a mapping, and looks at it there
/// and on the other drive.
pub fn copy_through(
    map: &Map,
    range: std::ops::Range<usize>,
    source: &File,
    destination: &File,
    seed: u64,
) -> Result<()> {
    let length = range.len();
    put_on_drive(source, length, seed)?;
    read_at(source, map, range.clone(), 0)?;
    for offset in (0..length).step_by(8) {
        let (found, expected) = (map.get(range.start + offset), pattern(seed, offset));
        ensure!(
            found == expected,
            "in device memory, at {offset:#x}: {found:#x}, not {expected:#x}"
        );
    }
    write_at(destination, map, range, 0)?;
    check_drive(destination, length, seed)
}

/// Takes all rights from this process, for ever.
pub fn become_user() -> Result<()> {
    // SAFETY: Has no requirements.
    ensure!(unsafe { libc::setuid(1000) } == 0, "setuid");
    Ok(())
}

/// Puts all devices to sleep, and wakes them: all of it but the machine itself.
pub fn sleep() -> Result<()> {
    fs::write("/sys/module/suspend/parameters/pm_test_delay", "1")?;
    fs::write("/sys/power/pm_test", "platform")?;
    let result = fs::write("/sys/power/state", "freeze").context("sleep");
    fs::write("/sys/power/pm_test", "none")?;
    result
}

// Expectations.

/// Returns an error of the standard library as what the kernel said.
pub fn errno<T>(result: io::Result<T>) -> Result<T, Errno> {
    result.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// Checks that something fails in a certain way.
pub fn expect_errno<T>(result: Result<T, Errno>, expected: Errno, what: &str) -> Result<()> {
    match result {
        Ok(_) => bail!("{what}: succeeded, expected {expected}"),
        Err(error) => {
            ensure!(error == expected, "{what}: {error}, expected {expected}");
            Ok(())
        }
    }
}

/// As [`expect_errno`], of the standard library's errors.
pub fn expect_io_errno<T>(result: io::Result<T>, expected: Errno, what: &str) -> Result<()> {
    expect_errno(errno(result), expected, what)
}

/// Waits for something to become true.
pub fn wait_until(
    limit: Duration,
    what: &str,
    mut is_so: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let limit = patience(limit);
    let deadline = Instant::now() + limit;
    while !is_so()? {
        if Instant::now() > deadline {
            bail!(TimedOut(format!(
                "not within {} s: {what}",
                limit.as_secs()
            )));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
