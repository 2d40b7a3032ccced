// SPDX-License-Identifier: GPL-2.0

//! Locations of a file's data on the drives below it: on several ones at once, where there is a
//! mirror.
//!
//! An array may report that a write succeeded although one of its members failed. What is on each
//! member is read from the member itself.

mod dm;
mod extents;
mod geometry;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{bail, ensure, Context, Result};

use self::geometry::{Shape, Span};
use crate::fabric::{BlockDevice, BlockKind, Fabric, Target};

pub use self::geometry::Member;

/// The unit in which the kernel counts, in bytes.
const SECTOR: u64 = 512;

/// The copies of a file's data on the drives below it.
#[derive(Debug)]
pub struct Members {
    path: PathBuf,
    /// The block device that the file is on, or is.
    top: String,
    is_file: bool,
    /// Parts of each block device below it.
    shapes: BTreeMap<String, Vec<Span>>,
}

/// A part of a file, which is on each of its members as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// The places that have it.
    pub members: Vec<Member>,
}

impl Members {
    /// Finds the members of the arrays below a file or block device. Returns nothing if each byte
    /// is in one place only.
    ///
    /// # Errors
    ///
    /// If there are several copies, and where they are is not known.
    pub fn of(path: &Path, fabric: &Fabric) -> Result<Option<Self>> {
        let target = Target::of(path)?;
        let stack = fabric.stack(&target);
        let Some(top) = stack.devices.first().cloned() else {
            return Ok(None);
        };
        let devices: Vec<_> = stack
            .devices
            .iter()
            .filter_map(|name| fabric.block_device(name))
            .collect();
        let is_mapped =
            |device: &&BlockDevice| matches!(device.kind, BlockKind::DeviceMapper { .. });
        ensure!(
            !stack.several,
            "the file system has several block devices, and its copies are where only it knows"
        );
        if !devices
            .iter()
            .any(|one| one.is_redundant() || is_mapped(one))
        {
            return Ok(None);
        }

        let mut shapes = BTreeMap::new();
        let mut unknown = None;
        for device in devices {
            match shape(fabric, device) {
                Ok(shape) => drop(shapes.insert(device.name.clone(), shape)),
                Err(error) => unknown = unknown.or(Some(error)),
            }
        }
        let mirrors = shapes
            .values()
            .flatten()
            .any(|span| span.shape.copies() > 1);
        match unknown {
            // Something that cannot be looked at may be a mirror.
            Some(error) => Err(error),
            None => Ok(mirrors.then(|| Self {
                path: path.to_owned(),
                top,
                is_file: !matches!(target, Target::Device(_)),
                shapes,
            })),
        }
    }

    /// Returns the parts of a range of the file, in order, and the places of each.
    ///
    /// # Errors
    ///
    /// If the place of a part is not known.
    pub fn parts(&self, offset: u64, length: u64) -> Result<Vec<Part>> {
        let ranges = if self.is_file {
            extents::of(&self.path, offset, length)?
        } else {
            vec![(offset, offset, length)]
        };
        let mut parts = Vec::new();
        for (logical, physical, length) in ranges {
            let mut done = 0;
            while done < length {
                let mut members = Vec::new();
                let run = self.locate(&self.top, physical + done, length - done, &mut members)?;
                parts.push(Part {
                    offset: logical + done,
                    length: run,
                    members,
                });
                done += run;
            }
        }
        Ok(parts)
    }

    /// Adds the drives that have the byte at an offset of a block device, and where on them.
    /// Returns for how many of `length` bytes this holds.
    fn locate(
        &self,
        device: &str,
        offset: u64,
        length: u64,
        places: &mut Vec<Member>,
    ) -> Result<u64> {
        let spans = self
            .shapes
            .get(device)
            .context("a device without a shape")?;
        if spans.is_empty() {
            places.push(Member {
                device: device.to_owned(),
                offset,
            });
            return Ok(length);
        }
        let (members, mut run) = geometry::locate(spans, offset).with_context(|| {
            format!("cannot tell where the byte at {offset} of {device} is on the drives below it")
        })?;
        run = run.min(length);
        for member in members {
            run = self.locate(&member.device, member.offset, run, places)?;
        }
        Ok(run)
    }
}

