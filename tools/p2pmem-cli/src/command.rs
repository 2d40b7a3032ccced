// SPDX-License-Identifier: GPL-2.0

//! The commands: what each of them takes, does and prints.

use std::io::{ErrorKind, Write};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

mod bench;
mod bind;
mod cause;
mod change;
mod complete;
mod config;
mod copy;
mod doctor;
mod generate;
mod interrupt;
mod list;
mod output;
mod topo;
mod unbind;

/// Exit status of the program, and its meaning.
pub const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "All went well."),
    (
        "1",
        "Something failed: standard error has the cause and the cure.",
    ),
    ("2", "The command line is wrong."),
    ("130", "A copy or a verification was interrupted."),
];

fn exit_status() -> String {
    let lines = EXIT_STATUS
        .iter()
        .map(|(status, meaning)| format!("  {status:<5}{meaning}"));
    ["Exit status:".to_owned()]
        .into_iter()
        .chain(lines)
        .collect::<Vec<_>>()
        .join("\n")
}
mod verify;

/// PCI peer-to-peer memory: buffers in devices, and direct I/O between devices through them.
#[derive(Parser)]
#[command(
    name = "p2pmem",
    version,
    after_help = exit_status()
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
    Copy(copy::Arguments),
    Verify(verify::Arguments),
    Bench(bench::Arguments),
    Topo(topo::Arguments),
    Doctor(doctor::Arguments),
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
            Command::Copy(arguments) => ("copy", arguments.json, copy::run(arguments)),
            Command::Verify(arguments) => ("verify", arguments.json, verify::run(arguments)),
            Command::Bench(arguments) => ("bench", arguments.json, bench::run(arguments)),
            Command::Topo(arguments) => ("topo", arguments.json, topo::run(arguments)),
            Command::Doctor(arguments) => ("doctor", arguments.json, doctor::run(arguments)),
            Command::Generate(arguments) => ("generate", false, generate::run(arguments)),
        };
        match result {
            Err(error) if json => output::print_failure(command, error),
            result => result,
        }
    }
}

/// Adds to a refusal that there is a way to go on.
fn or_force<T>(result: Result<T>) -> Result<T> {
    result.map_err(|error| anyhow::anyhow!("{error:#}; pass --force to go on anyway"))
}

/// Prints text. A reader that went away, as `head` does, is no error: the exit status tells all the
/// same how the command ended.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot print"),
        _ => Ok(()),
    }
}

pub use complete::answer;
pub use interrupt::explain_lost_memory;

/// Prints a line on standard error. There is no place to report that this failed.
pub fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Returns how many characters fit into a line of the terminal, or 100 where there is none.
fn width() -> u16 {
    rustix::termios::tcgetwinsize(std::io::stdout())
        .ok()
        .map(|size| size.ws_col)
        .filter(|width| *width > 0)
        .unwrap_or(100)
}
