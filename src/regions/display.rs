// SPDX-License-Identifier: GPL-2.0

//! Lets the kernel print what those parts say that are free of kernel types.

use kernel::fmt;

use super::{
    range,
    spec, //
};

macro_rules! as_core_does {
    ($($type:ty),* $(,)?) => {
        $(impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                core::fmt::Display::fmt(self, f)
            }
        })*
    };
}

as_core_does!(
    spec::Address,
    spec::RegionSpecs,
    spec::ParseError<'_>,
    range::MemoryKind,
    range::RegionError,
);
