// SPDX-License-Identifier: GPL-2.0

//! PCI devices.
//!
//! C header: [`include/linux/pci.h`](srctree/include/linux/pci.h)

use kernel::{
    device::{
        Bound,
        Core,
        DeviceContext, //
    },
    devres::Devres,
    error::to_result,
    io::{
        IoBase,
        Mmio,
        MmioBackend,
        MmioRaw,
        Region, //
    },
    pci,
    prelude::*,
    sync::aref::ARef, //
};

use crate::bindings;

use core::{
    ffi::c_void,
    marker::PhantomData,
    mem,
    ptr, //
};

pub mod bus;
pub mod driver;
pub mod p2pdma;
pub mod tree;

/// Number of standard Base Address Registers of a device.
pub const STD_NUM_BARS: u32 = bindings::PCI_STD_NUM_BARS;

/// Returns the C device. The one place that knows how [`pci::Device`] is laid out.
pub(crate) fn as_raw<Ctx: DeviceContext>(pdev: &pci::Device<Ctx>) -> *mut bindings::pci_dev {
    // CAST: `pci::Device` is a transparent wrapper of `Opaque<struct pci_dev>`.
    ptr::from_ref(pdev).cast_mut().cast()
}

/// Takes over a reference to a C device, or [`None`] for a null pointer.
///
/// # Safety
///
/// `raw` must be null, or a valid device to which a reference is owned and passed on.
pub(crate) unsafe fn from_raw(raw: *mut bindings::pci_dev) -> Option<ARef<pci::Device>> {
    // SAFETY: By the safety requirements. `pci::Device` is a transparent wrapper of
    // `Opaque<struct pci_dev>`.
    ptr::NonNull::new(raw).map(|raw| unsafe { ARef::from_raw(raw.cast()) })
}

/// Returns an entry of an ID table, for any subsystem (`PCI_DEVICE()`).
///
/// [`pci::DeviceId::from_id`] does the same for those vendors that have a constant.
pub const fn device_id(vendor: u16, device: u16) -> pci::DeviceId {
    // SAFETY: `DeviceId` is a transparent wrapper of `struct pci_device_id`.
    unsafe {
        mem::transmute(bindings::pci_device_id {
            vendor: vendor as u32,
            device: device as u32,
            subvendor: ANY,
            subdevice: ANY,
            class: 0,
            class_mask: 0,
            driver_data: 0,
            override_only: 0,
        })
    }
}

/// A table of the devices that a driver binds by their IDs. Made by
/// [`pci_device_table!`](crate::pci_device_table).
///
/// Its last entry matches only devices whose `driver_override` names the driver, and stands for no
/// information. Thanks to it `new_id` takes IDs without a `driver_data`, which must be one that an
/// entry has.
#[repr(C)]
pub struct IdTable<U: 'static, const N: usize> {
    listed: [mem::MaybeUninit<bindings::pci_device_id>; N],
    overridden: bindings::pci_device_id,
    sentinel: bindings::pci_device_id,
    info: PhantomData<&'static U>,
}

// SAFETY: Plain data, and references to what can be shared.
unsafe impl<U: Sync, const N: usize> Sync for IdTable<U, N> {}

