// SPDX-License-Identifier: GPL-2.0

//! Lines of /etc/p2pmem/regions.d: which device, and its configuration.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use p2pmem::{size, sysfs::Slots, PciAddress};

use crate::{driver::regions::spec, manage::Settings};

/// A line that names a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// File and number, like `switch.conf:3`.
    pub place: String,
    /// The device.
    pub device: Name,
    /// Its serial number: that of an NVMe drive, or the PCI Device Serial Number.
    pub serial: Option<String>,
    /// Regions and settings. A setting that is not named is left as it is.
    pub settings: Settings,
    /// Group of the node.
    pub group: Option<u32>,
    /// Mode of the node.
    pub mode: Option<u32>,
    /// Whether the device is taken from another driver.
    pub take: bool,
}

impl Line {
    /// Returns the regions, or `default`.
    pub fn regions(&self) -> &str {
        self.settings.regions.as_deref().unwrap_or("default")
    }
}

/// How a line names a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// By the address of the PCI device.
    Address(PciAddress),
    /// By vendor and device ID, four hexadecimal digits each.
    Id(String, String),
}

/// As it is written in a file.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Id(vendor, device) => write!(f, "{vendor}:{device}"),
        }
    }
}

/// A mistake in a line, or a file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// File and number of the line, or the file.
    pub place: String,
    /// The mistake, and the cure.
    pub text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

impl std::error::Error for Mistake {}

/// Group names and numbers, of /etc/group.
#[derive(Clone, Debug, Default)]
pub struct Groups(Vec<(String, u32)>);

impl Groups {
    /// Reads the groups of this machine.
    pub fn read() -> Self {
        Self::parse(&fs::read_to_string("/etc/group").unwrap_or_default())
    }

    /// Reads lines like those of /etc/group.
    pub fn parse(text: &str) -> Self {
        let group = |line: &str| {
            let mut words = line.split(':');
            let name = words.next()?.to_owned();
            Some((name, words.nth(1)?.parse().ok()?))
        };
        Self(text.lines().filter_map(group).collect())
    }

    /// Returns the number of a group, by its name or number.
    pub fn number(&self, text: &str) -> Option<u32> {
        let named = self.0.iter().find(|(name, _)| name == text);
        named.map_or_else(|| text.parse().ok(), |(_, number)| Some(*number))
    }

    /// Returns the name of a group, or its number.
    pub fn name(&self, number: u32) -> String {
        let named = self.0.iter().find(|(_, other)| *other == number);
        named.map_or_else(|| number.to_string(), |(name, _)| name.clone())
    }
}

/// Reads all files of a folder whose names end in `.conf`, in the order of their names. The folder
/// may be absent.
pub fn read(folder: &Path, groups: &Groups) -> (Vec<Line>, Vec<Mistake>) {
    let (mut lines, mut mistakes) = (Vec::new(), Vec::new());
    let unreadable = |path: &Path, error: io::Error| Mistake {
        place: path.display().to_string(),
        text: format!("cannot read it: {error}"),
    };

    let mut files: Vec<PathBuf> = match fs::read_dir(folder) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            mistakes.push(unreadable(folder, error));
            Vec::new()
        }
    };
    files.retain(|path| path.extension().is_some_and(|end| end == "conf"));
    files.sort();
    for path in files {
        match fs::read_to_string(&path) {
            Ok(text) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let (more, wrong) = parse(&name, &text, groups);
                lines.extend(more);
                mistakes.extend(wrong);
            }
            Err(error) => mistakes.push(unreadable(&path, error)),
        }
    }

    (lines, mistakes)
}

/// Reads the text of a file.
pub fn parse(file: &str, text: &str, groups: &Groups) -> (Vec<Line>, Vec<Mistake>) {
    let (mut lines, mut mistakes) = (Vec::new(), Vec::new());

    for (index, line) in text.lines().enumerate() {
        let words: Vec<_> = line
            .split('#')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        if words.is_empty() {
            continue;
        }
        let place = format!("{file}:{}", index + 1);
        match parse_line(place.clone(), &words, groups) {
            Ok(line) => lines.push(line),
            Err(text) => mistakes.push(Mistake { place, text }),
        }
    }

    (lines, mistakes)
}

fn parse_line(place: String, words: &[&str], groups: &Groups) -> Result<Line, String> {
    let mut line = Line {
        place,
        device: name_of(words[0])?,
        serial: None,
        settings: Settings::default(),
        group: None,
        mode: None,
        take: false,
    };
    let mut regions = Vec::new();
    let mut keys = Vec::new();

    for word in &words[1..] {
        let Some((key, value)) = word.split_once('=') else {
            regions.push(*word);
            continue;
        };
        if keys.contains(&key) {
            return Err(format!("`{key}` is there twice: remove one"));
        }
        keys.push(key);
        match key {
            "serial" => line.serial = Some(value.to_owned()),
            "clear" => line.settings.clear = Some(switch(key, value)?),
            "take" => line.take = switch(key, value)?,
            "limit-per-file" => line.settings.limit_per_file = Some(size_of(value)?),
            "limit-per-user" => line.settings.limit_per_user = Some(size_of(value)?),
            "slots" => {
                line.settings.slots = Some(Slots::parse(value).map_err(|_| {
                    format!("`{word}`: slots are nobody, privileged or everybody")
                })?);
            }
            "group" => {
                line.group = Some(groups.number(value).ok_or_else(|| {
                    format!("there is no group {value}: create it, or write its number")
                })?);
            }
            "mode" => {
                let mode = u32::from_str_radix(value, 8).ok();
                line.mode = Some(mode.filter(|mode| *mode <= 0o777).ok_or_else(|| {
                    format!("`{word}` is not a mode: write three octal digits, like 660")
                })?);
            }
            _ => {
                return Err(format!(
                    "`{key}` is not known: the keys are serial, clear, limit-per-file, limit-per-user, slots, group, \
                     mode and take"
                ))
            }
        }
    }

    if !regions.is_empty() {
        let regions = regions.join(" ");
        // The driver's own parser.
        if let Err(error) = spec::parse(&format!("0:0.0 {regions}")) {
            return Err(error.to_string());
        }
        line.settings.regions = Some(regions);
    }
    if line.serial.is_some() && matches!(line.device, Name::Address(_)) {
        return Err("a serial number is for devices that are named by vendor:device".to_owned());
    }

    Ok(line)
}

