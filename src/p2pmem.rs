// SPDX-License-Identifier: GPL-2.0

//! PCI peer-to-peer memory for user space.
//!
//! Turns memory of PCI devices into buffers that programs can hold: `/dev/p2pmemN`. Direct I/O
//! into that buffer goes from device to device.

#![deny(unsafe_code)]

mod adopt;
mod driver;
mod node;
mod nvme;
mod provider;
mod regions;

use kernel::{
    driver::Registration,
    prelude::*,
    sync::Arc, //
};

use kernel_ext::{
    module::{
        AttributeFile,
        Parameter,
        ParameterFiles, //
    },
    module_cell::ModuleCellGuard,
    pci::{
        bus::BusNotifier,
        driver::Adapter, //
    },
    suspend::SleepNotifier, //
};

use regions::{
    bar::NAME,
    file, //
};

/// Adopts devices of other drivers.
type Adopting = Arc<BusNotifier<adopt::Adopter>>;

/// Registrations of the module. The fields are dropped in this order.
#[pin_data]
struct Module {
    /// First, the administrator asks for nothing more.
    _file: Pin<KBox<AttributeFile<file::File<Adopting>>>>,
    _parameters: ParameterFiles,
    /// Then nothing is adopted after sleep any more.
    _sleep: Option<Pin<KBox<SleepNotifier<adopt::Sleep>>>>,
    /// Then memory of other drivers is given up.
    _adopter: Option<Adopting>,
    #[pin]
    _driver: Registration<Adapter<driver::P2pmem>>,
    /// Regions that the administrator specified, for the driver.
    _config: ModuleCellGuard<file::Config>,
}

/// Parameters that can be read in `/sys/module/p2pmem_rs/parameters/`.
const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: c"adopt",
        value: || module_parameters::adopt.value(),
    },
    Parameter {
        name: c"debug",
        value: || module_parameters::debug.value(),
    },
];

impl kernel::InPlaceModule for Module {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(move || {
            let config = file::Config::new()?;
            let loan = file::CONFIG.lend(config.clone())?;

            Ok(try_pin_init!(Self {
                _config: loan,
                _driver <- Registration::new(NAME, module),
                _adopter: if module_parameters::adopt.value() != 0 {
                    Some(adopt::start()?)
                } else {
                    None
                },
                _sleep: match &_adopter {
                    Some(adopter) => Some(KBox::pin_init(
                        SleepNotifier::new(adopt::Sleep(Arc::clone(adopter))),
                        GFP_KERNEL,
                    )?),
                    None => None,
                },
                _parameters: ParameterFiles::new(module, PARAMETERS)?,
                _file: {
                    let file = file::File::new(config, _adopter.clone());
                    KBox::pin_init(AttributeFile::new(module, file), GFP_KERNEL)?
                },
            }))
        })
    }
}

module! {
    type: Module,
    name: "p2pmem_rs",
    authors: ["The p2pmem_rs developers"],
    description: "PCI peer-to-peer memory provider",
    license: "GPL v2",
    imports_ns: ["DMA_BUF"],
    params: {
        adopt: u8 {
            default: 1,
            description: "Give memory that other drivers published to user space, too (default 1)",
        },
        debug: u8 {
            default: 0,
            description: "Write the BARs of each device that is bound to the log (default 0)",
        },
    },
}
