// SPDX-License-Identifier: GPL-2.0

//! The PCI driver: from a device to a provider.

use kernel::{
    device::Core,
    pci,
    prelude::*, //
};

use kernel_ext::pci::{
    device_id,
    driver::Driver,
    enable_device,
    p2pdma, //
};

use crate::{
    node::Node,
    nvme::Switches,
    regions::{
        self,
        bar::log_bars, //
    }, //
};

/// The PCI driver.
pub(crate) struct P2pmem;

/// Data of an entry of the ID table.
pub(crate) struct IdInfo {
    /// The BAR that is memory.
    bar: u32,
}

kernel_ext::pci_device_table!(
    PCI_TABLE,
    PCI_ALIASES,
    IdInfo,
    [
        // Pure memory endpoints: no disk is ever taken away by loading the module.
        // QEMU inter-VM shared memory.
        (device_id(0x1af4, 0x1110), IdInfo { bar: 2 }),
        // Eideticom IOMEM.
        (device_id(0x1de5, 0x1000), IdInfo { bar: 0 }),
        // Microsemi MTRAMON NVRAM.
        (device_id(0x11f8, 0xf117), IdInfo { bar: 4 }),
    ]
);

impl pci::Driver for P2pmem {
    type IdInfo = IdInfo;
    type Data<'bound> = Node;
    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        pdev: &'bound pci::Device<Core<'_>>,
        info: Option<&'bound IdInfo>,
    ) -> impl PinInit<Node, Error> + 'bound {
        pin_init::pin_init_scope(move || {
            enable_device(pdev)?;
            if crate::module_parameters::debug.value() != 0 {
                log_bars(pdev)?;
            }

            let mut switches = Switches::new();
            let regions = regions::find(pdev, info.map(|info| info.bar), &mut switches)?;
            let pool = regions::register(pdev, &regions)?;
            p2pdma::publish(pdev, true);

            Node::new(pdev, pool, regions, switches, false)
        })
    }

    fn unbind<'bound>(pdev: &'bound pci::Device<Core<'_>>, _node: Pin<&Node>) {
        // No client finds the memory any more. Dropping the node does the rest.
        p2pdma::publish(pdev, false);
    }
}

impl Driver for P2pmem {
    fn restarted<'bound>(pdev: &'bound pci::Device<Core<'_>>, node: Pin<&Node>) {
        node.restarted(pdev);
    }
}
