// SPDX-License-Identifier: GPL-2.0

//! Programs that cases run: the `p2pmem` command, and those of busybox.

use std::{
    fs,
    process::{Command, Output},
};

use anyhow::{ensure, Context, Result};

/// Runs the `p2pmem` command.
pub fn p2pmem(arguments: &[&str]) -> Result<Output> {
    Command::new("p2pmem")
        .args(arguments)
        .output()
        .context("p2pmem cannot be run")
}

/// Runs the command, which must succeed, and returns what it prints.
pub fn says(arguments: &[&str]) -> Result<String> {
    let run = p2pmem(arguments)?;
    ensure!(
        run.status.success(),
        "p2pmem {arguments:?}: {}{}",
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr)
    );
    Ok(String::from_utf8(run.stdout)?)
}

/// Checks that the command fails, and says all of these words in one line.
pub fn fails(arguments: &[&str], words: &[&str]) -> Result<()> {
    let run = p2pmem(arguments)?;
    let text = String::from_utf8_lossy(&run.stderr);
    ensure!(
        run.status.code() == Some(1),
        "{arguments:?}: {:?}, {text}",
        run.status
    );
    ensure!(text.lines().count() == 1, "{arguments:?}: {text}");
    for word in words {
        ensure!(text.contains(word), "{arguments:?}: no {word:?} in: {text}");
    }
    Ok(())
}

/// Runs any program, which must succeed.
pub fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments:?}: {said}");
    Ok(())
}

/// Puts a file system on a drive, and mounts it.
pub fn format_and_mount(node: &str, point: &str) -> Result<()> {
    if !fs::read_to_string("/proc/filesystems")?.contains("ext4") {
        run("modprobe", &["ext4"])?;
    }
    run("mke2fs", &[node])?;
    fs::create_dir_all(point)?;
    mount(node, point)
}

/// Mounts what is formatted.
pub fn mount(node: &str, point: &str) -> Result<()> {
    run("mount", &["-t", "ext2", node, point])
}

/// Returns a command that runs a program of Debian, in a topology with a line `programs`.
pub fn debian(program: &str) -> Command {
    let mut command = Command::new("chroot");
    command.args(["/debian", program]);
    command
}

/// Runs a command, which must succeed, and returns what it prints.
pub fn output(command: &mut Command) -> Result<String> {
    let run = command.output()?;
    let said = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
    ensure!(run.status.success(), "{command:?}: {}\n{said}", run.status);
    Ok(said.into_owned())
}
