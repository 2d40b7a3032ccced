// SPDX-License-Identifier: GPL-2.0

//! `p2pmem config`.

use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};
use clap::{
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
    ArgGroup, Args,
};
use clap_complete::engine::ArgValueCandidates;
use p2pmem::{
    size,
    sysfs::{self, Details, Entry, Slots},
    PciAddress, Root,
};

use crate::{
    apply::{self, Groups},
    manage::{self, Device, Settings},
    table, terminal,
};
use serde::Serialize;

use super::{
    change::{report, Change},
    complete::nodes_and_devices,
    interrupt, output,
};

/// Show and change settings of devices.
///
/// Without options, shows the settings of one device or of all. Regions take effect the next time
/// that the device is bound; the PMR of a drive in use is switched on and off at once, and if the
/// driver refuses it the error has the reason. All other settings take effect at once, until the
/// device is unbound.
#[derive(Args)]
#[command(
    group(ArgGroup::new("setting").multiple(true).requires("device")),
    after_help = "Examples:\n  \
    p2pmem config\n  \
    p2pmem config p2pmem0 --limit-per-user 64M --clear on\n  \
    p2pmem config p2pmem0 --slots nobody\n  \
    p2pmem config 03:00.0 --regions pmr\n  \
    p2pmem config --save"
)]
pub struct Arguments {
    /// The device, like 0000:05:00.0 or 05:00.0, or its node.
    #[arg(add = ArgValueCandidates::new(nodes_and_devices))]
    device: Option<String>,
    /// Memory to register: cmb, pmr, or barN[@OFFSET][+SIZE], in bytes or with K, M or G; or
    /// default.
    ///
    /// Can be passed several times.
    #[arg(long, value_parser = regions, group = "setting")]
    regions: Vec<String>,
    /// Whether memory is cleared when it is allocated.
    #[arg(long, value_parser = on_or_off(), group = "setting")]
    clear: Option<bool>,
    /// Limit of each open file: bytes, or with K, M or G; 0 for no limit.
    #[arg(long, value_parser = size::parse, value_name = "SIZE", group = "setting")]
    limit_per_file: Option<u64>,
    /// Limit of each user, over all files of the node: bytes, or with K, M or G; 0 for no limit.
    #[arg(long, value_parser = size::parse, value_name = "SIZE", group = "setting")]
    limit_per_user: Option<u64>,
    /// Processes that may put memory into slots of an io_uring, and export it to devices that
    /// cannot give it back.
    ///
    /// A request through a slot bypasses two checks of the block layer: whether the queue takes
    /// device memory at all (BLK_FEAT_PCI_P2PDMA), and that requests for device memory are not
    /// merged with requests for other memory (REQ_NOMERGE). Behind an IOMMU, a merged request goes
    /// to the wrong address, and data is lost. With mapped memory the block layer makes both
    /// checks, so mapping needs no right. An export to devices that cannot give memory back keeps
    /// the provider from being unbound while a device has it mapped.
    #[arg(long, value_parser = slots(), group = "setting")]
    slots: Option<Slots>,
    /// Write the regions and settings of all nodes, or of the device, as lines of
    /// /etc/p2pmem/regions.d to a file, which p2pmem apply reads at boot; - for standard output.
    #[arg(
        long,
        value_name = "FILE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "/etc/p2pmem/regions.d/saved.conf",
        conflicts_with = "setting"
    )]
    save: Option<PathBuf>,
    /// Print what would be done as shell commands, and do nothing.
    #[arg(long, requires = "setting")]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

fn on_or_off() -> impl TypedValueParser<Value = bool> {
    PossibleValuesParser::new(["on", "off"]).map(|word| word == "on")
}

/// Reads names as sysfs has them.
fn slots() -> impl TypedValueParser<Value = Slots> {
    let value = |slots: Slots| {
        PossibleValue::new(slots.name()).help(match slots {
            Slots::Nobody => "No process",
            Slots::Privileged => "Processes with CAP_SYS_RAWIO. This is the default",
            Slots::Everybody => "All processes that may open the node",
        })
    };
    PossibleValuesParser::new(Slots::ALL.map(value)).try_map(|name| {
        Slots::ALL
            .into_iter()
            .find(|slots| slots.name() == name)
            .ok_or("unknown")
    })
}

/// Reads regions as far as the shell is concerned. What they mean is for the driver to say.
pub fn regions(text: &str) -> Result<String, String> {
    let words: Vec<_> = text.split_whitespace().collect();
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"@+".contains(&byte);

    if words.is_empty() || !words.iter().all(|word| word.bytes().all(known)) {
        return Err(format!(
            "`{text}` is not a region: write cmb, pmr, bar2, bar2@16M+64M or default"
        ));
    }
    Ok(words.join(" "))
}

/// Output of `--json` without an option that changes a setting.
#[derive(Serialize)]
struct Shown {
    /// By the numbers of the nodes; then devices without one, of which something is chosen.
    devices: Vec<Configured>,
}

/// The settings of a device.
#[derive(Serialize)]
struct Configured {
    /// The address of the PCI device.
    pci: PciAddress,
    /// The node. Null if there is none.
    path: Option<PathBuf>,
    /// Regions for the next time that it is bound. Null for the default.
    choice: Option<String>,
    /// Its current settings. Null without a node.
    current: Option<Details>,
}

