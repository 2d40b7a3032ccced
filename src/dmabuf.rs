// SPDX-License-Identifier: GPL-2.0

//! Memory as a file descriptor.

use kernel::{
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
        Memory, //
    },
    fs::Mapping,
    gate::Hold,
    p2pmem::Allocation, //
};

use crate::{
    buffer::Buffer,
    driver,
    mmap, //
};

/// What is behind a dma-buf.
pub(crate) struct Handle {
    pub(crate) buffer: Arc<Buffer>,
    /// Its entries in the lists of the provider: where it is mapped, and that it is exported.
    file: u64,
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
    let handle = Handle {
        file: provider.files.key(),
        export: provider.exports.key(),
        buffer,
    };
    let (file, export) = (handle.file, handle.export);
    let (exported, dmabuf) = Exported::new(size, access, handle)?;

    // If one of these fails, dropping the dma-buf undoes the other.
    provider.files.insert(file, Mapping::of(dmabuf.file()))?;
    provider.exports.insert(export, exported)?;

    Ok(dmabuf)
}

#[vtable]
impl Memory for Handle {
    const NAME: &'static CStr = driver::NAME;

    fn hold(&self) -> Option<Hold<Allocation>> {
        self.buffer.hold().ok()
    }

    fn mmap(&self, vma: &VmaNew) -> Result {
        mmap::map(&self.buffer, vma)
    }

    fn released(&self) {
        let provider = self.buffer.provider();

        drop(provider.files.remove(self.file));
        drop(provider.exports.remove(self.export));
    }
}
