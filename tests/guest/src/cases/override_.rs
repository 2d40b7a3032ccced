// SPDX-License-Identifier: GPL-2.0

//! Devices that are bound on purpose, and memory that is chosen. Needs the topology any-bar. Behind
//! the BARs of the test devices there is no memory in QEMU: what these hold is not looked at.

use std::{
    fs::{self, OpenOptions},
    path::Path,
};

use anyhow::{ensure, Context, Result};
use p2pmem::Provider as Node;
use rustix::{io::Errno, mm::MapFlags};

use crate::{
    cases,
    guest::{
        address_named, bind, choices, choose, expect_errno, expect_io_errno, insmod_with,
        on_debug_kernel, restore, rmmod, unbind, Map, Mark, Provider, PAGE, READ, READ_WRITE,
        WINDOW,
    },
    kmod::TestFile,
    programs::run,
};

cases!(
    "override": largest_bar, new_id, table_of_bars, part_of_a_bar, several_regions, choice_is_kept,
    choice_is_forgotten, senseless_choice, too_many_choices, bar_too_small, io_bar, no_memory_bar, absent_bar,
    unassigned_bar, beyond_the_bar, not_aligned, overlap, no_controller, bar_in_use, rest_is_left_to_others,
    first_page_decides_for_resource_files, msix_table_is_left_out,
);

const DEVICES: &str = "/sys/bus/pci/devices";
const LARGE: u64 = 64 << 20;
const MIB: u64 = 1 << 20;

/// Of the test devices, which have the same ID: the one with a large BAR, one with small ones, and
/// one with a BAR that is too large to get an address.
struct Devices {
    large: String,
    small: String,
    huge: String,
    /// Bound by its ID: 64 MiB of memory in BAR 2.
    parts: String,
}

