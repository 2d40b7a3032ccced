// SPDX-License-Identifier: GPL-2.0

//! Output into a file that another program reads.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::terminal;

/// Replaces a file, or prints the text if there is none.
pub fn replace_or_print(file: Option<&Path>, text: &str) -> Result<()> {
    match file {
        Some(file) => replace(file, text),
        None => terminal::print(text),
    }
}

/// Writes a file. Readers see all of the old text, or all of the new one.
pub fn replace(file: &Path, text: &str) -> Result<()> {
    let new = file.with_extension(format!("new.{}", std::process::id()));
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, file))
        .inspect_err(|_| drop(fs::remove_file(&new)))
        .with_context(|| {
            format!(
                "cannot write {}: choose a folder that is there",
                file.display()
            )
        })
}
