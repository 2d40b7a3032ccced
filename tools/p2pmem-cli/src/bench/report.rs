// SPDX-License-Identifier: GPL-2.0

//! Results of measurements.

use serde::{Deserialize, Serialize};

use super::{
    setup::Setup,
    subject::{Kind, What},
};

/// A measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The operation.
    pub what: What,
    /// The kind of memory.
    pub kind: Kind,
    /// Bytes of each.
    pub size: u64,
    /// Number of requests that each thread had in flight.
    pub depth: u32,
    /// Number of threads that ran in parallel.
    pub threads: u32,
    /// Time of an operation, by rounds.
    pub seconds: Spread,
    /// Bytes of all threads, divided by the time of the fastest round.
    pub bytes_per_second: f64,
    /// The kind of memory that the ratio refers to.
    pub baseline: Kind,
    /// The time of the fastest round, divided by that of the baseline in the same comparison.
    pub ratio: f64,
}

/// Times of the rounds, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The fastest.
    pub min: f64,
    /// The one in the middle, or the mean of the two there.
    pub median: f64,
    /// The slowest.
    pub max: f64,
}

impl Spread {
    /// Returns that of some rounds, or nothing for none.
    pub fn new(mut rounds: Vec<f64>) -> Option<Self> {
        rounds.sort_by(f64::total_cmp);
        let middle = rounds.get((rounds.len().max(1) - 1) / 2..=rounds.len() / 2)?;
        Some(Self {
            min: *rounds.first()?,
            median: middle.iter().sum::<f64>() / middle.len() as f64,
            max: *rounds.last()?,
        })
    }
}

/// Results of all measurements.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BenchReport {
    /// The machine and the devices.
    pub setup: Setup,
    /// The measurements.
    pub rows: Vec<Row>,
    /// Measurements that were not possible, with their reasons.
    pub notes: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_have_a_spread() {
        for (rounds, min, median, max) in [
            (&[3.0][..], 3.0, 3.0, 3.0),
            (&[4.0, 1.0], 1.0, 2.5, 4.0),
            (&[9.0, 1.0, 2.0], 1.0, 2.0, 9.0),
            (&[9.0, 1.0, 2.0, 4.0], 1.0, 3.0, 9.0),
        ] {
            let spread = Spread { min, median, max };
            assert_eq!(Spread::new(rounds.to_vec()), Some(spread));
        }
        assert_eq!(Spread::new(Vec::new()), None);
    }
}
