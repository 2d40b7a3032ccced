// SPDX-License-Identifier: GPL-2.0

//! `p2pmem generate`: what is installed beside the program.

use std::{fs, iter, path::PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
use clap_mangen::{
    roff::{bold, roman, Roff},
    Man,
};

use super::exit_status::EXIT_STATUS;

/// Write man pages and shell completions.
#[derive(Args)]
#[command(after_help = "Example:\n  p2pmem generate /usr/share")]
pub struct Arguments {
    /// The folder to write to. Its folders are named as in /usr/share.
    directory: PathBuf,
}

/// Files that commands use, and their purpose.
const FILES: &[(&str, &str)] = &[
    (
        "/dev/p2pmemN",
        "A provider: the memory of a PCI device. Programs map it.",
    ),
    (
        "/sys/class/misc/p2pmemN/",
        "State of a provider, and its settings.",
    ),
    (
        "/etc/p2pmem/regions.d/*.conf",
        "Devices, their regions and settings, which p2pmem apply configures.",
    ),
    (
        "/sys/module/p2pmem_rs/regions",
        "Regions to register when devices are bound.",
    ),
];

/// The page that explains ways, translation and isolation.
const OVERVIEW: &str = include_str!("p2pmem.7");

/// The page of the module, its parameters and its files.
const MODULE: &str = include_str!("p2pmem_rs.4");

/// Returns a page of this version.
fn of_this_version(page: &str) -> String {
    page.replace("@VERSION@", env!("CARGO_PKG_VERSION"))
}

/// Writes the files.
pub fn run(arguments: &Arguments, command: Command) -> Result<()> {
    let folder = |name: &str| -> Result<PathBuf> {
        let path = arguments.directory.join(name);
        fs::create_dir_all(&path)
            .with_context(|| format!("cannot create {}: choose another folder", path.display()))?;
        Ok(path)
    };

    let mut command = command.disable_help_subcommand(true);
    command.build();
    let pages: Vec<_> = iter::once(&command)
        // Hidden commands are not for users.
        .chain(command.get_subcommands().filter(|one| !one.is_hide_set()))
        .collect();
    let man = folder("man/man1")?;
    for one in &pages {
        let others = pages.iter().map(|page| name_of(page));
        let others: Vec<_> = others.filter(|name| *name != name_of(one)).collect();
        let path = man.join(format!("{}.1", name_of(one)));
        fs::write(&path, page(one, &others)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }

    for (section, name, page) in [
        ("man/man7", "p2pmem.7", OVERVIEW),
        ("man/man4", "p2pmem_rs.4", MODULE),
    ] {
        let path = folder(section)?.join(name);
        fs::write(&path, of_this_version(page))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }

    let shells: [(&dyn EnvCompleter, &str, &str); 3] = [
        (&Bash, "bash-completion/completions", "p2pmem"),
        (&Zsh, "zsh/site-functions", "_p2pmem"),
        (&Fish, "fish/vendor_completions.d", "p2pmem.fish"),
    ];
    for (shell, name, file) in shells {
        let path = folder(name)?.join(file);
        let mut text = Vec::new();
        // The shell asks the program, which knows the devices.
        shell.write_registration("COMPLETE", "p2pmem", "p2pmem", "p2pmem", &mut text)?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }

    Ok(())
}

/// The name of a command's page, like p2pmem-list.
fn name_of(command: &Command) -> &str {
    command.get_display_name().unwrap_or(command.get_name())
}

/// Returns a page: text of the command's definition, and the sections of all pages.
fn page(command: &Command, others: &[&str]) -> Result<Vec<u8>> {
    let man = Man::new(command.clone())
        .manual("User Commands")
        // None, so that the same sources make the same page. It must not be empty.
        .date(" ")
        .source(concat!("p2pmem ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }

    let mut roff = Roff::new();
    let help = command.get_after_help().map(ToString::to_string);
    if let Some(help) = help.filter(|help| help.starts_with("Example")) {
        roff.control("SH", ["EXAMPLES"]).control("nf", []);
        for line in help.lines().skip(1) {
            roff.text([roman(line.trim_start())]);
        }
        roff.control("fi", []);
    }
    for (section, list) in [("EXIT STATUS", EXIT_STATUS), ("FILES", FILES)] {
        roff.control("SH", [section]);
        for &(name, meaning) in list {
            roff.control("TP", []).text([bold(name)]);
            roff.text([roman(meaning)]);
        }
    }
    roff.control("SH", ["SEE ALSO"]);
    for name in others {
        roff.text([bold(*name), roman("(1),")]);
    }
    roff.text([bold("p2pmem"), roman("(7)")]);
    roff.to_writer(&mut text)?;

    Ok(text)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn each_command_has_a_page_and_an_example() {
        let mut command = crate::command::Arguments::command().disable_help_subcommand(true);
        command.build();
        for one in command.get_subcommands() {
            let text = String::from_utf8(page(one, &["p2pmem"]).unwrap()).unwrap();
            for word in [
                &format!("p2pmem {}", one.get_name()),
                ".SH EXAMPLES",
                ".SH \"EXIT STATUS\"",
                ".SH FILES",
                ".SH \"SEE ALSO\"",
            ] {
                assert!(text.contains(word), "{word} is not in {text}");
            }
        }
    }

    #[test]
    fn the_overview_names_what_topo_and_doctor_say() {
        let text = of_this_version(OVERVIEW);
        assert!(text.contains(env!("CARGO_PKG_VERSION")) && !text.contains('@'));
        for word in [
            "Translation Blocking",
            "Direct Translated P2P",
            "pci=noats",
            "IOMMU group",
        ] {
            assert!(text.contains(word), "{word} is not in {text}");
        }
    }

    #[test]
    fn the_page_of_the_module_names_its_files() {
        let text = of_this_version(MODULE);
        assert!(text.contains(env!("CARGO_PKG_VERSION")) && !text.contains("@VERSION"));
        for word in [
            "regions",
            "limit_per_user",
            "slots",
            "adopt",
            "debug",
            "allocations",
        ] {
            assert!(text.contains(word), "{word} is not in {text}");
        }
    }

    #[test]
    fn definitions_are_sound() {
        crate::command::Arguments::command().debug_assert();
    }
}
