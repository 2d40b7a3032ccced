// SPDX-License-Identifier: GPL-2.0

//! Reads the fabric of a machine from sysfs and procfs. Needs no rights.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rustix::fs::{access, Access};

use super::{
    routes::{self, Details},
    Bar, BlockDevice, BlockKind, Cpu, Fabric, Function, Iommu, Kernel, Link, Mount, Port, Provider,
    VERSION,
};
use crate::sysfs;

/// Options of the kernel that are recorded.
pub const OPTIONS: &[&str] = &["CONFIG_PCI_P2PDMA", "CONFIG_RUST", "CONFIG_ZONE_DEVICE"];

impl Fabric {
    /// Reads the fabric of the machine whose root directory is `root`: `/` for this one.
    ///
    /// # Errors
    ///
    /// If there is no sysfs with PCI devices or no procfs. What a kernel does not tell is left out.
    pub fn read(root: &Path) -> Result<Self> {
        let mut fabric = Self {
            version: VERSION,
            kernel: kernel(root)?,
            cpu: cpu(root),
            functions: functions(root)?,
            mounts: mounts(root)?,
            providers: providers(root)?,
            ..Self::default()
        };
        fabric.block_devices = block_devices(root, &fabric.functions);
        // All providers tell the same of ports and devices.
        let mut told = fabric
            .providers
            .iter()
            .filter_map(|one| text(class(root, one.number).join("routes")));
        for details in told.next().iter().flat_map(|text| Details::parse(text)) {
            details.apply(&mut fabric.functions);
        }
        for index in 0..fabric.mounts.len() {
            fabric.mounts[index].devices = several_devices(root, &fabric, &fabric.mounts[index]);
            // As it was written at the mount.
            let realtime = fabric.mounts[index].realtime.take();
            let realtime = realtime.and_then(|path| fabric.device_of_source(&path));
            fabric.mounts[index].realtime = realtime.map(|device| device.name.clone());
        }
        Ok(fabric)
    }
}

/// Returns the directory of a node.
fn class(root: &Path, number: u32) -> PathBuf {
    root.join(format!("sys/class/misc/p2pmem{number}"))
}

/// Returns the text of a small file without the white space around it.
fn text(path: impl AsRef<Path>) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// Returns the number in a small file.
fn number<T: std::str::FromStr>(path: impl AsRef<Path>) -> Option<T> {
    text(path)?.parse().ok()
}

/// Returns the last part of a path.
fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Returns the name of what a link leads to.
fn linked(path: impl AsRef<Path>) -> Option<String> {
    Some(name(&fs::read_link(path).ok()?))
}

/// Returns what is in a directory, by name; nothing if there is none.
fn entries(path: impl AsRef<Path>) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// Returns whether a name is an address of a PCI function, like `0000:03:00.0`.
fn is_address(name: &str) -> bool {
    let parts: Vec<_> = name.split([':', '.']).collect();
    let lengths: Vec<_> = parts.iter().map(|part| part.len()).collect();
    // Domains behind a bridge of their own (VMD) have more digits.
    matches!(lengths[..], [domain, 2, 2, 1] if domain >= 4)
        && parts
            .iter()
            .all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn kernel(root: &Path) -> Result<Kernel> {
    let path = root.join("proc/sys/kernel/osrelease");
    let release = text(&path)
        .with_context(|| format!("cannot read {}: is /proc mounted?", path.display()))?;
    let config = fs::read_to_string(root.join(format!("boot/config-{release}")))
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
        release,
        command_line: text(root.join("proc/cmdline")).unwrap_or_default(),
        config,
        module_loaded: root.join("sys/module/p2pmem_rs").exists(),
        build: text(root.join("proc/sys/kernel/version")).unwrap_or_default(),
        module_version: text(root.join("sys/module/p2pmem_rs/version")),
    })
}

