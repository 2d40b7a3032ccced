// SPDX-License-Identifier: GPL-2.0

//! Effect of Ctrl-C on commands that clean up before they end.

use std::{
    process,
    sync::{atomic::AtomicBool, Arc},
};

use anyhow::{Context, Result};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM},
    flag,
};

/// Returns a flag that the signals set which ask a program to end.
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
