// SPDX-License-Identifier: GPL-2.0

//! Misc devices that come and go with hardware.
//!
//! The misc device of the [`kernel`] crate has a name that is known when the module is built, and
//! no data of its own. This one is for drivers with a node for each of their devices: name, mode
//! and parent are given at run time, each registration carries data for its files, and files can
//! be polled.
//!
//! C header: [`include/linux/miscdevice.h`](srctree/include/linux/miscdevice.h)

use kernel::{
    device,
    error::{
        to_result,
        VTABLE_DEFAULT_ERROR, //
    },
    fs::File,
    mm::virt::VmaNew,
    module::this_module,
    prelude::*,
    str::CString,
    sync::{
        aref::ARef,
        poll::PollTable,
        Arc,
        ArcBorrow, //
    },
    types::{
        ForeignOwnable,
        Opaque, //
    }, //
};

use crate::bindings;

use core::{
    marker::PhantomData,
    ptr, //
};

/// What `poll()` tells of a device that is gone: `EPOLLERR | EPOLLHUP`.
pub const POLL_GONE: u32 = bindings::EPOLLERR | bindings::EPOLLHUP;

/// How a misc device appears to user space.
pub struct Options<'a> {
    /// Name of the device and of its node in /dev.
    pub name: CString,
    /// The device that the node belongs to.
    pub parent: &'a device::Device,
    /// Access bits of the node, like `0o600`.
    pub mode: u16,
}

/// An open file of a misc device.
///
/// The file can outlive the registration: each method but [`MiscDevice::open`] may be called
/// after the device was deregistered. The module stays loaded as long as a file is open.
#[vtable]
pub trait MiscDevice: Sized + Send + Sync + 'static {
    /// What all files of a device share.
    type Data: Send + Sync + 'static;

    /// Opens a file. Called with the lock of all misc devices held: must not wait for somebody
    /// who registers or deregisters one.
    fn open(file: &File, data: ArcBorrow<'_, Self::Data>) -> Result<Arc<Self>>;

    /// Sets up a VMA. May sleep; the mmap write lock is held.
    fn mmap(_this: ArcBorrow<'_, Self>, _file: &File, _vma: &VmaNew) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Handles a request with its argument. May sleep. Arguments must be the same for 32-bit and
    /// 64-bit callers.
    fn ioctl(_this: ArcBorrow<'_, Self>, _file: &File, _cmd: u32, _arg: usize) -> Result<isize> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Registers for wake-ups, and returns the events that are there now (`EPOLL*`).
    fn poll(_this: ArcBorrow<'_, Self>, _file: &File, _table: &PollTable<'_>) -> u32 {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

/// A registered misc device. Dropping it removes the node; files that are open stay open.
///
/// # Invariants
///
/// `misc` is registered, `misc.name` points to the text of `name`, and `misc.fops` is the table of
/// `T`.
#[pin_data(PinnedDrop)]
pub struct Registration<T: MiscDevice> {
    name: CString,
    data: Arc<T::Data>,
    // The C side keeps no reference of its own.
    parent: ARef<device::Device>,
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    _file: PhantomData<fn() -> T>,
}

// SAFETY: A misc device can be deregistered by any thread.
unsafe impl<T: MiscDevice> Send for Registration<T> {}
// SAFETY: Nothing can be done with a shared reference.
unsafe impl<T: MiscDevice> Sync for Registration<T> {}

impl<T: MiscDevice> Registration<T> {
    /// Registers a misc device. May sleep.
    ///
    /// The node can be opened before this returns.
    pub fn new<'a>(
        options: Options<'a>,
        data: Arc<T::Data>,
    ) -> impl PinInit<Self, Error> + use<'a, T> {
        // Taken before: inside `try_pin_init!` the names of the fields are those of the fields.
        let text = options.name.as_char_ptr();
        // CAST: `device::Device` is a transparent wrapper of `Opaque<struct device>`.
        let device = ptr::from_ref(options.parent).cast_mut().cast();

        try_pin_init!(Self {
            name: options.name,
            data,
            parent: options.parent.into(),
            // Last: a file may be opened from here on, and finds `data`.
            misc <- Opaque::try_ffi_init(move |slot: *mut bindings::miscdevice| {
                let misc = bindings::miscdevice {
                    // CAST: The number of dynamic minors is a small one.
                    minor: bindings::MISC_DYNAMIC_MINOR as c_int,
                    name: text,
                    fops: Table::<T>::get(),
                    parent: device,
                    mode: options.mode,
                    ..pin_init::zeroed()
                };

                // SAFETY: `slot` is valid for writing.
                unsafe { slot.write(misc) };

                // SAFETY: The misc device is initialised, and is pinned until it is deregistered
                // when `Self` is dropped. So are the name, whose text does not move, and the
                // parent.
                to_result(unsafe { bindings::misc_register(slot) })
            }),
            _file: PhantomData,
        })
    }
}

#[pinned_drop]
impl<T: MiscDevice> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants, the device is registered.
        unsafe { bindings::misc_deregister(self.misc.get()) };
    }
}