fn cpu(root: &Path) -> Cpu {
    let info = text(root.join("proc/cpuinfo")).unwrap_or_default();
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

fn functions(root: &Path) -> Result<Vec<Function>> {
    let folder = root.join("sys/bus/pci/devices");
    fs::read_dir(&folder)
        .with_context(|| format!("cannot read {}: is sysfs mounted?", folder.display()))?;

    let mut found: Vec<_> = entries(&folder)
        .iter()
        // One that goes away at this moment is left out.
        .filter_map(|path| function(&fs::canonicalize(path).ok()?))
        .collect();
    // Behind a bridge that is not PCI Express on its lower side no link is left.
    let linkless: Vec<_> = found
        .iter()
        .filter(|(_, function)| function.link.is_none())
        .filter_map(|(_, function)| function.parent.clone())
        .collect();
    // Deeper bridges are named by those above them: from the root buses down.
    let mut known: BTreeMap<String, Port> = BTreeMap::new();
    let mut depths: Vec<_> = found
        .iter()
        .map(|(depth, function)| (*depth, function.address.clone()))
        .collect();
    depths.sort();
    for (_, address) in depths {
        if let Some((_, function)) = found.iter_mut().find(|(_, one)| one.address == address) {
            let above = function.parent.as_ref().and_then(|one| known.get(one));
            function.port = port(function, above.copied(), linkless.contains(&address));
            known.extend(function.port.map(|port| (address, port)));
        }
    }
    found.sort_by(|(_, one), (_, other)| one.address.cmp(&other.address));
    Ok(found.into_iter().map(|(_, function)| function).collect())
}

/// Returns what a function is by its place: the registers that say it are for root only. `linkless`
/// is whether a device without a link is below it.
fn port(function: &Function, above: Option<Port>, linkless: bool) -> Option<Port> {
    if !function.class.starts_with("0604") {
        return None;
    }
    Some(match (&function.link, &function.parent, above) {
        (None, ..) | (_, _, Some(Port::Bridge)) => Port::Bridge,
        _ if linkless => Port::Bridge,
        (Some(_), None, _) => Port::Root,
        (Some(_), Some(_), Some(Port::Upstream)) => Port::Downstream,
        (Some(_), Some(_), _) => Port::Upstream,
    })
}

/// Reads the directory of a function. Returns how deep it lies as well.
fn function(path: &Path) -> Option<(usize, Function)> {
    let hexadecimal = |file: &str| Some(text(path.join(file))?.trim_start_matches("0x").to_owned());
    let parent = path.parent().map(name).filter(|name| is_address(name));

    let class = hexadecimal("class")?;
    let resource = text(path.join("resource")).unwrap_or_default();
    let registers = header(path).unwrap_or_default();
    let bars = bars(&resource);

    let function = Function {
        address: name(path),
        parent,
        vendor: hexadecimal("vendor")?,
        device: hexadecimal("device")?,
        port: None,
        driver: linked(path.join("driver")),
        // -1 where it is not known.
        numa_node: number(path.join("numa_node")),
        link: link(path),
        iommu: iommu(path),
        unassigned: unassigned(&registers, &bars),
        command: command(&registers),
        window: class
            .starts_with("0604")
            .then(|| window(&resource))
            .flatten(),
        class,
        bars,
        cmb: entries(path.join("nvme"))
            .iter()
            .any(|controller| controller.join("cmb").exists()),
        ..Function::default()
    };
    Some((path.components().count(), function))
}

fn link(path: &Path) -> Option<Link> {
    let speed = |file: &str| {
        let text = text(path.join(file))?;
        Some(text.trim_end_matches(" PCIe").to_owned())
    };
    Some(Link {
        max_width: number(path.join("max_link_width"))?,
        max_speed: speed("max_link_speed")?,
        width: number(path.join("current_link_width")).unwrap_or(0),
        speed: speed("current_link_speed").unwrap_or_default(),
    })
}

fn iommu(path: &Path) -> Option<Iommu> {
    let group = path.join("iommu_group");
    Some(Iommu {
        group: linked(&group)?.parse().ok()?,
        kind: text(group.join("type")).unwrap_or_default(),
    })
}

/// Reads a line of a `resource` file: start, end and flags. Returns length and flags of memory that
/// has an address.
fn memory(line: &str) -> Option<(u64, u64)> {
    const MEMORY: u64 = 0x200;
    const UNSET: u64 = 0x2000_0000;
    let value = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok();

    let words: Option<Vec<_>> = line.split_whitespace().map(value).collect();
    let &[start, end, flags] = words?.as_slice() else {
        return None;
    };
    (flags & MEMORY != 0 && flags & UNSET == 0 && end > start)
        .then(|| ((end - start).saturating_add(1), flags))
}

/// Reads the first six lines of a `resource` file: the BARs.
fn bars(text: &str) -> Vec<Bar> {
    const PREFETCHABLE: u64 = 0x2000;

    (0..6)
        .zip(text.lines())
        .filter_map(|(number, line)| {
            let (size, flags) = memory(line)?;
            Some(Bar {
                number,
                size,
                prefetchable: flags & PREFETCHABLE != 0,
            })
        })
        .collect()
}

/// Returns the length of a bridge's prefetchable window, the last line of its `resource` file but
/// one: 0 if it has none. Kernels with CONFIG_PCI_IOV have six more lines before it.
fn window(text: &str) -> Option<u64> {
    let line = text.lines().rev().nth(1)?;
    Some(memory(line).map_or(0, |(size, _)| size))
}

/// Reads the first 64 bytes of config space, which every user may read. Root could read on, which
/// some devices do not take well.
fn header(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 64];
    let mut file = fs::File::open(path.join("config")).ok()?;
    file.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

/// Returns the Command register, if the device answers.
fn command(registers: &[u8]) -> Option<String> {
    let bytes = registers.get(4..6)?.try_into().ok()?;
    let value = u16::from_le_bytes(bytes);
    (value != u16::MAX).then(|| format!("{value:04x}"))
}

/// Returns the numbers of memory BARs that the registers of a device have, but that got no address:
/// PCI Local Bus Specification 3.0, section 6.2.5.1. One whose register is 0 is not seen.
fn unassigned(registers: &[u8], bars: &[Bar]) -> Vec<u32> {
    const HEADER_TYPE: usize = 0x0e;
    const FIRST: usize = 0x10;
    const IO: u32 = 0x01;
    const TYPE: u32 = 0x06;
    const WIDE: u32 = 0x04;
    // Only these have six BARs.
    if registers
        .get(HEADER_TYPE)
        .is_none_or(|kind| kind & 0x7f != 0)
    {
        return Vec::new();
    }

    let register = |number: usize| {
        let bytes = registers.get(FIRST + 4 * number..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes))
    };
    let mut found = Vec::new();
    let mut number = 0;
    while number < 6 {
        let value = register(number).unwrap_or(0);
        let memory = value & IO == 0;
        if !matches!(value, 0 | u32::MAX) && memory {
            found.push(number as u32);
        }
        // The upper half of a 64-bit one is none of its own.
        number += if memory && value & TYPE == WIDE { 2 } else { 1 };
    }
    found.retain(|number| bars.iter().all(|bar| bar.number != *number));
    found
}

