// SPDX-License-Identifier: GPL-2.0

//! Comparison of a copy with its source.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use p2pmem::{direct::DirectFile, Buffer};

use super::plan::CopyPlan;

/// Bytes of ordinary memory for a transfer.
const STEP: u64 = 1 << 20;

/// Result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// All is equal.
    Equal {
        /// Whether all bytes are the same, which proves nothing: lost data may be read as
        /// zeroes.
        uniform: bool,
    },
    /// Offset of the first difference.
    Differs(u64),
}

/// Reads what was copied and its copy into ordinary memory, and compares them. Stops early when
/// told to.
pub fn compare(
    source: &DirectFile,
    destination: &DirectFile,
    plan: &CopyPlan,
    bytes: u64,
    stop: &AtomicBool,
) -> Result<Comparison> {
    let mut first = None;
    let mut uniform = true;
    let mut left = Buffer::ordinary(STEP as usize)?;
    let mut right = Buffer::ordinary(STEP as usize)?;

    let mut done = 0;
    while done < bytes && !stop.load(Ordering::Relaxed) {
        let step = (bytes - done).min(STEP);
        let left = left.as_mut_slice(step as usize);
        let right = right.as_mut_slice(step as usize);
        source.read(left, plan.source_offset + done)?;
        destination.read(right, plan.destination_offset + done)?;
        if let Some(index) = first_difference(left, right) {
            return Ok(Comparison::Differs(done + index as u64));
        }
        let value = *first.get_or_insert(left[0]);
        uniform = uniform && left.iter().all(|byte| *byte == value);
        done += step;
    }

    Ok(Comparison::Equal { uniform })
}

fn first_difference(left: &[u8], right: &[u8]) -> Option<usize> {
    if left == right {
        return None;
    }
    left.iter().zip(right).position(|(a, b)| a != b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_found() {
        assert_eq!(first_difference(b"", b""), None);
        assert_eq!(first_difference(b"abc", b"abc"), None);
        assert_eq!(first_difference(b"abc", b"abd"), Some(2));
        assert_eq!(first_difference(b"xbc", b"abd"), Some(0));
    }
}
