// SPDX-License-Identifier: GPL-2.0

//! Compares the configuration with the devices.

use std::path::Path;

use p2pmem::Root;

use super::check::{Check, Status};
use crate::{
    apply::{self, Groups},
    manage,
};

/// Checks that all devices are as their lines say. Nothing without lines.
pub fn configuration(root: &Root, folder: &Path) -> Option<Check> {
    const NAME: &str = "configuration";
    let groups = Groups::read();
    let (lines, mistakes) = apply::read(folder, &groups);
    if lines.is_empty() && mistakes.is_empty() {
        return None;
    }
    if mistakes.is_empty() && !manage::choices::path(root).exists() {
        return Some(Check::new(NAME, Status::Unknown, "p2pmem_rs is not loaded"));
    }
    let mut wrong: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    let mut differs = Vec::new();
    match apply::pair(root, &lines) {
        Ok(pairing) => {
            wrong.extend(pairing.mistakes.iter().map(ToString::to_string));
            for (device, line) in &pairing.pairs {
                match apply::apply(root, device, line, &groups, true) {
                    Ok(found) => differs.extend(found.iter().map(|one| {
                        format!(
                            "{} of {} is {}, not {}",
                            one.name, device.pci, one.from, one.to
                        )
                    })),
                    Err(error) => wrong.push(format!("{}: {error:#}", line.place)),
                }
            }
        }
        Err(error) => wrong.push(format!("{error:#}")),
    }

    Some(if !wrong.is_empty() {
        Check::new(NAME, Status::Problem, wrong.join("; ")).cured_by(format!(
            "Correct the files in {}, see p2pmem-apply(1).",
            folder.display()
        ))
    } else if !differs.is_empty() {
        Check::new(NAME, Status::Warning, differs.join("; ")).cured_by("p2pmem apply")
    } else {
        let found = match lines.len() {
            1 => "one line, and nothing differs".to_owned(),
            count => format!("{count} lines, and nothing differs"),
        };
        Check::new(NAME, Status::Ok, found)
    })
}
