// SPDX-License-Identifier: GPL-2.0

//! Looks at what is below a file before data is moved between it and device memory.
//!
//! The kernel does not refuse all that cannot work: md's raid1 and raid10 take the refusal of a
//! member for success, and each block device takes memory in a slot of an io_uring.

use std::path::Path;

use anyhow::{bail, Context, Result};
use p2pmem::{
    fabric::{DirectIo, Fabric, ObstacleKind, ProviderRecord, Stack, Target},
    sysfs, Memory, Root,
};

/// This machine, as it was when this was made, and the memory that data is to go through.
#[derive(Debug)]
pub struct Preflight {
    /// Nothing if it could not be read, and is not needed.
    fabric: Option<Fabric>,
    /// Nothing for ordinary memory.
    provider: Option<ProviderRecord>,
}

impl Preflight {
    /// Looks at this machine.
    ///
    /// # Errors
    ///
    /// If sysfs or procfs cannot be read, or the provider went away. Ordinary memory needs neither.
    pub fn new(memory: &Memory) -> Result<Self> {
        let Memory::Device { provider, path, .. } = memory else {
            return Ok(Self {
                fabric: Fabric::read(&Root::default()).ok(),
                provider: None,
            });
        };
        // The node may be anywhere.
        let number = rustix::fs::fstat(provider)?.st_rdev;
        let entries = sysfs::providers(&Root::default()).context("cannot read sysfs")?;
        let gone = || format!("the device of {} went away", path.display());
        let number = entries
            .iter()
            .find(|entry| entry.device_number().is_ok_and(|one| one == number))
            .with_context(gone)?
            .id
            .number;
        let fabric = Fabric::read(&Root::default())?;
        let mut providers = fabric.providers.iter();
        let provider = providers.find(|one| one.id.number == number).cloned();
        Ok(Self {
            provider: Some(provider.with_context(gone)?),
            fabric: Some(fabric),
        })
    }

    /// Returns this machine, if it could be looked at.
    pub fn fabric(&self) -> Option<&Fabric> {
        self.fabric.as_ref()
    }

    /// Returns what is below a file or block device. A file that does not exist will be in the
    /// directory that is named.
    fn stack(&self, path: &Path) -> Result<Stack> {
        let parent = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let target = Target::of(if path.exists() { path } else { parent })?;
        // A machine that is not known has nothing below.
        Ok(match &self.fabric {
            Some(fabric) => fabric.stack(&target),
            None => Fabric::default().stack(&target),
        })
    }

    /// Refuses a file or block device with something below it that cannot take part. With `fixed`
    /// the memory is to be in a slot of an io_uring, which the kernel does not refuse.
    ///
    /// # Errors
    ///
    /// Names the block device that cannot take part, and why.
    pub fn check(&self, path: &Path, fixed: bool) -> Result<()> {
        let (Some(provider), Some(fabric)) = (&self.provider, &self.fabric) else {
            return Ok(());
        };
        let stack = self.stack(path)?;
        let head = format!(
            "{} cannot exchange data with {}",
            path.display(),
            provider.node()
        );
        if let Some(obstacle) = fabric.obstacles(&stack, provider).first() {
            let effect = match obstacle.kind {
                ObstacleKind::NotReached if fabric.is_redundant(&stack) => {
                    "writes may succeed and leave old data there, and reads may fail"
                }
                ObstacleKind::NotTaken if fixed => {
                    "the kernel takes memory in a slot all the same, and data may be lost"
                }
                ObstacleKind::FileSystem if fixed => {
                    "direct I/O with mapped memory would fail, and slots are not proven there"
                }
                _ => "direct I/O would fail",
            };
            bail!("{head}: {obstacle}; {effect}");
        }
        if fixed && stack.devices.is_empty() && stack.direct_io != Some(DirectIo::Copied) {
            bail!(
                "{head} through a slot: it is on no block device of which is known that it takes \
                 device memory ({}); use mapped memory",
                if stack.description.is_empty() {
                    "it is not mounted"
                } else {
                    &stack.description
                }
            );
        }
        Ok(())
    }

    /// Returns why a file or block device does not exchange data with the memory. Nothing if it is
    /// not known to be so.
    pub fn obstacle(&self, path: &Path) -> Option<String> {
        let (provider, fabric) = (self.provider.as_ref()?, self.fabric.as_ref()?);
        let stack = self.stack(path).ok()?;
        let obstacles = fabric.obstacles(&stack, provider);
        obstacles.first().map(ToString::to_string)
    }

    /// Returns the drives below a file that reach the memory below a switch although an IOMMU
    /// translates: only `p2pmem verify` shows whether the data arrives.
    pub fn unproven(&self, path: &Path) -> Result<Vec<String>> {
        let (Some(provider), Some(fabric)) = (&self.provider, &self.fabric) else {
            return Ok(Vec::new());
        };
        let stack = self.stack(path)?;
        let unproven = fabric.unproven(&stack, provider);
        Ok(unproven.into_iter().map(str::to_owned).collect())
    }

    /// Refuses to copy between a block device and one that it is part of: what is written would
    /// change what is read.
    ///
    /// # Errors
    ///
    /// Names both.
    pub fn check_apart(&self, source: &Path, destination: &Path) -> Result<()> {
        let (one, other) = (self.stack(source)?, self.stack(destination)?);
        if one.file_system.is_some() || other.file_system.is_some() {
            return Ok(());
        }
        let is_below = |upper: &Stack, lower: &Stack| {
            lower.devices.first() != upper.devices.first()
                && lower
                    .devices
                    .first()
                    .is_some_and(|top| upper.devices.contains(top))
        };
        if is_below(&one, &other) || is_below(&other, &one) {
            bail!(
                "{} and {} overlap, one is part of the other",
                source.display(),
                destination.display()
            );
        }
        Ok(())
    }
}

/// Says what to do about drives of which is not proved that data arrives.
pub fn proof_is_due(drives: &[String]) -> String {
    format!(
        "an IOMMU translates, and {} reaches the memory below a switch: some machines lose that \
         data and report success; prove that it arrives by p2pmem verify",
        drives.join(", ")
    )
}
