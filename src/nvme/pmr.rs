// SPDX-License-Identifier: GPL-2.0

//! Switching a Persistent Memory Region on, and off.

use kernel::{
    device::Core,
    devres,
    io::poll::read_poll_timeout,
    pci,
    prelude::*,
    sync::aref::ARef,
    time::Delta, //
};

use kernel_ext::pci::bus_address;

use super::{
    mmio::Registers,
    regs::{
        self,
        Cap,
        Health,
        Pmrcap,
        Pmrsts, //
    }, //
};

use crate::regions::{
    bar::{
        bar,
        trim, //
    },
    range::{
        MemoryKind,
        Region, //
    }, //
};

/// Returns where the region is and how it is switched on, or [`None`] if there is none, or if it
/// cannot serve; then the log says why. It is switched off when the controller is unbound.
///
/// Without being enabled it would take no data, and not complain.
pub(super) fn find(
    pdev: &pci::Device<Core<'_>>,
    registers: &Registers,
    cap: Cap,
) -> Result<Option<(Region, Switch)>> {
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
    let region = match bar(pdev, cap.bir()).map(|bar| trim(pdev, &bar, 0, bar.size)) {
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

    let switch = Switch {
        registers: registers.clone(),
        cap,
        address: bus_address(pdev, region.bar)?,
    };
    // Released after the memory is: that is registered later.
    devres::register::<Off, Error>(
        pdev.as_ref(),
        Ok(Off {
            pdev: pdev.into(),
            switch: switch.clone(),
        }),
        GFP_KERNEL,
    )?;
    let region = Region {
        kind: MemoryKind::Pmr,
        ..region
    };

    Ok(Some((region, switch)))
}

/// How the region is switched on and off.
#[derive(Clone)]
pub(crate) struct Switch {
    registers: Registers,
    cap: Pmrcap,
    /// Bus address of the memory.
    address: u64,
}

impl Switch {
    /// Switches the region on, and waits for it. May sleep.
    ///
    /// `ENODEV` if the controller does not answer, `ETIMEDOUT` if the region does not become ready,
    /// `EIO` if it reports an error or takes no data, `EINVAL` if the controller does not accept
    /// its address; the log says so.
    pub(super) fn on(&self, pdev: &pci::Device) -> Result {
        self.registers.write32(regs::PMRCTL_EN, regs::PMRCTL)?;
        let status = self.wait(|status| !status.nrdy()).inspect_err(|_| {
            dev_warn!(
                pdev,
                "the PMR is not ready after {} ms: not used\n",
                self.timeout_ms()
            )
        })?;
        check(pdev, status)?;

        if self.cap.cmss() {
            self.registers
                .write64(self.address | regs::CMSE, regs::PMRMSC)?;
            let status = Pmrsts(self.registers.read32(regs::PMRSTS)?);
            check(pdev, status)?;
            if status.cbai() {
                dev_warn!(
                    pdev,
                    "the controller refuses the address of its PMR, {:#x}: not used\n",
                    self.address
                );
                return Err(EINVAL);
            }
        }

        Ok(())
    }

    /// Switches the region off, and waits until it is: until then it may not be switched on.
    fn off(&self, pdev: &pci::Device) -> Result {
        self.registers.write32(0, regs::PMRCTL)?;
        if self.cap.cmss() {
            self.registers.write64(0, regs::PMRMSC)?;
        }
        self.wait(|status| status.nrdy()).inspect_err(|_| {
            dev_warn!(pdev, "the PMR is not off after {} ms\n", self.timeout_ms())
        })?;

        Ok(())
    }

    /// How long switching may take. A time of 0 is no promise: give it a second.
    fn timeout_ms(&self) -> u64 {
        self.cap.timeout_ms().max(1000)
    }

    /// Waits for a status, or for a device that is gone: the time could be hours.
    fn wait(&self, is_so: impl Fn(&Pmrsts) -> bool) -> Result<Pmrsts> {
        read_poll_timeout(
            || self.registers.read32(regs::PMRSTS).map(Pmrsts),
            |status| status.is_all_ones() || is_so(status),
            Delta::from_millis(1),
            Delta::from_millis(self.timeout_ms().try_into()?),
        )
    }
}

/// Checks that a region that is ready takes data and returns it. The log says why it does not.
fn check(pdev: &pci::Device, status: Pmrsts) -> Result {
    if status.is_all_ones() {
        dev_warn!(pdev, "the PMR does not answer: is the device gone?\n");
        return Err(ENODEV);
    }
    if status.err() != 0 {
        dev_warn!(
            pdev,
            "the PMR reports error {:#x}: not used\n",
            status.err()
        );
        return Err(EIO);
    }
    match status.health() {
        Health::Normal => return Ok(()),
        Health::ReadOnly => dev_warn!(pdev, "the PMR is read-only: not used\n"),
        Health::Unreliable => dev_warn!(pdev, "the PMR is unreliable: not used\n"),
        Health::Reserved(health) => {
            dev_warn!(pdev, "the PMR is in health state {}: not used\n", health)
        }
    }
    Err(EIO)
}

/// Switches the region off when the controller is unbound.
struct Off {
    pdev: ARef<pci::Device>,
    switch: Switch,
}

impl Drop for Off {
    fn drop(&mut self) {
        // The log reports an error; drop cannot return it.
        let _ = self.switch.off(&self.pdev);
    }
}
