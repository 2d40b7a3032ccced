// SPDX-License-Identifier: GPL-2.0

//! Reads the fabric of a machine from sysfs and procfs. Needs no rights.

mod block_devices;
mod functions;
mod mounts;

use std::{collections::BTreeMap, fs, path::PathBuf};

use rustix::fs::{access, Access};

use super::{
    installation::Installation,
    record::{Cpu, Fabric, Kernel, ProviderRecord, VERSION},
    routes::{self, FunctionDetails},
};
use crate::{
    error::Error,
    root::{number, text, Root},
    sysfs,
};

/// Options of the kernel that are recorded.
pub const OPTIONS: &[&str] = &["CONFIG_PCI_P2PDMA", "CONFIG_RUST", "CONFIG_ZONE_DEVICE"];

impl Fabric {
    /// Reads the fabric of a machine.
    ///
    /// # Errors
    ///
    /// If there is no sysfs with PCI devices or no procfs. What a kernel does not tell is left out.
    pub fn read(root: &Root) -> Result<Self, Error> {
        let mut fabric = Self {
            version: VERSION,
            kernel: kernel(root)?,
            cpu: cpu(root),
            functions: functions::functions(root)?,
            mounts: mounts::mounts(root)?,
            providers: providers(root)?,
            ..Self::default()
        };
        fabric.block_devices = block_devices::block_devices(root, &fabric.functions);
        // All providers tell the same of ports and devices.
        let mut told = fabric
            .providers
            .iter()
            .filter_map(|one| text(class(root, one.id.number).join("routes")).ok());
        for details in told
            .next()
            .iter()
            .flat_map(|text| FunctionDetails::parse(text))
        {
            details.apply(&mut fabric.functions);
        }
        for index in 0..fabric.mounts.len() {
            fabric.mounts[index].devices =
                mounts::several_devices(root, &fabric, &fabric.mounts[index]);
            // As it was written at the mount.
            let realtime = fabric.mounts[index].realtime.take();
            let realtime = realtime.and_then(|path| fabric.device_of_source(&path));
            fabric.mounts[index].realtime = realtime.map(|device| device.name.clone());
        }
        Ok(fabric)
    }

    /// Reads the fabric, and the installation of the module, which takes longer. No verdict needs
    /// the installation.
    ///
    /// # Errors
    ///
    /// As [`Fabric::read`].
    pub fn read_with_installation(root: &Root) -> Result<Self, Error> {
        let mut fabric = Self::read(root)?;
        let Kernel {
            release,
            command_line,
            ..
        } = &fabric.kernel;
        fabric.kernel.installation = Some(Installation::read(root, release, command_line));
        Ok(fabric)
    }
}

/// Returns the directory of a node.
fn class(root: &Root, number: u32) -> PathBuf {
    root.sys(format!("class/misc/p2pmem{number}"))
}

fn kernel(root: &Root) -> Result<Kernel, Error> {
    let path = root.proc("sys/kernel/osrelease");
    let release = text(&path).map_err(|source| Error::NotMounted {
        path,
        mount: "/proc",
        source,
    })?;
    let config = fs::read_to_string(root.path(format!("boot/config-{release}")))
        .ok()
        .map(|config| {
            let value = |option: &str| {
                config
                    .lines()
                    .find_map(|line| line.strip_prefix(option)?.strip_prefix('='))
                    .unwrap_or("n")
                    .to_owned()
            };
            OPTIONS
                .iter()
                .map(|option| ((*option).to_owned(), value(option)))
                .collect::<BTreeMap<_, _>>()
        });

    Ok(Kernel {
        installation: None,
        release,
        command_line: text(root.proc("cmdline")).unwrap_or_default(),
        config,
        module_loaded: root.sys("module/p2pmem_rs").exists(),
        build: text(root.proc("sys/kernel/version")).unwrap_or_default(),
        module_version: text(root.sys("module/p2pmem_rs/version")).ok(),
    })
}

