// SPDX-License-Identifier: GPL-2.0

//! The machine of a measurement: without it the figures mean nothing.

use std::{
    fmt::{self, Display},
    fs,
    path::{Path, PathBuf},
    thread,
};

use serde::{Deserialize, Serialize};

use super::clock::Clock;
use p2pmem::{
    root,
    sysfs::{Details, Entry},
    PciAddress, Root,
};

/// The machine and the devices of a measurement, and its method.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// The drive. Null if none was named.
    pub drive: Option<Drive>,
    /// The node of the provider.
    pub path: PathBuf,
    /// The PCI address of its device.
    pub pci: PciAddress,
    /// Whether the driver cleared memory before it gave it out.
    pub clear: bool,
    /// Vendor and product of the machine. Null if the firmware does not report them.
    pub machine: Option<String>,
    /// Number of processors.
    pub processors: usize,
    /// The release of the kernel.
    pub kernel: String,
    /// The accelerator of the virtual machine. Null for a real machine.
    pub accelerator: Option<String>,
    /// Whether times are those that processors spent.
    pub processor_time: bool,
    /// Number of rounds.
    pub rounds: u32,
}

/// A drive.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Drive {
    /// The path of its device node.
    pub path: PathBuf,
    /// The name of the model. Null if it is not known.
    pub model: Option<String>,
}

impl Setup {
    /// Describes this machine, and what is measured.
    pub fn new(
        entry: &Entry,
        details: &Details,
        drive: Option<&Path>,
        clock: Clock,
        rounds: u32,
    ) -> Self {
        Self {
            drive: drive.map(|path| Drive {
                path: path.to_owned(),
                model: model(path),
            }),
            path: entry.id.path(),
            pci: entry.id.pci,
            clear: details.clear,
            machine: machine(),
            processors: thread::available_parallelism().map_or(1, Into::into),
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            accelerator: accelerator(),
            processor_time: clock == Clock::Processor,
            rounds,
        }
    }
}

impl Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let drive = self.drive.as_ref().map(|drive| {
            let model = drive.model.as_deref();
            let model = model.map_or(String::new(), |model| format!(" ({model})"));
            format!("{}{model}, ", drive.path.display())
        });
        writeln!(
            f,
            "{}{} ({}), clearing is {}",
            drive.unwrap_or_default(),
            self.path.display(),
            self.pci,
            if self.clear { "on" } else { "off" }
        )?;
        writeln!(
            f,
            "{}, processors: {}, Linux {}{}",
            self.machine.as_deref().unwrap_or("unknown machine"),
            self.processors,
            self.kernel,
            match self.accelerator.as_deref() {
                None => String::new(),
                Some("TCG") => ", TCG: only ratios mean something".to_owned(),
                Some(name) => format!(", {name}"),
            }
        )?;
        write!(
            f,
            "{}, rounds: {}; rate and ratio are those of the fastest",
            if self.processor_time {
                "time of processors"
            } else {
                "time"
            },
            self.rounds
        )
    }
}

/// Returns the text of a small file without white space around it, unless it is empty.
fn text(path: impl AsRef<Path>) -> Option<String> {
    root::text(path).ok().filter(|text| !text.is_empty())
}

/// Returns what the maker of a drive calls it. Of partitions and stacked devices nothing is known.
fn model(path: &Path) -> Option<String> {
    let path = fs::canonicalize(path).ok()?;
    let name = path.file_name()?;
    text(
        Root::default()
            .sys("class/block")
            .join(name)
            .join("device/model"),
    )
}

fn machine() -> Option<String> {
    let id = Root::default().sys("class/dmi/id");
    let words = ["sys_vendor", "product_name"].map(|name| text(id.join(name)));
    let words: Vec<_> = words.into_iter().flatten().collect();
    Some(words.join(" ")).filter(|text| !text.is_empty())
}

/// Returns what runs this virtual machine, by the name that it gives to the processor.
#[cfg(target_arch = "x86_64")]
fn accelerator() -> Option<String> {
    use std::arch::x86_64::__cpuid;

    /// Set for virtual machines.
    const HYPERVISOR: u32 = 1 << 31;
    const NAMES: &[(&[u8], &str)] = &[
        (b"TCGTCGTCGTCG", "TCG"),
        (b"KVMKVMKVM\0\0\0", "KVM"),
        (b"Microsoft Hv", "Hyper-V"),
        (b"VMwareVMware", "VMware"),
        (b"XenVMMXenVMM", "Xen"),
    ];
    // SAFETY: All processors of 64 bits have the instruction.
    let (is_virtual, leaf) = unsafe { (__cpuid(1).ecx & HYPERVISOR != 0, __cpuid(0x4000_0000)) };
    let name: Vec<_> = [leaf.ebx, leaf.ecx, leaf.edx]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect();
    is_virtual.then(|| {
        let known = NAMES.iter().find(|(bytes, _)| *bytes == name);
        known.map_or("virtual machine", |(_, name)| name).to_owned()
    })
}

/// Returns what runs this virtual machine, which other processors do not tell.
#[cfg(not(target_arch = "x86_64"))]
fn accelerator() -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_matters_is_named() {
        let mut setup = Setup {
            drive: Some(Drive {
                path: "/dev/nvme0n1".into(),
                model: Some("Fast".to_owned()),
            }),
            path: "/dev/p2pmem0".into(),
            pci: "0000:05:00.0".parse().unwrap(),
            clear: true,
            machine: Some("QEMU PC".to_owned()),
            processors: 2,
            kernel: "7.3.4".to_owned(),
            accelerator: Some("TCG".to_owned()),
            processor_time: false,
            rounds: 8,
        };
        let text = setup.to_string();
        for words in [
            "/dev/nvme0n1 (Fast), /dev/p2pmem0 (0000:05:00.0), clearing is on\n",
            "QEMU PC, processors: 2, Linux 7.3.4, TCG: only ratios mean something\n",
            "rounds: 8",
        ] {
            assert!(text.contains(words), "{text}");
        }
        setup.accelerator = None;
        setup.clear = false;
        let text = setup.to_string();
        assert!(!text.contains("ratios mean") && text.contains("clearing is off"));
    }
}
