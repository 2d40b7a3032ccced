// SPDX-License-Identifier: GPL-2.0

//! The memory that data goes through, as people name it.

use std::{
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use anyhow::{bail, Context, Result};
use p2pmem::{
    abi, pci, size,
    sysfs::{self, Entry},
    Provider,
};
use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    io::Errno,
};

/// Memory that data goes through.
#[derive(Debug)]
pub enum Via {
    /// Memory of a device.
    Device {
        /// Its provider.
        provider: Provider,
        /// The provider's node.
        path: PathBuf,
        /// The address of the PCI device, like `0000:05:00.0`; nothing for a node elsewhere than in
        /// /dev.
        pci: Option<String>,
    },
    /// Ordinary memory, to compare with.
    Host,
}

impl Via {
    /// Opens what is named: a node, its name or number, the PCI address of a device, `none` or
    /// `host` for ordinary memory, and the only provider there is for nothing at all. `sys` is
    /// where sysfs is mounted.
    pub fn open(sys: &Path, name: Option<&str>) -> Result<Self> {
        if let Some("none" | "host") = name {
            return Ok(Self::Host);
        }
        let entries = sysfs::providers(sys).context("cannot read sysfs: is it mounted?")?;
        let (path, pci) = match (choose(&entries, name), name) {
            (Ok(entry), _) => (entry.path.clone(), Some(entry.pci.clone())),
            // A node at another path.
            (Err(_), Some(name)) if name.contains('/') => (PathBuf::from(name), None),
            (Err(error), _) => return Err(error),
        };
        let provider = open(&path)?;
        // Anything could have been named: a drive would be mapped, and overwritten.
        provider.info().with_context(|| {
            format!(
                "{} is not a node of p2pmem_rs: p2pmem list shows all nodes",
                path.display()
            )
        })?;

        Ok(Self::Device {
            provider,
            path,
            pci,
        })
    }

    /// Returns the provider, if the memory is a device's.
    pub fn provider(&self) -> Option<&Provider> {
        match self {
            Self::Device { provider, .. } => Some(provider),
            Self::Host => None,
        }
    }

    /// Returns the node, or `host`.
    pub fn path(&self) -> &Path {
        match self {
            Self::Device { path, .. } => path,
            Self::Host => Path::new("host"),
        }
    }

    /// Returns the PCI address of the device, if it is known.
    pub fn pci(&self) -> Option<&str> {
        match self {
            Self::Device { pci, .. } => pci.as_deref(),
            Self::Host => None,
        }
    }

    /// Returns the node and the PCI address of its device, if the memory is a device's.
    pub fn device(&self) -> Option<String> {
        match self {
            Self::Device { path, pci, .. } => Some(match pci {
                Some(pci) => format!("{} ({pci})", path.display()),
                None => path.display().to_string(),
            }),
            Self::Host => None,
        }
    }

    /// Returns whether the memory can be put into a ring.
    pub fn registers(&self) -> io::Result<bool> {
        match self {
            Self::Device { provider, .. } => {
                Ok(provider.info()?.capabilities & (1 << abi::NR_URING_REGISTER) != 0)
            }
            Self::Host => Ok(true),
        }
    }

    /// Returns whether the device went away.
    pub(crate) fn is_gone(&self) -> Result<bool, Errno> {
        let Self::Device { provider, .. } = self else {
            return Ok(false);
        };
        let node = provider.as_fd();
        let mut polled = [PollFd::from_borrowed_fd(node, PollFlags::empty())];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        match poll(&mut polled, Some(&now)) {
            Ok(_) => Ok(polled[0].revents().contains(PollFlags::HUP)),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns how much memory there is at the moment, for threads that are going to ask for it.
    pub(crate) fn room<'a>(&self, options: &'a str, threads: u32) -> Room<'a> {
        let info = self.provider().and_then(|provider| provider.info().ok());
        Room {
            options,
            threads,
            served: 0,
            available: info.map_or(0, |info| info.available),
            largest: info.map_or(0, |info| info.largest),
        }
    }

    /// Says why there is no memory for a thread.
    pub(crate) fn explain(&self, bytes: u64, error: io::Error, room: &Room<'_>) -> anyhow::Error {
        let path = self.path().display();
        let wanted = size::format(bytes);
        let options = room.options;
        let text = match Errno::from_io_error(&error) {
            Some(Errno::NOSPC) => format!("{path} has {}", room.lack(bytes)),
            Some(Errno::DQUOT) => format!(
                "more of {path} than your limit, {}: choose a smaller {options}, \
                 or have limit_per_file and limit_per_user raised",
                room.wanted(bytes)
            ),
            Some(Errno::NODEV) => format!("the device of {path} went away"),
            _ => format!("cannot allocate {wanted} of {path}"),
        };
        anyhow::Error::new(error).context(text)
    }
}

/// Need of threads that allocate memory one after the other, and the memory that was free before
/// the first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room<'a> {
    /// The options that reduce the need.
    options: &'a str,
    /// Number of threads.
    threads: u32,
    /// Number of threads that have their memory already.
    pub(crate) served: u32,
    /// Bytes that were free before, and the longest free run.
    available: u64,
    largest: u64,
}

