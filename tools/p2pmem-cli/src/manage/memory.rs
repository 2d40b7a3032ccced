// SPDX-License-Identifier: GPL-2.0

//! Whether the driver would find memory to register of a device, before the device is taken away
//! from the driver that has it. Decides by the driver's own code.
//!
//! The limits of the kernel are not known here, nor is whether an NVMe controller has a Persistent
//! Memory Region: then the driver decides.

use std::{fs, path::Path};

use anyhow::{bail, ensure, Context, Result};

use super::registers::{self, CmbState};
use crate::driver::{
    nvme::{
        cmb,
        regs::{Cmbloc, Cmbsz},
    },
    regions::{
        policy,
        range::{self, Bar, Limits, MemoryKind, Region, Reserved},
        spec::{self, RegionSpec},
    },
};
use p2pmem::PciAddress;

/// Alignment of registered memory: struct pages come in units of 2 MiB.
const ALIGNMENT: u64 = 2 << 20;
/// The class of NVMe controllers.
const STORAGE_EXPRESS: u32 = 0x01_0802;

/// The memory of a device.
pub struct DeviceMemory {
    pci: PciAddress,
    bars: Vec<Bar>,
    reserved: [Option<Reserved>; 3],
    is_controller: bool,
    buffer: CmbState,
}

impl DeviceMemory {
    /// Reads what sysfs tells of a device, whose directory is `folder`.
    pub fn read(folder: &Path, pci: PciAddress) -> Result<Self> {
        let read = |name| {
            let path = folder.join(name);
            fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let is_controller = registers::class(folder)? == STORAGE_EXPRESS;
        // Only root sees more than its header.
        let config = read("config")?;
        let resources = String::from_utf8_lossy(&read("resource")?).into_owned();
        let [table, pba] = match registers::msix(&config) {
            Some((control, table, pba)) => Reserved::msix(control, table, pba).map(Some),
            None => [None; 2],
        };

        Ok(Self {
            pci,
            bars: registers::bars(&resources, &config)
                .context("cannot read the BARs of the device")?,
            reserved: [is_controller.then_some(Reserved::NVME), table, pba],
            is_controller,
            buffer: registers::buffer(folder),
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
            CmbState::Unknown | CmbState::Absent => None,
            CmbState::At(location, size) => self.span(location, size),
        };
        let may_be = cmb && matches!(self.buffer, CmbState::Unknown)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::regions::range::BarKind;

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
            bars: registers::bars(resources, &[]).unwrap(),
            reserved: [Some(Reserved::NVME), None, None],
            is_controller: true,
            buffer: CmbState::Absent,
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
        assert!(registers::bars("", &[]).is_none());
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
        memory.buffer = CmbState::Unknown;
        memory.check("default").unwrap();
        memory.check("cmb").unwrap();
    }

    #[test]
    fn a_buffer_is_where_its_registers_tell() {
        let mut memory = controller();
        // 32 MiB in BAR 2 at 16 MiB, in units of 1 MiB; takes data.
        let size = Cmbsz((32 << 12) | (2 << 8) | 0x1f);
        memory.buffer = CmbState::At(Cmbloc((16 << 12) | 2), size);
        memory.check("cmb").unwrap();
        memory.check("cmb bar2+16M").unwrap();
        assert!(refusal(&memory, "cmb bar2+18M").contains("overlap in BAR 2"));
        // One that takes no data.
        memory.buffer = CmbState::At(Cmbloc(2), Cmbsz((32 << 12) | (2 << 8)));
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
