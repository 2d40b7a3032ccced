// SPDX-License-Identifier: GPL-2.0

//! Reads attributes of providers in sysfs, without opening them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::{fs::makedev, io::Errno};
use serde::Serialize;

use crate::{
    pci::PciAddress,
    provider_id::ProviderId,
    root::{hexadecimal, name, number, wrong, Root},
};

/// A provider as sysfs shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its node, and its PCI function.
    pub id: ProviderId,
    /// The directory of its node, where its settings are.
    pub node: PathBuf,
    /// The directory of its PCI device.
    pub device: PathBuf,
    /// PCI vendor ID, four hexadecimal digits.
    pub vendor: String,
    /// PCI device ID, four hexadecimal digits.
    pub product: String,
}

impl Entry {
    /// Returns the free bytes of the device's pool.
    pub fn available(&self) -> io::Result<u64> {
        number(self.device.join("p2pmem/available"))
    }

    /// Returns the number of its node, as `st_rdev` of a file has it.
    pub fn device_number(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.node.join("dev"))?;
        let numbers = text
            .trim()
            .split_once(':')
            .and_then(|(major, minor)| Some(makedev(major.parse().ok()?, minor.parse().ok()?)));
        numbers.ok_or_else(|| wrong("no device number"))
    }

    /// Returns the rest of what the driver tells of it.
    ///
    /// # Errors
    ///
    /// `NotFound` or `ENODEV` if the device goes away.
    pub fn details(&self) -> io::Result<Details> {
        let count = |name| number::<u64>(self.node.join(name));
        // Attributes that older versions of the driver do not have.
        let large_page = optional(count("large_page"))?;
        let slots = optional(fs::read_to_string(self.node.join("slots")))?;
        // Without it the kernel has no NUMA.
        let numa_node = fs::read_to_string(self.device.join("numa_node")).ok();

        Ok(Details {
            size: count("size")?,
            allocated: count("allocated")?,
            largest: count("largest")?,
            regions: fs::read_to_string(self.node.join("regions"))?
                .split_whitespace()
                .map(Region::parse)
                .collect::<Option<_>>()
                .ok_or_else(|| wrong("not a list of regions"))?,
            adopted: count("adopted")? != 0,
            clear: count("clear")? != 0,
            limit_per_file: count("limit_per_file")?,
            limit_per_user: count("limit_per_user")?,
            large_page: large_page.unwrap_or(0),
            slots: slots.map(|name| Slots::parse(&name)).transpose()?,
            // -1 is one that the kernel does not know.
            numa_node: numa_node.and_then(|text| text.trim().parse().ok()),
        })
    }
}

/// Attributes of a provider. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Details {
    /// Size of the memory.
    pub size: u64,
    /// Bytes that are allocated through the node.
    pub allocated: u64,
    /// The longest run of the rest.
    pub largest: u64,
    /// The memory of the provider.
    pub regions: Vec<Region>,
    /// Whether another driver has the device.
    pub adopted: bool,
    /// Whether memory is cleared when it is allocated.
    pub clear: bool,
    /// Limit of each open file; 0 for no limit.
    pub limit_per_file: u64,
    /// Limit of each user; 0 for no limit.
    pub limit_per_user: u64,
    /// The size of a large page; 0 if memory is mapped in base pages only.
    pub large_page: u64,
    /// Processes that may fill slots of an io_uring. Null if the driver does not report it.
    pub slots: Option<Slots>,
    /// The NUMA node that the device is near to. Null if it is not known.
    pub numa_node: Option<u32>,
}

/// Processes that may put memory into slots of an io_uring, and export it to devices that cannot
/// give it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Slots {
    /// No process.
    Nobody,
    /// Processes with CAP_SYS_RAWIO. This is the default.
    Privileged,
    /// All processes that may open the node.
    Everybody,
}

impl Slots {
    /// All settings, from the strictest one.
    pub const ALL: [Self; 3] = [Self::Nobody, Self::Privileged, Self::Everybody];

    /// Returns the name in sysfs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Privileged => "privileged",
            Self::Everybody => "everybody",
        }
    }

    /// Parses the contents of the attribute.
    pub fn parse(text: &str) -> io::Result<Self> {
        Self::ALL
            .into_iter()
            .find(|slots| slots.name() == text.trim())
            .ok_or_else(|| wrong("not a setting of slots"))
    }
}

