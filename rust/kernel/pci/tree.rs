// SPDX-License-Identifier: GPL-2.0

//! The tree of PCI devices: all of them, and what is above each.
//!
//! C header: [`include/linux/pci.h`](srctree/include/linux/pci.h)

use kernel::{
    device::DeviceContext,
    pci,
    prelude::*,
    sync::aref::ARef, //
};

use crate::{
    bindings,
    pci::{
        as_raw,
        from_raw,
        ANY, //
    },
};

use core::{
    iter,
    mem::ManuallyDrop,
    ptr, //
};

/// Bits of the ACS Control register that send requests or completions of one peer to another upstream:
/// P2P Request Redirect, P2P Completion Redirect, P2P Egress Control (PCI Express Base
/// Specification, Access Control Services).
pub const ACS_REDIRECT: u16 =
    (bindings::PCI_ACS_RR | bindings::PCI_ACS_CR | bindings::PCI_ACS_EC) as u16;

/// Returns all PCI devices, in no particular order (`for_each_pci_dev()`). May sleep.
pub fn devices() -> impl Iterator<Item = ARef<pci::Device>> {
    Devices { last: None }
}

/// A walk over all devices.
struct Devices {
    last: Option<ARef<pci::Device>>,
}

impl Iterator for Devices {
    type Item = ARef<pci::Device>;

    fn next(&mut self) -> Option<Self::Item> {
        // The C side puts the reference to the device that it starts from.
        let from = self
            .last
            .take()
            .map_or(ptr::null_mut(), |pdev| as_raw(&ManuallyDrop::new(pdev)));
        // SAFETY: Null, or a device to which a reference was owned and is passed on.
        let found = unsafe { bindings::pci_get_device(ANY, ANY, from) };
        // SAFETY: Null, or a device to which `pci_get_device()` took a reference.
        let found = unsafe { from_raw(found) }?;

        self.last = Some(found.clone());
        Some(found)
    }
}

/// Returns whether both are the same device.
pub fn is_same<A: DeviceContext, B: DeviceContext>(a: &pci::Device<A>, b: &pci::Device<B>) -> bool {
    ptr::eq(as_raw(a), as_raw(b))
}

/// Returns whether a device is the end of a branch (a header of type 0) that could do DMA by itself:
/// neither the host bridge nor one to ISA.
pub fn is_endpoint(pdev: &pci::Device) -> bool {
    let raw = as_raw(pdev);

    // SAFETY: The device is valid; neither of the two changes.
    unsafe {
        u32::from((*raw).hdr_type) == bindings::PCI_HEADER_TYPE_NORMAL
            && !matches!(
                (*raw).class >> 8,
                bindings::PCI_CLASS_BRIDGE_HOST | bindings::PCI_CLASS_BRIDGE_ISA
            )
    }
}

/// Returns the bridge above a device, or [`None`] on a root bus.
pub fn upstream_bridge(pdev: &pci::Device) -> Option<&pci::Device> {
    // SAFETY: The device is valid.
    let bridge = unsafe { bindings::pci_upstream_bridge(as_raw(pdev)) };

    // SAFETY: A device keeps its bus, and that the bridge to it. A virtual function that was removed meanwhile
    // does not: as mainline's own walk, this relies on its physical function to be there for as long as the
    // few steps take. `pci::Device` is a transparent wrapper of `Opaque<struct pci_dev>`.
    (!bridge.is_null()).then(|| unsafe { &*bridge.cast() })
}

/// Returns a device and all bridges above it, upwards.
pub fn way_up(pdev: &pci::Device) -> impl Iterator<Item = &pci::Device> {
    iter::successors(Some(pdev), |pdev| upstream_bridge(pdev))
}

/// Returns the ACS Control register of a device, or [`None`] if it has no such capability. All bits are set
/// if the device does not answer.
pub fn acs_control(pdev: &pci::Device) -> Option<u16> {
    let raw = as_raw(pdev);
    let mut value = 0;

    // SAFETY: The device is valid; where the capability is does not change.
    unsafe {
        let at = c_int::from((*raw).acs_cap);
        if at == 0 {
            return None;
        }
        // CAST: A small number. Where it fails, the C side sets all bits.
        bindings::pci_read_config_word(raw, at + bindings::PCI_ACS_CTRL as c_int, &mut value);
    }

    Some(value)
}

/// Returns the bus at the root of the tree that a device is in.
fn root_bus(pdev: &pci::Device) -> *mut bindings::pci_bus {
    // SAFETY: The device keeps its bus, and that all that are above, as in `upstream_bridge()`.
    unsafe {
        let mut bus = (*as_raw(pdev)).bus;
        while !(*bus).parent.is_null() {
            bus = (*bus).parent;
        }
        bus
    }
}

/// Returns whether both are below the same host bridge.
pub fn share_host_bridge(a: &pci::Device, b: &pci::Device) -> bool {
    ptr::eq(root_bus(a), root_bus(b))
}

/// Returns vendor and device ID of the first device on the root bus above a device. By it the kernel
/// knows host bridges that forward between their ports. [`None`] if it is neither at 00.0 nor a root
/// port.
pub fn host_bridge(pdev: &pci::Device) -> Option<(u16, u16)> {
    let bus = root_bus(pdev);

    // SAFETY: The bus is valid. Mainline, too, looks at the first device of a root bus without a lock, and
    // relies on it to stay while there is a device below.
    unsafe {
        let head = &raw mut (*bus).devices;
        let first = (*head).next;
        if ptr::eq(first, head) {
            return None;
        }
        let first = kernel::container_of!(first, bindings::pci_dev, bus_list);
        // CAST: Only bits of the lower half are compared.
        let port = u32::from((*first).pcie_flags_reg) & bindings::PCI_EXP_FLAGS_TYPE;

        ((*first).devfn == 0 || port >> 4 == bindings::PCI_EXP_TYPE_ROOT_PORT)
            .then_some(((*first).vendor, (*first).device))
    }
}
