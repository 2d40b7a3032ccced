// SPDX-License-Identifier: GPL-2.0

//! Misc devices that come and go with hardware.
//!
//! The misc device of the [`kernel`] crate has a name that is known when the module is built, and
//! no data of its own. This one is for drivers with a node for each of their devices: name, mode
//! and parent are given at run time, each registration carries data for its files and attributes in
//! sysfs, and files can be polled and take commands by io_uring.
//!
//! C header: [`include/linux/miscdevice.h`](srctree/include/linux/miscdevice.h)

use kernel::{
    device,
    error::{
        from_result,
        to_result,
        VTABLE_DEFAULT_ERROR, //
    },
    fs::File,
    mm::virt::VmaRef,
    module::this_module,
    prelude::*,
    seq_file::SeqFile,
    str::{
        CStr,
        CString, //
    },
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

use crate::{
    bindings,
    fs::AnonInode,
    io_uring::cmd::Command,
    mm::virt::{
        self,
        AreaDescription,
        Operations, //
    },
    sysfs, //
};

use core::{
    ffi::c_void,
    marker::PhantomData,
    ptr, //
};

/// Events that `poll()` reports of a device that is gone: `EPOLLERR | EPOLLHUP`.
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

/// A file in the directory of a misc device in sysfs, which is about the data `D`.
///
/// Both functions may sleep, and are called by several processes at once.
pub struct Attribute<D: 'static> {
    /// Name of the file.
    pub name: &'static CStr,
    /// Returns what a process reads, less than a page.
    pub show: fn(&D) -> Result<CString>,
    /// Takes what a process wrote, less than a page. Without it the file cannot be written.
    pub store: Option<fn(&D, &str) -> Result>,
}

/// A file in the directory of a misc device in sysfs that may be longer than a page.
///
/// The function may sleep, and is called by several processes at once. Who reads a long text in
/// pieces may get pieces of different texts.
pub struct BinAttribute<D: 'static> {
    /// Name of the file.
    pub name: &'static CStr,
    /// Returns all of the text.
    pub show: fn(&D) -> Result<KVVec<u8>>,
}

