// SPDX-License-Identifier: GPL-2.0

//! Answers messages, makes faults, does DMA: common to all devices.

use std::{fs::File, ops::Range, os::unix::fs::FileExt, time::Duration};

use anyhow::{bail, ensure, Result};
use rustix::{
    fs::{ftruncate, memfd_create, MemfdFlags},
    io::Errno,
};

use crate::{
    config::{self, Asked, Config},
    protocol::{self as wire, Body, Connection, Message},
};

const PAGE: u64 = 4096;
/// Regions of a PCI device of vfio: six BARs, the ROM, the configuration space, and VGA.
const REGIONS: u32 = 9;
const CONFIG: u32 = 7;
const IRQS: u32 = 5;
const MSIX_IRQ: u32 = 2;
/// Bytes of the description of a region, without capabilities.
const REGION_INFO: u32 = 32;

/// Answer to a message: a body, or errno.
type Answer = Result<Body, Errno>;

/// Orders that each device knows. Those of a model are from 0x100 on.
mod order {
    /// From now on trapped registers and pages read all ones, and take no writes. 0 ends it.
    pub const ALL_ONES: u32 = 1;
    /// Each access to what is trapped takes so many milliseconds.
    pub const SLOW: u32 = 2;
    /// The device is gone. When it is plugged in again its memory is new, and
    /// has that size; 0: the same size.
    pub const LEAVE: u32 = 3;
    /// The device loses its state, as without power.
    pub const POWER_CYCLE: u32 = 4;
}

/// A BAR, 64 bits wide.
pub struct Bar {
    pub number: usize,
    pub size: u64,
    pub prefetchable: bool,
    /// Memory that QEMU maps. Without, the model is asked for each access.
    pub memory: Option<File>,
    /// Ranges of the memory that the model is asked for all the same, in whole pages.
    pub trapped: Vec<Range<u64>>,
}

impl Bar {
    /// A BAR with memory, prefetchable.
    pub fn memory(number: usize, size: u64) -> Result<Self> {
        ensure!(
            size.is_power_of_two() && size >= PAGE,
            "a BAR of {size} bytes: it is a power of two"
        );
        let file = memfd_create("bar", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, size)?;
        Ok(Self {
            number,
            size,
            prefetchable: true,
            memory: Some(file.into()),
            trapped: Vec::new(),
        })
    }

    /// A BAR with registers.
    pub fn registers(number: usize, size: u64) -> Self {
        Self {
            number,
            size,
            prefetchable: false,
            memory: None,
            trapped: Vec::new(),
        }
    }

    /// Has the model asked for the page at an offset.
    pub fn trap(mut self, offset: u64) -> Result<Self> {
        ensure!(
            offset % PAGE == 0 && offset < self.size,
            "offset {offset:#x} is not that of a page of the BAR"
        );
        self.trapped.push(offset..offset + PAGE);
        self.trapped.sort_by_key(|range| range.start);
        self.trapped.dedup();
        Ok(self)
    }

    /// Ranges that QEMU maps: the memory without trapped pages.
    fn mapped(&self) -> Vec<Range<u64>> {
        let mut free = Vec::new();
        let mut start = 0;
        for trapped in &self.trapped {
            free.push(start..trapped.start);
            start = trapped.end;
        }
        free.push(start..self.size);
        free.retain(|range| !range.is_empty());
        free
    }
}

/// Place of the MSI-X table.
pub struct Msix {
    pub vectors: u16,
    pub bar: usize,
    /// Bytes from the start of the BAR.
    pub table: u32,
    pub pending: u32,
}

/// Identity and BARs of a device.
pub struct Layout {
    /// Vendor and device.
    pub id: (u16, u16),
    pub class: u32,
    pub bars: Vec<Bar>,
    pub msix: Option<Msix>,
}

impl Layout {
    /// A device that is memory: `id` is vendor and device, `0xVVVVDDDD`.
    pub fn memory(id: u64, bar: Bar) -> Self {
        Self {
            id: ((id >> 16) as u16, id as u16),
            // Memory of no kind that is known.
            class: 0x05_80_00,
            bars: vec![bar],
            msix: None,
        }
    }
}

/// A kind of device. All that has a default is what a device need not have.
pub trait Model {
    /// Reads a register. What is trapped of a memory is memory, unless the model knows better.
    fn read(&mut self, _bar: usize, _offset: u64) -> Option<u32> {
        None
    }

    /// Writes a register. Returns whether it is one.
    fn write(&mut self, _bar: usize, _offset: u64, _value: u32) -> bool {
        false
    }

    /// The function is reset.
    fn reset(&mut self) {}

    /// A case gives an order. Returns whether it was understood.
    fn order(&mut self, _number: u32, _value: u64) -> bool {
        false
    }

    /// Returns what is to be written by DMA next, and where to.
    fn push(&mut self) -> Option<(u64, Vec<u8>)> {
        None
    }

