// SPDX-License-Identifier: GPL-2.0

//! The PCI driver: from a device to a provider.

use kernel::{
    device::Core,
    fmt,
    pci,
    prelude::*,
    str::CString,
    sync::Arc, //
};

use kernel_ext::{
    miscdevice::{
        Options,
        Registration, //
    },
    pci::{
        enable_device,
        p2pdma,
        request_region,
        Resource,
        STD_NUM_BARS, //
    },
};

use crate::{
    file::File,
    number::Number,
    provider::Provider,
    region::{
        self,
        Bar,
        Kind,
        Refusal,
        Region, //
    },
};

/// Who has the BAR, in /proc/iomem.
const NAME: &CStr = <crate::LocalModule as kernel::ModuleMetadata>::NAME;

/// The PCI driver.
pub(crate) struct P2pmem;

/// What is known of a device by its ID.
pub(crate) struct Model {
    /// The BAR that is memory.
    bar: u32,
}

kernel::pci_device_table!(
    PCI_TABLE,
    <P2pmem as pci::Driver>::IdInfo,
    [
        // Inter-VM shared memory of QEMU.
        (
            pci::DeviceId::from_id(pci::Vendor::REDHAT_QUMRANET, 0x1110),
            Model { bar: 2 }
        ),
    ]
);

/// A device that is bound. Its fields are dropped in this order, before the device's memory.
#[pin_data]
pub(crate) struct Binding {
    /// First, no more files are opened.
    #[pin]
    _node: Registration<File>,
    /// Then the memory is taken back from those that are open.
    _revocation: Revocation,
    /// Then the number may be used again.
    _number: Number,
}

/// Revokes a provider when it is dropped.
struct Revocation(Arc<Provider>);

impl Drop for Revocation {
    fn drop(&mut self) {
        self.0.revoke();
    }
}

impl pci::Driver for P2pmem {
    type IdInfo = Model;
    type Data<'bound> = Binding;
    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        pdev: &'bound pci::Device<Core<'_>>,
        model: Option<&'bound Model>,
    ) -> impl PinInit<Binding, Error> + 'bound {
        pin_init::pin_init_scope(move || {
            enable_device(pdev)?;

            let region = find_region(pdev, model)?;
            request_region(pdev, region.bar, NAME).inspect_err(|_| {
                dev_err!(
                    pdev,
                    "BAR {} is in use: unbind who has it, see /proc/iomem\n",
                    region.bar
                )
            })?;

            let pool =
                p2pdma::add_resource(pdev, region.bar, region.offset, region.size.try_into()?)
                    .inspect_err(|error| {
                        dev_err!(
                            pdev,
                            "the kernel cannot make peer-to-peer memory of BAR {}: {:?}\n",
                            region.bar,
                            error
                        )
                    })?;
            p2pdma::publish(pdev, true);

            let number = Number::take_lowest()?;
            let name = CString::try_from_fmt(fmt!("p2pmem{}", number.get()))?;
            let provider = Provider::new(pool, region)?;

            dev_info!(
                pdev,
                "{}: {} MiB of BAR {} at offset {:#x}\n",
                &*name,
                region.size >> 20,
                region.bar,
                region.offset
            );

            Ok(try_pin_init!(Binding {
                _node <- Registration::new(
                    Options {
                        name,
                        parent: pdev.as_ref(),
                        mode: 0o600,
                    },
                    provider.clone(),
                ),
                _revocation: Revocation(provider),
                _number: number,
            }))
        })
    }

    fn unbind<'bound>(pdev: &'bound pci::Device<Core<'_>>, _binding: Pin<&Binding>) {
        // Nobody who looks for memory finds it any more. The rest is done by dropping the binding.
        p2pdma::publish(pdev, false);
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

/// Returns the BAR of a device as plain numbers.
fn bar(pdev: &pci::Device, number: u32) -> Result<Bar> {
    let resource = Resource::of(pdev, number)?;

    Ok(Bar {
        number,
        start: resource.start,
        size: resource.size,
        kind: if resource.is_memory() {
            Kind::Memory {
                prefetchable: resource.is_prefetchable(),
                wide: resource.is_64bit(),
            }
        } else {
            Kind::Io
        },
        assigned: resource.is_assigned(),
    })
}

/// Finds what to register: the BAR that the ID table names, or else the most likely one.
fn find_region(pdev: &pci::Device, model: Option<&Model>) -> Result<Region> {
    let alignment = p2pdma::alignment();

    let found = match model {
        Some(model) => region::whole(&bar(pdev, model.bar)?, alignment),
        None => {
            let mut bars = KVec::with_capacity(STD_NUM_BARS as usize, GFP_KERNEL)?;
            for number in 0..STD_NUM_BARS {
                bars.push(bar(pdev, number)?, GFP_KERNEL)?;
            }
            region::choose(&bars).and_then(|bar| region::whole(bar, alignment))
        }
    };

    found.map_err(|refusal| {
        dev_err!(pdev, "{}\n", refusal);
        EINVAL
    })
}
