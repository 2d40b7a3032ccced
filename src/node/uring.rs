// SPDX-License-Identifier: GPL-2.0

//! Memory in the buffer table of an io_uring: neither mapped nor pinned by each request.
//!
//! Requests through a slot pass checks that mapped memory does not pass, so that this is a
//! privilege ([`Privilege`](crate::provider::Privilege)).
//!
//! The kernel has no way to take memory back from a ring. Unbinding the device wakes up pollers of
//! the node, and waits. Only slots in rings of the thread that unbinds are emptied, which could not
//! do it while it waits.

use kernel::{
    fs::{
        self,
        file::flags, //
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
        aref::ARef,
        Arc, //
    },
    uapi::_IOC_WRITE, //
};

use kernel_ext::{
    dma_buf::DmaBuf,
    io_uring::cmd::{
        Command,
        Direction,
        Slot, //
    },
    uapi, //
};

use crate::provider::{
    buffer::Buffer,
    Provider, //
};

use super::dmabuf::Handle;

/// All commands fill the field that an entry of the usual size has for them.
const SIZE: usize = 16;
const _: () = assert!(size_of::<uapi::p2pmem_uring_register>() == SIZE);
const _: () = assert!(size_of::<uapi::p2pmem_uring_unregister>() == SIZE);

/// Handles a command to an open file of the node.
pub(crate) fn handle(
    provider: &Arc<Provider>,
    node: &fs::File,
    command: &Command<'_>,
) -> Result<i32> {
    let number = command.number();
    if _IOC_TYPE(number) != uapi::P2PMEM_IOC_MAGIC
        || _IOC_DIR(number) != _IOC_WRITE
        || _IOC_SIZE(number) != SIZE
    {
        return Err(EOPNOTSUPP);
    }

    match _IOC_NR(number) {
        uapi::P2PMEM_NR_URING_REGISTER => register(provider, node, command)?,
        uapi::P2PMEM_NR_URING_UNREGISTER => {
            let request = command.payload::<uapi::p2pmem_uring_unregister>();
            if request.reserved != [0; 3] {
                return Err(EINVAL);
            }
            command.unregister(request.slot)?;
        }
        _ => return Err(EOPNOTSUPP),
    }

    Ok(0)
}

/// Memory in a slot, as long as the ring uses it. The fields are dropped in this order.
struct InSlot {
    /// Its entry in the list of slots.
    key: u64,
    /// So that the memory stays on the list of what is allocated.
    buffer: Arc<Buffer>,
    /// So that the module stays loaded, which the ring refers to.
    _node: ARef<fs::File>,
}

impl InSlot {
    /// Adds a slot to the list.
    fn new(buffer: &Arc<Buffer>, slot: Arc<Slot>, node: &fs::File) -> Result<Self> {
        let slots = &buffer.provider().slots;
        let key = slots.key();
        slots.insert(key, slot)?;

        Ok(Self {
            key,
            buffer: buffer.clone(),
            _node: node.into(),
        })
    }
}

impl Drop for InSlot {
    fn drop(&mut self) {
        drop(self.buffer.provider().slots.remove(self.key));
    }
}

fn register(provider: &Arc<Provider>, node: &fs::File, command: &Command<'_>) -> Result {
    if provider.is_gone() {
        return Err(ENODEV);
    }
    provider.check_unmapped_use()?;
    let request = command.payload::<uapi::p2pmem_uring_register>();
    let dmabuf = DmaBuf::get(request.fd)?;
    let exported = dmabuf.exported::<Handle>().ok_or(EINVAL)?;
    let buffer = &exported.data().buffer;
    if !Arc::ptr_eq(buffer.provider(), provider) {
        return Err(EXDEV);
    }

    let memory = buffer.hold()?;
    let start = (request.first as usize)
        .checked_mul(PAGE_SIZE)
        .ok_or(ERANGE)?;
    let end = match request.count {
        0 => memory.size(),
        count => (count as usize)
            .checked_mul(PAGE_SIZE)
            .and_then(|length| start.checked_add(length))
            .ok_or(ERANGE)?,
    };
    let direction = match dmabuf.file().flags() & flags::O_ACCMODE {
        flags::O_RDONLY => Direction::Source,
        flags::O_WRONLY => Direction::Destination,
        _ => Direction::Both,
    };

    command.register(request.slot, memory, start..end, direction, |slot| {
        InSlot::new(buffer, slot, node)
    })
}