impl<U, const N: usize> IdTable<U, N> {
    /// Creates a table.
    pub const fn new(devices: [(pci::DeviceId, &'static U); N]) -> Self {
        let mut listed = [const { mem::MaybeUninit::<bindings::pci_device_id>::uninit() }; N];
        let mut index = 0;

        // `for` cannot be used in a constant.
        while index < N {
            // SAFETY: `DeviceId` is a transparent wrapper of `struct pci_device_id`.
            listed[index] = unsafe { mem::transmute_copy(&devices[index].0) };
            // SAFETY: `driver_data` is part of the entry, and as wide as a pointer. This is how the
            // `kernel` crate has information in a table.
            unsafe {
                listed[index]
                    .as_mut_ptr()
                    .byte_add(mem::offset_of!(bindings::pci_device_id, driver_data))
                    .cast::<&U>()
                    .write(devices[index].1)
            };
            index += 1;
        }

        // SAFETY: All zeroes is a valid entry: the end of a table.
        let sentinel: bindings::pci_device_id = unsafe { mem::zeroed() };

        Self {
            listed,
            overridden: bindings::pci_device_id {
                vendor: ANY,
                device: ANY,
                subvendor: ANY,
                subdevice: ANY,
                override_only: bindings::PCI_ID_F_VFIO_DRIVER_OVERRIDE,
                ..sentinel
            },
            sentinel,
            info: PhantomData,
        }
    }
}

impl<U, const N: usize> kernel::device_id::IdTable<pci::DeviceId, U> for IdTable<U, N> {
    fn as_ptr(&self) -> *const bindings::pci_device_id {
        ptr::from_ref(self).cast()
    }
}

/// Makes an [`IdTable`], and tells modpost of what is listed in it.
#[macro_export]
macro_rules! pci_device_table {
    ($name:ident, $alias:ident, $info:ty, [$(($id:expr, $data:expr)),* $(,)?]) => {
        ::kernel::pci_device_table!($alias, $info, [$(($id, $data)),*]);

        static $name: $crate::pci::IdTable<
            $info,
            { <[::kernel::pci::DeviceId]>::len(&[$($id),*]) },
        > = $crate::pci::IdTable::new([$(($id, &$data)),*]);
    };
}

/// Matches any number in a [`pci::DeviceId`].
const ANY: u32 = !0;

/// Enables a device for as long as it is bound to its driver (`pcim_enable_device()`).
pub fn enable_device(pdev: &pci::Device<Core<'_>>) -> Result {
    // SAFETY: The device is valid, and is being bound.
    to_result(unsafe { bindings::pcim_enable_device(as_raw(pdev)) })
}

/// Marks a BAR as used by `name` for as long as the device is bound (`pcim_request_region()`).
///
/// # Errors
///
/// `EBUSY` if another driver uses the BAR.
pub fn request_region(pdev: &pci::Device<Core<'_>>, bar: u32, name: &'static CStr) -> Result {
    // SAFETY: The device is valid, and is being bound. The C side checks the number of the BAR,
    // and `name` lives for ever.
    to_result(unsafe {
        bindings::pcim_request_region(as_raw(pdev), bar.try_into()?, name.as_char_ptr())
    })
}

/// Returns whether a device answers (`pci_device_is_present()`). May sleep.
///
/// One that was pulled without being asked does not, and may still have its driver.
pub fn is_present(pdev: &pci::Device) -> bool {
    // SAFETY: The device is valid.
    unsafe { bindings::pci_device_is_present(as_raw(pdev)) }
}

/// Marks a range of a memory BAR as used by `name` for as long as the device is bound
/// (`devm_request_mem_region()`). Offset and size are in bytes. The rest of the BAR is left to
/// others.
///
/// # Errors
///
/// `EINVAL` if the range is empty, or not within a memory BAR that has an address; `EBUSY` if
/// another driver uses a part of it.
pub fn request_range(
    pdev: &pci::Device<Core<'_>>,
    bar: u32,
    offset: u64,
    size: u64,
    name: &'static CStr,
) -> Result {
    let resource = Resource::of(pdev, bar)?;
    let end = offset.checked_add(size).ok_or(EINVAL)?;
    if !resource.is_memory() || !resource.is_assigned() || size == 0 || end > resource.size {
        return Err(EINVAL);
    }

    // SAFETY: The device is valid, and is being bound; `name` lives for ever. The range lies within
    // the resource of the BAR, so that its end does not overflow.
    let claimed = unsafe {
        bindings::__devm_request_region(
            &raw mut (*as_raw(pdev)).dev,
            &raw mut bindings::iomem_resource,
            resource.start + offset,
            size,
            name.as_char_ptr(),
        )
    };

    if claimed.is_null() {
        Err(EBUSY)
    } else {
        Ok(())
    }
}

/// The registers of the MSI-X capability of a device, which tell where its table and its Pending
/// Bit Array are.
#[derive(Clone, Copy, Debug)]
pub struct MsixCapability {
    /// Message Control.
    pub control: u16,
    /// Table Offset and Table BIR.
    pub table: u32,
    /// PBA Offset and PBA BIR.
    pub pba: u32,
}

impl MsixCapability {
    /// Reads the capability of a device, if it has one.
    pub fn of(pdev: &pci::Device) -> Option<Self> {
        let raw = as_raw(pdev);
        // SAFETY: The device is valid.
        let at = unsafe { bindings::pci_find_capability(raw, bindings::PCI_CAP_ID_MSIX as i32) };
        if at == 0 {
            return None;
        }

        let at = i32::from(at);
        let (mut control, mut table, mut pba) = (0, 0, 0);
        // SAFETY: The device is valid, and the places are valid for writing.
        let failed = unsafe {
            bindings::pci_read_config_word(raw, at + bindings::PCI_MSIX_FLAGS as i32, &mut control)
                | bindings::pci_read_config_dword(
                    raw,
                    at + bindings::PCI_MSIX_TABLE as i32,
                    &mut table,
                )
                | bindings::pci_read_config_dword(raw, at + bindings::PCI_MSIX_PBA as i32, &mut pba)
        };

        (failed == 0).then_some(Self {
            control,
            table,
            pba,
        })
    }
}

/// Address of a PCI device, and its NUMA node.
pub struct PciLocation {
    /// PCI domain.
    pub domain: u32,
    /// PCI bus.
    pub bus: u8,
    /// Device and function.
    pub devfn: u8,
    /// The NUMA node that is near to it, -1 if that is not known.
    pub numa_node: i32,
}

impl PciLocation {
    /// Returns where a device is.
    pub fn of(pdev: &pci::Device) -> Self {
        let raw = as_raw(pdev);

        // SAFETY: The device is valid, and has a bus for as long as that.
        unsafe {
            Self {
                // CAST: Domains are counted from 0.
                domain: bindings::pci_domain_nr((*raw).bus) as u32,
                bus: (*(*raw).bus).number,
                // CAST: Eight bits.
                devfn: (*raw).devfn as u8,
                numa_node: bindings::dev_to_node(&raw mut (*raw).dev),
            }
        }
    }
}

/// Returns the address of a BAR as the bus sees it, which may differ from the one that the CPU
/// uses.
pub fn bus_address(pdev: &pci::Device, bar: u32) -> Result<u64> {
    if bar >= STD_NUM_BARS {
        return Err(EINVAL);
    }

    // SAFETY: The device is valid and has that BAR.
    Ok(unsafe { bindings::pci_bus_address(as_raw(pdev), bar.try_into()?) })
}

/// Registers: the first `SIZE` bytes of a BAR, mapped.
///
/// In contrast to [`pci::Bar`] the BAR is not claimed, so that the registers of a device that
/// another driver has can be accessed.
///
/// # Invariants
///
/// `io` is a mapping of a BAR of `pdev`.
pub struct UnclaimedBar<const SIZE: usize> {
    pdev: ARef<pci::Device>,
    io: MmioRaw<Region<SIZE>>,
}

impl<const SIZE: usize> UnclaimedBar<SIZE> {
    /// Maps registers for as long as the device is bound. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the device has no BAR of that number, or if it is smaller; `ENOMEM` if it cannot
    /// be mapped.
    pub fn map(pdev: &pci::Device<Bound>, bar: u32) -> Result<Devres<Self>> {
        if Resource::of(pdev, bar)?.size < SIZE as u64 {
            return Err(EINVAL);
        }

        let number = bar.try_into()?;
        // SAFETY: The device is valid and has that BAR, at least that long.
        let address = unsafe { bindings::pci_iomap_range(as_raw(pdev), number, 0, SIZE) }.addr();
        if address == 0 {
            return Err(ENOMEM);
        }

        // INVARIANT: Was just mapped.
        let window = Self {
            pdev: pdev.into(),
            io: MmioRaw::new_region(address, SIZE)?,
        };

        Devres::new(pdev.as_ref(), Ok::<_, Error>(window))
    }
}

impl<const SIZE: usize> Drop for UnclaimedBar<SIZE> {
    fn drop(&mut self) {
        let address = ptr::with_exposed_provenance_mut::<c_void>(self.io.addr());

        // SAFETY: By the type invariants; there is no reference to the mapping any more.
        unsafe { bindings::pci_iounmap(as_raw(&self.pdev), address) };
    }
}

impl<'a, const SIZE: usize> IoBase<'a> for &'a UnclaimedBar<SIZE> {
    type Backend = MmioBackend;
    type Target = Region<SIZE>;

    fn as_view(self) -> Mmio<'a, Self::Target> {
        // SAFETY: By the type invariants, the region is mapped for as long as `self` lives.
        unsafe { Mmio::from_raw(self.io) }
    }
}

