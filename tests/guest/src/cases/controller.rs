// SPDX-License-Identifier: GPL-2.0

//! NVMe controllers that behave as real ones do when something is wrong. Needs the topology
//! devices: each case chooses the registers of one controller, which executes no commands.

use std::time::Duration;

use anyhow::{ensure, Result};
use rustix::{io::Errno, mm::MapFlags};

use crate::{
    cases,
    guest::{
        choose, expect_errno, sleep, unbind, wait_until, Map, Mark, Provider, PAGE, READ, WINDOW,
    },
    kmod::TestFile,
    lab_device::{copy, LabDevice, ALL_ONES, NVME, POWER_CYCLE},
};

cases!(
    "controller": both_serve, pmr_takes_its_time, pmr_never_ready, pmr_reports_an_error, pmr_is_not_healthy,
    pmr_refuses_its_address, pmr_is_gone_while_getting_ready, pmr_is_never_off, pmr_takes_no_data,
    pmr_is_nowhere, cmb_takes_no_data, cmb_beyond_its_bar, cmb_of_size_0,
    cmb_of_reserved_units, cmb_is_nowhere, cmb_longer_than_its_bar, cmb_refuses_its_address, cmb_too_small,
    cmb_behind_the_registers, beside_another_driver, of_an_old_revision,
    cmb_and_pmr_overlap,
    does_not_answer, on_again_after_reset, on_again_after_sleep, not_on_again_after_reset,
    gone_after_reset, not_on_again_after_sleep,
);

const MIB: u64 = 1 << 20;

/// Orders of the model: a register is set by its offset and this number.
pub(super) const REGISTER: u32 = 0x1000;
pub(super) const STATUS_ON: u32 = 0x100;
const STATUS_OFF: u32 = 0x101;
const DELAY: u32 = 0x102;

// Registers.
pub(super) const CAP_HIGH: u32 = 0x04;
pub(super) const CMBLOC: u32 = 0x38;
pub(super) const CMBSZ: u32 = 0x3c;
const CMBMSC: u32 = 0x50;
const CMBSTS: u32 = 0x58;
pub(super) const PMRCAP: u32 = 0xe00;
const PMRCTL: u32 = 0xe04;
const PMRMSC: u32 = 0xe14;

// Their bits.
pub(super) const PMRS: u64 = 1 << 24;
pub(super) const CMBS: u64 = 1 << 25;
pub(super) const DATA: u64 = 0x18;
const UNIT_MIB: u64 = 2 << 8;
const CMSS: u64 = 1 << 24;
const NOT_READY: u64 = 1 << 8;

/// CMBSZ of a buffer of so many MiB.
pub(super) fn cmb_of(mib: u64) -> u64 {
    (mib << 12) | UNIT_MIB | DATA
}

/// PMRCAP of a region in a BAR.
fn pmr_in(bar: u64) -> u64 {
    (bar << 5) | DATA | CMSS
}

/// The controller, with a CMB of 8 MiB in BAR 2 and a PMR of 16 MiB in BAR 4 to begin with.
fn controller(changes: &[(u32, u64)]) -> Result<LabDevice> {
    let device = LabDevice::find(NVME)?;
    wait_until(Duration::from_secs(20), "the nvme driver gives up", || {
        Ok(!device.is_bound())
    })?;
    device.order(ALL_ONES, 0)?;
    device.order(POWER_CYCLE, 0)?;
    let sound = [
        (REGISTER + CAP_HIGH, PMRS | CMBS),
        (REGISTER + CMBLOC, 2),
        (REGISTER + CMBSZ, cmb_of(8)),
        (REGISTER + CMBSTS, 0),
        (REGISTER + PMRCAP, pmr_in(4)),
        (STATUS_ON, 0),
        (STATUS_OFF, NOT_READY),
        (DELAY, 0),
    ];
    for (number, value) in sound.iter().chain(changes) {
        device.order(*number, *value)?;
    }
    Ok(device)
}

