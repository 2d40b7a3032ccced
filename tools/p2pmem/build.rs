// SPDX-License-Identifier: GPL-2.0

//! Makes Rust of the C header that defines the interface of the driver.

use std::{env, path::PathBuf, process::Command};

fn main() {
    let top = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let header = top.join("include/uapi/linux/p2pmem.h");
    let output = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("abi.rs");

    println!("cargo::rerun-if-changed={}", header.display());

    let status = Command::new("bindgen")
        .arg(&header)
        .args(["--allowlist-file", ".*/include/uapi/linux/p2pmem\\.h"])
        .args(["--with-derive-default", "--no-layout-tests", "--use-core"])
        .arg("--output")
        .arg(&output)
        .status();

    match status {
        Ok(status) if status.success() => (),
        Ok(status) => panic!("bindgen cannot read {}: {status}", header.display()),
        Err(error) => panic!("bindgen cannot be run, install the package bindgen: {error}"),
    }
}