/// A part of a BAR. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Region {
    /// The kind of memory: `bar`, `cmb` or `pmr`.
    pub kind: String,
    /// The number of the BAR.
    pub bar: u32,
    /// Offset in the BAR.
    pub offset: u64,
    /// Length in bytes.
    pub size: u64,
}

impl Region {
    /// Reads what the driver writes, like `bar2@0x0+0x4000000:cmb`.
    fn parse(text: &str) -> Option<Self> {
        let (range, kind) = text.strip_prefix("bar")?.split_once(':')?;
        let (bar, range) = range.split_once('@')?;
        let (offset, size) = range.split_once('+')?;

        Some(Self {
            kind: kind.to_owned(),
            bar: bar.parse().ok()?,
            offset: hexadecimal(offset)?,
            size: hexadecimal(size)?,
        })
    }
}

/// Returns all providers, in the order of their numbers.
pub fn providers(root: &Root) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();

    for entry in fs::read_dir(root.sys("class/misc"))? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(number) = name
            .to_str()
            .and_then(|name| name.strip_prefix("p2pmem"))
            .and_then(|digits| digits.parse().ok())
        else {
            continue;
        };
        match read(number, &entry.path()) {
            Ok(entry) => entries.push(entry),
            // It goes away at this very moment.
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    entries.sort_by_key(|entry| entry.id.number);

    Ok(entries)
}

/// Returns whether reading an attribute failed because the device went away.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::NODEV)
    )
}

/// Returns what the directory of a node tells.
fn read(number: u32, node: &Path) -> io::Result<Entry> {
    let device = fs::canonicalize(node.join("device"))?;
    let id = |file| -> io::Result<String> {
        let text = fs::read_to_string(device.join(file))?;
        Ok(text.trim().trim_start_matches("0x").to_owned())
    };

    Ok(Entry {
        id: ProviderId {
            number,
            pci: PciAddress::from_name(&name(&device))
                .ok_or_else(|| wrong("not the address of a PCI function"))?,
        },
        node: node.to_owned(),
        vendor: id("vendor")?,
        product: id("device")?,
        device,
    })
}

