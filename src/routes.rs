// SPDX-License-Identifier: GPL-2.0

//! How other devices reach the memory: the file `routes` of a node in sysfs.
//!
//! A line for each device that could do DMA: its address, its route, and `key=value`.
//!
//! - `self`: the provider. `switch`: requests turn around at `through` or below it. `host-bridge`: they go up to
//!   the root complex, and the kernel trusts that. `none`: the kernel does not allow DMA to the memory.
//! - `distance`: hops between ports.
//! - `through`: the lowest port that is above both.
//! - `acs`: ports on the way that send requests upstream, each with its ACS Control register.
//! - `host`: vendor and device ID by which the kernel knows the host bridge of the provider, and that of
//!   the client if that is another one; `-` if there is nothing to know it by.

use kernel::{
    alloc::KVVec,
    fmt,
    pci,
    prelude::*,
    str::CString,
    sync::aref::ARef,
    time::{
        Delta,
        Instant,
        Monotonic, //
    }, //
};

use kernel_ext::{
    gate::Guard,
    pci::{
        p2pdma,
        tree::{
            self,
            ACS_REDIRECT, //
        },
    },
};

use crate::provider::Provider;

/// For how long a text is good. Anybody may ask, and the kernel writes to the log whom it refuses.
const GOOD: Delta = Delta::from_secs(5);

/// What was found, and when.
pub(crate) type Found = Option<(Instant<Monotonic>, KVVec<u8>)>;

/// Returns all lines, as they were some seconds ago at most.
pub(crate) fn list(provider: &Provider) -> Result<KVVec<u8>> {
    let inside = provider.enter()?;

    let mut found = provider.routes.lock();
    let text = match found.take() {
        Some((since, text)) if since.elapsed() < GOOD => (since, text),
        _ => (Instant::now(), find(provider, &inside)?),
    };
    let (_, text) = found.insert(text);

    let mut copy = KVVec::new();
    copy.extend_from_slice(text, GFP_KERNEL)?;
    Ok(copy)
}

fn find(provider: &Provider, _inside: &Guard<'_>) -> Result<KVVec<u8>> {
    let mut text = KVVec::new();
    for client in tree::devices().filter(|pdev| tree::is_endpoint(pdev)) {
        let route = Route::new(provider.device(), &client)?;
        let line = CString::try_from_fmt(fmt!("{}\n", route))?;

        text.extend_from_slice(line.to_bytes(), GFP_KERNEL)?;
    }

    Ok(text)
}

/// The way from a client to the provider's memory, found as mainline's p2pdma finds it.
struct Route<'a> {
    provider: &'a pci::Device,
    client: &'a pci::Device,
    distance: Option<u32>,
    meeting: Option<Meeting>,
}

/// Where two ways up meet.
struct Meeting {
    port: ARef<pci::Device>,
    /// How many steps it is above the provider, and above the client.
    steps: [usize; 2],
}

impl<'a> Route<'a> {
    fn new(provider: &'a pci::Device, client: &'a pci::Device) -> Result<Self> {
        let mut ports = tree::way_up(provider).enumerate();

        Ok(Self {
            provider,
            client,
            distance: p2pdma::distance(provider, &[client])?,
            meeting: ports.find_map(|(above_provider, port)| {
                let above_client =
                    tree::way_up(client).position(|other| tree::is_same(&port, &other))?;

                Some(Meeting {
                    port,
                    steps: [above_provider, above_client],
                })
            }),
        })
    }

    /// Returns the ports that send requests upstream, with their ACS Control registers. Where the ways do
    /// not meet there is nothing to send away from.
    fn redirects(&self) -> Result<KVec<(ARef<pci::Device>, u16)>> {
        let mut found = KVec::new();
        let Some(meeting) = &self.meeting else {
            return Ok(found);
        };
        // The port where they meet counts once.
        let ways = [
            (self.provider, meeting.steps[0] + 1),
            (self.client, meeting.steps[1]),
        ];

        for (pdev, count) in ways {
            for port in tree::way_up(pdev).take(count) {
                match tree::acs_control(&port) {
                    Some(control) if control & ACS_REDIRECT != 0 => {
                        found.push((port, control), GFP_KERNEL)?
                    }
                    _ => (),
                }
            }
        }

        Ok(found)
    }
}

impl fmt::Display for Route<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let redirects = self.redirects().map_err(|_| fmt::Error)?;
        let direct = self.meeting.is_some() && redirects.is_empty();

        f.write_fmt(fmt!(
            "{} {}",
            self.client.as_ref().name(),
            match self.distance {
                None => "none",
                Some(_) if tree::is_same(self.provider, self.client) => "self",
                Some(_) if direct => "switch",
                Some(_) => "host-bridge",
            }
        ))?;
        if let Some(distance) = self.distance {
            f.write_fmt(fmt!(" distance={}", distance))?;
        }
        if let Some(meeting) = &self.meeting {
            f.write_fmt(fmt!(" through={}", meeting.port.as_ref().name()))?;
        }
        let mut word = " acs=";
        for (port, control) in &redirects {
            f.write_fmt(fmt!("{}{}:{:04x}", word, port.as_ref().name(), control))?;
            word = ",";
        }
        if !direct {
            self.write_hosts(f)?;
        }

        Ok(())
    }
}

impl Route<'_> {
    fn write_hosts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = [self.provider, self.client].map(tree::host_bridge);
        let count = if tree::share_host_bridge(self.provider, self.client) {
            1
        } else {
            2
        };
        let mut word = " host=";

        for host in hosts.iter().take(count) {
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
