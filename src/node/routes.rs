// SPDX-License-Identifier: GPL-2.0

//! How other devices reach the memory: the file `routes` of a node in sysfs.
//!
//! A line for each device that could do DMA: its address, its route, and `key=value`.
//!
//! - `self`: the provider. `switch`: requests turn around at `through` or below it. `host-bridge`:
//!   they go up to the root complex, and the kernel trusts that. `none`: the kernel does not allow
//!   DMA to the memory.
//! - `distance`: hops between ports.
//! - `through`: the lowest port that is above both.
//! - `acs`: ports on the way that send requests upstream, each with its ACS Control register.
//! - `host`: vendor and device ID by which the kernel knows the host bridge of the provider, and
//!   that of the client if that is another one; `-` if there is nothing to know it by.
//! - `ats`, `pasid`, `pri`: `on` or `off` for each of these capabilities that the device has.
//!
//! And a line for each bridge: its address, `port`, and `key=value`.
//!
//! - `type`: `root`, `upstream`, `downstream`, or `bridge` if one side of it is not PCI Express.
//! - `acs`: its ACS Capability register and, behind a slash, its ACS Control register.

use kernel::{
    alloc::KVVec,
    fmt,
    pci,
    prelude::*,
    str::CString,
    sync::{
        aref::ARef,
        Mutex, //
    },
    time::{
        Delta,
        Instant,
        Monotonic, //
    }, //
};

use kernel_ext::{
    gate::RegistrationGuard,
    pci::{
        p2pdma,
        tree::{
            self,
            Feature,
            PortType,
            ACS_REDIRECT, //
        },
    },
};

use crate::provider::Provider;

/// For how long a text is good: so that one that is read in pieces is of one piece.
const GOOD: Delta = Delta::from_secs(5);

/// Routes that were found.
pub(crate) struct Found {
    /// The text, and since when it is so.
    text: Option<(Instant<Monotonic>, KVVec<u8>)>,
    /// Whether the kernel allows DMA through host bridges. It decides by what these are, and writes
    /// to the log if it does not know them: it is asked once.
    allowed: KVec<(Hosts, bool)>,
}

impl Found {
    /// Nothing yet.
    pub(crate) const fn new() -> Self {
        Self {
            text: None,
            allowed: KVec::new(),
        }
    }
}

/// The host bridge of the provider, and that of the client if it is another one: vendor and device
/// ID if they can be known.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Hosts {
    provider: Option<(u16, u16)>,
    client: Option<Option<(u16, u16)>>,
}

/// Returns all lines, as they were some seconds ago at most.
pub(crate) fn list(provider: &Provider, found: &Mutex<Found>) -> Result<KVVec<u8>> {
    let inside = provider.enter()?;

    let mut found = found.lock();
    let text = match found.text.take() {
        Some((since, text)) if since.elapsed() < GOOD => (since, text),
        _ => (Instant::now(), find(provider, &mut found.allowed, &inside)?),
    };
    let (_, text) = found.text.insert(text);

    let mut copy = KVVec::new();
    copy.extend_from_slice(text, GFP_KERNEL)?;
    Ok(copy)
}

fn find(
    provider: &Provider,
    allowed: &mut KVec<(Hosts, bool)>,
    _inside: &RegistrationGuard<'_>,
) -> Result<KVVec<u8>> {
    let mut text = KVVec::new();
    for pdev in tree::devices() {
        let line = if tree::is_endpoint(&pdev) {
            let route = Route::new(provider.device(), &pdev, allowed)?;
            CString::try_from_fmt(fmt!("{}{}\n", route, Features(&pdev)))?
        } else if tree::is_bridge(&pdev) {
            CString::try_from_fmt(fmt!("{}\n", Port(&pdev)))?
        } else {
            continue;
        };

        text.extend_from_slice(line.to_bytes(), GFP_KERNEL)?;
    }

    Ok(text)
}

/// The way from a client to the provider's memory, found as mainline's p2pdma finds it.
struct Route<'a> {
    provider: &'a pci::Device,
    client: &'a pci::Device,
    distance: Option<usize>,
    /// The lowest port above both.
    meeting: Option<ARef<pci::Device>>,
    /// Ports that send requests upstream, with their ACS Control registers.
    redirects: KVec<(ARef<pci::Device>, u16)>,
    /// None if requests turn around in a switch.
    hosts: Option<Hosts>,
}

