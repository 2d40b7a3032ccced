// SPDX-License-Identifier: GPL-2.0

//! Addresses of PCI functions.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The address of a PCI function.
///
/// # Examples
///
/// ```
/// use p2pmem::PciAddress;
///
/// let address: PciAddress = "5:0.1".parse()?;
/// assert_eq!(address.to_string(), "0000:05:00.1");
/// assert_eq!(PciAddress::from_name("0000:05:00.1"), Some(address));
/// # Ok::<(), p2pmem::pci::ParseAddressError>(())
/// ```
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(into = "String", try_from = "String")]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

/// A text is not the address of a PCI function.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the address of a PCI function: write it like 0000:05:00.0 or 05:00.0")]
pub struct ParseAddressError(String);

impl PciAddress {
    /// Returns the address that is a name in sysfs, with all digits.
    pub fn from_name(name: &str) -> Option<Self> {
        let address: Self = name.parse().ok()?;
        // Domains behind a bridge of their own (VMD) have more digits.
        let digits = name.len() - name.find(':')?;
        (digits == ":05:00.0".len() && name.matches(':').count() == 2 && name.len() >= 12)
            .then_some(address)
    }

    /// Returns the domain and the bus.
    pub fn bus(self) -> (u32, u8) {
        (self.domain, self.bus)
    }
}

/// As the kernel writes it.
impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            device,
            function,
        } = self;
        f.pad(&format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}"))
    }
}

/// Reads an address with or without its domain and leading zeroes.
impl FromStr for PciAddress {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParseAddressError(text.to_owned()))
    }
}

impl TryFrom<String> for PciAddress {
    type Error = ParseAddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PciAddress> for String {
    fn from(address: PciAddress) -> Self {
        address.to_string()
    }
}

/// Writes addresses one after the other.
pub fn list(addresses: &[PciAddress]) -> String {
    let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

fn parse(text: &str) -> Option<PciAddress> {
    let hexadecimal = |text: &str, digits| -> Option<u32> {
        let valid = text.len() <= digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        valid.then(|| u32::from_str_radix(text, 16).ok())?
    };
    let (rest, function) = text.split_once('.')?;
    let (rest, device) = rest.rsplit_once(':')?;
    let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
    let (device, function) = (hexadecimal(device, 2)?, hexadecimal(function, 1)?);

    (device < 32 && function < 8).then_some(PciAddress {
        domain: hexadecimal(domain, 8)?,
        bus: hexadecimal(bus, 2)? as u8,
        device: device as u8,
        function: function as u8,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_the_kernel_does() {
        // The driver reads the same table.
        const TABLE: &str = include_str!("../../../tests/host/addresses.txt");
        for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
            let (text, expected) = line.split_once(' ').unwrap();
            let written = text.parse::<PciAddress>().map(|one| one.to_string());
            match expected {
                "-" => assert!(written.is_err(), "{text}"),
                _ => assert_eq!(written.as_deref(), Ok(expected), "{text}"),
            }
        }
    }

    #[test]
    fn names_of_sysfs_have_all_digits() {
        for name in ["0000:03:00.0", "10000:e1:00.7"] {
            let address = PciAddress::from_name(name).unwrap();
            assert_eq!(address.to_string(), name);
        }
        for name in [
            "pci0000:00",
            "nvme0n1",
            "0000:03:00",
            "0000:0g:00.0",
            "",
            "1:2:3.4",
            "0:03:00.0",
            "03:00.0",
        ] {
            assert_eq!(PciAddress::from_name(name), None, "{name}");
        }
    }

    #[test]
    fn addresses_are_texts_in_json() {
        let address: PciAddress = serde_json::from_str(r#""0000:05:00.1""#).unwrap();
        assert_eq!(
            serde_json::to_string(&address).unwrap(),
            r#""0000:05:00.1""#
        );
        assert!(serde_json::from_str::<PciAddress>(r#""nvme0""#).is_err());
    }
}
