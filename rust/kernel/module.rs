// SPDX-License-Identifier: GPL-2.0

//! Files of a module: `/sys/module/NAME/`.
//!
//! C header: [`include/linux/module.h`](srctree/include/linux/module.h)

use kernel::{
    error::to_result,
    prelude::*,
    str::{
        CStr,
        CString, //
    },
    sync::static_lock_class,
    types::Opaque, //
};

use crate::{
    bindings,
    sysfs, //
};

use core::{
    mem,
    ptr, //
};

/// What is behind a file.
///
/// The methods are called by several processes at once, and may sleep.
pub trait Attribute: Send + Sync + 'static {
    /// Name of the file.
    const NAME: &'static CStr;

    /// Returns what a process reads, less than a page.
    fn show(&self) -> Result<CString>;

    /// Takes what a process wrote, less than a page.
    fn store(&self, text: &str) -> Result;
}

/// A file that is there for as long as this lives, readable for all and writable for root.
///
/// # Invariants
///
/// `attribute` is a file of `module`, which is loaded.
#[pin_data(PinnedDrop)]
pub struct AttributeFile<T: Attribute> {
    data: T,
    module: &'static ThisModule,
    #[pin]
    attribute: Opaque<bindings::module_attribute>,
}

// SAFETY: The file can be removed by any thread, and the data is `Send`.
unsafe impl<T: Attribute> Send for AttributeFile<T> {}
// SAFETY: Nothing can be done with a shared reference.
unsafe impl<T: Attribute> Sync for AttributeFile<T> {}

impl<T: Attribute> AttributeFile<T> {
    /// Creates the file.
    ///
    /// `ENODEV` if the module is built into the kernel, and has no directory.
    pub fn new(module: &'static ThisModule, data: T) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            data,
            module,
            attribute <- Opaque::try_ffi_init(|slot: *mut bindings::module_attribute| {
                let kobj = kobject(module).ok_or(ENODEV)?;
                // SAFETY: All zeroes is a valid attribute: one without a name and methods.
                let mut attribute: bindings::module_attribute = unsafe { mem::zeroed() };

                attribute.attr.name = T::NAME.as_char_ptr();
                attribute.attr.mode = 0o644;
                attribute.show = Some(Self::show);
                attribute.store = Some(Self::store);
                // Files of a module are a lock class of their own: what is written to one may remove files of devices.
                let class = static_lock_class!().as_ptr();
                // SAFETY: `slot` is valid for writing, and then initialised.
                unsafe {
                    slot.write(attribute);
                    bindings::sysfs_attr_init_class(&raw mut (*slot).attr, class.cast());
                }

                // SAFETY: The kobject is that of a module that is loaded. The attribute is
                // initialised, and pinned until it is removed when `Self` is dropped. The data was
                // initialised before.
                to_result(unsafe {
                    bindings::sysfs_create_file_ns(kobj, &raw const (*slot).attr, ptr::null())
                })
            }),
        })
    }

    /// # Safety
    ///
    /// `attribute` must be part of an `AttributeFile<T>` whose file exists.
    unsafe fn data<'a>(attribute: *const bindings::module_attribute) -> &'a T {
        // SAFETY: By the safety requirements. The file is removed before the data is dropped, and
        // that waits for calls.
        unsafe {
            let file = kernel::container_of!(Opaque::cast_from(attribute), Self, attribute);
            &(*file).data
        }
    }

    /// # Safety
    ///
    /// As [`Self::data`]; `page` must be valid for writing a page.
    unsafe extern "C" fn show(
        attribute: *const bindings::module_attribute,
        _module: *mut bindings::module_kobject,
        page: *mut c_char,
    ) -> isize {
        // SAFETY: By the safety requirements.
        let data = unsafe { Self::data(attribute) };

        // SAFETY: By the safety requirements.
        unsafe { sysfs::show(page, || data.show()) }
    }

    /// # Safety
    ///
    /// As [`Self::data`]; `text` must be valid for reading `size` bytes.
    unsafe extern "C" fn store(
        attribute: *const bindings::module_attribute,
        _module: *mut bindings::module_kobject,
        text: *const c_char,
        size: usize,
    ) -> isize {
        // SAFETY: By the safety requirements.
        let data = unsafe { Self::data(attribute) };
        // SAFETY: By the safety requirements.
        unsafe { sysfs::store(text, size, |text| data.store(text)) }
    }
}

#[pinned_drop]
impl<T: Attribute> PinnedDrop for AttributeFile<T> {
    fn drop(self: Pin<&mut Self>) {
        let Some(kobj) = kobject(self.module) else {
            return;
        };

        // Waits for calls that are under way.
        //
        // SAFETY: By the type invariants, the file exists.
        unsafe {
            bindings::sysfs_remove_file_ns(
                kobj,
                &raw const (*self.attribute.get()).attr,
                ptr::null(),
            )
        };
    }
}

/// Returns the directory of a module, unless that is built in.
fn kobject(module: &ThisModule) -> Option<*mut bindings::kobject> {
    let module = module.as_ptr();

    // SAFETY: A module that is not built in is valid for as long as it is loaded.
    (!module.is_null()).then(|| unsafe { &raw mut (*module).mkobj.kobj })
}
