// SPDX-License-Identifier: GPL-2.0

//! Verdicts: which device reaches which memory, why not, and the cure.

use std::fmt;

use serde::Serialize;

use super::{
    acs::Redirection,
    function::{Function, Port},
    record::{Fabric, ProviderRecord},
    routes::{Route, RouteKind},
    translation::Translation,
};
use crate::pci::{self, PciAddress};

/// Whether and how a function reaches device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// The memory is its own.
    #[serde(rename = "self")]
    Own,
    /// Through a switch.
    Switch,
    /// Through the root complex.
    HostBridge,
    /// It does not.
    None,
    /// The driver does not tell.
    Unknown,
}

impl Reach {
    /// Returns whether direct I/O works; nothing if that is not known.
    pub fn works(self) -> Option<bool> {
        match self {
            Self::Own | Self::Switch | Self::HostBridge => Some(true),
            Self::None => Some(false),
            Self::Unknown => None,
        }
    }
}

impl From<RouteKind> for Reach {
    fn from(kind: RouteKind) -> Self {
        match kind {
            RouteKind::Own => Self::Own,
            RouteKind::Switch => Self::Switch,
            RouteKind::HostBridge => Self::HostBridge,
            RouteKind::None => Self::None,
        }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Own => "self",
            Self::Switch => "switch",
            Self::HostBridge => "host bridge",
            Self::None => "none",
            Self::Unknown => "unknown",
        })
    }
}

/// Verdict on a function and a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The number of the provider.
    pub provider: u32,
    /// The address of the function.
    #[serde(rename = "pci")]
    pub client: PciAddress,
    /// The drives that the function is, by name.
    pub drives: Vec<String>,
    /// The driver that has it.
    pub driver: Option<String>,
    /// Whether and how it reaches the memory.
    pub reach: Reach,
    /// How many links are on the way, as the kernel counts.
    pub distance: Option<u32>,
    /// The lowest port above both.
    pub through: Option<PciAddress>,
    /// The ports on the way that redirect requests to the root complex.
    pub acs: Vec<Redirection>,
    /// Why it is so, in a line.
    pub why: String,
    /// Cure; empty if none is needed.
    pub cure: String,
}

impl Verdict {
    /// Returns what people call the function.
    pub fn what(&self) -> String {
        match (&self.drives[..], &self.driver) {
            ([], Some(driver)) => driver.clone(),
            ([], None) => "no driver".to_owned(),
            (drives, _) => drives.join(", "),
        }
    }
}

impl Fabric {
    /// Returns whether a function is one that data may go to: a drive, or a device with a driver
    /// that moves much data.
    pub fn is_client(&self, function: &Function) -> bool {
        let in_use = function.driver.is_some() && function.moves_data();
        !function.is_bridge() && (in_use || self.drives_of(function.address).next().is_some())
    }

    /// Judges each function that is not a bridge.
    pub fn verdicts(&self, provider: &ProviderRecord) -> Vec<Verdict> {
        self.functions
            .iter()
            .filter(|function| !function.is_bridge())
            .map(|function| self.verdict(provider, function))
            .collect()
    }

    /// Judges a function.
    pub fn verdict(&self, provider: &ProviderRecord, function: &Function) -> Verdict {
        let route = provider
            .routes
            .iter()
            .flatten()
            .find(|route| route.address == function.address);
        let (why, cure) = match route {
            Some(route) => (self.why(provider, route), self.cure(provider, route)),
            None if provider.routes.is_some() => {
                ("the driver lists no way to it".to_owned(), String::new())
            }
            None => (
                "the driver lists no ways".to_owned(),
                format!(
                    "Load the p2pmem_rs that this program belongs to: its \
                     /sys/class/misc/p2pmem{}/routes tells.",
                    provider.id.number
                ),
            ),
        };

        Verdict {
            provider: provider.id.number,
            client: function.address,
            drives: self
                .drives_of(function.address)
                .map(|drive| drive.name.clone())
                .collect(),
            driver: function.driver.clone(),
            reach: route.map_or(Reach::Unknown, |route| route.kind.into()),
            distance: route.and_then(|route| route.distance),
            through: route.and_then(|route| route.through),
            acs: route.map_or_else(Vec::new, |route| route.acs.clone()),
            why,
            cure,
        }
    }

