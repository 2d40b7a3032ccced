// SPDX-License-Identifier: GPL-2.0

//! Block devices that are put on others: what the kernel does with device memory there, and what
//! the `p2pmem` command says of it. Needs the topology stacks: disk0 and disk1 reach the memory,
//! disk2 does not, and the other disks take no device memory.

use std::{
    fs::{self, File},
    os::fd::AsRawFd,
    path::Path,
    time::Duration,
};

use anyhow::{bail, ensure, Context, Result};
use io_uring::{opcode, types::Fd};
use rustix::io::Errno;
use serde_json::Value;

use super::{
    handle::alloc,
    slots::Loop,
    uring::{register, ring, submit},
};
use crate::{
    cases,
    guest::{
        check_drive, expect_errno, node_named, open_direct, pattern, put_on_drive, read_at,
        wait_until, write_at, Map, Provider, WINDOW,
    },
    programs::{self, failed, fails, format_and_mount, p2pmem, run, says},
};

cases!(
    "stacks": mirror_hides_a_refusal, last_member_hides_a_refusal, mirror_is_refused, striped_mirror, stripes, file_on_a_mirror,
    file_system_of_two_drives, good_arrays, member_and_array_overlap, mirror_of_dm, mirror_of_lvm,
    slots_are_taken_by_all, others_are_refused,
);

pub(super) const LENGTH: usize = 64 << 10;
const MIB: usize = 1 << 20;

/// Runs a program of the build root, which must succeed.
pub(super) fn debian(words: &[&str]) -> Result<()> {
    let mut command = programs::debian(words[0]);
    command
        .args(&words[1..])
        // The guest has no udev that makes device nodes.
        .env("DM_DISABLE_UDEV", "1")
        .env("MDADM_NO_UDEV", "1");
    programs::output(&mut command).map(drop)
}

pub(super) fn name(node: &str) -> &str {
    node.trim_start_matches("/dev/")
}

/// Opens a block device for direct I/O, as soon as its driver lets that be done.
pub(super) fn direct(node: &str) -> Result<File> {
    let mut file = None;
    wait_until(Duration::from_secs(30), node, || {
        file = match open_direct(node) {
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => None,
            result => Some(result.with_context(|| node.to_owned())?),
        };
        Ok(file.is_some())
    })?;
    file.context("not opened")
}

/// Something that a program ends when this value goes.
pub(super) struct Undo(Vec<String>);

impl Undo {
    pub(super) fn new(words: &[&str]) -> Self {
        Self(words.iter().map(|word| (*word).to_owned()).collect())
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let words: Vec<_> = self.0.iter().map(String::as_str).collect();
        let _ = debian(&words);
    }
}

/// Makes an array of md. Its node is /dev/md9.
pub(super) fn array(level: &str, members: &[String]) -> Result<Undo> {
    let _ = run(
        "modprobe",
        &[if level == "raid5" { "raid456" } else { level }],
    );
    let count = members.len().to_string();
    let mut words = vec![
        "mdadm",
        "--create",
        ARRAY,
        "--run",
        "--assume-clean",
        "--metadata=1.2",
        "--level",
        level,
        "--raid-devices",
        &count,
    ];
    if level != "raid1" {
        words.extend(["--chunk", "64"]);
    }
    words.extend(members.iter().map(String::as_str));
    debian(&words)?;
    Ok(Undo::new(&["mdadm", "--stop", ARRAY]))
}

pub(super) const ARRAY: &str = "/dev/md9";

/// Returns what the drive of a member has at the start of an array of md.
pub(super) fn member_data(member: &str) -> Result<Vec<u64>> {
    let folder = format!("/sys/block/{}/md/dev-{}", name(ARRAY), name(member));
    let sectors: u64 = fs::read_to_string(format!("{folder}/offset"))?
        .trim()
        .parse()?;
    let map = Map::ordinary(LENGTH)?;
    read_at(&direct(member)?, &map, 0..LENGTH, sectors * 512)?;
    Ok((0..LENGTH).step_by(8).map(|at| map.get(at)).collect())
}

pub(super) fn patterned(seed: u64) -> Vec<u64> {
    (0..LENGTH).step_by(8).map(|at| pattern(seed, at)).collect()
}