/// Returns nothing if there is no file.
fn optional<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// Returns the number that a provider is named by: `0`, `p2pmem0` and `/dev/p2pmem0` are the same.
pub fn node_number(text: &str) -> Option<u32> {
    let name = text.strip_prefix("/dev/").unwrap_or(text);
    let digits = name.strip_prefix("p2pmem").unwrap_or(name);

    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    /// A directory that goes away with the test.
    struct Sys(TempDir);

    impl Sys {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir_all(folder.path().join("sys/class/misc")).unwrap();
            Self(folder)
        }

        fn root(&self) -> Root {
            Root::new(self.0.path())
        }

        fn add(&self, node: &str, pci: &str) {
            let device = self.0.path().join("sys/devices").join(pci);
            fs::create_dir_all(device.join("p2pmem")).unwrap();
            fs::write(device.join("vendor"), "0x1af4\n").unwrap();
            fs::write(device.join("device"), "0x1110\n").unwrap();
            fs::write(device.join("p2pmem/available"), "4096\n").unwrap();
            let node = self.0.path().join("sys/class/misc").join(node);
            fs::create_dir_all(&node).unwrap();
            fs::write(device.join("numa_node"), "-1\n").unwrap();
            for (name, text) in [
                ("dev", "10:120"),
                ("size", "67108864"),
                ("allocated", "4096"),
                ("largest", "33554432"),
                (
                    "regions",
                    "bar2@0x0+0x2000000:cmb bar4@0x1000+0x2000000:bar",
                ),
                ("adopted", "1"),
                ("clear", "0"),
                ("limit_per_file", "65536"),
                ("limit_per_user", "0"),
                ("large_page", "2097152"),
                ("slots", "privileged"),
            ] {
                fs::write(node.join(name), format!("{text}\n")).unwrap();
            }
            symlink(&device, node.join("device")).unwrap();
        }
    }

    #[test]
    fn providers_are_listed_by_number() {
        let sys = Sys::new();
        sys.add("p2pmem10", "0000:0a:00.0");
        sys.add("p2pmem2", "0000:04:00.0");
        fs::create_dir_all(sys.0.path().join("sys/class/misc/hpet")).unwrap();
        fs::create_dir_all(sys.0.path().join("sys/class/misc/p2pmemx")).unwrap();

        let entries = providers(&sys.root()).unwrap();
        let numbers: Vec<_> = entries.iter().map(|entry| entry.id.number).collect();
        assert_eq!(numbers, [2, 10]);
        assert_eq!(entries[0].id.pci.to_string(), "0000:04:00.0");
        assert_eq!(entries[0].id.path(), Path::new("/dev/p2pmem2"));
        assert_eq!(
            (&*entries[0].vendor, &*entries[0].product),
            ("1af4", "1110")
        );
        assert_eq!(entries[0].available().unwrap(), 4096);
    }

    #[test]
    fn no_provider_is_an_empty_list_and_no_sysfs_an_error() {
        let sys = Sys::new();
        assert_eq!(providers(&sys.root()).unwrap(), []);
        assert!(providers(&Root::new("/nonexistent")).is_err());
    }

    #[test]
    fn a_provider_that_goes_away_is_left_out() {
        let sys = Sys::new();
        sys.add("p2pmem0", "0000:04:00.0");
        sys.add("p2pmem1", "0000:05:00.0");
        fs::remove_file(sys.0.path().join("sys/class/misc/p2pmem1/device")).unwrap();
        assert_eq!(providers(&sys.root()).unwrap().len(), 1);
    }

    #[test]
    fn details_are_read() {
        let sys = Sys::new();
        sys.add("p2pmem0", "0000:04:00.0");
        let entry = providers(&sys.root()).unwrap().remove(0);
        assert_eq!(entry.device_number().unwrap(), makedev(10, 120));

        let details = entry.details().unwrap();
        assert_eq!((details.size, details.allocated), (64 << 20, 4096));
        assert_eq!(details.largest, 32 << 20);
        assert!(details.adopted && !details.clear);
        assert_eq!((details.limit_per_file, details.limit_per_user), (65536, 0));
        assert_eq!(details.numa_node, None);
        fs::write(entry.device.join("numa_node"), "1\n").unwrap();
        assert_eq!(entry.details().unwrap().numa_node, Some(1));
        fs::remove_file(entry.device.join("numa_node")).unwrap();
        assert_eq!(entry.details().unwrap().numa_node, None);
        let region = |kind: &str, bar, offset| Region {
            kind: kind.to_owned(),
            bar,
            offset,
            size: 32 << 20,
        };
        assert_eq!(
            details.regions,
            [region("cmb", 2, 0), region("bar", 4, 4096)]
        );

        fs::write(entry.node.join("regions"), "bar2\n").unwrap();
        assert!(entry.details().is_err());
    }

    #[test]
    fn a_driver_without_large_pages_is_read() {
        let sys = Sys::new();
        sys.add("p2pmem0", "0000:04:00.0");
        let entry = providers(&sys.root()).unwrap().remove(0);
        assert_eq!(entry.details().unwrap().large_page, 2 << 20);

        let path = entry.node.join("large_page");
        fs::write(&path, "0\n").unwrap();
        assert_eq!(entry.details().unwrap().large_page, 0);
        fs::remove_file(&path).unwrap();
        assert_eq!(entry.details().unwrap().large_page, 0);
        fs::write(&path, "large\n").unwrap();
        assert!(entry.details().is_err());
    }

    #[test]
    fn the_setting_of_slots_is_read() {
        let sys = Sys::new();
        sys.add("p2pmem0", "0000:04:00.0");
        let entry = providers(&sys.root()).unwrap().remove(0);
        assert_eq!(entry.details().unwrap().slots, Some(Slots::Privileged));

        let path = entry.node.join("slots");
        for slots in Slots::ALL {
            fs::write(&path, slots.name()).unwrap();
            assert_eq!(entry.details().unwrap().slots, Some(slots));
        }
        fs::write(&path, "root\n").unwrap();
        assert!(entry.details().is_err());
        fs::remove_file(&path).unwrap();
        assert_eq!(entry.details().unwrap().slots, None);
    }

    #[test]
    fn nodes_are_named_in_three_ways() {
        for text in ["7", "p2pmem7", "/dev/p2pmem7"] {
            assert_eq!(node_number(text), Some(7), "{text}");
        }
        for text in ["", "p2pmem", "nvme0", "+7", "05:00.0", "/tmp/p2pmem7"] {
            assert_eq!(node_number(text), None, "{text}");
        }
    }
}
