// SPDX-License-Identifier: GPL-2.0

//! The commands: what each of them takes, does and prints.

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

mod apply;
mod bench;
mod bind;
mod cause;
mod cdi;
mod change;
mod complete;
mod config;
mod copied;
mod copy;
mod doctor;
mod exit_status;
mod force;
mod generate;
mod interrupt;
mod io_value;
mod list;
mod metrics;
mod output;
mod progress;
mod topo;
mod unbind;
mod verify;

/// PCI peer-to-peer memory: buffers in devices, and direct I/O between devices through them.
#[derive(Parser)]
#[command(
    name = "p2pmem",
    version,
    after_help = exit_status::help()
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    List(list::Arguments),
    Bind(bind::Arguments),
    Unbind(unbind::Arguments),
    Config(config::Arguments),
    Apply(apply::Arguments),
    Copy(copy::Arguments),
    Verify(verify::Arguments),
    Bench(bench::Arguments),
    Topo(topo::Arguments),
    Doctor(doctor::Arguments),
    Metrics(metrics::Arguments),
    Cdi(cdi::Arguments),
    #[command(hide = true)]
    Generate(generate::Arguments),
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let (command, json, result) = match &self.command {
            Command::List(arguments) => ("list", arguments.json, list::run(arguments)),
            Command::Bind(arguments) => ("bind", arguments.json, bind::run(arguments)),
            Command::Unbind(arguments) => ("unbind", arguments.json, unbind::run(arguments)),
            Command::Config(arguments) => ("config", arguments.json, config::run(arguments)),
            Command::Apply(arguments) => ("apply", arguments.json, apply::run(arguments)),
            Command::Copy(arguments) => ("copy", arguments.json, copy::run(arguments)),
            Command::Verify(arguments) => ("verify", arguments.json, verify::run(arguments)),
            Command::Bench(arguments) => ("bench", arguments.json, bench::run(arguments)),
            Command::Topo(arguments) => ("topo", arguments.json, topo::run(arguments)),
            Command::Doctor(arguments) => ("doctor", arguments.json, doctor::run(arguments)),
            Command::Metrics(arguments) => ("metrics", false, metrics::run(arguments)),
            Command::Cdi(arguments) => ("cdi", false, cdi::run(arguments)),
            Command::Generate(arguments) => (
                "generate",
                false,
                generate::run(arguments, Arguments::command()),
            ),
        };
        match result {
            Err(error) if json => output::print_failure(command, error),
            result => result,
        }
    }
}

pub use complete::answer;
pub use interrupt::explain_lost_memory;
