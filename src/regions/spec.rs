// SPDX-License-Identifier: GPL-2.0

//! The specification of an administrator: which memory of which device.
//!
//! A line names a device and what to take of it, like
//!
//! ```text
//! 0000:05:00.0 bar2@16M+64M bar4
//! 0000:03:00.0 pmr
//! 0000:05:00.0 default
//! ```
//!
//! Text only: no kernel types, so that it is tested on the build machine as well.

use core::fmt;

/// How much one device can be asked for: as many things as it may have BARs.
pub(crate) const MAX: usize = 6;

/// Address of a PCI device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

/// Something that a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RegionSpec {
    /// The Controller Memory Buffer of an NVMe controller.
    Cmb,
    /// The Persistent Memory Region of an NVMe controller.
    Pmr,
    /// A range of a BAR, in bytes; without a size up to its end.
    Bar {
        number: u32,
        offset: u64,
        size: Option<u64>,
    },
}

/// Regions of a device to register, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RegionSpecs {
    list: [RegionSpec; MAX],
    count: usize,
}

/// Why a line makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ParseError<'a> {
    /// Not the address of a device.
    Address(&'a str),
    /// Nothing is said of the device.
    Nothing,
    /// A word that is none of those known.
    Word(&'a str),
    /// A number or size that is none, or too large.
    Number(&'a str),
    /// More than [`MAX`] words.
    TooMany,
}

impl fmt::Display for ParseError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(word) => {
                write!(f, "{word} is not a device: write it like 0000:05:00.0")
            }
            Self::Nothing => {
                write!(
                    f,
                    "what of the device: write cmb, pmr, bar2, bar2@16M+64M or default"
                )
            }
            Self::Word(word) => {
                write!(
                    f,
                    "{word} is not known: write cmb, pmr, bar2, bar2@16M+64M or default"
                )
            }
            Self::Number(word) => write!(
                f,
                "{word} has no valid number: BARs are 0 to 5, sizes like 0x200000, 2097152, 2M"
            ),
            Self::TooMany => write!(f, "a device has no more than {MAX} regions"),
        }
    }
}

/// Reads a line: a device, and what to take of it; [`None`] for what is taken by default.
pub(crate) fn parse(line: &str) -> Result<(Address, Option<RegionSpecs>), ParseError<'_>> {
    let mut words = line.split_ascii_whitespace();
    let address = words.next().unwrap_or_default();
    let address = Address::parse(address).ok_or(ParseError::Address(address))?;
    let first = words.next().ok_or(ParseError::Nothing)?;

    if first == "default" {
        return match words.next() {
            None => Ok((address, None)),
            Some(word) => Err(ParseError::Word(word)),
        };
    }

    let mut choices = RegionSpecs {
        list: [RegionSpec::parse(first)?; MAX],
        count: 1,
    };
    for word in words {
        let slot = choices.list.get_mut(choices.count);
        *slot.ok_or(ParseError::TooMany)? = RegionSpec::parse(word)?;
        choices.count += 1;
    }

    Ok((address, Some(choices)))
}

impl Address {
    /// Reads an address, with or without the domain.
    fn parse(text: &str) -> Option<Self> {
        let (rest, function) = text.split_once('.')?;
        let mut parts = rest.rsplit(':');
        let device = hexadecimal(parts.next()?, 2)?;
        let bus = hexadecimal(parts.next()?, 2)?;
        let domain = match parts.next() {
            Some(domain) => hexadecimal(domain, 8)?,
            None => 0,
        };
        let function = hexadecimal(function, 1)?;

        (parts.next().is_none() && device < 32 && function < 8).then_some(Self {
            domain,
            // In range: of so many digits.
            bus: bus as u8,
            device: device as u8,
            function: function as u8,
        })
    }
}

/// As the kernel names the device.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            device,
            function,
        } = self;

        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

impl RegionSpec {
    fn parse(word: &str) -> Result<Self, ParseError<'_>> {
        let range = match word {
            "cmb" => return Ok(Self::Cmb),
            "pmr" => return Ok(Self::Pmr),
            _ => word.strip_prefix("bar").ok_or(ParseError::Word(word))?,
        };
        let wrong = ParseError::Number(word);

        let (range, size) = match range.split_once('+') {
            Some((range, text)) => (range, Some(size(text).ok_or(wrong)?)),
            None => (range, None),
        };
        let (number, offset) = match range.split_once('@') {
            Some((number, text)) => (number, size_or_zero(text).ok_or(wrong)?),
            None => (range, 0),
        };
        let number = match number.as_bytes() {
            [digit @ b'0'..=b'5'] => u32::from(digit - b'0'),
            _ => return Err(wrong),
        };

        Ok(Self::Bar {
            number,
            offset,
            size,
        })
    }
}

impl fmt::Display for RegionSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Cmb => write!(f, "cmb"),
            Self::Pmr => write!(f, "pmr"),
            Self::Bar {
                number,
                offset,
                size,
            } => {
                write!(f, "bar{number}@{offset:#x}")?;
                match size {
                    Some(size) => write!(f, "+{size:#x}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl RegionSpecs {
    /// Returns what to take.
    pub(crate) fn list(&self) -> &[RegionSpec] {
        self.list.get(..self.count).unwrap_or_default()
    }
}

/// As it may be written again.
impl fmt::Display for RegionSpecs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, choice) in self.list().iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{choice}")?;
        }

        Ok(())
    }
}

/// Reads a hexadecimal number of at most so many digits.
fn hexadecimal(text: &str, digits: usize) -> Option<u32> {
    let valid = text.len() <= digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());

    valid.then(|| u32::from_str_radix(text, 16).ok())?
}

/// Reads a number of bytes like 4096, 0x1000, or 4K; not 0.
fn size(text: &str) -> Option<u64> {
    size_or_zero(text).filter(|&size| size != 0)
}

/// As [`size`], or 0.
pub(crate) fn size_or_zero(text: &str) -> Option<u64> {
    let (number, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (text.get(..text.len() - 1)?, 10),
        b'm' | b'M' => (text.get(..text.len() - 1)?, 20),
        b'g' | b'G' => (text.get(..text.len() - 1)?, 30),
        _ => (text, 0),
    };
    let (digits, radix) = match number.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (number, 10),
    };
    // A sign would be taken otherwise.
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }

    u64::from_str_radix(digits, radix)
        .ok()?
        .checked_mul(1 << shift)
}
