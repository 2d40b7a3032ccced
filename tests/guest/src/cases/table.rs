// SPDX-License-Identifier: GPL-2.0

//! Results of direct I/O with device memory on each kind of file and block device, beside
//! what the `p2pmem` command says of it: docs/stacks.md, which must have the same rows.
//!
//! Needs the topologies stacks and stacks-iommu: disk0 and disk1 are below the switch of the
//! memory, disk2 is below another root port. What is on the drive `source` is copied and reaches
//! the memory.

use std::{
    fs::{self, File},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use anyhow::{bail, ensure, Context, Result};
use rustix::io::Errno;

use super::{
    slots::Loop,
    stacks::{
        array, debian, direct, disks_on, load_drivers, member_data, name, network_disk, patterned,
        scsi_disk, vault, Undo, ARRAY, LENGTH, NBD, VAULT,
    },
};
use crate::{
    cases,
    guest::{
        address_named, node_named, open_direct, pattern, put_on_drive, read_at, wait_until,
        write_at, Map, Provider, PAGE, WINDOW,
    },
    programs::{check_json, p2pmem, run},
};

cases!("table": block_devices, file_systems, what_a_trial_tells);

const DOCUMENT: &str = include_str!("../../../../docs/stacks.md");
const POINT: &str = "/tmp/table";
const FILE: &str = "/tmp/table/file";

/// Properties of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    /// It cannot be written.
    ReadOnly,
    /// The tables cannot know that it fails: the trial must show it.
    Blind,
    /// A mirror with a member that does not reach the memory: reads go to either member.
    HalfMirror,
    /// Several drives, one of which does not reach the memory: it depends on where the data is.
    Partly,
}

/// The rows of a part of the document.
struct Sheet {
    title: &'static str,
    source: String,
    rows: Vec<String>,
    wrong: Vec<String>,
}

impl Sheet {
    fn new(title: &'static str) -> Result<Self> {
        let source = node_named("source")?;
        put_on_drive(&direct(&source)?, LENGTH, 77)?;
        Ok(Self {
            title,
            source,
            rows: Vec::new(),
            wrong: Vec::new(),
        })
    }

    /// Adds a row. A row that cannot be made does not keep the others from being made.
    fn add(&mut self, what: &str, path: &str, kind: Kind) {
        if let Err(error) = self.try_add(what, path, kind) {
            self.wrong.push(format!("{what}: {error:#}"));
        }
    }

    fn try_add(&mut self, what: &str, path: &str, kind: Kind) -> Result<()> {
        // Reports of the command.
        let output = p2pmem(&["doctor", "--try", "--json", path])?;
        let report = check_json(&String::from_utf8(output.stdout)?)?;
        let said = String::from_utf8_lossy(&output.stderr);
        let list = |name: &str| report[name].as_array().with_context(|| said.to_string());
        let check = list("checks")?.iter().find(|one| one["name"] == path);
        let status = check.context("no check")?["status"].as_str();
        let status = status.context("no status")?;
        let trial = list("trials")?.iter().find(|one| one["file"] == path);
        let trial = trial.context("no trial")?;
        let expected = trial["expected"].as_str().context("no expectation")?;
        let tried = match trial["outcome"]["result"].as_str().context("no result")? {
            "equal" => "arrives",
            "refused" => "refused",
            "untried" => bail!("was not tried: {trial}"),
            _ => "lost",
        };

        // Results of direct I/O.
        let mut words = vec!["verify", path, "--size", "64k"];
        if kind != Kind::ReadOnly {
            words.push("--write");
        }
        let verify = outcome(&words, "works")?;
        let copy = match kind {
            Kind::ReadOnly => "-",
            _ => {
                let words = ["copy", &self.source, path, "--size", "64k", "--check"];
                outcome(&words, "done")?
            }
        };
        let (read, write) = match kind {
            Kind::ReadOnly => (read(path, None), "-".to_owned()),
            Kind::Partly => (all_of(path), "varies".to_owned()),
            _ => (read(path, Some(3)), write(path, kind)?),
        };
        let (tried, read) = match kind {
            Kind::HalfMirror => ("varies", "varies".to_owned()),
            Kind::Partly => ("varies", read),
            _ => (tried, read),
        };

        let arrives = read == "arrives" && matches!(&*write, "arrives" | "-");
        let fails = expected == "fails";
        let mut wrong = Vec::new();
        let mut expect = |what: &str, agrees: bool| {
            if !agrees {
                wrong.push(what.to_owned());
            }
        };
        expect(
            "the tables",
            match expected {
                "works" => arrives != (kind == Kind::Blind),
                "fails" => !arrives,
                _ => true,
            },
        );
        expect("the check", (status == "problem") == fails);
        expect(
            "the trial",
            match tried {
                "refused" => !matches!(&*read, "arrives" | "lost"),
                tried => tried == read || kind == Kind::Partly,
            },
        );
        expect(
            "copy",
            match copy {
                "done" => write == "arrives" && !fails,
                "refused" => fails,
                "-" => true,
                _ => write != "arrives" && !fails,
            },
        );
        expect(
            "verify",
            match verify {
                "works" => arrives && !fails,
                "refused" => fails,
                _ => !arrives && !fails,
            },
        );
        let row = format!(
            "| {what} | {status} | {expected} | {tried} | {read} | {write} | {copy} | {verify} |"
        );
        if !wrong.is_empty() {
            self.wrong.push(format!(
                "{} disagrees with the rest: {row}",
                wrong.join(", ")
            ));
        }
        self.rows.push(row);
        Ok(())
    }

