// SPDX-License-Identifier: GPL-2.0

//! Collects counters of executed lines of modules. A module that was built for it (make coverage)
//! counts in its own memory, which /proc/kcore shows. The counts of all loads are added up.

use std::{
    ffi::CStr,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use object::{
    elf::FileHeader64, read::elf::FileHeader, read::elf::ProgramHeader, Endianness, Object,
    ObjectSection,
};

use rustix::{fs::OFlags, io::Errno};

use crate::kmod::TestFile;

const COUNTERS: &str = "__llvm_prf_cnts";
const DATA: &str = "__llvm_prf_data";

/// Returns the directory with the addresses of the sections of a loaded module.
fn sections(module: &str) -> PathBuf {
    format!("/sys/module/{module}/sections").into()
}

/// Adds the counters of a loaded module to what was counted before, if it counts: in files for the
/// host, see tests/coverage.
pub fn keep(module: &str) -> Result<()> {
    if !sections(module).join(COUNTERS).exists() {
        return Ok(());
    }
    let mut counters = section(module, COUNTERS)?;
    let file = format!("/tmp/coverage.{module}.cnts");
    if let Ok(before) = fs::read(&file) {
        for (new, old) in counters.chunks_exact_mut(8).zip(before.chunks_exact(8)) {
            let sum = u64::from_le_bytes(new.try_into()?) + u64::from_le_bytes(old.try_into()?);
            new.copy_from_slice(&sum.to_le_bytes());
        }
    }
    fs::write(file, counters)?;
    let data = section(module, DATA)?;
    Ok(fs::write(format!("/tmp/coverage.{module}.data"), data)?)
}

/// Unloads a module, and keeps what it counted until its own code had ended. Does not wait for
/// users of the module.
pub fn unload(name: &CStr) -> Result<(), Errno> {
    const MILLISECONDS: u32 = 60_000;
    let unload = || rustix::system::delete_module(name, OFlags::NONBLOCK.bits() as i32);
    let module = name.to_str().expect("a name");
    if !sections(module).join(COUNTERS).exists() {
        return unload();
    }
    let test = TestFile::open().expect("the test module");
    let before = test.linger(MILLISECONDS).expect("it can linger");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| -> Result<()> {
            while test.linger(MILLISECONDS)? == before {
                if over.load(Ordering::Relaxed) {
                    return Ok(());
                }
                thread::sleep(Duration::from_millis(5));
            }
            let kept = keep(module);
            // Now the module can go.
            test.linger(0)?;
            kept
        });
        let result = unload();
        over.store(true, Ordering::Relaxed);
        let read = reader.join().expect("no panic");
        read.expect("the counters can be kept");
        test.linger(0).expect("it need not linger");
        result
    })
}

/// Reads a section of the loaded module.
fn section(module: &str, name: &str) -> Result<Vec<u8>> {
    let file = fs::read(format!("/modules/{module}.ko"))?;
    let size = object::File::parse(&*file)?
        .section_by_name(name)
        .context(name.to_owned())?
        .size();
    let text = fs::read_to_string(sections(module).join(name))?;
    let address = u64::from_str_radix(text.trim().trim_start_matches("0x"), 16)?;

    let core = File::open("/proc/kcore")?;
    let mut head = vec![0; 1 << 16];
    let length = core.read_at(&mut head, 0)?;
    head.truncate(length);
    let header = FileHeader64::<Endianness>::parse(&*head)?;
    let endian = header.endian()?;
    let offset = header
        .program_headers(endian, &*head)?
        .iter()
        .find_map(|segment| {
            let within = address.checked_sub(segment.p_vaddr(endian))?;
            (within + size <= segment.p_memsz(endian)).then(|| segment.p_offset(endian) + within)
        })
        .context("/proc/kcore does not show modules")?;
    let mut bytes = vec![0; size as usize];
    core.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}
