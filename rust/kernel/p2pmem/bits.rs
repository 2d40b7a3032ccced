// SPDX-License-Identifier: GPL-2.0

//! A set of small numbers that several threads change at once.

use kernel::{
    alloc::KVVec,
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Relaxed,
        Release, //
    }, //
};

const WORD: usize = u64::BITS as usize;

/// A set of numbers below a limit. The first 64 need no memory of their own.
pub(super) struct Bits {
    first: Atomic<u64>,
    rest: KVVec<Atomic<u64>>,
}

impl Bits {
    /// Creates an empty set of numbers below `limit`. `ENOMEM`; the memory is charged to the caller's cgroup.
    pub(super) fn new(limit: usize) -> Result<Self> {
        let words = limit.div_ceil(WORD).saturating_sub(1);
        let mut rest = KVVec::new();
        if words != 0 {
            rest.reserve(words, GFP_KERNEL_ACCOUNT)?;
            for _ in 0..words {
                rest.push(Atomic::new(0), GFP_KERNEL_ACCOUNT)?;
            }
        }

        Ok(Self {
            first: Atomic::new(0),
            rest,
        })
    }

    fn word(&self, number: usize) -> &Atomic<u64> {
        match (number / WORD).checked_sub(1) {
            None => &self.first,
            // A number beyond the limit would be a mistake of the caller, and is one of the first word.
            Some(index) => self.rest.get(index).unwrap_or(&self.first),
        }
    }

    /// Returns whether a number is in the set. What was done before it was added has been done.
    pub(super) fn has(&self, number: usize) -> bool {
        self.word(number).load(Acquire) & (1 << (number % WORD)) != 0
    }

    /// Adds a number. Callers must not add and remove numbers at the same time.
    pub(super) fn add(&self, number: usize) {
        let word = self.word(number);

        word.store(word.load(Relaxed) | 1 << (number % WORD), Release);
    }

    /// Removes a number.
    pub(super) fn remove(&mut self, number: usize) {
        let word = self.word(number);

        word.store(word.load(Relaxed) & !(1 << (number % WORD)), Relaxed);
    }
}
