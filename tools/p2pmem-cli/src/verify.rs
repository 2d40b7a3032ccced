// SPDX-License-Identifier: GPL-2.0

//! Proves by data that a drive and device memory reach each other: some platforms report success
//! and move garbage, or nothing.
//!
//! Each direction is judged for itself, against what goes through ordinary memory. Before a
//! transfer its target is given other data, so that what did not arrive is seen.

mod members;
mod put;
mod report;
mod run;
mod verdict;

pub use put::put;
pub use report::{Data, VerifyCheck, VerifyDirection, VerifyReport};
pub use run::{run, VerifyPlan};
pub use verdict::{judge, DataVerdict};