    /// Says in a line why a way is what it is.
    fn why(&self, provider: &ProviderRecord, route: &Route) -> String {
        let up = if !route.acs.is_empty() {
            let ports: Vec<_> = route.acs.iter().map(|one| one.port).collect();
            format!("ACS redirects to the root complex at {}", pci::list(&ports))
        } else if self.is_integrated(provider.id.pci) || self.is_integrated(route.address) {
            "on a root bus, no port is above both".to_owned()
        } else if route.hosts.len() > 1 {
            "below different host bridges".to_owned()
        } else {
            "below different root ports".to_owned()
        };
        let hosts = route.hosts.join(" and ");

        match route.kind {
            RouteKind::Own => "the memory is its own".to_owned(),
            RouteKind::Switch => match route.through {
                Some(port) => format!("stays below {port}"),
                None => "stays below a port above both".to_owned(),
            },
            RouteKind::HostBridge if self.cpu.is_zen() => {
                format!("{up}; Linux lets an AMD Zen forward")
            }
            RouteKind::HostBridge => format!("{up}; Linux lets host bridge {hosts} forward"),
            RouteKind::None if route.hosts.iter().any(|host| host == "-") => {
                format!("{up}; the root complex has no device that Linux could look up")
            }
            RouteKind::None if route.hosts.len() > 1 => {
                format!("{up}; Linux does not let {hosts} forward to each other")
            }
            RouteKind::None => {
                format!("{up}; host bridge {hosts} is not one that Linux lets forward")
            }
        }
    }

    /// Says what to do about a way.
    fn cure(&self, provider: &ProviderRecord, route: &Route) -> String {
        match route.kind {
            RouteKind::Own | RouteKind::Switch => String::new(),
            _ if !route.acs.is_empty() => self.acs_cure(route.kind.into(), &route.acs),
            RouteKind::HostBridge => String::new(),
            RouteKind::None => self.apart_cure(provider, route.address),
        }
    }

    /// Says what to do about ports that redirect, where that leaves a way below a switch.
    pub fn acs_cure<'a>(
        &self,
        reach: Reach,
        ports: impl IntoIterator<Item = &'a Redirection>,
    ) -> String {
        let parameter = self.acs_parameter(ports);
        let goal = match reach {
            Reach::None => "",
            _ => "It works, through the root complex. To keep it out of there: ",
        };
        let quoting = if parameter.contains(';') {
            r" (in /etc/default/grub write \; for each ;)"
        } else {
            ""
        };
        let because = match self.translation() {
            _ if self.kernel.command_line.contains("config_acs=") => {
                "First take them out of `config_acs` on the command line, which has the last word."
            }
            Translation::Off => {
                "No IOMMU is in use, so it was the firmware that turned ACS on: look for ACS in the \
                 BIOS setup as well."
            }
            _ => {
                "The IOMMU groups below these ports get larger: their devices are less isolated from \
                 each other. Linux turns ACS on where it uses an IOMMU; the BIOS setup may have a \
                 setting for ACS, too."
            }
        };
        format!("{goal}Boot with `{parameter}`{quoting}. {because}")
    }

    /// Returns the kernel parameter that turns redirection off at ports. Contains those for which
    /// the command line does so already: the last parameter counts.
    fn acs_parameter<'a>(&self, ports: impl IntoIterator<Item = &'a Redirection>) -> String {
        const NAME: &str = "disable_acs_redir=";
        let mut addresses: Vec<String> = self
            .kernel
            .command_line
            .split([' ', ','])
            .filter_map(|word| word.trim_start_matches("pci=").strip_prefix(NAME))
            .flat_map(|list| list.split(';'))
            .map(str::to_owned)
            .collect();
        addresses.extend(ports.into_iter().map(|port| port.port.to_string()));
        let mut seen = Vec::new();
        addresses.retain(|address| {
            let new = !seen.contains(address);
            seen.push(address.clone());
            new
        });
        format!("pci={NAME}{}", addresses.join(";"))
    }

    /// Returns whether a function is part of the root complex: there is no port above it.
    fn is_integrated(&self, address: PciAddress) -> bool {
        self.function(address)
            .is_some_and(|function| function.parent.is_none())
    }

    /// Says what to do about devices that no port is above.
    fn apart_cure(&self, provider: &ProviderRecord, client: PciAddress) -> String {
        let switch = |address: PciAddress| {
            self.way_up(address)
                .find(|function| function.port == Some(Port::Upstream))
                .map(|port| port.address)
        };
        let place = match (switch(provider.id.pci), switch(client)) {
            _ if self.is_integrated(client) || self.is_integrated(provider.id.pci) => {
                "One of the two is part of the root complex, and cannot be moved: use another device"
                    .to_owned()
            }
            (Some(port), _) => {
                format!("Move the device to a slot below the switch at {port}, as the memory is")
            }
            (None, Some(port)) => {
                format!("Move the memory to a slot below the switch at {port}, as the device is")
            }
            (None, None) => "Move both to slots below one PCIe switch".to_owned(),
        };
        format!(
            "{place}; or use a machine whose root complex Linux lets forward: AMD Zen and newer, \
             Intel Xeon Scalable. No setting changes this."
        )
    }
}
