// SPDX-License-Identifier: GPL-2.0

//! What Ctrl-C does to commands that end in an orderly way.

use std::{
    process,
    sync::{atomic::AtomicBool, Arc},
};

use anyhow::{Context, Result};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM},
    flag,
};

/// Returns what is set by the signals that ask a program to end.
pub fn flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
        flag::register(signal, Arc::clone(&stop)).context("cannot take signals")?;
    }
    Ok(stop)
}

/// Ends the program as one that was interrupted.
pub fn exit() -> ! {
    process::exit(128 + SIGINT)
}
