// SPDX-License-Identifier: GPL-2.0

//! Regions of BARs, and which of them the driver registers.
#![allow(dead_code)]

#[path = "../../../../src/regions/policy.rs"]
pub mod policy;
#[path = "../../../../src/regions/range.rs"]
pub mod range;
#[path = "../../../../src/regions/spec.rs"]
pub mod spec;
