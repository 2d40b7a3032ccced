// SPDX-License-Identifier: GPL-2.0

//! An NVMe controller whose registers are those that a case asks for. It executes no command, and
//! is never ready for one; BAR 2 and BAR 4 are memory, and so is BAR 0 behind the registers.
//!
//! `size=SIZE` of each of them. Orders: 0x1000 + OFFSET sets the register at the offset; the
//! others are below.

use anyhow::Result;

use crate::{
    device::{Bar, Layout, Model},
    Properties,
};

const REGISTERS: u64 = 0x1000;
const CMBLOC: u64 = 0x38;
const CMBSZ: u64 = 0x3c;
const CMBMSC: u64 = 0x50;
const PMRCTL: u64 = 0xe04;
const PMRSTS: u64 = 0xe08;
const PMRMSC: u64 = 0xe14;

/// PMRSTS while the region is on, and while it is off.
const STATUS_ON: u32 = 0x100;
const STATUS_OFF: u32 = 0x101;
/// How often PMRSTS says what it said before, after the region was switched.
const DELAY: u32 = 0x102;
const SET: u32 = 0x1000;

const NOT_READY: u32 = 1 << 8;
/// CAP: the shortest time-out, doorbells without gaps, 64 entries.
const CAP: [u32; 2] = [0x0101_003f, 0];
/// VS: revision 1.4.
const VERSION: u32 = 0x0001_0400;

struct Controller {
    registers: Vec<u32>,
    on: u32,
    off: u32,
    delay: u32,
    left: u32,
    before: u32,
    /// Whether nothing answers any more.
    is_gone: bool,
}

pub fn make(properties: &Properties) -> Result<(Box<dyn Model>, Layout)> {
    properties.expect(&["size"])?;
    let size = properties.number("size")?.unwrap_or(16 << 20);
    let mut model = Controller {
        registers: vec![0; REGISTERS as usize / 4],
        on: 0,
        off: NOT_READY,
        delay: 0,
        left: 0,
        before: NOT_READY,
        is_gone: false,
    };
    model.registers[..2].copy_from_slice(&CAP);
    model.registers[2] = VERSION;
    let layout = Layout {
        id: (0x1234, 0xf002),
        class: 0x01_08_02,
        bars: vec![
            // Behind the registers and doorbells there is memory, too.
            Bar::memory(0, size)?.trap(0)?.trap(REGISTERS)?,
            Bar::memory(2, size)?,
            Bar::memory(4, size)?,
        ],
        msix: None,
    };
    Ok((Box::new(model), layout))
}

impl Controller {
    fn get(&self, offset: u64) -> u32 {
        let word = self.registers.get(offset as usize / 4);
        word.copied().unwrap_or(0)
    }

    fn set(&mut self, offset: u64, value: u32) {
        if let Some(word) = self.registers.get_mut(offset as usize / 4) {
            *word = value;
        }
    }

    /// Whether CMBLOC and CMBSZ tell the truth: before revision 1.4 they always did.
    fn shows_cmb(&self) -> bool {
        const CMBS: u32 = 1 << 25;
        self.get(4) & CMBS == 0 || self.get(CMBMSC) & 1 != 0
    }

    fn status(&self) -> u32 {
        match self.get(PMRCTL) & 1 {
            0 => self.off,
            _ => self.on,
        }
    }
}

impl Model for Controller {
    fn read(&mut self, bar: usize, offset: u64) -> Option<u32> {
        (bar == 0).then(|| match offset {
            _ if self.is_gone => u32::MAX,
            CMBLOC | CMBSZ if !self.shows_cmb() => 0,
            PMRSTS if self.left > 0 => {
                self.left -= 1;
                self.before
            }
            PMRSTS => {
                let status = self.status();
                self.is_gone |= status == u32::MAX;
                status
            }
            _ => self.get(offset),
        })
    }

    fn write(&mut self, bar: usize, offset: u64, value: u32) -> bool {
        match offset {
            _ if bar != 0 => return false,
            // Of the first three there is no writing.
            0..=0x0b | CMBLOC | CMBSZ | PMRSTS => (),
            PMRCTL if value != self.get(PMRCTL) => {
                self.before = self.status();
                self.left = self.delay;
                self.set(PMRCTL, value);
            }
            _ => self.set(offset, value),
        }
        true
    }

    /// Forgets its state: the controller is off, and so are its memories.
    fn reset(&mut self) {
        for offset in [0x14, CMBMSC, CMBMSC + 4, PMRCTL, PMRMSC, PMRMSC + 4] {
            self.set(offset, 0);
        }
        self.left = 0;
    }

    fn order(&mut self, number: u32, value: u64) -> bool {
        match number {
            STATUS_ON => self.on = value as u32,
            STATUS_OFF => self.off = value as u32,
            DELAY => self.delay = value as u32,
            SET.. => {
                self.set(u64::from(number - SET), value as u32);
                self.is_gone = false;
            }
            _ => return false,
        }
        true
    }
}
