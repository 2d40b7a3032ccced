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
    ffi::c_void,
    iter,
    mem::ManuallyDrop,
    ptr, //
};

/// Bits of the ACS Control register that send requests or completions of one peer to another
/// upstream: P2P Request Redirect, P2P Completion Redirect, P2P Egress Control (PCI Express Base
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

/// Returns whether a device is the end of a branch (a header of type 0) that could do DMA by
/// itself: neither the host bridge nor one to ISA.
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

/// Returns the function that has a bus: the device itself, or the physical function of a virtual
/// one, or [`None`] if that virtual function was removed. May sleep.
fn physical_function(pdev: &pci::Device) -> Option<ARef<pci::Device>> {
    /// Takes a reference to the physical function of the device that is looked for.
    ///
    /// # Safety
    ///
    /// `pdev` must be a device on a bus whose list is locked, `search` point to a [`Search`].
    unsafe extern "C" fn look(pdev: *mut bindings::pci_dev, search: *mut c_void) -> c_int {
        // SAFETY: By the safety requirements.
        let search = unsafe { &mut *search.cast::<Search>() };
        if !ptr::eq(pdev, search.wanted) {
            return 0;
        }
        // SAFETY: A virtual function that is on the list has a reference to its physical one.
        search.found = unsafe { from_raw(bindings::pci_dev_get(bindings::pci_physfn(pdev))) };
        1
    }
    struct Search {
        wanted: *mut bindings::pci_dev,
        found: Option<ARef<pci::Device>>,
    }

    // SAFETY: The device is valid; what it is does not change.
    if unsafe { (*as_raw(pdev)).is_virtfn() } == 0 {
        return Some(pdev.into());
    }
    let mut search = Search {
        wanted: as_raw(pdev),
        found: None,
    };
    // It holds the lock of the lists of all buses, which is taken to remove a device as well.
    //
    // SAFETY: The device has a reference to its bus, and `look` gets what it needs.
    unsafe { bindings::pci_walk_bus((*search.wanted).bus, Some(look), (&raw mut search).cast()) };

    search.found
}

/// Returns the bridge above a device, or [`None`] on a root bus, and above a virtual function that
/// was removed. May sleep.
pub fn upstream_bridge(pdev: &pci::Device) -> Option<ARef<pci::Device>> {
    let pdev = physical_function(pdev)?;

    // SAFETY: The device is valid. It has a reference to its bus, and that one to the bridge.
    unsafe { from_raw(bindings::pci_dev_get((*(*as_raw(&pdev)).bus).self_)) }
}

/// Returns a device and all bridges above it, upwards. May sleep.
pub fn way_up(pdev: &pci::Device) -> impl Iterator<Item = ARef<pci::Device>> {
    iter::successors(Some(pdev.into()), |pdev: &ARef<pci::Device>| {
        upstream_bridge(pdev)
    })
}

/// Returns whether a device is a bridge to another bus (a header of type 1).
pub fn is_bridge(pdev: &pci::Device) -> bool {
    // SAFETY: The device is valid; the type of its header does not change.
    unsafe { u32::from((*as_raw(pdev)).hdr_type) == bindings::PCI_HEADER_TYPE_BRIDGE }
}

/// Type of a bridge (PCI Express Base Specification, PCI Express Capabilities Register).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortType {
    /// Root port.
    Root,
    /// Upstream port of a switch.
    Upstream,
    /// Downstream port of a switch.
    Downstream,
    /// A bridge to or from a bus that is not PCI Express, or between two of those.
    Bridge,
}

impl PortType {
    /// Returns what a bridge is.
    pub fn of(bridge: &pci::Device) -> Self {
        let raw = as_raw(bridge);
        // SAFETY: The device is valid; neither of the two changes.
        let (capability, flags) = unsafe { ((*raw).pcie_cap, (*raw).pcie_flags_reg) };
        let kind = (u32::from(flags) & bindings::PCI_EXP_FLAGS_TYPE) >> 4;

        match kind {
            _ if capability == 0 => Self::Bridge,
            bindings::PCI_EXP_TYPE_ROOT_PORT => Self::Root,
            bindings::PCI_EXP_TYPE_UPSTREAM => Self::Upstream,
            bindings::PCI_EXP_TYPE_DOWNSTREAM => Self::Downstream,
            _ => Self::Bridge,
        }
    }
}

/// Reads a register of 16 bits in config space, or [`None`] if the device does not answer.
fn read_word(pdev: &pci::Device, at: u32) -> Option<u16> {
    let mut value = 0;

    // SAFETY: The device is valid. The C side checks the offset.
    let failed = unsafe {
        // CAST: An offset in config space, at most 4095.
        bindings::pci_read_config_word(as_raw(pdev), at as c_int, &mut value) != 0
    };

    (!failed && value != u16::MAX).then_some(value)
}