fn block_devices(root: &Path, functions: &[Function]) -> Vec<BlockDevice> {
    entries(root.join("sys/class/block"))
        .iter()
        .filter_map(|path| block_device(&fs::canonicalize(path).ok()?, functions))
        .collect()
}

/// Reads the directory of a block device. Returns nothing for hidden and unused ones.
fn block_device(path: &Path, functions: &[Function]) -> Option<BlockDevice> {
    if text(path.join("hidden")).as_deref() == Some("1") {
        return None;
    }
    let mut below: Vec<_> = entries(path.join("slaves"))
        .iter()
        .map(|path| name(path))
        .collect();
    let mut drive = Vec::new();

    let kind = if path.join("partition").exists() {
        below = path.parent().map(name).into_iter().collect();
        BlockKind::Partition
    } else if path.join("dm").exists() {
        BlockKind::DeviceMapper {
            mapped: text(path.join("dm/name")).unwrap_or_default(),
            uuid: text(path.join("dm/uuid")).unwrap_or_default(),
        }
    } else if path.join("md").exists() {
        BlockKind::Md {
            level: text(path.join("md/level")).unwrap_or_default(),
        }
    } else if name(path).starts_with("loop") {
        BlockKind::Loop {
            backing: text(path.join("loop/backing_file"))?,
        }
    } else {
        drive = functions_of(path);
        // A node that is there for what may come, as those of nbd and zram.
        if drive.is_empty() && text(path.join("size")).as_deref() == Some("0") {
            return None;
        }
        let driver = linked(path.join("device/driver")).or_else(|| {
            let function = functions.iter().find(|one| drive.contains(&one.address))?;
            function.driver.clone()
        });
        BlockKind::Disk {
            driver: driver.unwrap_or_default(),
        }
    };
    // A partition has the queue of its disk.
    let queue = match kind {
        BlockKind::Partition => path.parent().unwrap_or(path).join("queue"),
        _ => path.join("queue"),
    };

    Some(BlockDevice {
        stable_writes: text(queue.join("stable_writes")).as_deref() == Some("1"),
        name: name(path),
        number: text(path.join("dev"))?,
        kind,
        below,
        functions: drive,
    })
}

