// SPDX-License-Identifier: GPL-2.0

//! Tables of the device mapper, which sysfs does not show.

use std::{fs::OpenOptions, io, mem, os::fd::AsRawFd};

use rustix::fs::makedev;

use super::{error::MembersError, geometry::Line};
use crate::root::wrong;

const CONTROL: &str = "/dev/mapper/control";
/// `DM_TABLE_STATUS`: direction, size of the head, `0xfd`, command 12.
const TABLE_STATUS: libc::Ioctl =
    ((3 << 30) | ((HEAD as u32) << 16) | (0xfd << 8) | 12) as libc::Ioctl;
/// `DM_STATUS_TABLE_FLAG`: the table rather than the state.
const TABLE: u32 = 1 << 4;
/// `DM_BUFFER_FULL_FLAG`.
const FULL: u32 = 1 << 8;

/// `struct dm_ioctl` without what follows it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Head {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

const HEAD: usize = mem::size_of::<Head>();
const _: () = assert!(HEAD == 312);
/// `struct dm_target_spec`: start and length in sectors, status, where the next one is, the kind.
const SPEC: usize = 40;

/// Returns the table of a device by its number, like `254:0`.
///
/// # Errors
///
/// If this process may not ask for it: it takes `CAP_SYS_ADMIN`.
pub fn table(number: &str) -> Result<Vec<Line>, MembersError> {
    read(number).map_err(|source| MembersError::Table {
        number: number.to_owned(),
        source,
    })
}

fn read(number: &str) -> io::Result<Vec<Line>> {
    let dev = number
        .split_once(':')
        .and_then(|(major, minor)| Some(makedev(major.parse().ok()?, minor.parse().ok()?)))
        .ok_or_else(|| wrong("no device number"))?;
    let control = OpenOptions::new().read(true).write(true).open(CONTROL)?;

    let mut size = 16 << 10;
    loop {
        let mut buffer = vec![0_u64; size / 8];
        let head = Head {
            version: [4, 0, 0],
            data_size: size as u32,
            data_start: HEAD as u32,
            target_count: 0,
            open_count: 0,
            flags: TABLE,
            event_nr: 0,
            padding: 0,
            dev,
            name: [0; 128],
            uuid: [0; 129],
            data: [0; 7],
        };
        let start = buffer.as_mut_ptr();
        // SAFETY: The buffer is longer than the head, and aligned for it.
        unsafe { start.cast::<Head>().write(head) };
        // SAFETY: The kernel reads and writes `data_size` bytes at most, which the buffer has.
        if unsafe { libc::ioctl(control.as_raw_fd(), TABLE_STATUS, start) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: As above; each bit pattern is a head.
        let head = unsafe { start.cast::<Head>().read() };
        if head.flags & FULL == 0 {
            let bytes: Vec<u8> = buffer.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let bytes = bytes.get(head.data_start as usize..).unwrap_or_default();
            return parse(bytes, head.target_count);
        }
        if size >= 16 << 20 {
            return Err(wrong("the table is too long"));
        }
        size *= 4;
    }
}

/// Reads so many lines.
fn parse(bytes: &[u8], count: u32) -> io::Result<Vec<Line>> {
    let mut lines = Vec::new();
    let mut at = 0;
    for _ in 0..count {
        let Some(spec) = bytes.get(at..at + SPEC) else {
            return Err(wrong("the table ends early"));
        };
        let long = |at: usize| u64::from_ne_bytes(spec[at..at + 8].try_into().expect("8 bytes"));
        let next = u32::from_ne_bytes(spec[20..24].try_into().expect("4 bytes"));
        lines.push(Line {
            start: long(0),
            length: long(8),
            kind: text(&spec[24..]),
            parameters: text(&bytes[at + SPEC..]),
        });
        // It counts from the first one.
        at = next as usize;
    }
    Ok(lines)
}

/// Returns what is before the first zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(start: u64, length: u64, next: u32, kind: &str, parameters: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(start.to_ne_bytes());
        bytes.extend(length.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(next.to_ne_bytes());
        bytes.extend(kind.as_bytes());
        bytes.resize(SPEC, 0);
        bytes.extend(parameters.as_bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn lines_follow_each_other() {
        let mut bytes = spec(0, 8, 0, "linear", "259:0 2048");
        let second = bytes.len() as u32;
        bytes[20..24].copy_from_slice(&second.to_ne_bytes());
        bytes.extend(spec(8, 16, 0, "mirror", "core 1 1024 1 259:1 0"));
        let lines = parse(&bytes, 2).unwrap();
        assert_eq!(lines[0].parameters, "259:0 2048");
        assert_eq!((lines[1].start, lines[1].length), (8, 16));
        assert_eq!(lines[1].kind, "mirror");
        assert!(parse(&bytes[..30], 1).is_err());
    }
}
