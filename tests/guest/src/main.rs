// SPDX-License-Identifier: GPL-2.0

//! Cases that run in the guest, as root, against the driver and the stock kernel.
//!
//! Each case is a process of its own, so that a crash is one failure and not the end. After each,
//! the harness looks for what a case may leave behind: a mistake in the kernel's log, memory that
//! did not return to its pool, a process. It reports KTAP.

mod cases;
mod coverage;
mod guest;
mod harness;
mod kmod;
mod lab_device;
mod programs;

use std::process::ExitCode;

use cases::CASES;

fn main() -> ExitCode {
    let mut no_skip = false;
    let mut list = false;
    let mut wanted = Vec::new();
    let mut others = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--no-skip" => no_skip = true,
            "--list" => list = true,
            "--except" => others.extend(arguments.next()),
            option if option.starts_with('-') => {
                eprintln!(
                    "usage: guest-tests [--list] [--no-skip] [--except START]... [NAME or start of a NAME]..."
                );
                return ExitCode::from(2);
            }
            name => wanted.push(name.to_owned()),
        }
    }

    let selected: Vec<_> = CASES
        .iter()
        .flat_map(|group| group.iter())
        .filter(|case| {
            let is_one_of = |names: &[String]| names.iter().any(|name| case.name.starts_with(name));
            (wanted.is_empty() || is_one_of(&wanted)) && !is_one_of(&others)
        })
        .collect();

    if list {
        for case in selected {
            println!("{}", case.name);
        }
        return ExitCode::SUCCESS;
    }
    if selected.is_empty() {
        eprintln!("error: no case is named so: see guest-tests --list");
        return ExitCode::from(2);
    }

    let good = harness::run(&selected, no_skip);
    coverage::keep("p2pmem_rs").expect("the counters can be kept");
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
