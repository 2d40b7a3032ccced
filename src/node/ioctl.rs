// SPDX-License-Identifier: GPL-2.0

//! Requests to a provider.
//!
//! C header: [`include/uapi/linux/p2pmem.h`](srctree/include/uapi/linux/p2pmem.h)

use kernel::{
    fs::{
        self,
        file::{
            flags,
            FileDescriptorReservation, //
        }, //
    },
    ioctl::{
        _IOC_DIR,
        _IOC_NR,
        _IOC_SIZE,
        _IOC_TYPE, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc, //
    },
    transmute::{
        AsBytes,
        FromBytes, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    },
    uapi::{
        _IOC_READ,
        _IOC_WRITE, //
    }, //
};

use kernel_ext::{
    dma_buf::DmaBuf,
    mm::virt::{
        Caching,
        LARGE_PAGES, //
    },
    pci::{
        bus_address,
        PciLocation, //
    },
    task,
    uapi, //
};

use crate::{
    provider::{
        buffer::Buffer,
        Account,
        Provider, //
    },
    regions::range::MemoryKind, //
};

use super::dmabuf;

const READ_WRITE: u32 = _IOC_READ | _IOC_WRITE;

/// Handles a request.
///
/// The caller's memory is accessed outside of the gate: a page of it may take any time to come, if
/// the caller arranges that, and unbinding must not wait for it.
pub(crate) fn handle(
    provider: &Arc<Provider>,
    account: &Arc<Account>,
    node: &fs::File,
    cmd: u32,
    arg: usize,
) -> Result<isize> {
    if provider.is_gone() {
        return Err(ENODEV);
    }
    if _IOC_TYPE(cmd) != uapi::P2PMEM_IOC_MAGIC {
        return Err(ENOTTY);
    }
    let argument = Argument {
        user: UserPtr::from_addr(arg),
        size: _IOC_SIZE(cmd),
    };

    match (_IOC_NR(cmd), _IOC_DIR(cmd)) {
        (uapi::P2PMEM_NR_INFO, _IOC_READ) => argument.write(&info(provider)?)?,
        (uapi::P2PMEM_NR_REGION, READ_WRITE) => {
            let request = argument.read::<uapi::p2pmem_region>()?;
            argument.write(&region(provider, request.index)?)?;
        }
        (uapi::P2PMEM_NR_ALLOC, READ_WRITE) => {
            let mut request = argument.read::<uapi::p2pmem_alloc>()?;
            let dmabuf = alloc(provider, account, node, &request)?;
            let fd = FileDescriptorReservation::get_unused_fd_flags(flags::O_CLOEXEC)?;

            request.fd = fd.reserved_fd().try_into()?;
            argument.write(&request)?;
            fd.fd_install(dmabuf.file().into());
        }
        _ => return Err(ENOTTY),
    }

    Ok(0)
}

/// Bit n is set if there is a request or command of number n.
const REQUESTS: u32 = 1 << uapi::P2PMEM_NR_INFO
    | 1 << uapi::P2PMEM_NR_REGION
    | 1 << uapi::P2PMEM_NR_ALLOC
    | 1 << uapi::P2PMEM_NR_URING_REGISTER
    | 1 << uapi::P2PMEM_NR_URING_UNREGISTER;

const CAPABILITIES: u32 = if LARGE_PAGES {
    REQUESTS | uapi::P2PMEM_CAP_LARGE_PAGES
} else {
    REQUESTS
};

