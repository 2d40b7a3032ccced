// SPDX-License-Identifier: GPL-2.0

//! Binds devices to the driver, unbinds them, and changes the settings of the driver.
//!
//! All of it is a [`Plan`]: files of sysfs, and what is to be written to each. It can be printed as
//! shell commands. If a step fails, those before it are undone. What can be known before is checked
//! before the driver of a device is unbound.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context, Result};
use p2pmem::{
    pci, size,
    sysfs::{self, Entry, Slots},
};
use rustix::{fs::OFlags, io::Errno};
use serde::Serialize;

mod memory;
mod openers;

use memory::Memory;

/// The driver.
pub const DRIVER: &str = "p2pmem_rs";
/// Value of `driver_override` that keeps all drivers from a device: no driver has this name.
pub const NO_DRIVER: &str = "none";
/// Limit for a node to come up.
const LIMIT: Duration = Duration::from_secs(30);

/// Mount points of the kernel's file systems.
#[derive(Clone, Debug)]
pub struct Roots {
    /// Mount point of sysfs.
    pub sys: PathBuf,
    /// Mount point of procfs.
    pub proc: PathBuf,
    /// Folder of device nodes.
    pub dev: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            sys: "/sys".into(),
            proc: "/proc".into(),
            dev: "/dev".into(),
        }
    }
}

impl Roots {
    fn regions(&self) -> PathBuf {
        self.sys.join("module").join(DRIVER).join("regions")
    }

    fn driver(&self, name: &str) -> PathBuf {
        self.sys.join("bus/pci/drivers").join(name)
    }

    fn device(&self, pci: &str) -> PathBuf {
        self.sys.join("bus/pci/devices").join(pci)
    }

    /// Returns what is chosen: pairs of a device and its regions.
    pub fn choices(&self) -> Result<Vec<(String, String)>> {
        let path = self.regions();
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text
                .lines()
                .filter_map(|line| line.split_once(' '))
                .map(|(device, regions)| (device.to_owned(), regions.to_owned()))
                .collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("{DRIVER} is not loaded: run modprobe {DRIVER}")
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Returns what is chosen for a device.
    pub fn choice(&self, pci: &str) -> Result<Option<String>> {
        let mut choices = self.choices()?.into_iter();
        Ok(choices
            .find(|(device, _)| device == pci)
            .map(|(_, regions)| regions))
    }
}

/// A PCI device, as the command line names it.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its address, like `0000:05:00.0`.
    pub pci: String,
    /// Its node, if it has one.
    pub node: Option<Entry>,
}

impl Device {
    /// Finds a device by its address, with or without the domain, or by its node: `/dev/p2pmem0`,
    /// `p2pmem0` or `0`.
    pub fn find(roots: &Roots, text: &str) -> Result<Self> {
        let entries = sysfs::providers(&roots.sys).context("cannot read sysfs")?;
        let mut entries = entries.into_iter();

        if let Some(number) = sysfs::node_number(text) {
            let node = entries
                .find(|entry| entry.number == number)
                .with_context(|| {
                    format!("there is no /dev/p2pmem{number}: p2pmem list shows all nodes")
                })?;
            return Ok(Self {
                pci: node.pci.clone(),
                node: Some(node),
            });
        }

        let pci = pci::address(text).with_context(|| {
            format!("{text} is not a device: write it like 0000:05:00.0, 05:00.0 or p2pmem0")
        })?;
        ensure!(
            roots.device(&pci).exists(),
            "there is no PCI device {pci}: lspci -D lists those there are"
        );
        Ok(Self {
            node: entries.find(|entry| entry.pci == pci),
            pci,
        })
    }

    /// Returns the driver that has the device.
    pub fn driver(&self, roots: &Roots) -> Option<String> {
        driver_of(roots, &self.pci)
    }

    /// Returns the only driver that may have it.
    pub fn driver_override(&self, roots: &Roots) -> Option<String> {
        let text = fs::read_to_string(roots.device(&self.pci).join("driver_override")).ok()?;
        // The kernel shows none as "(null)".
        Some(text.trim().to_owned()).filter(|name| !name.is_empty() && name != "(null)")
    }
}

fn driver_of(roots: &Roots, pci: &str) -> Option<String> {
    let link = fs::read_link(roots.device(pci).join("driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// Something to be written to a file of sysfs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The file.
    pub path: PathBuf,
    /// A line.
    pub text: String,
    /// The write that undoes it: file and line.
    #[serde(skip)]
    undo: Option<(PathBuf, String)>,
}

/// As a shell command.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, text, .. } = self;
        let path = path.display();
        if text.is_empty() {
            write!(f, "echo > {path}")
        } else if text.contains(' ') {
            write!(f, "echo '{text}' > {path}")
        } else {
            write!(f, "echo {text} > {path}")
        }
    }
}

/// Steps that change a device, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pci: String,
    steps: Vec<Step>,
    /// The driver that loses the device, and by which step.
    taken: Option<(String, usize)>,
    notes: Vec<String>,
}

impl Plan {
    fn new(device: &Device) -> Self {
        Self {
            pci: device.pci.clone(),
            steps: Vec::new(),
            taken: None,
            notes: Vec::new(),
        }
    }

