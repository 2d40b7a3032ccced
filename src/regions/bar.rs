// SPDX-License-Identifier: GPL-2.0

//! Reads BARs of a device, and which parts of them are memory.

use kernel::{
    pci::{
        self,
        Class, //
    },
    prelude::*, //
};

use kernel_ext::pci::{
    p2pdma,
    MsixCapability,
    Resource,
    STD_NUM_BARS, //
};

use super::range::{
    self,
    Bar,
    BarKind,
    Limits,
    Region,
    RegionError,
    Reserved, //
};

/// The name of the driver, by which it claims BARs in /proc/iomem.
pub(crate) const NAME: &CStr = <crate::LocalModule as kernel::ModuleMetadata>::NAME;

/// Returns whether a device is an NVMe controller.
pub(crate) fn is_nvme_controller(pdev: &pci::Device) -> bool {
    pdev.pci_class() == Class::STORAGE_EXPRESS
}

/// Returns the BAR of a device as plain numbers.
pub(crate) fn bar(pdev: &pci::Device, number: u32) -> Result<Bar> {
    let resource = Resource::of(pdev, number)?;

    Ok(Bar {
        number,
        start: resource.start,
        size: resource.size,
        kind: if resource.is_memory() {
            BarKind::Memory {
                prefetchable: resource.is_prefetchable(),
                wide: resource.is_64bit(),
            }
        } else if resource.is_io() {
            BarKind::Io
        } else {
            BarKind::Absent
        },
        assigned: resource.is_assigned(),
    })
}

/// Writes the table of all BARs to the log.
pub(crate) fn log_bars(pdev: &pci::Device) -> Result {
    for number in 0..STD_NUM_BARS {
        let resource = Resource::of(pdev, number)?;
        if resource.is_memory() || resource.is_io() {
            dev_info!(
                pdev,
                "BAR {}: {}{}{}, address {:#x}{}, {} bytes, flags {:#x}\n",
                number,
                if resource.is_memory() {
                    "memory"
                } else {
                    "I/O ports"
                },
                if resource.is_64bit() { ", 64-bit" } else { "" },
                if resource.is_prefetchable() {
                    ", prefetchable"
                } else {
                    ""
                },
                resource.start,
                if resource.is_assigned() {
                    ""
                } else {
                    " (not assigned)"
                },
                resource.size,
                resource.flags
            );
        }
    }

    Ok(())
}

/// Returns the ranges of a device's BARs that are never registered.
fn reserved(pdev: &pci::Device) -> [Option<Reserved>; 3] {
    let (table, pba) = match MsixCapability::of(pdev) {
        Some(MsixCapability {
            control,
            table,
            pba,
        }) => {
            let [table, pba] = Reserved::msix(control, table, pba);
            (Some(table), Some(pba))
        }
        None => (None, None),
    };
    let registers = is_nvme_controller(pdev).then_some(Reserved::NVME);

    [registers, table, pba]
}

/// Returns the part of a range of a BAR that can be registered, and says what is lost.
pub(crate) fn trim(
    pdev: &pci::Device,
    bar: &Bar,
    offset: u64,
    size: u64,
) -> Result<Region, RegionError> {
    let limits = Limits {
        alignment: p2pdma::alignment(),
        mappable: p2pdma::mappable(),
    };
    let reserved = reserved(pdev);
    let inside = |one: &&Reserved| one.is_in(bar.number, offset, size);
    for one in reserved.iter().flatten().filter(inside) {
        dev_info!(
            pdev,
            "BAR {}: left out: {}, {} bytes at offset {:#x}\n",
            bar.number,
            one.name,
            one.size,
            one.offset
        );
    }
    let region = range::part(bar, offset, size, &reserved, &limits)?;

    if region.size < size {
        dev_warn!(
            pdev,
            "BAR {}: {} of {} bytes are lost, memory comes in aligned units of {} bytes\n",
            bar.number,
            size - region.size,
            size,
            limits.alignment
        );
    }

    Ok(region)
}