/// Shows or changes settings.
pub fn run(arguments: &Arguments) -> Result<()> {
    let root = Root::default();
    let device = match &arguments.device {
        Some(text) => Some(Device::find(&root, text)?),
        None => None,
    };
    let regions = arguments.regions.join(" ");
    let settings = Settings {
        regions: Some(regions).filter(|regions| !regions.is_empty()),
        clear: arguments.clear,
        limit_per_file: arguments.limit_per_file,
        limit_per_user: arguments.limit_per_user,
        slots: arguments.slots,
    };

    if let Some(file) = &arguments.save {
        return save(&root, device.as_ref(), file, arguments.json);
    }
    match device {
        Some(device) if settings != Settings::default() => {
            set(&root, &device, &settings, arguments)
        }
        device => show(&root, device, arguments.json),
    }
}

fn set(root: &Root, device: &Device, settings: &Settings, arguments: &Arguments) -> Result<()> {
    let plan = manage::configure(root, device, settings)?;
    // A change that was begun is finished, or undone.
    let _signals = interrupt::flag()?;
    if !arguments.dry_run {
        plan.run(root, || manage::check_adopted(root, device, settings))
            .with_context(|| format!("cannot configure {}", device.pci))?;
    }

    let change = Change {
        driver: device.driver(root),
        path: device.node.as_ref().map(|node| node.id.path()),
        ..Change::new(device, &plan, arguments.dry_run)
    };
    report("config", &change, arguments.json, || {
        if settings.regions.is_some() && change.driver.as_deref() == Some(manage::DRIVER) {
            format!(
                "regions take effect the next time that {} is bound\n",
                device.pci
            )
        } else {
            String::new()
        }
    })
}

/// Output of `--save --json`.
#[derive(Serialize)]
struct Saved {
    /// The file. Null for standard output.
    file: Option<PathBuf>,
    /// Its lines.
    lines: Vec<String>,
}

/// Writes lines for p2pmem apply.
fn save(root: &Root, device: Option<&Device>, file: &Path, json: bool) -> Result<()> {
    let groups = Groups::read();
    let nodes = match device {
        Some(device) => vec![device.node.clone().with_context(|| {
            format!(
                "{0} has no node: bind it first (p2pmem bind {0})",
                device.pci
            )
        })?],
        None => sysfs::providers(root).context("cannot read sysfs")?,
    };
    let mut lines = Vec::new();
    for node in &nodes {
        lines.push(apply::line_of(root, node, &groups)?);
    }
    ensure!(
        !lines.is_empty(),
        "there is no node to save: bind a device first (p2pmem bind)"
    );
    let is_output = file == Path::new("-");
    if !is_output {
        apply::save(file, &lines, &groups)?;
    }

    if json {
        let file = (!is_output).then(|| file.to_owned());
        return output::print("config", Saved { file, lines }, None);
    }
    terminal::print(&match is_output {
        true => lines.join("\n") + "\n",
        false => format!("saved to {}\n", file.display()),
    })
}

fn show(root: &Root, device: Option<Device>, json: bool) -> Result<()> {
    let mut choices = manage::choices::read(root)?;
    let nodes = match &device {
        Some(device) => device.node.iter().cloned().collect(),
        None => sysfs::providers(root).context("cannot read sysfs")?,
    };
    let mut devices = Vec::new();
    for node in nodes {
        let place = choices.iter().position(|(pci, _)| *pci == node.id.pci);
        devices.push(Configured {
            choice: place.map(|place| choices.remove(place).1),
            current: Some(read(&node)?),
            pci: node.id.pci,
            path: Some(node.id.path()),
        });
    }
    for (pci, choice) in choices {
        if device.as_ref().is_none_or(|device| device.pci == pci) {
            devices.push(Configured {
                pci,
                path: None,
                choice: Some(choice),
                current: None,
            });
        }
    }

    if json {
        return output::print("config", Shown { devices }, None);
    }
    let mut rows = Vec::new();
    for device in devices {
        let of_node = |text: &dyn Fn(&Details) -> String| {
            device.current.as_ref().map_or("-".to_owned(), text)
        };
        let limit = |bytes: u64| match bytes {
            0 => "any".to_owned(),
            _ => size::format(bytes),
        };
        rows.push(vec![
            device
                .path
                .as_ref()
                .map_or("-".to_owned(), |path| path.display().to_string()),
            device.pci.to_string(),
            device.choice.clone().unwrap_or("default".to_owned()),
            of_node(&|now| if now.clear { "on" } else { "off" }.to_owned()),
            of_node(&|now| limit(now.limit_per_file)),
            of_node(&|now| limit(now.limit_per_user)),
            of_node(&|now| now.slots.map_or("-", Slots::name).to_owned()),
        ]);
    }
    terminal::print(&table::render(
        &[
            "NODE",
            "DEVICE",
            "REGIONS",
            "CLEAR",
            "PER FILE#",
            "PER USER#",
            "SLOTS",
        ],
        rows,
        None,
    ))
}

fn read(node: &Entry) -> Result<Details> {
    node.details().with_context(|| {
        format!(
            "cannot read the settings of {}: is it still there (p2pmem list)?",
            node.id
        )
    })
}
