// SPDX-License-Identifier: GPL-2.0

//! Drives that cannot reach the memory. Needs the topology no-switch, on a CPU whose host bridge
//! the kernel does not know to forward between ports.

use anyhow::{ensure, Result};
use p2pmem::Provider as Node;
use rustix::io::Errno;

use super::copy::{fail, p2pmem};
use crate::{
    cases,
    guest::{
        address_named, check_drive, drive, expect_errno, put_on_drive, read_at, write_at, Map,
        Mark, Provider, WINDOW,
    },
    kmod::{with_roles, TestFile, PEER, REVOCABLE},
};

cases!(
    "unreachable": direct_io_is_refused, copy_says_why, verify_says_why, not_imported,
    registered_buffer, not_found_by_others,
);

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
    let provider = Provider::first()?;
    let device = format!("/dev/p2pmem0 ({})", provider.pci);
    for io in ["uring-fixed", "uring", "pread"] {
        for arguments in ["", "--skip-read", "--skip-write"] {
            fail(
                &format!("copy /dev/nvme0n1 /dev/nvme1n1 --size 8M --io {io} {arguments}"),
                &[
                    "does not reach /dev/p2pmem0: below different root ports",
                    "--force",
                ],
            )?;
        }
        fail(
            &format!("copy /dev/nvme0n1 /dev/nvme1n1 --size 8M -t 2 --io {io} --force"),
            &[
                "cannot read /dev/nvme0n1 at 0 into",
                &device,
                "nvme0n1 (",
                "does not reach /dev/p2pmem0: below different root ports",
                "p2pmem topo",
            ],
        )?;
        fail(
            &format!("copy /dev/nvme0n1 /dev/nvme1n1 --size 8M --skip-read --io {io} --force"),
            &["cannot write /dev/nvme1n1 at 0 from", &device],
        )?;
    }
    // Ordinary memory is reached.
    let output = p2pmem("copy /dev/nvme0n1 /dev/nvme1n1 --size 1M --via none --check")?;
    ensure!(output.status.success());
    Ok(())
}

fn verify_says_why() -> Result<()> {
    put_on_drive(&drive(0)?, WINDOW, 1)?;
    fail(
        "verify /dev/nvme0n1 --size 64k --write",
        &["does not reach /dev/p2pmem0", "--force"],
    )?;
    let output = p2pmem("verify /dev/nvme0n1 --size 64k --write --json --force")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(1), "{:?}", output.status);
    for field in [
        "\"memory\":true",
        "\"read\":false",
        "\"write\":false",
        "\"result\":\"refused\"",
    ] {
        ensure!(text.contains(field), "{field} in {text}");
    }
    fail(
        "verify /dev/nvme0n1 --size 64k --force",
        &[
            "/dev/nvme0n1",
            "do not reach each other",
            "refused: nvme0n1",
            "below different root ports",
        ],
    )?;
    // A repeated error is printed once.
    let output = p2pmem("verify /dev/nvme0n1 --size 64k --write --force")?;
    let text = String::from_utf8_lossy(&output.stdout);
    for (reason, times) in [
        ("cannot read /dev/nvme0n1", 1),
        ("cannot write /dev/nvme0n1", 1),
    ] {
        ensure!(text.matches(reason).count() == times, "{reason} in {text}");
    }
    ensure!(text.contains("zeroes, ones, addresses, random"), "{text}");
    check_drive(&drive(0)?, WINDOW, 1)
}

fn not_imported() -> Result<()> {
    let provider = Provider::first()?;
    let handle = Node::open(&provider.path)?.alloc(WINDOW as u64, 0)?;
    let pci = address_named("disk0")?;
    let mark = Mark::new()?;
    let result = TestFile::open()?.import(&handle, &pci, PEER | REVOCABLE, 0);
    expect_errno(result, Errno::REMOTEIO, "out of reach")?;
    mark.expect(&[&pci, "cannot reach the peer-to-peer memory"])
}

/// Registering checks no drive; the drive refuses then.
fn registered_buffer() -> Result<()> {
    let provider = Provider::first()?;
    let node = Node::open(&provider.path)?;
    let handle = node.alloc(WINDOW as u64, 0)?;
    let mut ring = super::uring::ring()?;
    super::uring::register(&mut ring, &node, &handle, 0)?;
    let drive = drive(0)?;
    let request = super::uring::read_request(&drive, 0, 0, WINDOW);
    let result = super::uring::submit(&mut ring, &request);
    ensure!(
        matches!(result, Err(Errno::INVAL | Errno::REMOTEIO)),
        "{result:?}"
    );
    Ok(())
}

fn not_found_by_others() -> Result<()> {
    let mark = Mark::new()?;
    with_roles(|| mark.expect(&["2 clients: no memory"]))
}
