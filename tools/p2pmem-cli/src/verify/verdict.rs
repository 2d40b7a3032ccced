// SPDX-License-Identifier: GPL-2.0

//! Verdicts on data that arrived.

use serde::Serialize;

/// Result of a transfer. Offsets are in bytes, from the start of the transfer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum DataVerdict {
    /// All data arrived.
    Equal,
    /// The target has what it had before: data did not arrive.
    Stale {
        /// Offset of the first byte.
        offset: u64,
    },
    /// There are only ones, as a device that is gone or a request that was aborted returns.
    AllOnes {
        /// Offset of the first byte.
        offset: u64,
    },
    /// There is something else.
    Garbage {
        /// Offset of the first byte.
        offset: u64,
    },
    /// The kernel or the drive refused.
    Refused {
        /// The error.
        reason: String,
    },
}

impl DataVerdict {
    /// Returns the verdict on a part for the whole, in which so many bytes are in front of the
    /// part.
    pub fn behind(self, bytes: u64) -> Self {
        match self {
            Self::Stale { offset } => Self::Stale {
                offset: offset + bytes,
            },
            Self::AllOnes { offset } => Self::AllOnes {
                offset: offset + bytes,
            },
            Self::Garbage { offset } => Self::Garbage {
                offset: offset + bytes,
            },
            Self::Equal | Self::Refused { .. } => self,
        }
    }
}

/// Judges what arrived in a target that had other data `before`. All are of the same length.
pub fn judge(expected: &[u8], found: &[u8], before: &[u8]) -> DataVerdict {
    const WORD: usize = 8;
    let words = || {
        expected
            .chunks(WORD)
            .zip(found.chunks(WORD))
            .zip(before.chunks(WORD))
            .enumerate()
            .filter(|(_, ((expected, found), _))| expected != found)
    };
    let Some((index, ((wanted, wrong), _))) = words().next() else {
        return DataVerdict::Equal;
    };
    let within = wanted.iter().zip(wrong).position(|(a, b)| a != b);
    let offset = (index * WORD + within.unwrap_or(0)) as u64;

    if words().all(|(_, ((_, found), before))| found == before) {
        DataVerdict::Stale { offset }
    } else if words().all(|(_, ((_, found), _))| found.iter().all(|byte| *byte == 0xff)) {
        DataVerdict::AllOnes { offset }
    } else {
        DataVerdict::Garbage { offset }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        fastrand::Rng::with_seed(seed).fill(&mut bytes);
        bytes
    }

    #[test]
    fn what_arrived_is_equal() {
        assert_eq!(
            judge(&random(1), &random(1), &random(2)),
            DataVerdict::Equal
        );
        let ones = [0xff; 4096];
        assert_eq!(judge(&ones, &ones, &random(2)), DataVerdict::Equal);
    }

    #[test]
    fn what_did_not_arrive_is_stale() {
        let (data, before) = (random(1), random(2));
        assert_eq!(
            judge(&data, &before, &before),
            DataVerdict::Stale { offset: 0 }
        );
        // Only a part did.
        let mut found = data.clone();
        found[512..1024].copy_from_slice(&before[512..1024]);
        assert_eq!(
            judge(&data, &found, &before),
            DataVerdict::Stale { offset: 512 }
        );
    }

    #[test]
    fn ones_are_seen() {
        let (data, before) = (random(1), random(2));
        let ones = vec![0xff; 4096];
        assert_eq!(
            judge(&data, &ones, &before),
            DataVerdict::AllOnes { offset: 0 }
        );
        let mut found = data.clone();
        found[4088..].fill(0xff);
        let offset = 4088;
        assert_eq!(
            judge(&data, &found, &before),
            DataVerdict::AllOnes { offset }
        );
    }

    #[test]
    fn garbage_is_seen_where_it_is() {
        let (data, before) = (random(1), random(2));
        assert_eq!(
            judge(&data, &random(3), &before),
            DataVerdict::Garbage { offset: 0 }
        );
        let mut found = data.clone();
        found[77] ^= 1;
        assert_eq!(
            judge(&data, &found, &before),
            DataVerdict::Garbage { offset: 77 }
        );
        // Ones here and old data there are neither.
        found[80..88].fill(0xff);
        found[88..96].copy_from_slice(&before[88..96]);
        assert_eq!(
            judge(&data, &found, &before),
            DataVerdict::Garbage { offset: 77 }
        );
        // Right data at another place.
        let mut moved = data.clone();
        moved.rotate_left(512);
        assert!(matches!(
            judge(&data, &moved, &before),
            DataVerdict::Garbage { .. }
        ));
    }
}
