// SPDX-License-Identifier: GPL-2.0

//! Files and block devices past the page cache.
//!
//! # Examples
//!
//! ```no_run
//! use std::path::Path;
//!
//! use p2pmem::{direct::DirectFile, Buffer};
//!
//! let file = DirectFile::source(Path::new("/srv/data"))?;
//! let mut memory = Buffer::ordinary(file.granule() as usize)?;
//! file.read(memory.as_mut_slice(file.granule() as usize), 0)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod direction;
mod error;
mod file;
mod transfer;

pub use direction::Direction;
pub use error::DirectError;
pub use file::DirectFile;
pub use transfer::{Completion, Transfer};
