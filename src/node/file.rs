// SPDX-License-Identifier: GPL-2.0

//! An open file of `/dev/p2pmemN`.

use kernel::{
    fs,
    mm::virt::VmaRef,
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
    fs::AnonInode,
    io_uring::cmd::Command,
    miscdevice::{
        Attribute,
        BinAttribute,
        MiscDevice,
        POLL_GONE, //
    },
    mm::virt::AreaDescription, //
};

use crate::provider::{
    buffer::Buffer,
    Account,
    Provider, //
};

use super::{
    ioctl,
    mmap,
    shared::Shared,
    sysfs,
    uring, //
};

/// An open file.
pub(crate) struct File {
    pub(crate) provider: Arc<Provider>,
    pub(crate) account: Arc<Account>,
}

#[vtable]
impl MiscDevice for File {
    type Data = Shared;
    type Area = Buffer;
    const ALIGN_AREAS: bool = true;
    const ATTRIBUTES: &'static [Attribute<Shared>] = sysfs::ALL;
    const BIN_ATTRIBUTES: &'static [BinAttribute<Shared>] = sysfs::BIN_ATTRIBUTES;

    fn address_space(shared: &Shared) -> Option<&Arc<AnonInode>> {
        Some(&shared.provider.inode)
    }

    fn open(file: &fs::File, shared: ArcBorrow<'_, Shared>) -> Result<Arc<Self>> {
        let provider = &shared.provider;
        let _inside = provider.enter()?;
        let this = Self {
            provider: provider.clone(),
            account: provider.accounts.open(file.cred().euid())?,
        };

        Ok(Arc::new(this, GFP_KERNEL_ACCOUNT)?)
    }

    fn mmap_prepare(this: ArcBorrow<'_, Self>, area: &AreaDescription) -> Result {
        mmap::prepare(&this.provider, area)
    }

    fn mapped(this: ArcBorrow<'_, Self>, vma: &VmaRef) -> Result<Arc<Buffer>> {
        mmap::mapped(&this.provider, &this.account, vma)
    }

    fn ioctl(this: ArcBorrow<'_, Self>, file: &fs::File, cmd: u32, arg: usize) -> Result<isize> {
        ioctl::handle(&this.provider, &this.account, file, cmd, arg)
    }

    fn size(this: ArcBorrow<'_, Self>) -> Result<u64> {
        let _inside = this.provider.enter()?;

        Ok(this.provider.size())
    }

    fn uring_cmd(this: ArcBorrow<'_, Self>, file: &fs::File, command: &Command<'_>) -> Result<i32> {
        uring::handle(&this.provider, file, command)
    }

    fn show_fdinfo(this: ArcBorrow<'_, Self>, seq: &SeqFile) {
        let (bytes, in_large_pages) = this.account.allocated();

        seq_print!(seq, "p2pmem-allocated:\t{}\n", bytes);
        seq_print!(seq, "p2pmem-large:\t{}\n", in_large_pages);
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
