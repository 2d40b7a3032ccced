// SPDX-License-Identifier: GPL-2.0

//! A PCI device that QEMU does not have: `lab-device MODEL [KEY=VALUE]...`.
//!
//! Standard input is a socket that listens. QEMU's `vfio-user-pci` connects to it, and sends what
//! the guest does to the device, by the vfio-user protocol. One device, one process: qemu/lab
//! starts it.

#![forbid(unsafe_code)]

mod config;
mod device;
mod models;
mod protocol;
/// The driver's grammar of sizes.
#[allow(dead_code, unreachable_pub)]
#[path = "../../../src/regions/spec.rs"]
mod spec;

use std::{
    collections::BTreeMap,
    os::{fd::AsFd, unix::net::UnixListener},
    process::ExitCode,
};

use anyhow::{bail, Context, Result};
use rustix::process::{set_parent_process_death_signal, Signal};

use device::{Device, Ended};
use protocol::Connection;

/// Properties of a device in a topology.
#[derive(Clone, Default)]
pub struct Properties(BTreeMap<String, String>);

impl Properties {
    fn parse(words: impl Iterator<Item = String>) -> Result<Self> {
        words
            .map(|word| match word.split_once('=') {
                Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
                None => bail!("{word} is not KEY=VALUE"),
            })
            .collect::<Result<_>>()
            .map(Self)
    }

    /// Returns a number: decimal, `0x`, or with K, M or G.
    pub fn number(&self, key: &str) -> Result<Option<u64>> {
        let Some(text) = self.0.get(key) else {
            return Ok(None);
        };
        let number = spec::size_or_zero(text);
        number
            .map(Some)
            .with_context(|| format!("{key}={text} is not a number"))
    }

    /// Checks that a model knows all that is said.
    pub fn expect(&self, known: &[&str]) -> Result<()> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => bail!("{key} is not known: the model has {}", known.join(", ")),
            None => Ok(()),
        }
    }
}

fn run() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let name = words
        .next()
        .with_context(|| format!("name a model: {}", models::NAMES))?;
    let mut properties = Properties::parse(words)?;
    // The parent does not use it afterwards.
    set_parent_process_death_signal(Some(Signal::TERM))?;
    let listener = UnixListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    // Each connection is a device that was plugged in: its memory is new.
    loop {
        let (model, layout) = models::make(&name, &properties)?;
        let mut device = Device::new(model, layout);
        let (stream, _) = listener
            .accept()
            .context("standard input must be a socket that listens")?;
        if let Ended::Left { size: Some(size) } = device.serve(&Connection::new(stream))? {
            properties.0.insert("size".to_owned(), size.to_string());
        }
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
