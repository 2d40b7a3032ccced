// SPDX-License-Identifier: GPL-2.0

//! Proves by data that a drive and device memory reach each other: some platforms report success
//! and move garbage, or nothing.
//!
//! Each direction is judged for itself, against what goes through ordinary memory. Before a
//! transfer its target is given other data, so that what did not arrive is seen.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{anyhow, ensure, Context, Result};
use p2pmem::{
    direct::{Direct, Way},
    fabric::Fabric,
    members::Members,
    size, Buffer,
};
use serde::Serialize;

use crate::{
    keeper::Keeper,
    passage::{is_slot_refused, Io, Passage},
    via::Via,
};

/// Subject of a verification. Sizes and offsets are in bytes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Offset on the drive.
    pub offset: u64,
    /// How much.
    pub bytes: u64,
    /// Whether the drive may be written to. What was there is put back.
    pub write: bool,
    /// Start of the random data.
    pub seed: u64,
}

/// Result.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Offset on the drive, in bytes.
    pub offset: u64,
    /// How much was moved each time, in bytes.
    pub bytes: u64,
    /// Start of the random data.
    pub seed: u64,
    /// Whether all bytes of the drive were the same, which proves less.
    pub uniform: bool,
    /// Whether it was told to stop before the end.
    pub interrupted: bool,
    /// Whether memory in a slot of an io_uring was left out, because this process may not fill one.
    pub slot_refused: bool,
    /// Why members of an array were not read one by one, if they should have been.
    pub members_unknown: Option<String>,
    /// All that was done.
    pub checks: Vec<Check>,
}

impl Report {
    /// Returns whether a direction works. Nothing if it was not tried.
    pub fn works(&self, direction: Direction) -> Option<bool> {
        let mut checks = self
            .checks
            .iter()
            .filter(|check| check.direction == direction)
            .peekable();
        checks.peek()?;
        Some(checks.all(|check| check.verdict == Verdict::Equal))
    }

    /// Returns the first check that failed.
    pub fn failure(&self) -> Option<&Check> {
        self.checks
            .iter()
            .find(|check| check.verdict != Verdict::Equal)
    }
}

/// A transfer, and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Which way the data went.
    pub direction: Direction,
    /// How I/O was asked for.
    pub io: Io,
    /// State of the data.
    pub data: Data,
    /// The drive that was read back, where an array has several copies of the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// Result.
    #[serde(flatten)]
    pub verdict: Verdict,
}

impl Check {
    /// Returns whether there is other data than expected, without an error.
    pub fn is_wrong(&self) -> bool {
        !matches!(self.verdict, Verdict::Equal | Verdict::Refused { .. })
    }
}

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// From the CPU to the memory and back.
    Memory,
    /// From the drive to the memory.
    Read,
    /// From the memory to the drive.
    Write,
}

/// State of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Data {
    /// Data of the drive.
    Found,
    /// All zeroes.
    Zeroes,
    /// All ones.
    Ones,
    /// In each eight bytes, where on the drive they are.
    Address,
    /// Random bytes.
    Random,
}

/// Result of a transfer. Offsets are in bytes, from the start of the transfer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Verdict {
    /// All data arrived.
    Equal,
    /// The target has what it had before: data did not arrive.
    Stale {
        /// Offset of the first byte.
        offset: u64,
    },
    /// There are only ones, as a device that is gone or a request that was aborted returns.
    AllOnes {
        /// Offset of the first byte.
        offset: u64,
    },
    /// There is something else.
    Garbage {
        /// Offset of the first byte.
        offset: u64,
    },
    /// The kernel or the drive refused.
    Refused {
        /// The error.
        reason: String,
    },
}

impl Verdict {
    /// Returns the verdict on a part for the whole, in which so many bytes are in front of the
    /// part.
    pub(crate) fn behind(self, bytes: u64) -> Self {
        match self {
            Self::Stale { offset } => Self::Stale {
                offset: offset + bytes,
            },
            Self::AllOnes { offset } => Self::AllOnes {
                offset: offset + bytes,
            },
            Self::Garbage { offset } => Self::Garbage {
                offset: offset + bytes,
            },
            Self::Equal | Self::Refused { .. } => self,
        }
    }
}

