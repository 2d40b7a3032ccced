// SPDX-License-Identifier: GPL-2.0

//! Whether the driver would find memory to register of a device, before the device is taken away
//! from the driver that has it. Decides by the driver's own code.
//!
//! The limits of the kernel are not known here, nor is whether an NVMe controller has a Persistent
//! Memory Region: then the driver decides.

use std::{fs, path::Path};

use anyhow::{bail, ensure, Context, Result};

use crate::driver::{
    nvme::{
        cmb,
        regs::{Cmbloc, Cmbsz},
    },
    regions::{
        policy,
        range::{self, Bar, BarKind, Limits, MemoryKind, Region, Reserved},
        spec::{self, RegionSpec},
    },
};
use p2pmem::{root::hexadecimal, PciAddress};

/// Alignment of registered memory: struct pages come in units of 2 MiB.
const ALIGNMENT: u64 = 2 << 20;
const STANDARD_BARS: usize = 6;
/// The class of NVMe controllers.
const STORAGE_EXPRESS: u32 = 0x01_0802;

/// State of the Controller Memory Buffer of an NVMe controller.
#[derive(Clone, Copy, Debug)]
enum Buffer {
    /// The nvme driver does not have the controller.
    Unknown,
    Absent,
    At(Cmbloc, Cmbsz),
}

/// The memory of a device.
pub struct DeviceMemory {
    pci: PciAddress,
    bars: Vec<Bar>,
    reserved: [Option<Reserved>; 3],
    is_controller: bool,
    buffer: Buffer,
}

