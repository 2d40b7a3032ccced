// SPDX-License-Identifier: GPL-2.0

//! Which BAR to register if neither the ID table nor the administrator names one.
//!
//! No kernel types: the build machine tests this as well.

use super::range::{
    Bar,
    BarKind,
    RegionError, //
};

/// Returns the BAR that most likely is memory, of a device without a specification: the
/// largest prefetchable 64-bit one, or else the largest memory BAR.
///
/// One without an address counts as small, but may be chosen: that it has none is the reason then.
pub(crate) fn default_bar(bars: &[Bar]) -> Result<&Bar, RegionError> {
    let rank = |bar: &&Bar| match bar.kind {
        BarKind::Memory { prefetchable, wide } => Some((prefetchable && wide, bar.size)),
        BarKind::Absent | BarKind::Io => None,
    };

    bars.iter()
        .filter(|bar| rank(bar).is_some())
        .max_by_key(rank)
        .ok_or(RegionError::NoMemory)
}