/// A BAR as the PCI core describes it.
#[derive(Clone, Copy, Debug)]
pub struct Resource {
    /// CPU address of the first byte.
    pub start: u64,
    /// Length in bytes, 0 if the BAR does not exist or has no address.
    pub size: u64,
    /// `IORESOURCE_*`, 0 if the BAR does not exist.
    pub flags: u64,
}

impl Resource {
    /// Returns the resource of one of the [`STD_NUM_BARS`] standard BARs, or `EINVAL`.
    ///
    /// The kernel forgets a BAR for which it found no room. Those are known by their registers,
    /// unless these have all bits clear. May sleep.
    pub fn of(pdev: &pci::Device, bar: u32) -> Result<Self> {
        if bar >= STD_NUM_BARS {
            return Err(EINVAL);
        }
        let number = i32::try_from(bar)?;

        // SAFETY: The device is valid and has that BAR.
        let flags = unsafe { bindings::pci_resource_flags(as_raw(pdev), number) } as u64;
        Ok(Self {
            start: pdev.resource_start(bar)?,
            size: pdev.resource_len(bar)?,
            flags: match flags {
                0 => Self::flags_of_register(pdev, bar),
                flags => flags,
            },
        })
    }

    /// Returns which standard BAR holds a CPU address, and where that starts, or [`None`].
    pub fn at(pdev: &pci::Device, address: u64) -> Option<(u32, u64)> {
        (0..STD_NUM_BARS).find_map(|bar| {
            let start = pdev.resource_start(bar).ok()?;
            let offset = address.checked_sub(start)?;

            (offset < pdev.resource_len(bar).ok()?).then_some((bar, start))
        })
    }