    /// Formats, mounts, and adds a row for a file.
    fn file_system(&mut self, what: &str, kind: &str, make: &[&str], node: &str, options: &str) {
        self.special(what, kind, make, node, options, Kind::Plain);
    }

    fn special(
        &mut self,
        what: &str,
        kind: &str,
        make: &[&str],
        node: &str,
        options: &str,
        special: Kind,
    ) {
        let result = (|| {
            if !make.is_empty() {
                debian(&[make, &[node]].concat())?;
            }
            let mounted = Mounted::new(kind, node, options)?;
            make_file(FILE)?;
            self.try_add(what, FILE, special)?;
            mounted.end()
        })();
        if let Err(error) = result {
            self.wrong.push(format!("{what}: {error:#}"));
        }
    }

    /// Prints the rows, and compares them with those of the document.
    fn end(self) -> Result<()> {
        for row in &self.rows {
            println!("# stacks: {}: {row}", self.title);
        }
        let mut part = DOCUMENT
            .split("\n## ")
            .filter_map(|part| part.split_once('\n'));
        let part = part.find(|(title, _)| *title == self.title);
        let (_, part) = part.with_context(|| format!("docs/stacks.md has no {}", self.title))?;
        // Behind the head and the line below it.
        let known: Vec<_> = part
            .lines()
            .filter(|line| line.starts_with("| "))
            .skip(2)
            .collect();
        let mut wrong = self.wrong;
        let differing = self
            .rows
            .iter()
            .filter(|row| !known.contains(&row.as_str()));
        wrong.extend(differing.map(|row| format!("not in docs/stacks.md: {row}")));
        let gone = known
            .iter()
            .filter(|line| !self.rows.iter().any(|row| row == *line));
        wrong.extend(gone.map(|row| format!("only in docs/stacks.md: {row}")));
        ensure!(
            wrong.is_empty(),
            "{}; make stacks writes the document",
            wrong.join("\n")
        );
        Ok(())
    }
}

