// SPDX-License-Identifier: GPL-2.0

//! Restores data even if this process dies.

use std::{io, os::fd::OwnedFd};

use rustix::{
    io::{read, write, Errno},
    pipe::{pipe_with, PipeFlags},
    process::{setsid, waitpid, Pid, WaitOptions},
};

/// Another process, which does something if this one ends without [`RestoreGuard::release`]: by
/// `SIGBUS` because a device went away, by `kill -9`, or with an error.
#[derive(Debug)]
pub struct RestoreGuard {
    /// The end of a pipe: its closing tells the reader that this process is gone.
    alive: OwnedFd,
    process: Pid,
}

impl RestoreGuard {
    /// Starts the other process, which has a copy of all memory and runs `rescue`, if it must. To
    /// be called by a process with one thread: locks that others hold would be held for ever in the
    /// copy.
    pub fn new(rescue: impl FnOnce()) -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        // SAFETY: The copy uses what it has, and ends by itself.
        match unsafe { libc::fork() } {
            0 => {
                drop(writer);
                // Not to be ended by what ends the other, like the loss of the terminal.
                let _ = setsid();
                if !is_released(&reader) {
                    rescue();
                }
                // SAFETY: Ends the process.
                unsafe { libc::_exit(0) }
            }
            pid => Ok(Self {
                alive: writer,
                process: Pid::from_raw(pid)
                    .filter(|_| pid > 0)
                    .ok_or_else(io::Error::last_os_error)?,
            }),
        }
    }

    /// Ends the other process: there is nothing to be done any more.
    pub fn release(self) -> io::Result<()> {
        write(&self.alive, &[1])?;
        waitpid(Some(self.process), WaitOptions::empty())?;
        Ok(())
    }
}

/// Waits for the other process to write, or to be gone.
fn is_released(reader: &OwnedFd) -> bool {
    loop {
        match read(reader, &mut [0]) {
            Ok(count) => return count > 0,
            Err(Errno::INTR) => (),
            Err(_) => return false,
        }
    }
}
