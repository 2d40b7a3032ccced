// SPDX-License-Identifier: GPL-2.0

//! Copies the first 4 MiB from drive to drive through device memory that is mapped.

use std::{env, error::Error, path::Path};

use p2pmem::{direct::DirectFile, Buffer, Provider};

const LENGTH: usize = 4 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<_> = env::args().skip(1).collect();
    let [node, source, target] = &words[..] else {
        return Err("usage: map /dev/p2pmemN SOURCE TARGET".into());
    };
    let provider = Provider::open(node)?;
    let mut buffer = Buffer::map(&provider, LENGTH)?;
    let memory = buffer.as_mut_slice(LENGTH);

    // Direct I/O goes from device to device: neither read() nor write() copies with the CPU.
    DirectFile::source(Path::new(source))?.read_into(memory, 0, Some(node))?;
    DirectFile::destination(Path::new(target), false)?.write_from(memory, 0, Some(node))?;
    Ok(())
}