    /// Returns what is to be done.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Returns what could not be found out, and what is not to be seen by the steps.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn add(&mut self, path: PathBuf, text: &str, undo: Option<(PathBuf, String)>) {
        self.steps.push(Step {
            path,
            text: text.to_owned(),
            undo,
        });
    }

    /// As [`add`](Self::add), where writing what was there before undoes it.
    fn set(&mut self, path: PathBuf, text: &str, before: String) {
        self.add(path.clone(), text, Some((path, before)));
    }

    /// Takes the device from its driver.
    fn take(&mut self, roots: &Roots, driver: String) {
        let folder = roots.driver(&driver);
        let pci = self.pci.clone();
        let undo = (folder.join("bind"), pci.clone());
        self.taken = Some((driver, self.steps.len()));
        self.add(folder.join("unbind"), &pci, Some(undo));
    }

    /// Chooses regions, or `default`.
    fn choose(&mut self, roots: &Roots, regions: &str) -> Result<()> {
        let before = roots.choice(&self.pci)?;
        let line = |regions: &str| format!("{} {regions}", self.pci);
        let before = line(before.as_deref().unwrap_or("default"));
        let text = line(regions);
        self.set(roots.regions(), &text, before);
        Ok(())
    }

    /// Takes the steps, and calls `then`, which must succeed. If something fails, undoes all, and
    /// the error has the message of the kernel, if this user may read it.
    pub fn run<T>(&self, roots: &Roots, then: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut log = Log::from_now(roots);
        let mut done = 0;
        let result = self
            .steps
            .iter()
            .try_for_each(|step| {
                put(&step.path, &step.text)?;
                done += 1;
                Ok(())
            })
            .and_then(|()| then());

        result.map_err(|error| {
            // Before undoing adds to it.
            let error = match log.last(&self.pci, driver_of(roots, &self.pci).as_deref()) {
                Some(line) => error.context(format!("the kernel says `{line}`")),
                None => error,
            };
            let undone = self.undo(done);
            error.context(self.outcome(roots, done, undone))
        })
    }

    /// Returns in words the state of the device after the first steps were done and undone.
    fn outcome(&self, roots: &Roots, done: usize, undone: Result<()>) -> String {
        let taken = self.taken.as_ref().filter(|(_, step)| *step < done);
        let now = driver_of(roots, &self.pci);
        let text = match taken {
            None if undone.is_ok() => return "nothing has changed".to_owned(),
            None => "not all changes could be undone".to_owned(),
            Some((driver, _)) if now.as_ref() == Some(driver) => {
                format!(
                    "{} was unbound from {driver}, and bound to it again",
                    self.pci
                )
            }
            Some((driver, _)) => format!(
                "{} was unbound from {driver} and could not be bound to it again, {}",
                self.pci,
                match now {
                    Some(now) => format!("it is bound to {now}"),
                    None => "it has no driver now".to_owned(),
                }
            ),
        };
        match undone {
            Ok(()) => text,
            Err(error) => format!("{text}: {error:#}"),
        }
    }

    /// Undoes the first steps, the last one first. Goes on if one cannot be undone.
    fn undo(&self, done: usize) -> Result<()> {
        let mut result = Ok(());
        for step in self.steps[..done].iter().rev() {
            if let Some((path, text)) = &step.undo {
                result = result.and(put(path, text));
            }
        }
        result
    }
}

/// Writes a line to a file that is there.
fn put(path: &Path, text: &str) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(format!("{text}\n").as_bytes()))
        .with_context(|| match rustix::process::geteuid().is_root() {
            true => format!("cannot write `{text}` to {}", path.display()),
            false => format!("cannot write to {}: do it as root", path.display()),
        })
}

/// Plans to bind a device to the driver, with certain regions, or those that were chosen before.
///
/// # Errors
///
/// The driver is not loaded, has the device already and would not do anything else with it, or
/// would find no memory; the device is a bridge. The device is in use or reserved for another
/// driver; these only without `force`.
pub fn bind(roots: &Roots, device: &Device, regions: Option<&str>, force: bool) -> Result<Plan> {
    let pci = &device.pci;
    let folder = roots.device(pci);
    let mut plan = Plan::new(device);

    // Tells whether the driver is loaded, too.
    let chosen = roots.choice(pci)?;
    let driver = device.driver(roots);
    ensure!(
        driver.as_deref() != Some(DRIVER) || regions.is_some(),
        "{pci} is bound to {DRIVER} already: pass --regions to change its memory"
    );
    if is_bridge(&folder)? {
        bail!("{pci} is a bridge: choose a device behind it");
    }
    if !force {
        if let Some(use_) = use_of(roots, device, &mut plan.notes)? {
            bail!("{pci} is in use: {use_}: end the use, or pass --force");
        }
        refuse_if_allocated(device)?;
    }
    let before = device.driver_override(roots);
    // The BAR that belongs to an ID is in the driver's table only.
    let by_id = before.as_deref() == Some(NO_DRIVER);
    match regions.or(chosen.as_deref()) {
        None | Some("default") if by_id || driver.as_deref() == Some(DRIVER) => (),
        text => Memory::read(&folder, pci)?.check(text.unwrap_or("default"))?,
    }
    let is_reserved = before.as_deref().is_some_and(|name| name != DRIVER);
    if let (Some(other), true, false) = (&before, is_reserved && !by_id, force) {
        bail!(
            "{pci} is reserved for {other} (driver_override), which p2pmem unbind would not put \
             back: pass --force"
        );
    }
    // On the way back, any driver is allowed before one is bound.
    let path = folder.join("driver_override");
    let mut before = before.unwrap_or_default();
    if let Some(driver) = driver {
        if is_reserved {
            plan.set(path.clone(), "", std::mem::take(&mut before));
        }
        plan.take(roots, driver);
    }
    if before != DRIVER {
        plan.set(path, DRIVER, before);
    }
    if let Some(regions) = regions {
        plan.choose(roots, regions)?;
    }
    plan.add(roots.sys.join("bus/pci/drivers_probe"), pci, None);

    Ok(plan)
}

