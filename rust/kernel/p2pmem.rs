// SPDX-License-Identifier: GPL-2.0

//! Peer-to-peer memory: from a run of bytes in a device to pages that any subsystem may refer to.
//!
//! Memory from a pool starts as [`PoolMemory`]. Its owner is the kernel, which can give it back at
//! any time. To be mapped to user space it becomes an [`Allocation`], whose pages are reference
//! counted, in large folios where that is possible. There is no way back, since a page that was
//! once visible may be referred to by DMA that is under way. Each conversion consumes what it
//! converts, so that memory whose pages are in use cannot be freed by mistake.
//!
//! C header: [`include/linux/pci-p2pdma.h`](srctree/include/linux/pci-p2pdma.h)

mod allocation;
mod bits;
mod pieces;
mod pool_memory;
mod sg_table;

pub use allocation::Allocation;
pub use pool_memory::PoolMemory;
pub use sg_table::{
    MappedSgTable,
    P2pSgTable, //
};