/// Returns the PCI functions of a drive: the one it lies below, or, if several paths lead to it,
/// those of its NVMe controllers.
fn functions_of(path: &Path) -> Vec<String> {
    let above = |path: &Path| path.ancestors().map(name).find(|name| is_address(name));

    if let Some(address) = above(path) {
        return vec![address];
    }
    let mut found: Vec<_> = entries(path.join("device"))
        .iter()
        .filter(|path| name(path).starts_with("nvme"))
        .filter_map(|path| above(&fs::canonicalize(path).ok()?))
        .collect();
    found.dedup();
    found
}

fn providers(root: &Path) -> Result<Vec<Provider>> {
    let sys = root.join("sys");
    let entries = sysfs::providers(&sys).context("cannot read the providers in sysfs")?;
    Ok(entries
        .into_iter()
        .map(|entry| {
            let class = class(root, entry.number);
            let node = root.join(format!("dev/p2pmem{}", entry.number));
            Provider {
                number: entry.number,
                pci: entry.pci,
                size: number(class.join("size")).unwrap_or(0),
                regions: text(class.join("regions"))
                    .unwrap_or_default()
                    .split_whitespace()
                    .map(str::to_owned)
                    .collect(),
                usable: access(&node, Access::READ_OK | Access::WRITE_OK).is_ok(),
                large_page: number(class.join("large_page")),
                routes: text(class.join("routes")).map(|text| routes::parse(&text)),
            }
        })
        .collect())
}

fn mounts(root: &Path) -> Result<Vec<Mount>> {
    let path = root.join("proc/self/mountinfo");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}: is /proc mounted?", path.display()))?;
    Ok(text.lines().filter_map(mount).collect())
}

/// Reads a line: id, parent, device, root, mount point, options, optional fields, `-`, file system,
/// source, options of the file system.
fn mount(line: &str) -> Option<Mount> {
    let (first, second) = line.split_once(" - ")?;
    let mut first = first.split(' ');
    let mut second = second.split(' ');
    let (kind, source) = (second.next()?, second.next()?);
    let options: Vec<_> = second.next().unwrap_or_default().split(',').collect();
    Some(Mount {
        number: first.nth(2)?.to_owned(),
        point: unescape(first.nth(1)?),
        kind: kind.to_owned(),
        source: unescape(source),
        devices: Vec::new(),
        realtime: options
            .iter()
            .find_map(|option| option.strip_prefix("rtdev=").map(unescape)),
        layers: match kind {
            "overlay" => layers(&options),
            _ => Vec::new(),
        },
    })
}

