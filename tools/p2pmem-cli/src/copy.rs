// SPDX-License-Identifier: GPL-2.0

//! Copying through device memory: direct reads into it, direct writes out of it.
//!
//! The data is cut into chunks. Each thread has memory for as many chunks as it may have in flight,
//! and takes the next chunk as soon as one of its own has arrived. So the chunks that were begun
//! are always the first ones, and once all of them have ended there is no gap. Holes of a file are
//! not read: the chunks are those of the parts that have data.

mod compare;
mod plan;
mod random;
mod run;
mod work;

pub use compare::{compare, Comparison};
pub use plan::CopyPlan;
pub use random::fill;
pub use run::{run, Summary};
