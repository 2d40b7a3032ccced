// SPDX-License-Identifier: GPL-2.0

//! Memory of NVMe controllers that are bound on purpose. The groups need the topologies cmb and
//! pmr; the drives are known by their serial numbers.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{ensure, Context, Result};
use p2pmem::Provider as Node;
use rustix::mm::MapFlags;

use super::{
    large::{expect_orders, order},
    unbind::slow_drive_named,
};
use crate::{
    cases,
    guest::{
        address_named, address_of, choose, controller, copy_between, drive_named, insmod,
        insmod_with, on_debug_kernel, patience, put_on_drive, qemu, read_at, restore, rmmod,
        rounds, sleep, unbind, wait_until, Child, Map, Mark, Provider, PAGE, READ, WINDOW,
    },
    kmod::TestFile,
    programs::{fails, format_and_mount, mount, run, says},
};

/// Cases with memory that the nvme driver published itself. Needs the topology cmb.
pub mod adopt {
    use super::*;

    cases!(
        "adopt": each_published_pool, large_pages_beside_others, copy_through_own_memory, follows_the_driver,
        in_use_when_unbound, controller_reset, turned_off, loaded_first, mounted_drive, hot_plug,
        pulled_while_busy, asleep, stays_awake, a_hundred_rounds,
    );

    /// A drive that the nvme driver has, with its node.
    struct Adopted {
        controller: PathBuf,
        provider: Provider,
    }

    impl Adopted {
        fn find(serial: &str) -> Result<Self> {
            let controller = controller(serial)?.context("the drive is missing")?;
            let provider = Provider::of(&address_of(&controller)?)?.context("no node")?;
            Ok(Self {
                controller,
                provider,
            })
        }

        fn reset(&self) -> Result<()> {
            Ok(fs::write(self.controller.join("reset_controller"), "1")?)
        }

        /// Takes the drive away from the nvme driver, which must be quick.
        fn unbind(&self) -> Result<()> {
            let started = std::time::Instant::now();
            fs::write("/sys/bus/pci/drivers/nvme/unbind", &self.provider.pci)?;
            let took = started.elapsed();
            ensure!(
                took < patience(Duration::from_secs(5)),
                "unbind took {took:?}"
            );
            ensure!(!self.provider.path.exists(), "the node is still there");
            Ok(())
        }

        fn bind(&self) -> Result<()> {
            fs::write("/sys/bus/pci/drivers/nvme/bind", &self.provider.pci)?;
            restore()
        }
    }

    /// Large pages, mainline's file, and the nvme driver's queues share one pool.
    fn large_pages_beside_others() -> Result<()> {
        let adopted = Adopted::find("new")?;
        let provider = &adopted.provider;
        let order = order(provider)?;
        let own = drive_named("new")?;
        put_on_drive(&own, 2 * WINDOW, 1)?;
        for round in 0..rounds(10) {
            let allocate = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(provider.device.join("p2pmem/allocate"))?;
            let mainline = Map::new(&allocate, WINDOW + PAGE)?;
            let ours = Map::placed(provider.open()?, 2 * WINDOW + 3 * PAGE, 0, 0)?;
            ours.set(0, 1);
            expect_orders(&ours, 0, order, order)?;
            ours.set(2 * WINDOW, 1);
            expect_orders(&ours, 2 * WINDOW, 0, order.min(1))?;
            mainline.fill(0..WINDOW + PAGE, round as u64);
            // The drive reads into its own memory, while its commands are fetched from there.
            read_at(&own, &ours, 0..2 * WINDOW, 0)?;
            ours.check(0..2 * WINDOW, 1)?;
            mainline.check(0..WINDOW + PAGE, round as u64)?;
            // One goes first, then the other.
            match round % 2 {
                0 => drop(ours),
                _ => drop(mainline),
            }
        }
        Ok(())
    }

    fn each_published_pool() -> Result<()> {
        for (serial, size) in [("new", 64 << 20), ("legacy", 16 << 20)] {
            let adopted = Adopted::find(serial)?;
            let node = Node::open(&adopted.provider.path)?;
            let (info, region) = (node.info()?, node.region(0)?);
            ensure!(info.size == size && adopted.provider.size as u64 == size);
            ensure!(
                (info.regions, region.bar, region.offset) == (1, 2, 0),
                "{region:?}"
            );
            ensure!(region.size == size);
            // The drive is one still.
            ensure!(adopted
                .provider
                .device
                .join("driver")
                .canonicalize()?
                .ends_with("nvme"));
            drive_named(serial)?;
        }
        ensure!(
            Adopted::find("disk0").is_err(),
            "a drive without memory has a node"
        );
        Ok(())
    }

