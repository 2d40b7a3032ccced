// SPDX-License-Identifier: GPL-2.0

//! The `p2pmem` command.

// They panic where the reader is gone: see terminal::print().
#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

mod apply;
mod bench;
mod cdi;
mod command;
mod copy;
mod cpu_access;
mod direct_io;
mod doctor;
mod driver;
mod errno;
#[cfg(test)]
mod golden;
mod manage;
mod metrics;
mod output_file;
mod preflight;
mod restore_guard;
mod room;
mod table;
mod terminal;
mod topo;
mod trial;
mod units;
mod verify;
mod via;

fn main() -> ExitCode {
    command::answer(command::Arguments::command);
    command::explain_lost_memory();
    match command::Arguments::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::complain(&format!("p2pmem: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
