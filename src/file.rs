// SPDX-License-Identifier: GPL-2.0

//! An open file of `/dev/p2pmemN`.

use kernel::{
    fs,
    mm::virt::VmaNew,
    prelude::*,
    sync::{
        poll::PollTable,
        Arc,
        ArcBorrow, //
    }, //
};

use kernel_ext::{
    fs::Mapping,
    miscdevice::{
        MiscDevice,
        POLL_GONE, //
    }, //
};

use crate::{
    ioctl,
    mmap,
    provider::Provider, //
};

/// An open file.
pub(crate) struct File {
    provider: Arc<Provider>,
    key: u64,
}

#[vtable]
impl MiscDevice for File {
    type Data = Provider;

    fn open(file: &fs::File, provider: ArcBorrow<'_, Provider>) -> Result<Arc<Self>> {
        let inside = provider.enter()?;
        let key = provider.add_file(Mapping::of(file), &inside)?;
        // From here on, dropping the file takes it off the list.
        let this = Self {
            provider: provider.into(),
            key,
        };

        Ok(Arc::new(this, GFP_KERNEL)?)
    }

    fn mmap(this: ArcBorrow<'_, Self>, _file: &fs::File, vma: &VmaNew) -> Result {
        mmap::map(&this.provider, vma)
    }

    fn ioctl(this: ArcBorrow<'_, Self>, _file: &fs::File, cmd: u32, arg: usize) -> Result<isize> {
        ioctl::handle(&this.provider, cmd, arg)
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
        self.provider.remove_file(self.key);
    }
}