/// Verifies a file of which the command says that it cannot work. That must fail; returns its JSON.
fn verified(path: &str, size: &str) -> Result<Value> {
    let (printed, said) = failed(&[
        "verify", path, "--size", size, "--write", "--force", "--json",
    ])?;
    serde_json::from_slice(&printed).context(said)
}

/// Returns the results on a member, or on the array itself.
fn results<'a>(report: &'a Value, member: Option<&str>) -> Vec<&'a str> {
    let checks = report["checks"].as_array();
    checks
        .into_iter()
        .flatten()
        .filter(|check| check["direction"] == "write" && check["member"].as_str() == member)
        .filter_map(|check| check["result"].as_str())
        .collect()
}

/// Checks that a mirror has the same data on each member, and no note of others.
fn expect_members(report: &Value, members: &[&str], result: &str) -> Result<()> {
    for member in members {
        let found = results(report, Some(member));
        ensure!(
            !found.is_empty() && found.iter().all(|one| *one == result),
            "{member}: {found:?}, expected {result}: {report}"
        );
    }
    ensure!(report["members_unknown"].is_null(), "{report}");
    Ok(())
}

/// Makes an array of a drive that reaches the memory, and of one that does not.
fn half_reached(level: &str) -> Result<([String; 2], Undo)> {
    let members = [node_named("disk0")?, node_named("disk2")?];
    let array = array(level, &members)?;
    Ok((members, array))
}

/// Checks that only the first member of a mirror has the new data.
fn expect_stale_half(report: &Value, members: &[String]) -> Result<()> {
    expect_members(report, &[name(&members[0])], "equal")?;
    expect_members(report, &[name(&members[1])], "stale")
}

/// Mainline reports success, and one member keeps its old data.
fn mirror_hides_a_refusal() -> Result<()> {
    let (members, _array) = half_reached("raid1")?;
    let file = direct(ARRAY)?;
    put_on_drive(&file, LENGTH, 1)?;
    let map = Map::new(Provider::first()?.open()?, WINDOW)?;
    map.fill(0..LENGTH, 2);
    write_at(&file, &map, 0..LENGTH, 0)?;
    ensure!(
        member_data(&members[0])? == patterned(2),
        "the member that reaches the memory"
    );
    ensure!(
        member_data(&members[1])? == patterned(1),
        "md does not hide the refusal any more: tell so in the documentation"
    );
    let state = fs::read_to_string(format!("/sys/block/{}/md/degraded", name(ARRAY)))?;
    ensure!(state.trim() == "0", "the array is degraded");
    Ok(())
}

/// Mainline on an array of which no member reaches the memory: a write succeeds, and
/// nothing is written.
fn last_member_hides_a_refusal() -> Result<()> {
    let member = node_named("disk2")?;
    let _array = array("raid1", &[member.clone(), "missing".to_owned()])?;
    let file = direct(ARRAY)?;
    put_on_drive(&file, LENGTH, 1)?;
    let map = Map::new(Provider::first()?.open()?, WINDOW)?;
    map.fill(0..LENGTH, 2);
    write_at(&file, &map, 0..LENGTH, 0)?;
    ensure!(
        member_data(&member)? == patterned(1),
        "the data was written"
    );
    let read = read_at(&file, &map, 0..LENGTH, 0);
    expect_errno(
        read,
        Errno::IO,
        "a read from a member that does not reach the memory",
    )?;
    drop(file);
    fails(
        &["copy", &node_named("disk1")?, ARRAY, "--size", "64k"],
        &[name(&member), "writes may succeed"],
    )?;
    let report = verified(ARRAY, "64k")?;
    ensure!(
        report["read"] == false && report["write"] == false,
        "{report}"
    );
    Ok(())
}

