// SPDX-License-Identifier: GPL-2.0

//! Draws the fabric, and lists who reaches whom.

mod render;
mod report;
mod translation;
mod tree;

pub use render::render;
pub use report::{Options, TopoReport};
pub use translation::translation;
