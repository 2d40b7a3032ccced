// SPDX-License-Identifier: GPL-2.0

//! Memory in the address space of this process.

use std::{io, os::fd::AsFd, ptr};

use rustix::{
    mm::{mmap, mmap_anonymous, munmap, MapFlags, ProtFlags},
    param::page_size,
};

/// The size of a large page of device memory.
const LARGE_PAGE: usize = 2 << 20;

/// Device memory that is mapped. It goes back to the device when this is dropped.
///
/// The CPU reaches it slowly and without caching; it is meant for direct I/O. After the device
/// went away touching it raises `SIGBUS`, and I/O into it fails with `EFAULT`.
///
/// # Examples
///
/// Ordinary memory has the same form, to compare with:
///
/// ```
/// use p2pmem::Buffer;
///
/// let mut buffer = Buffer::ordinary(4096)?;
/// buffer.store(8, &[1, 2, 3, 4]);
/// let mut bytes = [0; 4];
/// buffer.load(8, &mut bytes);
/// assert_eq!(bytes, [1, 2, 3, 4]);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Buffer {
    start: *mut u8,
    length: usize,
}

// SAFETY: The mapping belongs to the process, not to a thread.
unsafe impl Send for Buffer {}

/// The protection of mappings for reading and writing.
const READ_WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

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
    pub fn ordinary(length: usize) -> io::Result<Self> {
        Self::anonymous(length, READ_WRITE, MapFlags::POPULATE)
    }

    /// As [`ordinary`](Self::ordinary), whose pages come when they are touched.
    pub fn untouched(length: usize) -> io::Result<Self> {
        Self::anonymous(length, READ_WRITE, MapFlags::empty())
    }

    fn anonymous(length: usize, access: ProtFlags, flags: MapFlags) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | flags;
        // SAFETY: A new mapping, at an address that the kernel chooses.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), length, access, flags)? };

        Ok(Self {
            start: start.cast(),
            length,
        })
    }

    /// Maps a part of the file behind a descriptor, at an address that the kernel chooses.
    pub fn map_at(file: impl AsFd, offset: u64, length: usize) -> io::Result<Self> {
        Self::map_near(0, file, offset, length)
    }

    /// Maps a part of a dma-buf at an address where large pages fit. The kernel chooses a fitting
    /// address for the node, but not for dma-bufs.
    ///
    /// If another thread takes the address first, the kernel chooses another one: the mapping may
    /// then have base pages only.
    pub fn map_large(file: impl AsFd, offset: u64, length: usize) -> io::Result<Self> {
        let room = match length.checked_add(LARGE_PAGE) {
            Some(room) if length >= LARGE_PAGE => room,
            _ => return Self::map_at(file, offset, length),
        };
        // The reservation finds a free range and ends here. MAP_FIXED over it could fail and leave
        // a hole, in which another thread might map memory before the rest is unmapped.
        let address = Self::anonymous(room, ProtFlags::empty(), MapFlags::NORESERVE)
            .map_or(0, |free| fitting_address(free.start.addr(), offset));

        Self::map_near(address, file, offset, length)
    }

    /// Maps a part of the file behind a descriptor at an address. The kernel chooses another one if
    /// it is 0 or in use.
    fn map_near(address: usize, file: impl AsFd, offset: u64, length: usize) -> io::Result<Self> {
        // SAFETY: A new mapping: without MAP_FIXED it replaces no other.
        let start = unsafe {
            mmap(
                ptr::without_provenance_mut(address),
                length,
                READ_WRITE,
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
    pub fn touch(&mut self) {
        for offset in (0..self.length).step_by(page_size()) {
            self.touch_at(offset);
        }
    }

    /// Writes a byte.
    pub fn touch_at(&mut self, offset: usize) {
        assert!(offset < self.length);
        // SAFETY: Within the mapping.
        unsafe { self.start.add(offset).write_volatile(0) };
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

/// Returns the first address at or above `start` that has the same place within a large page as
/// `offset`.
fn fitting_address(start: usize, offset: u64) -> usize {
    let place = (offset % LARGE_PAGE as u64) as usize;
    let within = start % LARGE_PAGE;
    start + (LARGE_PAGE + place - within) % LARGE_PAGE
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: The mapping was made by `map()` and is not borrowed any more. If it cannot be
        // unmapped it stays, which is harmless.
        let _ = unsafe { munmap(self.start.cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write};

    use super::*;

    const PAGE: usize = 4096;

    #[test]
    fn a_fitting_address_is_the_first_one() {
        for (start, offset, expected) in [
            (0, 0, 0),
            (LARGE_PAGE, 0, LARGE_PAGE),
            (PAGE, 0, LARGE_PAGE),
            (LARGE_PAGE - PAGE, 0, LARGE_PAGE),
            (0, PAGE, PAGE),
            (PAGE, PAGE, PAGE),
            (2 * PAGE, PAGE, LARGE_PAGE + PAGE),
            (LARGE_PAGE + PAGE, 3 * LARGE_PAGE, 2 * LARGE_PAGE),
        ] {
            let found = fitting_address(start, offset as u64);
            assert_eq!(found, expected, "{start:#x} {offset:#x}");
        }
    }

    /// Makes a file of so many pages, each of which begins with its number.
    fn numbered(pages: usize) -> File {
        let mut file = tempfile::tempfile().unwrap();
        for number in 0..pages {
            let mut page = [0; PAGE];
            page[..8].copy_from_slice(&number.to_ne_bytes());
            file.write_all(&page).unwrap();
        }
        file
    }

    #[test]
    fn long_parts_are_mapped_where_large_pages_fit() {
        let file = numbered(3 * LARGE_PAGE / PAGE);
        for (offset, length) in [
            (0, LARGE_PAGE),
            (PAGE, LARGE_PAGE),
            (LARGE_PAGE, 2 * LARGE_PAGE),
            (LARGE_PAGE - PAGE, LARGE_PAGE + PAGE),
        ] {
            let buffer = Buffer::map_large(&file, offset as u64, length).unwrap();
            // Now and then another test takes the address.
            let fits = || {
                let again = Buffer::map_large(&file, offset as u64, length).unwrap();
                again.start.addr() % LARGE_PAGE == offset % LARGE_PAGE
            };
            assert!((0..100).any(|_| fits()), "{offset:#x}+{length:#x}");
            for place in [0, length - PAGE] {
                let mut word = [0; 8];
                buffer.load(place, &mut word);
                assert_eq!(usize::from_ne_bytes(word), (offset + place) / PAGE);
            }
        }
    }

    #[test]
    fn short_parts_and_errors_are_as_before() {
        let file = numbered(4);
        let buffer = Buffer::map_large(&file, PAGE as u64, 2 * PAGE).unwrap();
        let mut word = [0; 8];
        buffer.load(PAGE, &mut word);
        assert_eq!(usize::from_ne_bytes(word), 2);

        for (offset, length) in [(0, 0), (100, LARGE_PAGE), (0, usize::MAX)] {
            assert!(
                Buffer::map_large(&file, offset, length).is_err(),
                "{offset}+{length}"
            );
        }
    }
}
