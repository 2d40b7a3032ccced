// SPDX-License-Identifier: GPL-2.0

//! Brings devices into the state that /etc/p2pmem/regions.d describes.
//!
//! The work on a device is a list of [`Difference`]s between its state and its line. A device that
//! is as its line says has none, so that it can be done at any time, and again.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context, Result};
use rustix::{
    fs::{chmodat, chownat, flock, AtFlags, FlockOperation, Gid, Mode, CWD},
    io::Errno,
};
use serde::Serialize;

use p2pmem::{
    sysfs::{Details, Entry, Region, Slots},
    PciAddress, Root,
};

use crate::{
    driver::regions::spec::{self, RegionSpec},
    manage::{self, choices, Device, Settings, DRIVER},
    output_file,
};

mod lines;

pub use lines::{read, Groups, Line, Mistake, Name};

/// The folder of the configuration.
pub const FOLDER: &str = "/etc/p2pmem/regions.d";
/// Held by the process that applies it.
const LOCK: &str = "/run/p2pmem-apply.lock";
/// Limit for the module to be ready.
const LIMIT: Duration = Duration::from_secs(30);

/// Something of a device that is not as its line says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its subject: `driver`, `regions`, the name of a setting, `group` or `mode`.
    pub name: &'static str,
    /// Its value before.
    pub from: String,
    /// The value that the line has.
    pub to: String,
}

impl Difference {
    fn new(name: &'static str, from: impl Into<String>, to: impl Into<String>) -> Self {
        Self {
            name,
            from: from.into(),
            to: to.into(),
        }
    }
}

/// Waits until no other process applies the configuration, and keeps others from it.
pub fn lock() -> Result<File> {
    let file =
        File::create(LOCK).with_context(|| format!("cannot create {LOCK}: do it as root"))?;
    match flock(&file, FlockOperation::LockExclusive) {
        // A kernel without CONFIG_FILE_LOCKING has no udev either, which starts several at once.
        Ok(()) | Err(Errno::NOSYS) => Ok(file),
        Err(error) => Err(error).with_context(|| format!("cannot lock {LOCK}")),
    }
}