fn cpu(root: &Root) -> Cpu {
    let info = text(root.proc("cpuinfo")).unwrap_or_default();
    let value = |wanted: &str| {
        info.lines()
            .filter_map(|line| line.split_once(':'))
            .find_map(|(key, value)| (key.trim() == wanted).then(|| value.trim().to_owned()))
            .unwrap_or_default()
    };
    Cpu {
        vendor: value("vendor_id"),
        family: value("cpu family").parse().unwrap_or(0),
    }
}

fn providers(root: &Root) -> Result<Vec<ProviderRecord>, Error> {
    let entries = sysfs::providers(root).map_err(Error::Providers)?;
    Ok(entries
        .into_iter()
        .map(|entry| {
            let class = class(root, entry.id.number);
            let node = root.dev(entry.id.name());
            ProviderRecord {
                id: entry.id,
                size: number(class.join("size")).unwrap_or(0),
                regions: text(class.join("regions"))
                    .unwrap_or_default()
                    .split_whitespace()
                    .map(str::to_owned)
                    .collect(),
                usable: access(&node, Access::READ_OK | Access::WRITE_OK).is_ok(),
                large_page: number(class.join("large_page")).ok(),
                routes: text(class.join("routes"))
                    .ok()
                    .map(|text| routes::parse(&text)),
            }
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fabric::{BlockKind, Port, RouteKind, Translation},
        pci::PciAddress,
    };
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    fn pci(text: &str) -> PciAddress {
        text.parse().unwrap()
    }

    /// The root directory of a machine, which goes away with the test.
    struct Machine(TempDir);

    impl Machine {
        /// Makes one without functions.
        fn new() -> Self {
            let machine = Self(tempfile::tempdir().unwrap());
            for folder in [
                "sys/bus/pci/devices",
                "sys/class/misc",
                "sys/class/block",
                "dev",
            ] {
                fs::create_dir_all(machine.0.path().join(folder)).unwrap();
            }
            machine.file("proc/sys/kernel/osrelease", "7.3.4-test\n");
            machine.file("proc/self/mountinfo", "");
            machine
        }

        fn file(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn link(&self, path: &str, target: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(self.0.path().join(target), path).unwrap();
        }

        /// Adds a function. Its last name in the path is the address.
        fn function(&self, path: &str, class: &str, driver: &str) -> String {
            let address = path.rsplit('/').next().unwrap();
            let path = format!("sys/devices/pci0000:00/{path}");
            for (file, text) in [
                ("class", format!("0x{class}\n")),
                ("vendor", "0x1b36\n".to_owned()),
                ("device", "0x0010\n".to_owned()),
                ("numa_node", "-1\n".to_owned()),
                ("max_link_width", "4\n".to_owned()),
                ("max_link_speed", "16.0 GT/s PCIe\n".to_owned()),
                ("current_link_width", "2\n".to_owned()),
                ("current_link_speed", "8.0 GT/s PCIe\n".to_owned()),
            ] {
                self.file(&format!("{path}/{file}"), &text);
            }
            self.link(
                &format!("{path}/driver"),
                &format!("sys/bus/pci/drivers/{driver}"),
            );
            self.link(&format!("sys/bus/pci/devices/{address}"), &path);
            path
        }
    }

    /// A switch with a drive and a provider below it.
    fn with_switch() -> Machine {
        let machine = Machine::new();
        let up = "0000:00:01.0/0000:01:00.0";
        machine.function("0000:00:01.0", "060400", "pcieport");
        machine.function(up, "060400", "pcieport");
        machine.function(&format!("{up}/0000:02:00.0"), "060400", "pcieport");
        machine.function(&format!("{up}/0000:02:01.0"), "060400", "pcieport");
        let drive = machine.function(&format!("{up}/0000:02:00.0/0000:03:00.0"), "010802", "nvme");
        let memory = machine.function(
            &format!("{up}/0000:02:01.0/0000:04:00.0"),
            "050000",
            "p2pmem_rs",
        );

        machine.file(
            &format!("{memory}/resource"),
            "0x00000000febd1000 0x00000000febd10ff 0x0000000000040200\n\
             0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
             0x0000000800000000 0x0000000807ffffff 0x000000000014220c\n\
             0x000000000000c000 0x000000000000c0ff 0x0000000000040101\n",
        );
        machine.link(&format!("{drive}/iommu_group"), "sys/kernel/iommu_groups/7");
        machine.file("sys/kernel/iommu_groups/7/type", "DMA-FQ\n");

        let block = format!("{drive}/nvme/nvme0/nvme0n1");
        machine.file(&format!("{block}/dev"), "259:0\n");
        machine.file(&format!("{block}/nvme0n1p1/dev"), "259:1\n");
        machine.file(&format!("{block}/nvme0n1p1/partition"), "1\n");
        machine.file(&format!("{drive}/nvme/nvme0/cmb"), "cmbloc ...\n");
        machine.link("sys/class/block/nvme0n1", &block);
        machine.link("sys/class/block/nvme0n1p1", &format!("{block}/nvme0n1p1"));
        let dm = "sys/devices/virtual/block/dm-0";
        machine.file(&format!("{dm}/dev"), "254:0\n");
        machine.file(&format!("{dm}/dm/name"), "vault\n");
        machine.file(&format!("{dm}/dm/uuid"), "CRYPT-LUKS2-1-vault\n");
        machine.link(
            &format!("{dm}/slaves/nvme0n1p1"),
            &format!("{block}/nvme0n1p1"),
        );
        machine.link("sys/class/block/dm-0", dm);
        machine.file("sys/devices/virtual/block/loop0/dev", "7:0\n");
        machine.link("sys/class/block/loop0", "sys/devices/virtual/block/loop0");

        let node = "sys/class/misc/p2pmem0";
        machine.link(&format!("{node}/device"), &memory);
        machine.file(&format!("{node}/size"), "134217728\n");
        machine.file(&format!("{node}/regions"), "bar2@0x0+0x8000000:bar\n");
        machine.file(&format!("{node}/large_page"), "2097152\n");
        machine.file(
            &format!("{node}/routes"),
            "0000:04:00.0 self distance=0\n0000:03:00.0 switch distance=4 through=0000:01:00.0\n",
        );
        machine.file("dev/p2pmem0", "");
        machine
    }

    #[test]
    fn a_machine_is_read() {
        let machine = with_switch();
        machine.file(
            "boot/config-7.3.4-test",
            "CONFIG_RUST=y\n# CONFIG_PCI_P2PDMA is not set\n",
        );
        machine.file("proc/cmdline", "quiet iommu=pt\n");
        machine.file(
            "proc/cpuinfo",
            "vendor_id\t: AuthenticAMD\ncpu family\t: 25\n\nvendor_id: x\n",
        );
        machine.file("sys/module/p2pmem_rs/refcnt", "0\n");
        machine.file(
            "proc/self/mountinfo",
            "21 1 254:0 / /mnt/a\\040b rw shared:1 master:2 - ext4 /dev/mapper/vault rw\n\
             22 1 259:1 / /mnt/rt rw - xfs /dev/nvme0n1p1 rw,attr2,rtdev=/dev/mapper/vault,noquota\n\
             23 1 259:0 / /mnt/f rw - f2fs /dev/nvme0n1 rw\n\
             24 1 0:40 / /mnt/o rw - overlay none rw,lowerdir=/mnt/a\\040b/1:/mnt/rt,upperdir=/mnt/f/2\n",
        );
        machine.file(
            "proc/fs/f2fs/nvme0n1/disk_map",
            "Address Layout   :  4096B Block address (# of Segments)\n\n\
             Disk: 0 (zoned=0): 0x0000000000 - 0x00000001ff on /dev/nvme0n1\n\
             Disk: 1 (zoned=0): 0x0000000200 - 0x00000003ff on /dev/nvme0n1p1\n",
        );
        machine.file(
            "sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:00.0/0000:03:00.0/nvme/nvme0/\
             nvme0n1/queue/stable_writes",
            "1\n",
        );
        let fabric = Fabric::read(&Root::new(machine.0.path())).unwrap();

        assert_eq!(fabric.kernel.command_line, "quiet iommu=pt");
        let config = fabric.kernel.config.as_ref().unwrap();
        assert_eq!(
            (&*config["CONFIG_RUST"], &*config["CONFIG_PCI_P2PDMA"]),
            ("y", "n")
        );
        assert!(fabric.kernel.module_loaded && fabric.cpu.is_zen());

        let ports: Vec<_> = fabric.functions.iter().filter_map(|one| one.port).collect();
        assert_eq!(
            ports,
            [
                Port::Root,
                Port::Upstream,
                Port::Downstream,
                Port::Downstream
            ]
        );
        let drive = fabric.function(pci("0000:03:00.0")).unwrap();
        assert_eq!(drive.parent, Some(pci("0000:02:00.0")));
        assert_eq!(
            (drive.driver.as_deref(), drive.numa_node),
            (Some("nvme"), None)
        );
        assert!(drive.cmb);
        let link = drive.link.as_ref().unwrap();
        assert_eq!(
            (link.width, &*link.speed, &*link.max_speed),
            (2, "8.0 GT/s", "16.0 GT/s")
        );
        assert_eq!(drive.iommu.as_ref().unwrap().group, 7);
        assert_eq!(fabric.translation(), Translation::On);
        let bars = &fabric.function(pci("0000:04:00.0")).unwrap().bars;
        assert_eq!(
            (bars.len(), bars[1].number, bars[1].size),
            (2, 2, 128 << 20)
        );
        assert!(bars[1].prefetchable && !bars[0].prefetchable);

        let names: Vec<_> = fabric.block_devices.iter().map(|one| &*one.name).collect();
        assert_eq!(names, ["dm-0", "nvme0n1", "nvme0n1p1"]);
        assert_eq!(fabric.block_devices[0].below, ["nvme0n1p1"]);
        assert_eq!(fabric.block_devices[1].functions, [pci("0000:03:00.0")]);
        assert_eq!(
            fabric.block_devices[1].kind,
            BlockKind::Disk {
                driver: "nvme".to_owned()
            }
        );
        assert_eq!(fabric.block_devices[2].below, ["nvme0n1"]);

        let provider = &fabric.providers[0];
        assert_eq!((provider.size, provider.usable), (128 << 20, true));
        assert_eq!(provider.large_page, Some(2 << 20));
        assert_eq!(provider.routes.as_ref().unwrap()[1].kind, RouteKind::Switch);
        assert_eq!(fabric.mounts[0].point, "/mnt/a b");
        assert_eq!(fabric.mounts[0].source, "/dev/mapper/vault");
        assert_eq!(fabric.mounts[0].realtime, None);
        assert_eq!(fabric.mounts[1].realtime.as_deref(), Some("dm-0"));
        assert_eq!(fabric.mounts[2].devices, ["nvme0n1", "nvme0n1p1"]);
        assert_eq!(
            fabric.mounts[3].layers,
            ["/mnt/a b/1", "/mnt/rt", "/mnt/f/2"]
        );
        let stable: Vec<_> = fabric
            .block_devices
            .iter()
            .map(|one| one.stable_writes)
            .collect();
        assert_eq!(stable, [false, true, true]);

        let again = Fabric::from_json(&fabric.to_json()).unwrap();
        assert_eq!(again, fabric);
    }

    #[test]
    fn a_drive_with_several_paths_has_all_their_functions() {
        let machine = Machine::new();
        let drive = machine.function("0000:00:02.0/0000:01:00.0", "010802", "nvme");
        let other = machine.function("0000:00:03.0/0000:02:00.0", "010802", "nvme");
        machine.function("0000:00:02.0", "060400", "pcieport");
        machine.function("0000:00:03.0", "060400", "pcieport");
        let subsystem = "sys/devices/virtual/nvme-subsystem/nvme-subsys0";
        for (path, name) in [(drive, "nvme0"), (other, "nvme1")] {
            machine.file(&format!("{path}/nvme/{name}/model"), "x\n");
            machine.link(
                &format!("{subsystem}/{name}"),
                &format!("{path}/nvme/{name}"),
            );
        }
        machine.file(&format!("{subsystem}/nvme0n1/dev"), "259:0\n");
        machine.link(&format!("{subsystem}/nvme0n1/device"), subsystem);
        machine.link("sys/class/block/nvme0n1", &format!("{subsystem}/nvme0n1"));

        let fabric = Fabric::read(&Root::new(machine.0.path())).unwrap();
        assert_eq!(
            fabric.block_devices[0].functions,
            [pci("0000:01:00.0"), pci("0000:02:00.0")]
        );
    }

    #[test]
    fn what_is_missing_is_an_error_or_left_out() {
        let machine = with_switch();
        let fabric = Fabric::read(&Root::new(machine.0.path())).unwrap();
        assert_eq!(fabric.kernel.config, None);
        assert_eq!(fabric.cpu, Cpu::default());

        let error = Fabric::read(&Root::new("/nonexistent")).unwrap_err();
        assert!(
            format!("{error:#}").contains("is /proc mounted?"),
            "{error:#}"
        );
    }

    #[test]
    fn registers_tell_what_has_no_address() {
        let machine = with_switch();
        let memory = "sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:01.0/0000:04:00.0";
        // Memory Space Enable is clear. BAR 0 has no address, BAR 2 has one, BAR 4 has I/O ports.
        let mut registers = vec![0; 64];
        registers[0x04] = 0x04;
        registers[0x10] = 0x0c;
        registers[0x18..0x20].copy_from_slice(&0x8_0000_000c_u64.to_le_bytes());
        registers[0x20] = 0x01;
        fs::write(machine.0.path().join(memory).join("config"), registers).unwrap();
        machine.file(
            &format!("{memory}/resource"),
            "0x0000000000000000 0x0000000003ffffff 0x000000002014220c\n\
             0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
             0x0000000800000000 0x0000000807ffffff 0x000000000014220c\n",
        );
        let fabric = Fabric::read(&Root::new(machine.0.path())).unwrap();
        let memory = fabric.function(pci("0000:04:00.0")).unwrap();
        assert_eq!(memory.unassigned, [0]);
        assert_eq!((memory.bars.len(), memory.bars[0].number), (1, 2));
        assert!(!memory.decodes_memory() && memory.masters_bus());
        // Unknown counts as on.
        let drive = fabric.function(pci("0000:03:00.0")).unwrap();
        assert!(drive.decodes_memory() && drive.command.is_none());
    }

    #[test]
    fn what_is_below_a_bridge_to_conventional_pci_has_no_link() {
        let machine = Machine::new();
        machine.function("0000:00:01.0", "060400", "pcieport");
        let bridge = "0000:00:01.0/0000:01:00.0";
        machine.function(bridge, "060400", "none");
        let path = machine.function(&format!("{bridge}/0000:02:00.0"), "ff0000", "none");
        fs::remove_file(machine.0.path().join(path).join("max_link_width")).unwrap();
        let fabric = Fabric::read(&Root::new(machine.0.path())).unwrap();
        let port = |address| fabric.function(pci(address)).unwrap().port;
        assert_eq!(port("0000:00:01.0"), Some(Port::Root));
        assert_eq!(port("0000:01:00.0"), Some(Port::Bridge));
    }
}
