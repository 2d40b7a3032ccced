// SPDX-License-Identifier: GPL-2.0

//! `p2pmem doctor` on machines with faults, and its cures.

use std::{
    fs::{self, File, OpenOptions},
    net::{TcpListener, TcpStream},
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::Path,
};

use anyhow::{bail, ensure, Context, Result};
use rustix::{io::Errno, mm::MapFlags};
use serde_json::Value;

use crate::{
    cases,
    guest::{
        errno, expect_errno, insmod, last_errno, on_debug_kernel, open_direct, restore, rmmod, Map,
        Provider, MODULE, PAGE, READ, WINDOW,
    },
    programs::{p2pmem, says},
};

cases!(
    "doctor": errors_are_what_is_explained, memory_decoding_is_off, bus_mastering_is_off,
    made_for_another_kernel, well_without_iommu,
);

const DEVICES: &str = "/sys/bus/pci/devices";

/// The doctor's report on this machine.
struct Diagnosis {
    checks: Vec<Value>,
    /// Whether it found a problem.
    problem: bool,
}

impl Diagnosis {
    fn of(paths: &[&str]) -> Result<Self> {
        let output = p2pmem(&[&["doctor", "--json"], paths].concat())?;
        let report: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        Ok(Self {
            checks: report["checks"].as_array().context("no checks")?.clone(),
            problem: !output.status.success(),
        })
    }

    fn find(&self, name: &str) -> Option<&Value> {
        self.checks.iter().find(|check| check["name"] == name)
    }

    /// Checks that something was found, with all of these words in it.
    fn expect(&self, name: &str, status: &str, words: &[&str]) -> Result<()> {
        let check = self
            .find(name)
            .with_context(|| format!("no {name} in {:?}", self.checks))?;
        ensure!(check["status"] == status, "{check}");
        let text = check.to_string();
        for word in words {
            ensure!(text.contains(word), "no {word:?} in {check}");
        }
        ensure!(self.problem || status != "problem", "no problem: {check}");
        Ok(())
    }

    fn expect_no(&self, name: &str) -> Result<()> {
        match self.find(name) {
            Some(check) => bail!("{check}"),
            None => Ok(()),
        }
    }
}

/// Config space of a device.
struct Config(File);

impl Config {
    fn of(pci: &str) -> Result<Self> {
        let path = format!("{DEVICES}/{pci}/config");
        Ok(Self(
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .context(path)?,
        ))
    }

    fn read16(&self, at: u64) -> Result<u16> {
        let mut bytes = [0; 2];
        self.0.read_exact_at(&mut bytes, at)?;
        Ok(u16::from_le_bytes(bytes))
    }

    fn read32(&self, at: u64) -> Result<u32> {
        let mut bytes = [0; 4];
        self.0.read_exact_at(&mut bytes, at)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn write16(&self, at: u64, value: u16) -> Result<()> {
        Ok(self.0.write_all_at(&value.to_le_bytes(), at)?)
    }

    /// Returns where an extended capability is.
    fn capability(&self, id: u32) -> Result<Option<u64>> {
        let mut at = 0x100;
        // Conventional devices have no more than 256 bytes.
        while at >= 0x100 && self.0.metadata()?.len() > at {
            let header = self.read32(at)?;
            if header & 0xffff == id {
                return Ok(Some(at));
            }
            at = u64::from(header >> 20);
        }
        Ok(None)
    }
}

/// A bit of a Command register that is cleared until this is dropped.
struct Cleared {
    config: Config,
    before: u16,
}

impl Cleared {
    const COMMAND: u64 = 4;
    const MEMORY: u16 = 0x02;
    const MASTER: u16 = 0x04;