    fn copy_through_own_memory() -> Result<()> {
        // Through the memory of the first drive, of the second, and of one that is neither.
        for (source, destination, memory) in [
            ("new", "disk0", "new"),
            ("disk0", "new", "new"),
            ("new", "legacy", "legacy"),
            ("disk0", "disk1", "legacy"),
        ] {
            let adopted = Adopted::find(memory)?;
            let before = adopted.provider.available()?;
            copy_between(source, destination, &adopted.provider, 1 << 20)
                .with_context(|| format!("{source} -> {memory} -> {destination}"))?;
            ensure!(
                adopted.provider.available()? == before,
                "something is taken"
            );
        }
        Ok(())
    }

    fn follows_the_driver() -> Result<()> {
        let adopted = Adopted::find("new")?;
        let file = adopted.provider.open()?;
        let map = Map::new(&file, WINDOW)?;
        map.fill(0..PAGE, 1);
        adopted.unbind()?;
        ensure!(!map.is_readable(0)?, "still readable");
        Child::spawn(|| {
            map.set(0, 1);
            Ok(())
        })?
        .expect_signal(libc::SIGBUS)?;
        let result = Map::with(&file, PAGE, READ, MapFlags::SHARED, 0);
        crate::guest::expect_errno(result, rustix::io::Errno::NODEV, "mmap")?;

        adopted.bind()?;
        copy(&Adopted::find("new")?.provider, false)
    }

    fn in_use_when_unbound() -> Result<()> {
        for _ in 0..5 {
            let adopted = Adopted::find("new")?;
            let child = reader(&adopted.provider)?;
            adopted.unbind()?;
            child.expect_signal(libc::SIGBUS)?;
            adopted.bind()?;
        }
        Ok(())
    }

    fn controller_reset() -> Result<()> {
        let adopted = Adopted::find("new")?;
        let map = Map::new(adopted.provider.open()?, 4 * PAGE)?;
        map.fill(0..4 * PAGE, 1);
        adopted.reset()?;
        // The mapping is still one of the same memory, and takes direct I/O.
        map.check(0..4 * PAGE, 1)?;
        drop(map);
        copy(&adopted.provider, false)
    }

    fn turned_off() -> Result<()> {
        rmmod()?;
        insmod_with(c"adopt=0")?;
        let found = Provider::all()?.len();
        rmmod()?;
        ensure!(found == 0, "{found} nodes");
        drive_named("new")?;
        restore()?;
        ensure!(Provider::all()?.len() == 2);
        Ok(())
    }

    fn loaded_first() -> Result<()> {
        let adopted = Adopted::find("legacy")?;
        rmmod()?;
        fs::write("/sys/bus/pci/drivers/nvme/unbind", &adopted.provider.pci)?;
        insmod()?;
        ensure!(Provider::all()?.len() == 1, "the one that is left");
        adopted.bind()?;
        copy(&Adopted::find("legacy")?.provider, false)
    }

    /// A root disk does not notice the module.
    fn mounted_drive() -> Result<()> {
        const POINT: &str = "/tmp/mounted";
        for serial in ["new", "disk0"] {
            let controller = controller(serial)?.context("the drive is missing")?;
            let name = controller.file_name().context("no name")?.to_string_lossy();
            let node = format!("/dev/{name}n1");
            format_and_mount(&node, POINT)?;

            let stop = Path::new("/tmp/stop");
            let file = format!("{POINT}/file");
            let line = |number: usize| format!("{number:07}\n");
            let writer = Child::spawn(|| {
                let mut log = File::create(&file)?;
                for number in 0.. {
                    log.write_all(line(number).as_bytes())?;
                    log.sync_all()?;
                    if stop.exists() {
                        break;
                    }
                }
                Ok(())
            })?;
            let mark = Mark::new()?;
            for _ in 0..5 {
                rmmod()?;
                insmod()?;
                ensure!(fs::read_to_string(controller.join("state"))?.trim() == "live");
            }
            File::create(stop)?;
            writer.expect_success()?;
            fs::remove_file(stop)?;
            // The driver did not notice anything.
            for what in ["reset", "timeout", "I/O error", "I/O Error", "aborted"] {
                ensure!(mark.expect(&["nvme", what]).is_err(), "{what}, see the log");
            }
            run("umount", &[POINT])?;
            mount(&node, POINT)?;
            let text = fs::read_to_string(&file)?;
            run("umount", &[POINT])?;
            ensure!(text.len() > 8 * 10, "only {} bytes", text.len());
            for (number, found) in text.split_inclusive('\n').enumerate() {
                ensure!(found == line(number), "line {number} is {found:?}");
            }
        }
        Ok(())
    }

