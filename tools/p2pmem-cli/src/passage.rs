// SPDX-License-Identifier: GPL-2.0

//! Memory that direct I/O passes through, in three ways: called for, by a ring, and by a ring that
//! has the memory in its buffer table.

use std::{fmt, io, path::PathBuf, ptr};

use anyhow::{ensure, Context, Result};
use clap::ValueEnum;
use io_uring::{squeue::Entry, IoUring};
use p2pmem::{
    direct::{Direct, Way},
    size, uring, Buffer, Handle,
};
use rustix::io::Errno;
use serde::Serialize;

use crate::via::{Room, Via};

/// Interface for I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Io {
    /// io_uring, into mapped memory.
    Uring,
    /// io_uring, with the memory in the ring's buffer table: neither mapped nor pinned. With device
    /// memory this takes CAP_SYS_RAWIO (see p2pmem config --slots).
    UringFixed,
    /// A call for each read and write, into mapped memory.
    Pread,
}

impl Io {
    /// Returns the best way that the kernel allows with mapped memory, which takes no right.
    pub fn best() -> Self {
        match IoUring::new(1) {
            Ok(_) => Self::Uring,
            Err(_) => Self::Pread,
        }
    }
}

/// The longest request to a ring, in bytes. The block layer does not split a request that must not
/// wait: it ends with EAGAIN, and a worker of io_uring (io-wq) repeats it.
const LONGEST: u64 = 512 << 10;

/// Returns the length of the next request for `length` bytes at an offset of a file. It ends at a
/// multiple of [`LONGEST`] at the latest: drives may have boundaries there, at which the block
/// layer splits requests.
fn request_length(offset: u64, length: usize) -> usize {
    let left = LONGEST - offset % LONGEST;
    usize::try_from(left).map_or(length, |left| left.min(length))
}

/// Returns whether the driver does not allow this process to fill a slot.
pub(crate) fn is_slot_refused(error: &anyhow::Error) -> bool {
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

/// The result of a request, and the number that it was given.
pub(crate) type Completion = (u64, Result<usize, Errno>);

/// Memory, and a ring if that is how I/O is asked for.
pub(crate) struct Passage<'a> {
    via: &'a Via,
    io: Io,
    device: Option<String>,
    length: usize,
    ring: Option<IoUring>,
    /// The mapping: for I/O, or for the CPU only.
    buffer: Option<Buffer>,
    /// The memory in the ring's buffer table.
    handle: Option<Handle>,
}

impl<'a> Passage<'a> {
    /// Gets memory, and room for so many requests at a time. `room` is what is said where there is
    /// no memory.
    pub(crate) fn new(
        via: &'a Via,
        io: Io,
        bytes: u64,
        requests: u32,
        room: &Room<'_>,
    ) -> Result<Self> {
        // The kernel's limit of a slot.
        let most: u64 = match via {
            Via::Device { .. } => u32::MAX.into(),
            Via::Host => 1 << 30,
        };
        ensure!(
            io != Io::UringFixed || bytes <= most,
            "a slot of an io_uring does not hold {}: choose a smaller {}",
            size::format(bytes),
            room.options()
        );
        let length = usize::try_from(bytes)?;
        let mut passage = Self {
            via,
            io,
            device: via.device(),
            length,
            ring: None,
            buffer: None,
            handle: None,
        };
        if io != Io::Pread {
            passage.ring = Some(IoUring::new(requests).context(
                "cannot make an io_uring: choose --io pread, or check the sysctl \
                 kernel.io_uring_disabled",
            )?);
        }
        passage
            .allocate(bytes)
            .map_err(|error| via.explain(bytes, error, room))?;
        if io == Io::UringFixed {
            passage.register().map_err(|error| {
                match (error.downcast_ref::<Errno>(), via.provider()) {
                    (Some(&Errno::PERM), Some(_)) => error.context(SlotRefused {
                        node: via.path().to_owned(),
                    }),
                    _ => error.context("cannot put the memory into the ring: choose --io uring"),
                }
            })?;
        }

        Ok(passage)
    }

    fn allocate(&mut self, bytes: u64) -> io::Result<()> {
        match self.via.provider() {
            Some(provider) if self.io == Io::UringFixed => {
                let granule = u64::from(provider.info()?.granule);
                self.handle = Some(provider.alloc(bytes.next_multiple_of(granule), 0)?);
            }
            Some(provider) => self.buffer = Some(Buffer::map(provider, self.length)?),
            None => self.buffer = Some(Buffer::ordinary(self.length)?),
        }
        Ok(())
    }

    /// Puts the memory into slot 0.
    fn register(&mut self) -> Result<()> {
        let Some(ring) = &self.ring else {
            return Ok(());
        };
        if let (Some(provider), Some(handle)) = (self.via.provider(), &self.handle) {
            ring.submitter().register_buffers_sparse(1)?;
            let entry = uring::register(provider, handle, 0, 0, 0);
            self.push(&entry)?;
            self.wait_for_one()??;
        } else if let Some(buffer) = &self.buffer {
            uring::register_ordinary(ring, buffer)?;
        }
        Ok(())
    }

    /// Returns the name of the device whose memory it is.
    pub(crate) fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// Fails if the device went away. Requests need not fail then: unbinding in another thread does
    /// not empty the slots of this ring, but waits for them.
    pub(crate) fn check_device(&self) -> Result<()> {
        ensure!(
            self.handle.is_none() || !self.via.is_gone()?,
            "the device of {} went away",
            self.via.path().display()
        );
        Ok(())
    }

