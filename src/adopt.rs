// SPDX-License-Identifier: GPL-2.0

//! Memory that another driver owns.
//!
//! The driver of a device, like the stock nvme driver with a CMB, may have published peer-to-peer
//! memory of its own. It gets a node as well, and the device stays in use as what it is. The bus
//! tells when the driver has the device, and before it loses it: then the memory is taken back from
//! its users, so that the driver finds nothing but DMA in flight to wait for.
//!
//! A driver may also leave memory alone, like the stock nvme driver a Persistent Memory Region. If
//! the administrator asks for it, it is registered here, and is gone before the driver loses the
//! device.

use kernel::{
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

use kernel_ext::{
    pci::{
        bus::{
            BusEvents,
            BusNotifier,
            NotifiedDevice, //
        },
        is_present,
        p2pdma::{
            self,
            Pool, //
        },
        Resource, //
    },
    suspend::Sleeper,
    workqueue::RetryWork, //
};

use crate::{
    node::Node,
    nvme::{
        self,
        Switches, //
    },
    provider::revoke::Rest,
    regions::{
        bar::{
            is_nvme_controller,
            NAME, //
        },
        file,
        range::{
            MemoryKind,
            Region, //
        },
        register,
        spec::RegionSpec, //
    }, //
};

use core::ptr;

/// A device that another driver has. The fields are dropped in this order.
struct Adopted {
    /// None once the device is being unbound.
    node: Option<Pin<KBox<Node>>>,
    /// Finishes the revocation of a device that is gone by then.
    rest: Pin<KBox<RetryWork<Rest>>>,
    /// Whether the memory was registered here, beside the other driver.
    registered: bool,
}

/// Adopts devices as they come, and gives them up as they go.
#[pin_data]
pub(crate) struct Adopter {
    /// By their addresses. A device of that address is added and removed with its lock held only.
    #[pin]
    devices: Mutex<RBTree<usize, Adopted>>,
}

/// Begins to adopt, with the devices that are there.
pub(crate) fn start() -> Result<Arc<BusNotifier<Adopter>>> {
    Arc::pin_init(
        BusNotifier::new(pin_init!(Adopter {
            devices <- new_mutex!(RBTree::new()),
        })),
        GFP_KERNEL,
    )
}

impl file::Applier for Arc<BusNotifier<Adopter>> {
    fn apply(&self, device: &CStr) {
        self.tell_again(device);
    }
}

fn key(pdev: &pci::Device) -> usize {
    ptr::from_ref(pdev).addr()
}

impl BusEvents for Adopter {
    fn bound(&self, pdev: &NotifiedDevice<'_>) {
        if pdev.driver_name() == NAME {
            return;
        }
        let wanted = wants_pmr(pdev);
        let known = self
            .devices
            .lock()
            .get(&key(pdev))
            .map(|adopted| adopted.registered);

        let adopted = match (known, wanted) {
            (None, _) => self.adopt(pdev, wanted),
            // The administrator does not want it any more.
            (Some(true), false) => {
                self.unbinding(pdev);
                pdev.release();
                Ok(())
            }
            (Some(false), true) => {
                log_published(pdev);
                Ok(())
            }
            (Some(_), _) => Ok(()),
        };
        if let Err(error) = adopted {
            dev_warn!(
                pdev,
                "its peer-to-peer memory cannot be given to user space: {:?}\n",
                error
            );
        }
    }

    fn unbinding(&self, pdev: &NotifiedDevice<'_>) {
        if self.devices.lock().get(&key(pdev)).is_none() {
            return;
        }
        // DMA of a device that is gone ends when its driver finds out, and that is not before this
        // returns. The device may have memory of its own in use.
        if is_present(pdev) || !pdev.leave() {
            // Without the lock: dropping waits for users of the memory. The device's resources are
            // released afterwards.
            let adopted = self.devices.lock().remove(&key(pdev));
            drop(adopted);
            return;
        }

        let node = self
            .devices
            .lock()
            .get_mut(&key(pdev))
            .and_then(|adopted| adopted.node.take());
        if let Some(node) = node {
            node.leave_rest();
            drop(node);
            if let Some(adopted) = self.devices.lock().get(&key(pdev)) {
                adopted.rest.schedule();
            }
        }
    }

    fn unbound(&self, pdev: &pci::Device) {
        let adopted = self.devices.lock().remove(&key(pdev));
        drop(adopted);
    }
}

/// Gives memory of other drivers up before the system sleeps, and adopts it again afterwards: the
/// devices lose their registers, and their drivers do not tell when DMA begins again.
pub(crate) struct Sleep(pub(crate) Arc<BusNotifier<Adopter>>);

impl Sleeper for Sleep {
    fn prepare(&self) -> Result {
        self.0.events().check_slots()?;
        self.0.pause();
        Ok(())
    }

    fn awake(&self) {
        self.0.resume();
    }
}

impl Adopter {
    /// `EBUSY` if memory is in a ring: a process has to take it out, and does not run while the
    /// system goes to sleep.
    fn check_slots(&self) -> Result {
        let mut providers = KVec::new();
        let devices = self.devices.lock();
        for node in devices.values().filter_map(|one| one.node.as_ref()) {
            providers.push(node.provider().clone(), GFP_KERNEL)?;
        }
        drop(devices);

        match providers.iter().find(|one| one.slots.next(0).is_some()) {
            Some(provider) => {
                dev_warn!(
                    provider.device(),
                    "the system stays awake: memory is in an io_uring, see the list of allocations\n"
                );
                Err(EBUSY)
            }
            None => Ok(()),
        }
    }

    /// Adopts what there is: the memory that the other driver published, or else the Persistent
    /// Memory Region if that is wanted.
    fn adopt(&self, pdev: &NotifiedDevice<'_>, wants_pmr: bool) -> Result {
        let entry = RBTreeNodeReservation::new(GFP_KERNEL)?;
        let adopted = pdev.acquire(|pdev| {
            let published = Pool::of(pdev)?;
            let registered = published.is_none();
            let mut switches = Switches::new();
            let (pool, regions) = match published {
                Some(pool) => {
                    if is_nvme_controller(pdev) {
                        nvme::check_cmb(pdev)?;
                    }
                    if wants_pmr {
                        log_published(pdev);
                    }
                    let regions = published_regions(pdev, &pool)?;
                    (pool, regions)
                }
                None if wants_pmr => {
                    let regions = nvme::discover_beside(pdev, &mut switches)?;
                    let pool = register(pdev, &regions)?;
                    p2pdma::publish(pdev, true);
                    (pool, regions)
                }
                None => return Ok(None),
            };

            let node = Node::new(pdev, pool, regions, switches, true)?;
            let node = KBox::pin_init(node, GFP_KERNEL)?;
            Ok(Some(Adopted {
                rest: Rest::new(node.provider())?,
                node: Some(node),
                registered,
            }))
        })?;
        let Some(adopted) = adopted else {
            pdev.release();
            return Ok(());
        };

        // There is none with that key.
        self.devices
            .lock()
            .insert(entry.into_node(key(pdev), adopted));
        Ok(())
    }
}

/// Returns whether the administrator asked for the Persistent Memory Region.
fn wants_pmr(pdev: &pci::Device) -> bool {
    is_nvme_controller(pdev)
        && file::specs(pdev).is_some_and(|specs| specs.list().contains(&RegionSpec::Pmr))
}

fn log_published(pdev: &pci::Device) {
    dev_warn!(
        pdev,
        "its driver published memory, from which a PMR cannot be kept apart: \
         bind the controller to {} to have both\n",
        NAME
    );
}

/// Finds out what memory another driver registered, by looking at a page of it.
fn published_regions(pdev: &pci::Device, pool: &Pool) -> Result<KVec<Region>> {
    let range = pool.alloc(PAGE_SIZE, PAGE_SIZE)?.pagemap_range();

    let (bar, start) = Resource::at(pdev, range.start).ok_or(ENXIO)?;

    let mut regions = KVec::new();
    let region = Region {
        bar,
        offset: range.start - start,
        size: range.end - range.start,
        // The nvme driver is the only one that publishes memory.
        kind: if is_nvme_controller(pdev) {
            MemoryKind::Cmb
        } else {
            MemoryKind::Bar
        },
    };

    regions.push(region, GFP_KERNEL)?;
    Ok(regions)
}
