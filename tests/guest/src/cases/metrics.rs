// SPDX-License-Identifier: GPL-2.0

//! `p2pmem metrics` and `p2pmem cdi`, which other programs read. Needs the topology any-bar.

use std::{collections::HashMap, fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use super::{
    manage::{parts, Restored},
    unbind::{slow_drive, slow_read, unbind_says},
};
use crate::{
    cases,
    guest::{become_user, drive_named, Child, Map, Provider, PAGE},
    programs::{fails, says},
};

cases!("metrics": of_a_provider, of_users, of_an_unbind_that_waits, without_rights, to_a_file);

/// Reads OpenMetrics text as strictly as a collector: returns samples by name and labels.
fn parse(text: &str) -> Result<HashMap<String, f64>> {
    let body = text.strip_suffix("# EOF\n").context("no end")?;
    ensure!(!body.contains("# EOF"), "two ends");
    let mut samples = HashMap::new();
    let mut families: Vec<&str> = Vec::new();
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let (kind, rest) = comment.split_once(' ').context("no name")?;
            let (name, value) = rest.split_once(' ').context("no value")?;
            match kind {
                "TYPE" => {
                    ensure!(value == "gauge" && !families.contains(&name), "{line}");
                    families.push(name);
                }
                "UNIT" => ensure!(name.ends_with(&format!("_{value}")), "{line}"),
                "HELP" => ensure!(value.ends_with('.'), "{line}"),
                _ => anyhow::bail!("{line}"),
            }
            ensure!(families.last() == Some(&name), "not in its family: {line}");
            continue;
        }
        let (key, value) = line.rsplit_once(' ').context("no value")?;
        let (name, labels) = key.split_once('{').context("no labels")?;
        ensure!(families.last() == Some(&name), "not in its family: {line}");
        for label in labels.strip_suffix('}').context("no end")?.split(',') {
            let (_, value) = label.split_once('=').context("no value")?;
            ensure!(value.starts_with('"') && value.ends_with('"'), "{line}");
        }
        ensure!(
            samples.insert(key.to_owned(), value.parse()?).is_none(),
            "{line}"
        );
    }
    Ok(samples)
}

fn samples() -> Result<HashMap<String, f64>> {
    parse(&says(&["metrics"])?)
}

/// The value of a metric of the node of a device.
fn value(samples: &HashMap<String, f64>, name: &str, pci: &str, more: &str) -> Result<f64> {
    let number = Provider::of(pci)?.context("no node")?.path;
    let node = number
        .file_name()
        .context("no name")?
        .to_string_lossy()
        .into_owned();
    let key = format!("p2pmem_{name}{{node=\"{node}\",pci=\"{pci}\"{more}}}");
    samples
        .get(&key)
        .copied()
        .with_context(|| format!("no {key} in {samples:?}"))
}

fn of_a_provider() -> Result<()> {
    let pci = parts()?;
    let provider = Provider::of(&pci)?.context("no node")?;
    let map = Map::new(provider.open()?, 3 * PAGE)?;
    let found = samples()?;
    let attribute = |name: &str| -> Result<f64> {
        let folder =
            Path::new("/sys/class/misc").join(provider.path.file_name().context("no name")?);
        Ok(fs::read_to_string(folder.join(name))?.trim().parse()?)
    };
    for name in ["size", "available", "largest", "allocated"] {
        let told = value(&found, &format!("{name}_bytes"), &pci, "")?;
        ensure!(told == attribute(name)?, "{name}: {told}");
    }
    ensure!(attribute("allocated")? == (3 * PAGE) as f64);
    ensure!(
        found[&format!("p2pmem_unbinding{{pci=\"{pci}\"}}")] == 0.0,
        "{found:?}"
    );
    drop(map);
    Ok(())
}