/// Checks that a device is refused because of a drive that does not reach the memory, in each
/// command.
fn expect_refusal(path: &str, drive: &str) -> Result<()> {
    let why = "below different root ports";
    let source = node_named("disk1")?;
    let reason = format!("{} (", name(drive));
    for words in [
        &["copy", &source, path, "--size", "64k"][..],
        &[
            "copy",
            path,
            &source,
            "--size",
            "64k",
            "--io",
            "uring-fixed",
        ],
        &["verify", path, "--size", "64k"],
        &["verify", path, "--size", "64k", "--write"],
        &["bench", path, "--size", "4k", "--rounds", "1"],
    ] {
        fails(words, &[path, &reason, "does not reach /dev/p2pmem0", why])?;
    }
    for words in [
        &["copy", &source, path, "--size", "64k"][..],
        &["verify", path, "--size", "64k"],
    ] {
        fails(words, &["--force"])?;
    }
    let output = p2pmem(&["doctor", "--json", path])?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let checks = report["checks"].as_array().context("no checks")?;
    let check = checks
        .iter()
        .find(|check| check["name"] == path)
        .context("no check")?;
    ensure!(
        check["status"] == "problem" && check["cause"].to_string().contains("does not reach"),
        "{check}"
    );
    Ok(())
}

fn mirror_is_refused() -> Result<()> {
    let (members, _array) = half_reached("raid1")?;
    let file = direct(ARRAY)?;
    put_on_drive(&file, LENGTH, 1)?;
    put_on_drive(&direct(&node_named("disk1")?)?, LENGTH, 2)?;
    expect_refusal(ARRAY, &members[1])?;
    check_drive(&file, LENGTH, 1)?;
    drop(file);
    let drawn = says(&["topo"])?;
    ensure!(
        drawn.contains(&format!("{} (", name(&members[1]))),
        "{drawn}"
    );

    // With --force, the error names the member that has old data.
    let report = verified(ARRAY, "64k")?;
    ensure!(report["write"] == false, "{report}");
    expect_stale_half(&report, &members)?;
    fails(
        &["verify", ARRAY, "--size", "64k", "--write", "--force"],
        &[
            "memory to drive",
            &format!("on member {}: stale", name(&members[1])),
        ],
    )?;
    // Both have what was there before.
    for member in &members {
        ensure!(member_data(member)? == patterned(1), "{member}");
    }
    Ok(())
}

fn striped_mirror() -> Result<()> {
    let (members, _array) = half_reached("raid10")?;
    expect_refusal(ARRAY, &members[1])?;
    let report = verified(ARRAY, "256k")?;
    expect_stale_half(&report, &members)
}

fn stripes() -> Result<()> {
    let (members, _array) = half_reached("raid0")?;
    expect_refusal(ARRAY, &members[1])?;
    // No member can do the work of another one.
    let source = node_named("disk1")?;
    fails(
        &["copy", &source, ARRAY, "--size", "256k", "--force"],
        &["cannot write", ARRAY],
    )
}

fn file_on_a_mirror() -> Result<()> {
    let (members, _array) = half_reached("raid1")?;
    format_and_mount(ARRAY, "/tmp/mirror")?;
    let path = "/tmp/mirror/file";
    let result = on_a_mounted_mirror(path, &members);
    run("umount", &["/tmp/mirror"])?;
    result
}

fn on_a_mounted_mirror(path: &str, members: &[String; 2]) -> Result<()> {
    // One that is made by the copy is looked at, too.
    fails(
        &["copy", &node_named("disk1")?, path, "--size", "64k"],
        &[path, name(&members[1]), "does not reach"],
    )?;
    ensure!(!Path::new(path).exists(), "it was made");
    fs::write(path, vec![7; MIB])?;
    run("sync", &[])?;
    expect_refusal(path, &members[1])?;
    let report = verified(path, "64k")?;
    expect_stale_half(&report, members)
}

/// A file system that has several drives of its own, of which mountinfo names one.
fn file_system_of_two_drives() -> Result<()> {
    run("modprobe", &["btrfs"])?;
    let (one, other) = (node_named("disk0")?, node_named("disk2")?);
    debian(&[
        "mkfs.btrfs",
        "-q",
        "-f",
        "-d",
        "raid1",
        "-m",
        "raid1",
        &one,
        &other,
    ])?;
    fs::create_dir_all("/tmp/two")?;
    run(
        "mount",
        &[
            "-t",
            "btrfs",
            "-o",
            &format!("device={one},device={other},nodatasum"),
            &one,
            "/tmp/two",
        ],
    )?;
    let path = "/tmp/two/file";
    fs::write(path, vec![7; MIB])?;
    let result = fails(
        &["copy", &node_named("disk1")?, path, "--size", "64k"],
        &[path, name(&other), "does not reach", "old data"],
    );
    run("umount", &["/tmp/two"])?;
    result
}

