// SPDX-License-Identifier: GPL-2.0

//! Memory of NVMe controllers that no other driver has: the Controller Memory Buffer (CMB) and the
//! Persistent Memory Region (PMR).
//!
//! Each is switched on when the controller is bound, and back off when its memory is gone, after
//! DMA that was in flight has ended.

pub(crate) mod cmb;
mod mmio;
mod pmr;
pub(crate) mod regs;

use kernel::{
    device::Core,
    devres,
    pci,
    prelude::*, //
};

use kernel_ext::pci::bus_address;

use crate::regions::{
    bar::{
        bar,
        trim,
        NAME, //
    },
    range::{
        MemoryKind,
        Region, //
    }, //
};

pub(crate) use mmio::BAR;

use mmio::Registers;
use regs::{
    Cap,
    Cmbloc,
    Cmbsts,
    Cmbsz, //
};

/// How memory of a controller is switched on, once more after the controller was reset or without
/// power.
pub(crate) enum Switch {
    Cmb(CmbSwitch),
    Pmr(pmr::Switch),
}

/// Enables of all memory of a controller that was switched on.
pub(crate) type Switches = KVec<Switch>;

impl Switch {
    /// Switches the memory on. Its contents may be lost. May sleep.
    pub(crate) fn on(&self, pdev: &pci::Device) -> Result {
        match self {
            Self::Cmb(cmb) => cmb.on(pdev),
            Self::Pmr(pmr) => pmr.on(pdev),
        }
    }
}

/// A Controller Memory Buffer.
pub(crate) struct CmbSwitch {
    registers: Registers,
    /// Of CMBMSC.
    control: u64,
}

impl CmbSwitch {
    /// `ENODEV` if the controller does not answer, `EINVAL` if it does not accept the address; the
    /// log says so.
    fn on(&self, pdev: &pci::Device) -> Result {
        self.registers.write64(self.control, regs::CMBMSC)?;
        let status = Cmbsts(self.registers.read32(regs::CMBSTS)?);
        if status.is_all_ones() {
            return Err(no_answer(pdev));
        }
        if status.cbai() {
            dev_warn!(
                pdev,
                "the controller refuses the address of its CMB (CMBMSC {:#x}): not used\n",
                self.control
            );
            return Err(EINVAL);
        }
        Ok(())
    }
}

/// Switches a Controller Memory Buffer off when the controller is unbound.
struct CmbOff(Registers);

impl Drop for CmbOff {
    fn drop(&mut self) {
        // An error cannot be reported: the registers are mapped still, and in range.
        let _ = self.0.write64(0, regs::CMBMSC);
    }
}

/// Returns the registers of a controller, and what it is capable of. `ENODEV` if it does not
/// answer; the log says so.
fn controller(pdev: &pci::Device<Core<'_>>) -> Result<(Registers, Cap)> {
    let registers = Registers::map(pdev)?;
    let cap = Cap(registers.read64(regs::CAP)?);
    if cap.is_all_ones() {
        return Err(no_answer(pdev));
    }
    Ok((registers, cap))
}

fn no_answer(pdev: &pci::Device) -> Error {
    dev_err!(
        pdev,
        "the controller does not answer: is the device gone?\n"
    );
    ENODEV
}

/// Which memory of a controller.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) cmb: bool,
    pub(crate) pmr: bool,
}

impl Memory {
    /// All memory that the controller has.
    pub(crate) const ANY: Self = Self {
        cmb: true,
        pmr: true,
    };
}

/// Switches on the memory of a controller, and adds where it is to `regions`.
///
/// `ENODEV` if it has none that can serve; the log says why.
pub(crate) fn discover(
    pdev: &pci::Device<Core<'_>>,
    wanted: Memory,
    regions: &mut KVec<Region>,
    switches: &mut Switches,
) -> Result {
    let (registers, cap) = controller(pdev)?;

    if wanted.cmb {
        if let Some(region) = controller_memory_buffer(pdev, &registers, cap, switches)? {
            regions.push(region, GFP_KERNEL)?;
        }
    }
    if wanted.pmr {
        if let Some(region) = persistent_memory_region(pdev, &registers, cap, switches)? {
            regions.push(region, GFP_KERNEL)?;
        }
    }
    if regions.is_empty() {
        dev_err!(
            pdev,
            "the controller has no {} that can serve: bind another device\n",
            match (wanted.cmb, wanted.pmr) {
                (true, false) => "CMB",
                (false, true) => "PMR",
                _ => "CMB and no PMR",
            }
        );
        return Err(ENODEV);
    }

    Ok(())
}

