// SPDX-License-Identifier: GPL-2.0

//! Runs verifications.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{anyhow, ensure, Context, Error, Result};
use p2pmem::{
    direct::{DirectFile, Direction},
    fabric::Fabric,
    members::Members,
    size, Buffer, Io, Memory, StagingBuffer, StagingError,
};

use super::{
    members::judge_members,
    put::put,
    report::{Data, VerifyCheck, VerifyDirection, VerifyReport},
    verdict::{judge, DataVerdict},
};
use crate::{
    direct_io::check_range,
    restore_guard::RestoreGuard,
    room::{is_slot_refused, Room},
};

/// Subject of a verification. Sizes and offsets are in bytes.
#[derive(Clone, Debug)]
pub struct VerifyPlan {
    /// Offset on the drive.
    pub offset: u64,
    /// How much.
    pub bytes: u64,
    /// Whether the drive may be written to. What was there is put back.
    pub write: bool,
    /// Start of the random data.
    pub seed: u64,
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
    drive: &DirectFile,
    memory: &Memory,
    plan: &VerifyPlan,
    fabric: Option<&Fabric>,
    stop: &AtomicBool,
) -> Result<VerifyReport> {
    let granule = drive.granule().max(8);
    ensure!(
        plan.bytes > 0 && plan.bytes % granule == 0 && plan.offset % granule == 0,
        "direct I/O is in multiples of {}: choose --size and --offset so",
        size::format(granule)
    );
    // A file must not grow.
    check_range(drive, Direction::Read, plan.offset, plan.bytes)?;

    let length = usize::try_from(plan.bytes)?;
    let members = match fabric {
        Some(fabric) if plan.write => Members::of(drive.path(), fabric).map_err(Error::new),
        None if plan.write => Err(anyhow!("this machine could not be looked at")),
        _ => Ok(None),
    };
    let (members, members_unknown) = match members {
        Ok(members) => (members, None),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    let mut verification = Verification {
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
    let original = verification.read_drive()?;
    let guard = plan
        .write
        .then(|| {
            RestoreGuard::new(|| {
                let _ = verification
                    .write_drive(&original)
                    .and_then(|()| Ok(drive.sync()?));
            })
        })
        .transpose()
        .context("cannot make a process that puts back what the drive has")?;

    let result = verification.all(memory);
    if let Some(guard) = guard {
        verification
            .write_drive(&original)
            .and_then(|()| Ok(drive.sync()?))
            .with_context(|| {
                format!(
                    "what {} had at {} was not put back, {} are lost",
                    drive.path().display(),
                    plan.offset,
                    size::format(plan.bytes)
                )
            })?;
        guard.release()?;
    }
    let ended = result?;

    Ok(VerifyReport {
        offset: plan.offset,
        bytes: plan.bytes,
        seed: plan.seed,
        uniform: original.iter().all(|byte| *byte == original[0]),
        interrupted: ended == Ended::Early,
        slot_refused: verification.slot_refused,
        members_unknown: verification.members_unknown,
        checks: verification.checks,
    })
}

/// Whether all was done.
#[derive(PartialEq, Eq)]
enum Ended {
    Early,
    Complete,
}

/// Objects that all checks use.
struct Verification<'a> {
    drive: &'a DirectFile,
    /// Locations of copies of the data, if there are several.
    members: Option<Members>,
    members_unknown: Option<String>,
    plan: &'a VerifyPlan,
    stop: &'a AtomicBool,
    /// Ordinary memory, for data that is known to be right.
    host: Buffer,
    random: fastrand::Rng,
    slot_refused: bool,
    checks: Vec<VerifyCheck>,
}

impl Verification<'_> {
    fn all(&mut self, memory: &Memory) -> Result<Ended> {
        let mut ways = vec![Io::Pread];
        if Io::best() == Io::Uring && memory.registers()? {
            ways.push(Io::UringFixed);
        }
        let room = Room::new(memory, "--size", 1);
        for io in ways {
            let mut staging = match room.staging(memory, io, self.plan.bytes, 1) {
                Err(error) if is_slot_refused(&error) => {
                    self.slot_refused = true;
                    continue;
                }
                result => result?,
            };
            let verdict = self.memory(&mut staging)?;
            self.note(VerifyDirection::Memory, io, Data::Random, verdict);
            if self.is_stopped() {
                return Ok(Ended::Early);
            }
            let bytes = self.read_drive()?;
            let verdict = self.read_direction(&mut staging, &bytes)?;
            self.note(VerifyDirection::Read, io, Data::Found, verdict);
            if !self.plan.write {
                continue;
            }
            for data in [Data::Zeroes, Data::Ones, Data::Address, Data::Random] {
                let bytes = self.make(data);
                if self.is_stopped() {
                    return Ok(Ended::Early);
                }
                self.write_drive(&bytes)?;
                let verdict = self.read_direction(&mut staging, &bytes)?;
                self.note(VerifyDirection::Read, io, data, verdict);
                if self.is_stopped() {
                    return Ok(Ended::Early);
                }
                let before = self.make(Data::Random);
                let verdict = self.write_direction(&mut staging, &bytes, &before)?;
                let refused = matches!(verdict, DataVerdict::Refused { .. });
                self.note(VerifyDirection::Write, io, data, verdict);
                self.read_members(io, data, &bytes, &before, refused);
            }
        }
        Ok(Ended::Complete)
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn note(&mut self, direction: VerifyDirection, io: Io, data: Data, verdict: DataVerdict) {
        self.checks.push(VerifyCheck {
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
            Ok(verdicts)
                if refused && verdicts.iter().all(|(_, one)| *one != DataVerdict::Equal) => {}
            Ok(verdicts) => {
                self.checks
                    .extend(verdicts.into_iter().map(|(member, verdict)| VerifyCheck {
                        direction: VerifyDirection::Write,
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
    fn memory(&mut self, staging: &mut StagingBuffer<'_>) -> Result<DataVerdict> {
        let bytes = self.make(Data::Random);
        let memory = staging.memory()?;
        let mut before = vec![0; bytes.len()];
        memory.load(0, &mut before);
        memory.store(0, &bytes);
        let mut found = vec![0; bytes.len()];
        memory.load(0, &mut found);
        Ok(judge(&bytes, &found, &before))
    }

    /// The drive, which has `expected`, writes to memory that has other data.
    fn read_direction(
        &mut self,
        staging: &mut StagingBuffer<'_>,
        expected: &[u8],
    ) -> Result<DataVerdict> {
        let before = self.make(Data::Random);
        put(staging, &before)?;
        let length = before.len();
        if let Err(error) =
            staging.transfer(Direction::Read, self.drive, self.plan.offset, 0, length)
        {
            return Ok(refused(error));
        }
        let mut found = vec![0; length];
        staging.memory()?.load(0, &mut found);
        Ok(judge(expected, &found, &before))
    }

    /// The drive, which has other data, reads memory that has `expected`.
    fn write_direction(
        &mut self,
        staging: &mut StagingBuffer<'_>,
        expected: &[u8],
        before: &[u8],
    ) -> Result<DataVerdict> {
        self.write_drive(before)?;
        put(staging, expected)?;
        let length = before.len();
        if let Err(error) =
            staging.transfer(Direction::Write, self.drive, self.plan.offset, 0, length)
        {
            return Ok(refused(error));
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
        Ok(self.drive.write(memory, self.plan.offset)?)
    }
}

fn refused(error: StagingError) -> DataVerdict {
    DataVerdict::Refused {
        reason: format!("{:#}", anyhow::Error::new(error)),
    }
}
