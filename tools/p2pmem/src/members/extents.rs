// SPDX-License-Identifier: GPL-2.0

//! Locations of a file's data on the block device of its file system.

use std::{fs::File, io, mem, os::fd::AsRawFd, path::Path};

use super::error::{ExtentError, MembersError};

/// `FS_IOC_FIEMAP`: direction, size of the head, `f`, command 11.
const FIEMAP: libc::Ioctl = ((3 << 30) | ((HEAD as u32) << 16) | (0x66 << 8) | 11) as libc::Ioctl;
/// `FIEMAP_FLAG_SYNC`: first write out what is only in memory.
const SYNC: u32 = 1;
/// The flags of an extent that do not keep its bytes from being where it says: it is the last one,
/// it was merged from several, it is shared.
const HARMLESS: u32 = 0x1 | 0x1000 | 0x2000;

/// `struct fiemap` without what follows it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Head {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
}

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    more: [u32; 3],
}

const HEAD: usize = mem::size_of::<Head>();
const _: () = assert!(HEAD == 32 && mem::size_of::<Extent>() == 56);
const MOST: usize = 256;

#[repr(C)]
struct Request {
    head: Head,
    extents: [Extent; MOST],
}

/// Returns where a range of a file is: offsets in the file and on the device, and lengths.
///
/// # Errors
///
/// If the file system does not tell, or has the data in another form.
pub fn of(path: &Path, offset: u64, length: u64) -> Result<Vec<(u64, u64, u64)>, MembersError> {
    let file = File::open(path).map_err(|source| MembersError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut request = Request {
        head: Head {
            start: offset,
            length,
            flags: SYNC,
            mapped_extents: 0,
            extent_count: MOST as u32,
            reserved: 0,
        },
        extents: [Extent::default(); MOST],
    };
    // SAFETY: The kernel writes as many extents as the request says that there is room for.
    if unsafe { libc::ioctl(file.as_raw_fd(), FIEMAP, &raw mut request) } != 0 {
        return Err(MembersError::NoExtents {
            path: path.to_owned(),
            source: io::Error::last_os_error(),
        });
    }
    let count = request.head.mapped_extents as usize;
    let extents = &request.extents[..count.min(MOST)];
    cut(extents, offset, length).map_err(|source| MembersError::Extents {
        path: path.to_owned(),
        source,
    })
}

/// Cuts extents to a range, all of which they must have.
fn cut(extents: &[Extent], offset: u64, length: u64) -> Result<Vec<(u64, u64, u64)>, ExtentError> {
    let end = offset + length;
    let mut at = offset;
    let mut ranges = Vec::new();
    for extent in extents {
        if extent.flags & !HARMLESS != 0 {
            return Err(ExtentError::Flags(extent.flags));
        }
        if extent.logical > at {
            return Err(ExtentError::Hole(at));
        }
        let skipped = at - extent.logical;
        if skipped >= extent.length || at >= end {
            continue;
        }
        let length = (extent.length - skipped).min(end - at);
        ranges.push((at, extent.physical + skipped, length));
        at += length;
    }
    match at == end {
        true => Ok(ranges),
        false => Err(ExtentError::End(at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(logical: u64, physical: u64, length: u64, flags: u32) -> Extent {
        Extent {
            logical,
            physical,
            length,
            flags,
            ..Extent::default()
        }
    }

    #[test]
    fn extents_are_cut_to_the_range() {
        let extents = [extent(0, 1 << 20, 8192, 0), extent(8192, 4096, 8192, 1)];
        assert_eq!(
            cut(&extents, 4096, 8192).unwrap(),
            [(4096, (1 << 20) + 4096, 4096), (8192, 4096, 4096)]
        );
        assert!(cut(&extents, 8192, 16384).is_err());
        assert!(cut(&extents[1..], 0, 4096).is_err());
        // Not written yet, or inline.
        for flags in [0x800, 0x200] {
            assert!(cut(&[extent(0, 0, 4096, flags)], 0, 4096).is_err());
        }
    }
}
