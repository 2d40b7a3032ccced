// SPDX-License-Identifier: GPL-2.0

//! The kernel's NVMe over Fabrics target with memory of a provider. Needs the topology nvmet.

use std::{fs, path::PathBuf};

use anyhow::{ensure, Context, Result};
use rustix::io::Errno;

use crate::{
    cases,
    guest::{expect_io_errno, node_named, restore, unbind, Provider},
    programs::{p2pmem, run},
};

cases!("nvmet": below_the_switch, beside_the_switch, any_provider, unbound_while_enabled);

const CONFIGFS: &str = "/sys/kernel/config";

/// A namespace of the target for a drive. Removed when dropped.
struct Namespace {
    subsystem: PathBuf,
    folder: PathBuf,
}

impl Namespace {
    fn new(serial: &str) -> Result<Self> {
        run("modprobe", &["nvmet"])?;
        if !PathBuf::from(CONFIGFS).join("nvmet").exists() {
            run("mount", &["-t", "configfs", "configfs", CONFIGFS])?;
        }
        let subsystem = PathBuf::from(CONFIGFS).join("nvmet/subsystems/lab");
        let folder = subsystem.join("namespaces/1");
        fs::create_dir(&subsystem)?;
        let namespace = Self { subsystem, folder };
        fs::create_dir(&namespace.folder)?;
        namespace.set("device_path", &node_named(serial)?)?;
        Ok(namespace)
    }

    fn set(&self, name: &str, value: &str) -> std::io::Result<()> {
        fs::write(self.folder.join(name), value)
    }

    fn get(&self, name: &str) -> Result<String> {
        Ok(fs::read_to_string(self.folder.join(name))?
            .trim()
            .to_owned())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.set("enable", "0");
        let _ = fs::remove_dir(&self.folder);
        let _ = fs::remove_dir(&self.subsystem);
    }
}

/// Returns whether doctor finds no problem between a drive and the memory, and its text.
fn doctor(serial: &str) -> Result<(bool, String)> {
    let run = p2pmem(&["doctor", &node_named(serial)?])?;
    Ok((run.status.success(), String::from_utf8(run.stdout)?))
}

fn below_the_switch() -> Result<()> {
    let provider = Provider::first()?;
    let namespace = Namespace::new("disk0")?;
    namespace.set("p2pmem", &provider.pci)?;
    namespace
        .set("enable", "1")
        .context("cannot enable the namespace")?;
    ensure!(namespace.get("enable")? == "1");
    ensure!(
        namespace.get("p2pmem")? == provider.pci,
        "{}",
        namespace.get("p2pmem")?
    );
    let (good, text) = doctor("disk0")?;
    ensure!(good, "{text}");
    Ok(())
}

fn beside_the_switch() -> Result<()> {
    let provider = Provider::first()?;
    let namespace = Namespace::new("disk2")?;
    namespace.set("p2pmem", &provider.pci)?;
    expect_io_errno(namespace.set("enable", "1"), Errno::INVAL, "enable")?;
    ensure!(namespace.get("enable")? == "0");
    // The kernel has no reason; the command does.
    let (good, text) = doctor("disk2")?;
    ensure!(
        !good && text.contains("below different root ports"),
        "{text}"
    );
    // Without the memory, the drive can be exported.
    namespace.set("p2pmem", "0")?;
    Ok(namespace.set("enable", "1")?)
}

fn any_provider() -> Result<()> {
    let namespace = Namespace::new("disk0")?;
    namespace.set("p2pmem", "1")?;
    namespace.set("enable", "1")?;
    ensure!(
        namespace.get("p2pmem")? == "1",
        "{}",
        namespace.get("p2pmem")?
    );
    Ok(())
}

fn unbound_while_enabled() -> Result<()> {
    let provider = Provider::first()?;
    let namespace = Namespace::new("disk0")?;
    namespace.set("p2pmem", &provider.pci)?;
    namespace.set("enable", "1")?;
    unbind(&provider.pci)?;
    restore()?;
    ensure!(Provider::first()?.pci == provider.pci);
    drop(namespace);
    Provider::first()?.expect_full()
}