/// An open file of a misc device.
///
/// The file can outlive the registration: each method but [`MiscDevice::open`] may be called
/// after the device was deregistered. The module stays loaded as long as a file is open.
#[vtable]
pub trait MiscDevice: Sized + Send + Sync + 'static {
    /// Data that all files of a device share.
    type Data: Send + Sync + 'static;

    /// The data of a mapping.
    type Area: Operations;

    /// Whether areas that are as long as what one page table spans, or longer, start where one
    /// starts, if the caller passes no address: so that they need no more page tables than they
    /// must. Only where the kernel has transparent huge pages.
    const ALIGN_AREAS: bool = false;

    /// The files of a device in sysfs.
    const ATTRIBUTES: &'static [Attribute<Self::Data>] = &[];

    /// The longer ones.
    const BIN_ATTRIBUTES: &'static [BinAttribute<Self::Data>] = &[];

    /// Returns the inode whose address space all files of the device share, through any node
    /// they were opened. Without one each node has an address space of its own.
    fn address_space(data: &Self::Data) -> Option<&Arc<AnonInode>>;

    /// Opens a file. Called with the lock of all misc devices held: must not wait for a
    /// thread that registers or deregisters one.
    fn open(file: &File, data: ArcBorrow<'_, Self::Data>) -> Result<Arc<Self>>;

    /// Says what a mapping of the file is to be like, or why there can be none. Must not take
    /// anything that has to be given back: there may be no mapping after all. The mmap write lock
    /// is held.
    fn mmap_prepare(_this: ArcBorrow<'_, Self>, _area: &AreaDescription) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Returns the data of a mapping that was just made and is linked to the file already: code
    /// that takes pages away from all mappings finds it. May insert pages, and may sleep; the mmap
    /// write lock is held. If it fails, the mapping is removed.
    fn mapped(_this: ArcBorrow<'_, Self>, _vma: &VmaRef) -> Result<Arc<Self::Area>> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Handles a request with its argument. May sleep. Arguments must be the same for 32-bit and
    /// 64-bit callers.
    fn ioctl(_this: ArcBorrow<'_, Self>, _file: &File, _cmd: u32, _arg: usize) -> Result<isize> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Handles a command of io_uring, and returns its result. Must not wait for anything that may
    /// take long.
    fn uring_cmd(_this: ArcBorrow<'_, Self>, _file: &File, _command: &Command<'_>) -> Result<i32> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Returns where the end of the file is for `lseek()`, in bytes. A file with an end can be
    /// synchronised as well, which does nothing: programs expect both of what they map. May sleep.
    fn size(_this: ArcBorrow<'_, Self>) -> Result<u64> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Says in `/proc/PID/fdinfo/FD` what the file has. May sleep.
    fn show_fdinfo(_this: ArcBorrow<'_, Self>, _seq: &SeqFile) {
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
/// `misc` is registered, `misc.name` points to the text of `name`, `misc.fops` is the table of `T`,
/// and `misc.groups` points into `files`, which has an entry for each attribute of `T`.
#[pin_data(PinnedDrop)]
pub struct Registration<T: MiscDevice> {
    name: CString,
    files: Pin<KBox<Files<T::Data>>>,
    data: Arc<T::Data>,
    // The C side keeps no reference of its own.
    parent: ARef<device::Device>,
    #[pin]
    misc: Opaque<WithData<T::Data>>,
    _file: PhantomData<fn() -> T>,
}

/// A misc device, and what its attributes are about.
#[repr(C)]
struct WithData<D> {
    misc: bindings::miscdevice,
    data: *const D,
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
        let shared = ptr::from_ref(&*data);
        let made = Files::new(T::ATTRIBUTES, T::BIN_ATTRIBUTES);
        let groups = made
            .as_ref()
            .map_or(ptr::null(), |files| files.groups.as_ptr());
        // CAST: `device::Device` is a transparent wrapper of `Opaque<struct device>`.
        let device = ptr::from_ref(options.parent).cast_mut().cast();

        try_pin_init!(Self {
            name: options.name,
            files: made?,
            data,
            parent: options.parent.into(),
            // Last: a file may be opened from here on, and finds `data`.
            misc <- Opaque::try_ffi_init(move |slot: *mut WithData<T::Data>| {
                let misc = bindings::miscdevice {
                    // CAST: The number of dynamic minors is a small one.
                    minor: bindings::MISC_DYNAMIC_MINOR as c_int,
                    name: text,
                    fops: Table::<T>::get(),
                    parent: device,
                    // CAST: The C side only reads them.
                    groups: groups.cast_mut(),
                    mode: options.mode,
                    ..pin_init::zeroed()
                };

                // SAFETY: `slot` is valid for writing.
                unsafe { slot.write(WithData { misc, data: shared }) };

                // SAFETY: The misc device is initialised, and is pinned until it is deregistered
                // when `Self` is dropped. So are the name, whose text does not move, the
                // attributes, and the parent.
                to_result(unsafe { bindings::misc_register(slot.cast()) })
            }),
            _file: PhantomData,
        })
    }
}

#[pinned_drop]
impl<T: MiscDevice> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants, the device is registered.
        unsafe { bindings::misc_deregister(self.misc.get().cast()) };
    }
}

/// An attribute as the C side has it.
#[repr(C)]
struct Entry<D: 'static> {
    raw: bindings::device_attribute,
    attribute: &'static Attribute<D>,
}

/// A listing as the C side has it.
#[repr(C)]
struct LongEntry<D: 'static> {
    raw: bindings::bin_attribute,
    listing: &'static BinAttribute<D>,
}

/// The attributes of a device. All vectors have their final length, so that nothing moves.
struct Files<D: 'static> {
    _entries: KVec<Entry<D>>,
    _list: KVec<*mut bindings::attribute>,
    _long_entries: KVec<LongEntry<D>>,
    _long_list: KVec<*const bindings::bin_attribute>,
    _group: KBox<bindings::attribute_group>,
    groups: [*const bindings::attribute_group; 2],
}

