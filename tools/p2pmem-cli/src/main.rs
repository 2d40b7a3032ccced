// SPDX-License-Identifier: GPL-2.0

//! The `p2pmem` command.

// They panic where the reader is gone: see command::print().
#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use clap::Parser;

mod access;
mod bench;
mod command;
mod copy;
mod doctor;
#[cfg(test)]
mod golden;
mod keeper;
mod manage;
mod passage;
mod preflight;
mod table;
mod topo;
mod trial;
mod verify;
mod via;

/// Policy of the driver, without the parts that need a kernel.
#[allow(dead_code)]
#[path = "."]
mod driver {
    #[path = "."]
    pub(crate) mod regions {
        #[path = "../../../src/regions/policy.rs"]
        pub(crate) mod policy;
        #[path = "../../../src/regions/range.rs"]
        pub(crate) mod range;
        #[path = "../../../src/regions/spec.rs"]
        pub(crate) mod spec;
    }

    #[path = "."]
    pub(crate) mod nvme {
        #[path = "../../../src/nvme/cmb.rs"]
        pub(crate) mod cmb;
        #[path = "../../../src/nvme/regs.rs"]
        pub(crate) mod regs;
    }
}

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
