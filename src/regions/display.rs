// SPDX-License-Identifier: GPL-2.0

//! Lets the kernel print what those parts say that are free of kernel types.

use kernel::fmt;

use crate::{
    choice,
    region, //
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
    choice::Address,
    choice::Choices,
    choice::Mistake<'_>,
    region::Content,
    region::Refusal,
);