impl<D: Send + Sync + 'static> Files<D> {
    fn new(
        attributes: &'static [Attribute<D>],
        listings: &'static [BinAttribute<D>],
    ) -> Result<Pin<KBox<Self>>> {
        let mut entries = KVec::with_capacity(attributes.len(), GFP_KERNEL)?;
        let mut list = KVec::with_capacity(attributes.len() + 1, GFP_KERNEL)?;
        let mut long_entries = KVec::with_capacity(listings.len(), GFP_KERNEL)?;
        let mut long_list = KVec::with_capacity(listings.len() + 1, GFP_KERNEL)?;

        for attribute in attributes {
            let mut raw: bindings::device_attribute = pin_init::zeroed();
            raw.attr.name = attribute.name.as_char_ptr();
            raw.attr.mode = if attribute.store.is_some() {
                0o644
            } else {
                0o444
            };
            raw.__bindgen_anon_1.show = Some(Entry::<D>::show);
            raw.__bindgen_anon_2.store = attribute.store.is_some().then_some(Entry::<D>::store);
            entries.push(Entry { raw, attribute }, GFP_KERNEL)?;
        }
        for entry in entries.iter_mut() {
            let class = ptr::from_ref(entry.attribute).cast();
            // SAFETY: The attribute is one that is not in use yet.
            unsafe { bindings::sysfs_attr_init_class(&raw mut entry.raw.attr, class) };
            list.push(&raw mut entry.raw.attr, GFP_KERNEL)?;
        }
        list.push(ptr::null_mut(), GFP_KERNEL)?;

        for listing in listings {
            let mut raw: bindings::bin_attribute = pin_init::zeroed();
            raw.attr.name = listing.name.as_char_ptr();
            raw.attr.mode = 0o444;
            raw.read = Some(LongEntry::<D>::read);
            long_entries.push(LongEntry { raw, listing }, GFP_KERNEL)?;
        }
        for entry in long_entries.iter_mut() {
            let class = ptr::from_ref(entry.listing).cast();
            // SAFETY: The attribute is one that is not in use yet.
            unsafe { bindings::sysfs_attr_init_class(&raw mut entry.raw.attr, class) };
            long_list.push(&raw const entry.raw, GFP_KERNEL)?;
        }
        long_list.push(ptr::null(), GFP_KERNEL)?;

        let mut group: bindings::attribute_group = pin_init::zeroed();
        group.__bindgen_anon_2.attrs = list.as_mut_ptr();
        group.bin_attrs = long_list.as_ptr();
        let group = KBox::new(group, GFP_KERNEL)?;
        let groups = [ptr::from_ref(&*group), ptr::null()];

        Ok(KBox::pin(
            Self {
                _entries: entries,
                _list: list,
                _long_entries: long_entries,
                _long_list: long_list,
                _group: group,
                groups,
            },
            GFP_KERNEL,
        )?)
    }
}

// SAFETY: The pointers are to memory that the value owns and that does not change.
unsafe impl<D> Send for Files<D> {}
// SAFETY: As above.
unsafe impl<D> Sync for Files<D> {}

/// Returns what the files of a device are about.
///
/// # Safety
///
/// `device` must be that of a registered misc device whose data is `D`.
unsafe fn data_of<'a, D>(device: *mut bindings::device) -> &'a D {
    // SAFETY: By the safety requirements; the core stored a pointer to the misc device. Files are
    // removed before the registration goes, and that waits for calls.
    unsafe {
        let misc = bindings::dev_get_drvdata(device).cast::<WithData<D>>();

        &*(*misc).data
    }
}