/// Loads the module, unless it is loaded, and waits until it is ready.
pub fn load_module(root: &Root) -> Result<()> {
    let folder = root.sys("module").join(DRIVER);
    if !folder.exists() {
        let output = Command::new("modprobe")
            .arg(DRIVER)
            .output()
            .with_context(|| format!("cannot run modprobe {DRIVER}"))?;
        ensure!(
            output.status.success(),
            "modprobe {DRIVER} failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let deadline = Instant::now() + LIMIT;
    while fs::read_to_string(folder.join("initstate")).is_ok_and(|state| state.trim() != "live") {
        ensure!(
            Instant::now() < deadline,
            "{DRIVER} is not ready after {} s: see dmesg",
            LIMIT.as_secs()
        );
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Returns the addresses of the devices that a line names. A serial number that cannot be read now
/// counts as another one, or as the same if `or_unknown`.
pub fn devices_of(root: &Root, line: &Line, or_unknown: bool) -> Result<Vec<PciAddress>> {
    let (vendor, device) = match &line.device {
        Name::Address(address) => {
            let exists = root
                .sys("bus/pci/devices")
                .join(address.to_string())
                .exists();
            return Ok(exists.then_some(*address).into_iter().collect());
        }
        Name::Id(vendor, device) => (vendor, device),
    };
    let folder = root.sys("bus/pci/devices");
    let mut found = Vec::new();
    for entry in
        fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry?.path();
        let has = |file: &str, id: &str| {
            let text = fs::read_to_string(path.join(file)).unwrap_or_default();
            text.trim().trim_start_matches("0x") == id
        };
        if !has("vendor", vendor) || !has("device", device) {
            continue;
        }
        let matches = line.serial.as_ref().is_none_or(|serial| {
            let known = serials(&path);
            known.contains(serial) || known.is_empty() && or_unknown
        });
        if matches {
            let name = path.file_name().unwrap_or_default();
            found.extend(PciAddress::from_name(&name.to_string_lossy()));
        }
    }
    found.sort();
    Ok(found)
}

/// Returns the serial numbers of a device: of an NVMe controller, while its driver has it, and the
/// PCI Device Serial Number, like `00-11-22-33-44-55-66-77`.
fn serials(device: &Path) -> Vec<String> {
    let controllers = fs::read_dir(device.join("nvme")).into_iter().flatten();
    let mut found: Vec<_> = controllers
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path().join("serial")).ok())
        .map(|text| text.trim().to_owned())
        .collect();
    let config = fs::read(device.join("config")).unwrap_or_default();
    found.extend(device_serial_number(&config));
    found
}

/// Returns the Device Serial Number of a configuration space.
fn device_serial_number(config: &[u8]) -> Option<String> {
    const EXTENDED: usize = 0x100;
    const ID: u32 = 0x0003;

    let read = |offset: usize| -> Option<u32> {
        let bytes = config.get(offset..offset + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let mut offset = EXTENDED;
    // Each capability has four bytes at least: a loop ends.
    for _ in 0..config.len() / 4 {
        let header = read(offset)?;
        if header & 0xffff == ID {
            let number = (u64::from(read(offset + 8)?) << 32) | u64::from(read(offset + 4)?);
            let bytes = number.to_be_bytes().map(|byte| format!("{byte:02x}"));
            return Some(bytes.join("-"));
        }
        offset = (header >> 20) as usize & !3;
        if offset < EXTENDED {
            return None;
        }
    }
    None
}

/// Devices and their lines.
#[derive(Debug, Default)]
pub struct Pairing {
    /// Devices that have a line, in the order of the lines.
    pub pairs: Vec<(Device, Line)>,
    /// Lines that name a device which has a line already, or several devices.
    pub mistakes: Vec<Mistake>,
    /// Lines without a device: it may be plugged in later.
    pub absent: Vec<Line>,
}

/// Pairs devices with their lines.
pub fn pair(root: &Root, lines: &[Line]) -> Result<Pairing> {
    let mut found = Pairing::default();

    for line in lines {
        let addresses = devices_of(root, line, false)?;
        let mut mistake = |text: String| {
            found.mistakes.push(Mistake {
                place: line.place.clone(),
                text,
            });
        };
        match &addresses[..] {
            [] => found.absent.push(line.clone()),
            [address] => {
                let mut pairs = found.pairs.iter();
                match pairs.find(|(device, _)| device.pci == *address) {
                    Some((_, other)) => mistake(format!(
                        "{address} has a line already, {}: remove one",
                        other.place
                    )),
                    None => found
                        .pairs
                        .push((Device::find(root, &address.to_string())?, line.clone())),
                }
            }
            several => mistake(format!(
                "{} is the ID of several devices, {}: add serial=, or write an address",
                line.device,
                several
                    .iter()
                    .map(PciAddress::to_string)
                    .collect::<Vec<_>>()
                    .join(" and ")
            )),
        }
    }

    Ok(found)
}

/// Brings a device into the state of its line, and returns what differed. With `dry_run` nothing is
/// changed.
pub fn apply(
    root: &Root,
    device: &Device,
    line: &Line,
    groups: &Groups,
    dry_run: bool,
) -> Result<Vec<Difference>> {
    let mut found = apply_regions(root, device, line, dry_run)?;
    let node = match dry_run && !found.is_empty() {
        // It has another node then, with the settings of a new one.
        true => None,
        false => Device::find(root, &device.pci.to_string())?.node,
    };
    ensure!(
        node.is_some() || dry_run,
        "{} has no node, although it is bound: see dmesg",
        device.pci
    );
    let now = match &node {
        Some(node) => Some(
            node.details()
                .with_context(|| format!("cannot read the settings of {}", node.id))?,
        ),
        None => None,
    };

    let (settings, differences) = settings_of(now.as_ref(), &line.settings);
    if let (Some(node), false) = (&node, dry_run || differences.is_empty()) {
        let device = Device {
            pci: device.pci,
            node: Some(node.clone()),
        };
        manage::configure(root, &device, &settings)?.run(root, || Ok(()))?;
    }
    found.extend(differences);
    found.extend(apply_access(root, node.as_ref(), line, groups, dry_run)?);
    Ok(found)
}

/// Binds the device with its regions, or again with others.
fn apply_regions(
    root: &Root,
    device: &Device,
    line: &Line,
    dry_run: bool,
) -> Result<Vec<Difference>> {
    let pci = device.pci;
    let wanted = line.regions();
    // In a dry run the module need not be loaded.
    let before = match choices::of(root, pci) {
        Err(_) if dry_run => None,
        result => result?,
    };
    let before = before.unwrap_or("default".to_owned());
    let driver = device.driver(root);
    let is_pmr = same(wanted, "pmr");
    let is_settled = same(&before, wanted);
    let mut found = Vec::new();
    if !is_settled {
        found.push(Difference::new("regions", &before, wanted));
    }

    match (driver.as_deref(), &device.node) {
        (Some(DRIVER), node) => {
            let regions = match node {
                Some(node) => node.details().map(|now| now.regions).unwrap_or_default(),
                None => Vec::new(),
            };
            if is_settled && fits(&regions, wanted) {
                return Ok(found);
            }
            if is_settled {
                // It was bound before the regions were chosen.
                found.push(Difference::new("regions", names(&regions), wanted));
            }
        }
        // The memory of a drive in use is adopted.
        (Some(_), _) if is_pmr && !line.take => {
            if !is_settled {
                let settings = Settings {
                    regions: Some(wanted.to_owned()),
                    ..Settings::default()
                };
                let plan = manage::configure(root, device, &settings)?;
                if !dry_run {
                    plan.run(root, || manage::check_adopted(root, device, &settings))?;
                }
            }
            return Ok(found);
        }
        // So is a CMB that its driver published.
        (Some(_), Some(node)) if !line.take && is_cmb(node, wanted)? => return Ok(Vec::new()),
        (Some(other), _) if !line.take => bail!(
            "{other} has the device: add take=on to unbind it from there, or choose the PMR, which is adopted"
        ),
        (other, _) => found.insert(0, Difference::new("driver", other.unwrap_or("none"), DRIVER)),
    }

    let plan = manage::bind(root, device, Some(wanted), false)?;
    if !dry_run {
        plan.run(root, || manage::wait_for_node(root, device))?;
    }
    Ok(found)
}

/// Returns whether the regions that are wanted are memory that the driver of the device published.
fn is_cmb(node: &Entry, wanted: &str) -> Result<bool> {
    let now = node
        .details()
        .with_context(|| format!("cannot read the settings of {}", node.id))?;
    Ok((same(wanted, "default") || same(wanted, "cmb"))
        && now.regions.iter().all(|region| region.kind != "pmr"))
}

fn same(one: &str, other: &str) -> bool {
    lines::same_regions(one, other)
}

/// Returns whether a node may have these regions because of what was chosen.
fn fits(regions: &[Region], wanted: &str) -> bool {
    let line = format!("0:0.0 {wanted}");
    let Ok((_, specs)) = spec::parse(&line) else {
        return false;
    };
    let Some(specs) = specs else {
        return !regions.is_empty();
    };
    let is_of = |region: &Region, spec: &RegionSpec| match *spec {
        RegionSpec::Cmb => region.kind == "cmb",
        RegionSpec::Pmr => region.kind == "pmr",
        RegionSpec::Bar {
            number,
            offset,
            size,
        } => {
            let end = size.map_or(u64::MAX, |size| offset.saturating_add(size));
            region.bar == number && region.offset >= offset && region.offset + region.size <= end
        }
    };
    let specs = specs.list();
    regions
        .iter()
        .all(|region| specs.iter().any(|spec| is_of(region, spec)))
        && specs
            .iter()
            .all(|spec| regions.iter().any(|region| is_of(region, spec)))
}

/// Returns regions as the driver writes them.
fn names(regions: &[Region]) -> String {
    let names = regions
        .iter()
        .map(|one| format!("bar{}@{:#x}+{:#x}", one.bar, one.offset, one.size));
    names.collect::<Vec<_>>().join(" ")
}

/// Returns the settings that have another value, and the differences. Without a node, compares with
/// those of a new one.
fn settings_of(now: Option<&Details>, wanted: &Settings) -> (Settings, Vec<Difference>) {
    let mut found = Vec::new();
    let on_or_off = |on: bool| if on { "on" } else { "off" }.to_owned();
    let slots_name = |slots: Option<Slots>| slots.map_or("-", Slots::name).to_owned();

    let settings = Settings {
        clear: changed(
            &mut found,
            "clear",
            now.is_none_or(|now| now.clear),
            wanted.clear,
            on_or_off,
        ),
        limit_per_file: changed(
            &mut found,
            "limit-per-file",
            now.map_or(0, |now| now.limit_per_file),
            wanted.limit_per_file,
            |limit| limit.to_string(),
        ),
        limit_per_user: changed(
            &mut found,
            "limit-per-user",
            now.map_or(0, |now| now.limit_per_user),
            wanted.limit_per_user,
            |limit| limit.to_string(),
        ),
        slots: changed(
            &mut found,
            "slots",
            now.map_or(Some(Slots::Privileged), |now| now.slots),
            wanted.slots.map(Some),
            slots_name,
        )
        .flatten(),
        ..Settings::default()
    };

    (settings, found)
}

/// Returns the value of a setting if it is to change, and adds the difference.
fn changed<T: PartialEq + Copy>(
    found: &mut Vec<Difference>,
    name: &'static str,
    before: T,
    wanted: Option<T>,
    text: impl Fn(T) -> String,
) -> Option<T> {
    let value = wanted.filter(|value| *value != before)?;
    found.push(Difference::new(name, text(before), text(value)));
    Some(value)
}

/// Sets group and mode of the node.
fn apply_access(
    root: &Root,
    node: Option<&Entry>,
    line: &Line,
    groups: &Groups,
    dry_run: bool,
) -> Result<Vec<Difference>> {
    let mut found = Vec::new();
    let path = node.map(|node| root.dev(node.id.name()));
    let now = match &path {
        Some(path) => {
            Some(fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?)
        }
        None => None,
    };
    let failed = |name: &str, text: String| {
        let path = path
            .as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        format!("cannot set the {name} of {path} to {text}: do it as root")
    };

    if let Some(group) = line
        .group
        .filter(|group| now.as_ref().is_none_or(|now| now.gid() != *group))
    {
        let before = now
            .as_ref()
            .map_or("-".to_owned(), |now| groups.name(now.gid()));
        if let (Some(path), false) = (&path, dry_run) {
            chownat(
                CWD,
                path,
                None,
                Some(Gid::from_raw(group)),
                AtFlags::empty(),
            )
            .map_err(io::Error::from)
            .with_context(|| failed("group", groups.name(group)))?;
        }
        found.push(Difference::new("group", before, groups.name(group)));
    }
    let is_mode = |now: &fs::Metadata, mode: u32| now.mode() & 0o777 == mode;
    if let Some(mode) = line
        .mode
        .filter(|mode| now.as_ref().is_none_or(|now| !is_mode(now, *mode)))
    {
        let before = now
            .as_ref()
            .map_or("-".to_owned(), |now| format!("{:o}", now.mode() & 0o777));
        if let (Some(path), false) = (&path, dry_run) {
            chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())
                .map_err(io::Error::from)
                .with_context(|| failed("mode", format!("{mode:o}")))?;
        }
        found.push(Difference::new("mode", before, format!("{mode:o}")));
    }
    Ok(found)
}

/// Returns the line that describes a device as it is now.
pub fn line_of(root: &Root, node: &Entry, groups: &Groups) -> Result<String> {
    let path = root.dev(node.id.name());
    let access = fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let now = node
        .details()
        .with_context(|| format!("cannot read the settings of {}", node.id))?;
    let mut words = vec![node.id.pci.to_string()];

    match choices::of(root, node.id.pci)? {
        Some(regions) if regions != "default" => words.push(regions),
        _ => (),
    }
    if !now.clear {
        words.push("clear=off".to_owned());
    }
    for (name, limit) in [
        ("limit-per-file", now.limit_per_file),
        ("limit-per-user", now.limit_per_user),
    ] {
        if limit != 0 {
            words.push(format!("{name}={limit}"));
        }
    }
    match now.slots {
        None | Some(Slots::Privileged) => (),
        Some(slots) => words.push(format!("slots={}", slots.name())),
    }
    words.push(format!("group={}", groups.name(access.gid())));
    words.push(format!("mode={:o}", access.mode() & 0o777));
    Ok(words.join(" "))
}

/// Writes a file of lines, which another file of its folder must not have as well.
pub fn save(file: &Path, lines: &[String], groups: &Groups) -> Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let (others, _) = read(folder, groups);
    for line in lines {
        let address = line.split(' ').next().unwrap_or_default();
        let name_of_line = PciAddress::from_name(address).map(Name::Address);
        let other = others.iter().find(|other| {
            Some(&other.device) == name_of_line.as_ref()
                && !other.place.starts_with(&format!("{name}:"))
        });
        if let Some(other) = other {
            bail!(
                "{address} has a line in {}, {}: change it there, or remove it",
                folder.display(),
                other.place
            );
        }
    }

    let text = format!("# Written by p2pmem config --save.\n{}\n", lines.join("\n"));
    output_file::replace(file, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(kind: &str, bar: u32, offset: u64, size: u64) -> Region {
        Region {
            kind: kind.to_owned(),
            bar,
            offset,
            size,
        }
    }

    #[test]
    fn regions_of_a_node_fit_what_was_chosen() {
        let bar = [region("bar", 2, 16 << 20, 64 << 20)];
        for (wanted, expected) in [
            ("default", true),
            ("bar2", true),
            ("bar2@16M+64M", true),
            // Trimmed to a multiple of 2 MiB.
            ("bar2@15M+65M", true),
            ("bar2@16M+32M", false),
            ("bar2@32M", false),
            ("bar4", false),
            ("bar2 bar4", false),
            ("cmb", false),
        ] {
            assert_eq!(fits(&bar, wanted), expected, "{wanted}");
        }
        assert!(fits(&[region("pmr", 4, 0, 1 << 21)], "pmr"));
        assert!(!fits(&[], "default"));
    }

    #[test]
    fn the_serial_number_is_found_behind_other_capabilities() {
        let mut config = vec![0; 4096];
        let mut put = |offset: usize, value: u32| {
            config[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        };
        put(0x100, 0x1480_0001);
        put(0x148, 0x0001_0003);
        put(0x14c, 0x4455_6677);
        put(0x150, 0x0011_2233);
        assert_eq!(
            device_serial_number(&config).as_deref(),
            Some("00-11-22-33-44-55-66-77")
        );
        assert_eq!(device_serial_number(&config[..256]), None);
        // A list that never ends.
        config[0x100..0x104].copy_from_slice(&0x1000_0001_u32.to_le_bytes());
        assert_eq!(device_serial_number(&config), None);
    }

    #[test]
    fn a_new_node_has_settings_of_its_own() {
        let wanted = Settings {
            clear: Some(true),
            limit_per_user: Some(4096),
            slots: Some(Slots::Nobody),
            ..Settings::default()
        };
        let (settings, found) = settings_of(None, &wanted);
        assert_eq!(
            (settings.clear, settings.limit_per_user),
            (None, Some(4096))
        );
        let names: Vec<_> = found.iter().map(|one| one.name).collect();
        assert_eq!(names, ["limit-per-user", "slots"]);
    }
}
