// SPDX-License-Identifier: GPL-2.0

//! The configuration space of a device, as its model describes it.

use crate::device::Layout;

pub const SIZE: usize = 4096;
/// The register Command, and its bit for DMA.
pub const COMMAND: usize = 0x04;
pub const BUS_MASTER: u8 = 1 << 2;

const PCI_EXPRESS: usize = 0x40;
/// Device Control, its upper half, and the bit that resets the function.
const RESET_AT: usize = PCI_EXPRESS + 8 + 1;
const RESET: u8 = 1 << 7;
const MSIX: usize = 0x80;
/// A capability of the vendor's own, through which cases tell the device what to do: a value of 64
/// bits, then a command, which is done when it is written.
const ORDERS: usize = 0xc0;
const VALUE: usize = ORDERS + 4;
const ORDER: usize = ORDERS + 12;

/// Effect of a write to the space.
pub enum Asked {
    Nothing,
    /// The function is to be reset.
    Reset,
    /// A case gives an order.
    Order {
        number: u32,
        value: u64,
    },
}

/// The bytes of the space.
pub struct Config(Vec<u8>);

impl Config {
    pub fn new(layout: &Layout) -> Self {
        let mut bytes = vec![0; SIZE];
        let mut put = |at: usize, data: &[u8]| bytes[at..at + data.len()].copy_from_slice(data);

        put(0x00, &layout.id.0.to_le_bytes());
        put(0x02, &layout.id.1.to_le_bytes());
        // Status: there is a list of capabilities.
        put(0x06, &[0x10]);
        put(0x09, &layout.class.to_le_bytes()[..3]);
        for bar in &layout.bars {
            // Memory of 64 bits.
            let flags = if bar.prefetchable { 0xc } else { 0x4 };
            put(0x10 + 4 * bar.number, &[flags]);
        }
        put(0x34, &[PCI_EXPRESS as u8]);

        // PCI Express, version 2, an endpoint that can be reset; a link of one lane.
        let next = if layout.msix.is_some() { MSIX } else { ORDERS };
        put(PCI_EXPRESS, &[0x10, next as u8, 0x02, 0x00]);
        put(PCI_EXPRESS + 4, &((1_u32 << 28) | (1 << 15)).to_le_bytes());
        put(PCI_EXPRESS + 0x0c, &[0x11]);
        put(PCI_EXPRESS + 0x12, &[0x11]);
        if let Some(msix) = &layout.msix {
            let control = msix.vectors - 1;
            let bar = msix.bar as u32;
            put(MSIX, &[0x11, ORDERS as u8]);
            put(MSIX + 2, &control.to_le_bytes());
            put(MSIX + 4, &(msix.table | bar).to_le_bytes());
            put(MSIX + 8, &(msix.pending | bar).to_le_bytes());
        }
        put(ORDERS, &[0x09, 0x00, 0x10]);
        Self(bytes)
    }

    pub fn read(&self, range: std::ops::Range<usize>) -> Option<&[u8]> {
        self.0.get(range)
    }

    /// Returns whether the device may do DMA.
    pub fn is_master(&self) -> bool {
        self.0[COMMAND] & BUS_MASTER != 0
    }

    /// Takes what is written. QEMU keeps the addresses of BARs itself.
    pub fn write(&mut self, at: usize, data: &[u8]) -> Asked {
        let mut asked = Asked::Nothing;
        for (at, &byte) in (at..).zip(data) {
            match at {
                COMMAND..=0x05 => self.0[at] = byte,
                RESET_AT if byte & RESET != 0 => {
                    self.0[COMMAND] = 0;
                    asked = Asked::Reset;
                }
                VALUE..=0xcf => {
                    self.0[at] = byte;
                    if at == ORDER + 3 {
                        asked = self.order();
                    }
                }
                // Enable and mask of MSI-X.
                0x83 => self.0[at] = self.0[at] & 0x3f | byte & 0xc0,
                _ => (),
            }
        }
        asked
    }

    fn order(&self) -> Asked {
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| self.0[at + byte]));
        Asked::Order {
            number: word(ORDER),
            value: u64::from(word(VALUE)) | (u64::from(word(VALUE + 4)) << 32),
        }
    }

    /// Lets a case see whether its order was understood: the number becomes all ones where it was
    /// not.
    pub fn refuse_order(&mut self) {
        self.0[ORDER..ORDER + 4].fill(0xff);
    }
}
