// SPDX-License-Identifier: GPL-2.0

//! Copies the first 4 MiB from drive to drive through device memory in a slot of an io_uring, which
//! is neither mapped nor pinned.

use std::{env, error::Error, io, path::Path, ptr};

use io_uring::{squeue::Entry, IoUring};
use p2pmem::{
    direct::{DirectFile, Direction},
    uring, Provider,
};

const LENGTH: u32 = 4 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<_> = env::args().skip(1).collect();
    let [node, source, target] = &words[..] else {
        return Err("usage: uring /dev/p2pmemN SOURCE TARGET".into());
    };
    let provider = Provider::open(node)?;
    let memory = provider.alloc(LENGTH.into(), 0)?;
    let source = DirectFile::source(Path::new(source))?;
    let target = DirectFile::destination(Path::new(target), false)?;

    let mut ring = IoUring::new(1)?;
    ring.submitter().register_buffers_sparse(1)?;
    run(&mut ring, uring::register(&provider, &memory, 0, 0, 0))?;
    for (direction, file) in [
        (Direction::Read, source.file()),
        (Direction::Write, target.file()),
    ] {
        // Addresses count from the start of the slot.
        let start = ptr::null_mut();
        let entry = uring::transfer(direction, true, file, start, LENGTH, 0);
        if run(&mut ring, entry)? != LENGTH {
            return Err("a transfer was short".into());
        }
    }
    run(&mut ring, uring::unregister(&provider, 0))?;
    Ok(())
}

/// Makes a request, and waits for its result.
fn run(ring: &mut IoUring, entry: Entry) -> io::Result<u32> {
    // SAFETY: The memory and the files of the request live until it has completed.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let event = ring.completion().next().expect("a request has completed");
    u32::try_from(event.result()).map_err(|_| io::Error::from_raw_os_error(-event.result()))
}
