// SPDX-License-Identifier: GPL-2.0

//! Text that processes read from attributes, and write to them.
//!
//! C header: [`include/linux/sysfs.h`](srctree/include/linux/sysfs.h)

use kernel::{
    error::from_result,
    page::PAGE_SIZE,
    prelude::*,
    str::CString, //
};

use core::{
    ptr,
    slice,
    str, //
};

/// Gives a text of less than a page to a process, and returns what the C side is to be told: its
/// length, or an error.
///
/// # Safety
///
/// `page` must be valid for writing a page.
pub(crate) unsafe fn show(page: *mut c_char, text: impl FnOnce() -> Result<CString>) -> isize {
    from_result(|| {
        let text = text()?;
        let bytes = text.to_bytes();
        if bytes.len() >= PAGE_SIZE {
            return Err(EOVERFLOW);
        }

        // SAFETY: By the safety requirements, the page is that long.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), page.cast(), bytes.len()) };
        Ok(isize::try_from(bytes.len())?)
    })
}

/// Gives a part of a text to a process, from `offset` on, and returns what the C side is to be
/// told: how many bytes, 0 at the end, or an error.
///
/// # Safety
///
/// `to` must be valid for writing `size` bytes.
pub(crate) unsafe fn show_part(
    to: *mut c_char,
    size: usize,
    offset: i64,
    text: impl FnOnce() -> Result<KVVec<u8>>,
) -> isize {
    from_result(|| {
        let text = text()?;
        let rest = text.get(usize::try_from(offset)?..).unwrap_or(&[]);
        let length = rest.len().min(size);

        // SAFETY: By the safety requirements, and the source is at least that long.
        unsafe { ptr::copy_nonoverlapping(rest.as_ptr(), to.cast(), length) };
        Ok(isize::try_from(length)?)
    })
}

/// Takes what a process wrote, and returns what the C side is to be told: its length, or an error.
/// `EINVAL` if it is no text.
///
/// # Safety
///
/// `text` must be valid for reading `size` bytes.
pub(crate) unsafe fn store(
    text: *const c_char,
    size: usize,
    take: impl FnOnce(&str) -> Result,
) -> isize {
    // SAFETY: By the safety requirements.
    let bytes = unsafe { slice::from_raw_parts(text.cast(), size) };

    from_result(|| {
        take(str::from_utf8(bytes).map_err(|_| EINVAL)?)?;
        Ok(isize::try_from(size)?)
    })
}
