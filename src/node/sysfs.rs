// SPDX-License-Identifier: GPL-2.0

//! Files of a node in sysfs: `/sys/class/misc/p2pmemN/`.
//!
//! Sizes are in bytes. Settings are those of the provider: they are forgotten when the device is
//! unbound.

use kernel::{
    fmt,
    prelude::*,
    str::CString,
    sync::atomic::Relaxed, //
};

use kernel_ext::{
    miscdevice::{
        Attribute,
        BinAttribute, //
    },
    mm::virt::{
        LARGE_PAGES,
        LARGE_PAGE_SIZE, //
    }, //
};

use crate::{
    provider::{
        Privilege,
        Provider, //
    },
    regions::spec, //
};

use super::{
    routes,
    shared::Shared, //
};

/// A file that shows something of the provider.
macro_rules! shown {
    ($name:literal, $value:expr) => {
        Attribute {
            name: $name,
            show: |shared| {
                let value: fn(&Provider) -> Result<_> = $value;
                CString::try_from_fmt(fmt!("{}\n", value(&shared.provider)?))
            },
            store: None,
        }
    };
}

/// A file that shows a setting, and takes what a function reads.
macro_rules! setting {
    ($name:literal, $($field:ident).+, $read:path) => {
        Attribute {
            name: $name,
            show: |shared| {
                let value = shared.provider.$($field).+.load(Relaxed);
                CString::try_from_fmt(fmt!("{}\n", u64::from(value)))
            },
            store: Some(|shared, text| {
                let value = $read(text.trim()).ok_or(EINVAL)?;
                shared.provider.$($field).+.store(value, Relaxed);
                Ok(())
            }),
        }
    };
}

/// The size of large pages, or 0 on kernels without those of device memory.
const LARGE_PAGE: usize = if LARGE_PAGES { LARGE_PAGE_SIZE } else { 0 };

/// All of them.
pub(crate) const ALL: &[Attribute<Shared>] = &[
    shown!(c"size", |provider| Ok(provider.size())),
    shown!(c"allocated", |provider| Ok(provider.allocated())),
    shown!(c"available", |provider| Ok(provider.available())),
    shown!(c"largest", Provider::largest_run),
    Attribute {
        name: c"regions",
        show: |shared| CString::try_from_fmt(fmt!("{}\n", Regions(&shared.provider))),
        store: None,
    },
    shown!(c"adopted", |provider| Ok(u8::from(provider.is_adopted()))),
    shown!(c"large_page", |_| Ok(LARGE_PAGE)),
    setting!(c"clear", settings.clear, yes_or_no),
    setting!(
        c"limit_per_file",
        accounts.limits.per_file,
        spec::size_or_zero
    ),
    setting!(
        c"limit_per_user",
        accounts.limits.per_user,
        spec::size_or_zero
    ),
    Attribute {
        name: c"slots",
        show: |shared| {
            let name = shared.provider.settings.slots().name();
            CString::try_from_fmt(fmt!("{}\n", name))
        },
        store: Some(|shared, text| {
            let named = |privilege: &Privilege| privilege.name() == text.trim();
            let privilege = Privilege::ALL.into_iter().find(named).ok_or(EINVAL)?;
            shared.provider.settings.set_slots(privilege);
            Ok(())
        }),
    },
];

/// The longer ones.
pub(crate) const BIN_ATTRIBUTES: &[BinAttribute<Shared>] = &[BinAttribute {
    name: c"routes",
    show: |shared| routes::list(&shared.provider, &shared.routes),
}];

fn yes_or_no(text: &str) -> Option<bool> {
    match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

/// Regions and their memory kinds, as in `bar2@0x0+0x4000000:cmb`.
struct Regions<'a>(&'a Provider);

impl fmt::Display for Regions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, region) in self.0.regions().iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            f.write_fmt(fmt!(
                "{}bar{}@{:#x}+{:#x}:{}",
                space,
                region.bar,
                region.offset,
                region.size,
                region.kind
            ))?;
        }

        Ok(())
    }
}
