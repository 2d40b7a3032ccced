// SPDX-License-Identifier: GPL-2.0

//! Plans on machines that are made of files.

use std::{fs, os::unix::fs::symlink};

use anyhow::{bail, Result};
use p2pmem::{
    sysfs::{Entry, Slots},
    PciAddress, ProviderId, Root,
};
use tempfile::TempDir;

use super::{
    device::{device_folder, driver_folder},
    *,
};

const PCI: &str = "0000:05:00.0";

fn pci() -> PciAddress {
    PCI.parse().unwrap()
}

/// A machine with one drive, in a directory that goes away with the test.
struct Machine {
    top: TempDir,
    root: Root,
}

impl Machine {
    fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        let root = Root::new(top.path());
        let machine = Self { top, root };
        for file in [
            "sys/module/p2pmem_rs/regions",
            "sys/bus/pci/drivers/p2pmem_rs/bind",
            "sys/bus/pci/drivers/p2pmem_rs/unbind",
            "sys/bus/pci/drivers/nvme/bind",
            "sys/bus/pci/drivers/nvme/unbind",
            "sys/bus/pci/drivers_probe",
            "proc/self/mountinfo",
            "proc/swaps",
        ] {
            machine.write(file, "");
        }
        let device = format!("sys/bus/pci/devices/{PCI}");
        machine.write(&format!("{device}/driver_override"), "(null)\n");
        machine.write(&format!("{device}/class"), "0x010802\n");
        machine.write(&format!("{device}/config"), "");
        let absent = "0x0 0x0 0x0\n";
        let bars = "0xfe800000 0xfe803fff 0x140204\n0x0 0x0 0x0\n\
                    0x800000000 0x807ffffff 0x14220c\n";
        machine.write(
            &format!("{device}/resource"),
            &(bars.to_owned() + &absent.repeat(4)),
        );
        machine.write(&format!("{device}/block/nvme0n1/dev"), "259:0\n");
        machine.write(&format!("{device}/block/nvme0n1/nvme0n1p1/dev"), "259:1\n");
        machine.write(&format!("{device}/block/nvme0n1/nvme0n1p1/partition"), "1");
        fs::create_dir_all(machine.root.sys("class/misc")).unwrap();
        fs::create_dir_all(machine.root.sys("block")).unwrap();
        symlink(
            machine.top.path().join(&device).join("block/nvme0n1"),
            machine.root.sys("block/nvme0n1"),
        )
        .unwrap();
        machine.set_driver("nvme");
        machine
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.top.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.top.path().join(file)).unwrap()
    }

    fn set_driver(&self, name: &str) {
        let link = device_folder(&self.root, pci()).join("driver");
        let _ = fs::remove_file(&link);
        symlink(driver_folder(&self.root, name), link).unwrap();
    }

    fn entry(&self, node: &str) -> Entry {
        Entry {
            id: ProviderId {
                number: 0,
                pci: pci(),
            },
            node: self.top.path().join(node),
            device: device_folder(&self.root, pci()),
            vendor: "1b36".to_owned(),
            product: "0010".to_owned(),
        }
    }

    fn device(&self) -> Device {
        Device::find(&self.root, "05:00.0").unwrap()
    }

    /// The commands of a plan, without where the tree is.
    fn commands(&self, plan: &ChangePlan) -> Vec<String> {
        let top = format!("{}/", self.top.path().display());
        let steps = plan.steps().iter();
        steps
            .map(|step| step.to_string().replace(&top, ""))
            .collect()
    }
}

#[test]
fn binding_takes_the_device_from_its_driver() {
    let machine = Machine::new();
    let plan = bind(
        &machine.root,
        &machine.device(),
        Some("bar2@16M+64M"),
        false,
    )
    .unwrap();
    assert_eq!(
        machine.commands(&plan),
        [
            "echo 0000:05:00.0 > sys/bus/pci/drivers/nvme/unbind",
            "echo p2pmem_rs > sys/bus/pci/devices/0000:05:00.0/driver_override",
            "echo '0000:05:00.0 bar2@16M+64M' > sys/module/p2pmem_rs/regions",
            "echo 0000:05:00.0 > sys/bus/pci/drivers_probe",
        ]
    );
}

