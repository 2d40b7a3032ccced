// SPDX-License-Identifier: GPL-2.0

//! Meaning of errors when device memory is involved.

use std::fmt;

use anyhow::{bail, Result};
use serde::Serialize;

/// An error, and where it may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Its name, like `EREMOTEIO`.
    pub name: &'static str,
    /// Its number on Linux; null for a signal.
    pub number: Option<i32>,
    /// Possible sources.
    pub cases: &'static [Case],
}

/// A way to get an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Case {
    /// Which call returned it.
    pub from: &'static str,
    /// Why.
    pub cause: &'static str,
    /// Cure.
    pub cure: &'static str,
}

const fn case(from: &'static str, cause: &'static str, cure: &'static str) -> Case {
    Case { from, cause, cure }
}

const fn error(name: &'static str, number: i32, cases: &'static [Case]) -> Explanation {
    Explanation {
        name,
        number: Some(number),
        cases,
    }
}

const MMAP: &str = "mmap of the node";
const ALLOC: &str = "mmap of the node, P2PMEM_IOC_ALLOC";
const DIRECT: &str = "read or write with O_DIRECT";
const REGISTER: &str = "P2PMEM_URING_REGISTER";

const GONE: Case = case(
    "each call on the node, mapping or importing a dma-buf",
    "The device was unbound or pulled: old descriptors stay dead.",
    "Close all, and open the new node when the device is bound again.",
);

const RIGHTS: Case = case(
    "open of the node or of a drive",
    "Nodes are for root (mode 0600), drives for root and the group disk.",
    "Become root, or write a udev rule: KERNEL==\"p2pmem*\", GROUP=\"disk\", MODE=\"0660\".",
);

