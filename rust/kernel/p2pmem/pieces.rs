// SPDX-License-Identifier: GPL-2.0

//! How a run of memory is divided into pieces. Arithmetic only.

use core::ops::Range;

/// The pieces of a run: its parts that lie in one aligned span of a large page each.
///
/// Only the first and the last piece can be shorter than a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pieces {
    /// Length of the run, in bytes.
    size: usize,
    /// How far the run starts behind the start of a span, in bytes.
    skew: u32,
    /// Bytes of a span, as a power of two.
    shift: u32,
}

impl Pieces {
    /// Divides the run of `size` bytes, at least one, that starts at `address`, at the borders of
    /// aligned spans of `span` bytes, a power of two below 4 GiB.
    pub(crate) fn new(address: u64, size: usize, span: usize) -> Self {
        Self {
            size,
            // CAST: Less than a span, which is less than 4 GiB.
            skew: (address & (span as u64 - 1)) as u32,
            shift: span.trailing_zeros(),
        }
    }

    /// Returns the length of the run, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Returns how many pieces there are.
    pub(crate) fn count(&self) -> usize {
        self.at(self.size - 1) + 1
    }

    /// Returns which piece has the byte at `offset` from the start of the run.
    pub(crate) fn at(&self, offset: usize) -> usize {
        (self.skew as usize + offset) >> self.shift
    }

    /// Returns the bytes of a piece, counted from the start of the run.
    pub(crate) fn range(&self, index: usize) -> Range<usize> {
        let skew = self.skew as usize;
        let start = (index << self.shift).saturating_sub(skew);
        let end = ((index + 1) << self.shift)
            .saturating_sub(skew)
            .min(self.size);

        start..end
    }

    /// Returns which pieces have bytes of `range`, which is not empty.
    pub(crate) fn covering(&self, range: &Range<usize>) -> Range<usize> {
        self.at(range.start)..self.at(range.end - 1) + 1
    }

    /// Returns whether a piece is a whole span.
    pub(crate) fn is_whole(&self, index: usize) -> bool {
        self.range(index).len() == 1 << self.shift
    }

    /// Returns how many bytes are in pieces that are whole spans.
    pub(crate) fn bytes_in_whole(&self) -> usize {
        let last = self.count() - 1;
        let broken =
            usize::from(!self.is_whole(0)) + usize::from(last != 0 && !self.is_whole(last));

        self.count().saturating_sub(broken) << self.shift
    }
}
