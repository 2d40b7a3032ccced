// SPDX-License-Identifier: GPL-2.0

//! Memory as a file descriptor.

use kernel::{
    device::Device,
    fs::{
        self,
        file::flags, //
    },
    mm::virt::VmaNew,
    prelude::*,
    sync::Arc, //
};

use kernel_ext::{
    dma_buf::{
        Access,
        DmaBuf,
        Exported,
        Kind,
        Memory, //
    },
    gate::UseGuard,
    p2pmem::Allocation, //
};

use crate::{
    provider::{
        buffer::Buffer,
        Export, //
    },
    regions::bar::NAME, //
};

use super::mmap;

/// The memory of a dma-buf, and its entry in the list of exports.
pub(crate) struct Handle {
    pub(crate) buffer: Arc<Buffer>,
    /// Its entry in the list of exports.
    export: u64,
}

/// Makes a dma-buf of memory, for an open file of the node. The caller is inside the gate.
pub(crate) fn export(
    buffer: Arc<Buffer>,
    size: usize,
    node: &fs::File,
    irrevocable: bool,
) -> Result<DmaBuf> {
    let provider = buffer.provider().clone();
    let access = Access {
        mode: node.flags() & flags::O_ACCMODE,
        irrevocable,
    };
    let export = provider.exports.key();
    let handle = Handle { buffer, export };
    let (exported, dmabuf) = Exported::new(size, access, provider.inode.clone(), handle)?;

    // If this fails, the dma-buf is dropped.
    provider.exports.insert(export, exported)?;

    Ok(dmabuf)
}

impl Export for Exported<Handle> {
    fn revoke(&self) {
        Exported::revoke(self);
    }

    fn is_in_use(&self) -> bool {
        Exported::is_in_use(self)
    }

    fn for_each_importer(&self, see: &mut dyn FnMut(&Device)) {
        Exported::for_each_importer(self, see);
    }
}

static KIND: Kind<Handle> = Kind::new();

#[vtable]
impl Memory for Handle {
    const NAME: &'static CStr = NAME;

    fn kind() -> &'static Kind<Self> {
        &KIND
    }

    fn hold(&self) -> Option<UseGuard<Allocation>> {
        self.buffer.hold().ok()
    }

    fn mmap(&self, vma: &VmaNew) -> Result {
        mmap::map(&self.buffer, vma)
    }

    fn released(&self) {
        drop(self.buffer.provider().exports.remove(self.export));
    }
}
