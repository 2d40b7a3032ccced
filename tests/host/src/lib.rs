// SPDX-License-Identifier: GPL-2.0

//! Unit tests of those parts of the driver that are arithmetic only.

#![cfg(test)]

#[path = "../../../src/region.rs"]
#[allow(unreachable_pub)]
mod region;

mod region_tests;