fn good_arrays() -> Result<()> {
    let members = [node_named("disk0")?, node_named("disk1")?];
    // Loaded by hand: a drive that is part of no array is needed as well.
    for level in ["raid1", "raid10", "raid0"] {
        let _array = array(level, &members)?;
        let arguments = ["verify", ARRAY, "--size", "256k", "--write", "--json"];
        let report: Value = serde_json::from_str(&says(&arguments)?)?;
        ensure!(
            report["write"] == true && report["read"] == true,
            "{level}: {report}"
        );
        if level == "raid0" {
            ensure!(
                results(&report, Some(name(&members[0]))).is_empty(),
                "{report}"
            );
        } else {
            expect_members(&report, &[name(&members[0]), name(&members[1])], "equal")?;
        }
        fs::create_dir_all("/tmp/good")?;
        debian(&["mkfs.xfs", "-q", "-f", "-K", ARRAY])?;
        run("modprobe", &["xfs"])?;
        run("mount", &["-t", "xfs", ARRAY, "/tmp/good"])?;
        let copied = (|| {
            fs::write("/tmp/good/a", vec![7; MIB])?;
            let said = says(&["copy", "/tmp/good/a", "/tmp/good/b", "--fill", "--check"])?;
            ensure!(said.contains("both compared equal"), "{level}: {said}");
            says(&["verify", "/tmp/good/b", "--size", "256k", "--write"])
        })();
        run("umount", &["/tmp/good"])?;
        copied?;
        let said = says(&["doctor", ARRAY])?;
        ensure!(said.contains("problems: 0"), "{level}: {said}");
    }
    Ok(())
}

fn member_and_array_overlap() -> Result<()> {
    let members = [node_named("disk0")?, node_named("disk1")?];
    let _array = array("raid1", &members)?;
    fails(
        &["copy", &members[0], ARRAY, "--size", "64k"],
        &["overlap", &members[0], ARRAY, "--force"],
    )
}

/// Options of LVM commands in a guest without udev, and without anything that can be
/// written to.
const LVM: &str =
    "devices { use_devicesfile=0 } activation { udev_sync=0 udev_rules=0 monitoring=0 } \
    backup { backup=0 archive=0 } global { locking_dir=\"/tmp/lvm\" }";

fn mirror_of_dm() -> Result<()> {
    let members = [node_named("disk0")?, node_named("disk2")?];
    run("modprobe", &["dm-mirror"])?;
    for feature in ["", " 1 handle_errors"] {
        let table = format!(
            "0 131072 mirror core 1 1024 2 {} 0 {} 0{feature}",
            members[0], members[1]
        );
        debian(&["dmsetup", "create", "mirror", "--table", &table])?;
        let _device = Undo::new(&["dmsetup", "remove", "--retry", "mirror"]);
        mapped_mirror("/dev/mapper/mirror", &members, "refused")?;
    }
    Ok(())
}

fn mirror_of_lvm() -> Result<()> {
    let members = [node_named("disk0")?, node_named("disk2")?];
    for module in ["raid1", "dm-raid"] {
        run("modprobe", &[module])?;
    }
    fs::create_dir_all("/tmp/lvm")?;
    let lvm =
        |words: &[&str]| debian(&[&["lvm", words[0], "--config", LVM, "-y"], &words[1..]].concat());
    lvm(&["pvcreate", "-ff", &members[0], &members[1]])?;
    lvm(&["vgcreate", "group", &members[0], &members[1]])?;
    let _group = Undo::new(&["lvm", "vgremove", "--config", LVM, "-y", "-f", "group"]);
    lvm(&[
        "lvcreate", "-Zn", "-Wn", "--nosync", "--type", "raid1", "-m1", "-L64M", "-n", "volume",
        "group",
    ])?;
    mapped_mirror("/dev/mapper/group-volume", &members, "equal")
}

