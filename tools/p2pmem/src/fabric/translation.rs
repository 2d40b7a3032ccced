// SPDX-License-Identifier: GPL-2.0

//! Translation of addresses by an IOMMU.

use serde::Serialize;

use super::{function::Iommu, record::Fabric};
use crate::pci::PciAddress;

/// How an IOMMU treats the devices of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Translation {
    /// There is no IOMMU in use.
    Off,
    /// All devices use physical addresses.
    PassThrough,
    /// Some or all devices use addresses that are translated.
    On,
}

impl Fabric {
    /// Returns how the IOMMU treats the devices of this machine.
    pub fn translation(&self) -> Translation {
        let mut used = self.functions.iter().filter_map(|one| one.iommu.as_ref());
        match used.clone().next() {
            None => Translation::Off,
            Some(_) if used.any(Iommu::translates) => Translation::On,
            Some(_) => Translation::PassThrough,
        }
    }

    /// Returns whether an IOMMU translates the addresses of a function.
    pub fn translates(&self, address: PciAddress) -> bool {
        self.function(address)
            .and_then(|function| function.iommu.as_ref())
            .is_some_and(Iommu::translates)
    }
}