#[test]
fn what_failed_is_undone() {
    let machine = Machine::new();
    machine.write("sys/module/p2pmem_rs/regions", "0000:05:00.0 cmb\n");
    let plan = bind(&machine.root, &machine.device(), Some("pmr"), false).unwrap();
    // The last step does not work.
    fs::remove_file(machine.root.sys("bus/pci/drivers_probe")).unwrap();
    let error = plan.run(&machine.root, || Ok(())).unwrap_err();

    let text = format!("{error:#}");
    assert!(
        text.starts_with("0000:05:00.0 was unbound from nvme, and bound to it again: cannot write"),
        "{text}"
    );
    assert!(text.contains("drivers_probe"), "{text}");
    // Each was written over what was there before.
    let regions = machine.read("sys/module/p2pmem_rs/regions");
    assert_eq!(regions, "0000:05:00.0 cmb\n");
    assert_eq!(
        machine.read("sys/bus/pci/drivers/nvme/bind"),
        "0000:05:00.0\n"
    );
    let file = format!("sys/bus/pci/devices/{PCI}/driver_override");
    assert!(machine.read(&file).starts_with('\n'));
}

#[test]
fn a_device_in_use_is_refused() {
    let machine = Machine::new();
    let refusal = || {
        let device = machine.device();
        bind(&machine.root, &device, None, true).unwrap();
        format!(
            "{:#}",
            bind(&machine.root, &device, None, false).unwrap_err()
        )
    };
    for (file, text, expected) in [
        (
            "proc/self/mountinfo",
            "29 1 259:1 / /boot rw - ext4 /dev/root rw\n",
            "/dev/nvme0n1p1 is mounted at /boot",
        ),
        (
            "proc/self/mountinfo",
            "29 1 0:33 / /data rw shared:1 - btrfs /dev/nvme0n1 rw\n",
            "/dev/nvme0n1 is mounted at /data",
        ),
        (
            "proc/swaps",
            "Filename Type Size\n/dev/nvme0n1p1 partition 1024\n",
            "/dev/nvme0n1p1 is swap space",
        ),
        (
            "sys/block/nvme0n1/nvme0n1p1/holders/dm-0",
            "",
            "/dev/nvme0n1p1 is part of dm-0",
        ),
    ] {
        machine.write(file, text);
        assert!(refusal().contains(expected), "{}", refusal());
        machine.write(file, "");
    }
}

#[test]
fn unbinding_gives_the_device_back() {
    let machine = Machine::new();
    machine.set_driver("p2pmem_rs");
    let file = format!("sys/bus/pci/devices/{PCI}/driver_override");
    machine.write(&file, "p2pmem_rs\n");
    machine.write("sys/module/p2pmem_rs/regions", "0000:05:00.0 cmb\n");
    let dry_run = Unbind {
        dry_run: true,
        ..Unbind::default()
    };
    let forget = Unbind {
        forget: true,
        ..dry_run
    };
    let plan = unbind(&machine.root, &machine.device(), forget).unwrap();
    assert_eq!(
        machine.commands(&plan),
        [
            "echo 0000:05:00.0 > sys/bus/pci/drivers/p2pmem_rs/unbind",
            "echo > sys/bus/pci/devices/0000:05:00.0/driver_override",
            "echo 0000:05:00.0 > sys/bus/pci/drivers_probe",
            "echo '0000:05:00.0 default' > sys/module/p2pmem_rs/regions",
        ]
    );
    assert!(plan.notes()[0].contains("knows the ID"));
    // The chosen regions are kept.
    let plan = unbind(&machine.root, &machine.device(), dry_run).unwrap();
    assert_eq!(plan.steps().len(), 3);
    // One that is bound by its ID.
    machine.write(&file, "(null)\n");
    let plan = unbind(&machine.root, &machine.device(), Unbind::default()).unwrap();
    assert_eq!(
        machine.commands(&plan),
        [
            "echo none > sys/bus/pci/devices/0000:05:00.0/driver_override",
            "echo 0000:05:00.0 > sys/bus/pci/drivers/p2pmem_rs/unbind",
        ]
    );
    // That reserves the device for no driver.
    fs::remove_file(device_folder(&machine.root, pci()).join("driver")).unwrap();
    machine.write(&file, "none\n");
    let plan = bind(&machine.root, &machine.device(), None, false).unwrap();
    assert_eq!(
        machine.commands(&plan),
        [
            "echo p2pmem_rs > sys/bus/pci/devices/0000:05:00.0/driver_override",
            "echo 0000:05:00.0 > sys/bus/pci/drivers_probe",
        ]
    );
    // One that is not bound.
    machine.set_driver("nvme");
    let error = unbind(&machine.root, &machine.device(), Unbind::default()).unwrap_err();
    assert!(error.to_string().contains("is not bound"), "{error}");
}

