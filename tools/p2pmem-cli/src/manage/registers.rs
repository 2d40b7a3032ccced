// SPDX-License-Identifier: GPL-2.0

//! Memory of a device as sysfs, its config space and the nvme driver tell.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use p2pmem::{resource, root::hexadecimal};

use crate::driver::{
    nvme::regs::{Cmbloc, Cmbsz},
    regions::range::{Bar, BarKind},
};

const STANDARD_BARS: usize = 6;

/// State of the Controller Memory Buffer of an NVMe controller.
#[derive(Clone, Copy, Debug)]
pub enum CmbState {
    /// The nvme driver does not have the controller.
    Unknown,
    Absent,
    At(Cmbloc, Cmbsz),
}

/// Returns the class of a device.
pub fn class(folder: &Path) -> Result<u32> {
    let text = fs::read_to_string(folder.join("class"));
    let class = text.as_deref().ok().map(str::trim).and_then(hexadecimal);
    let class = class.with_context(|| format!("cannot read the class of {}", folder.display()))?;
    Ok(class as u32)
}

/// Returns the BARs, by the file `resource` of sysfs. Those that the kernel forgot, because it
/// found no room for them, are known by their registers.
pub fn bars(resources: &str, config: &[u8]) -> Option<Vec<Bar>> {
    let forgotten = forgotten(config);
    let resources: Option<Vec<_>> = resource::parse(resources).take(STANDARD_BARS).collect();
    let resources = resources.filter(|all| all.len() == STANDARD_BARS)?;
    (0..)
        .zip(resources)
        .map(|(number, resource)| {
            let kind = match resource.flags {
                0 => forgotten[number as usize],
                _ if resource.is_memory() => BarKind::Memory {
                    prefetchable: resource.is_prefetchable(),
                    wide: resource.is_wide(),
                },
                _ if resource.is_io() => BarKind::Io,
                _ => BarKind::Absent,
            };
            Some(Bar {
                number,
                start: resource.start,
                size: resource.length()?,
                kind,
                assigned: resource.is_assigned() && resource.start != 0,
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
pub fn msix(config: &[u8]) -> Option<(u16, u32, u32)> {
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
pub fn buffer(folder: &Path) -> CmbState {
    let controllers = fs::read_dir(folder.join("nvme"));
    let Some(Ok(controller)) = controllers.ok().and_then(|mut all| all.next()) else {
        return CmbState::Unknown;
    };
    let controller = controller.path();
    let state = fs::read_to_string(controller.join("state")).unwrap_or_default();
    if state.trim() != "live" {
        return CmbState::Unknown;
    }
    let Ok(text) = fs::read_to_string(controller.join("cmb")) else {
        return CmbState::Absent;
    };
    let register = |name| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(hexadecimal(line.split_whitespace().last()?)? as u32)
    };
    match (register("cmbloc"), register("cmbsz")) {
        (Some(location), Some(size)) => CmbState::At(Cmbloc(location), Cmbsz(size)),
        _ => CmbState::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
