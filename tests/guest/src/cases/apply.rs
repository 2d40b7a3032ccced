// SPDX-License-Identifier: GPL-2.0

//! `p2pmem apply`: devices are brought into the state of a configuration. Needs the topology
//! any-bar.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
    time::Duration,
};

use anyhow::{ensure, Context, Result};

use super::manage::{large, parts, state, tells, Restored};
use crate::{
    cases,
    guest::{address_named, drive_named, insmod, rmmod, wait_until, Map, Provider, PAGE},
    programs::{failed, fails, p2pmem, says},
};

cases!(
    "apply": brings_devices_up, by_vendor_and_device, mistakes_in_lines, takes_no_device, takes_on_request,
    memory_in_use, device_not_there, saved_state, after_a_reload, after_a_change_by_hand, finds_devices,
);

const MIB: u64 = 1 << 20;
const NOTHING: &str = "nothing differs\n";

/// A folder of configuration, which vanishes when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(text: &str) -> Result<Self> {
        let path = PathBuf::from(format!("/tmp/regions-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        fs::create_dir_all("/run")?;
        let folder = Self(path);
        folder.write("a.conf", text)?;
        // No file of the configuration.
        folder.write("b.conf.old", "wrong")?;
        Ok(folder)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.0.join(name), text)?)
    }

    fn arguments<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let folder = self.0.to_str().expect("the name is UTF-8");
        [&["apply", "--folder", folder], more].concat()
    }

    fn apply(&self, more: &[&str]) -> Result<String> {
        says(&self.arguments(more))
    }

    fn fails(&self, words: &[&str]) -> Result<()> {
        fails(&self.arguments(&[]), words)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn brings_devices_up() -> Result<()> {
    let (known, other) = (parts()?, large()?);
    let _restored = (Restored(known.clone()), Restored(other.clone()));
    let folder = Folder::new(&format!(
        "# The first is bound by its ID.\n\
         {known} bar2@16M+8M clear=off limit-per-file=2M limit-per-user=4M slots=nobody group=7 mode=640\n\
         {other}  # no setting\n"
    ))?;

    let before = state(&known)?;
    let text = folder.apply(&["--dry-run"])?;
    for line in [
        format!("{known}: regions: default -> bar2@16M+8M"),
        format!("{known}: clear: on -> off"),
        format!("{known}: limit-per-file: 0 -> 2097152"),
        format!("{known}: slots: privileged -> nobody"),
        format!("{known}: mode: - -> 640"),
        format!("{other}: driver: none -> p2pmem_rs"),
    ] {
        ensure!(text.lines().any(|one| one == line), "no {line:?} in {text}");
    }
    ensure!(state(&known)? == before, "{:?}", state(&known)?);

    let text = folder.apply(&[])?;
    ensure!(text.contains("regions: default -> bar2@16M+8M"), "{text}");
    let provider = Provider::of(&known)?.context("no node")?;
    ensure!(provider.size as u64 == 8 * MIB, "{}", provider.size);
    let access = fs::metadata(&provider.path)?;
    ensure!(
        access.gid() == 7 && access.permissions().mode() & 0o777 == 0o640,
        "{access:?}"
    );
    let shown = tells(&["config", &known])?;
    let now = &shown["devices"][0]["current"];
    ensure!(now["clear"] == false && now["slots"] == "nobody", "{shown}");
    ensure!(now["limit_per_file"] == 2 * MIB, "{shown}");
    ensure!(now["limit_per_user"] == 4 * MIB, "{shown}");
    Provider::of(&other)?.context("no node")?;

    // Nothing is left to do, and nothing is done.
    for arguments in [&[][..], &["--dry-run"], &[&known]] {
        let text = folder.apply(arguments)?;
        ensure!(text == NOTHING, "{arguments:?}: {text}");
    }
    let told = tells(&folder.arguments(&[]))?;
    ensure!(told["devices"][0]["place"] == "a.conf:2", "{told}");
    Ok(())
}

fn by_vendor_and_device() -> Result<()> {
    let known = parts()?;
    let _restored = Restored(known.clone());
    let folder = Folder::new("1AF4:1110 bar2+4M\n")?;
    let text = folder.apply(&[])?;
    ensure!(
        text == format!("{known}: regions: default -> bar2+4M\n"),
        "{text}"
    );

    // Both drives have this ID, and their drivers show serial numbers.
    folder.write("a.conf", "1b36:0010 take=on\n")?;
    folder.fails(&[
        "a.conf:1",
        "1b36:0010 is the ID of several devices",
        "add serial=",
    ])?;
    folder.write("a.conf", "1b36:0010 serial=disk1\n")?;
    folder.fails(&[&address_named("disk1")?, "nvme has the device"])?;
    folder.write("a.conf", "1b36:0010 serial=disk7\n")?;
    let text = folder.apply(&[])?;
    ensure!(text == "a.conf:1: 1b36:0010 is not there\n", "{text}");
    Ok(())
}

fn mistakes_in_lines() -> Result<()> {
    let known = parts()?;
    let _restored = Restored(known.clone());
    for (line, words) in [
        ("eth0", &["a.conf:1", "`eth0` is not a device"][..]),
        ("05:00.0 bar7", &["a.conf:1", "bar7 has no valid number"]),
        (
            "05:00.0 colour=red",
            &["`colour` is not known", "the keys are"],
        ),
        ("05:00.0 group=penguins", &["there is no group penguins"]),
    ] {
        let folder = Folder::new(&format!("{line}\n{known} limit-per-user=3M\n"))?;
        folder.fails(words)?;
        // The other line was applied all the same.
        let shown = tells(&["config", &known])?;
        ensure!(
            shown["devices"][0]["current"]["limit_per_user"] == 3 * MIB,
            "{shown}"
        );
        says(&["config", &known, "--limit-per-user", "0"])?;
    }

    let folder = Folder::new(&format!("{known}\n1af4:1110 clear=off\n"))?;
    folder.fails(&["a.conf:2", &known, "has a line already, a.conf:1"])?;
    fails(
        &folder.arguments(&["p2pmem7"]),
        &["there is no /dev/p2pmem7"],
    )?;
    fails(
        &folder.arguments(&[&large()?]),
        &["no line names", &large()?],
    )
}

fn takes_no_device() -> Result<()> {
    let pci = address_named("disk1")?;
    drive_named("disk1")?;
    let before = state(&pci)?;
    for regions in ["", "cmb", "bar0"] {
        let folder = Folder::new(&format!("{pci} {regions}\n"))?;
        folder.fails(&["a.conf:1", &pci, "nvme has the device", "take=on"])?;
        ensure!(state(&pci)? == before, "{:?}", state(&pci)?);
    }
    // It has no PMR that could be adopted.
    let folder = Folder::new(&format!("{pci} pmr\n"))?;
    folder.fails(&[&pci, "the controller has no PMR that can serve"])?;
    ensure!(state(&pci)? == before, "{:?}", state(&pci)?);
    Ok(())
}

fn takes_on_request() -> Result<()> {
    let pci = address_named("disk1")?;
    drive_named("disk1")?;
    let before = state(&pci)?;
    // The memory of the drive is checked first.
    let folder = Folder::new(&format!("{pci} take=on\n"))?;
    folder.fails(&[&pci, "the controller has no CMB and no PMR that can serve"])?;
    ensure!(state(&pci)? == before, "{:?}", state(&pci)?);

    // A device that another driver would have.
    let other = large()?;
    let _restored = Restored(other.clone());
    says(&["bind", &other])?;
    folder.write("a.conf", &format!("{other} bar2+2M take=on\n"))?;
    let text = folder.apply(&[])?;
    ensure!(
        text == format!("{other}: regions: default -> bar2+2M\n"),
        "{text}"
    );
    Ok(())
}

fn memory_in_use() -> Result<()> {
    let known = parts()?;
    let _restored = Restored(known.clone());
    let folder = Folder::new(&format!("{known} bar2+4M\n"))?;
    let provider = Provider::of(&known)?.context("no node")?;
    let map = Map::new(provider.open()?, PAGE)?;
    let before = state(&known)?;
    folder.fails(&["a.conf:1", &known, "is in use"])?;
    ensure!(state(&known)? == before, "{:?}", state(&known)?);

    // Settings do not disturb the user.
    folder.write("a.conf", &format!("{known} clear=off\n"))?;
    let text = folder.apply(&[])?;
    ensure!(text == format!("{known}: clear: on -> off\n"), "{text}");
    map.set(0, 1);
    drop(map);
    Ok(())
}

fn device_not_there() -> Result<()> {
    let folder = Folder::new("0000:7f:00.0 bar2\n")?;
    let text = folder.apply(&[])?;
    ensure!(text == "a.conf:1: 0000:7f:00.0 is not there\n", "{text}");
    let told = tells(&folder.arguments(&[]))?;
    ensure!(told["absent"][0] == "a.conf:1", "{told}");
    // No folder is no configuration.
    let text = says(&["apply", "--folder", "/tmp/nowhere"])?;
    ensure!(text == NOTHING, "{text}");
    Ok(())
}

fn saved_state() -> Result<()> {
    let known = parts()?;
    let _restored = Restored(known.clone());
    let folder = Folder::new("")?;
    let file = folder.0.join("saved.conf");
    let save = format!("--save={}", file.display());
    says(&["bind", &known, "--regions", "bar2@8M+16M"])?;
    says(&["config", &known, "--limit-per-user", "6M", "--clear", "off"])?;
    let before = tells(&["config", &known])?;
    says(&["config", &save])?;
    let line = format!(
        "{known} bar2@0x800000+0x1000000 clear=off limit-per-user=6291456 group=0 mode=600"
    );
    let text = fs::read_to_string(&file)?;
    ensure!(
        text.lines()
            .nth(1)
            .is_some_and(|one| one.replace("root", "0") == line),
        "{text}"
    );
    ensure!(folder.apply(&[])? == NOTHING);

    says(&["unbind", &known, "--forget"])?;
    folder.apply(&[])?;
    let after = tells(&["config", &known])?;
    ensure!(after["devices"] == before["devices"], "{after}");

    // Not into a file beside one that has the device.
    folder.write("a.conf", &format!("{known}\n"))?;
    fails(&["config", &save], &[&known, "a.conf:1", "change it there"])?;
    fails(
        &["config", "--save=/nowhere/saved.conf"],
        &["cannot write /nowhere/saved.conf"],
    )?;
    let text = says(&["config", &known, "--save=-"])?;
    ensure!(text.starts_with(&format!("{known} bar2@")), "{text}");
    Ok(())
}

fn after_a_reload() -> Result<()> {
    let known = parts()?;
    let _restored = Restored(known.clone());
    let folder = Folder::new(&format!("{known} bar2+8M limit-per-file=1M\n"))?;
    folder.apply(&[])?;
    // It forgets all of it.
    rmmod()?;
    insmod()?;
    wait_until(Duration::from_secs(10), "the node is there", || {
        Ok(Provider::of(&known)?.is_some())
    })?;
    folder.apply(&[])?;
    let provider = Provider::of(&known)?.context("no node")?;
    ensure!(provider.size as u64 == 8 * MIB, "{}", provider.size);
    ensure!(folder.apply(&[])? == NOTHING);
    Ok(())
}

fn after_a_change_by_hand() -> Result<()> {
    let known = parts()?;
    let _restored = Restored(known.clone());
    let folder = Folder::new(&format!("{known} bar2+8M mode=600\n"))?;
    // Chosen, but bound before.
    says(&["config", &known, "--regions", "bar2+8M"])?;
    let text = folder.apply(&[])?;
    let from = "bar2@0x0+0x4000000";
    ensure!(
        text == format!("{known}: regions: {from} -> bar2+8M\n"),
        "{text}"
    );

    let path = Provider::of(&known)?.context("no node")?.path;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    let text = folder.apply(&[])?;
    ensure!(text == format!("{known}: mode: 666 -> 600\n"), "{text}");
    Ok(())
}

/// As udev rules ask.
fn finds_devices() -> Result<()> {
    let known = parts()?;
    let folder = Folder::new("1af4:1110\n1b36:0010 serial=disk1\n")?;
    for (device, expected) in [
        (&*known, 0),
        ("p2pmem0", 0),
        (&address_named("disk1")?, 0),
        (&address_named("disk0")?, 1),
        (&large()?, 1),
        ("0000:7f:00.0", 1),
    ] {
        let run = p2pmem(&folder.arguments(&["--find", device]))?;
        ensure!(run.status.code() == Some(expected), "{device}: {run:?}");
        ensure!(run.stdout.is_empty() && run.stderr.is_empty(), "{run:?}");
    }
    let (_, text) = failed(&["apply", "--folder", "/proc/self/mem"])?;
    ensure!(text.contains("cannot read it"), "{text}");
    Ok(())
}
