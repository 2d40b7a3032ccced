// SPDX-License-Identifier: GPL-2.0

//! Policy of the driver, without the parts that need a kernel: the driver's own files.

pub mod nvme;
pub mod regions;