impl<'a> Route<'a> {
    fn new(
        provider: &'a pci::Device,
        client: &'a pci::Device,
        allowed: &mut KVec<(Hosts, bool)>,
    ) -> Result<Self> {
        let mut ports = tree::way_up(provider).enumerate();
        let meeting = ports.find_map(|(above_provider, port)| {
            let above_client =
                tree::way_up(client).position(|other| tree::is_same(&port, &other))?;

            Some((port, above_provider, above_client))
        });
        let mut redirects = KVec::new();
        let hops = match &meeting {
            Some((_, above_provider, above_client)) => {
                // The port where they meet counts once.
                add_redirects(&mut redirects, provider, above_provider + 1)?;
                add_redirects(&mut redirects, client, *above_client)?;
                above_provider + above_client
            }
            // There is nothing to send away from.
            None => tree::way_up(provider).count() + tree::way_up(client).count(),
        };
        let hosts = (meeting.is_none() || !redirects.is_empty()).then(|| Hosts {
            provider: tree::host_bridge(provider),
            client: (!tree::share_host_bridge(provider, client)).then(|| tree::host_bridge(client)),
        });
        let is_allowed = match hosts {
            Some(hosts) => is_allowed(provider, client, hosts, allowed)?,
            None => true,
        };

        Ok(Self {
            provider,
            client,
            distance: is_allowed.then_some(hops),
            meeting: meeting.map(|(port, _, _)| port),
            redirects,
            hosts,
        })
    }
}

/// Adds those ports that send requests upstream, of so many on the way up from a device.
fn add_redirects(
    redirects: &mut KVec<(ARef<pci::Device>, u16)>,
    pdev: &pci::Device,
    count: usize,
) -> Result {
    for port in tree::way_up(pdev).take(count) {
        match tree::acs_control(&port) {
            Some(control) if control & ACS_REDIRECT != 0 => {
                redirects.push((port, control), GFP_KERNEL)?
            }
            _ => (),
        }
    }

    Ok(())
}

/// Returns whether the kernel allows DMA through host bridges.
fn is_allowed(
    provider: &pci::Device,
    client: &pci::Device,
    hosts: Hosts,
    known: &mut KVec<(Hosts, bool)>,
) -> Result<bool> {
    if let Some((_, allowed)) = known.iter().find(|(other, _)| *other == hosts) {
        return Ok(*allowed);
    }
    let allowed = p2pdma::distance(provider, &[client])?.is_some();

    known.push((hosts, allowed), GFP_KERNEL)?;
    Ok(allowed)
}

impl fmt::Display for Route<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let route = match self.distance {
            None => "none",
            Some(_) if tree::is_same(self.provider, self.client) => "self",
            Some(_) if self.hosts.is_none() => "switch",
            Some(_) => "host-bridge",
        };
        f.write_fmt(fmt!("{} {}", self.client.as_ref().name(), route))?;
        if let Some(distance) = self.distance {
            f.write_fmt(fmt!(" distance={}", distance))?;
        }
        if let Some(port) = &self.meeting {
            f.write_fmt(fmt!(" through={}", port.as_ref().name()))?;
        }
        let mut word = " acs=";
        for (port, control) in &self.redirects {
            f.write_fmt(fmt!("{}{}:{:04x}", word, port.as_ref().name(), control))?;
            word = ",";
        }
        if let Some(hosts) = &self.hosts {
            hosts.write(f)?;
        }

        Ok(())
    }
}

impl Hosts {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut word = " host=";

        for host in [Some(self.provider), self.client].into_iter().flatten() {
            match host {
                Some((vendor, device)) => {
                    f.write_fmt(fmt!("{}{:04x}:{:04x}", word, vendor, device))?
                }
                None => f.write_fmt(fmt!("{}-", word))?,
            }
            word = ",";
        }

        Ok(())
    }
}

/// Capabilities of a device by which it asks for addresses itself.
struct Features<'a>(&'a pci::Device);

impl fmt::Display for Features<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, feature) in [
            ("ats", Feature::Ats),
            ("pasid", Feature::Pasid),
            ("pri", Feature::Pri),
        ] {
            if let Some(enabled) = feature.is_enabled(self.0) {
                f.write_fmt(fmt!(" {}={}", name, if enabled { "on" } else { "off" }))?;
            }
        }

        Ok(())
    }
}

/// A bridge.
struct Port<'a>(&'a pci::Device);

impl fmt::Display for Port<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match PortType::of(self.0) {
            PortType::Root => "root",
            PortType::Upstream => "upstream",
            PortType::Downstream => "downstream",
            PortType::Bridge => "bridge",
        };

        f.write_fmt(fmt!("{} port type={}", self.0.as_ref().name(), kind))?;
        if let Some((capability, control)) = tree::acs(self.0) {
            f.write_fmt(fmt!(" acs={:04x}/{:04x}", capability, control))?;
        }

        Ok(())
    }
}