/// Returns whether a device is a bridge to other devices. One to another host is not.
fn is_bridge(folder: &Path) -> Result<bool> {
    const BRIDGE: u32 = 0x06;
    const OTHER: u32 = 0x80;

    let class = memory::class(folder)?;
    Ok(class >> 16 == BRIDGE && (class >> 8) & 0xff != OTHER
        || folder.join("secondary_bus_number").exists())
}

/// Fails if memory of a node is in use.
fn refuse_if_allocated(device: &Device) -> Result<()> {
    let allocated = match &device.node {
        Some(node) => node.details().map_or(0, |details| details.allocated),
        None => 0,
    };
    ensure!(
        allocated == 0,
        "{} is in use: {} of its memory are allocated (p2pmem list --users shows the processes): end them, or pass \
         --force",
        device.pci,
        size::format(allocated)
    );
    Ok(())
}

/// Waits until a device that was bound has its node, and returns that. If none comes the device is
/// unbound again.
pub fn wait_for_node(roots: &Roots, device: &Device) -> Result<Entry> {
    let result = find_node(roots, device);
    if result.is_err() && device.driver(roots).as_deref() == Some(DRIVER) {
        put(&roots.driver(DRIVER).join("unbind"), &device.pci)?;
    }
    result
}

fn find_node(roots: &Roots, device: &Device) -> Result<Entry> {
    let pci = &device.pci;
    ensure!(
        device.driver(roots).as_deref() == Some(DRIVER),
        "{DRIVER} refused the device: see dmesg"
    );

    let deadline = Instant::now() + LIMIT;
    loop {
        let entry = sysfs::providers(&roots.sys)?
            .into_iter()
            .find(|entry| entry.pci == *pci);
        if let Some(entry) = entry {
            if roots.dev.join(format!("p2pmem{}", entry.number)).exists() {
                return Ok(entry);
            }
        }
        ensure!(
            Instant::now() < deadline,
            "no node came up within {} s: see dmesg",
            LIMIT.as_secs()
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// Options of [`unbind`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unbind {
    /// Take the memory away from its users.
    pub force: bool,
    /// Forget which regions were chosen.
    pub forget: bool,
    /// Write nothing to find out more: the plan is only to be looked at.
    pub dry_run: bool,
}

/// Plans to undo [`bind`]: unbind, allow any driver, and let the kernel look for one. The driver
/// would take back a device whose ID it knows: no driver is allowed then.
///
/// # Errors
///
/// The driver is not loaded, or has nothing to do with the device; memory is in use, without
/// `force`.
pub fn unbind(roots: &Roots, device: &Device, how: Unbind) -> Result<Plan> {
    let pci = &device.pci;
    let mut plan = Plan::new(device);
    let choice = roots.choice(pci)?;
    let path = roots.device(pci).join("driver_override");

    let driver = device.driver(roots);
    let is_bound = driver.as_deref() == Some(DRIVER);
    if let (Some(driver), false, true) = (&driver, is_bound, device.node.is_some()) {
        bail!(
            "{pci} belongs to {driver}, its memory is only adopted: \
             unload {DRIVER}, or give up a PMR (p2pmem config {pci} --regions default)"
        );
    }
    if !how.force {
        refuse_if_allocated(device)?;
    }
    let before = device.driver_override(roots);
    let is_ours = before.as_deref() == Some(DRIVER);
    let by_id = match is_bound {
        true if is_ours && how.dry_run => {
            plan.notes.push(format!(
                "if {DRIVER} knows the ID of {pci}, `{NO_DRIVER}` is written to its driver_override"
            ));
            false
        }
        true if is_ours => knows_id(roots, device)?,
        // Without an override, it was bound by its ID.
        is_bound => is_bound,
    };

    if by_id {
        plan.set(path.clone(), NO_DRIVER, before.unwrap_or_default());
    }
    if is_bound {
        plan.take(roots, DRIVER.to_owned());
    }
    if !by_id && is_ours {
        plan.set(path, "", DRIVER.to_owned());
        plan.add(roots.sys.join("bus/pci/drivers_probe"), pci, None);
    }
    if how.forget && choice.is_some() {
        plan.choose(roots, "default")?;
    }
    ensure!(
        !plan.steps.is_empty(),
        "{pci} is not bound to {DRIVER}: p2pmem list shows the devices that are"
    );

    Ok(plan)
}

/// Returns whether the driver has the ID of a device that is bound to it and reserved for it.
///
/// The kernel does not list the IDs of a driver. To bind a device that is bound is an error: EBUSY
/// if the driver matches, ENODEV if it does not.
fn knows_id(roots: &Roots, device: &Device) -> Result<bool> {
    let path = roots.device(&device.pci).join("driver_override");
    put(&path, "")?;
    let answer = OpenOptions::new()
        .write(true)
        .open(roots.driver(DRIVER).join("bind"))
        .and_then(|mut file| file.write_all(device.pci.as_bytes()));
    put(&path, DRIVER)?;

    match answer {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => Ok(false),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => Ok(true),
        // It was unbound in between, and this bound it.
        Ok(()) => Ok(true),
        Err(error) => Err(error).context("cannot read the IDs of the driver"),
    }
}

/// Settings to change. [`None`] leaves a setting as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Regions to register from the next time on that the device is bound, or `default`.
    pub regions: Option<String>,
    /// Whether memory is cleared when it is allocated.
    pub clear: Option<bool>,
    /// Limit of each open file in bytes; 0 for no limit.
    pub limit_per_file: Option<u64>,
    /// Limit of each user in bytes; 0 for no limit.
    pub limit_per_user: Option<u64>,
    /// Processes that may fill slots of an io_uring.
    pub slots: Option<Slots>,
}

/// Plans to set something.
///
/// # Errors
///
/// The driver is not loaded, or the device has no node to set anything of.
pub fn configure(roots: &Roots, device: &Device, settings: &Settings) -> Result<Plan> {
    let mut plan = Plan::new(device);

    let of_node = [
        (
            "clear",
            settings.clear.map(|clear| u64::from(clear).to_string()),
        ),
        (
            "limit_per_file",
            settings.limit_per_file.map(|bytes| bytes.to_string()),
        ),
        (
            "limit_per_user",
            settings.limit_per_user.map(|bytes| bytes.to_string()),
        ),
        ("slots", settings.slots.map(|slots| slots.name().to_owned())),
    ];
    for (name, value) in of_node {
        let Some(value) = value else { continue };
        let node = device.node.as_ref().with_context(|| {
            format!(
                "{0} has no node: bind it first (p2pmem bind {0})",
                device.pci
            )
        })?;
        let path = node.node.join(name);
        let before = fs::read_to_string(&path).with_context(|| match path.exists() {
            true => format!("cannot read {}", path.display()),
            false => format!("{DRIVER} does not have the setting {name}: load a newer version"),
        })?;
        plan.set(path, &value, before.trim().to_owned());
    }
    if let Some(regions) = &settings.regions {
        if regions != "default" {
            Memory::read(&roots.device(&device.pci), &device.pci)?.check(regions)?;
        }
        plan.choose(roots, regions)?;
    }

    Ok(plan)
}

/// Checks that a driver that has a device gives its PMR away, if that was asked for just now.
///
/// # Errors
///
/// It does not. The driver tells the reason in the kernel's log.
pub fn check_adopted(roots: &Roots, device: &Device, settings: &Settings) -> Result<()> {
    let regions = settings.regions.as_deref().unwrap_or_default();
    let driver = match device.driver(roots) {
        Some(driver) if driver != DRIVER => driver,
        _ => return Ok(()),
    };
    if !regions.split_whitespace().any(|word| word == "pmr") {
        return Ok(());
    }

    let is_pmr = |node: &Entry| {
        let details = node.details();
        node.pci == device.pci
            && details.is_ok_and(|details| details.regions.iter().any(|one| one.kind == "pmr"))
    };
    ensure!(
        sysfs::providers(&roots.sys)?.iter().any(is_pmr),
        "{DRIVER} did not register the PMR beside {driver}"
    );
    Ok(())
}

/// Returns the use of a device, in words. Notes what this user cannot see.
fn use_of(roots: &Roots, device: &Device, notes: &mut Vec<String>) -> Result<Option<String>> {
    let directory = fs::canonicalize(roots.device(&device.pci))?;
    let mut nodes = openers::nodes(&directory);

    if let Some(use_) = use_of_function(&directory) {
        return Ok(Some(use_));
    }
    if let Some(use_) = use_of_disks(roots, &directory, &mut nodes)? {
        return Ok(Some(use_));
    }
    for entry in fs::read_dir(roots.sys.join("block"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let file = fs::read_to_string(entry.path().join("loop/backing_file"));
        let file = PathBuf::from(file.unwrap_or_default().trim());
        if let Some(node) = nodes.iter().find(|node| node.is_at(&file)) {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            return Ok(Some(format!("/dev/{} is behind /dev/{name}", node.name)));
        }
    }

    // The driver itself counts what is used of its node.
    if device.node.is_some() {
        nodes.retain(|node| !node.name.starts_with("p2pmem"));
    }
    let openers = openers::look(roots, &nodes)?;
    if openers.first.is_none() && openers.hidden > 0 && !nodes.is_empty() {
        notes.push(format!(
            "{} may be in use: the descriptors of {} processes cannot be read, which takes root",
            device.pci, openers.hidden
        ));
    }
    Ok(openers.first)
}

/// Returns the use of a function other than by its nodes: networks, virtual functions.
fn use_of_function(directory: &Path) -> Option<String> {
    const IFF_UP: u32 = 1;

    let functions = fs::read_to_string(directory.join("sriov_numvfs")).unwrap_or_default();
    match functions.trim() {
        "" | "0" => (),
        count => return Some(format!("it has {count} virtual functions (sriov_numvfs)")),
    }
    for entry in fs::read_dir(directory.join("net"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let flags = fs::read_to_string(entry.path().join("flags")).unwrap_or_default();
        let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16);
        if flags.is_ok_and(|flags| flags & IFF_UP != 0) {
            let name = entry.file_name();
            return Some(format!("the network {} is up", name.to_string_lossy()));
        }
    }
    None
}

/// Returns the use of the block devices that a device has, in words. Adds the nodes of multipath
/// drives that have it as a path.
fn use_of_disks(
    roots: &Roots,
    directory: &Path,
    nodes: &mut Vec<openers::Node>,
) -> Result<Option<String>> {
    let Ok(disks) = fs::read_dir(roots.sys.join("block")) else {
        // There are none.
        return Ok(None);
    };
    let mounts = fs::read_to_string(roots.proc.join("self/mountinfo"))?;
    let swaps = fs::read_to_string(roots.proc.join("swaps")).unwrap_or_default();

    for disk in disks {
        let disk = disk?;
        if !fs::canonicalize(disk.path()).is_ok_and(|path| path.starts_with(directory)) {
            continue;
        }
        let name = disk.file_name().to_string_lossy().into_owned();
        // A drive with several paths is used by a name that tells of none.
        let head = head_of(&name);
        let is_head = head.is_some();
        let name = head.unwrap_or(name);
        let folder = roots.sys.join("block").join(&name);
        if is_head {
            nodes.extend(openers::nodes(&fs::canonicalize(&folder)?));
        }

        let mut parts = vec![(name.clone(), folder.clone())];
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.path().join("partition").exists() {
                let name = entry.file_name().to_string_lossy().into_owned();
                parts.push((name, entry.path()));
            }
        }
        for (name, folder) in parts {
            if let Some(use_) = use_of_part(&name, &folder, &mounts, &swaps) {
                return Ok(Some(use_));
            }
        }
        if is_claimed(&roots.dev.join(&name)) {
            return Ok(Some(format!("/dev/{name} is opened for exclusive use")));
        }
    }

    Ok(None)
}

/// Returns a use of a disk or a partition, by its directory in sysfs, and by procfs.
fn use_of_part(name: &str, folder: &Path, mounts: &str, swaps: &str) -> Option<String> {
    let number = fs::read_to_string(folder.join("dev")).unwrap_or_default();
    let node = format!("/dev/{name}");

    let holder = fs::read_dir(folder.join("holders"))
        .ok()
        .and_then(|mut holders| holders.next()?.ok());
    if let Some(holder) = holder {
        let holder = holder.file_name();
        return Some(format!("{node} is part of {}", holder.to_string_lossy()));
    }
    for line in mounts.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let source = line
            .split_once(" - ")
            .and_then(|(_, rest)| rest.split(' ').nth(1));
        if let [_, _, device, _, point, ..] = words[..] {
            if device == number.trim() || source == Some(&node) {
                return Some(format!("{node} is mounted at {point}"));
            }
        }
    }

    swaps
        .lines()
        .any(|line| line.split_whitespace().next() == Some(&node))
        .then(|| format!("{node} is swap space"))
}