/// Judges what arrived in a target that had other data `before`. All are of the same length.
pub fn judge(expected: &[u8], found: &[u8], before: &[u8]) -> Verdict {
    const WORD: usize = 8;
    let words = || {
        expected
            .chunks(WORD)
            .zip(found.chunks(WORD))
            .zip(before.chunks(WORD))
            .enumerate()
            .filter(|(_, ((expected, found), _))| expected != found)
    };
    let Some((index, ((wanted, wrong), _))) = words().next() else {
        return Verdict::Equal;
    };
    let within = wanted.iter().zip(wrong).position(|(a, b)| a != b);
    let offset = (index * WORD + within.unwrap_or(0)) as u64;

    if words().all(|(_, ((_, found), before))| found == before) {
        Verdict::Stale { offset }
    } else if words().all(|(_, ((_, found), _))| found.iter().all(|byte| *byte == 0xff)) {
        Verdict::AllOnes { offset }
    } else {
        Verdict::Garbage { offset }
    }
}

/// Moves data and judges it. Once `stop` is set nothing more is moved, but what was on the drive is
/// put back: by another process, if this one dies. To be called by a process with one thread, if
/// the drive may be written to. `fabric` is this machine: it tells which members an array has.
///
/// # Errors
///
/// Those of the drive without device memory, and of getting memory. What becomes of data that goes
/// through device memory is in the report.
pub fn run(
    drive: &Direct,
    via: &Via,
    plan: &Plan,
    fabric: Option<&Fabric>,
    stop: &AtomicBool,
) -> Result<Report> {
    let granule = drive.granule().max(8);
    ensure!(
        plan.bytes > 0 && plan.bytes % granule == 0 && plan.offset % granule == 0,
        "direct I/O is in multiples of {}: choose --size and --offset so",
        size::format(granule)
    );
    // A file must not grow.
    drive.check_range(Way::Read, plan.offset, plan.bytes)?;

    let length = usize::try_from(plan.bytes)?;
    let members = match fabric {
        Some(fabric) if plan.write => Members::of(drive.path(), fabric),
        None if plan.write => Err(anyhow!("this machine could not be looked at")),
        _ => Ok(None),
    };
    let (members, members_unknown) = match members {
        Ok(members) => (members, None),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    let mut trial = Trial {
        drive,
        members,
        members_unknown,
        plan,
        stop,
        host: Buffer::ordinary(length)?,
        random: fastrand::Rng::with_seed(plan.seed),
        slot_refused: false,
        checks: Vec::new(),
    };
    let original = trial.read_drive()?;
    let keeper = plan
        .write
        .then(|| {
            Keeper::new(|| {
                let _ = trial.write_drive(&original).and_then(|()| drive.sync());
            })
        })
        .transpose()
        .context("cannot make a process that puts back what the drive has")?;

    let result = trial.all(via);
    if let Some(keeper) = keeper {
        trial
            .write_drive(&original)
            .and_then(|()| drive.sync())
            .with_context(|| {
                format!(
                    "what {} had at {} was not put back, {} are lost",
                    drive.path().display(),
                    plan.offset,
                    size::format(plan.bytes)
                )
            })?;
        keeper.release()?;
    }
    let ended = result?;

    Ok(Report {
        offset: plan.offset,
        bytes: plan.bytes,
        seed: plan.seed,
        uniform: original.iter().all(|byte| *byte == original[0]),
        interrupted: ended == Ended::Early,
        slot_refused: trial.slot_refused,
        members_unknown: trial.members_unknown,
        checks: trial.checks,
    })
}

/// Whether all was done.
#[derive(PartialEq, Eq)]
enum Ended {
    Early,
    Complete,
}

/// Objects that all checks use.
struct Trial<'a> {
    drive: &'a Direct,
    /// Locations of copies of the data, if there are several.
    members: Option<Members>,
    members_unknown: Option<String>,
    plan: &'a Plan,
    stop: &'a AtomicBool,
    /// Ordinary memory, for data that is known to be right.
    host: Buffer,
    random: fastrand::Rng,
    slot_refused: bool,
    checks: Vec<Check>,
}