/// Checks where the memory is: number of the BAR and length of each region.
fn expect_regions(device: &LabDevice, expected: &[(u32, u64)]) -> Result<Provider> {
    let provider = device.provider()?;
    let node = p2pmem::Provider::open(&provider.path)?;
    let found = (0..node.info()?.regions)
        .map(|index| node.region(index).map(|region| (region.bar, region.size)))
        .collect::<std::io::Result<Vec<_>>>()?;
    ensure!(found == expected, "{found:?}, not {expected:?}");
    Ok(provider)
}

fn register(device: &LabDevice, offset: u32) -> Result<u32> {
    TestFile::open()?.read(&device.pci, 0, offset)
}

/// Checks that both memories are on: the registers say so.
fn expect_on(device: &LabDevice) -> Result<()> {
    for (offset, bits) in [(PMRCTL, 1), (CMBMSC, 3), (PMRMSC, 2)] {
        let found = register(device, offset)?;
        ensure!(found & bits == bits, "register {offset:#x} is {found:#x}");
    }
    Ok(())
}

/// Checks that nothing is left on by a driver that has given the controller up.
fn expect_off(device: &LabDevice) -> Result<()> {
    std::fs::write(device.path().join("enable"), "1")?;
    for offset in [PMRCTL, CMBMSC, PMRMSC] {
        let found = register(device, offset)?;
        ensure!(found & 3 == 0, "register {offset:#x} is {found:#x}");
    }
    Ok(std::fs::write(device.path().join("enable"), "0")?)
}

/// Checks that of both memories only one is used, with a line in the log that has all of these
/// words.
fn only(changes: &[(u32, u64)], left: (u32, u64), words: &[&str]) -> Result<()> {
    let device = controller(changes)?;
    let mark = Mark::new()?;
    ensure!(device.bind("default")?, "not bound");
    mark.expect(&[&[&*device.pci], words].concat())?;
    copy(&expect_regions(&device, &[left])?)?;
    unbind(&device.pci)?;
    expect_off(&device)
}

const ONLY_CMB: (u32, u64) = (2, 8 * MIB);
const ONLY_PMR: (u32, u64) = (4, 16 * MIB);

fn both_serve() -> Result<()> {
    let device = controller(&[])?;
    ensure!(device.bind("default")?, "not bound");
    copy(&expect_regions(&device, &[ONLY_CMB, ONLY_PMR])?)?;
    expect_on(&device)?;
    unbind(&device.pci)?;
    expect_off(&device)
}

fn pmr_takes_its_time() -> Result<()> {
    // PMRTO and PMRTU: a second if there is none, and a minute.
    for capability in [pmr_in(4), pmr_in(4) | (1 << 16) | (1 << 8)] {
        let device = controller(&[(DELAY, 20), (REGISTER + PMRCAP, capability)])?;
        ensure!(device.bind("pmr")?, "not bound");
        copy(&expect_regions(&device, &[ONLY_PMR])?)?;
    }
    Ok(())
}

fn pmr_never_ready() -> Result<()> {
    let words = ["the PMR is not ready after 1000 ms: not used"];
    only(&[(STATUS_ON, NOT_READY)], ONLY_CMB, &words)?;
    // A controller may say how long it takes: two units of half a second, and one.
    for (units, limit) in [(2, 1000), (3, 1500)] {
        let device = controller(&[
            (STATUS_ON, NOT_READY),
            (REGISTER + PMRCAP, pmr_in(4) | (units << 16)),
        ])?;
        let mark = Mark::new()?;
        ensure!(!device.bind("pmr")?, "bound");
        mark.expect(&[&device.pci, &format!("not ready after {limit} ms")])?;
        mark.expect(&[&device.pci, "the controller has no PMR that can serve"])?;
        expect_off(&device)?;
    }
    Ok(())
}

fn pmr_reports_an_error() -> Result<()> {
    let words = ["the PMR reports error 0x7: not used"];
    only(&[(STATUS_ON, 7)], ONLY_CMB, &words)
}

