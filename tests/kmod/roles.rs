// SPDX-License-Identifier: GPL-2.0

//! The two other roles of p2pdma, beside that of the provider, in safe Rust: who brings devices
//! together (the orchestrator), and who does DMA (the client). For guest cases only.
//!
//! Loading the module takes all NVMe controllers that the nvme driver has for clients, looks for
//! memory that they can reach, and writes to the log what it finds. It fails (`EIO`) if addresses
//! do not fit together.

#![deny(unsafe_code)]

use kernel::{
    dma::DataDirection,
    pci,
    prelude::*,
    sync::{
        aref::ARef,
        new_mutex,
        Arc,
        Mutex, //
    }, //
};

use kernel_ext::{
    p2pmem::P2pSgTable,
    pci::{
        bus::{
            with_bound,
            BoundDevice,
            BusEvents,
            BusNotifier,
            NotifiedDevice, //
        },
        bus_address,
        p2pdma::{
            self,
            P2pmemEnable,
            Pool, //
        },
        tree,
        Resource, //
    },
};

/// How many bytes are taken.
const SIZE: u32 = 1 << 20;

/// State of other drivers.
struct Found {
    clients: KVec<ARef<pci::Device>>,
    pools: KVec<(ARef<pci::Device>, Pool)>,
}

/// Looks for it.
struct Finder(Arc<Mutex<Found>>);

impl Finder {
    fn add(&self, pdev: &NotifiedDevice<'_>) -> Result {
        let pool = pdev.acquire(|pdev| Pool::of(pdev))?;
        let driver = pdev.driver_name();
        let pdev: &pci::Device = pdev;
        let mut found = self.0.lock();

        if let Some(pool) = pool {
            found.pools.push((pdev.into(), pool), GFP_KERNEL)?;
        }
        if driver.to_bytes() == b"nvme" {
            found.clients.push(pdev.into(), GFP_KERNEL)?;
        }
        Ok(())
    }
}

impl BusEvents for Finder {
    fn bound(&self, pdev: &NotifiedDevice<'_>) {
        if let Err(error) = self.add(pdev) {
            pr_err!("{}: not looked at: {:?}\n", name(pdev), error);
        }
    }

    fn unbinding(&self, pdev: &NotifiedDevice<'_>) {
        let mut found = self.0.lock();

        found.clients.retain(|client| !tree::is_same(client, pdev));
        found
            .pools
            .retain(|(provider, _)| !tree::is_same(provider, pdev));
    }
}

struct Roles {
    _watch: Arc<BusNotifier<Finder>>,
}

impl kernel::Module for Roles {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let found = Arc::pin_init(
            new_mutex!(Found {
                clients: KVec::new(),
                pools: KVec::new(),
            }),
            GFP_KERNEL,
        )?;
        let watch = Arc::pin_init(BusNotifier::new(Finder(found.clone())), GFP_KERNEL)?;
        orchestrate(&found)?;

        Ok(Self { _watch: watch })
    }
}

fn name(pdev: &pci::Device) -> &CStr {
    pdev.as_ref().name()
}

/// Finds memory for all clients, and lets each of them have it.
fn orchestrate(found: &Mutex<Found>) -> Result {
    let mut clients = KVec::new();
    for client in &found.lock().clients {
        clients.push(client.clone(), GFP_KERNEL)?;
    }
    let mut list = KVec::new();
    for client in &clients {
        list.push(&**client, GFP_KERNEL)?;
    }

    let Some(provider) = p2pdma::find(&list)? else {
        pr_info!("{} clients: no memory\n", list.len());
        return Ok(());
    };
    pr_info!(
        "{} clients: memory of {}, distance {}\n",
        list.len(),
        name(&provider),
        p2pdma::distance(&provider, &list)?.ok_or(EIO)?
    );
    for client in &list {
        let distance = p2pdma::distance(&provider, &[client])?.ok_or(EIO)?;
        pr_info!("{}: distance {}\n", name(client), distance);
    }
    enables(&provider, &list)?;

    let mut found = found.lock();
    let index = found
        .pools
        .iter()
        .position(|(other, _)| tree::is_same(other, &provider))
        .ok_or(ENODEV)?;
    let (_, pool) = found.pools.remove(index)?;
    // It takes the lock of the device, with which the other one is taken.
    drop(found);
    let mut memory = pool.alloc_list(SIZE)?;
    check_addresses(&provider, &memory)?;
    for client in &list {
        memory = with_bound(client, |client| use_memory(client, memory)).ok_or(ENODEV)??;
    }

    Ok(())
}

/// Checks that all ways to say where the memory is mean the same place.
fn check_addresses(provider: &pci::Device, memory: &P2pSgTable) -> Result {
    let address = memory.physical_address();
    let (bar, start) = Resource::at(provider, address).ok_or(EIO)?;
    let expected = bus_address(provider, bar)? + (address - start);

    pr_info!(
        "BAR {}, physical address {:#x}, bus address {:#x}\n",
        bar,
        address,
        memory.bus_address()
    );
    if !memory.is_p2pdma() || memory.bus_address() != expected {
        pr_err!(
            "expected peer-to-peer memory at bus address {:#x}\n",
            expected
        );
        return Err(EIO);
    }

    Ok(())
}

/// Does what a client does before and after its DMA.
fn use_memory(client: &BoundDevice, memory: P2pSgTable) -> Result<P2pSgTable> {
    let expected = memory.bus_address();
    let mapped = memory
        .map(client, DataDirection::Bidirectional)
        .inspect_err(|error| pr_err!("{}: cannot map: {:?}\n", name(client), error))?;
    let mut bytes = 0;

    for entry in mapped.addresses().iter() {
        let address = entry.dma_address();
        pr_info!(
            "{}: maps {:#x}, {} bytes\n",
            name(client),
            address,
            entry.dma_len()
        );
        if address != expected + bytes {
            pr_err!("expected {:#x}\n", expected + bytes);
            return Err(EIO);
        }
        bytes += entry.dma_len();
    }

    if bytes == u64::from(SIZE) {
        Ok(mapped.unmap())
    } else {
        Err(EIO)
    }
}

/// Reads what an administrator might write to a driver that moves data.
fn enables(provider: &pci::Device, clients: &[&pci::Device]) -> Result {
    let wrong = || {
        pr_err!("the attribute was parsed wrongly\n");
        EIO
    };

    for (text, expected) in [
        (c"0", c"0\n"),
        (c"off", c"0\n"),
        (c"1\n", c"1\n"),
        (c"y", c"1\n"),
    ] {
        if &*P2pmemEnable::parse(text)?.show()? != expected {
            return Err(wrong());
        }
    }
    match P2pmemEnable::parse(name(provider))? {
        P2pmemEnable::Of(found) if tree::is_same(&found, provider) => (),
        _ => return Err(wrong()),
    }
    for client in clients {
        // A provider is nearest to itself.
        let nearest = p2pdma::find(&[client])?;
        let has_memory = nearest.is_some_and(|nearest| tree::is_same(&nearest, client));
        if P2pmemEnable::parse(name(client)).is_ok() != has_memory {
            return Err(wrong());
        }
    }
    for text in [c"", c"perhaps", c"0000:ff:1f.7"] {
        if !matches!(P2pmemEnable::parse(text), Err(error) if error == ENODEV) {
            return Err(wrong());
        }
    }

    Ok(())
}

module! {
    type: Roles,
    name: "p2pmem_roles",
    authors: ["The p2pmem_rs developers"],
    description: "Orchestrator and client of peer-to-peer memory, for tests",
    license: "GPL v2",
    imports_ns: ["DMA_BUF"],
}
