// SPDX-License-Identifier: GPL-2.0

//! Binds devices to the driver, unbinds them, and changes the settings of the driver.
//!
//! All of it is a [`ChangePlan`]: files of sysfs, and what is to be written to each. It can be
//! printed as shell commands. If a step fails, those before it are undone. What can be known before
//! is checked before the driver of a device is unbound.

mod bind;
pub mod choices;
mod configure;
mod device;
mod in_use;
mod kernel_log;
mod memory;
mod openers;
mod plan;
mod registers;
#[cfg(test)]
mod tests;
mod unbind;

pub use bind::{bind, wait_for_node};
pub use configure::{check_adopted, configure, Settings};
pub use device::{Device, DRIVER, NO_DRIVER};
pub use plan::{ChangePlan, Step};
pub use unbind::{unbind, Unbind};