/// Returns the drive that a path to it (`nvme0c1n2`) belongs to (`nvme0n2`).
fn head_of(name: &str) -> Option<String> {
    let (subsystem, rest) = name.strip_prefix("nvme")?.split_once('c')?;
    let (_, namespace) = rest.split_once('n')?;

    Some(format!("nvme{subsystem}n{namespace}"))
}

/// Returns whether the kernel, or a program, claimed a disk or a part of it for itself.
fn is_claimed(node: &Path) -> bool {
    let result = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::EXCL.bits() as i32)
        .open(node);

    result.is_err_and(|error| Errno::from_io_error(&error) == Some(Errno::BUSY))
}

/// The kernel's log from some point on, if this user may read it.
struct Log(Option<File>);

impl Log {
    fn from_now(roots: &Roots) -> Self {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(roots.dev.join("kmsg"));
        Self(file.ok().and_then(|mut file| {
            file.seek(SeekFrom::End(0)).ok()?;
            Some(file)
        }))
    }

    /// Returns what the driver said last of a device, or of the line that was written. The kernel
    /// begins each line with the name of the driver that has the device: for an adopted one that is
    /// another.
    fn last(&mut self, pci: &str, driver: Option<&str>) -> Option<String> {
        let file = self.0.as_mut()?;
        let heads = [
            format!("{DRIVER} {pci}: "),
            format!("{DRIVER}: regions: "),
            format!("{} {pci}: ", driver.unwrap_or(DRIVER)),
        ];
        let mut last = None;
        // Longer than any record.
        let mut record = [0; 8192];

        loop {
            let length = match file.read(&mut record) {
                Ok(0) => break,
                Ok(length) => length,
                // Records were overwritten before they were read.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => continue,
                Err(_) => break,
            };
            let text = String::from_utf8_lossy(&record[..length]);
            let line = text.split_once(';').map_or("", |(_, text)| text);
            let line = line.lines().next().unwrap_or_default();
            let said = heads.iter().find_map(|head| line.strip_prefix(&**head));
            // Text that the driver core, or p2pmem_rs for adopted devices, adds to the reason.
            let more = [
                "probe with driver",
                "its peer-to-peer memory cannot be given",
            ];
            let is_more = |said: &&str| more.iter().any(|text| said.starts_with(text));
            if let Some(said) = said.filter(|said| !is_more(said)) {
                last = Some(said.to_owned());
            }
        }

        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{env, os::unix::fs::symlink, process};

    const PCI: &str = "0000:05:00.0";

    /// A machine with one drive, in a directory that goes away with the test.
    struct Machine {
        top: PathBuf,
        roots: Roots,
    }

    impl Machine {
        fn new(name: &str) -> Self {
            let top = env::temp_dir().join(format!("p2pmem-manage-{name}-{}", process::id()));
            let roots = Roots {
                sys: top.join("sys"),
                proc: top.join("proc"),
                dev: top.join("dev"),
            };
            let machine = Self { top, roots };
            for file in [
                "sys/module/p2pmem_rs/regions",
                "sys/bus/pci/drivers/p2pmem_rs/bind",
                "sys/bus/pci/drivers/p2pmem_rs/unbind",
                "sys/bus/pci/drivers/nvme/bind",
                "sys/bus/pci/drivers/nvme/unbind",
                "sys/bus/pci/drivers_probe",
                "proc/self/mountinfo",
                "proc/swaps",
            ] {
                machine.write(file, "");
            }
            let device = format!("sys/bus/pci/devices/{PCI}");
            machine.write(&format!("{device}/driver_override"), "(null)\n");
            machine.write(&format!("{device}/class"), "0x010802\n");
            machine.write(&format!("{device}/config"), "");
            let absent = "0x0 0x0 0x0\n";
            let bars = "0xfe800000 0xfe803fff 0x140204\n0x0 0x0 0x0\n\
                        0x800000000 0x807ffffff 0x14220c\n";
            machine.write(
                &format!("{device}/resource"),
                &(bars.to_owned() + &absent.repeat(4)),
            );
            machine.write(&format!("{device}/block/nvme0n1/dev"), "259:0\n");
            machine.write(&format!("{device}/block/nvme0n1/nvme0n1p1/dev"), "259:1\n");
            machine.write(&format!("{device}/block/nvme0n1/nvme0n1p1/partition"), "1");
            fs::create_dir_all(machine.roots.sys.join("class/misc")).unwrap();
            fs::create_dir_all(machine.roots.sys.join("block")).unwrap();
            symlink(
                machine.top.join(&device).join("block/nvme0n1"),
                machine.roots.sys.join("block/nvme0n1"),
            )
            .unwrap();
            machine.set_driver("nvme");
            machine
        }

        fn write(&self, file: &str, text: &str) {
            let path = self.top.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn read(&self, file: &str) -> String {
            fs::read_to_string(self.top.join(file)).unwrap()
        }

        fn set_driver(&self, name: &str) {
            let link = self.roots.device(PCI).join("driver");
            let _ = fs::remove_file(&link);
            symlink(self.roots.driver(name), link).unwrap();
        }

        fn entry(&self, node: &str) -> Entry {
            Entry {
                number: 0,
                path: "/dev/p2pmem0".into(),
                node: self.top.join(node),
                device: self.roots.device(PCI),
                pci: PCI.to_owned(),
                vendor: "1b36".to_owned(),
                product: "0010".to_owned(),
            }
        }

        fn device(&self) -> Device {
            Device::find(&self.roots, "05:00.0").unwrap()
        }

        /// The commands of a plan, without where the tree is.
        fn commands(&self, plan: &Plan) -> Vec<String> {
            let top = format!("{}/", self.top.display());
            let steps = plan.steps().iter();
            steps
                .map(|step| step.to_string().replace(&top, ""))
                .collect()
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.top);
        }
    }

    #[test]
    fn binding_takes_the_device_from_its_driver() {
        let machine = Machine::new("bind");
        let plan = bind(
            &machine.roots,
            &machine.device(),
            Some("bar2@16M+64M"),
            false,
        )
        .unwrap();
        assert_eq!(
            machine.commands(&plan),
            [
                "echo 0000:05:00.0 > sys/bus/pci/drivers/nvme/unbind",
                "echo p2pmem_rs > sys/bus/pci/devices/0000:05:00.0/driver_override",
                "echo '0000:05:00.0 bar2@16M+64M' > sys/module/p2pmem_rs/regions",
                "echo 0000:05:00.0 > sys/bus/pci/drivers_probe",
            ]
        );
    }

    #[test]
    fn what_failed_is_undone() {
        let machine = Machine::new("undo");
        machine.write("sys/module/p2pmem_rs/regions", "0000:05:00.0 cmb\n");
        let plan = bind(&machine.roots, &machine.device(), Some("pmr"), false).unwrap();
        // The last step does not work.
        fs::remove_file(machine.roots.sys.join("bus/pci/drivers_probe")).unwrap();
        let error = plan.run(&machine.roots, || Ok(())).unwrap_err();

        let text = format!("{error:#}");
        assert!(
            text.starts_with(
                "0000:05:00.0 was unbound from nvme, and bound to it again: cannot write"
            ),
            "{text}"
        );
        assert!(text.contains("drivers_probe"), "{text}");
        // Each was written over what was there before.
        let regions = machine.read("sys/module/p2pmem_rs/regions");
        assert_eq!(regions, "0000:05:00.0 cmb\n");
        assert_eq!(
            machine.read("sys/bus/pci/drivers/nvme/bind"),
            "0000:05:00.0\n"
        );
        let file = format!("sys/bus/pci/devices/{PCI}/driver_override");
        assert!(machine.read(&file).starts_with('\n'));
    }

    #[test]
    fn a_device_in_use_is_refused() {
        let machine = Machine::new("use");
        let refusal = || {
            let device = machine.device();
            bind(&machine.roots, &device, None, true).unwrap();
            format!(
                "{:#}",
                bind(&machine.roots, &device, None, false).unwrap_err()
            )
        };
        for (file, text, expected) in [
            (
                "proc/self/mountinfo",
                "29 1 259:1 / /boot rw - ext4 /dev/root rw\n",
                "/dev/nvme0n1p1 is mounted at /boot",
            ),
            (
                "proc/self/mountinfo",
                "29 1 0:33 / /data rw shared:1 - btrfs /dev/nvme0n1 rw\n",
                "/dev/nvme0n1 is mounted at /data",
            ),
            (
                "proc/swaps",
                "Filename Type Size\n/dev/nvme0n1p1 partition 1024\n",
                "/dev/nvme0n1p1 is swap space",
            ),
            (
                "sys/block/nvme0n1/nvme0n1p1/holders/dm-0",
                "",
                "/dev/nvme0n1p1 is part of dm-0",
            ),
        ] {
            machine.write(file, text);
            assert!(refusal().contains(expected), "{}", refusal());
            machine.write(file, "");
        }
    }

    #[test]
    fn a_path_to_a_drive_is_known() {
        assert_eq!(head_of("nvme0c1n2").as_deref(), Some("nvme0n2"));
        assert_eq!(head_of("nvme0n1"), None);
        assert_eq!(head_of("sdc"), None);
    }

    #[test]
    fn unbinding_gives_the_device_back() {
        let machine = Machine::new("unbind");
        machine.set_driver("p2pmem_rs");
        let file = format!("sys/bus/pci/devices/{PCI}/driver_override");
        machine.write(&file, "p2pmem_rs\n");
        machine.write("sys/module/p2pmem_rs/regions", "0000:05:00.0 cmb\n");
        let dry_run = Unbind {
            dry_run: true,
            ..Unbind::default()
        };
        let forget = Unbind {
            forget: true,
            ..dry_run
        };
        let plan = unbind(&machine.roots, &machine.device(), forget).unwrap();
        assert_eq!(
            machine.commands(&plan),
            [
                "echo 0000:05:00.0 > sys/bus/pci/drivers/p2pmem_rs/unbind",
                "echo > sys/bus/pci/devices/0000:05:00.0/driver_override",
                "echo 0000:05:00.0 > sys/bus/pci/drivers_probe",
                "echo '0000:05:00.0 default' > sys/module/p2pmem_rs/regions",
            ]
        );
        assert!(plan.notes()[0].contains("knows the ID"));
        // The chosen regions are kept.
        let plan = unbind(&machine.roots, &machine.device(), dry_run).unwrap();
        assert_eq!(plan.steps().len(), 3);
        // One that is bound by its ID.
        machine.write(&file, "(null)\n");
        let plan = unbind(&machine.roots, &machine.device(), Unbind::default()).unwrap();
        assert_eq!(
            machine.commands(&plan),
            [
                "echo none > sys/bus/pci/devices/0000:05:00.0/driver_override",
                "echo 0000:05:00.0 > sys/bus/pci/drivers/p2pmem_rs/unbind",
            ]
        );
        // That reserves the device for no driver.
        fs::remove_file(machine.roots.device(PCI).join("driver")).unwrap();
        machine.write(&file, "none\n");
        let plan = bind(&machine.roots, &machine.device(), None, false).unwrap();
        assert_eq!(
            machine.commands(&plan),
            [
                "echo p2pmem_rs > sys/bus/pci/devices/0000:05:00.0/driver_override",
                "echo 0000:05:00.0 > sys/bus/pci/drivers_probe",
            ]
        );
        // One that is not bound.
        machine.set_driver("nvme");
        let error = unbind(&machine.roots, &machine.device(), Unbind::default()).unwrap_err();
        assert!(error.to_string().contains("is not bound"), "{error}");
    }

    #[test]
    fn memory_in_use_is_left_alone() {
        let machine = Machine::new("allocated");
        machine.set_driver("p2pmem_rs");
        let mut device = machine.device();
        let node = "sys/class/misc/p2pmem0";
        for (name, text) in [
            ("size", "134217728"),
            ("allocated", "2097152"),
            ("largest", "132120576"),
            ("regions", "bar2@0x0+0x8000000:bar"),
            ("adopted", "0"),
            ("clear", "1"),
            ("limit_per_file", "0"),
            ("limit_per_user", "0"),
        ] {
            machine.write(&format!("{node}/{name}"), text);
        }
        device.node = Some(machine.entry(node));
        let allocated = device.node.as_ref().unwrap().details().unwrap().allocated;
        assert_eq!(allocated, 2 << 20);
        let error = unbind(&machine.roots, &device, Unbind::default()).unwrap_err();
        assert!(
            error.to_string().contains("2 MiB of its memory are"),
            "{error}"
        );
        assert!(error.to_string().contains("--force"), "{error}");
        let error = bind(&machine.roots, &device, Some("bar2"), false).unwrap_err();
        assert!(error.to_string().contains("--force"), "{error}");
        let force = Unbind {
            force: true,
            ..Unbind::default()
        };
        unbind(&machine.roots, &device, force).unwrap();
    }

    #[test]
    fn what_can_be_known_is_checked_before() {
        let machine = Machine::new("before");
        let folder = format!("sys/bus/pci/devices/{PCI}");
        let refusal = |regions: Option<&str>, force| {
            let error = bind(&machine.roots, &machine.device(), regions, force).unwrap_err();
            error.to_string()
        };
        // Not even by force.
        assert!(refusal(Some("bar9"), true).contains("bar9 has no valid number"));
        assert!(refusal(Some("bar2+200M"), true).contains("ends beyond BAR 2"));
        // Chosen before.
        machine.write("sys/module/p2pmem_rs/regions", "0000:05:00.0 bar4\n");
        assert!(refusal(None, true).contains("no BAR 4"));
        for class in ["0x060400", "0x060000"] {
            machine.write(&format!("{folder}/class"), class);
            assert!(refusal(Some("bar2"), true).contains("is a bridge"));
        }
        // A bridge to another host may have memory.
        machine.write(&format!("{folder}/class"), "0x068000");
        bind(&machine.roots, &machine.device(), Some("bar2"), false).unwrap();
        // Functions and networks of it.
        machine.write(&format!("{folder}/sriov_numvfs"), "2\n");
        assert!(refusal(Some("bar2"), false).contains("2 virtual functions"));
        machine.write(&format!("{folder}/sriov_numvfs"), "0\n");
        machine.write(&format!("{folder}/net/eth7/flags"), "0x1003\n");
        assert!(refusal(Some("bar2"), false).contains("the network eth7 is up"));
        machine.write(&format!("{folder}/net/eth7/flags"), "0x1002\n");
        bind(&machine.roots, &machine.device(), Some("bar2"), false).unwrap();
    }

    #[test]
    fn open_nodes_are_found() {
        let machine = Machine::new("open");
        let folder = format!("sys/bus/pci/devices/{PCI}");
        let descriptors = machine.roots.proc.join("4242/fd");
        fs::create_dir_all(&descriptors).unwrap();
        machine.write("proc/4242/comm", "some program\n");
        symlink("/dev/null", descriptors.join("3")).unwrap();
        symlink("socket:[1]", descriptors.join("4")).unwrap();
        bind(&machine.roots, &machine.device(), None, false).unwrap();

        machine.write(&format!("{folder}/ng/ng0n1/dev"), "1:3\n");
        let error = bind(&machine.roots, &machine.device(), None, false).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("/dev/ng0n1 is open in some program (pid 4242)"),
            "{text}"
        );
        // It is a file of characters, not of blocks.
        let subsystem = machine.roots.device(PCI).join("ng/ng0n1/subsystem");
        symlink("../../class/block", &subsystem).unwrap();
        bind(&machine.roots, &machine.device(), None, false).unwrap();
        fs::remove_file(subsystem).unwrap();
        // The node is named by uevent.
        machine.write(
            &format!("{folder}/ng/ng0n1/uevent"),
            "MAJOR=1\nDEVNAME=a/b\n",
        );
        let error = bind(&machine.roots, &machine.device(), None, false).unwrap_err();
        assert!(error.to_string().contains("/dev/a/b is open in"), "{error}");
    }

