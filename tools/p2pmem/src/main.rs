// SPDX-License-Identifier: GPL-2.0

//! The `p2pmem` command.

// They panic where the reader is gone: see command::print().
#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use clap::Parser;

mod command;

fn main() -> ExitCode {
    command::answer();
    command::explain_lost_memory();
    match command::Arguments::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            command::complain(&format!("p2pmem: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