    /// A drive that is plugged in, used, and pulled.
    fn hot_plug() -> Result<()> {
        for round in 0..3 {
            qemu(
                "blockdev-add",
                r#""driver": "null-co", "node-name": "plugged", "read-zeroes": true, "size": 67108864"#,
            );
            qemu(
                "device_add",
                r#""driver": "nvme", "id": "plugged", "bus": "spare", "drive": "plugged", "serial": "plugged", "cmb_size_mb": 16, "legacy-cmb": false"#,
            );
            wait_until(Duration::from_secs(20), "the drive has its node", || {
                Ok(Adopted::find("plugged").is_ok())
            })?;
            let adopted = Adopted::find("plugged")?;
            let map = Map::new(adopted.provider.open()?, WINDOW)?;
            map.fill(0..PAGE, round);
            // The drive holds zeroes.
            read_at(&drive_named("plugged")?, &map, 0..PAGE, 0)?;
            ensure!(map.get(0) == 0 && map.get(PAGE - 8) == 0, "not read");
            let child = reader_of("plugged", &adopted.provider)?;

            qemu("device_del", r#""id": "plugged""#);
            child.expect_signal(libc::SIGBUS)?;
            wait_until(Duration::from_secs(20), "the drive is gone", || {
                Ok(controller("plugged")?.is_none() && !adopted.provider.path.exists())
            })?;
            ensure!(!map.is_readable(0)?, "still readable");
            drop(map);
            qemu("blockdev-del", r#""node-name": "plugged""#);
        }
        Ok(())
    }

    /// The drive is gone while it reads into its own memory. Its driver finds out when it is
    /// unbound, and not before: its time-out is long.
    fn pulled_while_busy() -> Result<()> {
        pulled_while_it_reads("new", || Ok(Adopted::find("new")?.provider))
    }

    /// Memory of other drivers is given up before sleep, and adopted again.
    fn asleep() -> Result<()> {
        const CMBMSC: u32 = 0x50;
        for _ in 0..2 {
            let adopted = Adopted::find("new")?;
            let map = Map::new(adopted.provider.open()?, WINDOW)?;
            map.fill(0..PAGE, 1);
            sleep()?;
            ensure!(!map.is_readable(0)?, "still readable");
            copy(&Adopted::find("new")?.provider, false)?;
        }
        // As after a sleep without power: the nvme driver does not switch it on again.
        let pci = Adopted::find("new")?.provider.pci;
        TestFile::open()?.write(&pci, 0, CMBMSC, 0)?;
        let mark = Mark::new()?;
        sleep()?;
        mark.expect(&[&pci, "has not switched the CMB on again"])?;
        ensure!(Adopted::find("new").is_err(), "there is a node");
        fs::write("/sys/bus/pci/drivers/nvme/unbind", &pci)?;
        fs::write("/sys/bus/pci/drivers/nvme/bind", &pci)?;
        wait_until(Duration::from_secs(20), "the drive has its node", || {
            Ok(Adopted::find("new").is_ok())
        })?;
        copy(&Adopted::find("new")?.provider, false)
    }

    fn stays_awake() -> Result<()> {
        let adopted = Adopted::find("new")?;
        let node = Node::open(&adopted.provider.path)?;
        let handle = node.alloc(WINDOW as u64, 0)?;
        let mut ring = super::super::uring::ring()?;
        super::super::uring::register(&mut ring, &node, &handle, 0)?;
        let mark = Mark::new()?;
        ensure!(sleep().is_err(), "slept");
        mark.expect(&[&adopted.provider.pci, "the system stays awake"])?;
        // It can be had still.
        drop(ring);
        drop(handle);
        copy(&adopted.provider, false)
    }

    fn a_hundred_rounds() -> Result<()> {
        // On the debug kernel the nvme driver takes seconds to bind a drive.
        let count = if on_debug_kernel() { 20 } else { rounds(100) };
        (0..count as u64)
            .try_for_each(|round| one_round(round).with_context(|| format!("round {round}")))
    }

    fn one_round(round: u64) -> Result<()> {
        let adopted = Adopted::find("new")?;
        let map = Map::new(adopted.provider.open()?, WINDOW)?;
        map.fill(0..PAGE, round);
        match round % 4 {
            0 => {
                let child = reader(&adopted.provider).context("reader")?;
                adopted.unbind()?;
                child.expect_signal(libc::SIGBUS)?;
                adopted.bind()?;
            }
            1 => {
                adopted.reset()?;
                map.check(0..PAGE, round)?;
            }
            2 => {
                adopted.unbind()?;
                ensure!(!map.is_readable(0)?, "still readable");
                adopted.bind()?;
            }
            // Another driver has it for a while: ours.
            _ => {
                drop(map);
                let taken = Taken::new("new")?;
                let provider = taken.provider()?.context("no node")?;
                Map::new(provider.open()?, WINDOW)?.fill(0..PAGE, round);
                provider.expect_full()?;
                drop(taken);
                restore()?;
            }
        }
        Ok(())
    }
}

/// Cases with a Controller Memory Buffer.
pub mod cmb {
    use super::*;

    cases!(
        "cmb": of_revision_1_4, of_before, none, put_back, in_use_when_unbound, on_again_after_reset,
        on_again_after_sleep,
    );

    const CMBMSC: u64 = 0x50;

    fn on_again_after_reset() -> Result<()> {
        on_again_after("new", CMBMSC, reset)
    }

    fn on_again_after_sleep() -> Result<()> {
        on_again_after("new", CMBMSC, |_| sleep())
    }

    fn of_revision_1_4() -> Result<()> {
        copy_through_memory_of("new", 64 << 20)
    }

    fn of_before() -> Result<()> {
        copy_through_memory_of("legacy", 16 << 20)
    }

    fn none() -> Result<()> {
        let mark = Mark::new()?;
        let drive = Taken::new("disk0")?;
        ensure!(drive.provider()?.is_none(), "there is a node");
        mark.expect(&[&drive.pci, "no CMB and no PMR that can serve"])?;
        let pci = drive.pci.clone();
        drop(drive);
        for (what, name) in [
            ("cmb", "no CMB that can serve"),
            ("pmr", "no PMR that can serve"),
        ] {
            let mark = Mark::new()?;
            choose(&format!("{pci} {what}"))?;
            let drive = Taken::new("disk0")?;
            ensure!(drive.provider()?.is_none(), "there is a node");
            mark.expect(&[&pci, name])?;
            drop(drive);
            choose(&format!("{pci} default"))?;
        }
        Ok(())
    }

    fn put_back() -> Result<()> {
        let drive = Taken::new("new")?;
        unbind(&drive.pci)?;
        let off = drive.register(CMBMSC)?;
        ensure!(off & 0x3 == 0, "CMBMSC is {off:#x} afterwards");
        Ok(())
    }

    fn in_use_when_unbound() -> Result<()> {
        unbind_in_use("new")
    }
}

/// Cases with a Persistent Memory Region.
pub mod pmr {
    use super::*;

    cases!(
        "pmr": alone, too_small, beside_a_cmb, put_back, in_use_when_unbound, on_again_after_reset,
        on_again_after_sleep, beside_a_drive,
        beside_a_drive_follows, beside_a_drive_resets, beside_a_drive_in_use,
        beside_a_drive_by_configuration, beside_a_drive_refused, beside_a_drive_looked_at, beside_a_drive_pulled, beside_a_drive_asleep,
    );

    /// A drive that the nvme driver has, whose PMR was asked for. Undone when it is dropped.
    struct Beside {
        controller: PathBuf,
        pci: String,
    }

    impl Beside {
        fn ask(serial: &str) -> Result<Self> {
            let controller = controller(serial)?.context("the drive is missing")?;
            let pci = address_of(&controller)?;
            choose(&format!("{pci} pmr"))?;
            Ok(Self { controller, pci })
        }

        fn provider(&self) -> Result<Provider> {
            Provider::of(&self.pci)?.context("no node")
        }

        /// Nothing is left of the memory.
        fn expect_gone(&self) -> Result<()> {
            ensure!(self.provider().is_err(), "there is a node");
            ensure!(!Path::new(DEVICES).join(&self.pci).join("p2pmem").exists());
            Ok(())
        }

        fn nvme(&self, what: &str) -> Result<()> {
            Ok(fs::write(
                format!("/sys/bus/pci/drivers/nvme/{what}"),
                &self.pci,
            )?)
        }
    }

    impl Drop for Beside {
        fn drop(&mut self) {
            choose(&format!("{} default", self.pci)).expect("the default can be set");
        }
    }

    /// A line of /etc/p2pmem/regions.d chooses the PMR; the drive stays a drive.
    fn beside_a_drive_by_configuration() -> Result<()> {
        let folder = "/tmp/regions-pmr";
        fs::create_dir_all(folder)?;
        fs::create_dir_all("/run")?;
        let path = format!("{folder}/a.conf");
        fs::write(&path, "1b36:0010 serial=pmr pmr limit-per-file=1M\n")?;
        // Undoes it.
        let beside = Beside::ask("pmr")?;
        choose(&format!("{} default", beside.pci))?;
        let apply = ["apply", "--folder", folder];
        let text = says(&apply)?;
        let expected = format!(
            "{0}: regions: default -> pmr\n{0}: limit-per-file: 0 -> 1048576\n",
            beside.pci
        );
        ensure!(text == expected, "{text}");
        ensure!(beside.provider()?.size == 64 << 20);
        ensure!(drive_named("pmr").is_ok(), "the drive is gone");
        ensure!(says(&apply)? == "nothing differs\n");
        fs::write(&path, format!("{} default\n", beside.pci))?;
        fails(&apply, &["nvme has the device"])?;
        Ok(fs::remove_dir_all(folder)?)
    }

    fn beside_a_drive() -> Result<()> {
        let beside = Beside::ask("pmr")?;
        let provider = beside.provider()?;
        let node = Node::open(&provider.path)?;
        let region = node.region(0)?;
        ensure!((region.bar, region.offset, region.size) == (4, 0, 64 << 20));
        ensure!(provider.size == 64 << 20);
        // From and to the drive itself, and between others.
        for (source, destination) in [("pmr", "disk0"), ("disk0", "pmr"), ("disk0", "disk1")] {
            copy_between(source, destination, &provider, 1 << 20)?;
            provider.expect_full()?;
        }
        // Asked once more, nothing changes: mappings stay.
        let map = Map::new(&node, WINDOW)?;
        map.fill(0..WINDOW, 1);
        choose(&format!("{} pmr", beside.pci))?;
        map.check(0..WINDOW, 1)?;

        // Not wanted any more.
        let pci = beside.pci.clone();
        choose(&format!("{pci} default"))?;
        ensure!(!map.is_readable(0)?, "still readable");
        beside.expect_gone()?;
        drive_named("pmr")?;
        Ok(())
    }

    fn beside_a_drive_follows() -> Result<()> {
        let beside = Beside::ask("pmr")?;
        for _ in 0..5 {
            let map = Map::new(beside.provider()?.open()?, WINDOW)?;
            map.fill(0..PAGE, 1);
            beside.nvme("unbind")?;
            ensure!(!map.is_readable(0)?, "still readable");
            beside.expect_gone()?;
            beside.nvme("bind")?;
            restore()?;
            copy(&beside.provider()?, true)?;
        }
        rmmod()?;
        beside.expect_gone()?;
        drive_named("pmr")?;
        // The regions went with the module.
        insmod()?;
        restore()?;
        beside.expect_gone()
    }

    fn beside_a_drive_resets() -> Result<()> {
        let beside = Beside::ask("pmr")?;
        let provider = beside.provider()?;
        let map = Map::new(provider.open()?, WINDOW)?;
        map.fill(0..WINDOW, 1);
        for round in 0..5 {
            fs::write(beside.controller.join("reset_controller"), "1")?;
            map.check(0..WINDOW, 1)?;
            if round % 2 == 1 {
                fs::write(Path::new(DEVICES).join(&beside.pci).join("reset"), "1")?;
                map.check(0..WINDOW, 1)?;
            }
            copy(&provider, false)?;
        }
        Ok(())
    }

    fn beside_a_drive_in_use() -> Result<()> {
        for round in 0..10 {
            let beside = Beside::ask("pmr")?;
            let child = reader(&beside.provider()?)?;
            match round % 2 {
                0 => drop(beside),
                _ => {
                    beside.nvme("unbind")?;
                    beside.nvme("bind")?;
                    restore()?;
                }
            }
            child.expect_signal(libc::SIGBUS)?;
            drive_named("pmr")?;
        }
        Ok(())
    }

    fn beside_a_drive_refused() -> Result<()> {
        // Published memory cannot be told from a PMR, and keeps its node.
        let before = Provider::all()?.len();
        let mark = Mark::new()?;
        let beside = Beside::ask("both")?;
        mark.expect(&[
            &beside.pci,
            "cannot be kept apart: bind the controller to p2pmem_rs",
        ])?;
        ensure!(beside.provider()?.size == 16 << 20);
        // Nor when the driver comes after the choice.
        beside.nvme("unbind")?;
        let mark = Mark::new()?;
        beside.nvme("bind")?;
        restore()?;
        mark.expect(&[&beside.pci, "cannot be kept apart"])?;
        ensure!(beside.provider()?.size == 16 << 20);
        drop(beside);
        // There is none.
        let mark = Mark::new()?;
        let beside = Beside::ask("disk0")?;
        mark.expect(&[&beside.pci, "the controller has no PMR"])?;
        ensure!(beside.provider().is_err());
        ensure!(Provider::all()?.len() == before);
        Ok(())
    }

    fn beside_a_drive_pulled() -> Result<()> {
        let beside = Beside::ask("pmr")?;
        pulled_while_it_reads("pmr", || beside.provider())
    }

    fn beside_a_drive_asleep() -> Result<()> {
        let beside = Beside::ask("pmr")?;
        for _ in 0..2 {
            let map = Map::new(beside.provider()?.open()?, WINDOW)?;
            map.fill(0..PAGE, 1);
            TestFile::open()?.write(&beside.pci, 0, PMRCTL as u32, 0)?;
            sleep()?;
            ensure!(!map.is_readable(0)?, "still readable");
            copy(&beside.provider()?, true)?;
        }
        Ok(())
    }

    /// An attribute of the module removes attributes of a node, while they are open. On the debug
    /// kernel lockdep looks on.
    fn beside_a_drive_looked_at() -> Result<()> {
        let beside = Beside::ask("pmr")?;
        let provider = beside.provider()?;
        let name = provider.path.file_name().context("no name")?;
        let folder = Path::new("/sys/class/misc").join(name);
        let mut files = Vec::new();
        for name in ["size", "clear", "regions", "routes"] {
            files.push(File::open(folder.join(name))?);
        }
        drop(beside);
        ensure!(!provider.path.exists(), "there is a node");
        for mut file in files {
            let result = std::io::Read::read(&mut file, &mut [0]);
            crate::guest::expect_io_errno(result, rustix::io::Errno::NODEV, "read")?;
        }
        Ok(())
    }

    fn alone() -> Result<()> {
        copy_through_memory_of("pmr", 64 << 20)
    }

    fn too_small() -> Result<()> {
        let mark = Mark::new()?;
        let drive = Taken::new("small")?;
        ensure!(drive.provider()?.is_none(), "there is a node");
        let why = "the PMR is not used: 1048576 bytes of BAR 4 hold no aligned 2097152 bytes";
        mark.expect(&[&drive.pci, why])?;
        mark.expect(&[&drive.pci, "no CMB and no PMR that can serve"])
    }

    fn beside_a_cmb() -> Result<()> {
        const CMB: usize = 16 << 20;
        const PMR: usize = 32 << 20;
        let drive = Taken::new("both")?;
        let provider = drive.provider()?.context("there is no node")?;
        let node = Node::open(&provider.path)?;

        ensure!(provider.size == CMB + PMR);
        ensure!(node.info()?.size == (CMB + PMR) as u64 && node.info()?.regions == 2);
        let (first, second) = (node.region(0)?, node.region(1)?);
        ensure!((first.bar, first.size) == (2, CMB as u64), "{first:?}");
        ensure!((second.bar, second.size) == (4, PMR as u64), "{second:?}");

        // Both can be had, each as a whole; no mapping lies in both.
        let all = Map::with(&node, CMB + PMR, READ, MapFlags::SHARED, 0);
        crate::guest::expect_errno(all, rustix::io::Errno::NOSPC, "more than a region")?;
        let (pmr, cmb) = (Map::new(&node, PMR)?, Map::new(&node, CMB)?);
        provider.expect_taken(CMB + PMR)?;
        // The CMB of QEMU is slow: a part will do.
        pmr.fill(0..PMR, 1);
        cmb.fill(0..16 * PAGE, 2);
        pmr.check(0..PMR, 1)?;
        cmb.check(0..16 * PAGE, 2)?;
        drop((pmr, cmb));
        provider.expect_taken(0)?;
        drop(node);
        copy(&provider, true)
    }

    const PMRCTL: u64 = 0xe04;

    fn put_back() -> Result<()> {
        const PMRSTS: u64 = 0xe08;
        const NOT_READY: u32 = 1 << 8;
        let drive = Taken::new("pmr")?;
        unbind(&drive.pci)?;
        ensure!(drive.register(PMRCTL)? & 1 == 0, "still enabled afterwards");
        ensure!(drive.register(PMRSTS)? & NOT_READY != 0, "still ready");
        Ok(())
    }

    fn on_again_after_reset() -> Result<()> {
        on_again_after("pmr", PMRCTL, reset)
    }

    fn on_again_after_sleep() -> Result<()> {
        on_again_after("pmr", PMRCTL, |_| sleep())
    }

    fn in_use_when_unbound() -> Result<()> {
        unbind_in_use("pmr")
    }
}

const DEVICES: &str = "/sys/bus/pci/devices";

/// Switches the power of the slot on or off that a device is in.
fn power_slot(port: &Path, on: bool) -> Result<()> {
    const CAPABILITIES: usize = 0x34;
    const PCI_EXPRESS: u8 = 0x10;
    const SLOT_CONTROL: usize = 0x18;
    /// Power Controller Control: off.
    const OFF: u8 = 1 << 2;
    let path = port.join("config");
    let config = fs::read(&path)?;
    let mut at = usize::from(config[CAPABILITIES]);
    while config[at] != PCI_EXPRESS {
        at = usize::from(config[at + 1]);
        ensure!(at != 0, "no PCI Express");
    }
    // That bit is in the upper half of the register.
    let at = at + SLOT_CONTROL + 1;
    let value = if on {
        config[at] & !OFF
    } else {
        config[at] | OFF
    };
    let file = OpenOptions::new().write(true).open(&path)?;
    Ok(std::os::unix::fs::FileExt::write_all_at(
        &file,
        &[value],
        at as u64,
    )?)
}

/// A drive reads into its own memory, and loses its power during that. It is back afterwards.
fn pulled_while_it_reads(serial: &str, provider: impl Fn() -> Result<Provider>) -> Result<()> {
    const LENGTH: usize = 2 * WINDOW;
    let memory = provider()?;
    let device = Path::new(DEVICES).join(&memory.pci);
    let port = fs::canonicalize(&device)?
        .parent()
        .context("no port")?
        .to_owned();
    let controller = controller(serial)?.context("the drive is missing")?;
    let name = controller.file_name().context("no name")?.to_string_lossy();
    fs::write(format!("/sys/block/{name}n1/queue/io_timeout"), "120000")?;
    let source = drive_named(serial)?;
    put_on_drive(&source, LENGTH, 1)?;

    slow_drive_named(serial, 1);
    let reader = Child::spawn_ready(|ready| {
        let map = Map::new(memory.open()?, LENGTH)?;
        map.set(0, 1);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| read_at(&source, &map, 0..LENGTH, 0));
            }
            std::thread::sleep(Duration::from_millis(700));
            ready();
        });
        map.set(0, 1);
        Ok(())
    })?;
    power_slot(&port, false)?;
    ensure!(
        fs::read(device.join("config"))?[..2] == [0xff, 0xff],
        "it still answers"
    );
    let remover = Child::spawn(|| Ok(fs::write(device.join("remove"), "1")?))?;
    wait_until(Duration::from_secs(20), "the drive is gone", || {
        Ok(!device.exists() && !memory.path.exists())
    })?;
    remover.expect_success()?;
    reader.expect_signal(libc::SIGBUS)?;

    slow_drive_named(serial, 0);
    power_slot(&port, true)?;
    fs::write("/sys/bus/pci/rescan", "1")?;
    drop(source);
    wait_until(Duration::from_secs(20), "the drive is back", || {
        Ok(self::controller(serial)?.is_some() && provider().is_ok())
    })?;
    restore()?;
    copy(&provider()?, false)
}

