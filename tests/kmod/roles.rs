// SPDX-License-Identifier: GPL-2.0

//! The two other roles of p2pdma, beside that of the provider, in safe Rust: who brings devices
//! together (the orchestrator), and who does DMA (the client). For guest cases only.
//!
//! Loading the module takes all NVMe controllers that the nvme driver has for clients, looks for
//! memory that they can reach, and writes to the log what it finds. It fails (`EIO`) if addresses
//! do not fit together.

#![deny(unsafe_code)]

use kernel::{
    device::Core,
    dma::DataDirection,
    page::PAGE_SIZE,
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
    gate::{
        Gate,
        SleepableRevocable, //
    },
    module_cell::ModuleCell,
    p2pmem::{
        Allocation,
        P2pSgTable, //
    },
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
        request_range,
        tree,
        Resource,
        UnclaimedBar, //
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
        let pool = pdev.acquire(|pdev| {
            refusals(pdev)?;
            Pool::of(pdev)
        })?;
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

    fn unbound(&self, _pdev: &pci::Device) {}
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
        gate()?;
        cell()?;

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
    allocations(&pool)?;
    let mut memory = pool.alloc_list(SIZE)?;
    check_addresses(&provider, &memory)?;
    for client in &list {
        memory = with_bound(client, |client| use_memory(client, memory)).ok_or(ENODEV)??;
    }
    if let Some(client) = list.first() {
        with_bound(client, |client| give_up(client, &pool, memory)).ok_or(ENODEV)??;
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

/// Passes on `EIO` if something does not hold.
fn expect(holds: bool, what: &CStr) -> Result {
    if !holds {
        pr_err!("does not hold: {}\n", what);
        return Err(EIO);
    }
    Ok(())
}

/// Checks that there is a certain error.
fn expect_error<T>(result: Result<T>, expected: Error, what: &CStr) -> Result {
    expect(matches!(result, Err(error) if error == expected), what)
}

/// Checks that ranges outside of a device's BARs are refused.
fn refusals(pdev: &pci::Device<Core<'_>>) -> Result {
    const NO_BAR: u32 = 6;
    // No BAR has as many bytes.
    const LARGE: usize = 1 << 50;

    expect_error(bus_address(pdev, NO_BAR), EINVAL, c"no BAR")?;
    let window = UnclaimedBar::<LARGE>::map(pdev, 0);
    expect_error(window, EINVAL, c"registers longer than the BAR")?;
    for size in [0, LARGE as u64] {
        let claimed = request_range(pdev, 0, 0, size, c"p2pmem_roles");
        expect_error(claimed, EINVAL, c"a claim of nothing, or of too much")?;
    }
    for size in [0, 1] {
        let added = p2pdma::add_resource(pdev, 0, 0, size);
        expect_error(added, EINVAL, c"memory of no page")?;
    }
    Ok(())
}

/// Checks what holds for memory of a pool, in any order of calls.
fn allocations(pool: &Pool) -> Result {
    for size in [0, 1] {
        expect_error(pool.alloc_list(size), EINVAL, c"a list of no page")?;
        let memory = pool.alloc(size as usize, PAGE_SIZE);
        expect_error(memory, EINVAL, c"memory of no page")?;
    }

    // Dropped without a release; then released, and asked for once more.
    for is_released in [false, true] {
        let run = pool.alloc(2 * PAGE_SIZE, PAGE_SIZE)?;
        let mut memory = KBox::pin_init(Allocation::new(run, true), GFP_KERNEL)?;
        memory.prepare(|| Ok(()))?;
        if is_released {
            expect(memory.as_mut().release() == 0, c"without a user")?;
            let again = memory.prepare(|| Ok(()));
            expect_error(again, ENODEV, c"memory that was given back")?;
        }
    }
    Ok(())
}

/// Checks that a value is reached from inside its own gate only.
fn gate() -> Result {
    let (own, other) = (
        Arc::pin_init(Gate::new(), GFP_KERNEL)?,
        Arc::pin_init(Gate::new(), GFP_KERNEL)?,
    );
    let value = SleepableRevocable::new(own.clone(), Ok::<_, Error>(1));
    let value = Arc::pin_init(value, GFP_KERNEL)?;

    let inside = own.enter().ok_or(EIO)?;
    let wrong = other.enter().ok_or(EIO)?;
    expect(value.get(&inside) == Some(&1), c"inside")?;
    expect(value.get(&wrong).is_none(), c"inside of another gate")?;
    let held = SleepableRevocable::hold(&value, &inside).ok_or(EIO)?;
    drop((inside, wrong));

    let (closed, wrong) = (own.close(), other.close());
    expect(own.enter().is_none(), c"closed")?;
    expect(value.with_closed(&closed, |_| ()).is_none(), c"held")?;
    drop(held);
    expect(value.with_closed(&wrong, |_| ()).is_none(), c"another gate")?;
    let within = |_: Pin<&mut i32>| value.with_closed(&closed, |_| ());
    expect(value.with_closed(&closed, within) == Some(None), c"twice")
}

static CELL: ModuleCell<u32> = ModuleCell::new();

/// Checks that there is one loan at a time.
fn cell() -> Result {
    expect(CELL.get().is_none(), c"empty")?;
    let loan = CELL.lend(Arc::new(1, GFP_KERNEL)?)?;
    expect(CELL.get().is_some_and(|value| *value == 1), c"lent")?;
    let more = CELL.lend(Arc::new(2, GFP_KERNEL)?);
    expect_error(more, EBUSY, c"lent already")?;
    drop(loan);
    expect(CELL.get().is_none(), c"empty again")
}

/// Gives memory up that is mapped, and memory that cannot be mapped.
fn give_up(client: &BoundDevice, pool: &Pool, memory: P2pSgTable) -> Result {
    drop(memory.map(client, DataDirection::Bidirectional)?);
    let nowhere = pool.alloc_list(SIZE)?.map(client, DataDirection::None);
    expect_error(nowhere, EINVAL, c"DMA in no direction")
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
        P2pmemEnable::Of(found) if tree::is_same(&found, provider) => {
            let shown = P2pmemEnable::Of(found).show()?;
            if shown.to_bytes().trim_ascii() != name(provider).to_bytes() {
                return Err(wrong());
            }
        }
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
