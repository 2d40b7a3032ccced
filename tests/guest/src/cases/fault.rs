// SPDX-License-Identifier: GPL-2.0

//! Calls that fail. Functions of the kernel by the test module, on every kernel; each allocation in
//! turn where the kernel can do that: the group nth needs the debug kernel.

use std::{
    cell::RefCell,
    fs::{self, File},
    path::Path,
};

use anyhow::{bail, ensure, Context, Result};
use p2pmem::{abi::P2PMEM_CAP_LARGE_PAGES, Provider as Node};
use rustix::{io::Errno, mm::MapFlags};

use crate::{
    cases,
    cases::uring,
    guest::{
        bind, choices, choose, devices, errno, insmod, is_loaded, restore, rmmod, unbind, Map,
        Provider, PAGE, READ_WRITE, WINDOW,
    },
    kmod::TestFile,
};

cases!("fault": functions_of_probe, functions_of_insmod, functions_of_a_page_fault);

/// Checks that nothing is left of an attempt to bind a device.
fn expect_nothing(pci: &str) -> Result<()> {
    let device = format!("/sys/bus/pci/devices/{pci}");
    ensure!(Provider::all()?.is_empty(), "there is a node");
    for what in ["driver", "p2pmem"] {
        ensure!(!Path::new(&device).join(what).exists(), "there is {what}");
    }
    ensure!(!fs::read_to_string("/proc/iomem")?.contains("p2pmem_rs"));
    Ok(())
}

