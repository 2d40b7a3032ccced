// SPDX-License-Identifier: GPL-2.0

//! Compares reports of `p2pmem topo` and `p2pmem doctor` with results of direct I/O.

use std::fs::{self, OpenOptions};

use anyhow::{bail, ensure, Context, Result};
use rustix::io::Errno;
use serde_json::Value;

use super::slots::Loop;
use crate::{
    cases,
    guest::{
        become_user, expect_errno, open_direct, pattern, put_on_drive, read_at, Child, Map,
        Provider, WINDOW,
    },
    programs::{p2pmem, says},
};

cases!(
    "fabric": verdicts_are_true, any_user_may_look, recorded_and_replayed, errors_are_explained,
    good_machine, memory_is_no_drive, loop_device_refuses,
);

const LENGTH: usize = 64 << 10;

/// Runs the command with --json.
fn json(arguments: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&says(arguments)?)?)
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value[key]
        .as_str()
        .with_context(|| format!("no {key} in {value}"))
}

/// A verdict on a drive and a provider that direct I/O proved.
pub struct Proved {
    /// The name of the drive.
    pub drive: String,
    /// As in the JSON: `self`, `switch`, `host-bridge`, `none`.
    pub reach: String,
    /// All that was said.
    pub verdict: Value,
}

/// Reads from each drive into the memory of each provider, and checks that it works exactly where
/// `p2pmem topo` says so. The data is compared where no IOMMU translates: QEMU's does not see what
/// stays within a switch.
pub fn prove_verdicts() -> Result<Vec<Proved>> {
    let report = json(&["topo", "--json"])?;
    let compare = report["translation"] != "on";
    let verdicts = report["verdicts"].as_array().context("no verdicts")?;
    let mut proved = Vec::new();
    for verdict in verdicts {
        let reach = text(verdict, "reach")?;
        for drive in verdict["drives"].as_array().context("no drives")? {
            let drive = drive.as_str().context("no name")?;
            let node = format!("/dev/p2pmem{}", verdict["provider"]);
            let works = read_works(drive, &node, compare)?;
            ensure!(reach != "unknown", "{drive} and {node}: {verdict}");
            ensure!(
                works == (reach != "none"),
                "{drive} and {node}: {reach}, but direct I/O works: {works}"
            );
            proved.push(Proved {
                drive: drive.to_owned(),
                reach: reach.to_owned(),
                verdict: verdict.clone(),
            });
        }
    }
    Ok(proved)
}

/// Proves the verdicts, and checks that each of `drives` drives has one on each provider, and that
/// they are all `reach`.
pub fn expect_verdicts(drives: usize, reach: &str) -> Result<()> {
    let proved = prove_verdicts()?;
    if let Some(other) = proved.iter().find(|one| one.reach != reach) {
        bail!("{}: expected {reach}: {}", other.drive, other.verdict);
    }
    let expected = drives * Provider::all()?.len();
    ensure!(
        proved.len() == expected,
        "{} verdicts on drives, expected {expected}",
        proved.len()
    );
    Ok(())
}

