// SPDX-License-Identifier: GPL-2.0

//! Registers of an NVMe controller that tell of its memory.
//!
//! Names and bits are those of the NVM Express Base Specification, section 3.1.4 (revision 2.x;
//! 1.4 has the same). Arithmetic only: no kernel types, so that it is tested on the build machine
//! as well.

/// Offset of CAP, Controller Capabilities, 64 bits.
pub(crate) const CAP: usize = 0x00;
/// Offset of CMBLOC, Controller Memory Buffer Location.
pub(crate) const CMBLOC: usize = 0x38;
/// Offset of CMBSZ, Controller Memory Buffer Size.
pub(crate) const CMBSZ: usize = 0x3c;
/// Offset of CMBMSC, Controller Memory Buffer Memory Space Control, 64 bits.
pub(crate) const CMBMSC: usize = 0x50;
/// Offset of CMBSTS, Controller Memory Buffer Status.
pub(crate) const CMBSTS: usize = 0x58;
/// Offset of PMRCAP, Persistent Memory Region Capabilities.
pub(crate) const PMRCAP: usize = 0xe00;
/// Offset of PMRCTL, Persistent Memory Region Control.
pub(crate) const PMRCTL: usize = 0xe04;
/// Offset of PMRSTS, Persistent Memory Region Status.
pub(crate) const PMRSTS: usize = 0xe08;
/// Offset of PMRMSCL and PMRMSCU, Persistent Memory Region Memory Space Control, 64 bits in two
/// registers.
pub(crate) const PMRMSC: usize = 0xe14;

/// CMBMSC.CRE: the capabilities registers tell the truth.
pub(crate) const CMBMSC_CRE: u64 = 1 << 0;
/// CMBMSC.CMSE, PMRMSCL.CMSE: the controller's own commands may address the memory, at the address
/// in the upper 52 bits.
pub(crate) const CMSE: u64 = 1 << 1;
/// PMRCTL.EN: the memory is ready, or becomes so.
pub(crate) const PMRCTL_EN: u32 = 1 << 0;

/// Controller Capabilities.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cap(pub(crate) u64);

impl Cap {
    /// Whether that is what a device returns that is gone: all ones, with reserved bits.
    pub(crate) fn is_all_ones(self) -> bool {
        self.0 == u64::MAX
    }

    /// Whether there is a Controller Memory Buffer that CMBMSC has to enable. Controllers from
    /// before revision 1.4 do not set it.
    pub(crate) fn cmbs(self) -> bool {
        self.0 & (1 << 57) != 0
    }

    /// Whether there is a Persistent Memory Region.
    pub(crate) fn pmrs(self) -> bool {
        self.0 & (1 << 56) != 0
    }
}

/// Controller Memory Buffer Location.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cmbloc(pub(crate) u32);

impl Cmbloc {
    /// The BAR.
    pub(crate) fn bir(self) -> u32 {
        self.0 & 0x7
    }

    /// Offset in the BAR, in units of CMBSZ.
    pub(crate) fn ofst(self) -> u64 {
        u64::from(self.0 >> 12)
    }
}

/// Controller Memory Buffer Size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cmbsz(pub(crate) u32);

impl Cmbsz {
    /// The length in units; 0 if there is none.
    pub(crate) fn sz(self) -> u64 {
        u64::from(self.0 >> 12)
    }

    /// The unit in bytes: 4 KiB to 64 GiB. [`None`] for a value that is reserved.
    pub(crate) fn szu(self) -> Option<u64> {
        match (self.0 >> 8) & 0xf {
            power @ 0..=6 => Some(4096 << (4 * power)),
            _ => None,
        }
    }

    /// Whether commands may move data from the controller to the buffer, and from the buffer to
    /// the controller.
    pub(crate) fn takes_data(self) -> bool {
        const RDS: u32 = 1 << 3;
        const WDS: u32 = 1 << 4;

        self.0 & (RDS | WDS) == RDS | WDS
    }
}

/// Controller Memory Buffer Status.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cmbsts(pub(crate) u32);

impl Cmbsts {
    /// As for [`Cap`].
    pub(crate) fn is_all_ones(self) -> bool {
        self.0 == u32::MAX
    }

    /// Whether the address in CMBMSC is one that the controller cannot use.
    pub(crate) fn cbai(self) -> bool {
        self.0 & (1 << 0) != 0
    }
}

/// Persistent Memory Region Capabilities.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pmrcap(pub(crate) u32);

impl Pmrcap {
    /// The BAR, all of which is the memory.
    pub(crate) fn bir(self) -> u32 {
        (self.0 >> 5) & 0x7
    }

    /// Whether commands may move data in both directions.
    pub(crate) fn takes_data(self) -> bool {
        const RDS: u32 = 1 << 3;
        const WDS: u32 = 1 << 4;

        self.0 & (RDS | WDS) == RDS | WDS
    }

    /// How long enabling and disabling may take, in milliseconds (PMRTO, in units of PMRTU). A
    /// unit that is reserved counts as the longest one.
    pub(crate) fn timeout_ms(self) -> u64 {
        let unit = match (self.0 >> 8) & 0x3 {
            0 => 500,
            _ => 60_000,
        };

        u64::from((self.0 >> 16) & 0xff) * unit
    }

    /// Whether the controller's own commands can address the memory.
    pub(crate) fn cmss(self) -> bool {
        self.0 & (1 << 24) != 0
    }
}

/// Persistent Memory Region Status.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pmrsts(pub(crate) u32);

impl Pmrsts {
    /// Whether that is what a device returns that is gone: all ones, with reserved bits.
    pub(crate) fn is_all_ones(self) -> bool {
        self.0 == u32::MAX
    }

    /// Whether the memory is not ready.
    pub(crate) fn nrdy(self) -> bool {
        self.0 & (1 << 8) != 0
    }

    /// Whether the address in PMRMSC is one that the controller cannot use.
    pub(crate) fn cbai(self) -> bool {
        self.0 & (1 << 12) != 0
    }

    /// How the memory is.
    pub(crate) fn health(self) -> Health {
        match (self.0 >> 9) & 0x7 {
            // Only what it held before is lost if that could not be restored.
            0 | 1 => Health::Normal,
            2 => Health::ReadOnly,
            3 => Health::Unreliable,
            other => Health::Reserved(other),
        }
    }

    /// Error code; 0 for none.
    pub(crate) fn err(self) -> u32 {
        self.0 & 0xff
    }
}

/// Health of a Persistent Memory Region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// It takes data, and returns it.
    Normal,
    /// Writes are ignored.
    ReadOnly,
    /// Reads may return anything.
    Unreliable,
    /// Of a later specification.
    Reserved(u32),
}
