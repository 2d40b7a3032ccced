// SPDX-License-Identifier: GPL-2.0

//! The result of `p2pmem copy`.

use std::path::PathBuf;

use p2pmem::{size, Io, PciAddress};
use serde::Serialize;

use crate::{copy::Summary, units};

/// Output of `--json`.
#[derive(Serialize)]
pub struct Copied {
    /// The rest of it.
    #[serde(flatten)]
    pub summary: Summary,
    /// Bytes of a chunk.
    pub chunk: u64,
    /// Number of threads.
    pub threads: u32,
    /// Number of chunks that each thread had in flight.
    pub depth: u32,
    /// Interface for I/O.
    pub io: Io,
    /// The node of the provider, or `host`.
    pub via: PathBuf,
    /// The PCI address of its device. Null for ordinary memory.
    pub pci: Option<PciAddress>,
    pub source: PathBuf,
    /// Offset in the source, in bytes.
    pub source_offset: u64,
    pub destination: PathBuf,
    /// Offset in the destination, in bytes.
    pub destination_offset: u64,
    /// Seed of random data. Null if none was requested.
    pub seed: Option<u64>,
    /// Whether both are equal. Null where no check was asked for, it was not made, or it proves
    /// nothing.
    pub verified: Option<bool>,
    /// Whether all bytes that were compared are the same, which proves nothing. Null where nothing
    /// was compared.
    pub uniform: Option<bool>,
    /// Drives of which only `p2pmem verify` shows whether data arrives: an IOMMU translates.
    pub unproven: Vec<String>,
    /// Bytes that were requested.
    #[serde(skip)]
    pub planned: u64,
    /// Whether it begins again at the start.
    #[serde(skip)]
    pub begins_again: bool,
    /// Whether all of the source was asked for.
    #[serde(skip)]
    pub is_all: bool,
}

/// Says how far a copy came that ended early, and how to go on. Empty if nothing arrived.
pub fn onward(copied: &Copied) -> String {
    match (copied.summary.stopped_at, copied.summary.bytes) {
        // A check comes after all of it.
        _ if copied.verified.is_some() => String::new(),
        (Some(0), _) | (None, 0) => String::new(),
        (Some(bytes), _) => format!(
            "{} arrived, continue with --source-offset {} --destination-offset {} --size {}",
            size::format(bytes),
            copied.source_offset + bytes,
            copied.destination_offset + bytes,
            copied.planned.saturating_sub(bytes)
        ),
        (None, bytes) if copied.begins_again => format!("{} arrived in all", size::format(bytes)),
        (None, _) => String::new(),
    }
}

/// Returns the line of the summary.
pub fn text(copied: &Copied) -> String {
    let summary = &copied.summary;
    let mut text = format!(
        "{} in {}, {}",
        size::format(summary.bytes - summary.holes),
        units::time(summary.seconds),
        units::rate(summary.bytes_per_second)
    );
    if summary.holes > 0 {
        text += &format!(", and {} of holes", size::format(summary.holes));
    }
    if copied.is_all && summary.tail > 0 && !summary.interrupted {
        text += &format!(
            ", {} keeps its last {}",
            copied.destination.display(),
            size::format(summary.tail)
        );
    }
    if copied.verified.is_some() {
        text += ", both compared equal";
    }
    if copied.uniform == Some(true) {
        text +=
            ", both have the same byte all over, which proves nothing: use --fill or p2pmem verify";
    }
    if let Some(seed) = copied.seed {
        text += &format!(", seed {seed}");
    }
    match (summary.interrupted, onward(copied)) {
        (true, onward) if onward.is_empty() => text += ", interrupted",
        (true, onward) => text += &format!(", interrupted: {onward}"),
        (false, _) => (),
    }
    text + "\n"
}
