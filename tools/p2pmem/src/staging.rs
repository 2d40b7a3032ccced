// SPDX-License-Identifier: GPL-2.0

//! Memory that direct I/O goes through, by three interfaces: calls, a ring, and a ring that has the
//! memory in its buffer table.

mod buffer;
mod error;
mod io;

pub use buffer::StagingBuffer;
pub use error::StagingError;
pub use io::Io;