    fn new(pci: &str, bit: u16) -> Result<Self> {
        let config = Config::of(pci)?;
        let before = config.read16(Self::COMMAND)?;
        ensure!(before & bit != 0, "it is clear: {before:#x}");
        config.write16(Self::COMMAND, before & !bit)?;
        Ok(Self { config, before })
    }
}

impl Drop for Cleared {
    fn drop(&mut self) {
        self.config
            .write16(Self::COMMAND, self.before)
            .expect("config space can be written");
    }
}

/// Returns what `p2pmem topo --json` has of a function.
fn function(pci: &str) -> Result<Value> {
    let report: Value = serde_json::from_str(&says(&["topo", "--json"])?)?;
    let functions = report["fabric"]["functions"].as_array();
    functions
        .and_then(|all| all.iter().find(|one| one["pci"] == pci))
        .cloned()
        .with_context(|| format!("no {pci} in {report}"))
}

/// Returns the address of the bridge above a function.
fn above(pci: &str) -> Result<String> {
    let function = function(pci)?;
    Ok(function["parent"].as_str().context("no bridge")?.to_owned())
}

/// Each error that `--errno` explains and no other case provokes.
fn errors_are_what_is_explained() -> Result<()> {
    let provider = Provider::first()?;
    let file = provider.open()?;
    let map = Map::new(&file, WINDOW)?;

    let direct = open_direct(&provider.path);
    expect_errno(errno(direct), Errno::INVAL, "open with O_DIRECT")?;
    let mut bytes = [0; 8];
    expect_errno(errno(file.read_at(&mut bytes, 0)), Errno::INVAL, "read")?;
    expect_errno(errno(file.write_at(&bytes, 0)), Errno::INVAL, "write")?;
    // The debug kernel has no CONFIG_IO_STRICT_DEVMEM.
    if !on_debug_kernel() {
        let bar = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("{DEVICES}/{}/resource2", provider.pci))?;
        let mapped = Map::with(&bar, PAGE, READ, MapFlags::SHARED, 0);
        expect_errno(mapped.map(drop), Errno::INVAL, "mmap of resource2")?;
    }
    let said = says(&["doctor", "--errno", "EINVAL"])?;
    for word in ["O_DIRECT was passed", "mapped, not read", "resourceN"] {
        ensure!(said.contains(word), "no {word:?} in {said}");
    }

    // Nor does it have a network.
    if !on_debug_kernel() {
        expect_errno(send_without_copying(&map), Errno::FAULT, "MSG_ZEROCOPY")?;
    }
    let said = says(&["doctor", "--errno", "EFAULT"])?;
    ensure!(said.contains("MSG_ZEROCOPY"), "{said}");
    Ok(())
}

/// Sends a page of a mapping by TCP, without copying it.
fn send_without_copying(map: &Map) -> Result<(), Errno> {
    let connect = || {
        crate::programs::run("ip", &["link", "set", "lo", "up"])?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        Ok::<_, anyhow::Error>((listener, stream))
    };
    let (_listener, stream) = connect().map_err(|_| Errno::NETDOWN)?;
    let (one, raw) = (1_i32, stream.as_raw_fd());
    let size = std::mem::size_of::<i32>() as libc::socklen_t;
    // SAFETY: The value is as long as is said.
    let set = unsafe {
        libc::setsockopt(
            raw,
            libc::SOL_SOCKET,
            libc::SO_ZEROCOPY,
            (&raw const one).cast(),
            size,
        )
    };
    if set != 0 {
        return Err(last_errno());
    }
    // SAFETY: The page is within the mapping; the kernel checks the address.
    let sent = unsafe { libc::send(raw, map.at(0).cast(), PAGE, libc::MSG_ZEROCOPY) };
    if sent < 0 {
        return Err(last_errno());
    }
    Ok(())
}

fn memory_decoding_is_off() -> Result<()> {
    let pci = Provider::first()?.pci;
    let cleared = Cleared::new(&pci, Cleared::MEMORY)?;
    let said = ["Memory Space Enable clear", "p2pmem unbind", "all ones"];
    Diagnosis::of(&[])?.expect(&pci, "problem", &said)?;
    // The cure.
    says(&["unbind", &pci])?;
    says(&["bind", &pci])?;
    Diagnosis::of(&[])?.expect_no(&pci)?;
    let command = cleared.config.read16(Cleared::COMMAND)?;
    ensure!(command & Cleared::MEMORY != 0, "{command:#x}");
    drop(cleared);
    restore()
}