fn devices() -> Result<Devices> {
    let (mut large, mut small, mut huge) = (None, None, None);
    for entry in fs::read_dir(DEVICES)? {
        let entry = entry?;
        let id = |name| fs::read_to_string(entry.path().join(name));
        if (id("vendor")?.trim(), id("device")?.trim()) != ("0x1b36", "0x0005") {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        // The file of a BAR is as large as that.
        let has_large =
            fs::metadata(entry.path().join("resource2")).is_ok_and(|file| file.len() == LARGE);
        // The register tells of a 64-bit BAR.
        let config = fs::read(entry.path().join("config"))?;
        match (has_large, config[0x18]) {
            (true, _) => large = Some(name),
            (false, 0) => small = Some(name),
            (false, _) => huge = Some(name),
        }
    }
    Ok(Devices {
        large: large.context("no device with a large BAR")?,
        small: small.context("no device with small BARs")?,
        huge: huge.context("no device whose BAR has no address")?,
        parts: crate::guest::devices()?
            .into_iter()
            .next()
            .context("no device that is known")?,
    })
}

fn is_bound(pci: &str) -> bool {
    Path::new(&format!("{DEVICES}/{pci}/driver")).exists()
}

/// A device that the module is asked to drive. Undone when it is dropped.
struct Taken(String);

impl Taken {
    /// Asks, after certain memory was chosen.
    fn with(pci: &str, what: &str) -> Result<Self> {
        choose(&format!("{pci} {what}"))?;
        let taken = Self(pci.to_owned());
        if is_bound(pci) {
            unbind(pci)?;
        }
        fs::write(format!("{DEVICES}/{pci}/driver_override"), "p2pmem_rs")?;
        // Fails when the driver refuses the device.
        let _ = fs::write("/sys/bus/pci/drivers_probe", pci);
        Ok(taken)
    }

    fn is_bound(&self) -> bool {
        is_bound(&self.0)
    }

    fn provider(&self) -> Result<Provider> {
        Provider::of(&self.0)?.context("no node")
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let pci = &self.0;
        if self.is_bound() {
            unbind(pci).expect("the device can be unbound");
        }
        fs::write(format!("{DEVICES}/{pci}/driver_override"), "\n").expect("an attribute");
        choose(&format!("{pci} default")).expect("the default can be set");
        restore().expect("devices are bound by their IDs again");
    }
}

/// Checks that a device is refused, with a line in the log that has all of these words.
fn refused(pci: &str, what: &str, words: &[&str]) -> Result<()> {
    let traces = || -> Result<_> {
        Ok((
            Provider::all()?.len(),
            fs::read_to_string("/proc/iomem")?,
            Path::new(&format!("{DEVICES}/{pci}/p2pmem")).exists(),
        ))
    };
    let before = traces()?;
    let mark = Mark::new()?;
    let taken = Taken::with(pci, what)?;
    ensure!(!taken.is_bound(), "bound");
    mark.expect(&[&[pci], words].concat())?;
    // Nothing is left of the attempt: no node, no claim, no pool.
    ensure!(traces()? == before, "{:?}", traces()?);
    Ok(())
}

/// Returns the regions of a provider: BAR, offset, size.
fn regions(provider: &Provider) -> Result<Vec<(u32, u64, u64)>> {
    let node = Node::open(&provider.path)?;
    (0..node.info()?.regions)
        .map(|index| {
            let region = node.region(index)?;
            Ok((region.bar, region.offset, region.size))
        })
        .collect()
}

/// Uses the whole of a provider that has memory behind its BAR.
fn use_all(provider: &Provider, regions: &[(u32, u64, u64)]) -> Result<()> {
    let file = provider.open()?;
    let maps = regions
        .iter()
        .map(|region| Map::new(&file, region.2 as usize))
        .collect::<Result<Vec<_>>>()?;
    ensure!(provider.available()? == 0);
    for (seed, map) in (1..).zip(&maps) {
        map.fill(0..map.len(), seed);
    }
    for (seed, map) in (1..).zip(&maps) {
        map.check(0..map.len(), seed)?;
    }
    Ok(())
}

fn largest_bar() -> Result<()> {
    let pci = devices()?.large;
    let taken = Taken::with(&pci, "default")?;
    ensure!(taken.is_bound(), "not bound");
    let provider = taken.provider()?;
    ensure!(provider.size as u64 == LARGE);
    ensure!(regions(&provider)? == [(2, 0, LARGE)]);

    let map = Map::new(provider.open()?, WINDOW + PAGE)?;
    let _ = (map.get(0), map.get(WINDOW));
    provider.expect_taken(WINDOW + PAGE)?;
    drop(taken);
    ensure!(!map.is_readable(0)?, "still there");
    Ok(())
}

fn new_id() -> Result<()> {
    const DRIVER: &str = "/sys/bus/pci/drivers/p2pmem_rs";
    let mark = Mark::new()?;
    // Binds all devices with that ID: one can be used, the others are refused.
    fs::write(format!("{DRIVER}/new_id"), "1b36 0005")?;
    let Devices { large, small, .. } = devices()?;
    let result = (|| {
        ensure!(is_bound(&large) && !is_bound(&small));
        mark.expect(&[&small, "BAR 0", "choose"])?;
        let provider = Provider::of(&large)?.context("no node")?;
        ensure!(regions(&provider)? == [(2, 0, LARGE)]);
        Ok(())
    })();
    fs::write(format!("{DRIVER}/remove_id"), "1b36 0005")?;
    unbind(&large)?;
    result
}

fn table_of_bars() -> Result<()> {
    let Devices { large, huge, .. } = devices()?;
    rmmod()?;
    insmod_with(c"debug=1")?;
    let mark = Mark::new()?;
    drop(Taken::with(&large, "default")?);
    drop(Taken::with(&huge, "default")?);
    rmmod()?;

    let words: [&[&str]; 5] = [
        &[&large, "BAR 0: memory, address 0xf", ", 4096 bytes"],
        &[&large, "BAR 1: I/O ports, address 0x", ", 256 bytes"],
        &[
            &large,
            "BAR 2: memory, 64-bit, prefetchable",
            ", 67108864 bytes, flags 0x14220c",
        ],
        &[&huge, "BAR 0: memory"],
        &[&huge, "BAR 2: memory, 64-bit, prefetchable", "not assigned"],
    ];
    words.iter().try_for_each(|words| mark.expect(words))
}

fn part_of_a_bar() -> Result<()> {
    let pci = devices()?.parts;
    for (what, offset, size) in [
        ("bar2@16M+32M", 16 * MIB, 32 * MIB),
        ("bar2@0x3000000", 48 * MIB, 16 * MIB),
        ("bar2+2M", 0, 2 * MIB),
        ("bar2@65011712+2048k", 62 * MIB, 2 * MIB),
    ] {
        let taken = Taken::with(&pci, what)?;
        let provider = taken.provider().context(what)?;
        ensure!(provider.size as u64 == size, "{what}: {}", provider.size);
        ensure!(regions(&provider)? == [(2, offset, size)], "{what}");
        use_all(&provider, &[(2, offset, size)])?;
        provider.expect_full()?;
    }
    Ok(())
}

fn several_regions() -> Result<()> {
    let pci = devices()?.parts;
    let taken = Taken::with(&pci, "bar2@48M bar2+16M bar2@20M+4M")?;
    let provider = taken.provider()?;
    let expected = [
        (2, 48 * MIB, 16 * MIB),
        (2, 0, 16 * MIB),
        (2, 20 * MIB, 4 * MIB),
    ];
    ensure!(regions(&provider)? == expected);
    ensure!(provider.size as u64 == 36 * MIB);
    use_all(&provider, &expected)?;
    provider.expect_full()?;

    // No mapping lies in two of them.
    let file = provider.open()?;
    let result = Map::with(&file, (18 * MIB) as usize, READ, MapFlags::SHARED, 0);
    expect_errno(result, Errno::NOSPC, "more than a region")?;
    // Direct I/O into each.
    let drive = crate::guest::drive(0)?;
    let map = Map::new(&file, (16 * MIB) as usize)?;
    crate::guest::read_at(&drive, &map, 0..PAGE, 0)?;
    // One of the two larger ones is taken.
    let largest = Node::open(&provider.path)?.info()?.largest;
    ensure!(largest == 16 * MIB, "{largest}");
    drop(map);
    Ok(())
}

fn choice_is_kept() -> Result<()> {
    let pci = devices()?.parts;
    let taken = Taken::with(&pci, "bar2@16M+32M")?;
    let line = format!("{pci} bar2@0x1000000+0x2000000\n");
    ensure!(choices()? == line, "{}", choices()?);
    // A bound device is left alone, until it is bound again.
    choose(&format!("{pci} bar2@0+4M"))?;
    ensure!(taken.provider()?.size as u64 == 32 * MIB);
    unbind(&pci)?;
    bind(&pci)?;
    ensure!(taken.provider()?.size as u64 == 4 * MIB);
    // A line that was read can be written.
    let line = choices()?;
    choose(&line)?;
    ensure!(choices()? == line);
    Ok(())
}

fn choice_is_forgotten() -> Result<()> {
    let pci = devices()?.parts;
    let taken = Taken::with(&pci, "bar2@16M+32M")?;
    choose(&format!("{pci} default"))?;
    ensure!(choices()?.is_empty(), "{}", choices()?);
    unbind(&pci)?;
    bind(&pci)?;
    ensure!(taken.provider()?.size as u64 == LARGE);
    // One of a device that does not exist is kept for when it comes.
    choose("dead:00:00.0 cmb")?;
    ensure!(choices()? == "dead:00:00.0 cmb\n", "{}", choices()?);
    choose("dead:00:00.0 default")?;
    ensure!(choices()?.is_empty());
    Ok(())
}

fn senseless_choice() -> Result<()> {
    choose("dead:00:00.0 cmb")?;
    for (line, word) in [
        ("", "is not a device"),
        ("bar2", "bar2 is not a device"),
        ("05:00.0", "what of the device"),
        ("05:00.0 all", "all is not known"),
        ("05:00.0 default cmb", "cmb is not known"),
        ("05:00.0 bar6", "bar6 has no valid number"),
        ("05:00.0 bar2+0", "bar2+0 has no valid number"),
        ("05:00.0 bar2@99999999999G", "no valid number"),
        ("05:00.0 cmb pmr bar0 bar1 bar2 bar3 bar4", "no more than 6"),
    ] {
        let mark = Mark::new()?;
        let result = choose(line);
        if line.is_empty() {
            // Nothing is written, and nothing happens.
            result?;
            continue;
        }
        expect_errno(result, Errno::INVAL, line)?;
        mark.expect(&["regions: ", word])?;
    }
    // No text at all.
    expect_io_errno(
        fs::write("/sys/module/p2pmem_rs/regions", [0xff, 0xfe]),
        Errno::INVAL,
        "bytes that are no text",
    )?;
    ensure!(choices()? == "dead:00:00.0 cmb\n");
    Ok(choose("dead:00:00.0 default")?)
}

fn too_many_choices() -> Result<()> {
    let mut lines = String::new();
    let mut full = None;
    for number in 0..1000 {
        let line = format!("beef:{:02x}:00.0 cmb", number % 256);
        let line = line.replace("00.0", &format!("{:02x}.0", number / 256));
        match choose(&line) {
            Ok(()) => lines += &format!("{line}\n"),
            Err(error) => {
                full = Some(error);
                break;
            }
        }
    }
    ensure!(full == Some(Errno::NOSPC), "{full:?}");
    ensure!(choices()? == lines, "something is lost");
    // Changing one that is there to something longer leaves it as it was.
    let longer = "beef:00:00.0 bar0@0xffffffffffffffff+0xffffffffffffffff";
    expect_errno(choose(longer), Errno::NOSPC, "a longer line")?;
    ensure!(choices()?.lines().count() == lines.lines().count());
    ensure!(choices()?.contains("beef:00:00.0 cmb\n"));
    for line in lines.lines() {
        choose(&line.replace("cmb", "default"))?;
    }
    ensure!(choices()?.is_empty());
    Ok(())
}

fn bar_too_small() -> Result<()> {
    let why = "4096 bytes of BAR 0 hold no aligned 2097152 bytes: choose";
    refused(&devices()?.small, "default", &[why])
}

fn io_bar() -> Result<()> {
    let why = "BAR 1 is I/O ports: choose a memory BAR";
    refused(&devices()?.small, "bar1", &[why])
}

fn no_memory_bar() -> Result<()> {
    // The SMBus controller of the chipset.
    let why = "no BAR of the device is memory: choose another device";
    refused("0000:00:1f.3", "default", &[why])
}

fn absent_bar() -> Result<()> {
    let why = "the device has no BAR 4: choose";
    refused(&devices()?.small, "bar4", &[why])?;
    // The upper half of a 64-bit BAR is not a BAR.
    refused(&devices()?.large, "bar3", &["no BAR 3"])?;
    refused(&devices()?.huge, "bar3", &["no BAR 3"])
}

fn unassigned_bar() -> Result<()> {
    let why = "BAR 2 has no address: there was no room for it";
    refused(&devices()?.huge, "default", &[why])?;
    refused(&devices()?.huge, "bar2@16M+32M", &[why])
}

fn beyond_the_bar() -> Result<()> {
    let why = "the range ends beyond BAR 2: choose";
    for what in [
        "bar2+65M",
        "bar2@64M+2M",
        "bar2@32M+34M",
        "bar2@0xffffffffffffffff",
        "bar2@0x200000+0xffffffffffffffff",
    ] {
        refused(&devices()?.large, what, &[why]).context(what)?;
    }
    Ok(())
}

fn not_aligned() -> Result<()> {
    let pci = devices()?.parts;
    let mark = Mark::new()?;
    let taken = Taken::with(&pci, "bar2@1M+6M")?;
    ensure!(regions(&taken.provider()?)? == [(2, 2 * MIB, 4 * MIB)]);
    mark.expect(&[&pci, "BAR 2: 2097152 of 6291456 bytes are lost"])?;
    drop(taken);
    // With nothing left, it is refused.
    let why = "2097152 bytes of BAR 2 hold no aligned 2097152 bytes";
    refused(&devices()?.large, "bar2@1M+2M", &[why])
}

fn overlap() -> Result<()> {
    let why = "two regions of BAR 2 overlap";
    refused(&devices()?.large, "bar2+4M bar2@2M+4M", &[why])?;
    refused(&devices()?.large, "bar2 bar2", &[why])
}

fn no_controller() -> Result<()> {
    let why = "no NVMe controller, so that it has neither CMB nor PMR: choose a BAR";
    refused(&devices()?.large, "cmb", &[why])?;
    refused(&devices()?.large, "bar2 pmr", &[why])
}

fn bar_in_use() -> Result<()> {
    let pci = devices()?.large;
    let file = TestFile::open()?;
    file.claim(&pci, 2)?;
    let iomem = fs::read_to_string("/proc/iomem")?;
    ensure!(iomem.contains("p2pmem_test"), "not claimed");
    refused(
        &pci,
        "default",
        &["BAR 2 is claimed by another driver: unbind that driver first (see /proc/iomem)"],
    )?;
    ensure!(fs::read_to_string("/proc/iomem")? == iomem);
    drop(file);
    let taken = Taken::with(&pci, "default")?;
    ensure!(taken.is_bound(), "not bound afterwards");
    Ok(())
}

/// Maps a page of BAR 2 as a program of the user does that has the registers there.
fn map_resource(pci: &str, offset: u64) -> Result<Map, Errno> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("{DEVICES}/{pci}/resource2"))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Map::with(file, PAGE, READ_WRITE, MapFlags::SHARED, offset)
}