const ALL: &[Explanation] = &[
    error(
        "EREMOTEIO",
        libc::EREMOTEIO,
        &[
            case(
                DIRECT,
                "The memory is mapped, and a block device on the way takes no device memory: dm (LVM, \
                 dm-crypt), md raid5, loop, nbd, zram, virtio-blk, SCSI, SATA, USB; or the file system \
                 takes none (vfat, jfs, nilfs2, udf), or is not on a local drive. The same memory in a slot of an io_uring is not refused: data \
                 may be lost.",
                "`p2pmem doctor --try FILE` names it. Use an NVMe drive, a partition of one, or md raid0, \
                 raid1 or raid10 of NVMe drives that all reach the memory.",
            ),
            case(
                "mlock, vmsplice, io_uring's ordinary registration of buffers",
                "Device memory cannot be pinned for an unlimited time.",
                "Leave mlock out: this memory is never swapped. For io_uring use \
                 P2PMEM_URING_REGISTER.",
            ),
            case(
                "a device that imports a dma-buf",
                "The device cannot reach the memory; the kernel's log has a line.",
                "`p2pmem topo` says why, and what to change.",
            ),
        ],
    ),
    error(
        "EINVAL",
        libc::EINVAL,
        &[
            case(
                DIRECT,
                "The drive cannot reach the memory: different root ports, or ACS on the way, and a \
                 root complex that Linux does not let forward.",
                "`p2pmem topo` says why, and what to change.",
            ),
            case(
                DIRECT,
                "Address, offset or length is not a multiple of the drive's logical block size.",
                "Use multiples of 4096.",
            ),
            case(
                "open of the node",
                "O_DIRECT was passed: the node is memory, and has no direct I/O of its own.",
                "Open it with O_RDWR only; pass O_DIRECT for the file or drive.",
            ),
            case(
                "read or write of the node",
                "The node is mapped, not read.",
                "Use mmap, and the address as the buffer of other calls.",
            ),
            case(
                "mmap of resourceN, the BAR's file in sysfs",
                "A driver has claimed the BAR, and the kernel keeps others out (CONFIG_IO_STRICT_DEVMEM).",
                "Map the node instead. To look at a BAR in spite of that, boot with iomem=relaxed.",
            ),
            case(
                MMAP,
                "The mapping is private, or its offset is not 0.",
                "Use MAP_SHARED and offset 0.",
            ),
            case(
                "P2PMEM_IOC_ALLOC, P2PMEM_IOC_REGION",
                "The size is 0 or not a multiple of the granule, a flag is not known, or there is no \
                 region of that number.",
                "P2PMEM_IOC_INFO tells granule and number of regions.",
            ),
            case(
                "P2PMEM_URING_REGISTER, P2PMEM_URING_UNREGISTER",
                "The descriptor is no dma-buf of p2pmem, the slot does not exist, or it is empty: \
                 unbinding the device empties slots in rings of the thread that unbinds.",
                "Give the ring a buffer table with enough slots first. After unbinding, leave \
                 P2PMEM_URING_UNREGISTER out.",
            ),
            case(
                "a write to /sys/module/p2pmem_rs/regions or to a setting of a node",
                "The line makes no sense; the kernel's log says what is wrong with it.",
                "Read the file: it shows lines as they can be written.",
            ),
        ],
    ),
    error(
        "ENOSPC",
        libc::ENOSPC,
        &[case(
            ALLOC,
            "The provider has no free run of that many bytes.",
            "See `largest` and `available` in /sys/class/misc/p2pmemN/; ask for less, or free some: \
             /sys/kernel/debug/p2pmemN/allocations says who has what.",
        )],
    ),
    error(
        "EDQUOT",
        libc::EDQUOT,
        &[case(
            ALLOC,
            "More than the administrator allows to an open file, a user, or a control group.",
            "See `limit_per_file` and `limit_per_user` in /sys/class/misc/p2pmemN/: root may write them; and \
             `dmem.max` of the control group.",
        )],
    ),
    error(
        "ENOMEM",
        libc::ENOMEM,
        &[case(
            ALLOC,
            "The kernel has no host memory for what it must remember; a full provider is ENOSPC.",
            "Free host memory, or raise the limit of the control group.",
        )],
    ),
    error("ENODEV", libc::ENODEV, &[GONE]),
    error(
        "ENXIO",
        libc::ENXIO,
        &[case(
            "read or write of a drive",
            "The drive was unbound or pulled.",
            "Open it again when it is back.",
        )],
    ),
    error(
        "EFAULT",
        libc::EFAULT,
        &[
            case(
                "read or write of the memory by any call",
                "The device with the memory went away.",
                "Unmap, and map the new node when the device is bound again.",
            ),
            case(
                "READ_FIXED or WRITE_FIXED of io_uring",
                "The slot is empty: unbinding a device empties slots in rings of the thread that \
                 unbinds. Or the range is not within the memory in the slot.",
                "When the device is bound again, fill the slot with memory of the new node.",
            ),
            case(
                "send with MSG_ZEROCOPY",
                "The network stack takes no device memory without copying it.",
                "Send without MSG_ZEROCOPY: the CPU copies the data then.",
            ),
            case(
                "an ioctl, mremap, process_vm_readv",
                "A pointer is bad, a mapping was to grow, or another process was to read device memory.",
                "Map anew instead of growing; read by the process that has it mapped.",
            ),
        ],
    ),
    error(
        "EIO",
        libc::EIO,
        &[case(
            "read or write of a drive",
            "The drive says that the transfer failed: it was reset or pulled, or a port or the IOMMU \
             blocked the request.",
            "See the kernel's log for lines of nvme, AER or the IOMMU; `p2pmem doctor` for the way.",
        )],
    ),
    error(
        "EBUSY",
        libc::EBUSY,
        &[
            case(
                "P2PMEM_URING_REGISTER, P2PMEM_URING_UNREGISTER",
                "The slot is in use, or the program filled it by itself.",
                "Take another slot, or empty it first.",
            ),
            case(
                "p2pmem copy",
                "The destination is in use, as by a file system.",
                "Unmount it, or say --force.",
            ),
            case(
                "binding a device to p2pmem_rs",
                "Another driver holds its BARs.",
                "Unbind it from that driver first; the kernel's log names it.",
            ),
        ],
    ),
    error(
        "EAGAIN",
        libc::EAGAIN,
        &[case(
            "rmmod p2pmem_rs",
            "A descriptor is open, or memory is mapped, registered or imported.",
            "End who has it: fuser /dev/p2pmem*, /sys/kernel/debug/p2pmemN/allocations.",
        )],
    ),
    error(
        "EPERM",
        libc::EPERM,
        &[
            case(
                "P2PMEM_URING_REGISTER, P2PMEM_IOC_ALLOC with P2PMEM_ALLOC_IRREVOCABLE",
                "The setting `slots` of the node does not allow it to this process: `privileged`, \
                 the default, takes CAP_SYS_RAWIO; `nobody` refuses all processes.",
                "Use mapped memory, which takes no right. Or run with CAP_SYS_RAWIO, or change the \
                 setting as root: p2pmem config p2pmemN --slots; --help there names the risk.",
            ),
            RIGHTS,
        ],
    ),
    error("EACCES", libc::EACCES, &[RIGHTS]),
    error(
        "EOPNOTSUPP",
        libc::EOPNOTSUPP,
        &[
            case(
                "P2PMEM_IOC_ALLOC",
                "P2PMEM_ALLOC_FIXED asks for an offset: the kernel's pool cannot allocate at one.",
                "Leave the flag out.",
            ),
            case(
                "a command of io_uring",
                "This version of the module does not know it.",
                "P2PMEM_IOC_INFO tells in `capabilities` what it knows.",
            ),
        ],
    ),
    error(
        "ENOTTY",
        libc::ENOTTY,
        &[case(
            "ioctl",
            "This version of the module does not know the request, or the descriptor is another one.",
            "P2PMEM_IOC_INFO tells in `capabilities` what it knows.",
        )],
    ),
    error(
        "EXDEV",
        libc::EXDEV,
        &[case(
            REGISTER,
            "The dma-buf is memory of another node.",
            "Send the command to the node that the memory is of.",
        )],
    ),
    error(
        "ERANGE",
        libc::ERANGE,
        &[case(
            REGISTER,
            "The part is empty, not within the dma-buf, or 4 GiB or longer.",
            "Register parts of less than 4 GiB, counted in granules.",
        )],
    ),
    error(
        "EBADF",
        libc::EBADF,
        &[case(
            REGISTER,
            "`fd` is not an open descriptor.",
            "Keep the dma-buf open until it is registered.",
        )],
    ),
    error(
        "EINTR",
        libc::EINTR,
        &[case(
            ALLOC,
            "The process was killed while the memory was being cleared.",
            "Nothing: the memory went back.",
        )],
    ),
    Explanation {
        name: "SIGBUS",
        number: None,
        cases: &[case(
            "touching the memory",
            "The device was unbound or pulled.",
            "Poll the node for POLLHUP, or catch the signal; unmap, and map the new node.",
        )],
    },
];

