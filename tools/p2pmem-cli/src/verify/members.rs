// SPDX-License-Identifier: GPL-2.0

//! Verdicts on the members of an array.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result};
use p2pmem::{direct::DirectFile, members::Members, Buffer};

use super::verdict::{judge, DataVerdict};

/// Reads a range of a file from each drive that has a copy of a part of it, and judges what is
/// there: the range was to become `expected`, and was `before`. Returns a verdict for each drive.
pub fn judge_members(
    members: &Members,
    offset: u64,
    expected: &[u8],
    before: &[u8],
) -> Result<Vec<(String, DataVerdict)>> {
    let mut drives: BTreeMap<String, (DirectFile, DataVerdict)> = BTreeMap::new();
    for part in members.parts(offset, expected.len() as u64)? {
        let start = (part.offset - offset) as usize;
        let range = start..start + part.length as usize;
        let mut host = Buffer::ordinary(range.len())?;
        for member in part.members {
            if !drives.contains_key(&member.device) {
                let drive = DirectFile::source(&Path::new("/dev").join(&member.device))?;
                drives.insert(member.device.clone(), (drive, DataVerdict::Equal));
            }
            let (drive, verdict) = drives.get_mut(&member.device).context("a drive")?;
            let found = host.as_mut_slice(range.len());
            drive.read(found, member.offset)?;
            if *verdict == DataVerdict::Equal {
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
