// SPDX-License-Identifier: GPL-2.0

//! Unit tests of those parts of the driver that are arithmetic only.

#![cfg(test)]

/// As in the driver, without the parts that need a kernel.
#[allow(dead_code, unreachable_pub)]
#[path = "."]
mod regions {
    #[path = "../../../src/regions/policy.rs"]
    pub(crate) mod policy;
    #[path = "../../../src/regions/range.rs"]
    pub(crate) mod range;
    #[path = "../../../src/regions/spec.rs"]
    pub(crate) mod spec;
}

#[allow(dead_code, unreachable_pub)]
#[path = "."]
mod nvme {
    #[path = "../../../src/nvme/cmb.rs"]
    pub(crate) mod cmb;
    #[path = "../../../src/nvme/regs.rs"]
    pub(crate) mod regs;
}

#[path = "../../../rust/kernel/p2pmem/pieces.rs"]
#[allow(unreachable_pub)]
mod pieces;

mod nvme_tests;
mod pieces_tests;
mod range_tests;
mod spec_tests;
