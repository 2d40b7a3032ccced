// SPDX-License-Identifier: GPL-2.0

//! CpuAccess by the CPU to the memory before devices use it.

use std::collections::BTreeMap;

use anyhow::{ensure, Result};
use p2pmem::Buffer;

/// An access of the CPU to memory. Widths are in bytes: 1, 2, 4, or a multiple of 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuAccess {
    /// Writes zeroes to so many bytes.
    Clear {
        /// Bytes of a store.
        width: usize,
        /// Bytes in all.
        bytes: usize,
    },
    /// Reads at random places.
    Read {
        /// Bytes of a load.
        width: usize,
        /// Number of places.
        count: usize,
    },
    /// Writes random data to random places, and reads it back.
    Test {
        /// Bytes of a store, and of a load.
        width: usize,
        /// Number of places.
        count: usize,
    },
}

impl CpuAccess {
    /// Reads `WIDTH[:BYTES]`, for [`CpuAccess::Clear`]. Without the second a page is meant.
    pub fn parse_clear(text: &str) -> Result<Self, String> {
        let (width, bytes) = parse(text, 4096)?;
        if bytes % width != 0 {
            return Err(format!("{bytes} is not a multiple of {width}"));
        }
        Ok(Self::Clear { width, bytes })
    }

    /// Reads `WIDTH[:COUNT]`, for [`CpuAccess::Test`], or [`CpuAccess::Read`] if the width is
    /// negative. Without the second 64 places are meant.
    pub fn parse_test(text: &str) -> Result<Self, String> {
        if let Some(text) = text.strip_prefix('-') {
            let (width, count) = parse(text, 64)?;
            return Ok(Self::Read { width, count });
        }
        let (width, count) = parse(text, 64)?;
        Ok(Self::Test { width, count })
    }
}

fn parse(text: &str, default: usize) -> Result<(usize, usize), String> {
    let (width, number) = text
        .split_once(':')
        .map_or((text, None), |(width, number)| (width, Some(number)));
    let wrong = || format!("`{text}` is not a width with a number, like 8:64");
    let width: usize = width.parse().map_err(|_| wrong())?;
    let number = number.map_or(Ok(default), |number| number.parse().map_err(|_| wrong()))?;
    if !matches!(width, 1 | 2 | 4) && (width % 8 != 0 || width == 0 || width > 4096) {
        return Err(format!(
            "{width} is not a width: write 1, 2, 4, or a multiple of 8 up to 4096"
        ));
    }
    Ok((width, number))
}

/// Does it with the memory from `start` on.
pub fn run(memory: &mut Buffer, start: usize, access: CpuAccess, seed: u64) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let room = memory.len() - start;
    let (CpuAccess::Clear { width, .. }
    | CpuAccess::Read { width, .. }
    | CpuAccess::Test { width, .. }) = access;
    let places = room / width;
    ensure!(
        places > 0,
        "the memory is shorter than {width} bytes: choose a larger --chunk"
    );

    match access {
        CpuAccess::Clear { width, bytes } => {
            ensure!(
                bytes <= room,
                "the memory has {room} bytes: choose less for --init, or a larger --chunk"
            );
            let zeroes = vec![0; width];
            for offset in (0..bytes).step_by(width) {
                memory.store(start + offset, &zeroes);
            }
        }
        CpuAccess::Read { width, count } => {
            let mut found = vec![0; width];
            for _ in 0..count {
                memory.load(start + random.usize(..places) * width, &mut found);
            }
        }
        CpuAccess::Test { width, count } => {
            // The last value written to each place.
            let mut written = BTreeMap::new();
            for _ in 0..count {
                let offset = start + random.usize(..places) * width;
                let mut data = vec![0; width];
                random.fill(&mut data);
                memory.store(offset, &data);
                written.insert(offset, data);
            }
            let mut found = vec![0; width];
            for (offset, data) in written {
                memory.load(offset, &mut found);
                ensure!(
                    found == data,
                    "the CPU wrote {data:02x?} to the memory at {offset}, and read {found:02x?}: \
                     the device does not keep data"
                );
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_are_read() {
        assert_eq!(
            CpuAccess::parse_test("8"),
            Ok(CpuAccess::Test {
                width: 8,
                count: 64
            })
        );
        assert_eq!(
            CpuAccess::parse_test("-4:9"),
            Ok(CpuAccess::Read { width: 4, count: 9 })
        );
        assert_eq!(
            CpuAccess::parse_clear("64"),
            Ok(CpuAccess::Clear {
                width: 64,
                bytes: 4096
            })
        );
        for text in ["", "0", "3", "12", "8:", "8:x", ":8", "8192", "--8"] {
            assert!(CpuAccess::parse_test(text).is_err(), "{text}");
        }
        assert!(CpuAccess::parse_clear("-8").is_err());
        assert!(CpuAccess::parse_clear("16:8").is_err());
    }

    #[test]
    fn each_width_keeps_its_data() {
        for width in [1, 2, 4, 8, 24, 4096] {
            let mut memory = Buffer::ordinary(8192).unwrap();
            run(&mut memory, 4096, CpuAccess::Test { width, count: 99 }, 1).unwrap();
            run(&mut memory, 4096, CpuAccess::Read { width, count: 99 }, 1).unwrap();
            assert!(memory.as_mut_slice(4096).iter().all(|byte| *byte == 0));
            assert!(memory.as_mut_slice(8192).iter().any(|byte| *byte != 0));
        }
    }

    #[test]
    fn what_is_cleared_is_cleared() {
        let mut memory = Buffer::ordinary(8192).unwrap();
        memory.as_mut_slice(8192).fill(7);
        run(
            &mut memory,
            4096,
            CpuAccess::Clear {
                width: 2,
                bytes: 1000,
            },
            1,
        )
        .unwrap();
        let bytes = memory.as_mut_slice(8192);
        assert!(bytes[4096..5096].iter().all(|byte| *byte == 0));
        assert!(bytes[..4096]
            .iter()
            .chain(&bytes[5096..])
            .all(|byte| *byte == 7));
        let more = CpuAccess::Clear {
            width: 8,
            bytes: 4104,
        };
        assert!(run(&mut memory, 4096, more, 1).is_err());
    }
}
