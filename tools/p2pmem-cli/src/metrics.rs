// SPDX-License-Identifier: GPL-2.0

//! State of all providers as metrics, in the text format of OpenMetrics.

use std::{collections::BTreeMap, fmt::Write, fs, io};

use p2pmem::{
    root::name,
    sysfs::{self, Entry},
    Root,
};

/// A family of gauges.
struct Family {
    name: &'static str,
    help: &'static str,
    /// Labels and value.
    samples: Vec<(String, u64)>,
}

impl Family {
    fn new(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            help,
            samples: Vec::new(),
        }
    }
}

/// Allocations of a node, as debugfs lists them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Allocations {
    /// Bytes by the number of the user.
    users: BTreeMap<u32, u64>,
    /// Bytes without an owner that DMA still uses.
    outstanding: u64,
}

impl Allocations {
    /// Reads lines like `reader[41] uid 0 bytes 4096 at 0x0 large 0 outstanding`.
    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            // The name of a process may have spaces.
            let Some((_, rest)) = line.rsplit_once(" uid ") else {
                continue;
            };
            let words: Vec<_> = rest.split(' ').collect();
            let number = |word: Option<&&str>| word.and_then(|word| word.parse::<u64>().ok());
            let (Some(uid), Some(bytes)) = (number(words.first()), number(words.get(2))) else {
                continue;
            };
            if words.contains(&"outstanding") {
                found.outstanding += bytes;
            } else {
                *found.users.entry(uid as u32).or_default() += bytes;
            }
        }
        found
    }
}

/// Returns the metrics of all providers.
///
/// Users and outstanding memory are left out where debugfs cannot be read: for other users than
/// root, and where the kernel is locked down.
pub fn read(root: &Root) -> io::Result<String> {
    let mut size = Family::new("size_bytes", "Size of the memory.");
    let mut available = Family::new("available_bytes", "Free memory of the pool.");
    let mut largest = Family::new("largest_bytes", "Longest free run.");
    let mut allocated = Family::new("allocated_bytes", "Memory allocated through the node.");
    let mut users = Family::new("user_allocated_bytes", "Memory allocated by a user.");
    let mut outstanding = Family::new(
        "outstanding_bytes",
        "Memory without an owner that DMA still uses.",
    );
    let mut unbinding = Family::new(
        "unbinding",
        "Whether the device is being unbound and waits for users of its memory.",
    );

    for entry in sysfs::providers(root)? {
        let (now, free) = match (entry.details(), entry.available()) {
            (Ok(now), Ok(free)) => (now, free),
            // It went away at this moment.
            (Err(error), _) | (_, Err(error)) if sysfs::is_gone(&error) => continue,
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        let labels = format!(
            "node=\"p2pmem{}\",pci=\"{}\"",
            entry.id.number, entry.id.pci
        );
        size.samples.push((labels.clone(), now.size));
        available.samples.push((labels.clone(), free));
        largest.samples.push((labels.clone(), now.largest));
        allocated.samples.push((labels.clone(), now.allocated));
        if let Some(found) = allocations_of(root, &entry) {
            for (uid, bytes) in &found.users {
                users
                    .samples
                    .push((format!("{labels},uid=\"{uid}\""), *bytes));
            }
            outstanding.samples.push((labels, found.outstanding));
        }
    }
    for (pci, is_unbinding) in pools(root)? {
        let labels = format!("pci=\"{pci}\"");
        unbinding.samples.push((labels, u64::from(is_unbinding)));
    }

    let mut text = String::new();
    for family in [
        size,
        available,
        largest,
        allocated,
        users,
        outstanding,
        unbinding,
    ] {
        let name = format!("p2pmem_{}", family.name);
        let _ = writeln!(text, "# TYPE {name} gauge");
        if name.ends_with("_bytes") {
            let _ = writeln!(text, "# UNIT {name} bytes");
        }
        let _ = writeln!(text, "# HELP {name} {}", family.help);
        for (labels, value) in &family.samples {
            let _ = writeln!(text, "{name}{{{labels}}} {value}");
        }
    }
    text.push_str("# EOF\n");
    Ok(text)
}

fn allocations_of(root: &Root, entry: &Entry) -> Option<Allocations> {
    let folder = root.sys("kernel/debug");
    let path = folder.join(format!("p2pmem{}/allocations", entry.id.number));
    Some(Allocations::parse(&fs::read_to_string(path).ok()?))
}

/// Returns the devices that have a pool, and whether they are without a driver: one that is being
/// unbound loses the driver first, and the pool last.
fn pools(root: &Root) -> io::Result<Vec<(String, bool)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.sys("bus/pci/devices"))? {
        let path = entry?.path();
        if path.join("p2pmem").exists() {
            found.push((name(&path), !path.join("driver").exists()));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_count_by_user() {
        let text = "reader[41] uid 1000 bytes 4096 at 0x0 large 0\n\
                    a uid 7[42] uid 1000 bytes 2097152 at 0x200000 large 2097152 held\n\
                    writer[43] uid 0 bytes 8192 at 0x4000 large 0 outstanding\n\
                    something else\n";
        let expected = Allocations {
            users: [(1000, 2_101_248)].into(),
            outstanding: 8192,
        };
        assert_eq!(Allocations::parse(text), expected);
    }
}