    /// Returns the flags of a BAR that has no address, by its register: PCI Local Bus Specification
    /// 3.0, section 6.2.5.1.
    fn flags_of_register(pdev: &pci::Device, bar: u32) -> u64 {
        let is_wide = |value| {
            value & bindings::PCI_BASE_ADDRESS_SPACE_IO == 0
                && value & bindings::PCI_BASE_ADDRESS_MEM_TYPE_MASK
                    == bindings::PCI_BASE_ADDRESS_MEM_TYPE_64
        };
        let mut number = 0;
        let mut value = Self::register(pdev, 0);

        while number < bar {
            // The upper half of a 64-bit one is none of its own.
            number += if is_wide(value) { 2 } else { 1 };
            value = Self::register(pdev, number);
        }
        if number > bar || value == 0 {
            return 0;
        }

        let mut flags = bindings::IORESOURCE_UNSET;
        if value & bindings::PCI_BASE_ADDRESS_SPACE_IO != 0 {
            return u64::from(flags | bindings::IORESOURCE_IO);
        }
        flags |= bindings::IORESOURCE_MEM;
        if value & bindings::PCI_BASE_ADDRESS_MEM_PREFETCH != 0 {
            flags |= bindings::IORESOURCE_PREFETCH;
        }
        if is_wide(value) {
            flags |= bindings::IORESOURCE_MEM_64;
        }

        u64::from(flags)
    }

    /// Reads a register; 0 if there is none.
    fn register(pdev: &pci::Device, bar: u32) -> u32 {
        if bar >= STD_NUM_BARS {
            return 0;
        }
        // CAST: A small number.
        let offset = (bindings::PCI_BASE_ADDRESS_0 + 4 * bar) as i32;
        let mut value = 0;

        // SAFETY: The device is valid.
        let failed =
            unsafe { bindings::pci_read_config_dword(as_raw(pdev), offset, &mut value) != 0 };

        if failed {
            0
        } else {
            value
        }
    }

    fn has(&self, flag: u32) -> bool {
        self.flags & u64::from(flag) != 0
    }

    /// Returns whether the BAR is one of I/O ports.
    pub fn is_io(&self) -> bool {
        self.has(bindings::IORESOURCE_IO)
    }

    /// Returns whether the BAR is one of memory.
    pub fn is_memory(&self) -> bool {
        self.has(bindings::IORESOURCE_MEM)
    }

    /// Returns whether the memory is prefetchable.
    pub fn is_prefetchable(&self) -> bool {
        self.has(bindings::IORESOURCE_PREFETCH)
    }

    /// Returns whether the BAR is a 64-bit one.
    pub fn is_64bit(&self) -> bool {
        self.has(bindings::IORESOURCE_MEM_64)
    }

    /// Returns whether the BAR was given an address.
    pub fn is_assigned(&self) -> bool {
        !self.has(bindings::IORESOURCE_UNSET) && self.start != 0
    }
}