/// A drive that is bound to the module. The nvme driver gets it back.
struct Taken {
    serial: String,
    pci: String,
}

impl Taken {
    fn new(serial: &str) -> Result<Self> {
        let taken = Self {
            serial: serial.to_owned(),
            pci: address_named(serial)?,
        };
        fs::write("/sys/bus/pci/drivers/nvme/unbind", &taken.pci)?;
        let device = Path::new(DEVICES).join(&taken.pci);
        fs::write(device.join("driver_override"), "p2pmem_rs")?;
        // Fails when the driver refuses the device.
        let _ = fs::write("/sys/bus/pci/drivers_probe", &taken.pci);
        Ok(taken)
    }

    fn provider(&self) -> Result<Option<Provider>> {
        Provider::of(&self.pci)
    }

    /// Reads a register of the controller, which must have no driver. That memory was enabled
    /// before is shown by the data that went through it.
    fn register(&self, offset: u64) -> Result<u32> {
        let device = Path::new(DEVICES).join(&self.pci);
        // Without a driver the device does not answer by itself.
        let enable = device.join("enable");
        fs::write(&enable, "1")?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(device.join("resource0"))?;
        let map = Map::new(&file, PAGE)?;
        // SAFETY: Within the mapping, and aligned.
        let value = unsafe { map.at(offset as usize).cast::<u32>().read_volatile() };
        fs::write(&enable, "0")?;
        Ok(value)
    }