impl DeviceMemory {
    /// Reads what sysfs tells of a device, whose directory is `folder`.
    pub fn read(folder: &Path, pci: PciAddress) -> Result<Self> {
        let read = |name| {
            let path = folder.join(name);
            fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let is_controller = class(folder)? == STORAGE_EXPRESS;
        // Only root sees more than its header.
        let config = read("config")?;
        let resources = String::from_utf8_lossy(&read("resource")?).into_owned();
        let [table, pba] = match msix(&config) {
            Some((control, table, pba)) => Reserved::msix(control, table, pba).map(Some),
            None => [None; 2],
        };

        Ok(Self {
            pci,
            bars: bars(&resources, &config).context("cannot read the BARs of the device")?,
            reserved: [is_controller.then_some(Reserved::NVME), table, pba],
            is_controller,
            buffer: buffer(folder),
        })
    }

    /// Checks that there is memory to register: of regions as they are written to the driver, or,
    /// with `default`, what it would choose itself.
    pub fn check(&self, regions: &str) -> Result<()> {
        let line = format!("{} {regions}", self.pci);
        let (_, specs) = spec::parse(&line).map_err(|error| anyhow::anyhow!("{error}"))?;
        let pci = &self.pci;

        let Some(specs) = specs else {
            if self.is_controller {
                self.discover(true, true)?;
            } else {
                let found = policy::default_bar(&self.bars)
                    .and_then(|bar| range::part(bar, 0, bar.size, &self.reserved, &LIMITS));
                found.map_err(|error| anyhow::anyhow!("{pci}: {error}"))?;
            }
            return Ok(());
        };

        let wants = |spec| specs.list().contains(&spec);
        let mut found = Vec::new();
        if wants(RegionSpec::Cmb) || wants(RegionSpec::Pmr) {
            ensure!(
                self.is_controller,
                "{pci} is no NVMe controller, so that it has neither CMB nor PMR: choose a BAR"
            );
            found.extend(self.discover(wants(RegionSpec::Cmb), wants(RegionSpec::Pmr))?);
        }
        for spec in specs.list() {
            if let RegionSpec::Bar {
                number,
                offset,
                size,
            } = *spec
            {
                let bar = &self.bars[number as usize];
                let length = bar.length(offset, size);
                let part = range::part(bar, offset, length, &self.reserved, &LIMITS);
                found.push(part.map_err(|error| anyhow::anyhow!("{pci}: {error}"))?);
            }
        }
        range::disjoint(&found).map_err(|error| anyhow::anyhow!("{pci}: {error}"))
    }

    /// Finds the memory of a controller. Fails if it certainly has none.
    fn discover(&self, cmb: bool, pmr: bool) -> Result<Option<Region>> {
        let of_buffer = match self.buffer {
            _ if !cmb => None,
            Buffer::Unknown | Buffer::Absent => None,
            Buffer::At(location, size) => self.span(location, size),
        };
        let may_be = cmb && matches!(self.buffer, Buffer::Unknown)
            // It is the whole of a BAR, and not that of the registers.
            || pmr && self.bars[1..].iter().any(|bar| self.whole(bar).is_some());
        if of_buffer.is_none() && !may_be {
            bail!(
                "{}: the controller has no {} that can serve: bind another device",
                self.pci,
                match (cmb, pmr) {
                    (true, false) => "CMB",
                    (false, true) => "PMR",
                    _ => "CMB and no PMR",
                }
            );
        }

        Ok(of_buffer)
    }

    fn whole(&self, bar: &Bar) -> Option<Region> {
        range::part(bar, 0, bar.size, &self.reserved, &LIMITS).ok()
    }

    fn span(&self, location: Cmbloc, size: Cmbsz) -> Option<Region> {
        let bar = self.bars.get(location.bir() as usize)?;
        let span = cmb::span(location, size, bar.size).filter(|_| size.takes_data())?;
        let part = range::part(bar, span.offset, span.size, &self.reserved, &LIMITS);
        Some(Region {
            kind: MemoryKind::Cmb,
            ..part.ok()?
        })
    }
}

const LIMITS: Limits = Limits {
    alignment: ALIGNMENT,
    mappable: 0..=u64::MAX,
};

/// Returns the class of a device.
pub fn class(folder: &Path) -> Result<u32> {
    let text = fs::read_to_string(folder.join("class"));
    let class = text.as_deref().ok().map(str::trim).and_then(hexadecimal);
    let class = class.with_context(|| format!("cannot read the class of {}", folder.display()))?;
    Ok(class as u32)
}

/// Returns the BARs, by the file `resource` of sysfs. Those that the kernel forgot, because it
/// found no room for them, are known by their registers.
fn bars(resources: &str, config: &[u8]) -> Option<Vec<Bar>> {
    const IO: u64 = 0x100;
    const MEMORY: u64 = 0x200;
    const PREFETCHABLE: u64 = 0x2000;
    const WIDE: u64 = 0x10_0000;
    const UNSET: u64 = 0x2000_0000;

    let forgotten = forgotten(config);
    let lines: Vec<_> = resources.lines().take(STANDARD_BARS).collect();
    if lines.len() < STANDARD_BARS {
        return None;
    }
    (0..)
        .zip(lines)
        .map(|(number, line)| {
            let mut words = line.split_whitespace().map(hexadecimal);
            let (start, end, flags) = (words.next()??, words.next()??, words.next()??);
            let kind = match flags {
                0 => forgotten[number as usize],
                _ if flags & MEMORY != 0 => BarKind::Memory {
                    prefetchable: flags & PREFETCHABLE != 0,
                    wide: flags & WIDE != 0,
                },
                _ if flags & IO != 0 => BarKind::Io,
                _ => BarKind::Absent,
            };
            Some(Bar {
                number,
                start,
                size: match flags {
                    0 => 0,
                    _ => end.checked_sub(start)?.checked_add(1)?,
                },
                kind,
                assigned: flags & UNSET == 0 && start != 0,
            })
        })
        .collect()
}

/// Returns what the registers of the BARs tell: PCI Local Bus Specification 3.0, section 6.2.5.1.
fn forgotten(config: &[u8]) -> [BarKind; STANDARD_BARS] {
    const FIRST: usize = 0x10;

    let mut kinds = [BarKind::Absent; STANDARD_BARS];
    let mut number = 0;
    while number < STANDARD_BARS {
        let value = u32_at(config, FIRST + 4 * number).unwrap_or(0);
        let wide = value & 0x7 == 0x4;
        kinds[number] = match value {
            0 => BarKind::Absent,
            _ if value & 0x1 != 0 => BarKind::Io,
            _ => BarKind::Memory {
                prefetchable: value & 0x8 != 0,
                wide,
            },
        };
        // The upper half is not a BAR of its own.
        number += if wide { 2 } else { 1 };
    }
    kinds
}

fn u16_at(config: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(config.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(config: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(config.get(at..at + 4)?.try_into().ok()?))
}

/// Returns Message Control, Table Offset and PBA Offset of the MSI-X capability, if there is one
/// and this user may see it.
fn msix(config: &[u8]) -> Option<(u16, u32, u32)> {
    const POINTER: usize = 0x34;
    const MSIX: u8 = 0x11;
    // There is no room for more of them.
    const LIMIT: usize = 48;

    let mut at = usize::from(*config.get(POINTER)? & !0x3);
    for _ in 0..LIMIT {
        match *config.get(at)? {
            _ if at == 0 => return None,
            MSIX => {
                return Some((
                    u16_at(config, at + 2)?,
                    u32_at(config, at + 4)?,
                    u32_at(config, at + 8)?,
                ))
            }
            _ => at = usize::from(*config.get(at + 1)? & !0x3),
        }
    }
    None
}

/// Returns what the nvme driver tells of the Controller Memory Buffer, once it has the controller.
fn buffer(folder: &Path) -> Buffer {
    let controllers = fs::read_dir(folder.join("nvme"));
    let Some(Ok(controller)) = controllers.ok().and_then(|mut all| all.next()) else {
        return Buffer::Unknown;
    };
    let controller = controller.path();
    let state = fs::read_to_string(controller.join("state")).unwrap_or_default();
    if state.trim() != "live" {
        return Buffer::Unknown;
    }
    let Ok(text) = fs::read_to_string(controller.join("cmb")) else {
        return Buffer::Absent;
    };
    let register = |name| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(hexadecimal(line.split_whitespace().last()?)? as u32)
    };
    match (register("cmbloc"), register("cmbsz")) {
        (Some(location), Some(size)) => Buffer::At(Cmbloc(location), Cmbsz(size)),
        _ => Buffer::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A controller with registers of 16 KiB, and a memory BAR of 64 MiB.
    fn controller() -> DeviceMemory {
        let resources = "0x00000000fe800000 0x00000000fe803fff 0x0000000000140204\n\
                         0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                         0x0000000800000000 0x0000000803ffffff 0x000000000014220c\n\
                         0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                         0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                         0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                         0x0000000000000000 0x0000000000000000 0x0000000000000000\n";
        DeviceMemory {
            pci: "0000:03:00.0".parse().unwrap(),
            bars: bars(resources, &[]).unwrap(),
            reserved: [Some(Reserved::NVME), None, None],
            is_controller: true,
            buffer: Buffer::Absent,
        }
    }

    fn refusal(memory: &DeviceMemory, regions: &str) -> String {
        memory.check(regions).unwrap_err().to_string()
    }

    #[test]
    fn bars_are_read() {
        let bars = controller().bars;
        assert_eq!((bars[0].size, bars[2].size), (16 << 10, 64 * MIB));
        assert!(matches!(
            (bars[0].kind, bars[2].kind),
            (
                BarKind::Memory {
                    prefetchable: false,
                    ..
                },
                BarKind::Memory {
                    prefetchable: true,
                    wide: true
                }
            )
        ));
        assert_eq!(bars[1].kind, BarKind::Absent);
        assert!(super::bars("", &[]).is_none());
    }

    #[test]
    fn forgotten_bars_are_known_by_their_registers() {
        let mut config = vec![0; 64];
        // Memory, I/O ports, a 64-bit one with its upper half.
        config[0x10] = 0x08;
        config[0x14] = 0x01;
        config[0x18] = 0x0c;
        config[0x1f] = 0xff;
        let memory = |prefetchable, wide| BarKind::Memory { prefetchable, wide };
        assert_eq!(
            forgotten(&config),
            [
                memory(true, false),
                BarKind::Io,
                memory(true, true),
                BarKind::Absent,
                BarKind::Absent,
                BarKind::Absent
            ]
        );
    }

    #[test]
    fn the_msix_capability_is_found() {
        let mut config = vec![0; 256];
        config[0x34] = 0x40;
        config[0x40..0x42].copy_from_slice(&[0x10, 0x50]);
        config[0x50..0x5c].copy_from_slice(&[0x11, 0, 0x40, 0x80, 0, 0x20, 0, 0, 0, 0x30, 0, 0]);
        assert_eq!(msix(&config), Some((0x8040, 0x2000, 0x3000)));
        // An ordinary user sees the header only.
        assert_eq!(msix(&config[..64]), None);
        // A list without end.
        config[0x51] = 0;
        config[0x50] = 5;
        config[0x51] = 0x40;
        assert_eq!(msix(&config), None);
    }

    #[test]
    fn chosen_regions_are_looked_for_in_the_bars() {
        let memory = controller();
        memory.check("bar2@16M+8M bar2+16M").unwrap();
        for (regions, words) in [
            ("bar9", "bar9 has no valid number"),
            ("bar1", "no BAR 1"),
            ("bar2@64M+2M", "ends beyond BAR 2"),
            ("bar2+4M bar2@2M", "two regions of BAR 2 overlap"),
            ("bar0", "16384 bytes of BAR 0 hold no aligned"),
            ("cmb", "has no CMB that can serve"),
        ] {
            assert!(refusal(&memory, regions).contains(words), "{regions}");
        }
        // It may be a region of either kind, which only the driver sees.
        memory.check("pmr").unwrap();
        memory.check("default").unwrap();
    }

    #[test]
    fn a_controller_without_memory_is_known() {
        let mut memory = controller();
        memory.bars[2].size = MIB;
        assert!(refusal(&memory, "default").contains("no CMB and no PMR that can serve"));
        assert!(refusal(&memory, "pmr").contains("no PMR that can serve"));
        // Not known without the nvme driver.
        memory.buffer = Buffer::Unknown;
        memory.check("default").unwrap();
        memory.check("cmb").unwrap();
    }

    #[test]
    fn a_buffer_is_where_its_registers_tell() {
        let mut memory = controller();
        // 32 MiB in BAR 2 at 16 MiB, in units of 1 MiB; takes data.
        let size = Cmbsz((32 << 12) | (2 << 8) | 0x1f);
        memory.buffer = Buffer::At(Cmbloc((16 << 12) | 2), size);
        memory.check("cmb").unwrap();
        memory.check("cmb bar2+16M").unwrap();
        assert!(refusal(&memory, "cmb bar2+18M").contains("overlap in BAR 2"));
        // One that takes no data.
        memory.buffer = Buffer::At(Cmbloc(2), Cmbsz((32 << 12) | (2 << 8)));
        assert!(refusal(&memory, "cmb").contains("no CMB"));
    }

    #[test]
    fn another_device_has_no_memory_of_controllers() {
        let mut memory = controller();
        memory.is_controller = false;
        assert!(refusal(&memory, "cmb").contains("is no NVMe controller"));
        memory.check("default").unwrap();
        memory.bars[2].assigned = false;
        assert!(refusal(&memory, "default").contains("BAR 2 has no address"));
    }
}
