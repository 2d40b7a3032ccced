// SPDX-License-Identifier: GPL-2.0

//! The commands: what each of them takes, does and prints.

use std::path::Path;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use p2pmem::Provider;

mod bench;
mod copy;
mod list;

/// PCI peer-to-peer memory: buffers in devices, and direct I/O between devices through them.
#[derive(Parser)]
#[command(
    name = "p2pmem",
    version,
    after_help = "Exit status: 0 if all went well, 1 if something failed, 2 for a wrong command line."
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    List(list::Arguments),
    Copy(copy::Arguments),
    Bench(bench::Arguments),
}

impl Arguments {
    /// Does what the command line asks for.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::List(arguments) => list::run(&arguments),
            Command::Copy(arguments) => copy::run(&arguments),
            Command::Bench(arguments) => bench::run(&arguments),
        }
    }
}

fn open(path: &Path) -> Result<Provider> {
    Provider::open(path).with_context(|| {
        format!(
            "cannot open {}: is p2pmem_rs loaded, the device bound, and are you root?",
            path.display()
        )
    })
}