/// Reads a pattern from a drive into device memory. Returns whether the kernel lets that be done.
fn read_works(drive: &str, node: &str, compare: bool) -> Result<bool> {
    let drive = open_direct(format!("/dev/{drive}"))?;
    put_on_drive(&drive, LENGTH, 7)?;
    let node = OpenOptions::new().read(true).write(true).open(node)?;
    let map = Map::new(node, WINDOW)?;
    match read_at(&drive, &map, 0..LENGTH, 0) {
        Ok(()) if compare => {
            map.check(0..LENGTH, 7)?;
            Ok(true)
        }
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::REMOTEIO) => {
            ensure!(
                map.get(0) != pattern(7, 0),
                "refused, but the data is there"
            );
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

fn verdicts_are_true() -> Result<()> {
    expect_verdicts(2, "switch")
}

fn any_user_may_look() -> Result<()> {
    let mine = json(&["topo", "--json"])?;
    Child::spawn(|| {
        become_user()?;
        let theirs = json(&["topo", "--json"])?;
        ensure!(mine["verdicts"] == theirs["verdicts"], "{theirs}");
        // The error names the missing right.
        let output = p2pmem(&["doctor"])?;
        let said = String::from_utf8(output.stdout)?;
        ensure!(output.status.code() == Some(1), "{said}");
        ensure!(said.contains("may not be read and written"), "{said}");
        Ok(())
    })?
    .expect_success()
}

fn recorded_and_replayed() -> Result<()> {
    let file = "/tmp/fabric.json";
    says(&["topo", "--record", file])?;
    for arguments in [&["topo"][..], &["topo", "--all"], &["topo", "--json"]] {
        let replayed = [arguments, &["--replay", file]].concat();
        ensure!(
            says(arguments)? == says(&replayed)?,
            "{arguments:?} differs when it is replayed"
        );
    }
    let examined = says(&["doctor"])?;
    ensure!(examined == says(&["doctor", "--replay", file])?);
    ensure!(examined.contains("p2pmem0 pages"), "{examined}");
    let drawn = says(&["topo", "--replay", file, "--provider", "0"])?;
    for word in [
        "switch, upstream port",
        "nvme0n1",
        "nvme1n1",
        "/dev/p2pmem0",
    ] {
        ensure!(drawn.contains(word), "{word} is not in:\n{drawn}");
    }
    fs::remove_file(file)?;

    let output = p2pmem(&["topo", "--provider", "77"])?;
    ensure!(
        output.status.code() == Some(1),
        "a provider that is not there"
    );
    Ok(())
}

fn errors_are_explained() -> Result<()> {
    for name in ["EREMOTEIO", "121", "-121"] {
        let said = says(&["doctor", "--errno", name])?;
        ensure!(said.starts_with("EREMOTEIO (121)"), "{said}");
    }
    let said = says(&["doctor", "--errno", "EPERM"])?;
    ensure!(said.contains("p2pmem config p2pmemN --slots"), "{said}");
    let output = p2pmem(&["doctor", "--errno", "ENONSENSE"])?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1), "{:?}", output.status);
    ensure!(said.contains("nothing is known of `ENONSENSE`"), "{said}");
    Ok(())
}

/// Runs the doctor on a path. Returns its check, and whether it found a problem anywhere.
fn examined(path: &str) -> Result<(Value, bool)> {
    let output = p2pmem(&["doctor", "--json", path])?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let check = report["checks"]
        .as_array()
        .and_then(|checks| checks.iter().find(|check| check["name"] == path))
        .with_context(|| format!("no check of {path} in {report}"))?;
    Ok((check.clone(), !output.status.success()))
}

fn good_machine() -> Result<()> {
    let (check, problem) = examined("/dev/nvme0n1")?;
    ensure!(check["status"] == "ok" && !problem, "{check}");
    Ok(())
}

fn memory_is_no_drive() -> Result<()> {
    // Direct I/O works there, by the CPU.
    let (check, problem) = examined("/tmp")?;
    ensure!(check["status"] == "warning" && !problem, "{check}");
    ensure!(text(&check, "cause")?.contains("host memory"), "{check}");
    let output = p2pmem(&["doctor", "/nonexistent"])?;
    ensure!(output.status.code() == Some(1));
    Ok(())
}

fn loop_device_refuses() -> Result<()> {
    let device = Loop::new("/tmp/loop", 1 << 20)?;
    let (check, problem) = examined(&device.device)?;
    let map = Map::new(Provider::first()?.open()?, WINDOW)?;
    let result = read_at(&open_direct(&device.device)?, &map, 0..LENGTH, 0);

    ensure!(check["status"] == "problem" && problem, "{check}");
    ensure!(
        text(&check, "cause")?.contains("is a loop device"),
        "{check}"
    );
    expect_errno(result, Errno::REMOTEIO, "a read from a loop device")
}

