// SPDX-License-Identifier: GPL-2.0

//! Effect of signals: Ctrl-C on commands that clean up before they end, and lost memory.

use std::{
    process,
    sync::{atomic::AtomicBool, Arc},
};

use anyhow::{Context, Result};
use signal_hook::{
    consts::{SIGBUS, SIGHUP, SIGINT, SIGQUIT, SIGTERM},
    flag, low_level,
};

/// Returns a flag that the signals set which ask a program to end.
pub fn flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
        flag::register(signal, Arc::clone(&stop)).context("cannot take signals")?;
    }
    Ok(stop)
}

/// Makes the program end with a line and status 1 if it touches memory that it lost.
pub fn explain_lost_memory() {
    const LINE: &str = "p2pmem: the memory is gone, or the driver could not clear it: see the \
                        kernel's log, and `p2pmem doctor --errno SIGBUS`\n";

    // SAFETY: write() and _exit() may be called by signal handlers.
    let result = unsafe {
        low_level::register(SIGBUS, || {
            libc::write(libc::STDERR_FILENO, LINE.as_ptr().cast(), LINE.len());
            libc::_exit(1);
        })
    };
    // Without the line the signal ends the program.
    drop(result);
}

/// Ends the program as one that was interrupted.
pub fn exit() -> ! {
    process::exit(128 + SIGINT)
}
