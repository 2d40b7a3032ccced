// SPDX-License-Identifier: GPL-2.0

//! Writes of the CPU to memory.

use anyhow::Result;
use p2pmem::StagingBuffer;

/// Writes memory by the CPU, and waits until it is there: writes are posted, a read comes after
/// them.
pub fn put(staging: &mut StagingBuffer<'_>, bytes: &[u8]) -> Result<()> {
    let memory = staging.memory()?;
    memory.store(0, bytes);
    memory.load(bytes.len() - 8, &mut [0; 8]);
    Ok(())
}