/// Drives below root ports of their own. Needs the topology no-switch.
pub mod apart {
    use super::{ensure, examined, expect_verdicts, says, text, Result};
    use crate::cases;

    cases!("apart": verdicts_are_true, the_way_is_explained);

    fn verdicts_are_true() -> Result<()> {
        expect_verdicts(2, "none")
    }

    fn the_way_is_explained() -> Result<()> {
        let drawn = says(&["topo"])?;
        for word in ["below different root ports", "8086:29c0", "What to do:"] {
            ensure!(drawn.contains(word), "{word} is not in:\n{drawn}");
        }
        let (check, problem) = examined("/dev/nvme0n1")?;
        ensure!(check["status"] == "problem" && problem, "{check}");
        ensure!(
            text(&check, "cause")?.contains("does not reach /dev/p2pmem0"),
            "{check}"
        );
        ensure!(!text(&check, "cure")?.is_empty(), "{check}");
        Ok(())
    }
}

/// Two drives below the switch, and one that is not. Needs the topology one-apart.
pub mod outside {
    use super::{ensure, prove_verdicts, says, Result};
    use crate::{cases, guest::address_named};

    cases!("outside": verdicts_are_true);

    fn verdicts_are_true() -> Result<()> {
        let outside = address_named("disk2")?;
        let proved = prove_verdicts()?;
        ensure!(proved.len() == 3, "{} drives", proved.len());
        for one in proved {
            let expected = match one.verdict["pci"] == *outside {
                true => "none",
                false => "switch",
            };
            ensure!(one.reach == expected, "{}", one.verdict);
        }

        let drawn = says(&["topo"])?;
        for word in ["below different root ports", "slot below the switch at"] {
            ensure!(drawn.contains(word), "{word} is not in:\n{drawn}");
        }
        Ok(())
    }
}

/// A drive beside the memory, below a port that redirects, and one elsewhere. Needs the topology
/// acs.
pub mod redirected {
    use super::{ensure, expect_verdicts, says, Context, Provider, Result};
    use crate::{cases, guest::Mark};
    use std::{fs, path::Path, time::Duration};

    cases!("redirected": verdicts_are_true, the_port_is_named, kernel_is_asked_once);

    /// The kernel writes to its log which host bridge it does not know. Every process may read the
    /// file, as often as they like.
    fn kernel_is_asked_once() -> Result<()> {
        let provider = Provider::first()?;
        let name = provider.path.file_name().context("no name")?;
        let file = Path::new("/sys/class/misc").join(name).join("routes");
        ensure!(fs::read_to_string(&file)?.contains(" none "));
        let mark = Mark::new()?;
        for _ in 0..2 {
            // By then what was read is looked for again.
            std::thread::sleep(Duration::from_secs(6));
            ensure!(fs::read_to_string(&file)?.contains(" none "));
        }
        let warnings = mark.count("not in P2PDMA whitelist")?;
        ensure!(warnings == 0, "{warnings} warnings");
        Ok(())
    }

    fn verdicts_are_true() -> Result<()> {
        expect_verdicts(2, "none")
    }

    fn the_port_is_named() -> Result<()> {
        let drawn = says(&["topo"])?;
        for word in [
            "pci=disable_acs_redir=0000:00:01.0",
            "below different root ports",
        ] {
            ensure!(drawn.contains(word), "{word} is not in:\n{drawn}");
        }
        Ok(())
    }
}

/// The same on a CPU whose host bridges send back what comes up. Needs the topology host-bridge.
pub mod bridged {
    use super::{expect_verdicts, Result};
    use crate::cases;

    cases!("bridged": verdicts_are_true);

    fn verdicts_are_true() -> Result<()> {
        expect_verdicts(2, "host-bridge")
    }
}

