// SPDX-License-Identifier: GPL-2.0

//! The installed module: its file, kernels that lack it, settings that keep it from being loaded.

use std::{fs, path::PathBuf, process::Command};

use serde::{Deserialize, Serialize};

use crate::root::{entries, name, Root};

const NAME: &str = "p2pmem_rs";

/// The installation of the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installation {
    /// The file that modprobe would load. None if the module is not installed for this kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<ModuleFile>,
    /// Versions of the source that DKMS has.
    #[serde(default)]
    pub sources: Vec<String>,
    /// Other kernels of 7.3 or newer that are installed, for which there is no module.
    #[serde(default)]
    pub kernels_without: Vec<String>,
    /// Files, or the kernel's command line, that keep it from being loaded.
    #[serde(default)]
    pub blacklists: Vec<String>,
    /// The kernel's lockdown: `none`, `integrity` or `confidentiality`. Empty if it has none.
    #[serde(default)]
    pub lockdown: String,
}

/// A file of the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleFile {
    /// Its path.
    pub path: String,
    /// The version of its source, and the kernel build that it was made for.
    pub version: String,
    /// The name of the key that signed it. Empty if none did.
    pub signer: String,
}

impl Installation {
    /// Reads the installation for the kernel of a release. Runs modinfo.
    pub(super) fn read(root: &Root, release: &str, command_line: &str) -> Self {
        let file = file_of(root, release).map(|path| {
            let fields = modinfo(&path);
            ModuleFile {
                version: field(&fields, "version:"),
                signer: field(&fields, "signer:"),
                path,
            }
        });
        let sources: Vec<_> = names(root.path("usr/src"))
            .filter_map(|name| Some(name.strip_prefix("p2pmem-")?.to_owned()))
            .collect();
        let is_newer = |name: &String| numbers(name) >= vec![7, 3] && name != release;
        let mut kernels_without = Vec::new();
        if !sources.is_empty() {
            let kernels = names(root.path("lib/modules"));
            kernels_without.extend(kernels.filter(|name| {
                is_newer(name)
                    && root.path("lib/modules").join(name).join("kernel").exists()
                    && file_of(root, name).is_none()
            }));
        }

        Self {
            file,
            sources,
            kernels_without,
            blacklists: blacklists(root, command_line),
            lockdown: lockdown(root),
        }
    }
}

/// Returns the names in a folder, sorted.
fn names(folder: PathBuf) -> impl Iterator<Item = String> {
    entries(folder).into_iter().map(name)
}

/// Returns the numbers that a release begins with.
fn numbers(release: &str) -> Vec<u32> {
    let words = release.split(|character: char| !character.is_ascii_digit());
    words.map_while(|word| word.parse().ok()).collect()
}

/// Returns the file that depmod found.
fn file_of(root: &Root, release: &str) -> Option<String> {
    let folder = format!("lib/modules/{release}");
    let text = fs::read_to_string(root.path(&folder).join("modules.dep")).ok()?;
    text.lines()
        .filter_map(|line| line.split(':').next())
        .find(|path| path.contains(&format!("/{NAME}.ko")))
        .map(|path| format!("/{folder}/{path}"))
}

/// Returns the fields of a module file, a line each. Empty if it cannot be read.
fn modinfo(path: &str) -> String {
    let output = Command::new("modinfo").arg(path).output();
    output.map_or(String::new(), |output| {
        String::from_utf8_lossy(&output.stdout).into_owned()
    })
}

/// Returns a field of them. Empty if there is none.
fn field(fields: &str, name: &str) -> String {
    let value = fields.lines().find_map(|line| line.strip_prefix(name));
    value.unwrap_or_default().trim().to_owned()
}

/// Returns the places that keep the module from being loaded.
fn blacklists(root: &Root, command_line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["etc", "run", "usr/lib", "lib"] {
        let folder = format!("{folder}/modprobe.d");
        for name in names(root.path(&folder)) {
            let path = format!("{folder}/{name}");
            let text = fs::read_to_string(root.path(&path)).unwrap_or_default();
            if name.ends_with(".conf") && text.lines().any(is_blacklist) {
                found.push(format!("/{path}"));
            }
        }
    }
    // One of them is often a link to the other.
    if root.path("lib").is_symlink() {
        found.retain(|path| !path.starts_with("/lib/"));
    }
    for word in command_line.split_whitespace() {
        let list = word
            .strip_prefix("module_blacklist=")
            .or_else(|| word.strip_prefix("modprobe.blacklist="));
        if list.is_some_and(|list| list.split(',').any(|name| name == NAME)) {
            found.push(format!("{word} on the kernel's command line"));
        }
    }
    found
}

fn is_blacklist(line: &str) -> bool {
    let words: Vec<_> = line.split_whitespace().collect();
    match words[..] {
        ["blacklist", name] => name == NAME,
        ["install", name, program, ..] => {
            name == NAME
                && ["/bin/true", "/bin/false"]
                    .iter()
                    .any(|end| program.ends_with(end))
        }
        _ => false,
    }
}

/// Returns the word in brackets of `none [integrity] confidentiality`.
fn lockdown(root: &Root) -> String {
    let text = fs::read_to_string(root.sys("kernel/security/lockdown")).unwrap_or_default();
    let word = text
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    word.map_or("", |(word, _)| word).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installation_is_found_in_its_files() {
        let root = std::env::temp_dir().join(format!("p2pmem-installation-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "lib/modules/7.3.4+deb13-amd64/modules.dep",
            "kernel/a.ko:\nupdates/dkms/p2pmem_rs.ko.xz: kernel/a.ko\n",
        );
        for release in ["7.4.1+deb13-amd64", "6.12.1-amd64", "7.3.4+deb13-amd64"] {
            write(&format!("lib/modules/{release}/kernel/x"), "");
        }
        write("usr/src/p2pmem-0.1.0/dkms.conf", "");
        write(
            "etc/modprobe.d/a.conf",
            "# blacklist p2pmem_rs\nblacklist p2pmem_rs\n",
        );
        write(
            "etc/modprobe.d/b.conf",
            "options p2pmem_rs adopt=0\n#blacklist p2pmem_rs\n",
        );
        write(
            "sys/kernel/security/lockdown",
            "none [integrity] confidentiality\n",
        );
        let found = Installation::read(
            &Root::new(&root),
            "7.3.4+deb13-amd64",
            "quiet modprobe.blacklist=a,p2pmem_rs",
        );
        let _ = fs::remove_dir_all(&root);

        let file = found.file.unwrap();
        assert_eq!(
            file.path,
            "/lib/modules/7.3.4+deb13-amd64/updates/dkms/p2pmem_rs.ko.xz"
        );
        assert_eq!(found.sources, ["0.1.0"]);
        assert_eq!(found.kernels_without, ["7.4.1+deb13-amd64"]);
        assert_eq!(
            found.blacklists,
            [
                "/etc/modprobe.d/a.conf",
                "modprobe.blacklist=a,p2pmem_rs on the kernel's command line"
            ]
        );
        assert_eq!(found.lockdown, "integrity");
    }
}