fn of_users() -> Result<()> {
    let pci = parts()?;
    let provider = Provider::of(&pci)?.context("no node")?;
    fs::set_permissions(&provider.path, fs::Permissions::from_mode(0o666))?;
    let path = provider.path.clone();
    let child = Child::spawn_ready(move |ready| {
        become_user()?;
        let file = fs::OpenOptions::new().read(true).write(true).open(&path)?;
        let _map = Map::new(file, 2 * PAGE)?;
        ready();
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    })?;
    let map = Map::new(provider.open()?, PAGE)?;
    let found = samples()?;
    ensure!(value(&found, "user_allocated_bytes", &pci, ",uid=\"0\"")? == PAGE as f64);
    let others: f64 = found
        .iter()
        .filter(|(key, _)| key.starts_with("p2pmem_user_") && !key.contains("uid=\"0\""))
        .map(|(_, bytes)| bytes)
        .sum();
    ensure!(others == (2 * PAGE) as f64, "{found:?}");
    ensure!(value(&found, "outstanding_bytes", &pci, "")? == 0.0);
    child.kill()?;
    child.expect_signal(libc::SIGKILL)?;
    fs::set_permissions(&provider.path, fs::Permissions::from_mode(0o600))?;
    drop(map);
    Ok(())
}

/// DMA that takes long keeps the device from being unbound.
fn of_an_unbind_that_waits() -> Result<()> {
    const LENGTH: usize = 16 << 20;
    let pci = parts()?;
    let _restored = Restored(pci.clone());
    let provider = Provider::of(&pci)?.context("no node")?;
    let source = drive_named("disk0")?;
    let child = slow_read(&provider, source, LENGTH)?;

    let mut told = Ok(HashMap::new());
    unbind_says(&provider, &["waiting for DMA into "], || {
        told = samples();
        slow_drive(0);
        Ok(())
    })?;
    child.expect_success()?;
    let told = told?;
    ensure!(
        told[&format!("p2pmem_unbinding{{pci=\"{pci}\"}}")] == 1.0,
        "{told:?}"
    );
    ensure!(
        !told.keys().any(|key| key.starts_with("p2pmem_size")),
        "{told:?}"
    );
    Ok(())
}

fn without_rights() -> Result<()> {
    let pci = parts()?;
    Child::spawn(move || {
        become_user()?;
        let found = samples()?;
        ensure!(value(&found, "size_bytes", &pci, "")? == f64::from(64 << 20));
        ensure!(
            !found.keys().any(|key| key.contains("outstanding")),
            "{found:?}"
        );
        Ok(())
    })?
    .expect_success()
}

fn to_a_file() -> Result<()> {
    let path = "/tmp/p2pmem.prom";
    ensure!(says(&["metrics", "--output", path])?.is_empty());
    parse(&fs::read_to_string(path)?)?;
    fs::remove_file(path)?;
    fails(
        &["metrics", "--output", "/nowhere/p2pmem.prom"],
        &["cannot write /nowhere/p2pmem.prom"],
    )
}

/// Specifications of the Container Device Interface.
pub mod cdi {
    use super::*;

    cases!("cdi": names_each_node, without_nodes);

    fn names_each_node() -> Result<()> {
        let pci = parts()?;
        let provider = Provider::of(&pci)?.context("no node")?;
        let told: Value = serde_json::from_str(&says(&["cdi"])?)?;
        ensure!(told["kind"] == "p2pmem.dev/memory", "{told}");
        let devices = told["devices"].as_array().context("no devices")?;
        let names: Vec<_> = devices.iter().map(|one| one["name"].as_str()).collect();
        ensure!(names == [Some("0"), Some(&pci), Some("all")], "{told}");
        for device in devices {
            let node = &device["containerEdits"]["deviceNodes"][0];
            ensure!(node["path"] == *provider.path.to_string_lossy(), "{told}");
            ensure!(node["permissions"] == "rw", "{told}");
        }
        let path = "/tmp/p2pmem.json";
        says(&["cdi", "--output", path])?;
        let written: Value = serde_json::from_str(&fs::read_to_string(path)?)?;
        fs::remove_file(path)?;
        ensure!(written == told, "{written}");
        Ok(())
    }

    fn without_nodes() -> Result<()> {
        let pci = parts()?;
        let _restored = Restored(pci.clone());
        says(&["unbind", &pci])?;
        let told: Value = serde_json::from_str(&says(&["cdi"])?)?;
        ensure!(told["devices"] == serde_json::json!([]), "{told}");
        Ok(())
    }
}
