// SPDX-License-Identifier: GPL-2.0

//! PCI peer-to-peer memory for user space.
//!
//! Turns memory of PCI devices into buffers that programs can hold: `/dev/p2pmemN`. Direct I/O
//! into such a buffer goes from device to device.

#![deny(unsafe_code)]

mod driver;
mod file;
mod ioctl;
mod mmap;
mod number;
mod nvme;
mod provider;
mod region;
mod registry;

kernel::module_pci_driver! {
    type: driver::P2pmem,
    name: "p2pmem_rs",
    authors: ["The p2pmem_rs developers"],
    description: "PCI peer-to-peer memory provider",
    license: "GPL v2",
}
