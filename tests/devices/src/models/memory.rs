// SPDX-License-Identifier: GPL-2.0

//! An endpoint that is memory: BAR 2, and beside the memory what a case asks for.
//!
//! `size=SIZE`; `registers=OFFSET`, a page with two registers; `msix=OFFSET`, a page with the table
//! of the vectors, and one with their pending bits; `trap=OFFSET`, a page that faults reach;
//! `id=0xVVVVDDDD`, vendor and device.

use anyhow::Result;

use crate::{
    device::{Bar, Layout, Model, Msix},
    Properties,
};

const KNOWN: &[&str] = &["size", "registers", "msix", "trap", "id"];
/// An ID without a driver.
const ID: u64 = 0x1234_f001;
const BAR: usize = 2;

/// Registers of the page: one that says what it is, and one that counts.
const MAGIC: u64 = 0;
const COUNT: u64 = 4;

struct Memory {
    registers: Option<u64>,
    count: u32,
}

pub fn make(properties: &Properties) -> Result<(Box<dyn Model>, Layout)> {
    properties.expect(KNOWN)?;
    let size = properties.number("size")?.unwrap_or(64 << 20);
    let id = properties.number("id")?.unwrap_or(ID);
    let registers = properties.number("registers")?;
    let mut bar = Bar::memory(BAR, size)?;
    let mut msix = None;
    for offset in [registers, properties.number("trap")?]
        .into_iter()
        .flatten()
    {
        bar = bar.trap(offset)?;
    }
    if let Some(table) = properties.number("msix")? {
        bar = bar.trap(table)?.trap(table + 4096)?;
        msix = Some(Msix {
            vectors: 8,
            bar: BAR,
            table: table as u32,
            pending: table as u32 + 4096,
        });
    }
    let model = Memory {
        registers,
        count: 0,
    };
    let layout = Layout {
        msix,
        ..Layout::memory(id, bar)
    };
    Ok((Box::new(model), layout))
}

impl Memory {
    /// Which register is at an offset.
    fn register(&self, bar: usize, offset: u64) -> Option<u64> {
        let start = self.registers?;
        let range = start..start + 4096;
        (bar == BAR && range.contains(&offset)).then(|| offset - start)
    }
}

impl Model for Memory {
    fn read(&mut self, bar: usize, offset: u64) -> Option<u32> {
        match self.register(bar, offset)? {
            MAGIC => Some(0x7265_6773),
            COUNT => Some(self.count),
            _ => Some(0),
        }
    }

    fn write(&mut self, bar: usize, offset: u64, value: u32) -> bool {
        let register = self.register(bar, offset);
        if register == Some(COUNT) {
            self.count = self.count.wrapping_add(value);
        }
        register.is_some()
    }

    fn reset(&mut self) {
        self.count = 0;
    }
}
