// SPDX-License-Identifier: GPL-2.0

//! The clock of measurements.

use std::time::Duration;

use anyhow::Result;
use rustix::time::{clock_gettime, ClockId};

/// The clock of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Time.
    Time,
    /// Time that the processors spent for this process: waiting does not count.
    Processor,
}

impl Clock {
    /// Measures how long something takes that is done so often.
    pub fn measure(self, count: u32, mut once: impl FnMut() -> Result<()>) -> Result<Duration> {
        let started = self.now()?;
        for _ in 0..count {
            once()?;
        }
        Ok(self.now()? - started)
    }

    fn now(self) -> Result<Duration> {
        let id = match self {
            Self::Time => ClockId::Monotonic,
            Self::Processor => ClockId::ProcessCPUTime,
        };
        Ok(Duration::try_from(clock_gettime(id))?)
    }
}
