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
    /// The others, if there can be any.
    rest: Option<KBox<KVVec<Atomic<u64>>>>,
}

impl Bits {
    /// Creates an empty set of numbers below `limit`. `ENOMEM`; the memory is charged to the
    /// caller's cgroup.
    pub(super) fn new(limit: usize) -> Result<Self> {
        let words = limit.div_ceil(WORD).saturating_sub(1);
        let rest = if words == 0 {
            None
        } else {
            let mut rest = KVVec::with_capacity(words, GFP_KERNEL_ACCOUNT)?;
            for _ in 0..words {
                rest.push(Atomic::new(0), GFP_KERNEL_ACCOUNT)?;
            }
            Some(KBox::new(rest, GFP_KERNEL_ACCOUNT)?)
        };

        Ok(Self {
            first: Atomic::new(0),
            rest,
        })
    }

    fn word(&self, number: usize) -> &Atomic<u64> {
        let rest = (number / WORD).checked_sub(1).zip(self.rest.as_ref());

        // A number beyond the limit would be a mistake of the caller, and is one of the first word.
        rest.and_then(|(index, rest)| rest.get(index))
            .unwrap_or(&self.first)
    }

    /// Returns whether a number is in the set. What was done before it was added has been done.
    pub(super) fn has(&self, number: usize) -> bool {
        self.word(number).load(Acquire) & (1 << (number % WORD)) != 0
    }

    /// Returns whether there is no number in the set.
    pub(super) fn is_empty(&self) -> bool {
        let is_empty = |word: &Atomic<u64>| word.load(Acquire) == 0;

        is_empty(&self.first) && self.rest.iter().all(|rest| rest.iter().all(is_empty))
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