/// Switches on the Persistent Memory Region of a controller that another driver has.
///
/// `ENODEV` if it has none that can serve; the log says why. The driver must not have made
/// peer-to-peer memory of the controller: it could not be told from ours.
pub(crate) fn discover_beside(
    pdev: &pci::Device<Core<'_>>,
    switches: &mut Switches,
) -> Result<KVec<Region>> {
    let (registers, cap) = controller(pdev)?;

    if Cmbsz(registers.read32(regs::CMBSZ)?).0 != 0 {
        dev_err!(
            pdev,
            "its driver may place queues in a CMB, and would place them in the PMR: \
             bind the controller to {} to have both\n",
            NAME
        );
        return Err(EBUSY);
    }
    let Some(region) = persistent_memory_region(pdev, &registers, cap, switches)? else {
        dev_err!(pdev, "the controller has no PMR that can serve\n");
        return Err(ENODEV);
    };

    let mut regions = KVec::new();
    regions.push(region, GFP_KERNEL)?;
    Ok(regions)
}

/// Checks that a CMB is on which the controller's own driver published.
///
/// `ENODEV` if it is off. The nvme driver does not switch it on again after sleep.
pub(crate) fn check_cmb(pdev: &pci::Device<Core<'_>>) -> Result {
    let (registers, cap) = controller(pdev)?;

    if cap.cmbs() && registers.read64(regs::CMBMSC)? & regs::CMSE == 0 {
        dev_warn!(
            pdev,
            "its driver has not switched the CMB on again: unbind and bind that driver\n"
        );
        return Err(ENODEV);
    }
    Ok(())
}

fn controller_memory_buffer(
    pdev: &pci::Device<Core<'_>>,
    registers: &Registers,
    cap: Cap,
    switches: &mut Switches,
) -> Result<Option<Region>> {
    if cap.cmbs() {
        registers.write64(regs::CMBMSC_CRE, regs::CMBMSC)?;
        // Released after the memory is: that is registered later.
        devres::register::<CmbOff, Error>(
            pdev.as_ref(),
            Ok(CmbOff(registers.clone())),
            GFP_KERNEL,
        )?;
    }

    let size = Cmbsz(registers.read32(regs::CMBSZ)?);
    let location = Cmbloc(registers.read32(regs::CMBLOC)?);
    if size.0 == 0 {
        return Ok(None);
    }
    if !size.takes_data() {
        dev_warn!(
            pdev,
            "the CMB takes no data (CMBSZ {:#x} without RDS and WDS): not used\n",
            size.0
        );
        return Ok(None);
    }
    let found = bar(pdev, location.bir()).ok().and_then(|bar| {
        let span = cmb::span(location, size, bar.size)?;
        Some((bar, span))
    });
    let Some((bar, span)) = found else {
        dev_warn!(
            pdev,
            "the CMB is nowhere (CMBLOC {:#x}, CMBSZ {:#x}): not used\n",
            location.0,
            size.0
        );
        return Ok(None);
    };
    let region = match trim(pdev, &bar, span.offset, span.size) {
        Ok(region) => Region {
            kind: MemoryKind::Cmb,
            ..region
        },
        Err(refusal) => {
            dev_warn!(pdev, "the CMB is not used: {}\n", refusal);
            return Ok(None);
        }
    };

    if cap.cmbs() {
        // The address of the whole buffer, by which the controller recognizes its own memory.
        let address = bus_address(pdev, bar.number)? + span.offset;
        let switch = Switch::Cmb(CmbSwitch {
            registers: registers.clone(),
            control: address | regs::CMBMSC_CRE | regs::CMSE,
        });
        return Ok(switch_on(pdev, switch, switches)?.then_some(region));
    }

    Ok(Some(region))
}

fn persistent_memory_region(
    pdev: &pci::Device<Core<'_>>,
    registers: &Registers,
    cap: Cap,
    switches: &mut Switches,
) -> Result<Option<Region>> {
    let Some((region, switch)) = pmr::find(pdev, registers, cap)? else {
        return Ok(None);
    };

    Ok(switch_on(pdev, Switch::Pmr(switch), switches)?.then_some(region))
}

/// Switches memory on for the first time. Returns whether it can serve; if not, the log says why.
/// `ENODEV` if the controller does not answer.
fn switch_on(pdev: &pci::Device, switch: Switch, switches: &mut Switches) -> Result<bool> {
    match switch.on(pdev) {
        Ok(()) => switches.push(switch, GFP_KERNEL)?,
        Err(error) if error == ENODEV => return Err(error),
        Err(_) => return Ok(false),
    }

    Ok(true)
}
