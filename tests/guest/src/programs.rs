// SPDX-License-Identifier: GPL-2.0

//! Programs that cases run: the `p2pmem` command, and those of busybox.

use std::{
    fs,
    process::{Command, Output},
    sync::OnceLock,
};

use anyhow::{anyhow, ensure, Context, Result};
use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::Value;

/// Runs the `p2pmem` command. What it prints as JSON must be as the schema says.
pub fn p2pmem(arguments: &[&str]) -> Result<Output> {
    let output = Command::new("p2pmem")
        .args(arguments)
        .output()
        .context("p2pmem cannot be run")?;
    // A command line that is wrong has no result.
    if arguments.contains(&"--json") && output.status.code() != Some(2) {
        let text = String::from_utf8_lossy(&output.stdout);
        check_json(&text).with_context(|| format!("p2pmem {arguments:?}"))?;
    }
    Ok(output)
}

/// Checks what the command printed as JSON against the published schema.
pub fn check_json(text: &str) -> Result<Value> {
    const TEXT: &str = include_str!("../../../tools/p2pmem-cli/schema/p2pmem.schema.json");
    static SCHEMA: OnceLock<(Schemas, SchemaIndex)> = OnceLock::new();

    let (schemas, index) = SCHEMA.get_or_init(|| {
        let schema = serde_json::from_str(TEXT).expect("the schema is JSON");
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource("p2pmem", schema).expect("it is one");
        let index = compiler.compile("p2pmem", &mut schemas);
        let index = index.expect("the schema is sound");
        (schemas, index)
    });
    let value: Value = serde_json::from_str(text).with_context(|| format!("no JSON: {text}"))?;
    schemas
        .validate(&value, *index)
        .map_err(|error| anyhow!("not as the schema says: {error}\n{text}"))?;
    Ok(value)
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

/// Runs the command, which must fail and say why in one line. Returns what it prints, and that
/// line.
pub fn failed(arguments: &[&str]) -> Result<(Vec<u8>, String)> {
    let run = p2pmem(arguments)?;
    let text = String::from_utf8_lossy(&run.stderr).into_owned();
    ensure!(
        run.status.code() == Some(1),
        "{arguments:?}: {:?}, {text}",
        run.status
    );
    ensure!(text.lines().count() == 1, "{arguments:?}: {text}");
    Ok((run.stdout, text))
}

/// Checks that the command fails, and says all of these words in one line.
pub fn fails(arguments: &[&str], words: &[&str]) -> Result<()> {
    let (_, text) = failed(arguments)?;
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
