// SPDX-License-Identifier: GPL-2.0

//! The `p2pmem` command.

use std::process::ExitCode;

use clap::Parser;

mod command;

fn main() -> ExitCode {
    match command::Arguments::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("p2pmem: {error:#}");
            ExitCode::FAILURE
        }
    }
}