/// The ranges within a device's BAR 2 that the driver has, as offsets of the first and the last
/// byte.
fn claims(pci: &str) -> Result<Vec<(u64, u64)>> {
    let resources = fs::read_to_string(format!("{DEVICES}/{pci}/resource"))?;
    let range = |text: &str, between| -> Option<(u64, u64)> {
        let (start, end) = text.split_once(between)?;
        let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
        Some((number(start)?, number(end.split(' ').next()?)?))
    };
    let bar = resources.lines().nth(2).and_then(|line| range(line, " "));
    let bar = bar.context("no BAR 2")?;
    Ok(fs::read_to_string("/proc/iomem")?
        .lines()
        .filter_map(|line| line.trim().strip_suffix(" : p2pmem_rs"))
        .filter_map(|text| range(text, "-"))
        .filter(|claim| bar.0 <= claim.0 && claim.1 <= bar.1)
        .map(|claim| (claim.0 - bar.0, claim.1 - bar.0))
        .collect())
}

/// Whether the kernel keeps programs from what drivers have claimed (CONFIG_IO_STRICT_DEVMEM). The
/// debug kernel does not.
fn is_strict() -> bool {
    !on_debug_kernel()
}

fn rest_is_left_to_others() -> Result<()> {
    let pci = devices()?.parts;
    unbind(&pci)?;
    // Before the driver has the device, in what is not chosen and in what is.
    let registers = map_resource(&pci, 0)?;
    registers.set(0, 0x5eed);
    let memory = map_resource(&pci, 32 * MIB)?;
    memory.set(0, 1);

    let taken = Taken::with(&pci, "bar2@32M+16M bar2@60M")?;
    ensure!(regions(&taken.provider()?)?.len() == 2, "not bound");
    let expected = [(32 * MIB, 48 * MIB - 1), (60 * MIB, 64 * MIB - 1)];
    ensure!(claims(&pci)? == expected, "{:x?}", claims(&pci)?);
    ensure!(registers.get(0) == 0x5eed, "the registers changed");
    registers.set(8, 0xfeed);
    // The kernel takes mappings of what is claimed away.
    ensure!(
        memory.is_readable(0)? != is_strict(),
        "a claimed range is readable: {}",
        !is_strict()
    );
    // And while the driver has it.
    let again = map_resource(&pci, 0)?;
    ensure!(again.get(8) == 0xfeed, "other registers");
    // By default the driver takes the whole of it.
    drop(taken);
    ensure!(
        registers.is_readable(0)? != is_strict(),
        "the registers are readable: {}",
        !is_strict()
    );
    Ok(())
}