impl Room<'_> {
    /// Returns the options by which the user asks for less.
    pub(crate) fn options(&self) -> &str {
        self.options
    }

    /// Says what was asked for.
    fn wanted(&self, bytes: u64) -> String {
        match self.threads {
            1 => size::format(bytes),
            threads => format!(
                "{} for each of {threads} threads, {} in all",
                size::format(bytes),
                size::format(bytes.saturating_mul(threads.into()))
            ),
        }
    }

    /// Says that there is no run of so many bytes for the next thread.
    fn lack(&self, bytes: u64) -> String {
        let Self {
            options, served, ..
        } = self;
        let free = match self.available {
            0 => "no memory was free".to_owned(),
            all if all == self.largest => format!("{} were free in one run", size::format(all)),
            all => format!(
                "{} were free, {} of it in the longest run",
                size::format(all),
                size::format(self.largest)
            ),
        };
        let enough = match served {
            0 => String::new(),
            1 => ", enough for 1 thread".to_owned(),
            served => format!(", enough for {served} threads"),
        };
        // Another process took it.
        let all = bytes.saturating_mul(self.threads.into());
        let cure = if all <= self.largest {
            "another process allocated memory at the same time: try again, or choose a smaller"
        } else {
            "choose a smaller"
        };
        format!(
            "no free run of {}: {free}{enough}: {cure} {options}",
            self.wanted(bytes)
        )
    }
}

/// Opens a node, or says what may be missing.
pub fn open(path: &Path) -> Result<Provider> {
    Provider::open(path).with_context(|| {
        format!(
            "cannot open {}: is p2pmem_rs loaded, the device bound, and are you root?",
            path.display()
        )
    })
}

/// Returns the provider that is named, or the only one there is: by its node, the name or number of
/// that, or the PCI address of its device.
pub fn choose<'a>(entries: &'a [Entry], name: Option<&str>) -> Result<&'a Entry> {
    let known = || {
        let known: Vec<_> = entries
            .iter()
            .map(|entry| format!("{} ({})", entry.path.display(), entry.pci))
            .collect();
        known.join(", ")
    };
    if entries.is_empty() {
        bail!("there is no provider: load p2pmem_rs, and bind a device to it");
    }
    let address = name.and_then(pci::address);
    match (name, entries) {
        (None, [entry]) => Ok(entry),
        (None, _) => bail!(
            "there are several providers: choose one by --via: {}",
            known()
        ),
        (Some(name), _) => entries
            .iter()
            .find(|entry| {
                address.as_deref() == Some(&*entry.pci)
                    || entry.path == Path::new(name)
                    || entry.path == Path::new("/dev").join(name)
                    || name == entry.number.to_string()
            })
            .with_context(|| format!("{name} is not a provider; the providers are: {}", known())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u32, pci: &str) -> Entry {
        Entry {
            number,
            path: format!("/dev/p2pmem{number}").into(),
            node: PathBuf::new(),
            device: PathBuf::new(),
            pci: pci.to_owned(),
            vendor: String::new(),
            product: String::new(),
        }
    }

    #[test]
    fn a_provider_has_many_names() {
        let entries = [entry(0, "0000:05:00.0"), entry(12, "0000:06:00.0")];
        for name in ["/dev/p2pmem12", "p2pmem12", "12", "0000:06:00.0", "06:00.0"] {
            assert_eq!(choose(&entries, Some(name)).unwrap().number, 12, "{name}");
        }
        for name in ["", "1", "2", "p2pmem1", "/dev/p2pmem", "0000:06:00.1"] {
            let error = choose(&entries, Some(name)).unwrap_err().to_string();
            assert!(error.contains("/dev/p2pmem12 (0000:06:00.0)"), "{error}");
        }
    }

    #[test]
    fn what_is_lacking_adds_up() {
        const MIB: u64 = 1 << 20;
        let room = |threads, served, available, largest| Room {
            options: "--chunk",
            threads,
            served,
            available: available * MIB,
            largest: largest * MIB,
        };
        for (room, text) in [
            (
                room(1, 0, 128, 128),
                "no free run of 256 MiB: 128 MiB were free in one run: choose a smaller --chunk",
            ),
            (
                room(1, 0, 300, 200),
                "no free run of 256 MiB: 300 MiB were free, 200 MiB of it in the longest run: \
                 choose a smaller --chunk",
            ),
            (
                room(4, 2, 600, 600),
                "no free run of 256 MiB for each of 4 threads, 1 GiB in all: 600 MiB were free in \
                 one run, enough for 2 threads: choose a smaller --chunk",
            ),
            (
                room(1, 0, 0, 0),
                "no free run of 256 MiB: no memory was free: choose a smaller --chunk",
            ),
            (
                room(1, 0, 512, 256),
                "no free run of 256 MiB: 512 MiB were free, 256 MiB of it in the longest run: \
                 another process allocated memory at the same time: try again, or choose a smaller \
                 --chunk",
            ),
        ] {
            assert_eq!(room.lack(256 * MIB), text);
        }
    }

    #[test]
    fn the_only_provider_need_not_be_named() {
        let entries = [entry(3, "0000:05:00.0"), entry(4, "0000:06:00.0")];
        assert_eq!(choose(&entries[..1], None).unwrap().number, 3);
        let error = choose(&entries, None).unwrap_err().to_string();
        assert!(
            error.contains("p2pmem3") && error.contains("p2pmem4"),
            "{error}"
        );
        assert!(choose(&[], None).is_err());
    }

    #[test]
    fn ordinary_memory_needs_no_provider() {
        for name in ["none", "host"] {
            assert!(Via::open(Path::new("/nonexistent"), Some(name))
                .unwrap()
                .device()
                .is_none());
        }
    }
}