#[test]
fn memory_in_use_is_left_alone() {
    let machine = Machine::new();
    machine.set_driver("p2pmem_rs");
    let mut device = machine.device();
    let node = "sys/class/misc/p2pmem0";
    for (name, text) in [
        ("size", "134217728"),
        ("allocated", "2097152"),
        ("largest", "132120576"),
        ("regions", "bar2@0x0+0x8000000:bar"),
        ("adopted", "0"),
        ("clear", "1"),
        ("limit_per_file", "0"),
        ("limit_per_user", "0"),
    ] {
        machine.write(&format!("{node}/{name}"), text);
    }
    device.node = Some(machine.entry(node));
    let allocated = device.node.as_ref().unwrap().details().unwrap().allocated;
    assert_eq!(allocated, 2 << 20);
    let error = unbind(&machine.root, &device, Unbind::default()).unwrap_err();
    assert!(
        error.to_string().contains("2 MiB of its memory are"),
        "{error}"
    );
    assert!(error.to_string().contains("--force"), "{error}");
    let error = bind(&machine.root, &device, Some("bar2"), false).unwrap_err();
    assert!(error.to_string().contains("--force"), "{error}");
    let force = Unbind {
        force: true,
        ..Unbind::default()
    };
    unbind(&machine.root, &device, force).unwrap();
}

#[test]
fn what_can_be_known_is_checked_before() {
    let machine = Machine::new();
    let folder = format!("sys/bus/pci/devices/{PCI}");
    let refusal = |regions: Option<&str>, force| {
        let error = bind(&machine.root, &machine.device(), regions, force).unwrap_err();
        error.to_string()
    };
    // Not even by force.
    assert!(refusal(Some("bar9"), true).contains("bar9 has no valid number"));
    assert!(refusal(Some("bar2+200M"), true).contains("ends beyond BAR 2"));
    // Chosen before.
    machine.write("sys/module/p2pmem_rs/regions", "0000:05:00.0 bar4\n");
    assert!(refusal(None, true).contains("no BAR 4"));
    for class in ["0x060400", "0x060000"] {
        machine.write(&format!("{folder}/class"), class);
        assert!(refusal(Some("bar2"), true).contains("is a bridge"));
    }
    // A bridge to another host may have memory.
    machine.write(&format!("{folder}/class"), "0x068000");
    bind(&machine.root, &machine.device(), Some("bar2"), false).unwrap();
    // Functions and networks of it.
    machine.write(&format!("{folder}/sriov_numvfs"), "2\n");
    assert!(refusal(Some("bar2"), false).contains("2 virtual functions"));
    machine.write(&format!("{folder}/sriov_numvfs"), "0\n");
    machine.write(&format!("{folder}/net/eth7/flags"), "0x1003\n");
    assert!(refusal(Some("bar2"), false).contains("the network eth7 is up"));
    machine.write(&format!("{folder}/net/eth7/flags"), "0x1002\n");
    bind(&machine.root, &machine.device(), Some("bar2"), false).unwrap();
}

#[test]
fn open_nodes_are_found() {
    let machine = Machine::new();
    let folder = format!("sys/bus/pci/devices/{PCI}");
    let descriptors = machine.root.proc("4242/fd");
    fs::create_dir_all(&descriptors).unwrap();
    machine.write("proc/4242/comm", "some program\n");
    symlink("/dev/null", descriptors.join("3")).unwrap();
    symlink("socket:[1]", descriptors.join("4")).unwrap();
    bind(&machine.root, &machine.device(), None, false).unwrap();

    machine.write(&format!("{folder}/ng/ng0n1/dev"), "1:3\n");
    let error = bind(&machine.root, &machine.device(), None, false).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("/dev/ng0n1 is open in some program (pid 4242)"),
        "{text}"
    );
    // It is a file of characters, not of blocks.
    let subsystem = device_folder(&machine.root, pci()).join("ng/ng0n1/subsystem");
    symlink("../../class/block", &subsystem).unwrap();
    bind(&machine.root, &machine.device(), None, false).unwrap();
    fs::remove_file(subsystem).unwrap();
    // The node is named by uevent.
    machine.write(
        &format!("{folder}/ng/ng0n1/uevent"),
        "MAJOR=1\nDEVNAME=a/b\n",
    );
    let error = bind(&machine.root, &machine.device(), None, false).unwrap_err();
    assert!(error.to_string().contains("/dev/a/b is open in"), "{error}");
}

