// SPDX-License-Identifier: GPL-2.0

//! The option --via: the memory that data goes through.

use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};
use p2pmem::{
    sysfs::{self, Entry},
    Memory, PciAddress, Provider, Root,
};

/// Opens the memory that is named: a node, its name or number, the PCI address of a device, `none`
/// or `host` for ordinary memory, and the only provider there is for nothing at all.
pub fn open_memory(root: &Root, name: Option<&str>) -> Result<Memory> {
    if let Some("none" | "host") = name {
        return Ok(Memory::Host);
    }
    let entries = sysfs::providers(root).context("cannot read sysfs: is it mounted?")?;
    let (path, id) = match (choose(&entries, name), name) {
        (Ok(entry), _) => (entry.id.path(), Some(entry.id)),
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

    Ok(Memory::Device { provider, path, id })
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
            .map(|entry| format!("{} ({})", entry.id, entry.id.pci))
            .collect();
        known.join(", ")
    };
    if entries.is_empty() {
        bail!("there is no provider: load p2pmem_rs, and bind a device to it");
    }
    let address: Option<PciAddress> = name.and_then(|name| name.parse().ok());
    match (name, entries) {
        (None, [entry]) => Ok(entry),
        (None, _) => bail!(
            "there are several providers: choose one by --via: {}",
            known()
        ),
        (Some(name), _) => entries
            .iter()
            .find(|entry| {
                address == Some(entry.id.pci)
                    || entry.id.path() == Path::new(name)
                    || entry.id.name() == name
                    || name == entry.id.number.to_string()
            })
            .with_context(|| format!("{name} is not a provider; the providers are: {}", known())),
    }
}

#[cfg(test)]
mod tests {
    use p2pmem::ProviderId;

    use super::*;

    fn entry(number: u32, pci: &str) -> Entry {
        Entry {
            id: ProviderId {
                number,
                pci: pci.parse().unwrap(),
            },
            node: PathBuf::new(),
            device: PathBuf::new(),
            vendor: String::new(),
            product: String::new(),
        }
    }

    #[test]
    fn a_provider_has_many_names() {
        let entries = [entry(0, "0000:05:00.0"), entry(12, "0000:06:00.0")];
        for name in ["/dev/p2pmem12", "p2pmem12", "12", "0000:06:00.0", "06:00.0"] {
            assert_eq!(
                choose(&entries, Some(name)).unwrap().id.number,
                12,
                "{name}"
            );
        }
        for name in ["", "1", "2", "p2pmem1", "/dev/p2pmem", "0000:06:00.1"] {
            let error = choose(&entries, Some(name)).unwrap_err().to_string();
            assert!(error.contains("/dev/p2pmem12 (0000:06:00.0)"), "{error}");
        }
    }

    #[test]
    fn the_only_provider_need_not_be_named() {
        let entries = [entry(3, "0000:05:00.0"), entry(4, "0000:06:00.0")];
        assert_eq!(choose(&entries[..1], None).unwrap().id.number, 3);
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
            let memory = open_memory(&Root::new("/nonexistent"), Some(name)).unwrap();
            assert!(memory.device().is_none());
        }
    }
}