/// A virtual function, and a second host bridge. Needs the topology virtual-function.
pub mod virtual_function {
    use super::{ensure, Context, Provider, Result};
    use crate::{
        cases,
        guest::{address_named, devices_with},
    };
    use std::{fs, path::Path};

    cases!("virtual": has_the_route_of_its_physical_function, unknown_host_bridge);

    /// Returns the route of a device to the memory.
    fn route(pci: &str) -> Result<String> {
        let provider = Provider::first()?;
        let name = provider.path.file_name().context("no name")?;
        let routes = fs::read_to_string(Path::new("/sys/class/misc").join(name).join("routes"))?;
        let found = routes.lines().find_map(|line| line.strip_prefix(pci));
        Ok(found.context("no route")?.to_owned())
    }

    fn unknown_host_bridge() -> Result<()> {
        let found = devices_with(&[("0x1b36", "0x0005")])?;
        let pci = found.first().context("no device")?;
        ensure!(route(pci)? == " none host=8086:29c0,-", "{}", route(pci)?);
        Ok(())
    }

    fn has_the_route_of_its_physical_function() -> Result<()> {
        let physical = address_named("disk0")?;
        let folder = Path::new("/sys/bus/pci/devices").join(&physical);
        fs::write(folder.join("sriov_drivers_autoprobe"), "0")?;
        fs::write(folder.join("sriov_numvfs"), "1")?;
        let one = fs::canonicalize(folder.join("virtfn0"))?;
        let one = one.file_name().context("no name")?.to_string_lossy();
        let expected = route(&physical)?;
        ensure!(expected.starts_with(" switch distance=4"), "{expected}");
        ensure!(route(&one)? == expected, "{}", route(&one)?);
        Ok(fs::write(folder.join("sriov_numvfs"), "0")?)
    }
}

/// Drives behind an IOMMU that translates. Needs the topology iommu.
pub mod translated {
    use super::{ensure, json, p2pmem, says, text, Context, Map, Provider, Result, LENGTH};
    use crate::{
        cases,
        guest::{address_named, drive_named, node_named, put_on_drive, read_at, write_at, WINDOW},
        programs::fails,
    };

    cases!(
        "translated": by_the_host_bridge, lost_below_the_switch, copy_compares_what_arrived,
        proof_is_due,
    );

    /// Reads a pattern from a drive into device memory, which holds another one. Returns what
    /// `p2pmem topo` says, and what is in the memory then.
    fn read_from(serial: &str) -> Result<(String, Map)> {
        let pci = address_named(serial)?;
        let report = json(&["topo", "--json"])?;
        let verdict = report["verdicts"]
            .as_array()
            .and_then(|all| all.iter().find(|verdict| verdict["pci"] == *pci))
            .with_context(|| format!("nothing of {pci} in {report}"))?;

        let drive = drive_named(serial)?;
        put_on_drive(&drive, LENGTH, 7)?;
        let map = Map::new(Provider::first()?.open()?, WINDOW)?;
        map.fill(0..LENGTH, 8);
        read_at(&drive, &map, 0..LENGTH, 0)?;
        Ok((text(verdict, "reach")?.to_owned(), map))
    }

    fn by_the_host_bridge() -> Result<()> {
        let (reach, map) = read_from("disk1")?;
        ensure!(reach == "host-bridge", "{reach}");
        map.check(0..LENGTH, 7)
    }