/// Returns the directories of an overlay, by its options.
fn layers(options: &[&str]) -> Vec<String> {
    const NAMES: &[&str] = &["upperdir", "lowerdir", "lowerdir+", "datadir+"];
    options
        .iter()
        .filter_map(|option| option.split_once('='))
        .filter(|(name, _)| NAMES.contains(name))
        .flat_map(|(_, paths)| paths.split(':'))
        .filter(|path| !path.is_empty())
        .map(unescape)
        .collect()
}

/// Returns the names of the block devices of a file system that has several: mountinfo names one.
fn several_devices(root: &Path, fabric: &Fabric, mount: &Mount) -> Vec<String> {
    let Some(device) = fabric.device_of_source(&mount.source) else {
        return Vec::new();
    };
    match &*mount.kind {
        "btrfs" => devices_of_btrfs(root, device),
        "f2fs" => {
            let map = root.join(format!("proc/fs/f2fs/{}/disk_map", device.name));
            devices_of_f2fs(fabric, &text(map).unwrap_or_default())
        }
        _ => Vec::new(),
    }
}

/// Returns the block devices that a map of f2fs lists, which has these lines only if there are
/// several: `Disk: 0 (zoned=0): 0x0000000000 - 0x000001ffff on /dev/nvme0n1`.
fn devices_of_f2fs(fabric: &Fabric, map: &str) -> Vec<String> {
    map.lines()
        .filter(|line| line.starts_with("Disk:"))
        .filter_map(|line| fabric.device_of_source(line.rsplit_once(" on ")?.1))
        .map(|device| device.name.clone())
        .collect()
}

/// Returns the block devices of a btrfs, if there are several.
fn devices_of_btrfs(root: &Path, device: &BlockDevice) -> Vec<String> {
    entries(root.join("sys/fs/btrfs"))
        .iter()
        .map(|folder| {
            let devices = entries(folder.join("devices"));
            devices.iter().map(|path| name(path)).collect::<Vec<_>>()
        })
        .find(|devices| devices.len() > 1 && devices.contains(&device.name))
        .unwrap_or_default()
}