    fn give_back(&self) -> Result<()> {
        let device = Path::new(DEVICES).join(&self.pci);
        if device.join("driver").exists() {
            unbind(&self.pci)?;
        }
        fs::write(device.join("driver_override"), "\n")?;
        fs::write("/sys/bus/pci/drivers_probe", &self.pci)?;
        wait_until(
            Duration::from_secs(10),
            "the nvme driver has its drive back",
            || Ok(controller(&self.serial)?.is_some()),
        )?;
        // And it works.
        let map = Map::ordinary(PAGE)?;
        Ok(read_at(&drive_named(&self.serial)?, &map, 0..PAGE, 0)?)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.give_back()
            .expect("the drive goes back to the nvme driver");
    }
}

/// Copies between the two drives that have no memory. If the pool has no other user, it is full
/// afterwards.
fn copy(provider: &Provider, alone: bool) -> Result<()> {
    copy_between("disk0", "disk1", provider, 1 << 20)?;
    if alone {
        provider.expect_full()?;
    }
    Ok(())
}

/// Starts a process that reads into device memory, until that is gone.
fn reader(provider: &Provider) -> Result<Child> {
    reader_of("disk0", provider)
}

fn reader_of(source: &str, provider: &Provider) -> Result<Child> {
    let source = drive_named(source)?;
    let child = Child::spawn_ready(|ready| {
        let map = Map::new(provider.open()?, WINDOW)?;
        ready();
        loop {
            if read_at(&source, &map, 0..WINDOW, 0).is_err() {
                // So it is for the CPU.
                map.set(0, 1);
            }
        }
    })?;
    std::thread::sleep(Duration::from_millis(20));
    Ok(child)
}

