// SPDX-License-Identifier: GPL-2.0

//! Reads PCI functions.

use std::{collections::BTreeMap, fs, io::Read, path::Path};

use crate::{
    error::Error,
    fabric::function::{Bar, Function, Iommu, Link, Port},
    pci::PciAddress,
    resource::{self, Resource},
    root::{entries, link_name, name, number, text, Root},
};

/// Reads the PCI functions, by address.
pub(super) fn functions(root: &Root) -> Result<Vec<Function>, Error> {
    let folder = root.sys("bus/pci/devices");
    fs::read_dir(&folder).map_err(|source| Error::NotMounted {
        path: folder.clone(),
        mount: "sysfs",
        source,
    })?;

    let mut found: Vec<_> = entries(&folder)
        .iter()
        // One that goes away at this moment is left out.
        .filter_map(|path| function(&fs::canonicalize(path).ok()?))
        .collect();
    // Behind a bridge that is not PCI Express on its lower side no link is left.
    let linkless: Vec<_> = found
        .iter()
        .filter(|(_, function)| function.link.is_none())
        .filter_map(|(_, function)| function.parent)
        .collect();
    // Deeper bridges are named by those above them: from the root buses down.
    let mut known: BTreeMap<PciAddress, Port> = BTreeMap::new();
    let mut depths: Vec<_> = found
        .iter()
        .map(|(depth, function)| (*depth, function.address))
        .collect();
    depths.sort();
    for (_, address) in depths {
        if let Some((_, function)) = found.iter_mut().find(|(_, one)| one.address == address) {
            let above = function.parent.and_then(|one| known.get(&one));
            function.port = port(function, above.copied(), linkless.contains(&address));
            known.extend(function.port.map(|port| (address, port)));
        }
    }
    found.sort_by(|(_, one), (_, other)| one.address.cmp(&other.address));
    Ok(found.into_iter().map(|(_, function)| function).collect())
}

/// Returns what a function is by its place: the registers that say it are for root only. `linkless`
/// is whether a device without a link is below it.
fn port(function: &Function, above: Option<Port>, linkless: bool) -> Option<Port> {
    if !function.class.starts_with("0604") {
        return None;
    }
    Some(match (&function.link, &function.parent, above) {
        (None, ..) | (_, _, Some(Port::Bridge)) => Port::Bridge,
        _ if linkless => Port::Bridge,
        (Some(_), None, _) => Port::Root,
        (Some(_), Some(_), Some(Port::Upstream)) => Port::Downstream,
        (Some(_), Some(_), _) => Port::Upstream,
    })
}

/// Reads the directory of a function. Returns how deep it lies as well.
fn function(path: &Path) -> Option<(usize, Function)> {
    let hexadecimal = |file: &str| {
        Some(
            text(path.join(file))
                .ok()?
                .trim_start_matches("0x")
                .to_owned(),
        )
    };
    let parent = path
        .parent()
        .and_then(|path| PciAddress::from_name(&name(path)));

    let class = hexadecimal("class")?;
    let resource = text(path.join("resource")).unwrap_or_default();
    let registers = header(path).unwrap_or_default();
    let bars = bars(&resource);

    let function = Function {
        address: PciAddress::from_name(&name(path))?,
        parent,
        vendor: hexadecimal("vendor")?,
        device: hexadecimal("device")?,
        port: None,
        driver: link_name(path.join("driver")).ok(),
        // -1 where it is not known.
        numa_node: number(path.join("numa_node")).ok(),
        link: link(path),
        iommu: iommu(path),
        unassigned: unassigned(&registers, &bars),
        command: command(&registers),
        window: class
            .starts_with("0604")
            .then(|| window(&resource))
            .flatten(),
        class,
        bars,
        cmb: entries(path.join("nvme"))
            .iter()
            .any(|controller| controller.join("cmb").exists()),
        ..Function::default()
    };
    Some((path.components().count(), function))
}

fn link(path: &Path) -> Option<Link> {
    let speed = |file: &str| {
        let text = text(path.join(file)).ok()?;
        Some(text.trim_end_matches(" PCIe").to_owned())
    };
    Some(Link {
        max_width: number(path.join("max_link_width")).ok()?,
        max_speed: speed("max_link_speed")?,
        width: number(path.join("current_link_width")).unwrap_or(0),
        speed: speed("current_link_speed").unwrap_or_default(),
    })
}

fn iommu(path: &Path) -> Option<Iommu> {
    let group = path.join("iommu_group");
    Some(Iommu {
        group: link_name(&group).ok()?.parse().ok()?,
        kind: text(group.join("type")).unwrap_or_default(),
    })
}

/// Returns the length of memory that has an address.
fn memory(resource: Resource) -> Option<u64> {
    let has_address = resource.is_memory() && resource.is_assigned();
    resource
        .length()
        .filter(|length| has_address && *length > 1)
}

/// Returns the BARs that are memory, by a `resource` file.
fn bars(text: &str) -> Vec<Bar> {
    (0..6)
        .zip(resource::parse(text))
        .filter_map(|(number, resource)| {
            let resource = resource?;
            Some(Bar {
                number,
                size: memory(resource)?,
                prefetchable: resource.is_prefetchable(),
            })
        })
        .collect()
}

/// Returns the length of a bridge's prefetchable window, the last line of its `resource` file but
/// one: 0 if it has none. Kernels with CONFIG_PCI_IOV have six more lines before it.
fn window(text: &str) -> Option<u64> {
    let resource = resource::parse(text).nth_back(1)?;
    Some(resource.and_then(memory).unwrap_or(0))
}

/// Reads the first 64 bytes of config space, which every user may read. Root could read on, which
/// some devices do not take well.
fn header(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 64];
    let mut file = fs::File::open(path.join("config")).ok()?;
    file.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

/// Returns the Command register, if the device answers.
fn command(registers: &[u8]) -> Option<String> {
    let bytes = registers.get(4..6)?.try_into().ok()?;
    let value = u16::from_le_bytes(bytes);
    (value != u16::MAX).then(|| format!("{value:04x}"))
}

/// Returns the numbers of memory BARs that the registers of a device have, but that got no address:
/// PCI Local Bus Specification 3.0, section 6.2.5.1. One whose register is 0 is not seen.
fn unassigned(registers: &[u8], bars: &[Bar]) -> Vec<u32> {
    const HEADER_TYPE: usize = 0x0e;
    const FIRST: usize = 0x10;
    const IO: u32 = 0x01;
    const TYPE: u32 = 0x06;
    const WIDE: u32 = 0x04;
    // Only these have six BARs.
    if registers
        .get(HEADER_TYPE)
        .is_none_or(|kind| kind & 0x7f != 0)
    {
        return Vec::new();
    }

    let register = |number: usize| {
        let bytes = registers.get(FIRST + 4 * number..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes))
    };
    let mut found = Vec::new();
    let mut number = 0;
    while number < 6 {
        let value = register(number).unwrap_or(0);
        let memory = value & IO == 0;
        if !matches!(value, 0 | u32::MAX) && memory {
            found.push(number as u32);
        }
        // The upper half of a 64-bit one is none of its own.
        number += if memory && value & TYPE == WIDE { 2 } else { 1 };
    }
    found.retain(|number| bars.iter().all(|bar| bar.number != *number));
    found
}