fn name_of(word: &str) -> Result<Name, String> {
    if let Ok(address) = word.parse() {
        return Ok(Name::Address(address));
    }
    let is_id = |text: &str| text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match word.split_once(':') {
        Some((vendor, device)) if is_id(vendor) && is_id(device) => Ok(Name::Id(
            vendor.to_ascii_lowercase(),
            device.to_ascii_lowercase(),
        )),
        _ => Err(format!(
            "`{word}` is not a device: write an address like 0000:05:00.0, or vendor:device like 1af4:1110"
        )),
    }
}

fn size_of(value: &str) -> Result<u64, String> {
    size::parse(value).map_err(|error| error.to_string())
}

fn switch(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("`{key}={value}`: write {key}=on or {key}=off")),
    }
}

/// Returns whether two texts choose the same regions.
pub(super) fn same_regions(one: &str, other: &str) -> bool {
    let read = |text: &str| {
        let line = format!("0:0.0 {text}");
        spec::parse(&line).ok().map(|(_, specs)| specs)
    };
    let (one, other) = (read(one), read(other));
    one.is_some() && one == other
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups() -> Groups {
        Groups::parse("root:x:0:\np2pmem:x:997:alice,bob\nbroken\n")
    }

    fn mistake(text: &str) -> String {
        let (lines, mistakes) = parse("a.conf", text, &groups());
        assert_eq!(lines, []);
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        mistakes[0].to_string()
    }

    #[test]
    fn a_line_has_a_device_and_its_configuration() {
        let text = "# a comment\n\n05:00.0  # all by default\n\
                    1AF4:1110 serial=S5 bar2@0+64M bar4 clear=off limit-per-file=1M limit-per-user=0 slots=nobody \
                    group=p2pmem mode=640 take=on # all\n";
        let (lines, mistakes) = parse("a.conf", text, &groups());
        assert_eq!(mistakes, []);
        assert_eq!(lines[0].place, "a.conf:3");
        assert_eq!(
            lines[0].device,
            Name::Address("0000:05:00.0".parse().unwrap())
        );
        assert_eq!(lines[0].settings, Settings::default());
        assert_eq!((lines[0].regions(), lines[0].take), ("default", false));

        let line = &lines[1];
        assert_eq!(line.device, Name::Id("1af4".to_owned(), "1110".to_owned()));
        assert_eq!(line.serial.as_deref(), Some("S5"));
        assert_eq!(line.regions(), "bar2@0+64M bar4");
        assert_eq!(line.settings.clear, Some(false));
        assert_eq!(line.settings.limit_per_file, Some(1 << 20));
        assert_eq!(line.settings.limit_per_user, Some(0));
        assert_eq!(line.settings.slots, Some(Slots::Nobody));
        assert_eq!((line.group, line.mode), (Some(997), Some(0o640)));
        assert!(line.take);
    }

    #[test]
    fn mistakes_name_place_and_cure() {
        for (text, expected) in [
            ("eth0", "a.conf:1: `eth0` is not a device: write an address"),
            ("05:00.0 bar9", "a.conf:1: bar9 has no valid number"),
            ("05:00.0 default bar2", "bar2 is not known"),
            ("05:00.0 color=red", "`color` is not known: the keys are"),
            (
                "05:00.0 clear=yes",
                "`clear=yes`: write clear=on or clear=off",
            ),
            ("05:00.0 clear=on clear=off", "`clear` is there twice"),
            ("05:00.0 limit-per-user=much", "`much` is not a size"),
            (
                "05:00.0 slots=all",
                "slots are nobody, privileged or everybody",
            ),
            (
                "05:00.0 group=nogroup",
                "there is no group nogroup: create it",
            ),
            ("05:00.0 mode=1777", "`mode=1777` is not a mode"),
            ("05:00.0 mode=rw", "`mode=rw` is not a mode"),
            (
                "05:00.0 serial=1",
                "a serial number is for devices that are named by vendor:device",
            ),
        ] {
            assert!(mistake(text).contains(expected), "{}", mistake(text));
        }
    }

    #[test]
    fn a_mistake_does_not_hide_other_lines() {
        let (lines, mistakes) = parse("a.conf", "x\n05:00.0\ny\n", &groups());
        assert_eq!(lines.len(), 1);
        let places: Vec<_> = mistakes.iter().map(|one| &*one.place).collect();
        assert_eq!(places, ["a.conf:1", "a.conf:3"]);
    }

    #[test]
    fn regions_are_compared_by_their_meaning() {
        assert!(same_regions("bar2@16M+64M", "bar2@0x1000000+0x4000000"));
        assert!(same_regions("default", "default"));
        assert!(!same_regions("bar2", "default"));
        assert!(!same_regions("bar2", "bar2+64M"));
    }
}
