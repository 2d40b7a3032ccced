// SPDX-License-Identifier: GPL-2.0

//! The progress line.

use std::fmt;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use crate::{copy::CopyPlan, units};

/// Returns the progress line, if there is a terminal.
pub fn bar(plan: &CopyPlan, moved: u64) -> Result<ProgressBar> {
    let (bar, template) = if plan.duration.is_some() {
        (
            ProgressBar::no_length(),
            "{spinner} {bytes} {rate} {elapsed}",
        )
    } else {
        (
            ProgressBar::new(moved),
            "{wide_bar} {bytes}/{total_bytes} {rate} {eta}",
        )
    };
    let style = ProgressStyle::with_template(template)?.with_key("rate", rate);
    Ok(bar.with_style(style))
}

/// Writes the mean rate so far, as the summary has it.
fn rate(state: &ProgressState, text: &mut dyn fmt::Write) {
    let seconds = state.elapsed().as_secs_f64().max(1e-9);
    // The bar has no place for a failure.
    let _ = text.write_str(&units::rate(state.pos() as f64 / seconds));
}
