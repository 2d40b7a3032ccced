// SPDX-License-Identifier: GPL-2.0

//! Specification of the Container Device Interface (CDI) for all nodes.
//!
//! Container engines (podman, containerd, CRI-O) read it, and give a node to a container that asks
//! for the device by its name.

use std::io;

use serde::Serialize;

use p2pmem::{sysfs, PciAddress, Root};

/// The first version of CDI in which a name may begin with a digit.
const VERSION: &str = "0.5.0";
/// Vendor and class of the devices.
pub const KIND: &str = "p2pmem.dev/memory";

/// A specification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Specification {
    cdi_version: &'static str,
    kind: &'static str,
    devices: Vec<Device>,
}

/// A name, and the nodes that a container gets by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    container_edits: Edits,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Edits {
    device_nodes: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Node {
    path: String,
    permissions: &'static str,
}

/// Returns the specification of the nodes that there are: each by its number and by the address of
/// its PCI device, and `all`.
pub fn read(root: &Root) -> io::Result<Specification> {
    let nodes = sysfs::providers(root)?
        .into_iter()
        .map(|entry| (entry.id.number, entry.id.pci));
    Ok(specification(&nodes.collect::<Vec<_>>()))
}

fn specification(nodes: &[(u32, PciAddress)]) -> Specification {
    let node = |number: u32| Node {
        path: format!("/dev/p2pmem{number}"),
        permissions: "rw",
    };
    let device = |name: &str, device_nodes| Device {
        name: name.to_owned(),
        container_edits: Edits { device_nodes },
    };
    let mut devices = Vec::new();
    for (number, pci) in nodes {
        devices.push(device(&number.to_string(), vec![node(*number)]));
        devices.push(device(&pci.to_string(), vec![node(*number)]));
    }
    if !nodes.is_empty() {
        let all = nodes.iter().map(|(number, _)| node(*number));
        devices.push(device("all", all.collect()));
    }

    Specification {
        cdi_version: VERSION,
        kind: KIND,
        devices,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_two_names() {
        let found = specification(&[(0, "0000:05:00.0".parse().unwrap())]);
        let expected = serde_json::json!({
            "cdiVersion": "0.5.0",
            "kind": "p2pmem.dev/memory",
            "devices": [
                { "name": "0", "containerEdits": { "deviceNodes": [
                    { "path": "/dev/p2pmem0", "permissions": "rw" }
                ] } },
                { "name": "0000:05:00.0", "containerEdits": { "deviceNodes": [
                    { "path": "/dev/p2pmem0", "permissions": "rw" }
                ] } },
                { "name": "all", "containerEdits": { "deviceNodes": [
                    { "path": "/dev/p2pmem0", "permissions": "rw" }
                ] } },
            ],
        });
        assert_eq!(serde_json::to_value(found).unwrap(), expected);
    }
}
