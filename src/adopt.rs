// SPDX-License-Identifier: GPL-2.0

//! Memory that another driver owns.
//!
//! The driver of a device, like the stock nvme driver with a CMB, may have published peer-to-peer
//! memory of its own. It gets a node as well, and the device stays in use as what it is. The bus
//! tells when the driver has the device, and before it loses it: then the memory is taken back from
//! its users, so that the driver finds nothing but DMA in flight to wait for.

use kernel::{
    device::Bound,
    page::PAGE_SIZE,
    pci,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::{
        new_mutex,
        Arc,
        Mutex, //
    }, //
};

use kernel_ext::pci::{
    bus::{
        Watch,
        Watcher, //
    },
    driver_name,
    p2pdma::Pool,
    STD_NUM_BARS, //
};

use crate::driver::{
    bar,
    Binding,
    Regions,
    NAME, //
};

use crate::region::Region;

use core::ptr;

/// The devices that were adopted, by their addresses. A device of that address is added and removed
/// with its lock held only.
#[pin_data]
struct Adopted {
    #[pin]
    bindings: Mutex<RBTree<usize, Pin<KBox<Binding>>>>,
}

/// Adopts devices as they come, and gives them up as they go.
pub(crate) struct Adopter(Arc<Adopted>);

/// Begins to adopt, with the devices that are there.
pub(crate) fn start() -> Result<Pin<KBox<Watch<Adopter>>>> {
    let adopted = Arc::pin_init(
        pin_init!(Adopted {
            bindings <- new_mutex!(RBTree::new()),
        }),
        GFP_KERNEL,
    )?;

    KBox::pin_init(Watch::new(Adopter(adopted)), GFP_KERNEL)
}

fn key(pdev: &pci::Device<Bound>) -> usize {
    ptr::from_ref(pdev).addr()
}

impl Watcher for Adopter {
    fn bound(&self, pdev: &pci::Device<Bound>) {
        // Ours, or known already.
        if driver_name(pdev) == NAME || self.0.bindings.lock().get(&key(pdev)).is_some() {
            return;
        }
        if let Err(error) = self.adopt(pdev) {
            dev_warn!(
                pdev,
                "its peer-to-peer memory cannot be given to user space: {:?}\n",
                error
            );
        }
    }

    fn unbinding(&self, pdev: &pci::Device<Bound>) {
        let binding = self.0.bindings.lock().remove(&key(pdev));

        // Not with the lock held: this waits for those who use the memory.
        drop(binding);
    }
}

impl Adopter {
    fn adopt(&self, pdev: &pci::Device<Bound>) -> Result {
        let Some(pool) = Pool::of(pdev)? else {
            return Ok(());
        };
        let mut regions = Regions::new();
        regions.push(find_region(pdev, &pool)?, GFP_KERNEL)?;

        let node = RBTreeNodeReservation::new(GFP_KERNEL)?;
        let binding = KBox::pin_init(Binding::new(pdev, pool, regions)?, GFP_KERNEL)?;
        let mut bindings = self.0.bindings.lock();
        // There is none with that key.
        bindings.insert(node.into_node(key(pdev), binding));

        Ok(())
    }
}

/// Finds out what memory another driver registered, by looking at a page of it.
fn find_region(pdev: &pci::Device<Bound>, pool: &Pool) -> Result<Region> {
    let range = pool.alloc(PAGE_SIZE)?.pagemap_range();

    for number in 0..STD_NUM_BARS {
        let bar = bar(pdev, number)?;
        if bar.size != 0 && (bar.start..bar.start + bar.size).contains(&range.start) {
            return Ok(Region {
                bar: number,
                offset: range.start - bar.start,
                size: range.end - range.start,
            });
        }
    }

    Err(ENXIO)
}