/// The kernel checks the first page of a BAR only, for mappings of any part.
fn first_page_decides_for_resource_files() -> Result<()> {
    let pci = devices()?.parts;
    let taken = Taken::with(&pci, "bar2+2M")?;
    let result = map_resource(&pci, 32 * MIB);
    match is_strict() {
        true => expect_errno(result, Errno::INVAL, "a part that is not claimed")?,
        false => drop(result?),
    }
    drop(taken);
    let _taken = Taken::with(&pci, "bar2@2M+2M")?;
    map_resource(&pci, 2 * MIB).context("a part that the driver has")?;
    Ok(())
}

fn msix_table_is_left_out() -> Result<()> {
    // QEMU's controllers have table and registers in the same BAR, of 16 KiB.
    let pci = address_named("disk1")?;
    let config = fs::read(format!("{DEVICES}/{pci}/config"))?;
    let word = |at: usize| u16::from_le_bytes([config[at], config[at + 1]]);
    let mut at = usize::from(config[0x34]);
    while at != 0 && config[at] != 0x11 {
        at = usize::from(config[at + 1]);
    }
    ensure!(at != 0, "no MSI-X");
    ensure!(word(at + 4) & 7 == 0, "not in BAR 0");
    let vectors = usize::from(word(at + 2) & 0x7ff) + 1;
    let table = format!(
        "BAR 0: left out: MSI-X table, {} bytes at offset {:#x}",
        vectors * 16,
        word(at + 4) & !7
    );
    let pending = format!(
        "MSI-X Pending Bit Array, {} bytes",
        vectors.div_ceil(64) * 8
    );

    fs::write("/sys/bus/pci/drivers/nvme/unbind", &pci)?;
    let mark = Mark::new()?;
    refused(&pci, "bar0", &["16384 bytes of BAR 0 hold no aligned"])?;
    mark.expect(&[&pci, &table])?;
    mark.expect(&[&pci, &pending])?;
    mark.expect(&[
        &pci,
        "BAR 0: left out: registers, 528384 bytes at offset 0x0",
    ])?;
    fs::write("/sys/bus/pci/drivers/nvme/bind", &pci)?;
    Ok(())
}

