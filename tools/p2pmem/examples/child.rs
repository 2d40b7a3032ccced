// SPDX-License-Identifier: GPL-2.0

//! Passes device memory to a child process. The parent reads the first 4 MiB of a drive into it,
//! and the child writes them to another drive.

use std::{
    env,
    error::Error,
    io::stdin,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::Command,
};

use p2pmem::{direct::DirectFile, Handle, Provider};

const LENGTH: usize = 4 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<_> = env::args().skip(1).collect();
    match &words[..] {
        [role, target] if role == "--child" => child(Path::new(target)),
        [node, source, target] => parent(node, Path::new(source), target),
        _ => Err("usage: child /dev/p2pmemN SOURCE TARGET".into()),
    }
}

fn parent(node: &str, source: &Path, target: &str) -> Result<(), Box<dyn Error>> {
    let memory = Provider::open(node)?.alloc(LENGTH as u64, 0)?;
    let mut buffer = memory.map(0, LENGTH)?;
    DirectFile::source(source)?.read_into(buffer.as_mut_slice(LENGTH), 0, Some(node))?;

    // The descriptor keeps the memory, in any process: here it is the child's standard input.
    let status = Command::new(env::current_exe()?)
        .args(["--child", target])
        .stdin(OwnedFd::from(memory))
        .status()?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("the child failed: {status}").into()),
    }
}

fn child(target: &Path) -> Result<(), Box<dyn Error>> {
    let memory = Handle::from(stdin().as_fd().try_clone_to_owned()?);
    let mut buffer = memory.map(0, LENGTH)?;
    let file = DirectFile::destination(target, false)?;
    file.write_from(buffer.as_mut_slice(LENGTH), 0, Some("standard input"))?;
    Ok(())
}