/// Replaces the octal escapes that procfs writes for white space and backslashes.
fn unescape(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .into_iter()
    .fold(text.to_owned(), |text, (escape, character)| {
        text.replace(escape, character)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::{RouteKind, Translation};
    use std::{env, os::unix::fs::symlink, process};

    /// The root directory of a machine, which goes away with the test.
    struct Machine(PathBuf);

    impl Machine {
        /// Makes one without functions.
        fn new(name: &str) -> Self {
            let machine = Self(env::temp_dir().join(format!("p2pmem-{name}-{}", process::id())));
            for folder in [
                "sys/bus/pci/devices",
                "sys/class/misc",
                "sys/class/block",
                "dev",
            ] {
                fs::create_dir_all(machine.0.join(folder)).unwrap();
            }
            machine.file("proc/sys/kernel/osrelease", "7.3.4-test\n");
            machine.file("proc/self/mountinfo", "");
            machine
        }

        fn file(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn link(&self, path: &str, target: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(self.0.join(target), path).unwrap();
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

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// A switch with a drive and a provider below it.
    fn with_switch(name: &str) -> Machine {
        let machine = Machine::new(name);
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
        let machine = with_switch("fabric");
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
        let fabric = Fabric::read(&machine.0).unwrap();

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
        let drive = fabric.function("0000:03:00.0").unwrap();
        assert_eq!(drive.parent.as_deref(), Some("0000:02:00.0"));
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
        let bars = &fabric.function("0000:04:00.0").unwrap().bars;
        assert_eq!(
            (bars.len(), bars[1].number, bars[1].size),
            (2, 2, 128 << 20)
        );
        assert!(bars[1].prefetchable && !bars[0].prefetchable);

        let names: Vec<_> = fabric.block_devices.iter().map(|one| &*one.name).collect();
        assert_eq!(names, ["dm-0", "nvme0n1", "nvme0n1p1"]);
        assert_eq!(fabric.block_devices[0].below, ["nvme0n1p1"]);
        assert_eq!(fabric.block_devices[1].functions, ["0000:03:00.0"]);
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

        let again = Fabric::from_json(&fabric.to_json().unwrap()).unwrap();
        assert_eq!(again, fabric);
    }

    #[test]
    fn a_drive_with_several_paths_has_all_their_functions() {
        let machine = Machine::new("paths");
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

        let fabric = Fabric::read(&machine.0).unwrap();
        assert_eq!(
            fabric.block_devices[0].functions,
            ["0000:01:00.0", "0000:02:00.0"]
        );
    }

    #[test]
    fn what_is_missing_is_an_error_or_left_out() {
        let machine = with_switch("sparse");
        let fabric = Fabric::read(&machine.0).unwrap();
        assert_eq!(fabric.kernel.config, None);
        assert_eq!(fabric.cpu, Cpu::default());

        let error = Fabric::read(Path::new("/nonexistent")).unwrap_err();
        assert!(
            format!("{error:#}").contains("is /proc mounted?"),
            "{error:#}"
        );
    }

    #[test]
    fn registers_tell_what_has_no_address() {
        let machine = with_switch("registers");
        let memory = "sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:01.0/0000:04:00.0";
        // Memory Space Enable is clear. BAR 0 has no address, BAR 2 has one, BAR 4 has I/O ports.
        let mut registers = vec![0; 64];
        registers[0x04] = 0x04;
        registers[0x10] = 0x0c;
        registers[0x18..0x20].copy_from_slice(&0x8_0000_000c_u64.to_le_bytes());
        registers[0x20] = 0x01;
        fs::write(machine.0.join(memory).join("config"), registers).unwrap();
        machine.file(
            &format!("{memory}/resource"),
            "0x0000000000000000 0x0000000003ffffff 0x000000002014220c\n\
             0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
             0x0000000800000000 0x0000000807ffffff 0x000000000014220c\n",
        );
        let fabric = Fabric::read(&machine.0).unwrap();
        let memory = fabric.function("0000:04:00.0").unwrap();
        assert_eq!(memory.unassigned, [0]);
        assert_eq!((memory.bars.len(), memory.bars[0].number), (1, 2));
        assert!(!memory.decodes_memory() && memory.masters_bus());
        // Unknown counts as on.
        let drive = fabric.function("0000:03:00.0").unwrap();
        assert!(drive.decodes_memory() && drive.command.is_none());
    }

    #[test]
    fn what_is_below_a_bridge_to_conventional_pci_has_no_link() {
        let machine = Machine::new("conventional");
        machine.function("0000:00:01.0", "060400", "pcieport");
        let bridge = "0000:00:01.0/0000:01:00.0";
        machine.function(bridge, "060400", "none");
        let path = machine.function(&format!("{bridge}/0000:02:00.0"), "ff0000", "none");
        fs::remove_file(machine.0.join(path).join("max_link_width")).unwrap();
        let fabric = Fabric::read(&machine.0).unwrap();
        let port = |address| fabric.function(address).unwrap().port;
        assert_eq!(port("0000:00:01.0"), Some(Port::Root));
        assert_eq!(port("0000:01:00.0"), Some(Port::Bridge));
    }

    #[test]
    fn addresses_are_told_from_other_names() {
        for name in ["0000:03:00.0", "10000:e1:00.7"] {
            assert!(is_address(name), "{name}");
        }
        for name in [
            "pci0000:00",
            "nvme0n1",
            "0000:03:00",
            "0000:0g:00.0",
            "",
            "1:2:3.4",
        ] {
            assert!(!is_address(name), "{name}");
        }
    }
}