impl<D: Send + Sync + 'static> Entry<D> {
    /// # Safety
    ///
    /// `device` must be that of a registered misc device whose data is `D`, and `attribute` part of
    /// one of its entries.
    unsafe fn borrow<'a>(
        device: *mut bindings::device,
        attribute: *mut bindings::device_attribute,
    ) -> (&'a D, &'static Attribute<D>) {
        // SAFETY: By the safety requirements.
        unsafe {
            let entry = kernel::container_of!(attribute, Self, raw);

            (data_of(device), (*entry).attribute)
        }
    }

    /// # Safety
    ///
    /// As [`Self::borrow`]; `page` must be valid for writing a page.
    unsafe extern "C" fn show(
        device: *mut bindings::device,
        attribute: *mut bindings::device_attribute,
        page: *mut c_char,
    ) -> isize {
        // SAFETY: By the safety requirements.
        let (data, attribute) = unsafe { Self::borrow(device, attribute) };

        // SAFETY: By the safety requirements.
        unsafe { sysfs::show(page, || (attribute.show)(data)) }
    }

    /// # Safety
    ///
    /// As [`Self::borrow`]; `text` must be valid for reading `size` bytes.
    unsafe extern "C" fn store(
        device: *mut bindings::device,
        attribute: *mut bindings::device_attribute,
        text: *const c_char,
        size: usize,
    ) -> isize {
        // SAFETY: By the safety requirements.
        let (data, attribute) = unsafe { Self::borrow(device, attribute) };
        // SAFETY: By the safety requirements.
        unsafe {
            sysfs::store(text, size, |text| {
                (attribute.store.ok_or(EACCES)?)(data, text)
            })
        }
    }
}

impl<D: Send + Sync + 'static> LongEntry<D> {
    /// # Safety
    ///
    /// `kobject` must be part of the device of a registered misc device whose data is `D`,
    /// `attribute` part of one of its entries, and `to` valid for writing `size` bytes.
    unsafe extern "C" fn read(
        _: *mut bindings::file,
        kobject: *mut bindings::kobject,
        attribute: *const bindings::bin_attribute,
        to: *mut c_char,
        offset: bindings::loff_t,
        size: usize,
    ) -> isize {
        // SAFETY: By the safety requirements.
        let (data, listing) = unsafe {
            let device = kernel::container_of!(kobject, bindings::device, kobj);
            let entry = kernel::container_of!(attribute, Self, raw);

            (data_of(device), (*entry).listing)
        };

        // SAFETY: By the safety requirements.
        unsafe { sysfs::show_part(to, size, offset, || (listing.show)(data)) }
    }
}

struct Table<T>(PhantomData<T>);

impl<T: MiscDevice> Table<T> {
    const OPERATIONS: bindings::file_operations = bindings::file_operations {
        owner: this_module::<T::OwnerModule>().as_ptr(),
        open: Some(Self::open),
        release: Some(Self::release),
        mmap_prepare: if T::HAS_MMAP_PREPARE {
            Some(Self::mmap_prepare)
        } else {
            None
        },
        #[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
        get_unmapped_area: if T::ALIGN_AREAS {
            Some(bindings::thp_get_unmapped_area)
        } else {
            None
        },
        llseek: if T::HAS_SIZE {
            Some(Self::llseek)
        } else {
            None
        },
        fsync: if T::HAS_SIZE {
            Some(bindings::noop_fsync)
        } else {
            None
        },
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
        uring_cmd: if T::HAS_URING_CMD {
            Some(Self::uring_cmd)
        } else {
            None
        },
        show_fdinfo: if T::HAS_SHOW_FDINFO {
            Some(Self::show_fdinfo)
        } else {
            None
        },
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
            let misc = misc.cast::<WithData<T::Data>>();
            let registration =
                kernel::container_of!(Opaque::cast_from(misc), Registration<T>, misc);
            &(*registration).data
        };
        // SAFETY: The file is valid, and not shared yet.
        let file = unsafe { File::from_raw_file(raw) };