/// Reads a register of an extended capability, or [`None`] if the device lacks it or does not
/// answer.
fn read_capability(pdev: &pci::Device, id: u32, register: u32) -> Option<u16> {
    // SAFETY: The device is valid. CAST: The IDs are small.
    let at = unsafe { bindings::pci_find_ext_capability(as_raw(pdev), id as c_int) };

    if at == 0 {
        return None;
    }
    read_word(pdev, u32::from(at) + register)
}

/// A capability of a device that is switched on by a bit of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Address Translation Services.
    Ats,
    /// Process Address Space ID.
    Pasid,
    /// Page Request Interface.
    Pri,
}

impl Feature {
    /// Returns whether a device has it switched on, or [`None`] if it lacks the capability. A
    /// virtual function shares PASID and PRI with its physical function, and has none of these
    /// capabilities itself.
    pub fn is_enabled(self, pdev: &pci::Device) -> Option<bool> {
        let (id, register, bit) = match self {
            Self::Ats => (
                bindings::PCI_EXT_CAP_ID_ATS,
                bindings::PCI_ATS_CTRL,
                bindings::PCI_ATS_CTRL_ENABLE,
            ),
            Self::Pasid => (
                bindings::PCI_EXT_CAP_ID_PASID,
                bindings::PCI_PASID_CTRL,
                bindings::PCI_PASID_CTRL_ENABLE,
            ),
            Self::Pri => (
                bindings::PCI_EXT_CAP_ID_PRI,
                bindings::PCI_PRI_CTRL,
                bindings::PCI_PRI_CTRL_ENABLE,
            ),
        };

        read_capability(pdev, id, register).map(|value| u32::from(value) & bit != 0)
    }
}

/// Returns the ACS Capability and ACS Control registers of a device, or [`None`] if it lacks the
/// capability or does not answer.
pub fn acs(pdev: &pci::Device) -> Option<(u16, u16)> {
    // SAFETY: The device is valid; where the capability is does not change.
    let at = u32::from(unsafe { (*as_raw(pdev)).acs_cap });

    if at == 0 {
        return None;
    }
    Some((
        read_word(pdev, at + bindings::PCI_ACS_CAP)?,
        read_word(pdev, at + bindings::PCI_ACS_CTRL)?,
    ))
}

/// Returns the ACS Control register of a device, or [`None`] if it lacks the capability. All bits
/// are set if the device does not answer.
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

/// Returns the device that is on the root bus above a device, or that device itself. It has a
/// reference to that bus.
fn top(pdev: &pci::Device) -> Option<ARef<pci::Device>> {
    let last = way_up(pdev).last()?;

    physical_function(&last)
}

/// Returns whether both are below the same host bridge. May sleep.
pub fn share_host_bridge(a: &pci::Device, b: &pci::Device) -> bool {
    // SAFETY: The devices are valid, and a bus is only compared.
    let bus = |pdev: &ARef<pci::Device>| unsafe { (*as_raw(pdev)).bus };

    let tops = top(a).zip(top(b));
    tops.is_some_and(|(a, b)| ptr::eq(bus(&a), bus(&b)))
}

/// Returns vendor and device ID of the first device on the root bus above a device. By it the
/// kernel knows host bridges that forward between their ports. [`None`] if it is neither at 00.0
/// nor a root port. May sleep.
pub fn host_bridge(pdev: &pci::Device) -> Option<(u16, u16)> {
    /// Looks at one device, and no more.
    ///
    /// # Safety
    ///
    /// `first` must be a device on a bus whose list is locked, `found` point to an `Option<(u16,
    /// u16)>`.
    unsafe extern "C" fn look(first: *mut bindings::pci_dev, found: *mut c_void) -> c_int {
        // SAFETY: By the safety requirements.
        unsafe {
            // CAST: Only bits of the lower half are compared.
            let port = u32::from((*first).pcie_flags_reg) & bindings::PCI_EXP_FLAGS_TYPE;
            if (*first).devfn == 0 || port >> 4 == bindings::PCI_EXP_TYPE_ROOT_PORT {
                *found.cast() = Some(((*first).vendor, (*first).device));
            }
        }
        1
    }

    let top = top(pdev)?;
    let mut found: Option<(u16, u16)> = None;
    // SAFETY: The device has a reference to its bus, and `look` gets what it needs.
    unsafe { bindings::pci_walk_bus((*as_raw(&top)).bus, Some(look), (&raw mut found).cast()) };

    found
}