/// The device mapper takes no device memory that is mapped. A slot it takes: then one member has
/// the data, and the other one does not. What the mirror itself says of that is `result`.
fn mapped_mirror(path: &str, members: &[String], result: &str) -> Result<()> {
    let file = direct(path)?;
    put_on_drive(&file, LENGTH, 1)?;
    let map = Map::new(Provider::first()?.open()?, WINDOW)?;
    expect_errno(write_at(&file, &map, 0..LENGTH, 0), Errno::REMOTEIO, path)?;
    drop(file);
    for words in [
        &["copy", &node_named("disk1")?, path, "--size", "64k"][..],
        &[
            "copy",
            &node_named("disk1")?,
            path,
            "--size",
            "64k",
            "--io",
            "uring-fixed",
        ],
        &["verify", path, "--size", "64k"],
    ] {
        fails(
            words,
            &["the device mapper takes no device memory", "--force"],
        )?;
    }
    let report = verified(path, "64k")?;
    ensure!(report["write"] == false, "{report}");
    // The last one went through a slot.
    ensure!(results(&report, None).last() == Some(&result), "{report}");
    expect_members(&report, &[name(&members[0])], "equal")?;
    let far = results(&report, Some(name(&members[1])));
    ensure!(far.first() == Some(&"stale"), "{report}");
    Ok(())
}

/// Returns the nodes of the disks of sd that have a part in their path in sysfs which begins so.
pub(super) fn disks_on(bus: &str) -> Result<Vec<String>> {
    let mut found: Vec<_> = fs::read_dir("/sys/block")?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("sd"))
        .filter(|entry| {
            let path = fs::canonicalize(entry.path()).unwrap_or_default();
            path.iter()
                .any(|part| part.to_string_lossy().starts_with(bus))
        })
        .map(|entry| format!("/dev/{}", entry.file_name().to_string_lossy()))
        .collect();
    found.sort();
    Ok(found)
}

/// Waits for a disk of sd on a bus, and returns its node.
pub(super) fn scsi_disk(bus: &str) -> Result<String> {
    let mut found = None;
    wait_until(Duration::from_secs(30), bus, || {
        found = disks_on(bus)?.into_iter().next();
        Ok(found.is_some())
    })?;
    found.context("the disk is missing")
}

/// Loads the drivers of block devices that take no device memory.
pub(super) fn load_drivers() -> Result<()> {
    for module in [
        "virtio_blk",
        "virtio_scsi",
        "sd_mod",
        "ahci",
        "zram",
        "nbd",
        "dm-crypt",
    ] {
        run("modprobe", &[module])?;
    }
    Ok(())
}

pub(super) const VAULT: &str = "/dev/mapper/vault";

/// Puts dm-crypt on a drive. Its node is [`VAULT`].
pub(super) fn vault(drive: &str) -> Result<Undo> {
    fs::write("/tmp/key", [7; 64])?;
    debian(&[
        "cryptsetup",
        "open",
        "--type",
        "plain",
        "--cipher",
        "aes-xts-plain64",
        "--key-size",
        "512",
        "--key-file",
        "/tmp/key",
        drive,
        "vault",
    ])?;
    Ok(Undo::new(&["cryptsetup", "close", "vault"]))
}

pub(super) const NBD: &str = "/dev/nbd0";

/// Makes a disk of nbd, of a file. Its node is [`NBD`].
pub(super) fn network_disk() -> Result<Undo> {
    File::create("/tmp/nbd.img")?.set_len(16 << 20)?;
    debian(&[
        "qemu-nbd",
        "--fork",
        "-f",
        "raw",
        "--socket",
        "/tmp/nbd.sock",
        "-c",
        NBD,
        "/tmp/nbd.img",
    ])?;
    let undo = Undo::new(&["qemu-nbd", "-d", NBD]);
    wait_until(Duration::from_secs(10), "the disk of nbd is there", || {
        Ok(fs::read_to_string("/sys/block/nbd0/size")?.trim() != "0")
    })?;
    Ok(undo)
}

