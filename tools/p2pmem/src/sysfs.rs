// SPDX-License-Identifier: GPL-2.0

//! What sysfs tells of providers, without opening them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A provider as sysfs shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its N.
    pub number: u32,
    /// Its node.
    pub path: PathBuf,
    /// The directory of its PCI device.
    pub device: PathBuf,
    /// The address of its PCI device, like `0000:04:00.0`.
    pub pci: String,
    /// PCI vendor ID, four hexadecimal digits.
    pub vendor: String,
    /// PCI device ID, four hexadecimal digits.
    pub product: String,
}

impl Entry {
    /// Returns how many bytes of the device's pool nobody uses.
    pub fn available(&self) -> io::Result<u64> {
        number(&self.device.join("p2pmem/available"))
    }
}

/// Returns all providers, in the order of their numbers. `sys` is where sysfs is mounted.
pub fn providers(sys: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();

    for entry in fs::read_dir(sys.join("class/misc"))? {
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
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            Err(error) => return Err(error),
        }
    }
    entries.sort_by_key(|entry| entry.number);

    Ok(entries)
}

/// Returns what the directory of a node tells.
fn read(number: u32, node: &Path) -> io::Result<Entry> {
    let device = fs::canonicalize(node.join("device"))?;
    let id = |file| -> io::Result<String> {
        let text = fs::read_to_string(device.join(file))?;
        Ok(text.trim().trim_start_matches("0x").to_owned())
    };

    Ok(Entry {
        number,
        path: Path::new("/dev").join(node.file_name().unwrap_or_default()),
        pci: device
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        vendor: id("vendor")?,
        product: id("device")?,
        device,
    })
}

/// Reads a file with a decimal number.
pub fn number(path: &Path) -> io::Result<u64> {
    fs::read_to_string(path)?
        .trim()
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{env, os::unix::fs::symlink, process};

    /// A directory that goes away with the test.
    struct Sys(PathBuf);

    impl Sys {
        fn new(name: &str) -> Self {
            let path = env::temp_dir().join(format!("p2pmem-{name}-{}", process::id()));
            fs::create_dir_all(path.join("class/misc")).unwrap();
            Self(path)
        }

        fn add(&self, node: &str, pci: &str) {
            let device = self.0.join("devices").join(pci);
            fs::create_dir_all(device.join("p2pmem")).unwrap();
            fs::write(device.join("vendor"), "0x1af4\n").unwrap();
            fs::write(device.join("device"), "0x1110\n").unwrap();
            fs::write(device.join("p2pmem/available"), "4096\n").unwrap();
            let node = self.0.join("class/misc").join(node);
            fs::create_dir_all(&node).unwrap();
            symlink(&device, node.join("device")).unwrap();
        }
    }

    impl Drop for Sys {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn providers_are_listed_by_number() {
        let sys = Sys::new("list");
        sys.add("p2pmem10", "0000:0a:00.0");
        sys.add("p2pmem2", "0000:04:00.0");
        fs::create_dir_all(sys.0.join("class/misc/hpet")).unwrap();
        fs::create_dir_all(sys.0.join("class/misc/p2pmemx")).unwrap();

        let entries = providers(&sys.0).unwrap();
        let numbers: Vec<_> = entries.iter().map(|entry| entry.number).collect();
        assert_eq!(numbers, [2, 10]);
        assert_eq!(entries[0].pci, "0000:04:00.0");
        assert_eq!(entries[0].path, Path::new("/dev/p2pmem2"));
        assert_eq!(
            (&*entries[0].vendor, &*entries[0].product),
            ("1af4", "1110")
        );
        assert_eq!(entries[0].available().unwrap(), 4096);
    }

    #[test]
    fn no_provider_is_an_empty_list_and_no_sysfs_an_error() {
        let sys = Sys::new("empty");
        assert_eq!(providers(&sys.0).unwrap(), []);
        assert!(providers(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn a_provider_that_goes_away_meanwhile_is_left_out() {
        let sys = Sys::new("gone");
        sys.add("p2pmem0", "0000:04:00.0");
        sys.add("p2pmem1", "0000:05:00.0");
        fs::remove_file(sys.0.join("class/misc/p2pmem1/device")).unwrap();
        assert_eq!(providers(&sys.0).unwrap().len(), 1);
    }
}