/// Cases with a BAR that is out of reach. Needs the topology far-bar.
pub mod unmappable {
    use super::*;

    cases!("unmappable": beyond_the_page_tables, beyond_for_any_choice);

    const WHY: &str =
        "the kernel maps up to 0x3fffffffffff: boot with nokaslr, or set a lower MMIO";

    fn device() -> Result<String> {
        for entry in fs::read_dir(DEVICES)? {
            let entry = entry?;
            if fs::metadata(entry.path().join("resource2")).is_ok_and(|file| file.len() == LARGE) {
                return Ok(entry.file_name().to_string_lossy().into_owned());
            }
        }
        anyhow::bail!("no device with a large BAR")
    }

    fn beyond_the_page_tables() -> Result<()> {
        refused(&device()?, "default", &["the range of BAR 2 ends at", WHY])
    }

    fn beyond_for_any_choice() -> Result<()> {
        refused(
            &device()?,
            "bar2@16M+2M",
            &["the range of BAR 2 ends at", WHY],
        )
    }
}

/// Cases that lock the kernel down, which cannot be undone: they have a boot of their own.
pub mod lockdown {
    use super::*;

    cases!("lockdown": raw_bars_are_refused);

    const POINT: &str = "/sys/kernel/security";

    fn raw_bars_are_refused() -> Result<()> {
        let Devices { large, parts, .. } = devices()?;
        for what in ["default", "bar2", "bar2@16M+2M"] {
            ensure!(Taken::with(&large, what)?.is_bound(), "{what}: not bound");
        }

        run("mount", &["-t", "securityfs", "securityfs", POINT])?;
        fs::write(format!("{POINT}/lockdown"), "integrity")?;
        // As mainline's file for the same BAR.
        let resource = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("{DEVICES}/{large}/resource2"))?;
        let result = Map::with(&resource, PAGE, READ, MapFlags::SHARED, 0);
        expect_errno(result, Errno::PERM, "mainline's file")?;
        for what in ["default", "bar2", "bar2@16M+2M"] {
            refused(&large, what, &["the kernel is locked down: only CMB, PMR"]).context(what)?;
            choose(&format!("{large} {what}"))?;
            fs::write(format!("{DEVICES}/{large}/driver_override"), "p2pmem_rs")?;
            expect_io_errno(bind(&large), Errno::PERM, what)?;
            fs::write(format!("{DEVICES}/{large}/driver_override"), "\n")?;
        }
        choose(&format!("{large} default"))?;
        // Another BAR of a device that is known is as raw.
        unbind(&parts)?;
        refused(&parts, "bar2+4M bar0", &["the kernel is locked down"])?;

        // Memory that is known by its ID is not.
        for what in ["default", "bar2", "bar2@16M+4M"] {
            let taken = Taken::with(&parts, what)?;
            let map = Map::new(taken.provider()?.open()?, WINDOW).context(what)?;
            map.fill(0..WINDOW, 1);
        }
        Ok(())
    }
}
