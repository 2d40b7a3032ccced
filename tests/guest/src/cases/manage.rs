// SPDX-License-Identifier: GPL-2.0

//! Devices that the `p2pmem` command binds, gives back and configures. Needs the topology any-bar.
//! The group `lend` needs a drive with memory of its own: the topology cmb.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use crate::{
    cases,
    guest::{
        address_named, address_of, choices, choose, controller, drive_named, node_named,
        on_debug_kernel, restore, unbind, wait_until, Child, Map, Provider, PAGE,
    },
    kmod::TestFile,
    programs::{fails, format_and_mount, p2pmem, run, says},
};

cases!(
    "manage": list_json, list_users, list_needs_no_rights, bind_with_regions, bind_again, dry_run_changes_nothing,
    nothing_to_register, failed_bind_is_undone, drive_comes_back, wrong_regions, mounted_drive, opened_drive,
    bridge, memory_in_use, unbound_for_good, regions_of_the_guide, config_sets, config_fails, wrong_names,
    shells_complete, parameters_are_readable,
);

const DEVICES: &str = "/sys/bus/pci/devices";
const MIB: u64 = 1 << 20;

/// As [`says`], in JSON.
pub fn tells(arguments: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&says(
        &[arguments, &["--json"]].concat(),
    )?)?)
}

/// The device that is bound by its ID: 64 MiB of memory in BAR 2.
pub fn parts() -> Result<String> {
    let devices = crate::guest::devices()?;
    devices
        .into_iter()
        .next()
        .context("no device that is known")
}

/// The size of a large page; 0 if this kernel has none.
fn large_page() -> Result<u64> {
    let text = fs::read_to_string("/sys/class/misc/p2pmem0/large_page")?;
    Ok(text.trim().parse()?)
}