fn bus_mastering_is_off() -> Result<()> {
    // Of the ports above, each on its own.
    let mut pci = Provider::first()?.pci;
    for _ in 0..2 {
        pci = above(&pci)?;
        for (bit, word) in [
            (Cleared::MASTER, "Bus Master Enable clear"),
            (Cleared::MEMORY, "Memory Space Enable clear"),
        ] {
            let _cleared = Cleared::new(&pci, bit)?;
            Diagnosis::of(&[])?.expect(&pci, "problem", &[word, "setpci"])?;
        }
        Diagnosis::of(&[])?.expect_no(&pci)?;
    }
    Ok(())
}

/// Loads a module whose text says that it is made for another build of this release. It is the same
/// otherwise: the kernel loads it as well as the right one.
fn made_for_another_kernel() -> Result<()> {
    const START: &[u8] = b"\0version=";
    const OTHER: &str = "/tmp/other.ko";
    let mut module = fs::read(MODULE)?;
    let at = module
        .windows(START.len())
        .position(|part| part == START)
        .context("the module has no version")?
        + START.len();
    let length = module[at..].iter().position(|byte| *byte == 0);
    let end = at + length.context("no end")?;
    let version = String::from_utf8(module[at..end].to_vec())?;
    let Some((_, build)) = version.split_once(' ') else {
        // A kernel of our own: there is no package.
        return Diagnosis::of(&[])?.expect("module", "ok", &["does not report"]);
    };
    Diagnosis::of(&[])?.expect("module", "ok", &["made for this kernel", build])?;

    module[end - 1] = if module[end - 1] == b'9' { b'8' } else { b'9' };
    fs::write(OTHER, &module)?;
    rmmod()?;
    rustix::system::finit_module(&File::open(OTHER)?, c"", 0)?;
    let diagnosis = Diagnosis::of(&[]);
    rmmod()?;
    insmod()?;
    restore()?;
    fs::remove_file(OTHER)?;
    let words = ["made for another kernel", "same release", build];
    diagnosis?.expect("module", "problem", &words)
}

/// There is nothing to say of isolation without an IOMMU.
fn well_without_iommu() -> Result<()> {
    let diagnosis = Diagnosis::of(&["/dev/nvme0n1", "/dev/nvme1n1"])?;
    ensure!(!diagnosis.problem, "{:?}", diagnosis.checks);
    diagnosis.expect("ATS", "ok", &["no device has it"])?;
    diagnosis.expect("copies", "ok", &["nvme0n1", "nvme1n1"])?;
    diagnosis.expect("all paths", "ok", &["/dev/p2pmem0"])?;
    diagnosis.expect_no("p2pmem0 group")
}

/// Drives that reach only their own memory. Needs the topology own-memory.
pub mod own {
    use super::{
        ensure, function, p2pmem, restore, rmmod, says, Context, Diagnosis, Result, DEVICES,
    };
    use crate::{
        cases,
        guest::{address_named, node_named},
    };

    cases!("own": no_pair, no_link, bridge_is_no_switch);

    fn no_pair() -> Result<()> {
        super::super::fabric::prove_verdicts()?;
        let (first, second) = (node_named("disk0")?, node_named("disk1")?);
        let diagnosis = Diagnosis::of(&[&first, &second])?;
        diagnosis.expect("copies", "problem", &["no two drives"])?;
        diagnosis.expect("all paths", "problem", &["no memory that is the same"])?;
        for node in [&first, &second] {
            let name = format!("drive {}", node.trim_start_matches("/dev/"));
            diagnosis.expect(&name, "warning", &["only its own memory", "root ports"])?;
            // Alone, it is well.
            diagnosis.expect(node, "ok", &["(self)"])?;
        }
        let output = p2pmem(&["copy", &first, &second, "--size", "64K"])?;
        ensure!(!output.status.success(), "a copy succeeds");
        // The cure.
        says(&["copy", &first, &second, "--size", "64K", "--via", "none"]).map(drop)
    }

