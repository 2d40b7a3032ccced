// SPDX-License-Identifier: GPL-2.0

//! Switching a Persistent Memory Region on.

use kernel::{
    device::Core,
    devres,
    io::poll::read_poll_timeout,
    pci,
    prelude::*,
    time::Delta, //
};

use kernel_ext::pci::bus_address;

use super::{
    regs::{
        self,
        Cap,
        Pmrcap,
        Pmrsts, //
    },
    Registers,
    SwitchOff, //
};

use crate::{
    driver::{
        bar,
        usable, //
    },
    region::{
        Content,
        Region, //
    }, //
};

/// Enables the region and returns where it is, or [`None`] if there is none, or if it cannot serve;
/// then the log says why.
///
/// Without being enabled it would take no data, and not complain.
pub(super) fn enable(
    pdev: &pci::Device<Core<'_>>,
    registers: &Registers,
    cap: Cap,
) -> Result<Option<Region>> {
    if !cap.pmrs() {
        return Ok(None);
    }
    let cap = Pmrcap(registers.read32(regs::PMRCAP)?);
    if !cap.takes_data() {
        dev_warn!(
            pdev,
            "the PMR takes no data (PMRCAP {:#x} without RDS and WDS): not used\n",
            cap.0
        );
        return Ok(None);
    }
    let region = match bar(pdev, cap.bir()).map(|bar| usable(pdev, &bar, 0, bar.size)) {
        Ok(Ok(region)) => region,
        Ok(Err(refusal)) => {
            dev_warn!(pdev, "the PMR is not used: {}\n", refusal);
            return Ok(None);
        }
        Err(_) => {
            dev_warn!(pdev, "the PMR is nowhere (PMRCAP {:#x}): not used\n", cap.0);
            return Ok(None);
        }
    };

    // Released after the memory is: that is registered later.
    devres::register::<SwitchOff, Error>(
        pdev.as_ref(),
        Ok(SwitchOff {
            registers: registers.clone(),
            wide: cap.cmss().then_some(regs::PMRMSC),
            narrow: Some(regs::PMRCTL),
        }),
        GFP_KERNEL,
    )?;
    registers.write32(regs::PMRCTL_EN, regs::PMRCTL)?;

    // A time of 0 is no promise: give it a second.
    let timeout = i64::try_from(cap.timeout_ms().max(1000))?;
    let status = read_poll_timeout(
        || registers.read32(regs::PMRSTS).map(Pmrsts),
        // A device that is gone is not waited for: that could take hours.
        |status| status.is_all_ones() || !status.nrdy(),
        Delta::from_millis(1),
        Delta::from_millis(timeout),
    );
    match status {
        Ok(status) if status.is_all_ones() => {
            dev_warn!(pdev, "the PMR does not answer: is the device gone?\n");
            return Err(ENODEV);
        }
        Ok(status) if status.err() == 0 => (),
        Ok(status) => {
            dev_warn!(
                pdev,
                "the PMR reports error {:#x}: not used\n",
                status.err()
            );
            return Ok(None);
        }
        Err(_) => {
            dev_warn!(
                pdev,
                "the PMR is not ready after {} ms: not used\n",
                timeout
            );
            return Ok(None);
        }
    }

    if cap.cmss() {
        let address = bus_address(pdev, region.bar)?;
        registers.write64(address | regs::CMSE, regs::PMRMSC)?;
    }

    Ok(Some(Region {
        content: Content::Pmr,
        ..region
    }))
}