    /// Returns the memory for the CPU.
    pub(crate) fn memory(&mut self) -> Result<&mut Buffer> {
        if let (None, Some(handle)) = (&self.buffer, &self.handle) {
            self.buffer = Some(handle.map(0, self.length)?);
        }
        self.buffer.as_mut().context("there is no memory")
    }

    /// Has bytes moved between a file and the memory, and waits for it.
    pub(crate) fn transfer(
        &mut self,
        way: Way,
        file: &Direct,
        offset: u64,
        place: usize,
        length: usize,
    ) -> Result<()> {
        if let (Io::Pread, Some(buffer)) = (self.io, &mut self.buffer) {
            let memory = &mut buffer.as_mut_slice(place + length)[place..];
            return match way {
                Way::Read => file.read_into(memory, offset, self.device.as_deref()),
                Way::Write => file.write_from(memory, offset, self.device.as_deref()),
            };
        }
        let mut done = 0;
        while done < length {
            let offset = offset + done as u64;
            self.submit(way, file, offset, place + done, length - done, 0)?;
            match self.wait_for_one()? {
                Ok(0) => return Err(file.ended(way, offset)),
                Ok(count) => done += count,
                Err(Errno::INTR) => (),
                Err(error) => return Err(file.explain(way, offset, error, self.device())),
            }
        }
        Ok(())
    }

    /// Puts a request into the ring, for `length` bytes or a first part of them. It is begun when
    /// the next one is waited for.
    pub(crate) fn submit(
        &mut self,
        way: Way,
        file: &Direct,
        offset: u64,
        place: usize,
        length: usize,
        number: u64,
    ) -> Result<()> {
        assert!(length <= self.length && place <= self.length - length);
        // In a slot, addresses count from 0; but the kernel's own slots have those of the process.
        let base = match (&self.handle, &self.buffer) {
            (None, Some(buffer)) => buffer.as_ptr(),
            _ => ptr::null_mut(),
        };
        let address = base.wrapping_add(place);
        let length = u32::try_from(request_length(offset, length))?;
        let fixed = self.io == Io::UringFixed;
        let entry = uring::transfer(way, fixed, file.file(), address, length, offset);
        self.push(&entry.user_data(number))
    }

    fn push(&mut self, entry: &Entry) -> Result<()> {
        let ring = self.ring.as_mut().context("there is no ring")?;
        // SAFETY: The memory and the files of requests outlive them: each caller that submits waits
        // for all.
        unsafe { ring.submission().push(entry) }.context("the ring is full")
    }

    /// Begins what was submitted, waits until at least one request has completed, and adds to
    /// `done` those that have.
    pub(crate) fn wait(&mut self, done: &mut Vec<Completion>) -> Result<()> {
        let ring = self.ring.as_mut().context("there is no ring")?;
        loop {
            match ring.submit_and_wait(1) {
                Ok(_) => break,
                // A signal: what is in flight goes on.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error).context("cannot wait for the ring"),
            }
        }
        done.extend(ring.completion().map(|event| {
            let result = usize::try_from(event.result())
                .map_err(|_| Errno::from_raw_os_error(-event.result()));
            (event.user_data(), result)
        }));
        Ok(())
    }

    /// Waits for the only request.
    fn wait_for_one(&mut self) -> Result<Result<usize, Errno>> {
        let mut done = Vec::new();
        while done.is_empty() {
            self.wait(&mut done)?;
        }
        Ok(done[0].1)
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        // Otherwise the memory would go back some time after the ring is closed. Nothing more can
        // be done about a failure.
        if let (Some(provider), Some(_)) = (self.via.provider(), &self.handle) {
            let entry = uring::unregister(provider, 0);
            let _ = self.push(&entry).and_then(|()| self.wait_for_one());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_end_at_seams() {
        const KIB: usize = 1 << 10;
        const MIB: usize = 1 << 20;
        for (offset, length, expected) in [
            (0, 4 * KIB, 4 * KIB),
            (0, 512 * KIB, 512 * KIB),
            (0, MIB, 512 * KIB),
            (0, 1 << 30, 512 * KIB),
            (4 * KIB, 512 * KIB, 508 * KIB),
            (512 * KIB - 512, 64 * KIB, 512),
            (512 * KIB, MIB, 512 * KIB),
            (3 * MIB + 64 * KIB, 448 * KIB, 448 * KIB),
        ] {
            let found = request_length(offset as u64, length);
            assert_eq!(found, expected, "{length} at {offset}");
        }
    }

    #[test]
    fn requests_add_up() {
        for (start, length) in [(0, 3 << 20), (8192, (1 << 20) + 512), (1 << 40, 4096)] {
            let mut done = 0;
            while done < length {
                let offset = start + done as u64;
                let part = request_length(offset, length - done);
                assert!(part > 0 && part as u64 <= LONGEST);
                assert_eq!(offset / LONGEST, (offset + part as u64 - 1) / LONGEST);
                done += part;
            }
            assert_eq!(done, length);
        }
    }

    #[test]
    fn a_refused_slot_is_known_by_its_error() {
        let refused = SlotRefused {
            node: "/dev/p2pmem0".into(),
        };
        let error = anyhow::Error::new(Errno::PERM).context(refused);
        assert!(is_slot_refused(&error));
        let text = error.to_string();
        for word in ["CAP_SYS_RAWIO", "p2pmem config /dev/p2pmem0 --slots"] {
            assert!(text.contains(word), "{text}");
        }
        assert!(!is_slot_refused(&anyhow::Error::new(Errno::PERM)));
    }
}