    /// The kernel is right to expect that it works: what is lost is lost by the machine, which says
    /// that all went well.
    fn lost_below_the_switch() -> Result<()> {
        let (reach, map) = read_from("disk0")?;
        ensure!(reach == "switch", "{reach}");
        map.check(0..LENGTH, 8).context("the data arrived")?;

        // Only data shows it.
        for (serial, status, word) in [("disk0", 1, "stale"), ("disk1", 0, "equal")] {
            let output = p2pmem(&["verify", &node_named(serial)?, "--size", "64K"])?;
            let said = String::from_utf8(output.stdout)?;
            ensure!(
                output.status.code() == Some(status) && said.contains(word),
                "{serial}: {:?}: {said}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
            let error = String::from_utf8(output.stderr)?;
            ensure!(
                error.contains("probably the IOMMU is the cause") == (status == 1),
                "{serial}: {error}"
            );
        }
        Ok(())
    }

    /// Data is lost on the way from or to the drive below the switch. A comparison must see that,
    /// independent of what the drives and the memory had before.
    fn copy_compares_what_arrived() -> Result<()> {
        const BYTES: usize = 1 << 20;
        let (below, apart) = (node_named("disk0")?, node_named("disk1")?);
        for (source, destination) in [(&below, &apart), (&apart, &below)] {
            for io in ["uring", "uring-fixed", "pread"] {
                // All zeroes, as the memory is: nothing needs to be moved to make them equal.
                for serial in ["disk0", "disk1"] {
                    let zeroes = Map::ordinary(BYTES)?;
                    write_at(&drive_named(serial)?, &zeroes, 0..BYTES, 0)?;
                }
                let words = [
                    "copy",
                    source,
                    destination,
                    "--size",
                    "1M",
                    "--io",
                    io,
                    "--check",
                ];
                if *source == below {
                    fails(&words, &["differ", "p2pmem verify"])?;
                } else {
                    // This IOMMU returns zeroes for reads that it blocks, as the source has.
                    let said = says(&words)?;
                    ensure!(!said.contains("compared equal"), "{io}: {said}");
                    ensure!(said.contains("proves nothing: use --fill"), "{io}: {said}");
                    let report = json(&[&words[..], &["--json"]].concat())?;
                    ensure!(report["verified"].is_null(), "{report}");
                }
                fails(
                    &[&words[..], &["--fill"]].concat(),
                    &["differ", "p2pmem verify"],
                )?;
            }
        }
        Ok(())
    }

    /// Nothing is wrong to be seen: each command says that only data shows it.
    fn proof_is_due() -> Result<()> {
        let (below, apart) = (node_named("disk0")?, node_named("disk1")?);
        let name = below.trim_start_matches("/dev/");
        for (words, due) in [
            (&["copy", &apart, &below, "--size", "64k"][..], true),
            (
                &[
                    "copy",
                    &below,
                    &apart,
                    "--size",
                    "64k",
                    "--io",
                    "uring-fixed",
                ],
                true,
            ),
            (
                &["copy", &below, &apart, "--size", "64k", "--via", "none"],
                false,
            ),
            (
                &[
                    "bench", &below, "--size", "4k", "--rounds", "1", "--depth", "1",
                ],
                true,
            ),
            (
                &[
                    "bench", &apart, "--size", "4k", "--rounds", "1", "--depth", "1",
                ],
                false,
            ),
        ] {
            let output = p2pmem(words)?;
            let said = String::from_utf8(output.stderr)?;
            ensure!(output.status.success(), "{words:?}: {said}");
            ensure!(
                (said.contains("p2pmem verify") && said.contains(name)) == due,
                "{words:?}: {said}"
            );
        }
        let report = json(&["copy", &below, &apart, "--size", "64k", "--json"])?;
        ensure!(report["unproven"][0] == name, "{report}");
        let drawn = says(&["topo"])?;
        ensure!(drawn.contains("p2pmem verify"), "{drawn}");
        let report = json(&["doctor", "--json"])?;
        let checks = report["checks"].as_array().context("no checks")?;
        let check = checks.iter().find(|check| check["name"] == "IOMMU");
        let check = check.context("no check of the IOMMU")?;
        ensure!(check["status"] == "warning", "{check}");
        ensure!(text(check, "cure")?.contains(&below), "{check}");
        ensure!(!text(check, "cure")?.contains(&apart), "{check}");
        Ok(())
    }
}