struct Table<T>(PhantomData<T>);

impl<T: MiscDevice> Table<T> {
    const OPERATIONS: bindings::file_operations = bindings::file_operations {
        owner: this_module::<T::OwnerModule>().as_ptr(),
        open: Some(Self::open),
        release: Some(Self::release),
        mmap: if T::HAS_MMAP { Some(Self::mmap) } else { None },
        unlocked_ioctl: if T::HAS_IOCTL {
            Some(Self::ioctl)
        } else {
            None
        },
        compat_ioctl: if T::HAS_IOCTL {
            bindings::compat_ptr_ioctl
        } else {
            None
        },
        poll: if T::HAS_POLL { Some(Self::poll) } else { None },
        ..pin_init::zeroed()
    };

    const fn get() -> &'static bindings::file_operations {
        &Self::OPERATIONS
    }

    /// Returns the private data of an open file.
    ///
    /// # Safety
    ///
    /// `file` must be valid during `'a`, and its [`Self::open`] have succeeded.
    unsafe fn borrow<'a>(file: *mut bindings::file) -> (ArcBorrow<'a, T>, &'a File) {
        // SAFETY: `open()` stored the result of `into_foreign()`, which `release()` takes back
        // after all other calls.
        let this = unsafe { Arc::<T>::borrow((*file).private_data) };
        // SAFETY: The file is valid. The calls of this table do not use the file position.
        let file = unsafe { File::from_raw_file(file) };

        (this, file)
    }

    /// # Safety
    ///
    /// Called by the misc device core for a file that is being opened.
    unsafe extern "C" fn open(inode: *mut bindings::inode, raw: *mut bindings::file) -> c_int {
        // SAFETY: Both are valid and belong to the file that is being opened.
        let ret = unsafe { bindings::generic_file_open(inode, raw) };
        if ret != 0 {
            return ret;
        }

        // SAFETY: The misc device core put a pointer to the misc device there.
        let misc = unsafe { (*raw).private_data }.cast::<bindings::miscdevice>();
        // SAFETY: Misc devices with this table are part of a `Registration<T>`. The core holds its
        // lock, so that the device stays registered, and `data` was initialised before.
        let data = unsafe {
            let registration =
                kernel::container_of!(Opaque::cast_from(misc), Registration<T>, misc);
            &(*registration).data
        };
        // SAFETY: The file is valid, and nobody else uses it yet.
        let file = unsafe { File::from_raw_file(raw) };

        match T::open(file, data.as_arc_borrow()) {
            Ok(this) => {
                // SAFETY: The file is being opened, its private data is ours to write.
                unsafe { (*raw).private_data = this.into_foreign() };
                0
            }
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    ///
    /// `file` must be an open file with this table, whose last user is gone.
    unsafe extern "C" fn release(_: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: `open()` stored the result of `into_foreign()`, and there are no other calls.
        drop(unsafe { Arc::<T>::from_foreign((*file).private_data) });
        0
    }

    /// # Safety
    ///
    /// `file` must be an open file with this table, `vma` be one that is being set up.
    unsafe extern "C" fn mmap(
        file: *mut bindings::file,
        vma: *mut bindings::vm_area_struct,
    ) -> c_int {
        // SAFETY: The file is open.
        let (this, file) = unsafe { Self::borrow(file) };
        // SAFETY: The VMA is being set up.
        let vma = unsafe { VmaNew::from_raw(vma) };

        match T::mmap(this, file, vma) {
            Ok(()) => 0,
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    ///
    /// `file` must be an open file with this table.
    unsafe extern "C" fn ioctl(file: *mut bindings::file, cmd: c_uint, arg: c_ulong) -> c_long {
        // SAFETY: The file is open.
        let (this, file) = unsafe { Self::borrow(file) };

        match T::ioctl(this, file, cmd, arg) {
            Ok(value) => value as c_long,
            Err(error) => error.to_errno() as c_long,
        }
    }

    /// # Safety
    ///
    /// `file` must be an open file with this table, `table` be null or valid.
    unsafe extern "C" fn poll(
        file: *mut bindings::file,
        table: *mut bindings::poll_table_struct,
    ) -> bindings::__poll_t {
        // SAFETY: The file is open.
        let (this, file) = unsafe { Self::borrow(file) };
        // SAFETY: The table is null or valid during this call.
        let table = unsafe { PollTable::from_raw(table) };

        T::poll(this, file, &table)
    }
}
