// SPDX-License-Identifier: GPL-2.0

//! The N of `/dev/p2pmemN`.

use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

/// How many providers there can be.
pub(crate) const MAX: u32 = 256;

const BITS: u32 = u64::BITS;

/// A bit for each number that is in use.
static IN_USE: [Atomic<u64>; (MAX / BITS) as usize] =
    [const { Atomic::new(0) }; (MAX / BITS) as usize];

/// The number of one node. Dropping it frees the number.
pub(crate) struct NodeId(u32);

impl NodeId {
    /// Takes the lowest free number, or returns `ENOSPC`.
    pub(crate) fn take_lowest() -> Result<Self> {
        for (index, word) in (0..).zip(&IN_USE) {
            let mut old = word.load(Relaxed);
            while old != u64::MAX {
                let bit = old.trailing_ones();
                match word.cmpxchg(old, old | (1 << bit), Relaxed) {
                    Ok(_) => return Ok(Self(index * BITS + bit)),
                    Err(now) => old = now,
                }
            }
        }

        Err(ENOSPC)
    }

    /// Returns the number.
    pub(crate) fn get(&self) -> u32 {
        self.0
    }
}

impl Drop for NodeId {
    fn drop(&mut self) {
        if let Some(word) = IN_USE.get((self.0 / BITS) as usize) {
            let mut old = word.load(Relaxed);
            while let Err(now) = word.cmpxchg(old, old & !(1 << (self.0 % BITS)), Relaxed) {
                old = now;
            }
        }
    }
}
