// SPDX-License-Identifier: GPL-2.0

//! File systems.
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h)

mod inode;

pub use self::inode::AnonInode;
