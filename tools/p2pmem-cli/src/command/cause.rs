// SPDX-License-Identifier: GPL-2.0

//! Why a file or block device and device memory do not exchange data, as `p2pmem topo` knows it.

use p2pmem::direct::DirectFile;

use crate::{errno::errno, preflight::Preflight};
use anyhow::{anyhow, Error};
use rustix::io::Errno;

/// Returns why one of these files or block devices does not exchange data with the memory, and
/// where to look further.
pub fn cause(preflight: &Preflight, files: &[&DirectFile]) -> String {
    let mut obstacles = files
        .iter()
        .filter_map(|file| preflight.obstacle(file.path()));
    match obstacles.next() {
        Some(obstacle) => format!("{obstacle}; p2pmem topo tells what to do"),
        None => format!("see p2pmem doctor --try {}", files[0].path().display()),
    }
}

/// Adds the cause to an error of direct I/O.
pub fn explain(error: Error, preflight: &Preflight, files: [&DirectFile; 2]) -> Error {
    let is_refused = matches!(errno(&error), Some(Errno::REMOTEIO | Errno::INVAL));
    if !is_refused {
        return error;
    }
    let cause = cause(preflight, &files);
    anyhow!("{error:#}: {cause}")
}
