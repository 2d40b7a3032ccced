// SPDX-License-Identifier: GPL-2.0

//! The file `allocations` of a node in debugfs.

use kernel::{
    debugfs,
    fmt,
    prelude::*,
    sync::Arc, //
};

use crate::provider::Provider;

/// The list of allocations, for developers: process, user, bytes, and where, a line for each.
pub(crate) struct AllocationsFile(pub(crate) Arc<Provider>);

impl debugfs::Writer for AllocationsFile {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.for_each_allocation(|one| {
            f.write_fmt(fmt!(
                "{} uid {} bytes {} at {:#x} large {}{}{}\n",
                one.owner,
                one.user.into_uid_in_current_ns(),
                one.bytes,
                one.start,
                one.bytes_in_large_pages,
                if one.is_held { " held" } else { "" },
                if one.is_outstanding {
                    " outstanding"
                } else {
                    ""
                }
            ))
        })
    }
}