/// Returns what a block device is made of; nothing for a drive.
fn shape(fabric: &Fabric, device: &BlockDevice) -> Result<Vec<Span>> {
    let folder = Path::new("/sys/class/block").join(&device.name);
    match &device.kind {
        BlockKind::Disk { .. } => Ok(Vec::new()),
        BlockKind::Partition => {
            let [below] = &device.below[..] else {
                bail!("{} is a partition of nothing", device.name);
            };
            let start = number(&folder.join("start"))? * SECTOR;
            Ok(vec![Span::mirror(vec![Member {
                device: below.clone(),
                offset: start,
            }])])
        }
        BlockKind::Md { level } => md(&device.name, &folder.join("md"), level),
        BlockKind::DeviceMapper { .. } => {
            let name_of = |number: &str| {
                let mut all = fabric.block_devices.iter();
                all.find(|one| one.number == number)
                    .map(|one| one.name.clone())
            };
            dm::table(&device.number)?
                .iter()
                .map(|line| geometry::mapped(line, &name_of))
                .collect::<Option<_>>()
                .with_context(|| {
                    format!(
                        "{} is of the device mapper, and where its copies are is not known",
                        device.name
                    )
                })
        }
        BlockKind::Loop { .. } => bail!("{} is a loop device", device.name),
    }
}

/// Returns what an array of md is made of.
fn md(name: &str, folder: &Path, level: &str) -> Result<Vec<Span>> {
    let disks = usize::try_from(number(&folder.join("raid_disks"))?)?;
    let mut members = vec![None; disks];
    let mut sizes = Vec::new();
    for entry in fs::read_dir(folder)?.flatten() {
        if !entry.file_name().to_string_lossy().starts_with("dev-") {
            continue;
        }
        let path = entry.path();
        let state = fs::read_to_string(path.join("state"))?;
        // Spares have no slot, and those that are being rebuilt not all data.
        let slot = number(&path.join("slot")).ok().map(usize::try_from);
        let (Some(Ok(slot)), true) = (slot, state.contains("in_sync")) else {
            continue;
        };
        let block = fs::read_link(path.join("block"))?;
        let device = block.file_name().context("a member without a name")?;
        sizes.push(number(&path.join("size"))?);
        *members.get_mut(slot).context("a slot that there is not")? = Some(Member {
            device: device.to_string_lossy().into_owned(),
            offset: number(&path.join("offset"))? * SECTOR,
        });
    }
    ensure!(
        fs::read_to_string(folder.join("reshape_position")).is_ok_and(|one| one.trim() == "none"),
        "{name} is being reshaped: wait for its end"
    );
    if level == "raid1" {
        return Ok(vec![Span::mirror(members.into_iter().flatten().collect())]);
    }
    let layout = number(&folder.join("layout"))?;
    let copies = match level {
        "raid0" if sizes.windows(2).all(|pair| pair[0] == pair[1]) => 1,
        // Near copies in the first byte, far ones in the second.
        "raid10" if layout >> 8 == 1 => (layout & 0xff) as usize,
        _ => bail!("{name} is md {level}, layout {layout}: where its copies are is not known"),
    };
    Ok(vec![Span::whole(Shape::Stripes {
        chunk: number(&folder.join("chunk_size"))?,
        copies,
        members,
    })])
}

fn number(path: &Path) -> Result<u64> {
    fs::read_to_string(path)
        .map_err(anyhow::Error::from)
        .and_then(|text| Ok(text.trim().parse()?))
        .with_context(|| format!("cannot read a number from {}", path.display()))
}
