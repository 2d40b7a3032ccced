// SPDX-License-Identifier: GPL-2.0

//! The registers of a controller that is bound.

use kernel::{
    device::Core,
    devres::Devres,
    io::Io,
    pci,
    prelude::*,
    sync::Arc, //
};

use kernel_ext::pci::UnclaimedBar;

/// Up to here the registers go that are used.
const REGISTERS: usize = 0x1000;
/// The BAR with the registers.
pub(crate) const BAR: u32 = 0;

/// The registers, as long as the controller is bound.
#[derive(Clone)]
pub(super) struct Registers(Arc<Devres<UnclaimedBar<REGISTERS>>>);

impl Registers {
    pub(super) fn map(pdev: &pci::Device<Core<'_>>) -> Result<Self> {
        let window = UnclaimedBar::map(pdev, BAR)
            .inspect_err(|_| dev_err!(pdev, "the registers in BAR 0 cannot be mapped\n"))?;

        Ok(Self(Arc::new(window, GFP_KERNEL)?))
    }

    pub(super) fn read32(&self, offset: usize) -> Result<u32> {
        self.0
            .try_access_with(|window| window.try_read32(offset))
            .ok_or(ENXIO)?
    }

    pub(super) fn read64(&self, offset: usize) -> Result<u64> {
        Ok(u64::from(self.read32(offset)?) | u64::from(self.read32(offset + 4)?) << 32)
    }

    pub(super) fn write32(&self, value: u32, offset: usize) -> Result {
        self.0
            .try_access_with(|window| window.try_write32(value, offset))
            .ok_or(ENXIO)?
    }

    /// The upper half first: the bits that enable are in the lower one.
    pub(super) fn write64(&self, value: u64, offset: usize) -> Result {
        self.write32((value >> 32) as u32, offset + 4)?;
        self.write32(value as u32, offset)
    }
}
