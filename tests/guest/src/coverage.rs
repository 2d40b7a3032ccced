// SPDX-License-Identifier: GPL-2.0

//! Collects counters of executed lines of the module. A module that was built for it (make
//! coverage) counts in its own memory, which /proc/kcore shows. The counts of all loads are added
//! up.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use object::{
    elf::FileHeader64, read::elf::FileHeader, read::elf::ProgramHeader, Endianness, Object,
    ObjectSection,
};

use rustix::io::Errno;

use crate::{guest::MODULE, kmod::TestFile};

const SECTIONS: &str = "/sys/module/p2pmem_rs/sections";
const COUNTERS: &str = "__llvm_prf_cnts";
const DATA: &str = "__llvm_prf_data";
/// Files for the host: see tests/coverage.
const COUNTERS_FILE: &str = "/tmp/coverage.cnts";
const DATA_FILE: &str = "/tmp/coverage.data";

/// Counters of the loaded module.
pub struct Counts {
    counters: Vec<u8>,
    data: Vec<u8>,
}

impl Counts {
    /// Reads the counters, if there is a module that counts.
    pub fn read() -> Result<Option<Self>> {
        if !Path::new(SECTIONS).join(COUNTERS).exists() {
            return Ok(None);
        }
        Ok(Some(Self {
            counters: section(COUNTERS)?,
            data: section(DATA)?,
        }))
    }

    /// Adds to what was counted before.
    pub fn add(mut self) -> Result<()> {
        if let Ok(before) = fs::read(COUNTERS_FILE) {
            for (new, old) in self
                .counters
                .chunks_exact_mut(8)
                .zip(before.chunks_exact(8))
            {
                let sum = u64::from_le_bytes(new.try_into()?) + u64::from_le_bytes(old.try_into()?);
                new.copy_from_slice(&sum.to_le_bytes());
            }
        }
        fs::write(COUNTERS_FILE, self.counters)?;
        Ok(fs::write(DATA_FILE, self.data)?)
    }
}

/// Unloads the module, and keeps what it counted until its own code had ended.
pub fn unload(unload: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
    const MILLISECONDS: u32 = 500;
    if !Path::new(SECTIONS).join(COUNTERS).exists() {
        return unload();
    }
    let test = TestFile::open().expect("the test module");
    let before = test.linger(MILLISECONDS).expect("it can linger");
    let over = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        let reader = scope.spawn(|| -> Result<()> {
            while test.linger(MILLISECONDS)? == before {
                if over.load(Ordering::Relaxed) {
                    return Ok(());
                }
                thread::sleep(Duration::from_millis(5));
            }
            // Under load the module may be gone already.
            Counts::read().map_or(Ok(()), |counts| counts.map_or(Ok(()), Counts::add))
        });
        let result = unload();
        over.store(true, Ordering::Relaxed);
        let read = reader.join().expect("no panic");
        read.expect("the counters can be kept");
        result
    });
    test.linger(0).expect("it need not linger");
    result
}

/// Reads a section of the loaded module.
fn section(name: &str) -> Result<Vec<u8>> {
    let module = fs::read(MODULE)?;
    let module = object::File::parse(&*module)?;
    let size = module
        .section_by_name(name)
        .context(name.to_owned())?
        .size();
    let text = fs::read_to_string(Path::new(SECTIONS).join(name))?;
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
