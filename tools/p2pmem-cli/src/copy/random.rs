// SPDX-License-Identifier: GPL-2.0

//! Random data, in memory and in files.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{ensure, Result};
use p2pmem::{
    direct::{DirectFile, Direction},
    size, Buffer, StagingBuffer,
};

use crate::direct_io::check_range;

/// Makes the seed of data that is to be overwritten differ from that of data that is to arrive.
pub const SPOILED: u64 = 0x5f0b_11ed;

/// Has the CPU fill memory with random data.
pub fn spoil(staging: &mut StagingBuffer<'_>, seed: u64) -> Result<()> {
    let memory = staging.memory()?;
    let mut random = fastrand::Rng::with_seed(seed ^ SPOILED);
    let mut bytes = [0; 4096];
    for offset in (0..memory.len()).step_by(bytes.len()) {
        let length = bytes.len().min(memory.len() - offset);
        random.fill(&mut bytes);
        memory.store(offset, &bytes[..length]);
    }
    Ok(())
}

/// Bytes of ordinary memory for a transfer.
const STEP: u64 = 1 << 20;

/// Writes random data, of which the seed is the start, through ordinary memory. Stops early when
/// told to.
pub fn fill(
    file: &DirectFile,
    offset: u64,
    bytes: u64,
    seed: u64,
    stop: &AtomicBool,
) -> Result<()> {
    ensure!(
        offset % file.granule() == 0 && bytes % file.granule() == 0,
        "direct I/O needs multiples of {}: change --size or offsets",
        size::format(file.granule())
    );
    check_range(file, Direction::Write, offset, bytes)?;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut memory = Buffer::ordinary(STEP as usize)?;
    let mut done = 0;
    while done < bytes && !stop.load(Ordering::Relaxed) {
        let step = (bytes - done).min(STEP);
        let memory = memory.as_mut_slice(step as usize);
        random.fill(memory);
        file.write(memory, offset + done)?;
        done += step;
    }
    Ok(file.sync()?)
}
