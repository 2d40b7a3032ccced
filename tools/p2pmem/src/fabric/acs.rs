// SPDX-License-Identifier: GPL-2.0

//! Access Control Services of ports: what they redirect, block and pass.

use serde::{Deserialize, Serialize};

use crate::pci::PciAddress;

/// Access Control Services of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acs {
    /// Its ACS Capability register: four hexadecimal digits.
    pub capability: String,
    /// Its ACS Control register: four hexadecimal digits.
    pub control: String,
}

impl Acs {
    const TRANSLATION_BLOCKING: u16 = 0x02;
    const DIRECT_TRANSLATED: u16 = 0x40;

    fn controls(&self, bit: u16) -> bool {
        u16::from_str_radix(&self.control, 16).is_ok_and(|value| value & bit != 0)
    }

    /// Returns whether it refuses requests with addresses that were translated before.
    pub fn blocks_translated(&self) -> bool {
        self.controls(Self::TRANSLATION_BLOCKING)
    }

    /// Returns the register without that, as the kernel parameter `config_acs` has it. All bits are
    /// named: Linux takes others from what the firmware set.
    pub fn not_blocking(&self) -> String {
        let value = u16::from_str_radix(&self.control, 16).unwrap_or(0);
        format!("{:07b}", value & !Self::TRANSLATION_BLOCKING)
    }

    /// Returns whether requests with translated addresses go straight to peers, even where it
    /// redirects others.
    pub fn passes_translated(&self) -> bool {
        self.controls(Self::DIRECT_TRANSLATED)
    }

    /// Returns whether it redirects requests of peers to the root complex.
    pub fn redirects(&self) -> bool {
        self.controls(Redirection::REQUESTS)
    }
}

/// A port whose Access Control Services redirect peer-to-peer requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirection {
    /// The address of the port.
    pub port: PciAddress,
    /// Its ACS Control register: four hexadecimal digits.
    pub control: String,
}

impl Redirection {
    /// Bits of the register that redirect requests.
    const REQUESTS: u16 = 0x04 | 0x20;

    /// Returns what the register says, in words of the PCI Express specification.
    pub fn controls(&self) -> Vec<&'static str> {
        const BITS: &[(u16, &str)] = &[
            (0x04, "P2P Request Redirect"),
            (0x08, "P2P Completion Redirect"),
            (0x20, "P2P Egress Control"),
        ];
        let value = u16::from_str_radix(&self.control, 16).unwrap_or(0);
        BITS.iter()
            .filter(|(bit, _)| value & bit != 0)
            .map(|&(_, name)| name)
            .collect()
    }
}