    #[test]
    fn what_became_of_the_device_is_told() {
        let machine = Machine::new("outcome");
        let plan = bind(&machine.roots, &machine.device(), Some("bar2"), false).unwrap();
        let failed = || plan.run(&machine.roots, || -> Result<()> { bail!("no") });
        // Links do not change by what is written here.
        let text = format!("{:#}", failed().unwrap_err());
        assert!(
            text.starts_with("0000:05:00.0 was unbound from nvme, and bound to it again"),
            "{text}"
        );
        fs::remove_file(machine.roots.device(PCI).join("driver")).unwrap();
        let text = format!("{:#}", failed().unwrap_err());
        assert!(
            text.contains("could not be bound to it again, it has no driver now: no"),
            "{text}"
        );
        machine.set_driver("vfio-pci");
        let text = format!("{:#}", failed().unwrap_err());
        assert!(
            text.contains("could not be bound to it again, it is bound to vfio-pci"),
            "{text}"
        );
        // The first step fails.
        fs::remove_file(machine.roots.driver("nvme").join("unbind")).unwrap();
        let text = format!("{:#}", failed().unwrap_err());
        assert!(
            text.starts_with("nothing has changed: cannot write"),
            "{text}"
        );
    }

    #[test]
    fn settings_are_those_of_the_node() {
        let machine = Machine::new("configure");
        let mut device = machine.device();
        let settings = Settings {
            regions: Some("default".to_owned()),
            clear: Some(false),
            limit_per_file: Some(1 << 20),
            limit_per_user: None,
            slots: Some(Slots::Everybody),
        };
        let error = configure(&machine.roots, &device, &settings).unwrap_err();
        assert!(error.to_string().contains("has no node"), "{error}");

        let node = "sys/class/misc/p2pmem0";
        machine.write(&format!("{node}/clear"), "1\n");
        machine.write(&format!("{node}/limit_per_file"), "0\n");
        machine.write(&format!("{node}/slots"), "privileged\n");
        device.node = Some(machine.entry(node));
        let plan = configure(&machine.roots, &device, &settings).unwrap();
        assert_eq!(
            machine.commands(&plan),
            [
                "echo 0 > sys/class/misc/p2pmem0/clear",
                "echo 1048576 > sys/class/misc/p2pmem0/limit_per_file",
                "echo everybody > sys/class/misc/p2pmem0/slots",
                "echo '0000:05:00.0 default' > sys/module/p2pmem_rs/regions",
            ]
        );
        plan.run(&machine.roots, || Ok(())).unwrap();
        assert_eq!(machine.read(&format!("{node}/clear")), "0\n");

        // Undone if a later step fails.
        fs::remove_file(machine.roots.regions()).unwrap();
        machine.write(&format!("{node}/slots"), "privileged\n");
        plan.run(&machine.roots, || Ok(())).unwrap_err();
        assert_eq!(machine.read(&format!("{node}/slots")), "privileged\n");

        // An older driver.
        fs::remove_file(machine.top.join(node).join("slots")).unwrap();
        let error = configure(&machine.roots, &device, &settings).unwrap_err();
        assert!(error.to_string().contains("setting slots"), "{error}");
    }

    #[test]
    fn a_driver_that_is_not_loaded_is_named() {
        let machine = Machine::new("absent");
        fs::remove_file(machine.roots.regions()).unwrap();
        let error = bind(&machine.roots, &machine.device(), None, false).unwrap_err();
        assert!(error.to_string().contains("modprobe p2pmem_rs"), "{error}");
        for (text, word) in [
            ("3", "p2pmem list"),
            ("06:00.0", "lspci"),
            ("x", "not a device"),
        ] {
            let error = Device::find(&machine.roots, text).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
