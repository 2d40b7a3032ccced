// SPDX-License-Identifier: GPL-2.0

//! Checks what peer-to-peer DMA needs: kernel, module, providers, ports, drives, files.
//!
//! All checks are made on a [`Fabric`], so that they can be made for a recorded machine as well.

mod check;
mod configuration;
mod drives;
mod errno;
mod examine;
mod installation;
mod isolation;
mod memory;
mod paths;
mod providers;
mod software;
mod translation;
mod tried;
mod ways;

pub use check::{count, render, Check, Status};
pub use configuration::configuration;
pub use errno::{explain, Explanation};
pub use examine::examine;
pub use tried::{tried, Tried};