impl Trial<'_> {
    fn all(&mut self, via: &Via) -> Result<Ended> {
        let mut ways = vec![Io::Pread];
        if Io::best() == Io::Uring && via.registers()? {
            ways.push(Io::UringFixed);
        }
        for io in ways {
            let mut passage =
                match Passage::new(via, io, self.plan.bytes, 1, &via.room("--size", 1)) {
                    Err(error) if is_slot_refused(&error) => {
                        self.slot_refused = true;
                        continue;
                    }
                    result => result?,
                };
            let verdict = self.memory(&mut passage)?;
            self.note(Direction::Memory, io, Data::Random, verdict);
            if self.is_stopped() {
                return Ok(Ended::Early);
            }
            let bytes = self.read_drive()?;
            let verdict = self.read_direction(&mut passage, &bytes)?;
            self.note(Direction::Read, io, Data::Found, verdict);
            if !self.plan.write {
                continue;
            }
            for data in [Data::Zeroes, Data::Ones, Data::Address, Data::Random] {
                let bytes = self.make(data);
                if self.is_stopped() {
                    return Ok(Ended::Early);
                }
                self.write_drive(&bytes)?;
                let verdict = self.read_direction(&mut passage, &bytes)?;
                self.note(Direction::Read, io, data, verdict);
                if self.is_stopped() {
                    return Ok(Ended::Early);
                }
                let before = self.make(Data::Random);
                let verdict = self.write_direction(&mut passage, &bytes, &before)?;
                let refused = matches!(verdict, Verdict::Refused { .. });
                self.note(Direction::Write, io, data, verdict);
                self.read_members(io, data, &bytes, &before, refused);
            }
        }
        Ok(Ended::Complete)
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn note(&mut self, direction: Direction, io: Io, data: Data, verdict: Verdict) {
        self.checks.push(Check {
            direction,
            io,
            data,
            member: None,
            verdict,
        });
    }

    /// Reads what was written from each member of an array: the array itself returns what one of
    /// them has. If the array refused the data, members are of interest only if some have it.
    fn read_members(&mut self, io: Io, data: Data, expected: &[u8], before: &[u8], refused: bool) {
        let Some(members) = &self.members else {
            return;
        };
        match judge_members(members, self.plan.offset, expected, before) {
            Ok(verdicts) if refused && verdicts.iter().all(|(_, one)| *one != Verdict::Equal) => {}
            Ok(verdicts) => {
                self.checks
                    .extend(verdicts.into_iter().map(|(member, verdict)| Check {
                        direction: Direction::Write,
                        io,
                        data,
                        member: Some(member),
                        verdict,
                    }));
            }
            Err(error) => self.members_unknown = Some(format!("{error:#}")),
        }
    }

    fn make(&mut self, data: Data) -> Vec<u8> {
        let length = self.host.len();
        match data {
            Data::Zeroes => vec![0; length],
            Data::Ones => vec![0xff; length],
            Data::Address => (self.plan.offset..)
                .step_by(8)
                .take(length / 8)
                .flat_map(u64::to_le_bytes)
                .collect(),
            Data::Found | Data::Random => {
                let mut bytes = vec![0; length];
                self.random.fill(&mut bytes);
                bytes
            }
        }
    }

    /// The CPU writes the memory and reads it.
    fn memory(&mut self, passage: &mut Passage<'_>) -> Result<Verdict> {
        let bytes = self.make(Data::Random);
        let memory = passage.memory()?;
        let mut before = vec![0; bytes.len()];
        memory.load(0, &mut before);
        memory.store(0, &bytes);
        let mut found = vec![0; bytes.len()];
        memory.load(0, &mut found);
        Ok(judge(&bytes, &found, &before))
    }

    /// The drive, which has `expected`, writes to memory that has other data.
    fn read_direction(&mut self, passage: &mut Passage<'_>, expected: &[u8]) -> Result<Verdict> {
        let before = self.make(Data::Random);
        put(passage, &before)?;
        let length = before.len();
        if let Err(error) = passage.transfer(Way::Read, self.drive, self.plan.offset, 0, length) {
            return Ok(refused(&error));
        }
        let mut found = vec![0; length];
        passage.memory()?.load(0, &mut found);
        Ok(judge(expected, &found, &before))
    }

    /// The drive, which has other data, reads memory that has `expected`.
    fn write_direction(
        &mut self,
        passage: &mut Passage<'_>,
        expected: &[u8],
        before: &[u8],
    ) -> Result<Verdict> {
        self.write_drive(before)?;
        put(passage, expected)?;
        let length = before.len();
        if let Err(error) = passage.transfer(Way::Write, self.drive, self.plan.offset, 0, length) {
            return Ok(refused(&error));
        }
        let found = self.read_drive()?;
        Ok(judge(expected, &found, before))
    }

    /// Reads the drive through ordinary memory.
    fn read_drive(&mut self) -> Result<Vec<u8>> {
        let memory = self.host.as_mut_slice(self.plan.bytes as usize);
        self.drive.read(memory, self.plan.offset)?;
        Ok(memory.to_vec())
    }

    /// Writes the drive through ordinary memory.
    fn write_drive(&mut self, bytes: &[u8]) -> Result<()> {
        let memory = self.host.as_mut_slice(bytes.len());
        memory.copy_from_slice(bytes);
        self.drive.write(memory, self.plan.offset)
    }
}