        match T::open(file, data.as_arc_borrow()) {
            Ok(this) => {
                if let Some(inode) = T::address_space(data) {
                    // SAFETY: The file is being opened, so that it is not in use.
                    unsafe { inode.give_to(raw) };
                }
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
    unsafe extern "C" fn release(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: `open()` stored the result of `into_foreign()`, and there are no other calls.
        drop(unsafe { Arc::<T>::from_foreign((*file).private_data) });

        // SAFETY: The file and its inode are valid. If the address space is not that of the node,
        // `open()` gave the file another one, which is not used through the file any more: it has
        // no mapping.
        unsafe {
            let shared = (*file).f_mapping;
            if shared != (*inode).i_mapping {
                (*file).f_mapping = (*inode).i_mapping;
                AnonInode::release_file(shared);
            }
        }
        0
    }

    const AREA_OPERATIONS: bindings::vm_operations_struct = bindings::vm_operations_struct {
        mapped: Some(Self::mapped),
        ..virt::Table::<T::Area>::OPERATIONS
    };

    /// # Safety
    ///
    /// `description` must be one of a mapping of an open file with this table, that is being filled
    /// in.
    unsafe extern "C" fn mmap_prepare(description: *mut bindings::vm_area_desc) -> c_int {
        // SAFETY: By the safety requirements, the file is open.
        let (this, _) = unsafe { Self::borrow((*description).file) };
        // SAFETY: By the safety requirements.
        let area = unsafe { AreaDescription::from_raw(description) };

        match T::mmap_prepare(this, area) {
            Ok(()) => {
                // SAFETY: By the safety requirements.
                unsafe { (*description).vm_ops = &Self::AREA_OPERATIONS };
                0
            }
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    ///
    /// `file` must be an open file with this table, of which the current process has just made a
    /// mapping at `start`. `data` is valid for writing.
    unsafe extern "C" fn mapped(
        start: c_ulong,
        _end: c_ulong,
        _offset: c_ulong,
        file: *const bindings::file,
        data: *mut *mut c_void,
    ) -> c_int {
        // SAFETY: The file is open.
        let (this, _) = unsafe { Self::borrow(file.cast_mut()) };
        // SAFETY: The caller holds the mmap write lock of this process.
        let vma = unsafe { bindings::vma_lookup((*kernel::current!().as_ptr()).mm, start) };
        if vma.is_null() {
            // One that a driver above this one is making, which is not there yet.
            return EINVAL.to_errno();
        }
        // SAFETY: The mapping is there, and locked.
        let vma = unsafe { VmaRef::from_raw(vma) };

        match T::mapped(this, vma) {
            Ok(area) => {
                // SAFETY: By the safety requirements. The mapping owns the reference.
                unsafe { *data = area.into_foreign() };
                0
            }
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    ///
    /// `file` must be an open file with this table.
    unsafe extern "C" fn llseek(
        file: *mut bindings::file,
        offset: bindings::loff_t,
        whence: c_int,
    ) -> bindings::loff_t {
        // SAFETY: The file is open.
        let (this, _) = unsafe { Self::borrow(file) };

        match T::size(this).and_then(|size| Ok(size.try_into()?)) {
            // SAFETY: The file is valid.
            Ok(size) => unsafe { bindings::fixed_size_llseek(file, offset, whence, size) },
            Err(error) => error.to_errno().into(),
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
    /// `command` must be one to an open file with this table, that is being issued with these
    /// flags.
    unsafe extern "C" fn uring_cmd(command: *mut bindings::io_uring_cmd, flags: c_uint) -> c_int {
        // SAFETY: The command is valid, and its file is open.
        let (this, file) = unsafe { Self::borrow(bindings::io_uring_cmd_file(command)) };
        // SAFETY: By the safety requirements.
        let command = unsafe { Command::from_raw(command, flags) };

        from_result(|| T::uring_cmd(this, file, &command))
    }

    /// # Safety
    ///
    /// `file` must be an open file with this table, `seq` be valid.
    unsafe extern "C" fn show_fdinfo(seq: *mut bindings::seq_file, file: *mut bindings::file) {
        // SAFETY: The file is open.
        let (this, _) = unsafe { Self::borrow(file) };
        // SAFETY: By the safety requirements; no other thread uses it.
        let seq = unsafe { SeqFile::from_raw(seq) };

        T::show_fdinfo(this, seq);
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
