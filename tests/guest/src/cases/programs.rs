// SPDX-License-Identifier: GPL-2.0

//! Programs of Debian that map files take the node for one, and recipes for them in
//! docs/recipes.md. Needs the topology programs.

use std::{
    fs,
    process::{Command, Stdio},
    thread,
};

use anyhow::{bail, ensure, Context, Result};

use super::files::example;
use crate::{
    cases,
    guest::{drive, put_on_drive, Provider},
    programs::{debian, output},
};

cases!(
    "programs": python_maps, numpy_maps, example_in_python, fio_psync, fio_pvsync2, fio_libaio, fio_io_uring,
    fio_io_uring_cmd, fio_more_than_there_is, recipes,
);

const RECIPES: &str = include_str!("../../../../docs/recipes.md");
/// Bytes to write and read.
const SIZE: usize = 2 << 20;

/// Runs a script in Python: node, bytes of its memory, drive.
fn python(name: &str, script: &str) -> Result<()> {
    let provider = Provider::first()?;
    put_on_drive(&drive(0)?, 4 << 20, 6)?;
    let path = format!("/tmp/{name}.py");
    fs::write(&path, script)?;
    let mut command = debian("python3");
    command.args(["-B", &path]).arg(&provider.path);
    command.args([&provider.size.to_string(), "/dev/nvme0n1"]);
    output(&mut command)?;
    provider.expect_full()
}

fn python_maps() -> Result<()> {
    python("files", include_str!("python_files.py"))
}

fn numpy_maps() -> Result<()> {
    python("numpy_files", include_str!("python_numpy.py"))
}

fn example_in_python() -> Result<()> {
    const PATH: &str = "/tmp/map.py";
    fs::write(PATH, include_str!("../../../example/map.py"))?;
    example(debian("python3").args(["-B", PATH]))
}

/// Runs fio, which leaves files where it is. Returns how much of the pool it had.
fn fio(arguments: &[&str]) -> Result<usize> {
    let provider = Provider::first()?;
    let mut command = debian("/usr/bin/env");
    command.args(["-C", "/tmp", "fio"]).args(arguments);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut most = 0;
    let mut out = child.stdout.take().context("no pipe")?;
    let mut err = child.stderr.take().context("no pipe")?;
    let reader = thread::spawn(move || {
        let text = std::io::read_to_string(&mut out)?;
        std::io::read_to_string(&mut err).map(|more| text + &more)
    });
    let status = loop {
        most = most.max(provider.size - provider.available()?);
        if let Some(status) = child.try_wait()? {
            break status;
        }
        thread::sleep(std::time::Duration::from_millis(1));
    };
    let said = reader.join().expect("no panic")?;
    ensure!(status.success(), "fio {arguments:?}: {status}\n{said}");
    provider.expect_full()?;
    ensure!(provider.path.exists(), "fio removed the node");
    Ok(most)
}

/// Writes and reads by an engine of fio. Either way goes through device memory once, and is
/// verified by way of ordinary memory.
fn engine(arguments: &[&str]) -> Result<()> {
    const BUFFERS: usize = 8 * (64 << 10);
    let provider = Provider::first()?;
    let memory = format!("--iomem=mmapshared:{}", provider.path.display());
    let run = |rw: &str, device: bool, more: &[&str]| {
        let rw = format!("--rw={rw}");
        let mut all = vec!["--name=job", "--bs=64k", "--iodepth=8", "--size=2M", &rw];
        all.extend([
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_state_save=0",
        ]);
        all.extend(arguments.iter().chain(more));
        if device {
            all.push(&memory);
        }
        let most = fio(&all)?;
        ensure!((most > 0) == device, "{most} bytes of device memory");
        // An engine without a queue has one buffer.
        let queue = !arguments
            .iter()
            .any(|word| word.ends_with("sync") || word.ends_with("sync2"));
        ensure!(!device || !queue || most >= BUFFERS, "{most} bytes");
        Ok(())
    };
    for rw in ["write", "randwrite"] {
        for device_writes in [true, false] {
            // Data that is there already must not count.
            put_on_drive(&drive(0)?, SIZE, 8)?;
            run(rw, device_writes, &["--do_verify=0"])?;
            run(rw, !device_writes, &["--verify_only"])?;
        }
    }
    Ok(())
}

fn block_engine(name: &str) -> Result<()> {
    let engine_name = format!("--ioengine={name}");
    engine(&[&engine_name, "--direct=1", "--filename=/dev/nvme0n1"])
}

fn fio_psync() -> Result<()> {
    block_engine("psync")
}

fn fio_pvsync2() -> Result<()> {
    block_engine("pvsync2")
}

fn fio_libaio() -> Result<()> {
    block_engine("libaio")
}

fn fio_io_uring() -> Result<()> {
    block_engine("io_uring")
}

/// Commands to the character device of the drive.
fn fio_io_uring_cmd() -> Result<()> {
    engine(&[
        "--ioengine=io_uring_cmd",
        "--cmd_type=nvme",
        "--filename=/dev/ng0n1",
    ])
}

fn fio_more_than_there_is() -> Result<()> {
    let provider = Provider::first()?;
    let memory = format!("--iomem=mmapshared:{}", provider.path.display());
    let depth = format!("--iodepth={}", provider.size / (1 << 20));
    let common = [
        "--name=job",
        "--ioengine=libaio",
        "--direct=1",
        "--rw=read",
        "--size=8M",
    ];
    let result = fio(&[
        &common[..],
        &["--filename=/dev/nvme0n1", "--bs=1M", &depth, &memory],
    ]
    .concat());
    let Err(error) = result else {
        bail!("fio has more than there is");
    };
    let said = error.to_string();
    ensure!(said.contains("No space left on device"), "{said}");
    ensure!(provider.path.exists(), "fio removed the node");
    provider.expect_full()
}

/// Runs each command of the page as it stands there.
fn recipes() -> Result<()> {
    let mut count = 0;
    for block in RECIPES.split("```sh\n").skip(1) {
        let (text, _) = block.split_once("```").context("no end of a block")?;
        for line in text.replace("\\\n", " ").lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let mut command = match words.first() {
                Some(&"fio") => debian("/usr/bin/env"),
                Some(&"p2pmem") => Command::new("p2pmem"),
                other => bail!("{other:?} is not run: {line}"),
            };
            match words[0] {
                "fio" => command.args(["-C", "/tmp"]).args(words),
                _ => command.args(&words[1..]),
            };
            output(&mut command)?;
            Provider::first()?.expect_full()?;
            count += 1;
        }
    }
    ensure!(count > 6, "there are {count} recipes");
    Ok(())
}