fn info(provider: &Provider) -> Result<uapi::p2pmem_info> {
    let _inside = provider.enter()?;

    let place = PciLocation::of(provider.device());
    let mut flags = 0;
    if provider.is_adopted() {
        flags |= uapi::P2PMEM_INFO_ADOPTED;
    }
    if provider.settings.clear.load(Relaxed) {
        flags |= uapi::P2PMEM_INFO_CLEARED;
    }

    Ok(uapi::p2pmem_info {
        size: provider.size(),
        allocated: provider.allocated(),
        available: provider.available(),
        largest: provider.largest_run()?,
        granule: PAGE_SIZE as u32,
        regions: provider.regions().len() as u32,
        flags,
        capabilities: CAPABILITIES,
        numa_node: place.numa_node,
        pci_domain: place.domain,
        pci_bus: place.bus.into(),
        pci_devfn: place.devfn.into(),
    })
}

fn region(provider: &Provider, index: u32) -> Result<uapi::p2pmem_region> {
    let _inside = provider.enter()?;

    let region = provider.regions().get(index as usize).ok_or(EINVAL)?;

    Ok(uapi::p2pmem_region {
        index,
        bar: region.bar,
        offset: region.offset,
        size: region.size,
        bus_address: if task::is_administrator() {
            bus_address(provider.device(), region.bar)? + region.offset
        } else {
            0
        },
        kind: match region.kind {
            MemoryKind::Bar => uapi::P2PMEM_KIND_BAR,
            MemoryKind::Cmb => uapi::P2PMEM_KIND_CMB,
            MemoryKind::Pmr => uapi::P2PMEM_KIND_PMR,
        },
        reserved: 0,
    })
}

fn alloc(
    provider: &Arc<Provider>,
    account: &Arc<Account>,
    node: &fs::File,
    request: &uapi::p2pmem_alloc,
) -> Result<DmaBuf> {
    const KNOWN: u32 = uapi::P2PMEM_ALLOC_WRITE_COMBINING | uapi::P2PMEM_ALLOC_IRREVOCABLE;

    let inside = provider.enter()?;
    let asks_for = |flag| request.flags & flag != 0;

    if asks_for(uapi::P2PMEM_ALLOC_FIXED) {
        return Err(EOPNOTSUPP);
    }
    if asks_for(!KNOWN) || request.offset != 0 {
        return Err(EINVAL);
    }
    let size = usize::try_from(request.size).map_err(|_| ENOSPC)?;
    let caching = if asks_for(uapi::P2PMEM_ALLOC_WRITE_COMBINING) {
        Caching::WriteCombining
    } else {
        Caching::Uncached
    };
    let irrevocable = asks_for(uapi::P2PMEM_ALLOC_IRREVOCABLE);
    if irrevocable {
        provider.check_unmapped_use()?;
    }
    let buffer = Buffer::new(provider, account, size, caching, &inside)?;
    buffer.prepare(&inside)?;

    dmabuf::export(buffer, size, node, irrevocable)
}

/// The argument of a request: a structure that may be longer than the one known here, if the
/// caller was built with a newer header. Shorter than the first one that there was is an error.
struct Argument {
    user: UserPtr,
    size: usize,
}

impl Argument {
    /// Splits the caller's buffer into what is known here, and the length of the rest.
    fn split<T>(&self) -> Result<(UserSlice, usize)> {
        let rest = self.size.checked_sub(size_of::<T>()).ok_or(EINVAL)?;

        Ok((UserSlice::new(self.user, self.size), rest))
    }

    /// Reads a structure. `E2BIG` if the caller asks for something that is not known here: the
    /// rest is not all zeroes.
    fn read<T: FromBytes>(&self) -> Result<T> {
        let (user, rest) = self.split::<T>()?;
        let mut reader = user.reader();
        let value = reader.read::<T>()?;

        for _ in 0..rest {
            if reader.read::<u8>()? != 0 {
                return Err(E2BIG);
            }
        }

        Ok(value)
    }

    /// Writes a structure, and clears the rest of the caller's buffer.
    fn write<T: AsBytes>(&self, value: &T) -> Result {
        let (user, rest) = self.split::<T>()?;
        let mut writer = user.writer();
        writer.write(value)?;

        for _ in 0..rest {
            writer.write(&0_u8)?;
        }

        Ok(())
    }
}
