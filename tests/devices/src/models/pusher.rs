// SPDX-License-Identifier: GPL-2.0

//! An endpoint with a DMA engine: it writes to the memory of others by itself, as an FPGA or an
//! accelerator does.
//!
//! BAR 0 has the registers of the engine, BAR 2 is memory of `size=SIZE`.

use anyhow::Result;
use rustix::io::Errno;

use crate::{
    device::{Bar, Layout, Model},
    Properties,
};

/// Bus address of the destination: 64 bits.
const ADDRESS: u64 = 0x00;
/// How much, in bytes.
const LENGTH: u64 = 0x08;
/// What: the pattern of the cases with this seed.
const SEED: u64 = 0x0c;
/// Write once, or again and again; 0 ends it.
const CONTROL: u64 = 0x10;
/// Whether it is under way; if not, errno of what failed is in the bits from 8 on.
const STATUS: u64 = 0x14;
/// How often all of it was written.
const ROUNDS: u64 = 0x18;

const ONCE: u32 = 1;
const BUSY: u32 = 1;
/// Length of one write.
const CHUNK: u64 = 64 << 10;

#[derive(Default)]
struct Engine {
    address: u64,
    length: u64,
    seed: u32,
    control: u32,
    error: u32,
    rounds: u32,
    /// How much of this round is written, and how much is on its way.
    done: u64,
    under_way: u64,
}

pub fn make(properties: &Properties) -> Result<(Box<dyn Model>, Layout)> {
    properties.expect(&["size"])?;
    let size = properties.number("size")?.unwrap_or(16 << 20);
    let layout = Layout {
        id: (0x1234, 0xf003),
        // A processing accelerator.
        class: 0x12_00_00,
        bars: vec![Bar::registers(0, 4096), Bar::memory(2, size)?],
        msix: None,
    };
    Ok((Box::new(Engine::default()), layout))
}

/// The word at an offset, as in tests/guest/src/guest.rs.
fn pattern(seed: u64, offset: u64) -> u64 {
    let mut word = seed
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(offset)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word ^= word >> 29;
    word | 1
}

impl Model for Engine {
    fn read(&mut self, bar: usize, offset: u64) -> Option<u32> {
        let is_busy = self.control != 0 || self.under_way != 0;
        (bar == 0).then_some(match offset {
            ADDRESS => self.address as u32,
            0x04 => (self.address >> 32) as u32,
            LENGTH => self.length as u32,
            SEED => self.seed,
            CONTROL => self.control,
            STATUS if is_busy => BUSY,
            STATUS => self.error << 8,
            ROUNDS => self.rounds,
            _ => 0,
        })
    }

    fn write(&mut self, bar: usize, offset: u64, value: u32) -> bool {
        let wide = u64::from(value);
        match offset {
            _ if bar != 0 => return false,
            ADDRESS => self.address = self.address & !0xffff_ffff | wide,
            0x04 => self.address = self.address & 0xffff_ffff | (wide << 32),
            LENGTH => self.length = wide & !7,
            SEED => self.seed = value,
            CONTROL => {
                self.control = value;
                if value != 0 {
                    (self.error, self.rounds, self.done) = (0, 0, 0);
                }
            }
            _ => (),
        }
        true
    }

    fn reset(&mut self) {
        *self = Self {
            under_way: self.under_way,
            ..Self::default()
        };
    }

    fn push(&mut self) -> Option<(u64, Vec<u8>)> {
        if self.control == 0 || self.length == 0 {
            return None;
        }
        let end = (self.done + CHUNK).min(self.length);
        let words = (self.done..end).step_by(8);
        let data = words.flat_map(|offset| pattern(self.seed.into(), offset).to_le_bytes());
        let push = (self.address + self.done, data.collect());
        self.under_way = end - self.done;
        Some(push)
    }

    fn pushed(&mut self, result: Result<(), Errno>) {
        self.done += std::mem::take(&mut self.under_way);
        if let Err(error) = result {
            self.error = error.raw_os_error() as u32;
            self.control = 0;
        } else if self.done >= self.length {
            self.done = 0;
            self.rounds = self.rounds.wrapping_add(1);
            if self.control == ONCE {
                self.control = 0;
            }
        }
    }
}
