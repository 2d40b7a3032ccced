// SPDX-License-Identifier: GPL-2.0

//! Locations of a file's data on the drives below it: on several ones at once, where there is a
//! mirror.
//!
//! An array may report that a write succeeded although one of its members failed. What is on each
//! member is read from the member itself.

mod dm;
mod error;
mod extents;
mod geometry;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use self::geometry::{Shape, Span, SECTOR};
use crate::{
    fabric::{BlockDevice, BlockKind, Fabric, Target},
    root::{self, entries, link_name, name, text, Root},
};

pub use self::{
    error::{ExtentError, MembersError},
    geometry::Member,
};

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
    pub fn of(path: &Path, fabric: &Fabric) -> Result<Option<Self>, MembersError> {
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
        if stack.several {
            return Err(MembersError::FileSystem);
        }
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
    pub fn parts(&self, offset: u64, length: u64) -> Result<Vec<Part>, MembersError> {
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
    ) -> Result<u64, MembersError> {
        let outside = || MembersError::Outside {
            device: device.to_owned(),
            offset,
        };
        let spans = self.shapes.get(device).ok_or_else(outside)?;
        if spans.is_empty() {
            places.push(Member {
                device: device.to_owned(),
                offset,
            });
            return Ok(length);
        }
        let (members, mut run) = geometry::locate(spans, offset).ok_or_else(outside)?;
        run = run.min(length);
        for member in members {
            run = self.locate(&member.device, member.offset, run, places)?;
        }
        Ok(run)
    }
}

/// Returns the parts of a block device; nothing for a drive.
fn shape(fabric: &Fabric, device: &BlockDevice) -> Result<Vec<Span>, MembersError> {
    let folder = Root::default().sys("class/block").join(&device.name);
    let name = || device.name.clone();
    match &device.kind {
        BlockKind::Disk { .. } => Ok(Vec::new()),
        BlockKind::Partition => {
            let [below] = &device.below[..] else {
                return Err(MembersError::Malformed {
                    device: name(),
                    problem: "is a partition of nothing",
                });
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
                .ok_or_else(|| MembersError::Mapped { device: name() })
        }
        BlockKind::Loop { .. } => Err(MembersError::Loop { device: name() }),
    }
}

/// Returns the members of an array of md.
fn md(device: &str, folder: &Path, level: &str) -> Result<Vec<Span>, MembersError> {
    let disks = number(&folder.join("raid_disks"))? as usize;
    let mut members = vec![None; disks];
    let mut sizes = Vec::new();
    for path in entries(folder) {
        if !name(&path).starts_with("dev-") {
            continue;
        }
        let state = text(path.join("state")).map_err(read(&path))?;
        // Spares have no slot, and those that are being rebuilt not all data.
        let slot = root::number::<usize>(path.join("slot")).ok();
        let (Some(slot), true) = (slot, state.contains("in_sync")) else {
            continue;
        };
        let member = Member {
            device: link_name(path.join("block")).map_err(read(&path))?,
            offset: number(&path.join("offset"))? * SECTOR,
        };
        sizes.push(number(&path.join("size"))?);
        *members
            .get_mut(slot)
            .ok_or_else(|| MembersError::Malformed {
                device: device.to_owned(),
                problem: "has a member in a slot that it does not have",
            })? = Some(member);
    }
    if !text(folder.join("reshape_position")).is_ok_and(|position| position == "none") {
        return Err(MembersError::Reshape {
            device: device.to_owned(),
        });
    }
    if level == "raid1" {
        return Ok(vec![Span::mirror(members.into_iter().flatten().collect())]);
    }
    let layout = number(&folder.join("layout"))?;
    let copies = match level {
        "raid0" if sizes.windows(2).all(|pair| pair[0] == pair[1]) => 1,
        // Near copies in the first byte, far ones in the second.
        "raid10" if layout >> 8 == 1 => (layout & 0xff) as usize,
        _ => {
            return Err(MembersError::Md {
                device: device.to_owned(),
                level: level.to_owned(),
                layout,
            })
        }
    };
    Ok(vec![Span::whole(Shape::Stripes {
        chunk: number(&folder.join("chunk_size"))?,
        copies,
        members,
    })])
}

fn number(path: &Path) -> Result<u64, MembersError> {
    root::number(path).map_err(read(path))
}

/// Returns a function that makes the error of a file.
fn read(path: &Path) -> impl FnOnce(io::Error) -> MembersError + '_ {
    |source| MembersError::Read {
        path: path.to_owned(),
        source,
    }
}
