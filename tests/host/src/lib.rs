// SPDX-License-Identifier: GPL-2.0

//! Unit tests of those parts of the driver that are arithmetic only.

#![cfg(test)]

#[path = "../../../src/choice.rs"]
#[allow(dead_code, unreachable_pub)]
mod choice;
#[path = "../../../src/region.rs"]
#[allow(unreachable_pub)]
mod region;

/// As in the driver, without the parts that need a kernel.
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

mod choice_tests;
mod nvme_tests;
mod pieces_tests;
mod region_tests;
