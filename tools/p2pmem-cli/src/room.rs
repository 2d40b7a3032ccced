// SPDX-License-Identifier: GPL-2.0

//! Memory for the threads of a command, and the reasons for which there is none.

use std::{fmt, path::PathBuf};

use anyhow::{anyhow, Error, Result};
use p2pmem::{size, Io, Memory, StagingBuffer, StagingError};
use rustix::io::Errno;

/// Need of threads that allocate memory one after the other, and the memory that was free before
/// the first.
#[derive(Clone, Copy, Debug)]
pub struct Room<'a> {
    /// The options that reduce the need.
    options: &'a str,
    /// Number of threads.
    threads: u32,
    /// Number of threads that have their memory already.
    pub served: u32,
    /// Bytes that were free before, and the longest free run.
    available: u64,
    largest: u64,
}

impl<'a> Room<'a> {
    /// Returns how much memory there is at the moment, for threads that are going to ask for it.
    pub fn new(memory: &Memory, options: &'a str, threads: u32) -> Self {
        let info = memory.provider().and_then(|provider| provider.info().ok());
        Self {
            options,
            threads,
            served: 0,
            available: info.map_or(0, |info| info.available),
            largest: info.map_or(0, |info| info.largest),
        }
    }

    /// Allocates the memory of a thread, with a ring for so many requests at a time.
    pub fn staging<'m>(
        &self,
        memory: &'m Memory,
        io: Io,
        bytes: u64,
        requests: u32,
    ) -> Result<StagingBuffer<'m>> {
        StagingBuffer::new(memory, io, bytes, requests).map_err(|error| self.explain(error))
    }

    /// Says why there is no memory for a thread, and which option helps.
    fn explain(&self, error: StagingError) -> Error {
        let options = self.options;
        match error {
            StagingError::TooLong { .. } => anyhow!("{error}: choose a smaller {options}"),
            StagingError::Ring(source) => Error::new(source).context(
                "cannot make an io_uring: choose --io pread, or check the sysctl \
                 kernel.io_uring_disabled",
            ),
            StagingError::NotPermitted { node, source } => {
                Error::new(source).context(SlotRefused { node })
            }
            StagingError::Register(source) => {
                Error::new(source).context("cannot put the memory into the ring: choose --io uring")
            }
            StagingError::Allocate {
                path,
                bytes,
                source,
            } => {
                let path = path.display();
                let text = match Errno::from_io_error(&source) {
                    Some(Errno::NOSPC) => format!("{path} has {}", self.lack(bytes)),
                    Some(Errno::DQUOT) => format!(
                        "more of {path} than your limit, {}: choose a smaller {options}, or have \
                         limit_per_file and limit_per_user raised",
                        self.wanted(bytes)
                    ),
                    Some(Errno::NODEV) => format!("the device of {path} went away"),
                    _ => format!("cannot allocate {} of {path}", size::format(bytes)),
                };
                Error::new(source).context(text)
            }
            error => error.into(),
        }
    }

    /// Says what was asked for.
    fn wanted(&self, bytes: u64) -> String {
        match self.threads {
            1 => size::format(bytes),
            threads => format!(
                "{} for each of {threads} threads, {} in all",
                size::format(bytes),
                size::format(bytes.saturating_mul(threads.into()))
            ),
        }
    }

    /// Says that there is no run of so many bytes for the next thread.
    fn lack(&self, bytes: u64) -> String {
        let Self {
            options, served, ..
        } = self;
        let free = match self.available {
            0 => "no memory was free".to_owned(),
            all if all == self.largest => format!("{} were free in one run", size::format(all)),
            all => format!(
                "{} were free, {} of it in the longest run",
                size::format(all),
                size::format(self.largest)
            ),
        };
        let enough = match served {
            0 => String::new(),
            1 => ", enough for 1 thread".to_owned(),
            served => format!(", enough for {served} threads"),
        };
        // Another process took it.
        let all = bytes.saturating_mul(self.threads.into());
        let cure = if all <= self.largest {
            "another process allocated memory at the same time: try again, or choose a smaller"
        } else {
            "choose a smaller"
        };
        format!(
            "no free run of {}: {free}{enough}: {cure} {options}",
            self.wanted(bytes)
        )
    }
}

/// Returns whether the driver does not allow this process to fill a slot.
pub fn is_slot_refused(error: &Error) -> bool {
    error.downcast_ref::<SlotRefused>().is_some()
}

/// The driver does not allow this process to fill a slot.
#[derive(Debug)]
struct SlotRefused {
    node: PathBuf,
}

impl fmt::Display for SlotRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = self.node.display();
        write!(
            f,
            "this process may not put memory of {node} into the ring: by default that takes \
             CAP_SYS_RAWIO, and root changes it with p2pmem config {node} --slots; or choose --io \
             uring"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_adds_up() {
        const MIB: u64 = 1 << 20;
        let room = |threads, served, available, largest| Room {
            options: "--chunk",
            threads,
            served,
            available: available * MIB,
            largest: largest * MIB,
        };
        for (room, text) in [
            (
                room(1, 0, 128, 128),
                "no free run of 256 MiB: 128 MiB were free in one run: choose a smaller --chunk",
            ),
            (
                room(1, 0, 300, 200),
                "no free run of 256 MiB: 300 MiB were free, 200 MiB of it in the longest run: \
                 choose a smaller --chunk",
            ),
            (
                room(4, 2, 600, 600),
                "no free run of 256 MiB for each of 4 threads, 1 GiB in all: 600 MiB were free in \
                 one run, enough for 2 threads: choose a smaller --chunk",
            ),
            (
                room(1, 0, 0, 0),
                "no free run of 256 MiB: no memory was free: choose a smaller --chunk",
            ),
            (
                room(1, 0, 512, 256),
                "no free run of 256 MiB: 512 MiB were free, 256 MiB of it in the longest run: \
                 another process allocated memory at the same time: try again, or choose a smaller \
                 --chunk",
            ),
        ] {
            assert_eq!(room.lack(256 * MIB), text);
        }
    }

    #[test]
    fn a_refused_slot_names_the_setting() {
        let room = Room {
            options: "--chunk",
            threads: 1,
            served: 0,
            available: 0,
            largest: 0,
        };
        let error = room.explain(StagingError::NotPermitted {
            node: "/dev/p2pmem0".into(),
            source: Errno::PERM,
        });
        assert!(is_slot_refused(&error));
        let text = error.to_string();
        for word in ["CAP_SYS_RAWIO", "p2pmem config /dev/p2pmem0 --slots"] {
            assert!(text.contains(word), "{text}");
        }
        assert!(!is_slot_refused(&Error::new(Errno::PERM)));
    }
}