/// Calls a function for each kind of block device that takes no device memory.
fn each_that_takes_none(try_one: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    let mut each = |path: &str| try_one(path).with_context(|| path.to_owned());
    load_drivers()?;
    each("/dev/vda")?;
    for bus in ["virtio", "ata"] {
        each(&scsi_disk(bus)?)?;
    }
    fs::write("/sys/block/zram0/disksize", "64M")?;
    each("/dev/zram0")?;
    fs::write("/sys/block/zram0/reset", "1")?;
    {
        let device = Loop::new("/tmp/stacks-loop", 1 << 20)?;
        each(&device.device)?;
    }
    {
        let members = [
            node_named("disk0")?,
            node_named("disk1")?,
            node_named("disk2")?,
        ];
        let _array = array("raid5", &members)?;
        each(ARRAY)?;
    }
    {
        let _vault = vault(&node_named("disk0")?)?;
        each(VAULT)?;
    }
    let _disk = network_disk()?;
    each(NBD)?;
    Ok(())
}

/// The kernel refuses mapped memory, and takes a slot.
fn slots_are_taken_by_all() -> Result<()> {
    let provider = Provider::first()?;
    each_that_takes_none(&mut |path| {
        let file = direct(path)?;
        let (node, handle) = alloc(&provider, WINDOW)?;
        let map = Map::new(&handle, WINDOW)?;
        map.fill(0..LENGTH, 1);
        for result in [
            read_at(&file, &map, 0..LENGTH, 0),
            write_at(&file, &map, 0..LENGTH, 0),
        ] {
            expect_errno(result, Errno::REMOTEIO, "mapped memory")?;
        }
        let mut ring = ring()?;
        register(&mut ring, &node, &handle, 0)?;
        let request =
            opcode::WriteFixed::new(Fd(file.as_raw_fd()), std::ptr::null(), LENGTH as u32, 0)
                .build();
        match submit(&mut ring, &request) {
            Ok(LENGTH) => Ok(()),
            // A command is sent, and may fail.
            Err(Errno::IO) if path.starts_with("/dev/sd") => Ok(()),
            other => bail!("slots are refused now, tell so in the documentation: {other:?}"),
        }
    })
}

fn others_are_refused() -> Result<()> {
    let source = node_named("disk1")?;
    each_that_takes_none(&mut |path| {
        // The memory of raid5 is on that drive as well.
        if path != ARRAY {
            for io in ["uring", "uring-fixed", "pread"] {
                let words = ["copy", &source, path, "--size", "64k", "--io", io];
                fails(&words, &[path, "take", "no", "device memory", "--force"])?;
            }
        }
        for words in [
            &["verify", path, "--size", "64k"][..],
            &["verify", path, "--write"],
        ] {
            fails(words, &[path, "device memory", "--force"])?;
        }
        fails(&["bench", path, "--size", "4k"], &[path, "device memory"])?;
        let output = p2pmem(&["doctor", path])?;
        let said = String::from_utf8(output.stdout)?;
        ensure!(
            output.status.code() == Some(1) && said.contains("EREMOTEIO") && said.contains("slot"),
            "{said}"
        );
        Ok(())
    })
}

/// A drive with two paths, one of which does not reach the memory. Needs the topology multipath.
pub mod multipath {
    use super::*;

    cases!("multipath": a_path_that_does_not_reach);

    fn a_path_that_does_not_reach() -> Result<()> {
        // The head has a name of its own.
        let other = node_named("disk1")?;
        let heads: Vec<_> = fs::read_dir("/sys/class/block")?
            .flatten()
            .map(|entry| format!("/dev/{}", entry.file_name().to_string_lossy()))
            .filter(|path| path.ends_with("n1") && *path != other && Path::new(path).exists())
            .collect();
        let [shared] = &heads[..] else {
            bail!("not one drive with two paths: {heads:?}");
        };
        put_on_drive(&direct(&other)?, LENGTH, 1)?;
        for words in [
            &["copy", &other, shared, "--size", "64k"][..],
            &["verify", shared, "--size", "64k"],
        ] {
            fails(words, &[shared, name(shared), "does not reach", "--force"])?;
        }
        Ok(())
    }
}