/// The driver that has a device.
fn driver(pci: &str) -> Option<String> {
    let link = fs::read_link(format!("{DEVICES}/{pci}/driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// All that a command here may change.
pub fn state(pci: &str) -> Result<[String; 4]> {
    let nodes: Vec<_> = Provider::all()?.into_iter().map(|one| one.path).collect();
    Ok([
        format!("{:?}", driver(pci)),
        fs::read_to_string(format!("{DEVICES}/{pci}/driver_override"))?,
        choices()?,
        format!("{nodes:?}"),
    ])
}

/// Restores the driver and the settings of a device when dropped.
pub struct Restored(pub String);

impl Drop for Restored {
    fn drop(&mut self) {
        let pci = &self.0;
        if driver(pci).as_deref() == Some("p2pmem_rs") {
            unbind(pci).expect("the device can be unbound");
        }
        fs::write(format!("{DEVICES}/{pci}/driver_override"), "\n").expect("an attribute");
        choose(&format!("{pci} default")).expect("the default can be set");
        fs::write("/sys/bus/pci/drivers_probe", pci).expect("a driver is found, or none");
        restore().expect("devices are bound by their IDs again");
    }
}

fn list_json() -> Result<()> {
    let pci = parts()?;
    let listing = tells(&["list"])?;
    let all = listing["providers"].as_array().context("no list")?;
    let one = all
        .iter()
        .find(|one| one["pci"] == *pci)
        .context("the device is not listed")?;
    let page = large_page()?.max(PAGE as u64);
    for (name, expected) in [
        ("vendor", Value::from("1af4")),
        ("device", "1110".into()),
        ("size", (64 * MIB).into()),
        ("allocated", 0.into()),
        ("available", (64 * MIB).into()),
        ("largest", (64 * MIB).into()),
        ("granule", PAGE.into()),
        ("page", page.into()),
        ("large_page", large_page()?.into()),
        ("adopted", false.into()),
        ("clear", true.into()),
        ("limit_per_file", 0.into()),
        ("limit_per_user", 0.into()),
        ("users", Value::Array(Vec::new())),
        (
            "regions",
            serde_json::json!([{"kind": "bar", "bar": 2, "offset": 0, "size": 64 * MIB}]),
        ),
    ] {
        ensure!(one[name] == expected, "{name} is {}", one[name]);
    }
    ensure!(one.get("numa_node").is_some(), "{one}");

    let table = says(&["list"])?;
    let row = table
        .lines()
        .find(|line| line.contains(&pci))
        .context("no row")?;
    for word in [
        "/dev/p2pmem",
        "1af4:1110",
        "bar",
        "64 MiB",
        &p2pmem::size::format(page),
    ] {
        ensure!(row.contains(word), "{table}");
    }
    Ok(())
}

fn list_users() -> Result<()> {
    let provider = Provider::of(&parts()?)?.context("no node")?;
    let file = provider.open()?;
    // Of the same open file: counted once. The debug kernel does not tell (it has no kcmp).
    let _other = match on_debug_kernel() {
        true => None,
        false => Some(file.try_clone()?),
    };
    // A large page and three base pages.
    let large = large_page()?;
    let length = 2 * MIB as usize + 3 * PAGE;
    let _map = Map::new(&file, length)?;
    let child = Child::spawn_ready(|ready| {
        ready();
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    })?;

    let listing = tells(&["list"])?;
    let users = &listing["providers"][0]["users"];
    let users = users.as_array().context("no users")?;
    // This process, and the child that inherited the file.
    ensure!(users.len() == 2, "{users:?}");
    ensure!(
        users.iter().all(|user| user["bytes"] == length),
        "{users:?}"
    );
    ensure!(users.iter().all(|user| user["large"] == large), "{users:?}");
    ensure!(
        users.iter().all(|user| user["name"] == "guest-tests"),
        "{users:?}"
    );
    ensure!(
        users.iter().any(|user| user["pid"] == std::process::id()),
        "{users:?}"
    );
    let table = says(&["list", "--users"])?;
    ensure!(table.contains("LARGE"), "{table}");
    ensure!(
        table.contains(&format!("{}", std::process::id())) && table.contains("2060 KiB"),
        "{table}"
    );
    child.kill()?;
    child.expect_signal(libc::SIGKILL)
}

fn list_needs_no_rights() -> Result<()> {
    let file = Provider::first()?.open()?;
    Child::spawn(|| {
        crate::guest::become_user()?;
        let listing = tells(&["list"])?;
        ensure!(listing["providers"][0]["size"] == 64 * MIB, "{listing}");
        // Root's processes cannot be looked at.
        ensure!(
            listing["providers"][0]["users"] == serde_json::json!([]),
            "{listing}"
        );
        fails(&["unbind", "p2pmem0"], &["cannot write", "as root"])
    })?
    .expect_success()?;
    drop(file);
    Ok(())
}

fn bind_with_regions() -> Result<()> {
    let pci = parts()?;
    let _restored = Restored(pci.clone());
    let before = state(&pci)?;

    let told = tells(&[
        "bind",
        &pci,
        "--regions",
        "bar2@16M+8M",
        "--regions",
        "bar2+2M",
    ])?;
    ensure!(
        told["driver"] == "p2pmem_rs" && told["dry_run"] == false,
        "{told}"
    );
    let provider = Provider::of(&pci)?.context("no node")?;
    ensure!(told["path"] == *provider.path.to_string_lossy(), "{told}");
    ensure!(provider.size as u64 == 10 * MIB, "{}", provider.size);
    drop(Map::new(provider.open()?, PAGE)?);
    let listing = tells(&["list"])?;
    let regions = serde_json::json!([
        {"kind": "bar", "bar": 2, "offset": 16 * MIB, "size": 8 * MIB},
        {"kind": "bar", "bar": 2, "offset": 0, "size": 2 * MIB},
    ]);
    ensure!(listing["providers"][0]["regions"] == regions, "{listing}");

    // By its node, and by an address without the domain.
    let node = provider.path.to_string_lossy().into_owned();
    let text = says(&["unbind", &node, "--forget"])?;
    ensure!(text.contains("has no driver now"), "{text}");
    ensure!(driver(&pci).is_none() && Provider::of(&pci)?.is_none());
    ensure!(choices()?.is_empty(), "{}", choices()?);
    fails(
        &["unbind", &pci],
        &["is not bound to p2pmem_rs", "p2pmem list"],
    )?;
    says(&["bind", pci.trim_start_matches("0000:")])?;
    ensure!(state(&pci)?[2..] == before[2..], "{:?}", state(&pci)?);
    Ok(())
}

fn bind_again() -> Result<()> {
    let pci = parts()?;
    let _restored = Restored(pci.clone());
    fails(&["bind", &pci], &["already", "--regions"])?;
    // A command that fails changes nothing.
    let before = state(&pci)?;
    fails(
        &["bind", &pci, "--regions", "bar2@64M+2M"],
        &["the range ends beyond BAR 2"],
    )?;
    ensure!(state(&pci)? == before, "{:?}", state(&pci)?);
    Ok(())
}

fn dry_run_changes_nothing() -> Result<()> {
    let pci = parts()?;
    let before = state(&pci)?;
    let text = says(&["bind", "0", "--regions", "bar2@16M+8M", "--dry-run"])?;
    let expected = format!(
        "echo {pci} > /sys/bus/pci/drivers/p2pmem_rs/unbind\n\
         echo p2pmem_rs > {DEVICES}/{pci}/driver_override\n\
         echo '{pci} bar2@16M+8M' > /sys/module/p2pmem_rs/regions\n\
         echo {pci} > /sys/bus/pci/drivers_probe\n"
    );
    ensure!(text == expected, "{text}");
    for arguments in [
        &["unbind", "p2pmem0"][..],
        &[
            "config",
            "p2pmem0",
            "--clear",
            "off",
            "--regions",
            "bar2+2M",
        ],
    ] {
        let told = tells(&[arguments, &["--dry-run"]].concat())?;
        let steps = told["steps"].as_array().context("no steps")?;
        ensure!(!steps.is_empty() && told["dry_run"] == true, "{told}");
    }
    ensure!(state(&pci)? == before, "{:?}", state(&pci)?);

    // The printed commands have the same effect.
    let _restored = Restored(pci.clone());
    let run = Command::new("sh").args(["-ec", &text]).status()?;
    ensure!(run.success(), "{run:?}");
    let provider = Provider::of(&pci)?.context("no node")?;
    ensure!(provider.size as u64 == 8 * MIB);
    Ok(())
}

/// Counts how often the kernel attached a namespace to a drive, that is, how often it was taken
/// away.
fn diskseq(name: &str) -> Result<String> {
    Ok(fs::read_to_string(format!("/sys/block/{name}/diskseq"))?)
}

fn nothing_to_register() -> Result<()> {
    // A drive without memory that can be registered: its registers are 16 KiB.
    let serial = "disk1";
    let controller = controller(serial)?.context("no drive")?;
    let pci = address_of(&controller)?;
    let name = controller.file_name().context("no name")?.to_string_lossy();
    let disk = format!("{name}n1");
    drive_named(serial)?;
    let before = (state(&pci)?, diskseq(&disk)?);
    for (regions, reason) in [
        (
            &[][..],
            "the controller has no CMB and no PMR that can serve",
        ),
        (
            &["--regions", "bar0"],
            "16384 bytes of BAR 0 hold no aligned",
        ),
        (
            &["--regions", "cmb"],
            "the controller has no CMB that can serve",
        ),
        (
            &["--regions", "pmr"],
            "the controller has no PMR that can serve",
        ),
        (&["--regions", "bar2"], "the device has no BAR 2"),
        (&["--regions", "bar9"], "bar9 has no valid number"),
    ] {
        for extra in [&[][..], &["--dry-run"], &["--force"]] {
            fails(&[&["bind", &*pci][..], regions, extra].concat(), &[reason])?;
        }
        let now = (state(&pci)?, diskseq(&disk)?);
        ensure!(now == before, "{regions:?}: {now:?}");
    }
    Ok(())
}

/// Only the driver finds out that another driver has the BAR.
fn failed_bind_is_undone() -> Result<()> {
    let pci = large()?;
    let _restored = Restored(pci.clone());
    let file = TestFile::open()?;
    file.claim(&pci, 2)?;
    let before = state(&pci)?;
    fails(
        &["bind", &pci],
        &[
            "cannot bind",
            &pci,
            "nothing has changed",
            "BAR 2 is claimed by another driver",
        ],
    )?;
    ensure!(state(&pci)? == before, "{:?}", state(&pci)?);
    drop(file);

    // The same with a drive. As if the driver knew its ID, what is to be registered is not known
    // before.
    let pci = address_named("disk1")?;
    let _restored = Restored(pci.clone());
    drive_named("disk1")?;
    fs::write(format!("{DEVICES}/{pci}/driver_override"), "none")?;
    let before = state(&pci)?;
    let taken = format!("{pci} was unbound from nvme, and bound to it again");
    let reason = "the controller has no CMB and no PMR that can serve";
    fails(&["bind", &pci], &["cannot bind", &taken, reason])?;
    ensure!(state(&pci)? == before, "{:?}", state(&pci)?);
    drive_named("disk1")?;
    Ok(())
}

/// A device with a BAR that is memory, and no driver.
pub fn large() -> Result<String> {
    for entry in fs::read_dir(DEVICES)? {
        let entry = entry?;
        let has_large =
            fs::metadata(entry.path().join("resource2")).is_ok_and(|file| file.len() == 64 * MIB);
        if has_large && fs::read_to_string(entry.path().join("vendor"))?.trim() == "0x1b36" {
            return Ok(entry.file_name().to_string_lossy().into_owned());
        }
    }
    anyhow::bail!("no device with a large BAR")
}

/// The driver refuses this drive, so what bind would do is done by hand.
fn drive_comes_back() -> Result<()> {
    let serial = "disk1";
    let pci = address_named(serial)?;
    let _restored = Restored(pci.clone());
    drive_named(serial)?;
    let before = state(&pci)?;
    fs::write("/sys/bus/pci/drivers/nvme/unbind", &pci)?;
    fs::write(format!("{DEVICES}/{pci}/driver_override"), "p2pmem_rs")?;
    choose(&format!("{pci} bar0"))?;
    let text = says(&["unbind", &pci, "--forget"])?;
    ensure!(text.contains("is bound to nvme again"), "{text}");
    ensure!(state(&pci)? == before, "{:?}", state(&pci)?);
    drive_named(serial)?;
    Ok(())
}

fn wrong_regions() -> Result<()> {
    let pci = parts()?;
    let before = state(&pci)?;
    fails(
        &["config", &pci, "--regions", "bar9"],
        &["bar9 has no valid number"],
    )?;
    // Texts that are no regions.
    for regions in ["", "bar2;reboot", "bar2'"] {
        let run = p2pmem(&["bind", &pci, "--regions", regions])?;
        ensure!(run.status.code() == Some(2), "{regions}: {:?}", run.status);
    }
    ensure!(state(&pci)? == before, "{:?}", state(&pci)?);
    Ok(())
}

/// Puts a file system on a drive, and calls a function while it is mounted.
fn with_mounted(node: &str, then: impl FnOnce(&str) -> Result<()>) -> Result<()> {
    const POINT: &str = "/tmp/mounted";
    format_and_mount(node, POINT)?;
    let result = then(POINT);
    run("umount", &[POINT])?;
    result
}

fn mounted_drive() -> Result<()> {
    let pci = address_named("disk1")?;
    drive_named("disk1")?;
    let node = node_named("disk1")?;
    let before = state(&pci)?;

    with_mounted(&node, |point| {
        for extra in [&[][..], &["--dry-run"]] {
            fails(
                &[&["bind", &*pci][..], extra].concat(),
                &["is in use", &node, "is mounted at", point, "--force"],
            )?;
        }
        // Neither is it overwritten.
        let write = ["bench", &node, "--what", "write", "--write", "--size", "4K"];
        fails(&write, &["is in use", "unmount it"])
    })?;
    // A program may claim it as well.
    let claim = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_EXCL)
        .open(&node)?;
    fails(&["bind", &pci], &["opened for exclusive use", "--force"])?;
    drop(claim);
    ensure!(state(&pci)? == before, "{:?}", state(&pci)?);
    Ok(())
}

/// Programs that have a drive open without having claimed it.
fn opened_drive() -> Result<()> {
    let controller = controller("disk1")?.context("no drive")?;
    let pci = address_of(&controller)?;
    drive_named("disk1")?;
    let name = controller.file_name().context("no name")?.to_string_lossy();
    let before = state(&pci)?;

    // The disk, and the controller, which takes any command.
    for node in [format!("/dev/{name}n1"), format!("/dev/{name}")] {
        let file = fs::File::open(&node)?;
        let child = Child::spawn_ready(|ready| {
            let _file = &file;
            ready();
            loop {
                std::thread::sleep(Duration::from_secs(1));
            }
        })?;
        drop(file);
        let by = format!("{node} is open in guest-tests (pid ");
        fails(&["bind", &pci], &["is in use", &by, "--force"])?;
        child.kill()?;
        child.expect_signal(libc::SIGKILL)?;
    }
    let node = format!("/dev/{name}n1");
    if !Path::new("/dev/loop0").exists() {
        run("modprobe", &["loop"])?;
    }
    run("losetup", &["/dev/loop0", &node])?;
    let result = fails(
        &["bind", &pci],
        &["is in use", &node, "is behind /dev/loop0"],
    );
    run("losetup", &["-d", "/dev/loop0"])?;
    result?;
    ensure!(state(&pci)? == before, "{:?}", state(&pci)?);
    Ok(())
}

fn bridge() -> Result<()> {
    let mut bridges = 0;
    for entry in fs::read_dir(DEVICES)? {
        let entry = entry?;
        let pci = entry.file_name().to_string_lossy().into_owned();
        if driver(&pci).as_deref() != Some("pcieport") {
            continue;
        }
        bridges += 1;
        let before = state(&pci)?;
        for arguments in [
            &["bind", &*pci][..],
            &["bind", &pci, "--force"],
            &["bind", &pci, "--regions", "bar0", "--dry-run"],
        ] {
            fails(arguments, &[&pci, "is a bridge"])?;
        }
        ensure!(state(&pci)? == before, "{:?}", state(&pci)?);
    }
    // A root port, and the ports of the switch.
    ensure!(bridges >= 3, "{bridges} bridges");
    Ok(())
}

fn memory_in_use() -> Result<()> {
    let pci = parts()?;
    let _restored = Restored(pci.clone());
    let provider = Provider::of(&pci)?.context("no node")?;
    let map = Map::new(provider.open()?, PAGE)?;
    map.set(0, 1);
    let before = state(&pci)?;
    for arguments in [
        &["unbind", &*pci][..],
        &["unbind", &pci, "--dry-run"],
        &["bind", &pci, "--regions", "bar2+2M"],
    ] {
        fails(
            arguments,
            &["4 KiB of its memory are", "--users", "--force"],
        )?;
    }
    ensure!(state(&pci)? == before, "{:?}", state(&pci)?);
    ensure!(map.get(0) == 1, "not the same memory");
    says(&["unbind", &pci, "--force"])?;
    ensure!(!map.is_readable(0)?, "still there");
    Ok(())
}

/// A device that the driver knows by its ID, and one of an ID that it was told.
fn unbound_for_good() -> Result<()> {
    const NEW_ID: &str = "/sys/bus/pci/drivers/p2pmem_rs/new_id";
    const REMOVE_ID: &str = "/sys/bus/pci/drivers/p2pmem_rs/remove_id";
    let (known, told) = (parts()?, large()?);
    let _restored = [Restored(known.clone()), Restored(told.clone())];
    let overridden = |pci: &str| -> Result<String> {
        let text = fs::read_to_string(format!("{DEVICES}/{pci}/driver_override"))?;
        Ok(text.trim().to_owned())
    };
    fs::write(NEW_ID, "1b36 0005")?;
    let result = (|| {
        for pci in [&known, &told] {
            // As it was bound by its ID, and as the command bound it.
            for regions in [None, Some("bar2@16M+8M")] {
                if let Some(regions) = regions {
                    says(&["bind", pci, "--regions", regions])?;
                    ensure!(overridden(pci)? == "p2pmem_rs", "{}", overridden(pci)?);
                }
                ensure!(driver(pci).as_deref() == Some("p2pmem_rs"), "not bound");
                let text = says(&["unbind", pci])?;
                for words in [
                    "has no driver now",
                    "driver_override is none",
                    "p2pmem bind",
                ] {
                    ensure!(text.contains(words), "{text}");
                }
                ensure!(
                    text.contains("bar2@0x1000000+0x800000") == regions.is_some(),
                    "{text}"
                );
                // Also if the kernel looks for a driver once more.
                let _ = fs::write("/sys/bus/pci/drivers_probe", pci);
                ensure!(driver(pci).is_none(), "it came back");
                ensure!(overridden(pci)? == "none", "{}", overridden(pci)?);
            }
            // The chosen regions are kept.
            says(&["bind", pci])?;
            let provider = Provider::of(pci)?.context("no node")?;
            ensure!(provider.size as u64 == 8 * MIB, "{}", provider.size);
        }
        Ok(())
    })();
    fs::write(REMOVE_ID, "1b36 0005")?;
    result?;

    // The driver does not know that ID any more, nor does another one.
    let text = says(&["unbind", &told, "--forget"])?;
    ensure!(text.contains("has no driver now"), "{text}");
    ensure!(overridden(&told)? == "(null)", "{}", overridden(&told)?);
    ensure!(!choices()?.contains(&told), "{}", choices()?);
    // One that is reserved for the driver without being bound, and comes by its ID.
    unbind(&known)?;
    let text = says(&["unbind", &known])?;
    ensure!(text.contains("has no driver now"), "{text}");
    ensure!(driver(&known).is_none() && overridden(&known)? == "none");
    // The module does not take it either when it is loaded.
    crate::guest::rmmod()?;
    crate::guest::insmod()?;
    ensure!(driver(&known).is_none(), "it came back");
    Ok(())
}

/// The lines of docs/guide.md, section "Choose regions", for a device that is bound already.
fn regions_of_the_guide() -> Result<()> {
    let guide = include_str!("../../../../docs/guide.md");
    let pci = parts()?;
    let _restored = Restored(pci.clone());
    let (_, section) = guide
        .split_once("## Choose regions")
        .context("no section")?;
    let (_, recipe) = section
        .split_once("known by its ID is bound already")
        .context("no recipe")?;
    let commands: Vec<_> = recipe
        .lines()
        .skip(1)
        .skip_while(|line| !line.starts_with("    "))
        .take_while(|line| line.starts_with("    "))
        .map(|line| line.replace("0000:05:00.0", &pci))
        .collect();
    ensure!(commands.len() == 3, "{commands:?}");
    for command in &commands {
        run("sh", &["-ec", command])?;
    }
    let provider = Provider::of(&pci)?.context("no node")?;
    ensure!(provider.size as u64 == 32 * MIB, "{}", provider.size);
    Ok(())
}

fn config_sets() -> Result<()> {
    let pci = parts()?;
    let _restored = Restored(pci.clone());
    let folder = Path::new("/sys/class/misc/p2pmem0");
    let setting = |name: &str| -> Result<String> {
        Ok(fs::read_to_string(folder.join(name))?.trim().to_owned())
    };
    let set = [
        "config",
        "p2pmem0",
        "--clear",
        "off",
        "--limit-per-file",
        "2M",
        "--limit-per-user",
        "64K",
        "--slots",
        "nobody",
        "--regions",
        "bar2+4M",
    ];
    says(&set)?;
    ensure!(setting("clear")? == "0" && setting("limit_per_file")? == "2097152");
    ensure!(setting("limit_per_user")? == "65536");
    ensure!(setting("slots")? == "nobody");
    ensure!(
        choices()? == format!("{pci} bar2@0x0+0x400000\n"),
        "{}",
        choices()?
    );

    let told = tells(&["config"])?;
    let one = &told["devices"][0];
    ensure!(
        one["pci"] == *pci && one["path"] == "/dev/p2pmem0",
        "{told}"
    );
    ensure!(one["choice"] == "bar2@0x0+0x400000", "{told}");
    ensure!(one["current"]["clear"] == false, "{told}");
    ensure!(one["current"]["limit_per_user"] == 65536, "{told}");
    ensure!(one["current"]["slots"] == "nobody", "{told}");
    let table = says(&["config", &pci])?;
    for word in ["off", "2 MiB", "64 KiB", "nobody", "bar2@0x0+0x400000"] {
        ensure!(table.contains(word), "{table}");
    }

    says(&[
        "config",
        "0",
        "--clear",
        "on",
        "--limit-per-file",
        "0",
        "--limit-per-user",
        "0",
        "--slots",
        "privileged",
        "--regions",
        "default",
    ])?;
    ensure!(setting("clear")? == "1" && setting("limit_per_file")? == "0");
    ensure!(setting("slots")? == "privileged");
    ensure!(choices()?.is_empty(), "{}", choices()?);
    Ok(())
}

fn config_fails() -> Result<()> {
    let pci = address_named("disk1")?;
    fails(
        &["config", &pci, "--clear", "off"],
        &["has no node", "p2pmem bind"],
    )?;
    // A device must be named.
    for arguments in [
        &["config", "--clear", "off"][..],
        &["config", "0", "--dry-run"],
        &["config", "0", "--slots", "root"],
    ] {
        let run = p2pmem(arguments)?;
        ensure!(
            run.status.code() == Some(2),
            "{arguments:?}: {:?}",
            run.status
        );
    }
    Ok(())
}

fn wrong_names() -> Result<()> {
    for (name, words) in [
        ("99", ["no /dev/p2pmem99", "p2pmem list"]),
        ("ff:1f.7", ["no PCI device 0000:ff:1f.7", "lspci"]),
        ("nonsense", ["nonsense is not a device", "0000:05:00.0"]),
    ] {
        for command in ["bind", "unbind", "config"] {
            fails(&[command, name], &words)?;
        }
    }
    Ok(())
}

/// Returns the completions of a shell for the last word of a command line.
fn completed(words: &[&str]) -> Result<String> {
    let last = words.len().to_string();
    let output = Command::new("p2pmem")
        .envs([
            ("COMPLETE", "bash"),
            ("_CLAP_IFS", "\n"),
            ("_CLAP_COMPLETE_INDEX", &*last),
            ("_CLAP_COMPLETE_COMP_TYPE", "9"),
            ("_CLAP_COMPLETE_SPACE", "false"),
        ])
        .args(["--", "p2pmem"])
        .args(words)
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

fn shells_complete() -> Result<()> {
    let pci = parts()?;
    let node = Provider::first()?.path;
    let node = node.to_str().context("a name")?;
    for (words, word) in [
        (&["unbind", ""][..], node),
        (&["bind", ""], &pci),
        (&["bind", "0000"], &pci),
        (&["config", ""], &pci),
        (&["config", "/dev/p"], node),
        (&["copy", "a", "b", "--via", ""], node),
        (&["verify", "a", "--via", "n"], "none"),
        (&["bench", "--via", ""], node),
        (&["topo", "--provider", ""], "0"),
    ] {
        let text = completed(words)?;
        ensure!(text.lines().any(|line| line == word), "{words:?}: {text}");
    }
    // Bridges have no memory to register.
    let text = completed(&["bind", ""])?;
    ensure!(!text.lines().any(|line| line == "0000:00:00.0"), "{text}");
    // Each shell asks the program.
    const FOLDER: &str = "/tmp/generated";
    run("p2pmem", &["generate", FOLDER])?;
    for name in [
        "bash-completion/completions/p2pmem",
        "zsh/site-functions/_p2pmem",
        "fish/vendor_completions.d/p2pmem.fish",
    ] {
        let text = fs::read_to_string(format!("{FOLDER}/{name}"))?;
        ensure!(text.contains("COMPLETE"), "{name}: {text}");
    }
    Ok(fs::remove_dir_all(FOLDER)?)
}

fn parameters_are_readable() -> Result<()> {
    for (name, value) in [("adopt", "1\n"), ("debug", "0\n")] {
        let path = format!("/sys/module/p2pmem_rs/parameters/{name}");
        ensure!(fs::read_to_string(&path)? == value, "{path}");
        ensure!(fs::metadata(&path)?.permissions().mode() & 0o777 == 0o444);
    }
    Ok(())
}

/// Cases with a drive that has memory of its own. Needs the topology cmb.
pub mod lend {
    use super::*;

    cases!("lend": drive_and_back, refused_beside_the_drive, descriptors_of_others);

    fn refused_beside_the_drive() -> Result<()> {
        let pci = address_named("new")?;
        let _restored = Restored(pci.clone());
        drive_named("new")?;
        let before = state(&pci)?;
        fails(
            &["config", &pci, "--regions", "pmr"],
            &[
                "cannot configure",
                "nothing has changed",
                "its driver published memory, from which a PMR cannot be kept apart",
                "did not register the PMR beside nvme",
            ],
        )?;
        ensure!(state(&pci)? == before, "{:?}", state(&pci)?);
        // For when the driver has it.
        says(&["config", &pci, "--regions", "cmb"])?;
        says(&["config", &pci, "--regions", "default"])?;
        Ok(())
    }

    /// An ordinary user does not see who has the drive open, and is told so.
    fn descriptors_of_others() -> Result<()> {
        let pci = address_named("new")?;
        let arguments = ["bind", &pci, "--regions", "cmb", "--dry-run"];
        let told = |expected: bool| -> Result<()> {
            let run = p2pmem(&arguments)?;
            let text = String::from_utf8_lossy(&run.stderr);
            ensure!(run.status.success(), "{:?}: {text}", run.status);
            let is = text.contains("may be in use") && text.contains("which takes root");
            ensure!(is == expected, "{text}");
            Ok(())
        };
        told(false)?;
        Child::spawn(|| {
            crate::guest::become_user()?;
            told(true)
        })?
        .expect_success()
    }

    fn drive_and_back() -> Result<()> {
        let serial = "new";
        let pci = address_named(serial)?;
        let _restored = Restored(pci.clone());
        drive_named(serial)?;
        let before = state(&pci)?;
        // Its memory is adopted so far.
        fails(&["unbind", &pci], &["belongs to nvme", "adopted"])?;

        let told = tells(&["bind", &pci, "--regions", "cmb"])?;
        ensure!(told["driver"] == "p2pmem_rs", "{told}");
        ensure!(controller(serial)?.is_none(), "still a drive");
        let provider = Provider::of(&pci)?.context("no node")?;
        drop(Map::new(provider.open()?, PAGE)?);
        let listing = tells(&["list"])?;
        let all = listing["providers"].as_array().context("no list")?;
        let one = all.iter().find(|one| one["pci"] == *pci);
        let one = one.context("the device is not listed")?;
        ensure!(
            one["regions"][0]["kind"] == "cmb" && one["adopted"] == false,
            "{one}"
        );

        let text = says(&["unbind", &pci, "--forget"])?;
        ensure!(text.contains("is bound to nvme again"), "{text}");
        drive_named(serial)?;
        wait_until(
            Duration::from_secs(10),
            "its memory is adopted again",
            || Ok(state(&pci)? == before),
        )
    }
}
