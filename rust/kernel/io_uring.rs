// SPDX-License-Identifier: GPL-2.0

//! Asynchronous I/O.

pub mod cmd;
