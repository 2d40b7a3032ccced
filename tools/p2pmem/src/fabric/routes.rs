// SPDX-License-Identifier: GPL-2.0

//! The ways from a provider to other functions, as the driver lists them in
//! `/sys/class/misc/p2pmemN/routes`, and what else it tells there of functions.

use serde::{Deserialize, Serialize};

use super::{
    acs::{Acs, Redirection},
    function::{Function, Port},
};
use crate::pci::PciAddress;

/// The way between a provider and a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The address of the function.
    #[serde(rename = "pci", alias = "address")]
    pub address: PciAddress,
    /// Which way it is.
    pub kind: RouteKind,
    /// How many links are on it, as the kernel counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distance: Option<u32>,
    /// The lowest port above both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<PciAddress>,
    /// The ports on the way that redirect requests to the root complex.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acs: Vec<Redirection>,
    /// Vendor and device ID of the root complex devices that the kernel looks up in its list of
    /// host bridges: one, or two where both ends have one of their own; `-` for one without any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
}

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteKind {
    /// The function is the provider itself.
    #[serde(rename = "self")]
    Own,
    /// It stays below a port that is above both.
    Switch,
    /// Through the root complex, which the kernel allows.
    HostBridge,
    /// The kernel refuses.
    None,
}

/// Reads the text of a `routes` file. Lines and keys that this version does not know are left out.
pub fn parse(text: &str) -> Vec<Route> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<Route> {
    let mut words = line.split_whitespace();
    let address = PciAddress::from_name(words.next()?)?;
    let kind = match words.next()? {
        "self" => RouteKind::Own,
        "switch" => RouteKind::Switch,
        "host-bridge" => RouteKind::HostBridge,
        "none" => RouteKind::None,
        _ => return None,
    };
    let mut route = Route {
        address,
        kind,
        distance: None,
        through: None,
        acs: Vec::new(),
        hosts: Vec::new(),
    };

    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        match key {
            "distance" => route.distance = value.parse().ok(),
            "through" => route.through = PciAddress::from_name(value),
            "acs" => route.acs = value.split(',').filter_map(redirection).collect(),
            "host" => route.hosts = value.split(',').map(str::to_owned).collect(),
            _ => (),
        }
    }
    Some(route)
}

/// Facts of a `routes` line about a function that do not depend on the provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FunctionDetails {
    address: PciAddress,
    port: Option<Port>,
    acs: Option<Acs>,
    ats: Option<bool>,
    pasid: Option<bool>,
    pri: Option<bool>,
}

impl FunctionDetails {
    /// Reads the text of a `routes` file.
    pub fn parse(text: &str) -> Vec<Self> {
        text.lines().filter_map(Self::line).collect()
    }

    fn line(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let mut details = Self {
            address: PciAddress::from_name(words.next()?)?,
            ..Self::default()
        };
        let is_port = words.next()? == "port";
        let enabled = |value| match value {
            "on" => Some(true),
            "off" => Some(false),
            _ => None,
        };

        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "ats" => details.ats = enabled(value),
                "pasid" => details.pasid = enabled(value),
                "pri" => details.pri = enabled(value),
                "type" if is_port => {
                    details.port = match value {
                        "root" => Some(Port::Root),
                        "upstream" => Some(Port::Upstream),
                        "downstream" => Some(Port::Downstream),
                        "bridge" => Some(Port::Bridge),
                        _ => None,
                    }
                }
                "acs" if is_port => {
                    details.acs = value.split_once('/').map(|(capability, control)| Acs {
                        capability: capability.to_owned(),
                        control: control.to_owned(),
                    });
                }
                _ => (),
            }
        }
        Some(details)
    }

    /// Adds what is told to the function that it is told of.
    pub fn apply(self, functions: &mut [Function]) {
        let Some(function) = functions
            .iter_mut()
            .find(|function| function.address == self.address)
        else {
            return;
        };
        function.port = self.port.or(function.port);
        function.acs = self.acs;
        function.ats = self.ats;
        function.pasid = self.pasid;
        function.pri = self.pri;
    }
}

fn redirection(text: &str) -> Option<Redirection> {
    let (port, control) = text.rsplit_once(':')?;
    Some(Redirection {
        port: PciAddress::from_name(port)?,
        control: control.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_line_is_read() {
        let routes = parse(
            "0000:05:00.0 self distance=0\n\
             0000:03:00.0 switch distance=4 through=0000:01:00.0\n\
             0000:08:00.0 host-bridge distance=6 host=1022:1480\n\
             0000:0b:00.0 none through=0000:01:00.0 acs=0000:02:00.0:001d,0000:02:01.0:0020 host=8086:29c0,8086:2030\n",
        );
        let kinds: Vec<_> = routes.iter().map(|route| route.kind).collect();
        assert_eq!(
            kinds,
            [
                RouteKind::Own,
                RouteKind::Switch,
                RouteKind::HostBridge,
                RouteKind::None
            ]
        );
        assert_eq!(routes[1].distance, Some(4));
        assert_eq!(routes[1].through, Some("0000:01:00.0".parse().unwrap()));
        assert_eq!(routes[2].hosts, ["1022:1480"]);
        let last = &routes[3];
        assert_eq!((last.distance, last.acs.len()), (None, 2));
        assert_eq!(last.acs[0].port.to_string(), "0000:02:00.0");
        assert_eq!(
            last.acs[0].controls(),
            ["P2P Request Redirect", "P2P Completion Redirect"]
        );
        assert_eq!(last.acs[1].controls(), ["P2P Egress Control"]);
        assert_eq!(last.hosts, ["8086:29c0", "8086:2030"]);
    }

    #[test]
    fn what_functions_have_is_read() {
        let text = "0000:05:00.0 self distance=0 ats=on pasid=off\n\
                    0000:02:00.0 port type=downstream acs=005f/001d\n\
                    0000:02:01.0 port type=carrier\n";
        let function = |address: &str| Function {
            address: address.parse().unwrap(),
            ..Function::default()
        };
        let mut functions = ["0000:02:00.0", "0000:02:01.0", "0000:05:00.0"].map(function);
        functions[1].port = Some(Port::Root);
        for details in FunctionDetails::parse(text) {
            details.apply(&mut functions);
        }
        assert_eq!(functions[0].port, Some(Port::Downstream));
        let acs = functions[0].acs.as_ref().unwrap();
        assert_eq!((&*acs.capability, &*acs.control), ("005f", "001d"));
        assert!(acs.redirects() && !acs.blocks_translated() && !acs.passes_translated());
        assert_eq!(functions[1].port, Some(Port::Root));
        let memory = &functions[2];
        assert_eq!(
            (memory.ats, memory.pasid, memory.pri),
            (Some(true), Some(false), None)
        );
        // Ports have no way of their own.
        assert_eq!(parse(text).len(), 1);
    }

    #[test]
    fn what_is_new_is_left_out() {
        let routes = parse(
            "0000:03:00.0 switch distance=4 colour=blue bare\n\
             0000:04:00.0 by-carrier-pigeon distance=9\n\n0000:06:00.0\n\
             0000:07:00.0 none host=-\n",
        );
        assert_eq!(routes.len(), 2);
        assert_eq!(routes[0].distance, Some(4));
        assert_eq!(routes[1].hosts, ["-"]);
    }
}
