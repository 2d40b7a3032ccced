// SPDX-License-Identifier: GPL-2.0

//! Regions that the administrator specified for devices: `/sys/module/p2pmem_rs/regions`.
//!
//! A line that is written is about one device, see spec.rs. It counts from the next time the device
//! is bound on; a device that another driver has is looked at once more right away. Reading gives
//! all lines back.

use kernel::{
    device::Device,
    fmt,
    page::PAGE_SIZE,
    pci,
    prelude::*,
    str::CString,
    sync::{
        new_mutex,
        Arc,
        Mutex, //
    }, //
};

use kernel_ext::{
    module::Attribute,
    module_cell::ModuleCell, //
};

use super::spec::{
    self,
    RegionSpecs, //
};

/// As set since the module was loaded.
pub(crate) static CONFIG: ModuleCell<Config> = ModuleCell::new();

struct Entry {
    /// As the kernel names the device.
    device: CString,
    specs: RegionSpecs,
}

/// Lines that were written.
#[pin_data]
pub(crate) struct Config {
    #[pin]
    entries: Mutex<KVec<Entry>>,
}

/// Returns what the administrator wants of a device.
pub(crate) fn specs(pdev: &pci::Device) -> Option<RegionSpecs> {
    let device: &Device = pdev.as_ref();

    CONFIG.get()?.of(device.name())
}

impl Config {
    /// Creates one in which nothing is set.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                entries <- new_mutex!(KVec::new()),
            }),
            GFP_KERNEL,
        )
    }

    fn of(&self, device: &CStr) -> Option<RegionSpecs> {
        let entries = self.entries.lock();
        let entry = entries.iter().find(|entry| &*entry.device == device)?;

        Some(entry.specs)
    }

    /// Sets or forgets what is wanted of a device. `ENOSPC` if the file would become too long.
    fn set(&self, device: &CStr, specs: Option<RegionSpecs>) -> Result {
        let mut entries = self.entries.lock();
        let previous = match entries.iter().position(|entry| &*entry.device == device) {
            Some(place) => Some(entries.remove(place)?),
            None => None,
        };
        let Some(specs) = specs else {
            return Ok(());
        };

        let result = add(&mut entries, device, specs);
        if let (Err(_), Some(previous)) = (result, previous) {
            // There was room for it before.
            entries.push(previous, GFP_KERNEL)?;
        }

        result
    }
}

fn add(entries: &mut KVec<Entry>, device: &CStr, specs: RegionSpecs) -> Result {
    let device = CString::try_from_fmt(fmt!("{}", device))?;
    entries.push(Entry { device, specs }, GFP_KERNEL)?;

    let fits = text(entries).and_then(|text| match text.to_bytes().len() {
        PAGE_SIZE.. => Err(ENOSPC),
        _ => Ok(()),
    });
    if fits.is_err() {
        drop(entries.pop());
    }

    fits
}

/// Writes all entries as they may be set again.
fn text(entries: &[Entry]) -> Result<CString> {
    struct Lines<'a>(&'a [Entry]);

    impl fmt::Display for Lines<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            for entry in self.0 {
                f.write_fmt(fmt!("{} {}\n", &*entry.device, entry.specs))?;
            }

            Ok(())
        }
    }

    CString::try_from_fmt(fmt!("{}", Lines(entries)))
}

/// Looks once more at a device when its line changed.
pub(crate) trait Applier: Send + Sync {
    /// Applies what is set for the device of that name. May sleep.
    fn apply(&self, device: &CStr);
}

/// The file.
pub(crate) struct File<A> {
    config: Arc<Config>,
    applier: Option<A>,
}

impl<A> File<A> {
    /// Creates what is behind the file.
    pub(crate) fn new(config: Arc<Config>, applier: Option<A>) -> Self {
        Self { config, applier }
    }
}

impl<A: Applier + 'static> Attribute for File<A> {
    const NAME: &'static CStr = c"regions";

    fn show(&self) -> Result<CString> {
        text(&self.config.entries.lock())
    }

    fn store(&self, line: &str) -> Result {
        let (address, specs) = spec::parse(line).map_err(|error| {
            pr_err!("regions: {}\n", error);
            EINVAL
        })?;
        let device = CString::try_from_fmt(fmt!("{}", address))?;
        self.config.set(&device, specs).inspect_err(|&error| {
            if error == ENOSPC {
                pr_err!("regions: no room for more: write a device and default to forget it\n");
            }
        })?;

        if let Some(applier) = &self.applier {
            applier.apply(&device);
        }

        Ok(())
    }
}
