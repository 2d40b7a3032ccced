// SPDX-License-Identifier: GPL-2.0

//! Memory of NVMe controllers.
#![allow(dead_code)]

#[path = "../../../../src/nvme/cmb.rs"]
pub mod cmb;
#[path = "../../../../src/nvme/regs.rs"]
pub mod regs;