#[test]
fn what_became_of_the_device_is_told() {
    let machine = Machine::new();
    let plan = bind(&machine.root, &machine.device(), Some("bar2"), false).unwrap();
    let failed = || plan.run(&machine.root, || -> Result<()> { bail!("no") });
    // Links do not change by what is written here.
    let text = format!("{:#}", failed().unwrap_err());
    assert!(
        text.starts_with("0000:05:00.0 was unbound from nvme, and bound to it again"),
        "{text}"
    );
    fs::remove_file(device_folder(&machine.root, pci()).join("driver")).unwrap();
    let text = format!("{:#}", failed().unwrap_err());
    assert!(
        text.contains("could not be bound to it again, it has no driver now: no"),
        "{text}"
    );
    machine.set_driver("vfio-pci");
    let text = format!("{:#}", failed().unwrap_err());
    assert!(
        text.contains("could not be bound to it again, it is bound to vfio-pci"),
        "{text}"
    );
    // The first step fails.
    fs::remove_file(driver_folder(&machine.root, "nvme").join("unbind")).unwrap();
    let text = format!("{:#}", failed().unwrap_err());
    assert!(
        text.starts_with("nothing has changed: cannot write"),
        "{text}"
    );
}

#[test]
fn settings_are_those_of_the_node() {
    let machine = Machine::new();
    let mut device = machine.device();
    let settings = Settings {
        regions: Some("default".to_owned()),
        clear: Some(false),
        limit_per_file: Some(1 << 20),
        limit_per_user: None,
        slots: Some(Slots::Everybody),
    };
    let error = configure(&machine.root, &device, &settings).unwrap_err();
    assert!(error.to_string().contains("has no node"), "{error}");

    let node = "sys/class/misc/p2pmem0";
    machine.write(&format!("{node}/clear"), "1\n");
    machine.write(&format!("{node}/limit_per_file"), "0\n");
    machine.write(&format!("{node}/slots"), "privileged\n");
    device.node = Some(machine.entry(node));
    let plan = configure(&machine.root, &device, &settings).unwrap();
    assert_eq!(
        machine.commands(&plan),
        [
            "echo 0 > sys/class/misc/p2pmem0/clear",
            "echo 1048576 > sys/class/misc/p2pmem0/limit_per_file",
            "echo everybody > sys/class/misc/p2pmem0/slots",
            "echo '0000:05:00.0 default' > sys/module/p2pmem_rs/regions",
        ]
    );
    plan.run(&machine.root, || Ok(())).unwrap();
    assert_eq!(machine.read(&format!("{node}/clear")), "0\n");

    // Undone if a later step fails.
    fs::remove_file(choices::path(&machine.root)).unwrap();
    machine.write(&format!("{node}/slots"), "privileged\n");
    plan.run(&machine.root, || Ok(())).unwrap_err();
    assert_eq!(machine.read(&format!("{node}/slots")), "privileged\n");

    // An older driver.
    fs::remove_file(machine.top.path().join(node).join("slots")).unwrap();
    let error = configure(&machine.root, &device, &settings).unwrap_err();
    assert!(error.to_string().contains("setting slots"), "{error}");
}

#[test]
fn a_driver_that_is_not_loaded_is_named() {
    let machine = Machine::new();
    fs::remove_file(choices::path(&machine.root)).unwrap();
    let error = bind(&machine.root, &machine.device(), None, false).unwrap_err();
    assert!(error.to_string().contains("modprobe p2pmem_rs"), "{error}");
    for (text, word) in [
        ("3", "p2pmem list"),
        ("06:00.0", "lspci"),
        ("x", "not a device"),
    ] {
        let error = Device::find(&machine.root, text).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}
