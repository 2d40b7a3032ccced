// SPDX-License-Identifier: GPL-2.0

//! PCI peer-to-peer memory for user space.
//!
//! Turns memory of PCI devices into buffers that programs can hold: `/dev/p2pmemN`. Direct I/O
//! into such a buffer goes from device to device.

#![deny(unsafe_code)]

mod adopt;
mod driver;
mod file;
mod ioctl;
mod mmap;
mod number;
mod nvme;
mod provider;
mod region;
mod registry;

use kernel::{
    driver::Registration,
    pci,
    prelude::*, //
};

use kernel_ext::pci::bus::Watch;

/// What the module does while it is loaded.
#[pin_data]
struct Module {
    /// First, memory of other drivers is given up.
    _adopter: Option<Pin<KBox<Watch<adopt::Adopter>>>>,
    #[pin]
    _driver: Registration<pci::Adapter<driver::P2pmem>>,
}

impl kernel::InPlaceModule for Module {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _driver <- Registration::new(driver::NAME, module),
            _adopter: if module_parameters::adopt.value() != 0 {
                Some(adopt::start()?)
            } else {
                None
            },
        })
    }
}

module! {
    type: Module,
    name: "p2pmem_rs",
    authors: ["The p2pmem_rs developers"],
    description: "PCI peer-to-peer memory provider",
    license: "GPL v2",
    params: {
        adopt: u8 {
            default: 1,
            description: "Give memory that other drivers published to user space, too (default 1)",
        },
    },
}
