// SPDX-License-Identifier: GPL-2.0

//! An endpoint with one BAR of memory, and nothing else: `size=SIZE`, `id=0xVVVVDDDD`, vendor and
//! device, `bar=N`.

use anyhow::Result;

use crate::{
    device::{Bar, Layout, Model},
    Properties,
};

struct Plain;

impl Model for Plain {}

pub fn make(properties: &Properties) -> Result<(Box<dyn Model>, Layout)> {
    properties.expect(&["size", "id", "bar"])?;
    let id = properties.number("id")?.unwrap_or(0x1234_f000);
    let bar = properties.number("bar")?.unwrap_or(2);
    let size = properties.number("size")?.unwrap_or(16 << 20);
    let layout = Layout::memory(id, Bar::memory(bar as usize, size)?);
    Ok((Box::new(Plain), layout))
}