/// Runs the command, which may refuse before it does anything, or fail.
fn outcome(words: &[&str], success: &'static str) -> Result<&'static str> {
    let output = p2pmem(words)?;
    let said = String::from_utf8_lossy(&output.stderr);
    Ok(match output.status.code() {
        Some(0) => success,
        Some(1) if said.contains("cannot exchange data") => "refused",
        Some(1) => "fails",
        _ => bail!("{words:?}: {said}"),
    })
}

fn named(error: Errno) -> String {
    match error {
        Errno::REMOTEIO => "EREMOTEIO".to_owned(),
        Errno::INVAL => "EINVAL".to_owned(),
        Errno::IO => "EIO".to_owned(),
        other => format!("error {}", other.raw_os_error()),
    }
}

fn opened(path: &str, writable: bool) -> Result<File, Errno> {
    let file = match writable {
        true => open_direct(path),
        false => fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(path),
    };
    file.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn memory() -> Result<Map, Errno> {
    let provider = Provider::first().and_then(|one| one.open());
    provider
        .and_then(|file| Map::new(file, WINDOW))
        .map_err(|_| Errno::NODEV)
}

/// Reads what was put there before, with a seed if that is to be done first, into device memory.
fn read(path: &str, seed: Option<u64>) -> String {
    let attempt = || -> Result<bool, Errno> {
        let file = opened(path, seed.is_some())?;
        let ordinary = Map::ordinary(LENGTH).map_err(|_| Errno::NOMEM)?;
        if let Some(seed) = seed {
            ordinary.fill(0..LENGTH, seed);
            write_at(&file, &ordinary, 0..LENGTH, 0)?;
        }
        let map = memory()?;
        map.fill(0..LENGTH, 99);
        read_at(&file, &map, 0..LENGTH, 0)?;
        read_at(&file, &ordinary, 0..LENGTH, 0)?;
        let mut all = (0..LENGTH).step_by(8);
        Ok(all.all(|at| map.get(at) == ordinary.get(at)))
    };
    verdict(attempt())
}

/// Reads all of a file into device memory, which fails somewhere.
fn all_of(path: &str) -> String {
    let attempt = || -> Result<bool, Errno> {
        let (file, map) = (opened(path, false)?, memory()?);
        for offset in (0..1 << 20).step_by(LENGTH) {
            read_at(&file, &map, 0..LENGTH, offset)?;
        }
        Ok(true)
    };
    verdict(attempt())
}

/// Writes device memory, and reads through ordinary memory what is there.
fn write(path: &str, kind: Kind) -> Result<String> {
    let attempt = || -> Result<bool, Errno> {
        let file = opened(path, true)?;
        let ordinary = Map::ordinary(LENGTH).map_err(|_| Errno::NOMEM)?;
        ordinary.fill(0..LENGTH, 4);
        write_at(&file, &ordinary, 0..LENGTH, 0)?;
        let map = memory()?;
        map.fill(0..LENGTH, 5);
        write_at(&file, &map, 0..LENGTH, 0)?;
        read_at(&file, &ordinary, 0..LENGTH, 0)?;
        Ok(ordinary.check(0..LENGTH, 5).is_ok())
    };
    let attempt = attempt();
    if kind == Kind::HalfMirror && attempt.is_ok() {
        for member in [node_named("disk0")?, node_named("disk2")?] {
            if member_data(&member)? != patterned(5) {
                return Ok("old data on a member".to_owned());
            }
        }
    }
    Ok(verdict(attempt))
}

fn verdict(attempt: Result<bool, Errno>) -> String {
    match attempt {
        Ok(true) => "arrives".to_owned(),
        Ok(false) => "lost".to_owned(),
        Err(error) => named(error),
    }
}

/// Makes a file whose data is on the drive.
fn make_file(path: &str) -> Result<()> {
    let data: Vec<u8> = (0..1 << 20)
        .step_by(8)
        .flat_map(|at| pattern(6, at).to_le_bytes())
        .collect();
    fs::write(path, data).with_context(|| path.to_owned())?;
    run("sync", &[])
}

/// Something mounted, at [`POINT`].
struct Mounted(&'static str);

impl Mounted {
    fn new(kind: &str, node: &str, options: &str) -> Result<Self> {
        Self::at(POINT, kind, node, options)
    }

    fn at(point: &'static str, kind: &str, node: &str, options: &str) -> Result<Self> {
        if !fs::read_to_string("/proc/filesystems")?.contains(&format!("\t{kind}\n")) {
            run("modprobe", &[kind])?;
        }
        fs::create_dir_all(point)?;
        let mut words = vec!["-t", kind];
        if !options.is_empty() {
            words.extend(["-o", options]);
        }
        words.extend([node, point]);
        run("mount", &words)?;
        Ok(Self(point))
    }

    fn end(self) -> Result<()> {
        let point = self.0;
        std::mem::forget(self);
        run("umount", &[point])
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", self.0]);
    }
}

/// Returns a disk of USB, of which there are two.
fn usb_disks() -> Result<Vec<String>> {
    run("modprobe", &["xhci_pci"])?;
    run("modprobe", &["usb_storage", "delay_use=0"])?;
    run("modprobe", &["uas"])?;
    let mut found = Vec::new();
    wait_until(Duration::from_secs(60), "disks of USB", || {
        found = disks_on("usb")?;
        let has_size = |disk: &String| {
            let size = format!("/sys/block/{}/size", name(disk));
            fs::read_to_string(size).is_ok_and(|size| size != "0\n")
        };
        Ok(found.len() == 2 && found.iter().all(has_size))
    })?;
    Ok(found)
}

/// Returns who drives a disk of USB.
fn usb_driver(disk: &str) -> Result<&'static str> {
    let path = fs::canonicalize(format!("/sys/block/{}", name(disk)))?;
    for above in path.ancestors() {
        if let Ok(driver) = fs::read_link(above.join("driver")) {
            match &*driver.file_name().unwrap_or_default().to_string_lossy() {
                "uas" => return Ok("uas"),
                "usb-storage" => return Ok("usb-storage"),
                _ => (),
            }
        }
    }
    bail!("{disk} is no disk of USB")
}

/// Returns the node of the drive that two controllers share.
fn shared_drive() -> Result<String> {
    for subsystem in fs::read_dir("/sys/class/nvme-subsystem")?.flatten() {
        let names: Vec<_> = fs::read_dir(subsystem.path())?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        let controllers = names.iter().filter(|name| {
            let number = name.strip_prefix("nvme");
            number.is_some_and(|number| number.parse::<u32>().is_ok())
        });
        let head = names
            .iter()
            .find(|name| name.starts_with("nvme") && name.ends_with("n1"));
        if let (2, Some(head)) = (controllers.count(), head) {
            return Ok(format!("/dev/{head}"));
        }
    }
    bail!("no drive with two controllers")
}

fn arrays(sheet: &mut Sheet) -> Result<()> {
    let [one, two, far] = [
        node_named("disk0")?,
        node_named("disk1")?,
        node_named("disk2")?,
    ];
    for (level, members) in [
        ("raid0", [&one, &two]),
        ("raid1", [&one, &two]),
        ("raid10", [&one, &two]),
    ] {
        let _array = array(level, &members.map(Clone::clone))?;
        sheet.add(&format!("md {level} of NVMe drives"), ARRAY, Kind::Plain);
    }
    {
        let _array = array("raid5", &[one.clone(), two.clone(), far.clone()])?;
        sheet.add("md raid5", ARRAY, Kind::Plain);
    }
    {
        let _array = array("raid1", &[one.clone(), far.clone()])?;
        let what = "md raid1, a member does not reach the memory";
        sheet.add(what, ARRAY, Kind::HalfMirror);
    }
    {
        let sata = scsi_disk("ata")?;
        let _array = array("raid1", &[one.clone(), "missing".to_owned()])?;
        debian(&["mdadm", ARRAY, "--add", &sata])?;
        sheet.add("md raid1, a member is SATA", ARRAY, Kind::Plain);
        debian(&["mdadm", ARRAY, "--fail", &sata])?;
        wait_until(Duration::from_secs(30), "the member is gone", || {
            Ok(debian(&["mdadm", ARRAY, "--remove", &sata]).is_ok())
        })?;
        let what = "md raid1, a SATA member was taken out since it was started";
        sheet.add(what, ARRAY, Kind::Blind);
    }
    Ok(())
}

fn mapped(sheet: &mut Sheet) -> Result<()> {
    let drive = node_named("disk0")?;
    {
        let table = format!("0 131072 linear {drive} 0");
        debian(&["dmsetup", "create", "linear", "--table", &table])?;
        let _device = Undo::new(&["dmsetup", "remove", "--retry", "linear"]);
        sheet.add("dm-linear, as LVM", "/dev/mapper/linear", Kind::Plain);
    }
    let _vault = vault(&drive)?;
    sheet.add("dm-crypt", VAULT, Kind::Plain);
    Ok(())
}

fn block_devices() -> Result<()> {
    let mut sheet = Sheet::new("Block devices, no IOMMU")?;
    load_drivers()?;
    sheet.add(
        "NVMe drive below the switch of the memory",
        &node_named("disk0")?,
        Kind::Plain,
    );
    sheet.add(
        "NVMe drive below another root port",
        &node_named("disk2")?,
        Kind::Plain,
    );
    let what = "NVMe multipath, each path reaches the memory";
    sheet.add(what, &shared_drive()?, Kind::Plain);
    arrays(&mut sheet)?;
    mapped(&mut sheet)?;
    {
        let device = Loop::new("/tmp/table-loop", 1 << 20)?;
        sheet.add("loop", &device.device, Kind::Plain);
    }
    fs::write("/sys/block/zram0/disksize", "64M")?;
    sheet.add("zram", "/dev/zram0", Kind::Plain);
    fs::write("/sys/block/zram0/reset", "1")?;
    {
        let _disk = network_disk()?;
        sheet.add("nbd", NBD, Kind::Plain);
    }
    sheet.add("virtio-blk", "/dev/vda", Kind::Plain);
    sheet.add("virtio-scsi", &scsi_disk("virtio")?, Kind::Plain);
    sheet.add("SATA", &scsi_disk("ata")?, Kind::Plain);
    for disk in usb_disks()? {
        let what = format!("USB, by {}", usb_driver(&disk)?);
        sheet.add(&what, &disk, Kind::Plain);
    }
    sheet.end()
}

/// File systems, and what makes them.
const FILE_SYSTEMS: &[(&str, &[&str])] = &[
    ("ext4", &["mkfs.ext4", "-q", "-F"]),
    ("xfs", &["mkfs.xfs", "-q", "-f", "-K"]),
    ("f2fs", &["mkfs.f2fs", "-q", "-f"]),
    ("exfat", &["mkfs.exfat", "-q"]),
    ("ntfs", &["mkntfs", "-q", "-Q", "-F"]),
    ("vfat", &["mkfs.vfat"]),
    ("jfs", &["mkfs.jfs", "-q"]),
    ("nilfs2", &["mkfs.nilfs2", "-q", "-f"]),
    ("udf", &["mkudffs", "-b", "512"]),
];

fn file_systems() -> Result<()> {
    let mut sheet = Sheet::new("Files, no IOMMU")?;
    for module in ["nls_cp437", "nls_ascii", "nls_utf8"] {
        run("modprobe", &[module])?;
    }
    let [near, other, far] = [
        node_named("disk0")?,
        node_named("disk1")?,
        node_named("disk2")?,
    ];
    for (kind, make) in FILE_SYSTEMS {
        sheet.file_system(kind, kind, make, &near, "");
    }
    let btrfs = &["mkfs.btrfs", "-q", "-f"][..];
    sheet.file_system("btrfs", "btrfs", btrfs, &near, "");
    sheet.file_system("btrfs without checksums", "btrfs", &[], &near, "nodatasum");
    sheet.file_system("tmpfs", "tmpfs", &[], "none", "");
    sheet.file_system("ramfs", "ramfs", &[], "none", "");
    for add in [read_only, several, realtime, stable, layered] {
        if let Err(error) = add(&mut sheet, &near, &other, &far) {
            sheet.wrong.push(format!("{error:#}"));
        }
    }
    sheet.end()
}

fn read_only(sheet: &mut Sheet, near: &str, _: &str, _: &str) -> Result<()> {
    fs::create_dir_all("/tmp/tree")?;
    make_file("/tmp/tree/file")?;
    debian(&["mkfs.erofs", near, "/tmp/tree"])?;
    let mounted = Mounted::new("erofs", near, "ro")?;
    sheet.add("erofs", FILE, Kind::ReadOnly);
    mounted.end()?;
    // The build root itself.
    sheet.add("9p", "/debian/usr/sbin/mdadm", Kind::ReadOnly);
    Ok(())
}

/// File systems with several drives, one of which does not reach the memory.
fn several(sheet: &mut Sheet, near: &str, other: &str, far: &str) -> Result<()> {
    for (with, what, special) in [
        (other, "btrfs on two drives", Kind::Plain),
        (
            far,
            "btrfs on two drives, one does not reach the memory",
            Kind::Partly,
        ),
    ] {
        debian(&["mkfs.btrfs", "-q", "-f", "-d", "raid0", near, with])?;
        let options = format!("nodatasum,device={near},device={with}");
        sheet.special(what, "btrfs", &[], near, &options, special);
    }
    debian(&["mkfs.f2fs", "-q", "-f", "-c", far, near])?;
    let what = "f2fs on two drives, one does not reach the memory";
    sheet.file_system(what, "f2fs", &[], near, "");
    Ok(())
}

/// XFS, whose realtime files are on another drive.
fn realtime(sheet: &mut Sheet, near: &str, _: &str, far: &str) -> Result<()> {
    for (data, other, inherit, what) in [
        (
            near,
            far,
            "0",
            "xfs, its realtime device does not reach the memory",
        ),
        (
            near,
            far,
            "1",
            "xfs, a realtime file on a device that does not reach the memory",
        ),
        (
            far,
            near,
            "0",
            "xfs, only its realtime device reaches the memory",
        ),
        (
            far,
            near,
            "1",
            "xfs, a realtime file on a device that reaches the memory",
        ),
    ] {
        let (device, inherit) = (format!("rtdev={other}"), format!("rtinherit={inherit}"));
        let make = ["mkfs.xfs", "-q", "-f", "-K", "-r", &device, "-d", &inherit];
        sheet.file_system(what, "xfs", &make, data, &device);
    }
    Ok(())
}

/// Files where data must not change while it is written.
fn stable(sheet: &mut Sheet, near: &str, _: &str, _: &str) -> Result<()> {
    let setting = format!("/sys/block/{}/queue/stable_writes", name(near));
    fs::write(&setting, "1")?;
    for (kind, make) in [FILE_SYSTEMS[0], FILE_SYSTEMS[1]] {
        let what = format!("{kind}, the drive has stable_writes set");
        sheet.file_system(&what, kind, make, near, "");
    }
    fs::write(&setting, "0")?;
    Ok(())
}

fn layered(sheet: &mut Sheet, near: &str, _: &str, _: &str) -> Result<()> {
    let (_, make) = FILE_SYSTEMS[0];
    debian(&[make, &[near]].concat())?;
    let below = Mounted::at("/tmp/below", "ext4", near, "")?;
    for folder in ["lower", "upper", "work"] {
        fs::create_dir_all(Path::new("/tmp/below").join(folder))?;
    }
    let options = "lowerdir=/tmp/below/lower,upperdir=/tmp/below/upper,workdir=/tmp/below/work";
    sheet.file_system("overlay on ext4", "overlay", &[], "none", options);
    below.end()
}

/// Text of trials: of each drive below a mirror, and why nothing was read.
fn what_a_trial_tells() -> Result<()> {
    let members = [node_named("disk0")?, node_named("disk2")?];
    let [near, far] = &members;
    let _array = array("raid1", &members)?;
    let tells = |path: &str, words: &[&str]| -> Result<()> {
        let output = p2pmem(&["doctor", "--try", path])?;
        let said = String::from_utf8(output.stdout)?;
        // Long lines are broken.
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        for word in words {
            ensure!(said.contains(word), "{path}: no {word:?} in: {said}");
        }
        Ok(())
    };
    let arrived = "into /dev/p2pmem0: 64 KiB at 0 arrived";
    tells(
        ARRAY,
        &[
            &format!("ok try {near} {arrived}"),
            &format!("problem try {far} into /dev/p2pmem0: refused: cannot read {far} at 0"),
            &format!("cause: {} (", name(far)),
        ],
    )?;
    tells(
        "/tmp",
        &[
            "try /tmp into /dev/p2pmem0: was not tried",
            "name a file in it",
        ],
    )?;
    fs::write("/tmp/empty", "")?;
    tells(
        "/tmp/empty",
        &["was not tried", "it is empty, or has holes only"],
    )?;
    // In memory, the CPU copies; a hole is left out.
    let file = File::create("/tmp/holes")?;
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; PAGE], 8 << 20)?;
    tells(
        "/tmp/holes",
        &["4 KiB at 8388608 arrived; all of its bytes are the same"],
    )?;
    for words in [
        &["doctor", "--try"][..],
        &["doctor", "--try", "--replay", "-", "/tmp"],
    ] {
        let status = p2pmem(words)?.status;
        ensure!(status.code() == Some(2), "{words:?}: {status}");
    }
    Ok(())
}

