// SPDX-License-Identifier: GPL-2.0

//! The kinds of devices, one file for each.

mod memory;
mod nvme;
mod plain;
mod pusher;

use anyhow::{bail, Result};

use crate::{
    device::{Layout, Model},
    Properties,
};

pub const NAMES: &str = "plain, memory, nvme, pusher";

/// Makes a device of a kind.
pub fn make(name: &str, properties: &Properties) -> Result<(Box<dyn Model>, Layout)> {
    match name {
        "plain" => plain::make(properties),
        "memory" => memory::make(properties),
        "nvme" => nvme::make(properties),
        "pusher" => pusher::make(properties),
        _ => bail!("no model {name}: there are {NAMES}"),
    }
}
