// SPDX-License-Identifier: GPL-2.0

//! Drives that cannot reach the memory. Needs the topology no-switch, on a CPU whose host bridge
//! the kernel does not know to forward between ports.

use std::process::Command;

use anyhow::{ensure, Result};
use rustix::io::Errno;

use crate::{
    cases,
    guest::{drive, read_at, write_at, Map, Provider, WINDOW},
};

cases!("unreachable": direct_io_is_refused, copy_says_why);

fn direct_io_is_refused() -> Result<()> {
    let provider = Provider::first()?;
    let map = Map::new(provider.open()?, WINDOW)?;
    map.fill(0..WINDOW, 1);
    let drive = drive(0)?;
    for result in [
        read_at(&drive, &map, 0..WINDOW, 0),
        write_at(&drive, &map, 0..WINDOW, 0),
    ] {
        ensure!(
            matches!(result, Err(Errno::INVAL | Errno::REMOTEIO)),
            "{result:?}"
        );
    }
    // Nothing was written, and the CPU still reaches it.
    map.check(0..WINDOW, 1)?;
    drop(map);
    provider.expect_taken(0)
}

fn copy_says_why() -> Result<()> {
    let run = Command::new("p2pmem")
        .args(["copy", "/dev/nvme0n1", "/dev/nvme1n1", "--size", "1M"])
        .output()?;
    let text = String::from_utf8_lossy(&run.stderr);
    ensure!(run.status.code() == Some(1), "{:?}", run.status);
    ensure!(text.lines().count() == 1, "{text}");
    ensure!(
        text.contains("cannot read /dev/nvme0n1 at 0")
            && text.contains("another root port, ACS or IOMMU"),
        "{text}"
    );
    Ok(())
}
