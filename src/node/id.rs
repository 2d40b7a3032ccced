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

/// Whether each number is in use.
static IN_USE: [Atomic<u32>; MAX as usize] = [const { Atomic::new(0) }; MAX as usize];

/// The number of one node. Dropping it frees the number.
pub(crate) struct NodeId(u32);

impl NodeId {
    /// Takes the lowest free number, or returns `ENOSPC`.
    pub(crate) fn take_lowest() -> Result<Self> {
        let mut flags = (0..).zip(&IN_USE);
        let free = flags.find(|(_, in_use)| in_use.xchg(1, Relaxed) == 0);

        free.map(|(number, _)| Self(number)).ok_or(ENOSPC)
    }

    /// Returns the number.
    pub(crate) fn get(&self) -> u32 {
        self.0
    }
}

impl Drop for NodeId {
    fn drop(&mut self) {
        if let Some(in_use) = IN_USE.get(self.0 as usize) {
            in_use.store(0, Relaxed);
        }
    }
}