/// Resets the function.
fn reset(pci: &str) -> Result<()> {
    Ok(fs::write(Path::new(DEVICES).join(pci).join("reset"), "1")?)
}

/// Memory is on again after something that loses registers. QEMU's controller keeps them: the test
/// module clears the one that switches the memory on.
fn on_again_after(serial: &str, register: u64, event: fn(&str) -> Result<()>) -> Result<()> {
    let drive = Taken::new(serial)?;
    let provider = drive.provider()?.context("there is no node")?;
    let map = Map::new(provider.open()?, WINDOW)?;
    for round in 1..4 {
        map.fill(0..PAGE, round);
        map.check(0..PAGE, round)?;
        let test = TestFile::open()?;
        let control = test.read(&drive.pci, 0, register as u32)?;
        ensure!(control & 1 == 1, "off");
        test.write(&drive.pci, 0, register as u32, 0)?;
        let mark = Mark::new()?;
        event(&drive.pci)?;
        let now = test.read(&drive.pci, 0, register as u32)?;
        ensure!(now == control, "{now:#x} instead of {control:#x}");
        mark.expect(&[&drive.pci, "what its memory held may be lost"])?;
        map.fill(0..PAGE, round + 10);
        map.check(0..PAGE, round + 10)?;
        copy(&provider, false)?;
    }
    Ok(())
}

fn copy_through_memory_of(serial: &str, size: usize) -> Result<()> {
    let drive = Taken::new(serial)?;
    let provider = drive.provider()?.context("there is no node")?;
    ensure!(provider.size == size, "{} bytes", provider.size);
    let node = Node::open(&provider.path)?;
    ensure!(node.info()?.regions == 1 && node.region(0)?.size == size as u64);
    copy(&provider, true)
}

fn unbind_in_use(serial: &str) -> Result<()> {
    for _ in 0..5 {
        let taken = Taken::new(serial)?;
        let child = reader(&taken.provider()?.context("there is no node")?)?;
        unbind(&taken.pci)?;
        child.expect_signal(libc::SIGBUS)?;
    }
    Ok(())
}