/// Reads a range of a file from each drive that has a copy of a part of it, and judges what is
/// there: the range was to become `expected`, and was `before`. Returns a verdict for each drive.
fn judge_members(
    members: &Members,
    offset: u64,
    expected: &[u8],
    before: &[u8],
) -> Result<Vec<(String, Verdict)>> {
    let mut drives: BTreeMap<String, (Direct, Verdict)> = BTreeMap::new();
    for part in members.parts(offset, expected.len() as u64)? {
        let start = (part.offset - offset) as usize;
        let range = start..start + part.length as usize;
        let mut host = Buffer::ordinary(range.len())?;
        for member in part.members {
            if !drives.contains_key(&member.device) {
                let drive = Direct::source(&Path::new("/dev").join(&member.device))?;
                drives.insert(member.device.clone(), (drive, Verdict::Equal));
            }
            let (drive, verdict) = drives.get_mut(&member.device).context("a drive")?;
            let found = host.as_mut_slice(range.len());
            drive.read(found, member.offset)?;
            if *verdict == Verdict::Equal {
                let part = judge(&expected[range.clone()], found, &before[range.clone()]);
                *verdict = part.behind(start as u64);
            }
        }
    }
    let verdicts = drives.into_iter();
    Ok(verdicts
        .map(|(name, (_, verdict))| (name, verdict))
        .collect())
}

/// Writes memory by the CPU, and waits until it is there: writes are posted, a read comes after
/// them.
pub(crate) fn put(passage: &mut Passage<'_>, bytes: &[u8]) -> Result<()> {
    let memory = passage.memory()?;
    memory.store(0, bytes);
    memory.load(bytes.len() - 8, &mut [0; 8]);
    Ok(())
}

fn refused(error: &anyhow::Error) -> Verdict {
    Verdict::Refused {
        reason: format!("{error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        fastrand::Rng::with_seed(seed).fill(&mut bytes);
        bytes
    }

    #[test]
    fn what_arrived_is_equal() {
        assert_eq!(judge(&random(1), &random(1), &random(2)), Verdict::Equal);
        let ones = [0xff; 4096];
        assert_eq!(judge(&ones, &ones, &random(2)), Verdict::Equal);
    }

    #[test]
    fn what_did_not_arrive_is_stale() {
        let (data, before) = (random(1), random(2));
        assert_eq!(judge(&data, &before, &before), Verdict::Stale { offset: 0 });
        // Only a part did.
        let mut found = data.clone();
        found[512..1024].copy_from_slice(&before[512..1024]);
        assert_eq!(
            judge(&data, &found, &before),
            Verdict::Stale { offset: 512 }
        );
    }

    #[test]
    fn ones_are_seen() {
        let (data, before) = (random(1), random(2));
        let ones = vec![0xff; 4096];
        assert_eq!(judge(&data, &ones, &before), Verdict::AllOnes { offset: 0 });
        let mut found = data.clone();
        found[4088..].fill(0xff);
        let offset = 4088;
        assert_eq!(judge(&data, &found, &before), Verdict::AllOnes { offset });
    }

    #[test]
    fn garbage_is_seen_where_it_is() {
        let (data, before) = (random(1), random(2));
        assert_eq!(
            judge(&data, &random(3), &before),
            Verdict::Garbage { offset: 0 }
        );
        let mut found = data.clone();
        found[77] ^= 1;
        assert_eq!(
            judge(&data, &found, &before),
            Verdict::Garbage { offset: 77 }
        );
        // Ones here and old data there are neither.
        found[80..88].fill(0xff);
        found[88..96].copy_from_slice(&before[88..96]);
        assert_eq!(
            judge(&data, &found, &before),
            Verdict::Garbage { offset: 77 }
        );
        // Right data at another place.
        let mut moved = data.clone();
        moved.rotate_left(512);
        assert!(matches!(
            judge(&data, &moved, &before),
            Verdict::Garbage { .. }
        ));
    }

    #[test]
    fn each_direction_is_judged_for_itself() {
        let check = |direction, verdict| Check {
            direction,
            io: Io::Pread,
            data: Data::Random,
            member: None,
            verdict,
        };
        let report = Report {
            offset: 0,
            bytes: 4096,
            seed: 1,
            uniform: false,
            interrupted: false,
            slot_refused: false,
            members_unknown: None,
            checks: vec![
                check(Direction::Read, Verdict::Equal),
                check(Direction::Write, Verdict::Equal),
                check(Direction::Write, Verdict::Stale { offset: 8 }),
            ],
        };
        assert_eq!(report.works(Direction::Read), Some(true));
        assert_eq!(report.works(Direction::Write), Some(false));
        assert_eq!(report.works(Direction::Memory), None);
        let json = serde_json::to_string(report.failure().unwrap()).unwrap();
        assert_eq!(
            json,
            r#"{"direction":"write","io":"pread","data":"random","result":"stale","offset":8}"#
        );
    }
}
