// SPDX-License-Identifier: GPL-2.0

//! Checks of devices with memory: whether they answer, and what keeps memory from being a provider.

use super::check::{Check, Status};
use p2pmem::{
    fabric::{Bar, Fabric, Function},
    size,
};

/// Less than this cannot be a provider.
const LEAST: u64 = 2 << 20;

/// Devices that are memory and nothing else, which p2pmem_rs binds by their IDs.
const KNOWN: &[(&str, &str)] = &[("1af4", "1110"), ("1de5", "1000"), ("11f8", "f117")];

/// Drivers that hold a device for another program, and use none of it themselves.
const HOLDERS: &[&str] = &["vfio-pci", "pci-stub", "uio_pci_generic", "pciback"];

/// Checks the Command registers of providers, of drives in use, and of all bridges above them.
pub(super) fn decoding(fabric: &Fabric) -> Vec<Check> {
    let is_provider = |function: &Function| fabric.provider_of(function.address).is_some();
    let is_drive = |function: &Function| {
        function.driver.is_some() && fabric.drives_of(function.address).next().is_some()
    };
    let ends: Vec<_> = fabric
        .functions
        .iter()
        .filter(|function| is_provider(function) || is_drive(function))
        .collect();
    let on_the_way = |bridge: &Function| {
        let above = |end: &&Function| {
            fabric
                .way_up(end.address)
                .any(|one| one.address == bridge.address)
        };
        ends.iter().any(above)
    };

    fabric
        .functions
        .iter()
        .filter_map(|function| {
            let bridge = function.is_bridge() && on_the_way(function);
            let mut off = Vec::new();
            if !function.decodes_memory() && (bridge || is_provider(function) || is_drive(function))
            {
                off.push("Memory Space Enable");
            }
            if !function.masters_bus() && (bridge || is_drive(function)) {
                off.push("Bus Master Enable");
            }
            if off.is_empty() {
                return None;
            }
            let cause = if bridge {
                "It does not pass requests on: what is read is all ones, what is written is lost."
            } else if is_drive(function) {
                "The drive does not answer, or makes no requests: its I/O does not end."
            } else {
                "It does not answer requests: what is read is all ones, what is written is lost."
            };
            let cure = match is_provider(function) && !is_drive(function) {
                true => format!(
                    "Find out which program cleared it, then switch it on: p2pmem unbind {0}, \
                     p2pmem bind {0}",
                    function.address
                ),
                false => {
                    "Find out which program cleared it, as setpci does; a restart sets it again."
                        .to_owned()
                }
            };
            let found = format!("{} clear in the Command register", off.join(" and "));
            Some(
                Check::new(function.address.to_string(), Status::Problem, found)
                    .because(cause)
                    .cured_by(cure),
            )
        })
        .collect()
}

/// Why memory of a device is no provider.
enum Unused<'a> {
    /// The BAR has no address.
    Unassigned(u32),
    /// Another driver holds the device.
    Held(&'a str, &'a Bar),
    /// It is likely to be the Persistent Memory Region of a drive.
    Pmr(&'a Bar),
}

impl<'a> Unused<'a> {
    fn of(fabric: &Fabric, function: &'a Function) -> Option<Self> {
        if function.is_bridge() || fabric.provider_of(function.address).is_some() {
            return None;
        }
        let is_known = KNOWN.contains(&(&*function.vendor, &*function.device))
            || function.class.starts_with("05");
        if let (Some(&bar), true) = (
            function.unassigned.first(),
            is_known || function.moves_data(),
        ) {
            return Some(Self::Unassigned(bar));
        }

        let memory = |bar: &&Bar| bar.prefetchable && bar.size >= LEAST;
        let largest = |bars: &'a [Bar]| bars.iter().filter(memory).max_by_key(|bar| bar.size);
        let driver = function.driver.as_deref()?;
        if driver == "nvme" && !function.cmb {
            // The registers are in BAR 0 and 1, and a CMB would be listed.
            let others = function.bars.iter().position(|bar| bar.number > 1)?;
            return largest(&function.bars[others..]).map(Self::Pmr);
        }
        // A graphics card that is passed on to a virtual machine is so on purpose.
        let passed_on = HOLDERS.contains(&driver) && fabric.providers.is_empty();
        (is_known || passed_on)
            .then(|| largest(&function.bars))
            .flatten()
            .map(|bar| Self::Held(driver, bar))
    }

    fn check(&self, fabric: &Fabric, function: &Function) -> Check {
        let status = match fabric.providers.is_empty() {
            true => Status::Problem,
            false => Status::Warning,
        };
        let address = function.address;
        match self {
            Self::Unassigned(bar) => {
                let found = format!("BAR {bar} has no address");
                Check::new(address.to_string(), status, found)
                    .because(no_room(fabric, function))
                    .cured_by(make_room(fabric, function))
            }
            Self::Held(driver, bar) => Check::new(
                address.to_string(),
                status,
                format!(
                    "{driver} has it, with {} in BAR {}",
                    size::format(bar.size),
                    bar.number
                ),
            )
            .because("A device has one driver: p2pmem_rs cannot make a provider of it.")
            .cured_by(format!(
                "If it is this memory that you want: end what uses the device, then p2pmem bind \
                 {address} --force"
            )),
            Self::Pmr(bar) => Check::new(
                address.to_string(),
                Status::Ok,
                format!(
                    "BAR {} of {} is likely to be a Persistent Memory Region, which is not used",
                    bar.number,
                    size::format(bar.size)
                ),
            )
            .cured_by(format!(
                "To use it, the drive stays in use: p2pmem config {address} --regions pmr"
            )),
        }
    }
}

/// Says why a BAR may have no address.
fn no_room(fabric: &Fabric, function: &Function) -> String {
    let port = function.parent.and_then(|one| fabric.function(one));
    match port.and_then(|port| Some((&port.address, port.window?))) {
        Some((port, window)) => format!(
            "It did not fit into what the port above it, {port}, passes on: a prefetchable window of \
             {}.",
            size::format(window)
        ),
        None => "The machine had no room for it.".to_owned(),
    }
}

/// Says what to do about a BAR without an address.
fn make_room(fabric: &Fabric, function: &Function) -> String {
    let top = fabric.way_up(function.address).last();
    let top = top.filter(|top| top.address != function.address);
    let rescan = top.map_or(String::new(), |top| {
        format!(
            " Or boot with `pci=hpmmioprefsize=SIZE`, SIZE as large as the BAR at least: Linux then leaves \
             that much to slots whose windows it sets. If the firmware has set them, have Linux set them \
             anew, where all below may go away for that time: echo 1 > \
             /sys/bus/pci/devices/{}/remove; echo 1 > /sys/bus/pci/rescan. `pci=realloc` does not help.",
            top.address
        )
    });
    format!(
        "If the device was there when the machine started, switch on above 4G decoding in the BIOS setup. \
         If it was plugged in, restart with it plugged in: the firmware makes room for what it finds.\
         {rescan}"
    )
}

/// Checks devices with memory that is no provider.
pub(super) fn unused(fabric: &Fabric) -> Vec<Check> {
    fabric
        .functions
        .iter()
        .filter_map(|function| Some(Unused::of(fabric, function)?.check(fabric, function)))
        .collect()
}
