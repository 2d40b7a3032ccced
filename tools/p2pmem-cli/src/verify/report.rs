// SPDX-License-Identifier: GPL-2.0

//! Reports of verifications.

use p2pmem::Io;
use serde::Serialize;

use super::verdict::DataVerdict;

/// Result.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyReport {
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
    pub checks: Vec<VerifyCheck>,
}

impl VerifyReport {
    /// Returns whether a direction works. Nothing if it was not tried.
    pub fn works(&self, direction: VerifyDirection) -> Option<bool> {
        let mut checks = self
            .checks
            .iter()
            .filter(|check| check.direction == direction)
            .peekable();
        checks.peek()?;
        Some(checks.all(|check| check.verdict == DataVerdict::Equal))
    }

    /// Returns the first check that failed.
    pub fn failure(&self) -> Option<&VerifyCheck> {
        self.checks
            .iter()
            .find(|check| check.verdict != DataVerdict::Equal)
    }
}

/// A transfer, and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyCheck {
    /// Which way the data went.
    pub direction: VerifyDirection,
    /// How I/O was asked for.
    pub io: Io,
    /// State of the data.
    pub data: Data,
    /// The drive that was read back, where an array has several copies of the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// Result.
    #[serde(flatten)]
    pub verdict: DataVerdict,
}

impl VerifyCheck {
    /// Returns whether there is other data than expected, without an error.
    pub fn is_wrong(&self) -> bool {
        !matches!(
            self.verdict,
            DataVerdict::Equal | DataVerdict::Refused { .. }
        )
    }
}

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyDirection {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_direction_is_judged_for_itself() {
        let check = |direction, verdict| VerifyCheck {
            direction,
            io: Io::Pread,
            data: Data::Random,
            member: None,
            verdict,
        };
        let report = VerifyReport {
            offset: 0,
            bytes: 4096,
            seed: 1,
            uniform: false,
            interrupted: false,
            slot_refused: false,
            members_unknown: None,
            checks: vec![
                check(VerifyDirection::Read, DataVerdict::Equal),
                check(VerifyDirection::Write, DataVerdict::Equal),
                check(VerifyDirection::Write, DataVerdict::Stale { offset: 8 }),
            ],
        };
        assert_eq!(report.works(VerifyDirection::Read), Some(true));
        assert_eq!(report.works(VerifyDirection::Write), Some(false));
        assert_eq!(report.works(VerifyDirection::Memory), None);
        let json = serde_json::to_string(report.failure().unwrap()).unwrap();
        assert_eq!(
            json,
            r#"{"direction":"write","io":"pread","data":"random","result":"stale","offset":8}"#
        );
    }
}