    fn no_link() -> Result<()> {
        let pci = address_named("integrated")?;
        let drawn = says(&["topo"])?;
        let line = drawn.lines().find(|line| line.contains(&pci));
        let line = line.with_context(|| format!("no {pci} in {drawn}"))?;
        for word in ["link", "255", "Unknown"] {
            ensure!(!line.contains(word), "{line}");
        }
        Ok(())
    }

    fn bridge_is_no_switch() -> Result<()> {
        let mut found = None;
        for entry in std::fs::read_dir(DEVICES)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let device = function(&name)?;
            if device["class"] == "00ff00" {
                found = device["parent"].as_str().map(str::to_owned);
            }
        }
        let bridge = found.context("no device of conventional PCI")?;
        // As the module says, and without that.
        for round in 0..2 {
            ensure!(
                function(&bridge)?["port"] == "bridge",
                "{}",
                function(&bridge)?
            );
            let drawn = says(&["topo", "--all"])?;
            let line = drawn.lines().find(|line| line.contains(&bridge));
            let line = line.with_context(|| format!("no {bridge} in {drawn}"))?;
            ensure!(!line.contains("switch"), "{line}");
            match round {
                0 => rmmod()?,
                _ => restore()?,
            }
        }
        Ok(())
    }
}

/// A slot that the firmware left little room to. Needs the topology small-window.
pub mod window {
    use std::{fs, path::Path, time::Duration};

    use super::{above, ensure, Diagnosis, Provider, Result, DEVICES};
    use crate::{
        cases,
        guest::{devices, drive_named, qemu, restore, wait_until},
    };

    cases!("window": too_small_for_what_is_plugged);

    const LIMIT: Duration = Duration::from_secs(30);

    fn too_small_for_what_is_plugged() -> Result<()> {
        let before = devices()?;
        Diagnosis::of(&[])?.expect_no(&before[0])?;
        qemu(
            "object-add",
            "\"qom-type\": \"memory-backend-ram\", \"id\": \"plugged\", \"share\": true, \"size\": 67108864",
        );
        qemu(
            "device_add",
            "\"driver\": \"ivshmem-plain\", \"id\": \"plugged\", \"bus\": \"spare\", \
             \"memdev\": \"plugged\"",
        );
        let mut all = Vec::new();
        wait_until(LIMIT, "the device is there", || {
            all = devices()?;
            Ok(all.len() > before.len())
        })?;
        let new = all
            .iter()
            .find(|pci| !before.contains(pci))
            .expect("one more");
        // Until the kernel has given up.
        wait_until(LIMIT, "the doctor speaks of it", || {
            Ok(Diagnosis::of(&[])?.find(new).is_some())
        })?;
        let top = above(&above(&above(new)?)?)?;
        let remove = format!("{DEVICES}/{top}/remove");
        let words = [
            "BAR 2 has no address",
            "window of 2 MiB",
            "pci=hpmmioprefsize=SIZE",
            &remove,
            "`pci=realloc` does not help",
        ];
        Diagnosis::of(&[])?.expect(new, "warning", &words)?;

        // The cure, on a kernel with that parameter.
        fs::write(remove, "1")?;
        wait_until(LIMIT, "all is gone", || Ok(devices()?.is_empty()))?;
        fs::write("/sys/bus/pci/rescan", "1")?;
        wait_until(LIMIT, "all is there", || {
            Ok(Provider::all()?.len() == 2 && drive_named("disk0").is_ok())
        })?;
        Diagnosis::of(&[])?.expect_no(new)?;

        qemu("device_del", "\"id\": \"plugged\"");
        wait_until(LIMIT, "it is gone", || Ok(devices()? == before))?;
        ensure!(!Path::new(DEVICES).join(new).exists());
        restore()
    }
}

