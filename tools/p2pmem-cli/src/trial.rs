// SPDX-License-Identifier: GPL-2.0

//! A small direct read into device memory: what the kernel and the drive really do with it.
//!
//! Nothing is written. The memory has other data before, and what arrives is compared with what a
//! read into ordinary memory returns.

use std::path::Path;

use anyhow::{Context, Result};
use p2pmem::{
    direct::{DirectFile, Direction},
    Buffer, Io, Memory,
};
use rustix::io::Errno;
use serde::Serialize;

use crate::{
    room::Room,
    verify::{judge, put, DataVerdict},
};

/// The most that is read, in bytes.
const LENGTH: u64 = 64 << 10;
/// How often data that changes is read again.
const ATTEMPTS: usize = 3;

/// Result of a read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trial {
    /// Offset of the read, in bytes.
    pub offset: u64,
    /// How much, in bytes.
    pub bytes: u64,
    /// Whether all bytes were the same, which proves less.
    pub uniform: bool,
    /// Result.
    pub outcome: Outcome,
}

/// Result of a read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// It was made.
    Read(DataVerdict),
    /// It could not be made.
    Untried(Untried),
}

/// Why a read could not be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename = "untried")]
pub struct Untried {
    /// Why, in a line.
    pub reason: String,
}

impl Outcome {
    fn untried(reason: impl Into<String>) -> Self {
        Self::Untried(Untried {
            reason: reason.into(),
        })
    }
}

impl Trial {
    /// Tries a file or block device with the memory of a provider.
    pub fn new(path: &Path, memory: &Memory) -> Self {
        let mut trial = Self {
            offset: 0,
            bytes: 0,
            uniform: false,
            outcome: Outcome::untried(""),
        };
        trial.outcome = match trial.read(path, memory) {
            Ok(outcome) => outcome,
            Err(error) => Outcome::untried(format!("{error:#}")),
        };
        trial
    }

    /// Reads. Errors are those of what is to be read without device memory, and of getting memory.
    fn read(&mut self, path: &Path, memory: &Memory) -> Result<Outcome> {
        if path.is_dir() {
            return Ok(Outcome::untried("it is a directory: name a file in it"));
        }
        let file = match DirectFile::source(path) {
            Ok(file) => file,
            // The file system has no direct I/O.
            Err(error) if error.errno() == Some(Errno::INVAL) => return Ok(refused(error.into())),
            Err(error) => return Err(error.into()),
        };
        // A hole is not on the drive.
        let Some(part) = file.data(0..file.length())?.into_iter().next() else {
            return Ok(Outcome::untried("it is empty, or has holes only"));
        };
        let granule = file.granule().max(512);
        self.offset = part.start;
        self.bytes = (part.end - part.start).min(LENGTH) / granule * granule;
        if self.bytes == 0 {
            let reason = format!("there is less to read than {granule} bytes");
            return Ok(Outcome::untried(reason));
        }

        let length = self.bytes as usize;
        let mut host = Buffer::ordinary(length)?;
        let mut staging = Room::new(memory, "", 1).staging(memory, Io::Pread, self.bytes, 1)?;
        for _ in 0..ATTEMPTS {
            let expected = ordinary(&file, &mut host, self.offset)?;
            self.uniform = expected.iter().all(|byte| *byte == expected[0]);
            let mut before = vec![0; length];
            fastrand::fill(&mut before);
            put(&mut staging, &before)?;
            if let Err(error) = staging.transfer(Direction::Read, &file, self.offset, 0, length) {
                return Ok(refused(error.into()));
            }
            let mut found = vec![0; length];
            staging.memory()?.load(0, &mut found);
            // Others may write.
            if ordinary(&file, &mut host, self.offset)? == expected {
                return Ok(Outcome::Read(judge(&expected, &found, &before)));
            }
        }
        Ok(Outcome::untried("its data changes all the time"))
    }
}

/// Reads into ordinary memory.
fn ordinary(file: &DirectFile, host: &mut Buffer, offset: u64) -> Result<Vec<u8>> {
    let length = host.len();
    let memory = host.as_mut_slice(length);
    file.read(memory, offset)
        .context("cannot be read into ordinary memory either")?;
    Ok(memory.to_vec())
}

fn refused(error: anyhow::Error) -> Outcome {
    Outcome::Read(DataVerdict::Refused {
        reason: format!("{error:#}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_not_tried() {
        for (path, reason) in [("/", "name a file in it"), ("/nonexistent", "/nonexistent")] {
            let trial = Trial::new(Path::new(path), &Memory::Host);
            let text = serde_json::to_string(&trial).unwrap();
            assert!(
                text.contains(r#""result":"untried""#) && text.contains(reason),
                "{text}"
            );
        }
    }
}
