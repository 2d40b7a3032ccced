// SPDX-License-Identifier: GPL-2.0

//! Memory that data is read into and written from.

use std::{io, ptr};

use io_uring::{squeue::Entry, IoUring};
use rustix::io::Errno;

use super::{error::StagingError, io::Io};
use crate::{
    buffer::Buffer,
    direct::{Completion, DirectFile, Direction, Transfer},
    handle::Handle,
    memory::Memory,
    uring,
};

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

/// Memory that data is read into and written from, and a ring if that is how I/O is asked for.
pub struct StagingBuffer<'a> {
    memory: &'a Memory,
    io: Io,
    device: Option<String>,
    length: usize,
    ring: Option<IoUring>,
    /// The mapping: for I/O, or for the CPU only.
    buffer: Option<Buffer>,
    /// The memory in the ring's buffer table.
    handle: Option<Handle>,
}

impl<'a> StagingBuffer<'a> {
    /// Allocates memory, and makes a ring with room for so many requests at a time.
    pub fn new(
        memory: &'a Memory,
        io: Io,
        bytes: u64,
        requests: u32,
    ) -> Result<Self, StagingError> {
        // The kernel's limit of a slot.
        let most: u64 = match memory {
            Memory::Device { .. } => u32::MAX.into(),
            Memory::Host => 1 << 30,
        };
        let length = match usize::try_from(bytes) {
            Ok(length) if io != Io::UringFixed || bytes <= most => length,
            _ => return Err(StagingError::TooLong { bytes }),
        };
        let mut staging = Self {
            memory,
            io,
            device: memory.device(),
            length,
            ring: None,
            buffer: None,
            handle: None,
        };
        if io != Io::Pread {
            staging.ring = Some(IoUring::new(requests).map_err(StagingError::Ring)?);
        }
        staging
            .allocate(bytes)
            .map_err(|source| StagingError::Allocate {
                path: memory.path().to_owned(),
                bytes,
                source,
            })?;
        if io == Io::UringFixed {
            staging.register()?;
        }
        Ok(staging)
    }

    fn allocate(&mut self, bytes: u64) -> io::Result<()> {
        match self.memory.provider() {
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
    fn register(&mut self) -> Result<(), StagingError> {
        let Some(ring) = &self.ring else {
            return Ok(());
        };
        if let (Some(provider), Some(handle)) = (self.memory.provider(), &self.handle) {
            ring.submitter()
                .register_buffers_sparse(1)
                .map_err(StagingError::Register)?;
            let entry = uring::register(provider, handle, 0, 0, 0);
            self.push(&entry)?;
            self.wait_for_one()?.map_err(|error| match error {
                Errno::PERM => StagingError::NotPermitted {
                    node: self.memory.path().to_owned(),
                    source: error,
                },
                _ => StagingError::Register(error.into()),
            })?;
        } else if let Some(buffer) = &self.buffer {
            uring::register_ordinary(ring, buffer).map_err(StagingError::Register)?;
        }
        Ok(())
    }

    /// Returns the name of the device whose memory it is.
    pub fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// Fails if the device went away. Requests need not fail then: unbinding in another thread does
    /// not empty the slots of this ring, but waits for them.
    pub fn check_device(&self) -> Result<(), StagingError> {
        match self.handle.is_some() && self.memory.is_gone().map_err(StagingError::Wait)? {
            true => Err(StagingError::Gone {
                path: self.memory.path().to_owned(),
            }),
            false => Ok(()),
        }
    }

    /// Returns the memory for the CPU.
    pub fn memory(&mut self) -> Result<&mut Buffer, StagingError> {
        if let (None, Some(handle)) = (&self.buffer, &self.handle) {
            self.buffer = Some(handle.map(0, self.length).map_err(StagingError::Map)?);
        }
        Ok(self.buffer.as_mut().expect("mapped memory, or a handle"))
    }

    /// Moves bytes between a file and the memory from `place` on, and waits for it.
    pub fn transfer(
        &mut self,
        direction: Direction,
        file: &DirectFile,
        offset: u64,
        place: usize,
        length: usize,
    ) -> Result<(), StagingError> {
        if let (Io::Pread, Some(buffer)) = (self.io, &mut self.buffer) {
            let memory = &mut buffer.as_mut_slice(place + length)[place..];
            let device = self.device.as_deref();
            match direction {
                Direction::Read => file.read_into(memory, offset, device)?,
                Direction::Write => file.write_from(memory, offset, device)?,
            }
            return Ok(());
        }
        let mut transfer = Transfer::new(direction, offset, length);
        while transfer.left() > 0 {
            self.submit(file, &transfer, place, 0)?;
            let result = self.wait_for_one()?;
            transfer.advance(file.path(), result, self.device())?;
        }
        Ok(())
    }

    /// Puts a request into the ring for the bytes that are left of a transfer, or the first of
    /// them. `place` is the one of its first byte. The request is begun when the next one is waited
    /// for.
    ///
    /// # Panics
    ///
    /// If the memory is shorter.
    pub fn submit(
        &mut self,
        file: &DirectFile,
        transfer: &Transfer,
        place: usize,
        number: u64,
    ) -> Result<(), StagingError> {
        let (place, left) = (place + transfer.done(), transfer.left());
        assert!(left <= self.length && place <= self.length - left);
        // In a slot, addresses count from 0; but the kernel's own slots have those of the process.
        let base = match (&self.handle, &self.buffer) {
            (None, Some(buffer)) => buffer.as_ptr(),
            _ => ptr::null_mut(),
        };
        let entry = uring::transfer(
            transfer.direction(),
            self.io == Io::UringFixed,
            file.file(),
            base.wrapping_add(place),
            // At most LONGEST.
            request_length(transfer.offset(), left) as u32,
            transfer.offset(),
        );
        self.push(&entry.user_data(number))
    }

    fn push(&mut self, entry: &Entry) -> Result<(), StagingError> {
        let ring = self.ring.as_mut().ok_or(StagingError::Full)?;
        // SAFETY: The memory and the files of requests outlive them: each caller that submits waits
        // for all.
        unsafe { ring.submission().push(entry) }.map_err(|_| StagingError::Full)
    }

    /// Begins what was submitted, waits until at least one request has completed, and adds to
    /// `done` those that have.
    pub fn wait(&mut self, done: &mut Vec<Completion>) -> Result<(), StagingError> {
        let ring = self.ring.as_mut().ok_or(StagingError::Full)?;
        loop {
            match ring.submit_and_wait(1) {
                Ok(_) => break,
                // A signal: what is in flight goes on.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(StagingError::Wait(error)),
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
    fn wait_for_one(&mut self) -> Result<Result<usize, Errno>, StagingError> {
        let mut done = Vec::new();
        while done.is_empty() {
            self.wait(&mut done)?;
        }
        Ok(done[0].1)
    }
}

impl Drop for StagingBuffer<'_> {
    fn drop(&mut self) {
        // Otherwise the memory would go back some time after the ring is closed. Nothing more can
        // be done about a failure.
        if let (Some(provider), Some(_)) = (self.memory.provider(), &self.handle) {
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
}
