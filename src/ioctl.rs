// SPDX-License-Identifier: GPL-2.0

//! Requests to a provider.
//!
//! C header: [`include/uapi/linux/p2pmem.h`](srctree/include/uapi/linux/p2pmem.h)

use kernel::{
    ioctl::{
        _IOC_DIR,
        _IOC_NR,
        _IOC_SIZE,
        _IOC_TYPE, //
    },
    page::PAGE_SIZE,
    prelude::*,
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

use kernel_ext::uapi;

use crate::provider::Provider;

const READ_WRITE: u32 = _IOC_READ | _IOC_WRITE;

/// Handles a request.
///
/// The caller's memory is accessed outside of the gate: a page of it may take for ever to come, if
/// the caller so wishes, and nobody who unbinds the device may have to wait for that.
pub(crate) fn handle(provider: &Provider, cmd: u32, arg: usize) -> Result<isize> {
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
        _ => return Err(ENOTTY),
    }

    Ok(0)
}

fn info(provider: &Provider) -> Result<uapi::p2pmem_info> {
    let _inside = provider.enter()?;

    Ok(uapi::p2pmem_info {
        size: provider.size(),
        allocated: provider.allocated(),
        granule: PAGE_SIZE as u32,
        regions: provider.regions().len() as u32,
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
    })
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