/// Has functions fail in turn, while something is done that must notice.
fn each_fails(
    functions: &[(&'static str, Errno)],
    mut attempt: impl FnMut() -> Result<(), Errno>,
    mut after: impl FnMut() -> Result<()>,
) -> Result<()> {
    for &(function, error) in functions {
        let test = TestFile::open()?;
        test.fail(function, error)?;
        let result = attempt();
        ensure!(test.hits(function)? > 0, "{function} was not called");
        drop(test);
        ensure!(
            result == Err(error),
            "{function} failed with {error}, and that with {result:?}"
        );
        after().context(function)?;
    }
    Ok(())
}

fn functions_of_probe() -> Result<()> {
    let pci = Provider::first()?.pci;
    unbind(&pci)?;
    each_fails(
        &[
            ("pcim_enable_device", Errno::IO),
            ("pci_p2pdma_add_resource", Errno::NOMEM),
            ("misc_register", Errno::NOSPC),
        ],
        || errno(bind(&pci)),
        || expect_nothing(&pci),
    )?;
    bind(&pci)?;
    restore()
}

fn functions_of_insmod() -> Result<()> {
    rmmod()?;
    each_fails(
        &[
            ("__pci_register_driver", Errno::NOMEM),
            ("bus_register_notifier", Errno::NOMEM),
        ],
        insmod,
        || {
            ensure!(!is_loaded() && Provider::all()?.is_empty());
            Ok(())
        },
    )?;
    restore()
}

fn functions_of_a_page_fault() -> Result<()> {
    const VM_FAULT_OOM: i32 = 1;
    let provider = Provider::first()?;
    let large = Map::placed(provider.open()?, WINDOW, 0, 0)?;
    let small = Map::placed(provider.open()?, WINDOW, 0, PAGE)?;
    let large_function = match Node::open(&provider.path)?.info()?.capabilities {
        known if known & P2PMEM_CAP_LARGE_PAGES != 0 => "vmf_insert_folio_pmd",
        _ => "vm_insert_pages",
    };
    for (map, function) in [(large, large_function), (small, "vm_insert_pages")] {
        for error in [Errno::INVAL, Errno::FAULT, Errno::NOMEM] {
            let test = TestFile::open()?;
            match (function, error) {
                // It returns what a fault handler does.
                ("vmf_insert_folio_pmd", Errno::NOMEM) => test.replace(function, VM_FAULT_OOM)?,
                _ => test.fail(function, error)?,
            }
            ensure!(!map.is_readable(0)?, "readable");
            ensure!(test.hits(function)? > 0, "{function} was not called");
        }
        // Nothing is broken by it.
        map.fill(0..WINDOW, 1);
        map.check(0..WINDOW, 1)?;
    }
    Ok(())
}

/// Cases in which each allocation fails in turn. Needs the debug kernel.
pub mod nth {
    use super::*;

    cases!(
        "nth": open, mmap, page_fault, requests, handles, ring, regions, bind_and_unbind, load,
    );

    /// Does something again and again, and each time the next allocation of memory fails, until
    /// none is left that could. `attempt` returns whether it noticed; `after` looks at the state.
    ///
    /// `within` names a function of the kernel, if only what is allocated within that is to fail.
    fn each_allocation_fails(
        within: Option<&str>,
        mut attempt: impl FnMut() -> Result<(), Errno>,
        allowed: &[Errno],
        mut after: impl FnMut(bool) -> Result<()>,
    ) -> Result<()> {
        // Of memory that may be waited for as well; without a trace of each.
        let slab = Path::new("/sys/kernel/debug/failslab");
        fs::write(slab.join("ignore-gfp-wait"), "N").context("failslab")?;
        for entry in fs::read_dir("/sys/kernel/debug")? {
            let entry = entry?;
            let verbose = entry.path().join("verbose");
            if entry.file_name().to_string_lossy().starts_with("fail") && verbose.exists() {
                fs::write(verbose, "0")?;
            }
        }
        // Not within this function: mainline leaves a freed structure to be used on unbind if the
        // last allocation in it fails, and warns if one of memory hot-plug does.
        let (start, end) = function("pci_p2pdma_add_resource")?;
        let within = within.map_or(Ok((0, u64::MAX)), function)?;
        for folder in ["failslab", "fail_page_alloc"] {
            let folder = Path::new("/sys/kernel/debug").join(folder);
            fs::write(folder.join("stacktrace-depth"), "32")?;
            fs::write(folder.join("reject-start"), format!("{start:#x}"))?;
            fs::write(folder.join("reject-end"), format!("{end:#x}"))?;
            fs::write(folder.join("require-start"), format!("{:#x}", within.0))?;
            fs::write(folder.join("require-end"), format!("{:#x}", within.1))?;
        }

        for number in 1..1000 {
            fail_nth(number)?;
            let result = attempt();
            let left = stop_failing();
            if let Err(error) = result {
                ensure!(
                    allowed.contains(&error),
                    "allocation {number} failed, and then: {error}"
                );
            }
            after(result.is_ok()).with_context(|| format!("after allocation {number}"))?;
            if left > 0 {
                ensure!(number > 1, "there was no allocation at all");
                ensure!(result.is_ok(), "failed without a reason");
                return Ok(());
            }
        }
        bail!("there is no end of allocations")
    }

    /// Returns where a function of the kernel is.
    fn function(name: &str) -> Result<(u64, u64)> {
        let mut addresses = Vec::new();
        let mut start = None;
        for line in fs::read_to_string("/proc/kallsyms")?.lines() {
            let mut words = line.split_whitespace();
            let address = u64::from_str_radix(words.next().unwrap_or_default(), 16)?;
            if words.nth(1) == Some(name) {
                start = Some(address);
            }
            addresses.push(address);
        }
        let start = start.context(name.to_owned())?;
        let end = addresses.into_iter().filter(|&one| one > start).min();
        Ok((start, end.context("the last function")?))
    }

    const FAIL_NTH: &str = "/proc/thread-self/fail-nth";

    /// Has an allocation of this thread fail, counted from 1.
    fn fail_nth(number: u32) -> Result<()> {
        Ok(fs::write(FAIL_NTH, number.to_string())?)
    }

    /// Returns how many allocations were left before one fails, and lets all succeed again.
    fn stop_failing() -> u32 {
        // These calls may be the ones that fail.
        let left = (0..3).find_map(|_| fs::read_to_string(FAIL_NTH).ok()?.trim().parse().ok());
        (0..3).find_map(|_| fs::write(FAIL_NTH, "0").ok());
        left.expect("the third time at the latest")
    }

    /// Copies from and to user space fail as well.
    const NO_MEMORY: &[Errno] = &[Errno::NOMEM, Errno::FAULT];

    fn open() -> Result<()> {
        let provider = Provider::first()?;
        let path = provider.path.clone();
        each_allocation_fails(
            None,
            || errno(File::open(&path)).map(drop),
            NO_MEMORY,
            |_| provider.expect_taken(0),
        )
    }

    fn mmap() -> Result<()> {
        let provider = Provider::first()?;
        let file = provider.open()?;
        // Shared by what maps and what looks afterwards.
        let kept = RefCell::new(None);
        each_allocation_fails(
            None,
            || {
                let new = Map::with(&file, 4 * WINDOW, READ_WRITE, MapFlags::SHARED, 0)?;
                *kept.borrow_mut() = Some(new);
                Ok(())
            },
            NO_MEMORY,
            |good| {
                provider.expect_taken(if good { 4 * WINDOW } else { 0 })?;
                drop(kept.take());
                provider.expect_taken(0)
            },
        )
    }

    fn page_fault() -> Result<()> {
        let provider = Provider::first()?;
        let file = provider.open()?;
        // Page tables are pages: let those fail that cannot be waited for only.
        let map = Map::with(&file, 4 * WINDOW, READ_WRITE, MapFlags::SHARED, 0)?;
        let pipe = rustix::pipe::pipe()?;
        each_allocation_fails(
            None,
            || map.write_byte(&pipe.1, 0),
            NO_MEMORY,
            |_| provider.expect_taken(4 * WINDOW),
        )?;
        map.fill(0..PAGE, 1);
        map.check(0..PAGE, 1)
    }

    fn requests() -> Result<()> {
        let provider = Provider::first()?;
        let node = p2pmem::Provider::open(&provider.path)?;
        // They need no memory; what the system call itself needs may fail.
        for number in 1..20 {
            fail_nth(number)?;
            let results = [
                errno(node.info()).map(drop),
                errno(node.region(0)).map(drop),
            ];
            stop_failing();
            for error in results.into_iter().filter_map(Result::err) {
                ensure!(NO_MEMORY.contains(&error));
            }
        }
        provider.expect_taken(0)
    }

    fn handles() -> Result<()> {
        let provider = Provider::first()?;
        let node = p2pmem::Provider::open(&provider.path)?;
        let descriptors = || Ok::<_, std::io::Error>(fs::read_dir("/proc/self/fd")?.count());
        let before = descriptors()?;
        // Shared by what allocates and what looks afterwards.
        let kept = RefCell::new(None);
        each_allocation_fails(
            None,
            || {
                let handle = errno(node.alloc(4 * WINDOW as u64, 0))?;
                *kept.borrow_mut() = Some(handle);
                Ok(())
            },
            NO_MEMORY,
            |good| {
                provider.expect_taken(if good { 4 * WINDOW } else { 0 })?;
                drop(kept.take());
                provider.expect_taken(0)?;
                ensure!(descriptors()? == before, "a descriptor is left");
                Ok(())
            },
        )
    }

    fn ring() -> Result<()> {
        let provider = Provider::first()?;
        let node = p2pmem::Provider::open(&provider.path)?;
        let handle = node.alloc(WINDOW as u64, 0)?;
        let ring = RefCell::new(uring::ring()?);
        each_allocation_fails(
            None,
            || uring::register(&mut ring.borrow_mut(), &node, &handle, 0),
            NO_MEMORY,
            |good| {
                let emptied = uring::unregister(&mut ring.borrow_mut(), &node, 0);
                let expected = if good { Ok(()) } else { Err(Errno::INVAL) };
                ensure!(emptied == expected, "{emptied:?}");
                Ok(())
            },
        )?;
        drop((ring, handle));
        provider.expect_taken(0)
    }

    fn regions() -> Result<()> {
        each_allocation_fails(
            None,
            || choose("dead:00:00.0 bar2@16M+64M"),
            NO_MEMORY,
            |good| {
                let expected = if good {
                    "dead:00:00.0 bar2@0x1000000+0x4000000\n"
                } else {
                    ""
                };
                ensure!(choices()? == expected, "{}", choices()?);
                Ok(choose("dead:00:00.0 default")?)
            },
        )
    }

    fn bind_and_unbind() -> Result<()> {
        let pci = devices()?.into_iter().next().context("no device")?;
        // Less memory is registered faster.
        choose(&format!("{pci} bar2+8M"))?;
        unbind(&pci)?;
        each_allocation_fails(
            None,
            || errno(bind(&pci)),
            &[
                Errno::NOMEM,
                Errno::FAULT,
                Errno::NODEV,
                Errno::INVAL,
                Errno::BUSY,
                Errno::IO,
            ],
            |good| {
                if good {
                    Provider::first()?.expect_full()?;
                    unbind(&pci)?;
                }
                expect_nothing(&pci)
            },
        )?;
        // Unbinding must succeed after any failure.
        for number in 1..60 {
            bind(&pci)?;
            let map = Map::new(Provider::first()?.open()?, WINDOW)?;
            map.fill(0..PAGE, 1);
            fail_nth(number)?;
            let result = unbind(&pci);
            stop_failing();
            if result.is_err() {
                // The writing itself: it did not come to the driver.
                unbind(&pci)?;
            }
            ensure!(!map.is_readable(0)?, "still there");
            expect_nothing(&pci)?;
        }
        choose(&format!("{pci} default"))?;
        restore()
    }

    fn load() -> Result<()> {
        rmmod()?;
        // That a device is bound has a case of its own.
        let devices = devices()?;
        let reserve = |name: &str| {
            devices.iter().try_for_each(|pci| {
                fs::write(format!("/sys/bus/pci/devices/{pci}/driver_override"), name)
            })
        };
        reserve("nobody")?;
        each_allocation_fails(
            Some("do_init_module"),
            insmod,
            &[
                Errno::NOMEM,
                Errno::FAULT,
                Errno::NOEXEC,
                Errno::INVAL,
                Errno::NODEV,
            ],
            |good| {
                if good {
                    rmmod()?;
                }
                ensure!(!is_loaded() && Provider::all()?.is_empty());
                Ok(())
            },
        )?;
        reserve("\n")?;
        restore()
    }
}