/// PMRSTS.HSTS: memory that ignores writes, or returns anything. That what it held before could not
/// be restored is no reason.
fn pmr_is_not_healthy() -> Result<()> {
    for (state, word) in [(2, "read-only"), (3, "unreliable"), (4, "health state 4")] {
        only(&[(STATUS_ON, state << 9)], ONLY_CMB, &["the PMR is", word])?;
    }
    let device = controller(&[(STATUS_ON, 1 << 9)])?;
    ensure!(device.bind("pmr")?, "not bound");
    copy(&expect_regions(&device, &[ONLY_PMR])?)
}

/// PMRSTS.CBAI.
fn pmr_refuses_its_address() -> Result<()> {
    let words = ["the controller refuses the address of its PMR"];
    only(&[(STATUS_ON, 1 << 12)], ONLY_CMB, &words)
}

fn pmr_is_gone_while_getting_ready() -> Result<()> {
    let device = controller(&[(STATUS_ON, u32::MAX.into()), (DELAY, 5)])?;
    let mark = Mark::new()?;
    ensure!(!device.bind("default")?, "bound");
    mark.expect(&[&device.pci, "the PMR does not answer: is the device gone?"])
}

fn pmr_is_never_off() -> Result<()> {
    let device = controller(&[(STATUS_OFF, 0)])?;
    ensure!(device.bind("pmr")?, "not bound");
    let mark = Mark::new()?;
    unbind(&device.pci)?;
    mark.expect(&[&device.pci, "the PMR is not off after 1000 ms"])
}

fn pmr_takes_no_data() -> Result<()> {
    for bits in [0, 1 << 3, 1 << 4] {
        let capability = pmr_in(4) & !DATA | bits;
        let words = ["the PMR takes no data", "without RDS and WDS): not used"];
        only(&[(REGISTER + PMRCAP, capability)], ONLY_CMB, &words)?;
    }
    Ok(())
}

fn pmr_is_nowhere() -> Result<()> {
    // The upper half of a BAR, and numbers that no BAR has.
    for (bar, word) in [(5, "no BAR 5"), (6, "nowhere"), (7, "nowhere")] {
        only(
            &[(REGISTER + PMRCAP, pmr_in(bar))],
            ONLY_CMB,
            &["PMR", word],
        )?;
    }
    Ok(())
}

fn cmb_takes_no_data() -> Result<()> {
    for bits in [0, 1 << 3, 1 << 4] {
        let size = cmb_of(8) & !DATA | bits;
        let words = ["the CMB takes no data", "without RDS and WDS): not used"];
        only(&[(REGISTER + CMBSZ, size)], ONLY_PMR, &words)?;
    }
    Ok(())
}

fn cmb_beyond_its_bar() -> Result<()> {
    for offset in [16, 17, 0xf_ffff] {
        let location = (offset << 12) | 2;
        only(
            &[(REGISTER + CMBLOC, location)],
            ONLY_PMR,
            &["the CMB is nowhere"],
        )?;
    }
    Ok(())
}

fn cmb_of_size_0() -> Result<()> {
    let words = ["the CMB is nowhere"];
    only(&[(REGISTER + CMBSZ, UNIT_MIB | DATA)], ONLY_PMR, &words)?;
    // All of the register is 0: there is none.
    let device = controller(&[(REGISTER + CMBSZ, 0)])?;
    let mark = Mark::new()?;
    ensure!(!device.bind("cmb")?, "bound");
    mark.expect(&[&device.pci, "the controller has no CMB that can serve"])?;
    expect_off(&device)
}

fn cmb_of_reserved_units() -> Result<()> {
    for unit in [7, 0xf] {
        let size = cmb_of(8) & !0xf00 | (unit << 8);
        only(
            &[(REGISTER + CMBSZ, size)],
            ONLY_PMR,
            &["the CMB is nowhere"],
        )?;
    }
    Ok(())
}

fn cmb_is_nowhere() -> Result<()> {
    for bar in [3, 5, 6, 7] {
        only(
            &[(REGISTER + CMBLOC, bar)],
            ONLY_PMR,
            &["the CMB is nowhere"],
        )?;
    }
    Ok(())
}

