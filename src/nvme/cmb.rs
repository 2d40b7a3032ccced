// SPDX-License-Identifier: GPL-2.0

//! Location of a Controller Memory Buffer. Arithmetic only, as regs.rs.

use super::regs::{
    Cmbloc,
    Cmbsz, //
};

/// Offset and length in bytes of the buffer in its BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Bytes from the start of the BAR.
    pub(crate) offset: u64,
    /// Length in bytes.
    pub(crate) size: u64,
}

/// Returns where the buffer is. [`None`] if there is none, or if the registers make no sense.
///
/// A controller may have more than its BAR shows; the rest cannot be reached.
pub(crate) fn span(location: Cmbloc, size: Cmbsz, bar_size: u64) -> Option<Span> {
    let unit = size.szu()?;
    let offset = location.ofst().checked_mul(unit)?;
    let room = bar_size.checked_sub(offset)?;
    // More than 64 bits of bytes are more than the BAR, too.
    let size = size.sz().saturating_mul(unit).min(room);

    (size != 0).then_some(Span { offset, size })
}
