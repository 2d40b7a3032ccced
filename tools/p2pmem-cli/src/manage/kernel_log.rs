// SPDX-License-Identifier: GPL-2.0

//! Reasons of the driver, in the kernel's log.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
};

use p2pmem::{PciAddress, Root};
use rustix::fs::OFlags;

use super::device::DRIVER;

/// The kernel's log from some point on, if this user may read it.
pub struct KernelLog(Option<File>);

impl KernelLog {
    /// Begins to listen.
    pub fn from_now(root: &Root) -> Self {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(root.dev("kmsg"));
        Self(file.ok().and_then(|mut file| {
            file.seek(SeekFrom::End(0)).ok()?;
            Some(file)
        }))
    }

    /// Returns the last line of the driver about a device, or about the line that was written. The
    /// kernel begins each line with the name of the driver that has the device: for an adopted one
    /// that is another.
    pub fn last(&mut self, pci: PciAddress, driver: Option<&str>) -> Option<String> {
        let file = self.0.as_mut()?;
        let heads = [
            format!("{DRIVER} {pci}: "),
            format!("{DRIVER}: regions: "),
            format!("{} {pci}: ", driver.unwrap_or(DRIVER)),
        ];
        let mut last = None;
        // Longer than any record.
        let mut record = [0; 8192];

        loop {
            let length = match file.read(&mut record) {
                Ok(0) => break,
                Ok(length) => length,
                // Records were overwritten before they were read.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => continue,
                Err(_) => break,
            };
            let text = String::from_utf8_lossy(&record[..length]);
            let line = text.split_once(';').map_or("", |(_, text)| text);
            let line = line.lines().next().unwrap_or_default();
            let said = heads.iter().find_map(|head| line.strip_prefix(&**head));
            // Text that the driver core, or p2pmem_rs for adopted devices, adds to the reason.
            let more = [
                "probe with driver",
                "its peer-to-peer memory cannot be given",
            ];
            let is_more = |said: &&str| more.iter().any(|text| said.starts_with(text));
            if let Some(said) = said.filter(|said| !is_more(said)) {
                last = Some(said.to_owned());
            }
        }

        last
    }
}
