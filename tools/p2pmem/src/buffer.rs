// SPDX-License-Identifier: GPL-2.0

//! Memory in the address space of this process.

use std::{io, os::fd::AsFd, ptr};

use rustix::{
    mm::{mmap, mmap_anonymous, munmap, MapFlags, ProtFlags},
    param::page_size,
};

/// Device memory that is mapped. It goes back to the device when this is dropped.
///
/// The CPU reaches it slowly and without caching; it is meant for direct I/O. After the device
/// went away touching it raises `SIGBUS`, and I/O into it fails with `EFAULT`.
#[derive(Debug)]
pub struct Buffer {
    start: *mut u8,
    length: usize,
}

// SAFETY: The mapping belongs to the process, not to a thread.
unsafe impl Send for Buffer {}

impl Buffer {
    /// Maps `length` bytes of a provider's memory.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if the provider has no free run of that length, `EDQUOT` if the administrator does
    /// not allow so much, `ENOMEM`, `ENODEV` if the device is gone.
    pub fn map(provider: impl AsFd, length: usize) -> io::Result<Self> {
        Self::map_at(provider, 0, length)
    }

    /// Maps ordinary memory, aligned to pages as direct I/O wants it, to compare with.
    pub(crate) fn ordinary(length: usize) -> io::Result<Self> {
        Self::anonymous(length, MapFlags::POPULATE)
    }

    /// As [`ordinary`](Self::ordinary), whose pages come when they are touched.
    pub(crate) fn untouched(length: usize) -> io::Result<Self> {
        Self::anonymous(length, MapFlags::empty())
    }

    fn anonymous(length: usize, flags: MapFlags) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | flags;
        // SAFETY: A new mapping, at an address that the kernel chooses.
        let start = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
            )?
        };

        Ok(Self {
            start: start.cast(),
            length,
        })
    }

    /// Maps a part of what is behind a descriptor.
    pub(crate) fn map_at(file: impl AsFd, offset: u64, length: usize) -> io::Result<Self> {
        // SAFETY: A new mapping, at an address that the kernel chooses.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                offset,
            )?
        };

        Ok(Self {
            start: start.cast(),
            length,
        })
    }

    /// Returns the address of the first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start
    }

    /// Returns the length in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Returns whether the length is 0; it never is.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Touches each page: writes a byte of it.
    pub(crate) fn touch(&mut self) {
        for offset in (0..self.length).step_by(page_size()) {
            // SAFETY: Within the mapping.
            unsafe { self.start.add(offset).write_volatile(0) };
        }
    }

    /// Returns the first `length` bytes as a slice, for reading into.
    ///
    /// # Panics
    ///
    /// If the buffer is shorter.
    pub fn as_mut_slice(&mut self, length: usize) -> &mut [u8] {
        assert!(length <= self.length);
        // SAFETY: The memory is mapped while `self` lives, and borrowed exclusively. Other
        // processes may share it after a fork; bytes that they write are still bytes.
        unsafe { std::slice::from_raw_parts_mut(self.start, length) }
    }

    /// Writes bytes with the CPU, in the widest accesses that their number and place allow. It is
    /// done when the next [`Buffer::load()`] has returned.
    ///
    /// # Panics
    ///
    /// If the buffer is shorter.
    pub fn store(&mut self, offset: usize, bytes: &[u8]) {
        assert!(bytes.len() <= self.length && offset <= self.length - bytes.len());
        let start = self.start.wrapping_add(offset);
        match offset | bytes.len() {
            bits if bits % 8 == 0 => store_words(start, bytes, u64::from_ne_bytes),
            bits if bits % 4 == 0 => store_words(start, bytes, u32::from_ne_bytes),
            bits if bits % 2 == 0 => store_words(start, bytes, u16::from_ne_bytes),
            _ => store_words(start, bytes, u8::from_ne_bytes),
        }
    }

    /// Reads bytes with the CPU, in the widest accesses that their number and place allow.
    ///
    /// # Panics
    ///
    /// If the buffer is shorter.
    pub fn load(&self, offset: usize, bytes: &mut [u8]) {
        assert!(bytes.len() <= self.length && offset <= self.length - bytes.len());
        let start = self.start.wrapping_add(offset);
        match offset | bytes.len() {
            bits if bits % 8 == 0 => load_words(start, bytes, u64::to_ne_bytes),
            bits if bits % 4 == 0 => load_words(start, bytes, u32::to_ne_bytes),
            bits if bits % 2 == 0 => load_words(start, bytes, u16::to_ne_bytes),
            _ => load_words(start, bytes, u8::to_ne_bytes),
        }
    }
}

/// Writes bytes to mapped memory, word by word. The caller has checked that they fit, and that the
/// address is aligned.
fn store_words<W, const N: usize>(start: *mut u8, bytes: &[u8], word: fn([u8; N]) -> W) {
    for (index, part) in bytes.chunks_exact(N).enumerate() {
        let mut data = [0; N];
        data.copy_from_slice(part);
        // SAFETY: Within the mapping, and aligned. What is mapped is shared with devices.
        unsafe { start.cast::<W>().add(index).write_volatile(word(data)) };
    }
}

/// Reads bytes from mapped memory, as [`store_words()`] writes them.
fn load_words<W, const N: usize>(start: *const u8, bytes: &mut [u8], parts: fn(W) -> [u8; N]) {
    for (index, part) in bytes.chunks_exact_mut(N).enumerate() {
        // SAFETY: Within the mapping, and aligned. What is mapped is shared with devices.
        part.copy_from_slice(&parts(unsafe {
            start.cast::<W>().add(index).read_volatile()
        }));
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: The mapping was made by `map()` and nobody borrows it any more. If it cannot be
        // unmapped it stays, which harms nobody.
        let _ = unsafe { munmap(self.start.cast(), self.length) };
    }
}
