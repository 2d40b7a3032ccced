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

/// Data and functions of a file.
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
                // Files of a module are a lock class of their own: what is written to one may
                // remove files of devices.
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

/// A parameter of a module, for [`ParameterFiles`].
pub struct Parameter {
    /// Name of the file.
    pub name: &'static CStr,
    /// Returns the value. Several processes may call it at once.
    pub value: fn() -> u8,
}

/// A file of [`ParameterFiles`].
struct ParameterFile {
    attribute: bindings::module_attribute,
    value: fn() -> u8,
}

/// Files with the values of parameters: `/sys/module/NAME/parameters/`. They are there for as long
/// as this lives, and all can read them. [`module!`](kernel::module) makes none.
///
/// # Invariants
///
/// `module` is loaded, and has the files of `group`, which refers to `_attributes`. These are the
/// attributes of `_files`, and a null pointer.
pub struct ParameterFiles {
    module: &'static ThisModule,
    group: KBox<bindings::attribute_group>,
    _attributes: KVec<*mut bindings::attribute>,
    _files: KVec<ParameterFile>,
}

// SAFETY: The files can be removed by any thread. Nothing else is done with what pointers refer to.
unsafe impl Send for ParameterFiles {}
// SAFETY: Nothing can be done with a shared reference.
unsafe impl Sync for ParameterFiles {}

impl ParameterFiles {
    /// Creates the files.
    ///
    /// `ENODEV` if the module is built into the kernel, and has no directory. `EEXIST` if there are
    /// these files already.
    pub fn new(module: &'static ThisModule, parameters: &[Parameter]) -> Result<Self> {
        let kobj = kobject(module).ok_or(ENODEV)?;
        let mut files = KVec::with_capacity(parameters.len(), GFP_KERNEL)?;
        let mut attributes = KVec::with_capacity(parameters.len() + 1, GFP_KERNEL)?;

        for parameter in parameters {
            // SAFETY: All zeroes is a valid attribute: one without a name and methods.
            let mut attribute: bindings::module_attribute = unsafe { mem::zeroed() };

            attribute.attr.name = parameter.name.as_char_ptr();
            attribute.attr.mode = 0o444;
            attribute.show = Some(Self::show);
            let value = parameter.value;
            files.push(ParameterFile { attribute, value }, GFP_KERNEL)?;
        }
        for file in files.iter_mut() {
            let class = static_lock_class!().as_ptr();
            // SAFETY: The attribute is one that is not in use yet.
            unsafe { bindings::sysfs_attr_init_class(&raw mut file.attribute.attr, class.cast()) };
            attributes.push(&raw mut file.attribute.attr, GFP_KERNEL)?;
        }
        attributes.push(ptr::null_mut(), GFP_KERNEL)?;

        // SAFETY: All zeroes is a valid group: one without a name and attributes.
        let mut group: bindings::attribute_group = unsafe { mem::zeroed() };
        group.name = c"parameters".as_char_ptr();
        group.__bindgen_anon_2.attrs = attributes.as_mut_ptr();
        let group = KBox::new(group, GFP_KERNEL)?;

        // SAFETY: The kobject is that of a module that is loaded. Group, attributes and names stay
        // where they are until the files are removed when `Self` is dropped.
        to_result(unsafe { bindings::sysfs_create_group(kobj, &raw const *group) })?;

        // INVARIANT: The files were just created.
        Ok(Self {
            module,
            group,
            _attributes: attributes,
            _files: files,
        })
    }

    /// # Safety
    ///
    /// `attribute` must be that of a [`ParameterFile`] that exists; `page` must be valid for
    /// writing a page.
    unsafe extern "C" fn show(
        attribute: *const bindings::module_attribute,
        _module: *mut bindings::module_kobject,
        page: *mut c_char,
    ) -> isize {
        // SAFETY: By the safety requirements. The files are removed before they are dropped, and
        // that waits for calls.
        let value = unsafe {
            let file = kernel::container_of!(attribute, ParameterFile, attribute);
            (*file).value
        };

        // SAFETY: By the safety requirements.
        unsafe { sysfs::show(page, || CString::try_from_fmt(fmt!("{}\n", value()))) }
    }
}

impl Drop for ParameterFiles {
    fn drop(&mut self) {
        if let Some(kobj) = kobject(self.module) {
            // Waits for calls that are under way.
            //
            // SAFETY: By the type invariants, the files exist.
            unsafe { bindings::sysfs_remove_group(kobj, &raw const *self.group) };
        }
    }
}

/// Returns the directory of a module, unless that is built in.
fn kobject(module: &ThisModule) -> Option<*mut bindings::kobject> {
    let module = module.as_ptr();

    // SAFETY: A module that is not built in is valid for as long as it is loaded.
    (!module.is_null()).then(|| unsafe { &raw mut (*module).mkobj.kobj })
}
