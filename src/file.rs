// SPDX-License-Identifier: GPL-2.0

//! An open file of `/dev/p2pmemN`.

use kernel::{
    fs,
    mm::virt::VmaNew,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::{
        poll::PollTable,
        Arc,
        ArcBorrow, //
    }, //
};

use kernel_ext::{
    fs::Mapping,
    io_uring::cmd::Command,
    miscdevice::{
        Attribute,
        Listing,
        MiscDevice,
        POLL_GONE, //
    }, //
};

use crate::{
    attributes,
    ioctl,
    mmap,
    provider::Provider,
    uring, //
};

/// An open file.
pub(crate) struct File {
    pub(crate) provider: Arc<Provider>,
    /// Its entry in the list of files, and who it is where memory is counted.
    pub(crate) key: u64,
}

#[vtable]
impl MiscDevice for File {
    type Data = Provider;
    const ALIGN_AREAS: bool = true;
    const ATTRIBUTES: &'static [Attribute<Provider>] = attributes::ALL;
    const LISTINGS: &'static [Listing<Provider>] = attributes::LISTINGS;

    fn open(file: &fs::File, provider: ArcBorrow<'_, Provider>) -> Result<Arc<Self>> {
        let _inside = provider.enter()?;
        // From here on, dropping the file takes it off the list.
        let this = Self {
            provider: provider.into(),
            key: provider.files.key(),
        };
        this.provider.files.insert(this.key, Mapping::of(file))?;

        Ok(Arc::new(this, GFP_KERNEL)?)
    }

    fn mmap(this: ArcBorrow<'_, Self>, _file: &fs::File, vma: &VmaNew) -> Result {
        mmap::map_new(&this.provider, this.key, vma)
    }

    fn ioctl(this: ArcBorrow<'_, Self>, file: &fs::File, cmd: u32, arg: usize) -> Result<isize> {
        ioctl::handle(&this, file, cmd, arg)
    }

    fn uring_cmd(this: ArcBorrow<'_, Self>, file: &fs::File, command: &Command<'_>) -> Result<i32> {
        uring::handle(&this.provider, file, command)
    }

    fn show_fdinfo(this: ArcBorrow<'_, Self>, seq: &SeqFile) {
        seq_print!(
            seq,
            "p2pmem-allocated:\t{}\n",
            this.provider.allocated_by(this.key)
        );
    }

    fn poll(this: ArcBorrow<'_, Self>, file: &fs::File, table: &PollTable<'_>) -> u32 {
        table.register_wait(file, &this.provider.gone);

        if this.provider.is_gone() {
            POLL_GONE
        } else {
            0
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        drop(self.provider.files.remove(self.key));
    }
}