    /// Result of a write by DMA.
    fn pushed(&mut self, _result: Result<(), Errno>) {}
}

/// Memory of the machine that the device can reach by itself.
struct Mapped {
    addresses: Range<u64>,
    file: File,
    offset: u64,
}

/// Why a device is not there any more.
pub enum Ended {
    /// QEMU has closed.
    Unplugged,
    /// By order.
    Left { size: Option<u64> },
}

/// A device that is plugged in.
pub struct Device {
    model: Box<dyn Model>,
    layout: Layout,
    config: Config,
    mapped: Vec<Mapped>,
    all_ones: bool,
    slow: Duration,
    left: Option<Ended>,
    last_request: u16,
}

impl Device {
    pub fn new(model: Box<dyn Model>, layout: Layout) -> Self {
        Self {
            model,
            config: Config::new(&layout),
            layout,
            mapped: Vec::new(),
            all_ones: false,
            slow: Duration::ZERO,
            left: None,
            last_request: 0,
        }
    }

    /// Answers QEMU until the device is gone.
    pub fn serve(&mut self, connection: &Connection) -> Result<Ended> {
        loop {
            // DMA is done while there is nothing to answer.
            if !connection.is_readable()? {
                if let Some((address, data)) = self.model.push() {
                    let result = self.dma_write(connection, address, &data)?;
                    self.model.pushed(result);
                    continue;
                }
            }
            let Some(message) = connection.receive()? else {
                return Ok(Ended::Unplugged);
            };
            self.answer(connection, message)?;
            if let Some(ended) = self.left.take() {
                return Ok(ended);
            }
        }
    }

    fn answer(&mut self, connection: &Connection, mut message: Message) -> Result<()> {
        let mut memory = None;
        let answer = match message.command {
            wire::VERSION => Ok(Body::default().u32(0).bytes(b"{\"capabilities\":{}}\0")),
            wire::DMA_MAP => {
                self.dma_map(&mut message)?;
                Ok(Body::default())
            }
            wire::DMA_UNMAP => {
                let start = message.u64(8)?;
                let range = start..start.saturating_add(message.u64(16)?);
                let all = message.u32(4)? != 0;
                self.mapped
                    .retain(|one| !all && !range.contains(&one.addresses.start));
                Ok(Body::default())
            }
            // A PCI device that can be reset.
            wire::GET_INFO => Ok(Body::default().u32(16).u32(3).u32(REGIONS).u32(IRQS)),
            wire::GET_REGION_INFO => {
                let index = message.u32(8)?;
                let Body(mut body) = self.region_info(index);
                if message.u32(0)? as usize >= body.len() {
                    let bar = self.bar(index);
                    memory = bar.and_then(|bar| bar.memory.as_ref());
                } else {
                    // QEMU asks once more, with room for all of it.
                    body.truncate(REGION_INFO as usize);
                }
                Ok(Body(body))
            }
            wire::GET_IRQ_INFO => {
                let index = message.u32(8)?;
                let vectors = match &self.layout.msix {
                    Some(msix) if index == MSIX_IRQ => u32::from(msix.vectors),
                    _ => 0,
                };
                Ok(Body::default().u32(16).u32(1).u32(index).u32(vectors))
            }
            wire::SET_IRQS => Ok(Body::default()),
            wire::REGION_READ => self.region_read(&message)?,
            wire::REGION_WRITE => self.region_write(&message)?,
            wire::RESET => {
                self.model.reset();
                Ok(Body::default())
            }
            _ => Err(Errno::NOSYS),
        };
        connection.reply(&message, answer, memory)
    }

    fn bar(&self, region: u32) -> Option<&Bar> {
        let mut bars = self.layout.bars.iter();
        bars.find(|bar| bar.number == region as usize)
    }

    fn region_info(&self, index: u32) -> Body {
        const READ_WRITE: u32 = 3;
        const MMAP: u32 = 1 << 2;
        const CAPABILITIES: u32 = 1 << 3;
        /// Number and version of the capability.
        const SPARSE: u32 = 0x0001_0001;

        let head = |length: u32, flags: u32, capability: u32, size: u64| {
            let body = Body::default().u32(length).u32(flags).u32(index);
            body.u32(capability).u64(size).u64(0)
        };
        match self.bar(index) {
            Some(bar) if bar.memory.is_some() => {
                let areas = bar.mapped();
                let length = REGION_INFO + 16 + 16 * areas.len() as u32;
                let flags = READ_WRITE | MMAP | CAPABILITIES;
                let body = head(length, flags, REGION_INFO, bar.size);
                let body = body.u32(SPARSE).u32(0);
                areas
                    .iter()
                    .fold(body.u32(areas.len() as u32).u32(0), |body, area| {
                        body.u64(area.start).u64(area.end - area.start)
                    })
            }
            Some(bar) => head(REGION_INFO, READ_WRITE, 0, bar.size),
            None if index == CONFIG => head(REGION_INFO, READ_WRITE, 0, config::SIZE as u64),
            None => head(REGION_INFO, 0, 0, 0),
        }
    }