/// Explains an error that is given by its name or number, as `EREMOTEIO`, `121` or `-121`.
///
/// # Errors
///
/// If nothing is known of it.
pub fn explain(text: &str) -> Result<&'static Explanation> {
    let number = text.trim_start_matches('-').parse().ok();
    let found = ALL.iter().find(|one| {
        one.name.eq_ignore_ascii_case(text) || number.is_some() && one.number == number
    });
    let Some(found) = found else {
        let names: Vec<_> = ALL.iter().map(|one| one.name).collect();
        bail!(
            "nothing is known of `{text}` with device memory: give a number or one of {}",
            names.join(", ")
        );
    };
    Ok(found)
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            Some(number) => {
                let text = std::io::Error::from_raw_os_error(number).to_string();
                let text = text.split(" (os error").next().unwrap_or_default();
                writeln!(f, "{} ({number}): {text}", self.name)?;
            }
            None => writeln!(f, "{}: a signal", self.name)?,
        }
        for Case { from, cause, cure } in self.cases {
            write!(f, "\nfrom {from}\n  cause: {cause}\n  cure:  {cure}\n")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_known() {
        for text in ["EREMOTEIO", "eremoteio", "121", "-121"] {
            assert_eq!(explain(text).unwrap().name, "EREMOTEIO", "{text}");
        }
        assert_eq!(explain("SIGBUS").unwrap().number, None);
        let text = explain("ENOSPC").unwrap().to_string();
        assert!(
            text.starts_with("ENOSPC (28): No space left on device\n"),
            "{text}"
        );
        assert!(text.contains("cause:") && text.contains("cure:"));
    }

    #[test]
    fn errors_of_slots_are_explained() {
        for (name, words) in [
            (
                "EPERM",
                &[
                    "P2PMEM_ALLOC_IRREVOCABLE",
                    "CAP_SYS_RAWIO",
                    "--slots",
                    "udev",
                ][..],
            ),
            ("EFAULT", &["READ_FIXED", "unbinding", "MSG_ZEROCOPY"]),
            (
                "EINVAL",
                &[
                    "P2PMEM_URING_UNREGISTER",
                    "unbinding",
                    "resourceN",
                    "open of the node",
                    "read or write of the node",
                ],
            ),
        ] {
            let text = explain(name).unwrap().to_string();
            for word in words {
                assert!(text.contains(word), "{text}");
            }
        }
        // Opening does not depend on the setting.
        assert_eq!(explain("EACCES").unwrap().cases, [RIGHTS]);
    }

    #[test]
    fn others_are_an_error() {
        for text in ["", "-", "E", "EUCLEAN", "0", "99999999999999", "121 "] {
            let error = explain(text).unwrap_err().to_string();
            assert!(error.contains("EREMOTEIO"), "{error}");
        }
    }

    #[test]
    fn each_is_explained_once() {
        for one in ALL {
            assert!(!one.cases.is_empty(), "{}", one.name);
            assert_eq!(explain(one.name).unwrap(), one);
            if let Some(number) = one.number {
                assert_eq!(explain(&number.to_string()).unwrap(), one);
            }
        }
    }
}
