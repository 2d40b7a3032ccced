// SPDX-License-Identifier: GPL-2.0

//! Device memory that has a descriptor.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{seek, SeekFrom},
    ioctl::{ioctl, opcode, IntegerSetter, Opcode},
};

use crate::buffer::Buffer;

/// Device memory as a dma-buf. It can be mapped any number of times, sent to other processes, and
/// given to devices. The memory goes back to the device when its last user is gone.
///
/// # Examples
///
/// ```no_run
/// use p2pmem::Provider;
///
/// let memory = Provider::open("/dev/p2pmem0")?.alloc(2 << 20, 0)?;
/// memory.set_name(c"frames")?;
/// let second_half = memory.map(1 << 20, 1 << 20)?;
/// assert_eq!(second_half.len(), 1 << 20);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Handle(OwnedFd);

impl Handle {
    /// Returns the length in bytes.
    pub fn size(&self) -> io::Result<u64> {
        Ok(seek(&self.0, SeekFrom::End(0))?)
    }

    /// Maps a part, in bytes. A part of 2 MiB or more is mapped where large pages fit.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the part is not within the memory, or does not start at a multiple of the page
    /// size; `ENODEV` if the device is gone.
    pub fn map(&self, offset: u64, length: usize) -> io::Result<Buffer> {
        Buffer::map_large(&self.0, offset, length)
    }

    /// Gives the memory a name of up to 31 bytes, which those see who look at all dma-bufs.
    pub fn set_name(&self, name: &CStr) -> io::Result<()> {
        /// `DMA_BUF_SET_NAME_B` of linux/dma-buf.h: `_IOW('b', 1, __u64)`, with a pointer as
        /// argument.
        const SET_NAME: Opcode = opcode::write::<u64>(b'b', 1);

        let text = name.as_ptr().cast_mut().cast();
        // SAFETY: The kernel reads the text that the argument points to.
        unsafe { ioctl(&self.0, IntegerSetter::<SET_NAME>::new_pointer(text))? };
        Ok(())
    }
}

impl From<OwnedFd> for Handle {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Handle> for OwnedFd {
    fn from(handle: Handle) -> Self {
        handle.0
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
