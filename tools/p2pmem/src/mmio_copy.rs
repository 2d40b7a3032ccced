// SPDX-License-Identifier: GPL-2.0

//! Copies between ordinary memory and device memory by the CPU, in the widest pieces that each
//! processor of the architecture has.
//!
//! Each access to memory that is not cached becomes a transaction on the bus of its own: the fewer
//! the better. Stores to memory that combines writes are collected, and go out as whole lines.

use std::ptr;

use crate::buffer::Buffer;

/// Bytes of an access. Its address is a multiple of that.
const WIDTH: usize = 16;

/// Copies `data` to `offset` of a buffer, past the caches.
///
/// When this returns, a fence has been made: what the CPU stores from then on, like a doorbell of a
/// device, is not seen before the data. Data that the CPU itself stores in another way is not
/// ordered by the fence.
///
/// # Panics
///
/// If the data does not fit.
pub fn store(buffer: &mut Buffer, offset: usize, data: &[u8]) {
    check(buffer, offset, data.len());
    let to = buffer.as_ptr().wrapping_add(offset);
    let (head, body, tail) = split(to, data.len());

    for index in (0..head).chain(data.len() - tail..data.len()) {
        // SAFETY: Within the buffer.
        unsafe { to.add(index).write_volatile(data[index]) };
    }
    // SAFETY: Within the buffer, aligned, and a number of whole pieces.
    unsafe { arch::store(to.add(head), &data[head..head + body]) };
    arch::fence();
}

/// Copies from `offset` of a buffer to `data`.
///
/// # Panics
///
/// If the buffer is shorter.
pub fn load(buffer: &Buffer, offset: usize, data: &mut [u8]) {
    check(buffer, offset, data.len());
    let from = buffer.as_ptr().wrapping_add(offset);
    let (head, body, tail) = split(from, data.len());

    for index in (0..head).chain(data.len() - tail..data.len()) {
        // SAFETY: Within the buffer.
        data[index] = unsafe { from.add(index).read_volatile() };
    }
    // SAFETY: Within the buffer, aligned, and a number of whole pieces.
    unsafe { arch::load(from.add(head), &mut data[head..head + body]) };
}

fn check(buffer: &Buffer, offset: usize, length: usize) {
    let end = offset.checked_add(length);
    assert!(
        end.is_some_and(|end| end <= buffer.len()),
        "beyond the buffer"
    );
}

/// Splits a length into the bytes before the first aligned piece, those of whole pieces, and the
/// rest.
fn split(start: *const u8, length: usize) -> (usize, usize, usize) {
    let head = start.align_offset(WIDTH).min(length);
    let tail = (length - head) % WIDTH;

    (head, length - head - tail, tail)
}

#[cfg(target_arch = "x86_64")]
mod arch {
    use super::{ptr, WIDTH};
    use std::arch::x86_64::{
        __m128i, _mm_loadu_si128, _mm_sfence, _mm_storeu_si128, _mm_stream_load_si128,
        _mm_stream_si128,
    };

    /// # Safety
    ///
    /// `to` is aligned, and as many bytes as there are data can be written there: whole pieces.
    pub unsafe fn store(to: *mut u8, data: &[u8]) {
        for (index, piece) in data.chunks_exact(WIDTH).enumerate() {
            // SAFETY: As the caller promises; the piece is as long as what is read of it. A fence
            // follows before the function that is public returns.
            unsafe {
                let value = _mm_loadu_si128(piece.as_ptr().cast());
                _mm_stream_si128(to.add(index * WIDTH).cast(), value);
            }
        }
    }

    /// # Safety
    ///
    /// `from` is aligned, and as many bytes as `data` has can be read there: whole pieces.
    pub unsafe fn load(from: *const u8, data: &mut [u8]) {
        if is_x86_feature_detected!("sse4.1") {
            // SAFETY: The processor has it; else as the caller promises.
            unsafe { load_streaming(from, data) }
            return;
        }
        for (index, piece) in data.chunks_exact_mut(WIDTH).enumerate() {
            // SAFETY: As the caller promises; the piece is as long as what is written to it.
            unsafe {
                let value = ptr::read_volatile(from.add(index * WIDTH).cast::<__m128i>());
                _mm_storeu_si128(piece.as_mut_ptr().cast(), value);
            }
        }
    }

    /// From memory that combines writes, a whole line is read at once.
    ///
    /// # Safety
    ///
    /// As [`load`].
    #[target_feature(enable = "sse4.1")]
    unsafe fn load_streaming(from: *const u8, data: &mut [u8]) {
        for (index, piece) in data.chunks_exact_mut(WIDTH).enumerate() {
            // SAFETY: As the caller promises; the piece is as long as what is written to it.
            unsafe {
                let value = _mm_stream_load_si128(from.add(index * WIDTH).cast());
                _mm_storeu_si128(piece.as_mut_ptr().cast(), value);
            }
        }
    }

    pub fn fence() {
        // SAFETY: Each processor of the architecture has it.
        unsafe { _mm_sfence() };
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod arch {
    use super::ptr;
    use std::sync::atomic;

    const WORD: usize = size_of::<u64>();

    /// # Safety
    ///
    /// `to` is aligned, and as many bytes as there are data can be written there: whole pieces.
    pub unsafe fn store(to: *mut u8, data: &[u8]) {
        for (index, word) in data.chunks_exact(WORD).enumerate() {
            let word = u64::from_ne_bytes(word.try_into().expect("so long"));
            // SAFETY: As the caller promises.
            unsafe { ptr::write_volatile(to.add(index * WORD).cast(), word) };
        }
    }

    /// # Safety
    ///
    /// `from` is aligned, and as many bytes as `data` has can be read there: whole pieces.
    pub unsafe fn load(from: *const u8, data: &mut [u8]) {
        for (index, word) in data.chunks_exact_mut(WORD).enumerate() {
            // SAFETY: As the caller promises.
            let value: u64 = unsafe { ptr::read_volatile(from.add(index * WORD).cast()) };
            word.copy_from_slice(&value.to_ne_bytes());
        }
    }

    pub fn fence() {
        atomic::fence(atomic::Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_loaded_at_any_place() {
        let mut buffer = Buffer::ordinary(4096).unwrap();
        for (offset, length) in [
            (0, 0),
            (0, 4096),
            (1, 1),
            (15, 2),
            (16, 16),
            (7, 100),
            (4095, 1),
        ] {
            let data: Vec<u8> = (0..length)
                .map(|index| (index * 7 + offset) as u8)
                .collect();
            buffer.as_mut_slice(4096).fill(0xff);
            store(&mut buffer, offset, &data);
            let mut found = vec![0; length];
            load(&buffer, offset, &mut found);
            assert_eq!(found, data);
            // Bytes beside the range were not touched.
            let all = buffer.as_mut_slice(4096);
            assert!(all[..offset].iter().all(|&byte| byte == 0xff));
            assert!(all[offset + length..].iter().all(|&byte| byte == 0xff));
        }
    }

    #[test]
    #[should_panic(expected = "beyond the buffer")]
    fn nothing_is_stored_beyond_the_buffer() {
        store(&mut Buffer::ordinary(4096).unwrap(), 4095, &[0; 2]);
    }
}
