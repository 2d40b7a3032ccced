// SPDX-License-Identifier: GPL-2.0

//! Copies the first 4 MiB from drive to drive through device memory that is mapped.

use std::{
    env,
    fs::OpenOptions,
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
};

use memmap2::MmapOptions;

const LENGTH: usize = 4 << 20;

fn main() -> io::Result<()> {
    let words: Vec<_> = env::args().skip(1).collect();
    let [node, source, target] = &words[..] else {
        return Err(io::Error::other("usage: map /dev/p2pmemN SOURCE TARGET"));
    };
    let node = OpenOptions::new().read(true).write(true).open(node)?;
    // SAFETY: Each mapping is memory of its own, which only this process has.
    let mut memory = unsafe { MmapOptions::new().len(LENGTH).map_mut(&node)? };

    let mut direct = OpenOptions::new();
    direct.custom_flags(libc::O_DIRECT);
    let source = direct.read(true).open(source)?;
    source.read_exact_at(&mut memory, 0)?;
    let target = direct.read(false).write(true).open(target)?;
    target.write_all_at(&memory, 0)
}