/// A controller may have more than its BAR shows.
fn cmb_longer_than_its_bar() -> Result<()> {
    let device = controller(&[
        (REGISTER + CMBSZ, cmb_of(64)),
        (REGISTER + CMBLOC, (4 << 12) | 2),
    ])?;
    ensure!(device.bind("cmb")?, "not bound");
    copy(&expect_regions(&device, &[(2, 12 * MIB)])?)
}

/// CMBSTS.CBAI.
fn cmb_refuses_its_address() -> Result<()> {
    let words = ["the controller refuses the address of its CMB"];
    only(&[(REGISTER + CMBSTS, 1)], ONLY_PMR, &words)
}

/// Another driver has the controller, and does not use its memory.
fn beside_another_driver() -> Result<()> {
    // It has the driver.
    drop(TestFile::open()?);
    let device = controller(&[(REGISTER + CAP_HIGH, PMRS)])?;
    let write = |name: &str, text: &str| std::fs::write(device.path().join(name), text);
    write("driver_override", "p2pmem_stub")?;
    std::fs::write("/sys/bus/pci/drivers_probe", &device.pci)?;
    let ask = |what: &str| choose(&format!("{} {what}", device.pci));
    let mark = Mark::new()?;
    ask("pmr")?;
    mark.expect(&[&device.pci, "its driver may place queues in a CMB"])?;
    ensure!(device.provider().is_err(), "there is a node");

    device.order(REGISTER + CMBSZ, 0)?;
    ask("pmr")?;
    copy(&expect_regions(&device, &[ONLY_PMR])?)?;
    ask("default")?;
    ensure!(device.provider().is_err(), "there is a node");
    Ok(write("driver/unbind", &device.pci)?)
}

/// The BAR of the registers is claimed once.
fn cmb_behind_the_registers() -> Result<()> {
    let device = controller(&[(REGISTER + CMBLOC, 2 << 12)])?;
    for _ in 0..2 {
        ensure!(device.bind("default")?, "not bound");
        copy(&expect_regions(&device, &[(0, 8 * MIB), ONLY_PMR])?)?;
        expect_on(&device)?;
        unbind(&device.pci)?;
        expect_off(&device)?;
    }
    Ok(())
}

/// Before revision 1.4 a CMB was always on, and a controller need not address its own PMR.
fn of_an_old_revision() -> Result<()> {
    let device = controller(&[
        (REGISTER + CAP_HIGH, PMRS),
        (REGISTER + PMRCAP, pmr_in(4) & !CMSS),
    ])?;
    ensure!(device.bind("default")?, "not bound");
    copy(&expect_regions(&device, &[ONLY_CMB, ONLY_PMR])?)?;
    for (offset, on) in [(PMRCTL, 1), (CMBMSC, 0), (PMRMSC, 0)] {
        let found = register(&device, offset)?;
        ensure!(found == on, "register {offset:#x} is {found:#x}");
    }
    unbind(&device.pci)?;
    expect_off(&device)
}

/// Memory has struct pages in units of 2 MiB.
fn cmb_too_small() -> Result<()> {
    let words = ["the CMB is not used: 1048576 bytes of BAR 2 hold no aligned 2097152"];
    only(&[(REGISTER + CMBSZ, cmb_of(1))], ONLY_PMR, &words)
}

fn cmb_and_pmr_overlap() -> Result<()> {
    for offset in [0, 8] {
        let device = controller(&[(REGISTER + CMBLOC, (offset << 12) | 4)])?;
        let mark = Mark::new()?;
        ensure!(!device.bind("default")?, "bound");
        mark.expect(&[
            &device.pci,
            "cmb and pmr overlap in BAR 4: choose one of them",
        ])?;
        expect_off(&device)?;
        // Each of them serves.
        ensure!(device.bind("pmr")?, "not bound");
        copy(&expect_regions(&device, &[ONLY_PMR])?)?;
        unbind(&device.pci)?;
        ensure!(device.bind("cmb")?, "not bound");
        copy(&expect_regions(&device, &[(4, 8 * MIB)])?)?;
    }
    Ok(())
}