    /// Makes an access to what is trapped take its time. Returns whether it finds nothing.
    fn disturb(&self) -> bool {
        std::thread::sleep(self.slow);
        self.all_ones
    }

    fn region_read(&mut self, message: &Message) -> Result<Answer> {
        let (offset, region, count) = (message.u64(0)?, message.u32(8)?, message.u32(12)?);
        let head = Body::default().u64(offset).u32(region).u32(count);
        let length = count as usize;
        if region == CONFIG {
            let range = offset as usize..offset as usize + length;
            return Ok(match self.config.read(range) {
                Some(data) => Ok(head.bytes(data)),
                None => Err(Errno::INVAL),
            });
        }
        let Some(bar) = self.bar(region) else {
            return Ok(Err(Errno::INVAL));
        };
        let mut data = vec![0xff; length];
        if !self.disturb() {
            if let Some(memory) = &bar.memory {
                memory.read_exact_at(&mut data, offset)?;
            }
            // Registers are 32 bits wide.
            for (at, chunk) in (offset..).step_by(4).zip(data.chunks_mut(4)) {
                if let Some(value) = self.model.read(region as usize, at & !3) {
                    let bytes = value.to_le_bytes();
                    let first = (at & 3) as usize;
                    let end = (first + chunk.len()).min(4);
                    chunk[..end - first].copy_from_slice(&bytes[first..end]);
                }
            }
        }
        Ok(Ok(head.bytes(&data)))
    }

    fn region_write(&mut self, message: &Message) -> Result<Answer> {
        let (offset, region, count) = (message.u64(0)?, message.u32(8)?, message.u32(12)?);
        let head = Body::default().u64(offset).u32(region).u32(count);
        let data = &message.body[16..];
        ensure!(data.len() == count as usize, "a write of another length");
        if region == CONFIG {
            match self.config.write(offset as usize, data) {
                Asked::Nothing => (),
                Asked::Reset => self.model.reset(),
                Asked::Order { number, value } => self.order(number, value),
            }
            return Ok(Ok(head));
        }
        if self.bar(region).is_none() {
            return Ok(Err(Errno::INVAL));
        }
        if !self.disturb() {
            for (at, chunk) in (offset..).step_by(4).zip(data.chunks(4)) {
                let is_register = chunk.len() == 4 && {
                    let value = u32::from_le_bytes(chunk.try_into()?);
                    self.model.write(region as usize, at, value)
                };
                let memory = self.bar(region).and_then(|bar| bar.memory.as_ref());
                if let (false, Some(memory)) = (is_register, memory) {
                    memory.write_all_at(chunk, at)?;
                }
            }
        }
        Ok(Ok(head))
    }

    fn order(&mut self, number: u32, value: u64) {
        match number {
            order::ALL_ONES => self.all_ones = value != 0,
            order::SLOW => self.slow = Duration::from_millis(value),
            order::LEAVE => {
                self.left = Some(Ended::Left {
                    size: (value != 0).then_some(value),
                });
            }
            order::POWER_CYCLE => self.model.reset(),
            _ if self.model.order(number, value) => (),
            _ => self.config.refuse_order(),
        }
    }

    fn dma_map(&mut self, message: &mut Message) -> Result<()> {
        let (offset, start, size) = (message.u64(8)?, message.u64(16)?, message.u64(24)?);
        // Memory without a file is reached by messages.
        if let Some(file) = message.fds.pop() {
            self.mapped.push(Mapped {
                addresses: start..start.saturating_add(size),
                file: file.into(),
                offset,
            });
        }
        Ok(())
    }

    /// Writes to an address of the bus. The result is errno, as QEMU says it.
    fn dma_write(
        &mut self,
        connection: &Connection,
        address: u64,
        data: &[u8],
    ) -> Result<Result<(), Errno>> {
        if !self.config.is_master() {
            return Ok(Err(Errno::PERM));
        }
        let end = address.saturating_add(data.len() as u64);
        let inside = |one: &&Mapped| one.addresses.start <= address && end <= one.addresses.end;
        if let Some(memory) = self.mapped.iter().find(inside) {
            let offset = address - memory.addresses.start + memory.offset;
            memory.file.write_all_at(data, offset)?;
            return Ok(Ok(()));
        }

        self.last_request = self.last_request.wrapping_add(1);
        let id = self.last_request;
        let body = Body::default().u64(address).u64(data.len() as u64);
        connection.request(id, wire::DMA_WRITE, body.bytes(data))?;
        loop {
            let Some(message) = connection.receive()? else {
                return Ok(Err(Errno::NODEV));
            };
            if message.is_reply() {
                if message.id != id {
                    bail!("a reply to a request that was not made");
                }
                return Ok(message.error.map_or(Ok(()), Err));
            }
            // QEMU may need an answer before it replies.
            self.answer(connection, message)?;
        }
    }
}
