// SPDX-License-Identifier: GPL-2.0

//! Measures the cost of memory, by its kind and by size: allocation, registration with a ring,
//! access by the CPU, and transfers between it and a drive.
//!
//! All kinds of a comparison are measured in turn, round by round: what else the machine does at
//! that time disturbs all of them alike. The fastest round of each counts; how far the others are
//! from it is shown.

mod clock;
mod cpu;
mod drive;
mod fragment;
pub mod plot;
mod report;
mod request;
mod run;
mod setup;
mod subject;

pub use clock::Clock;
pub use fragment::fragment;
pub use report::{BenchReport, Row};
pub use request::BenchRequest;
pub use run::run;
pub use setup::Setup;
pub use subject::What;