fn does_not_answer() -> Result<()> {
    let device = controller(&[])?;
    for what in ["default", "cmb", "pmr"] {
        device.order(ALL_ONES, 1)?;
        let mark = Mark::new()?;
        ensure!(!device.bind(what)?, "bound");
        mark.expect(&[
            &device.pci,
            "the controller does not answer: is the device gone?",
        ])?;
    }
    device.order(ALL_ONES, 0)?;
    ensure!(device.bind("default")?, "not bound");
    copy(&expect_regions(&device, &[ONLY_CMB, ONLY_PMR])?)?;
    drop(device);
    // It is gone when its CMB is on.
    let device = controller(&[(REGISTER + CMBSTS, u32::MAX.into())])?;
    let mark = Mark::new()?;
    ensure!(!device.bind("cmb")?, "bound");
    mark.expect(&[&device.pci, "the controller does not answer"])
}

/// Something after which the controller has forgotten what was on, while a process has the memory.
fn on_again_after(event: fn(&LabDevice) -> Result<()>) -> Result<()> {
    let device = controller(&[])?;
    ensure!(device.bind("default")?, "not bound");
    let provider = expect_regions(&device, &[ONLY_CMB, ONLY_PMR])?;
    let map = Map::new(provider.open()?, WINDOW)?;
    for round in 0..3 {
        map.fill(0..PAGE, round);
        let before = (register(&device, CMBMSC)?, register(&device, PMRMSC)?);
        let mark = Mark::new()?;
        event(&device)?;
        mark.expect(&[&device.pci, "what its memory held may be lost"])?;
        expect_on(&device)?;
        let after = (register(&device, CMBMSC)?, register(&device, PMRMSC)?);
        ensure!(after == before, "{after:x?}, not {before:x?}");
        map.fill(0..PAGE, round + 10);
        map.check(0..PAGE, round + 10)?;
        copy(&provider)?;
    }
    Ok(())
}

fn on_again_after_reset() -> Result<()> {
    on_again_after(LabDevice::reset)
}

/// Sleep takes the power of devices.
fn sleep_without_power(device: &LabDevice) -> Result<()> {
    device.order(POWER_CYCLE, 0)?;
    sleep()
}

fn on_again_after_sleep() -> Result<()> {
    on_again_after(sleep_without_power)
}

/// The memory does not come back: no process has it any more, and the device can be bound again.
fn withdrawn_after(event: fn(&LabDevice) -> Result<()>, broken: &[(u32, u64)]) -> Result<()> {
    let device = controller(&[])?;
    ensure!(device.bind("default")?, "not bound");
    let file = device.provider()?.open()?;
    let map = Map::new(&file, WINDOW)?;
    map.fill(0..PAGE, 1);
    for (number, value) in broken {
        device.order(*number, *value)?;
    }
    let mark = Mark::new()?;
    event(&device)?;
    mark.expect(&[&device.pci, "taken back from all processes"])?;
    ensure!(!map.is_readable(0)?, "still readable");
    let result = Map::with(&file, PAGE, READ, MapFlags::SHARED, 0);
    expect_errno(result, Errno::NODEV, "mmap")?;
    unbind(&device.pci)?;
    drop(map);
    drop(device);

    let device = controller(&[])?;
    ensure!(device.bind("default")?, "not bound again");
    copy(&device.provider()?)
}

fn not_on_again_after_reset() -> Result<()> {
    withdrawn_after(LabDevice::reset, &[(STATUS_ON, NOT_READY)])?;
    withdrawn_after(LabDevice::reset, &[(REGISTER + CMBSTS, 1)])
}

fn gone_after_reset() -> Result<()> {
    withdrawn_after(LabDevice::reset, &[(STATUS_ON, u32::MAX.into())])
}

fn not_on_again_after_sleep() -> Result<()> {
    withdrawn_after(sleep_without_power, &[(STATUS_ON, 3)])
}
