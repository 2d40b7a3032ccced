// SPDX-License-Identifier: GPL-2.0

//! State that all open files of a node share.

use kernel::{
    prelude::*,
    sync::{
        new_mutex,
        Arc,
        Mutex, //
    }, //
};

use crate::provider::Provider;

use super::routes;

/// State that all open files of a node, and its files in sysfs, share.
#[pin_data]
pub(crate) struct Shared {
    pub(crate) provider: Arc<Provider>,
    /// Taken inside the gate of the provider.
    #[pin]
    pub(crate) routes: Mutex<routes::Found>,
}

impl Shared {
    /// Creates what the files of a new node share.
    pub(crate) fn new(provider: Arc<Provider>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                provider,
                routes <- new_mutex!(routes::Found::new()),
            }),
            GFP_KERNEL,
        )
    }
}
