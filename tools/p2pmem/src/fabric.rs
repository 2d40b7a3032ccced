// SPDX-License-Identifier: GPL-2.0

//! The PCIe fabric of a machine: functions, ports, drives, providers, and who reaches whom.
//!
//! A [`Fabric`] is read from sysfs by any user, written as JSON, and read back on any machine.
//! [`verdicts`](Fabric::verdicts) says which device reaches the memory of which provider, and why
//! not.

mod acs;
mod block_device;
mod file_system;
mod function;
mod installation;
mod obstacle;
mod read;
mod record;
mod routes;
mod stack;
mod target;
mod translation;
mod verdict;

pub use acs::{Acs, Redirection};
pub use block_device::{BlockDevice, BlockKind};
pub use file_system::DirectIo;
pub use function::{Bar, Function, Iommu, Link, Port};
pub use installation::{Installation, ModuleFile};
pub use obstacle::{Obstacle, ObstacleKind, Prospect};
pub use record::{Cpu, Fabric, Kernel, Mount, ProviderRecord, VERSION};
pub use routes::{Route, RouteKind};
pub use stack::{Handling, Stack};
pub use target::Target;
pub use translation::Translation;
pub use verdict::{Reach, Verdict};