/// Devices that have addresses translated. Needs the topology ats.
pub mod ats {
    use std::{fs, path::Path};

    use super::{
        ensure, function, restore, says, Config, Context, Diagnosis, Provider, Result, DEVICES,
    };
    use crate::{
        cases,
        guest::{become_user, on_debug_kernel, unbind, Child},
        programs::run,
    };

    cases!(
        "ats": reported_as_it_is, any_user_may_look, groups_are_not_isolated, translated_requests,
        translating_iommu, held_by_vfio,
    );

    const ATS: u32 = 0x0f;
    const ACS: u32 = 0x0d;

    fn all() -> Result<Vec<String>> {
        let entries = fs::read_dir(DEVICES)?;
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    /// Returns the three devices with ATS, in order.
    fn having_ats() -> Result<Vec<String>> {
        let mut found = Vec::new();
        for pci in all()? {
            if Config::of(&pci)?.capability(ATS)?.is_some() {
                found.push(pci);
            }
        }
        found.sort();
        ensure!(found.len() == 3, "{found:?}");
        Ok(found)
    }

    /// Compares with config space, which root may read.
    fn reported_as_it_is() -> Result<()> {
        let mut ports = 0;
        for pci in all()? {
            let (config, function) = (Config::of(&pci)?, function(&pci)?);
            let enabled = match config.capability(ATS)? {
                Some(at) => Some(config.read16(at + 6)? & 0x8000 != 0),
                None => None,
            };
            ensure!(function["ats"].as_bool() == enabled, "{function}");
            if let (Some(at), true) = (config.capability(ACS)?, function["port"].is_string()) {
                let register = |at| Ok::<_, anyhow::Error>(format!("{:04x}", config.read16(at)?));
                ensure!(
                    function["acs"]["capability"] == register(at + 4)?,
                    "{function}"
                );
                ensure!(
                    function["acs"]["control"] == register(at + 6)?,
                    "{function}"
                );
                ports += 1;
            } else {
                ensure!(function["acs"].is_null(), "{function}");
            }
        }
        ensure!(ports == 4, "{ports} ports with ACS");
        let drawn = says(&["topo", "--all"])?;
        for word in [
            "ATS on",
            "IOMMU group",
            "ACS redirects",
            "ACS blocks translated requests",
            "ACS passes translated requests",
        ] {
            ensure!(drawn.contains(word), "no {word:?} in {drawn}");
        }
        Ok(())
    }

    fn any_user_may_look() -> Result<()> {
        let pci = having_ats()?.remove(0);
        let mine = function(&pci)?;
        Child::spawn(|| {
            become_user()?;
            ensure!(function(&pci)? == mine, "{}", function(&pci)?);
            Ok(())
        })?
        .expect_success()
    }

    /// Returns the number of a device's IOMMU group.
    fn group(pci: &str) -> Result<String> {
        let link = fs::read_link(format!("{DEVICES}/{pci}/iommu_group"))?;
        let name = link.file_name().context("no group")?;
        Ok(name.to_string_lossy().into_owned())
    }

    /// The ports of QEMU's switch have no ACS, and Linux has a group for each device below.
    fn groups_are_not_isolated() -> Result<()> {
        let provider = Provider::first()?;
        let client = having_ats()?.remove(0);
        let (own, other) = (group(&provider.pci)?, group(&client)?);
        ensure!(own != other, "one group");
        let words = [
            &format!("IOMMU group {own}, but other groups"),
            &format!("{client} (group {other})"),
            "one virtual machine",
        ];
        Diagnosis::of(&[])?.expect("p2pmem0 group", "warning", &words)?;
        // Its port redirects.
        Diagnosis::of(&[])?.expect("p2pmem1 group", "ok", &["by the root complex"])
    }

    fn translated_requests() -> Result<()> {
        let devices = having_ats()?;
        let port = super::above(&devices[1])?;
        let words = [
            &format!("Port {port} has ACS Translation Blocking on"),
            &format!("requests of {}", devices[1]),
            &format!("pci=config_acs=0011101@{port}"),
            "pci=noats",
        ];
        Diagnosis::of(&[])?.expect("ATS", "problem", &words)?;

        // Let them pass.
        let config = Config::of(&port)?;
        let at = config.capability(ACS)?.context("no ACS")? + 6;
        let before = config.read16(at)?;
        config.write16(at, before & !0x02)?;
        // The text of routes is cached for some seconds.
        restore_routes()?;
        let diagnosis = Diagnosis::of(&[]);
        config.write16(at, before)?;
        restore_routes()?;
        let words = [
            "does not check",
            "go straight to the memory",
            &format!("{} to /dev/p2pmem0", devices[0]),
            &format!("{} to /dev/p2pmem1", devices[2]),
        ];
        diagnosis?.expect("ATS", "ok", &words)
    }

    /// Has the module look anew, with new nodes.
    fn restore_routes() -> Result<()> {
        for provider in Provider::all()? {
            unbind(&provider.pci)?;
        }
        restore()
    }

    fn translating_iommu() -> Result<()> {
        let words = ["translates", "p2pmem verify", "iommu.passthrough=1"];
        Diagnosis::of(&[])?.expect("IOMMU", "warning", &words)
    }

    fn held_by_vfio() -> Result<()> {
        // The debug kernel has no vfio-pci.
        if on_debug_kernel() {
            return Ok(());
        }
        run("modprobe", &["vfio-pci"])?;
        let all: Vec<_> = Provider::all()?.into_iter().map(|one| one.pci).collect();
        // One of two, and both.
        for (pci, status) in all.iter().zip(["warning", "problem"]) {
            unbind(pci)?;
            fs::write(format!("{DEVICES}/{pci}/driver_override"), "vfio-pci")?;
            fs::write("/sys/bus/pci/drivers_probe", pci)?;
            ensure!(Path::new(&format!("/sys/bus/pci/drivers/vfio-pci/{pci}")).exists());
            let words = ["vfio-pci has it", &format!("p2pmem bind {pci} --force")];
            Diagnosis::of(&[])?.expect(pci, status, &words)?;
        }
        Diagnosis::of(&[])?.expect("providers", "problem", &["see", &all[0], &all[1]])?;
        for pci in &all {
            says(&["bind", pci, "--force"])?;
            says(&["unbind", pci])?;
            fs::write(format!("{DEVICES}/{pci}/driver_override"), "\n")?;
            let driver = Path::new(DEVICES).join(pci).join("driver");
            if driver.exists() {
                fs::write(driver.join("unbind"), pci)?;
            }
        }
        restore()?;
        all.iter()
            .try_for_each(|pci| Diagnosis::of(&[])?.expect_no(pci))
    }
}

/// Drives with a Persistent Memory Region. Needs the topology pmr.
pub mod unused {
    use super::{ensure, says, Context, Diagnosis, Path, Result};
    use crate::{
        cases,
        guest::{address_named, Provider},
    };

    cases!("pmr_doctor": names_what_is_not_used);

    fn names_what_is_not_used() -> Result<()> {
        let address = |serial| address_named(serial);
        let pci = address("pmr")?;
        let cure = format!("p2pmem config {pci} --regions pmr");
        let words = ["BAR 4 of 64 MiB", "Persistent Memory Region", &cure];
        Diagnosis::of(&[])?.expect(&pci, "ok", &words)?;
        // One is too small, one is beside a CMB that is in use, and others have none.
        for serial in ["small", "both", "disk0"] {
            Diagnosis::of(&[])?.expect_no(&address(serial)?)?;
        }

        says(&["config", &pci, "--regions", "pmr"])?;
        let diagnosis = Diagnosis::of(&[]);
        let provider = Provider::of(&pci)?;
        says(&["config", &pci, "--regions", "default"])?;
        let provider = provider.context("no provider")?;
        ensure!(!Path::new(&provider.path).exists(), "it is still there");
        diagnosis?.expect_no(&pci)
    }
}