/// With an IOMMU. Needs the topology stacks-iommu.
pub mod iommu {
    use super::*;

    cases!("iotable": translating, passthrough);

    /// Has an IOMMU treat devices in another way, which takes them from their drivers.
    fn set_domain(serials: &[&str], kind: &str) -> Result<()> {
        let mut addresses = Vec::new();
        for serial in serials {
            addresses.push((address_named(serial)?, "nvme"));
        }
        let memory = crate::guest::devices()?;
        addresses.extend(memory.into_iter().map(|pci| (pci, "p2pmem_rs")));
        for (address, driver) in &addresses {
            fs::write(format!("/sys/bus/pci/drivers/{driver}/unbind"), address)?;
        }
        for (address, _) in &addresses {
            let file = format!("/sys/bus/pci/devices/{address}/iommu_group/type");
            fs::write(&file, kind).with_context(|| format!("{kind} to {file}"))?;
        }
        for (address, driver) in &addresses {
            fs::write(format!("/sys/bus/pci/drivers/{driver}/bind"), address)?;
        }
        for serial in serials {
            wait_until(Duration::from_secs(30), serial, || {
                Ok(node_named(serial).is_ok_and(|node| Path::new(&node).exists()))
            })?;
        }
        Ok(())
    }

    fn rows(title: &'static str) -> Result<()> {
        for module in ["nls_cp437", "nls_ascii"] {
            run("modprobe", &[module])?;
        }
        let mut sheet = Sheet::new(title)?;
        let [near, far] = [node_named("disk0")?, node_named("disk2")?];
        sheet.add(
            "NVMe drive below the switch of the memory",
            &near,
            Kind::Plain,
        );
        sheet.add("NVMe drive below another root port", &far, Kind::Plain);
        {
            let _array = array("raid0", &[near.clone(), far.clone()])?;
            sheet.add("md raid0 of both", ARRAY, Kind::Plain);
        }
        for (kind, make) in &FILE_SYSTEMS[..2] {
            sheet.file_system(&format!("{kind} below the switch"), kind, make, &near, "");
        }
        sheet.file_system(
            "ext4 below another root port",
            "ext4",
            FILE_SYSTEMS[0].1,
            &far,
            "",
        );
        sheet.file_system(
            "vfat below another root port",
            "vfat",
            &["mkfs.vfat"],
            &far,
            "",
        );
        sheet.end()
    }

    fn translating() -> Result<()> {
        rows("An IOMMU translates")
    }

    fn passthrough() -> Result<()> {
        let serials = ["source", "disk0", "disk2"];
        set_domain(&serials, "identity")?;
        let result = rows("An IOMMU in passthrough");
        set_domain(&serials, "DMA-FQ")?;
        result
    }
}
