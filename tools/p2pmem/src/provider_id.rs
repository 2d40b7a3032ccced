// SPDX-License-Identifier: GPL-2.0

//! The identity of providers.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::pci::PciAddress;

/// A provider of device memory: the number of its node, and its PCI function. Each description of a
/// provider has this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderId {
    /// The N of `/dev/p2pmemN`.
    pub number: u32,
    /// The address of its PCI function.
    pub pci: PciAddress,
}

impl ProviderId {
    /// Returns the path of its node.
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(self.name())
    }

    /// Returns the name of its node.
    pub fn name(&self) -> String {
        format!("p2pmem{}", self.number)
    }
}

/// Its node.
impl fmt::Display for ProviderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/dev/p2pmem{}", self.number)
    }
}
