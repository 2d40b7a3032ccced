// SPDX-License-Identifier: GPL-2.0

//! Checks of the kernel and the module.

use p2pmem::fabric::Fabric;

use super::check::{Check, Status};

pub fn kernel_release(fabric: &Fabric) -> Check {
    const LEAST: (u32, u32) = (7, 3);
    let release = &fabric.kernel.release;
    let mut numbers = release
        .split(|character: char| !character.is_ascii_digit())
        .map(str::parse);
    let version = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => {
            return Check::new("kernel", Status::Unknown, format!("release `{release}`"))
                .cured_by("Compare with 7.3 by hand: older kernels cannot load the module.")
        }
    };
    if version >= LEAST {
        return Check::new("kernel", Status::Ok, release);
    }
    Check::new("kernel", Status::Problem, release)
        .because(
            "Before 7.3 device files of Rust drivers do not hold their module: rmmod would crash.",
        )
        .cured_by("Boot a kernel of 7.3 or newer: Debian 13 has one in trixie-backports.")
}

pub fn kernel_options(fabric: &Fabric) -> Check {
    const NAME: &str = "kernel options";
    // It could not have been loaded otherwise.
    if fabric.kernel.module_loaded {
        return Check::new(
            NAME,
            Status::Ok,
            "the module is loaded, so they are as needed",
        );
    }
    let Some(config) = &fabric.kernel.config else {
        return Check::new(
            NAME,
            Status::Unknown,
            format!("there is no /boot/config-{}", fabric.kernel.release),
        )
        .cured_by(
            "See that the kernel has CONFIG_PCI_P2PDMA, CONFIG_RUST and CONFIG_ZONE_DEVICE.",
        );
    };
    let missing: Vec<_> = config
        .iter()
        .filter(|(_, value)| *value != "y")
        .map(|(option, _)| option.as_str())
        .collect();
    if missing.is_empty() {
        let all: Vec<_> = config.keys().map(String::as_str).collect();
        return Check::new(NAME, Status::Ok, all.join(", "));
    }
    Check::new(
        NAME,
        Status::Problem,
        format!("without {}", missing.join(", ")),
    )
    .because("The module is made of Rust, and of what these options build.")
    .cured_by("Boot a kernel that has them: Debian's stock 7.3 does.")
}

pub fn module(fabric: &Fabric) -> Check {
    const NAME: &str = "module";
    if !fabric.kernel.module_loaded {
        return Check::new(NAME, Status::Problem, "p2pmem_rs is not loaded")
            .cured_by("modprobe p2pmem_rs, or insmod build/module/p2pmem_rs.ko");
    }
    let version = fabric.kernel.module_version.as_deref();
    let Some((version, wanted)) = version.and_then(|version| version.split_once(' ')) else {
        let note = match version {
            Some(_) => "; it does not report which build of the kernel it is made for",
            None => "",
        };
        return Check::new(NAME, Status::Ok, format!("p2pmem_rs is loaded{note}"));
    };
    // Either the version of a package, which is a word of it, or all of it.
    let running = &fabric.kernel.build;
    if running == wanted || running.split_whitespace().any(|word| word == wanted) {
        let found = format!("p2pmem_rs {version} is loaded, made for this kernel ({wanted})");
        return Check::new(NAME, Status::Ok, found);
    }
    let found = format!("p2pmem_rs {version} is loaded, made for another kernel ({wanted})");
    Check::new(NAME, Status::Problem, found)
        .because(format!(
            "This one is `{running}`. It has the same release, by which alone the kernel compares: where \
             the two differ, the module writes to wrong places."
        ))
        .cured_by("Unload it, and build it for the kernel that is running, or boot the other one.")
}
