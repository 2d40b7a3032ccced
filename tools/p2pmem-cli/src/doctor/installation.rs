// SPDX-License-Identifier: GPL-2.0

//! Checks of the installed module: its version, its signature, other kernels, blacklists.

use super::check::{Check, Status};
use p2pmem::fabric::{Fabric, Installation};

/// Checks an installation, if that was read.
pub(super) fn checks(fabric: &Fabric) -> Vec<Check> {
    let Some(installation) = &fabric.kernel.installation else {
        return Vec::new();
    };
    [
        version(fabric, installation),
        upgrade(installation),
        signature(fabric, installation),
        blacklists(installation),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The module that is loaded against the one that would be loaded next, and against the source.
fn version(fabric: &Fabric, installation: &Installation) -> Option<Check> {
    const NAME: &str = "installed module";
    let word = |text: &str| text.split(' ').next().unwrap_or_default().to_owned();
    let source = installation.sources.last();
    let Some(file) = &installation.file else {
        let source = source?;
        return Some(
            Check::new(NAME, Status::Problem, "p2pmem_rs is not built for this kernel")
                .because(format!("The source {source} is installed (p2pmem-dkms), its module is not."))
                .cured_by(format!(
                    "Install linux-headers-{0}, then dkms autoinstall -k {0}, which names what is missing.",
                    fabric.kernel.release
                )),
        );
    };
    let installed = word(&file.version);
    let loaded = fabric.kernel.module_version.as_deref().map(word);
    if loaded.as_ref().is_some_and(|loaded| *loaded != installed) {
        let loaded = loaded.unwrap_or_default();
        let found = format!("p2pmem_rs {installed} is installed, {loaded} is loaded");
        return Some(
            Check::new(NAME, Status::Warning, found)
                .cured_by("rmmod p2pmem_rs and modprobe p2pmem_rs, or reboot."),
        );
    }
    if source.is_some_and(|source| *source != installed) {
        let found = format!("p2pmem_rs {installed}, of another version than p2pmem-dkms");
        return Some(
            Check::new(NAME, Status::Warning, found)
                .cured_by(format!("dkms autoinstall -k {}", fabric.kernel.release)),
        );
    }
    Some(Check::new(
        NAME,
        Status::Ok,
        format!("p2pmem_rs {installed}, {}", file.path),
    ))
}

/// Kernels that may be booted next.
fn upgrade(installation: &Installation) -> Option<Check> {
    const NAME: &str = "kernel upgrade";
    let kernels = &installation.kernels_without;
    if installation.sources.is_empty() {
        return None;
    }
    if kernels.is_empty() {
        return Some(Check::new(
            NAME,
            Status::Ok,
            "each installed kernel of 7.3 or newer has p2pmem_rs",
        ));
    }
    let found = format!("no p2pmem_rs for {}", kernels.join(", "));
    Some(
        Check::new(NAME, Status::Problem, found)
            .because("After a reboot into this kernel there are no nodes.")
            .cured_by(format!(
                "Install linux-headers-{0}, then dkms autoinstall -k {0}, which names what is missing.",
                kernels[kernels.len() - 1]
            )),
    )
}

/// A kernel that is locked down loads modules only if it knows the key.
fn signature(fabric: &Fabric, installation: &Installation) -> Option<Check> {
    const NAME: &str = "signature";
    let file = installation.file.as_ref()?;
    let by = match &*file.signer {
        "" => "not signed".to_owned(),
        signer => format!("signed by {signer}"),
    };
    if matches!(&*installation.lockdown, "" | "none") || fabric.kernel.module_loaded {
        return Some(Check::new(
            NAME,
            Status::Ok,
            format!("p2pmem_rs is {by}, and may be loaded"),
        ));
    }
    let found = format!(
        "p2pmem_rs is {by}, and the kernel is locked down ({})",
        installation.lockdown
    );
    Some(
        Check::new(NAME, Status::Problem, found)
            .because("A kernel that is locked down refuses a module unless it knows the key.")
            .cured_by(
                "Enrol the key of DKMS: mokutil --import /var/lib/dkms/mok.pub, reboot, and confirm it in the \
                 firmware's menu.",
            ),
    )
}

fn blacklists(installation: &Installation) -> Option<Check> {
    const NAME: &str = "blacklists";
    if installation.blacklists.is_empty() {
        return None;
    }
    let found = format!("p2pmem_rs is in {}", installation.blacklists.join(", "));
    Some(
        Check::new(NAME, Status::Warning, found)
            .because("Devices that the module knows by ID do not load it at boot.")
            .cured_by("Remove it there, unless it is meant so."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2pmem::fabric::ModuleFile;

    fn fabric() -> Fabric {
        let mut fabric = Fabric::default();
        fabric.kernel.release = "7.3.4".to_owned();
        fabric.kernel.module_loaded = true;
        fabric.kernel.module_version = Some("0.1.0 7.3.4-1".to_owned());
        fabric.kernel.installation = Some(Installation {
            file: Some(ModuleFile {
                path: "/lib/modules/7.3.4/updates/dkms/p2pmem_rs.ko.xz".to_owned(),
                version: "0.1.0 7.3.4-1".to_owned(),
                signer: "DKMS key".to_owned(),
            }),
            sources: vec!["0.1.0".to_owned()],
            lockdown: "none".to_owned(),
            ..Installation::default()
        });
        fabric
    }

    /// Checks that are not ok, with their cures.
    fn findings(change: impl FnOnce(&mut Fabric, &mut Installation)) -> Vec<String> {
        let mut fabric = fabric();
        let mut installation = fabric.kernel.installation.take().unwrap();
        change(&mut fabric, &mut installation);
        fabric.kernel.installation = Some(installation);
        let found = checks(&fabric).into_iter();
        found
            .filter(|check| check.status != Status::Ok)
            .map(|check| format!("{}: {} {}", check.name, check.found, check.cure))
            .collect()
    }

    fn expect(words: &[&str], change: impl FnOnce(&mut Fabric, &mut Installation)) {
        let found = findings(change);
        assert_eq!(found.len(), 1, "{found:?}");
        for word in words {
            assert!(found[0].contains(word), "{word} is not in {found:?}");
        }
    }

    #[test]
    fn each_mistake_has_a_cure() {
        assert_eq!(findings(|_, _| ()), [""; 0]);
        expect(
            &["0.1.0 is installed, 0.0.9 is loaded", "rmmod"],
            |fabric, _| {
                fabric.kernel.module_version = Some("0.0.9 7.3.4-1".to_owned());
            },
        );
        expect(
            &["not built for this kernel", "linux-headers-7.3.4"],
            |fabric, installation| {
                fabric.kernel.module_loaded = false;
                fabric.kernel.module_version = None;
                installation.file = None;
            },
        );
        expect(
            &["of another version than p2pmem-dkms"],
            |_, installation| {
                installation.sources = vec!["0.2.0".to_owned()];
            },
        );
        expect(
            &["no p2pmem_rs for 7.4.1", "linux-headers-7.4.1"],
            |_, installation| {
                installation.kernels_without = vec!["7.4.1".to_owned()];
            },
        );
        expect(
            &["locked down (integrity)", "signed by DKMS key", "mokutil"],
            |fabric, installation| {
                fabric.kernel.module_loaded = false;
                fabric.kernel.module_version = None;
                installation.lockdown = "integrity".to_owned();
            },
        );
        expect(&["/etc/modprobe.d/a.conf"], |_, installation| {
            installation.blacklists = vec!["/etc/modprobe.d/a.conf".to_owned()];
        });
    }
}
