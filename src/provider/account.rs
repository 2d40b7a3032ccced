// SPDX-License-Identifier: GPL-2.0

//! How much memory open files and users have, and may have.
//!
//! Memory counts for the open file that it was allocated through, and for the user who opened that,
//! also in other processes. Limits are checked before anything is taken from the pool.

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        new_mutex,
        Arc,
        Mutex,
        UniqueArc, //
    },
    task::Kuid, //
};

use kernel_ext::cgroup::Charge;

/// Bytes that are counted.
struct Counter(Atomic<u64>);

impl Counter {
    fn new() -> Self {
        Self(Atomic::new(0))
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Adds bytes, unless there would be more than `limit`, which is 0 for none.
    fn add(&self, bytes: u64, limit: u64) -> Result {
        let mut used = self.get();
        loop {
            let sum = used.checked_add(bytes).ok_or(EDQUOT)?;
            if limit != 0 && sum > limit {
                return Err(EDQUOT);
            }
            match self.0.cmpxchg(used, sum, Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => used = now,
            }
        }
    }

    fn subtract(&self, bytes: u64) {
        self.0.fetch_sub(bytes, Relaxed);
    }
}

/// Limits that the administrator set; 0 for any number of bytes.
pub(crate) struct Limits {
    pub(crate) per_file: Atomic<u64>,
    pub(crate) per_user: Atomic<u64>,
}

/// A user who opened files.
struct User {
    uid: Kuid,
    bytes: Counter,
    /// How many accounts there are. Changes with the lock of the list held only.
    accounts: Atomic<usize>,
}

/// All memory of a provider that is allocated, and the users who opened its node.
#[pin_data]
pub(crate) struct Accounts {
    bytes: Counter,
    pub(crate) limits: Limits,
    /// A user is removed with its last account.
    #[pin]
    users: Mutex<KVec<Arc<User>>>,
}

impl Accounts {
    /// Creates accounts without users and limits.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                bytes: Counter::new(),
                limits: Limits {
                    per_file: Atomic::new(0),
                    per_user: Atomic::new(0),
                },
                users <- new_mutex!(KVec::new()),
            }),
            GFP_KERNEL,
        )
    }

    /// Returns how many bytes are allocated.
    pub(crate) fn allocated(&self) -> u64 {
        self.bytes.get()
    }

    /// Creates the account of a file that a user opens.
    pub(crate) fn open(self: &Arc<Self>, uid: Kuid) -> Result<Arc<Account>> {
        let account = UniqueArc::new_uninit(GFP_KERNEL_ACCOUNT)?;

        let mut users = self.users.lock();
        let known = users.iter().find(|user| user.uid == uid).cloned();
        let user = match known {
            Some(user) => user,
            None => {
                let user = Arc::new(
                    User {
                        uid,
                        bytes: Counter::new(),
                        accounts: Atomic::new(0),
                    },
                    GFP_KERNEL_ACCOUNT,
                )?;
                users.push(user.clone(), GFP_KERNEL_ACCOUNT)?;
                user
            }
        };
        user.accounts.fetch_add(1, Relaxed);
        drop(users);

        Ok(account
            .write(Account {
                all: self.clone(),
                user,
                bytes: Counter::new(),
                bytes_in_large_pages: Counter::new(),
            })
            .into())
    }
}

/// The account of an open file. It lives as long as memory that was allocated through the file.
pub(crate) struct Account {
    all: Arc<Accounts>,
    user: Arc<User>,
    bytes: Counter,
    bytes_in_large_pages: Counter,
}

impl Account {
    /// Returns how many bytes were allocated through the file, and how many of them are in large
    /// pages.
    pub(crate) fn allocated(&self) -> (u64, u64) {
        (self.bytes.get(), self.bytes_in_large_pages.get())
    }

    /// Counts bytes that are to be allocated. `EDQUOT` if that is more than the file or its user
    /// may have.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation> {
        let limits = &self.all.limits;

        self.bytes.add(bytes, limits.per_file.load(Relaxed))?;
        self.user
            .bytes
            .add(bytes, limits.per_user.load(Relaxed))
            .inspect_err(|_| self.bytes.subtract(bytes))?;
        self.all.bytes.0.fetch_add(bytes, Relaxed);

        Ok(Reservation {
            account: self.clone(),
            bytes,
            bytes_in_large_pages: 0,
            charge: None,
        })
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut users = self.all.users.lock();

        if self.user.accounts.fetch_sub(1, Relaxed) == 1 {
            users.retain(|user| !Arc::ptr_eq(user, &self.user));
        }
    }
}

/// Bytes that are counted, until this is dropped.
pub(crate) struct Reservation {
    account: Arc<Account>,
    bytes: u64,
    bytes_in_large_pages: u64,
    /// Charge of the control group of the allocating process: all of it, until all is free.
    charge: Option<Charge>,
}

impl Reservation {
    /// Keeps a charge for as long as the bytes are counted.
    pub(crate) fn keep(&mut self, charge: Charge) {
        self.charge = Some(charge);
    }

    /// Returns how many bytes are counted.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns how many of them are in large pages.
    pub(crate) fn bytes_in_large_pages(&self) -> u64 {
        self.bytes_in_large_pages
    }

    /// Returns for whom they are counted.
    pub(crate) fn user(&self) -> Kuid {
        self.account.user.uid
    }

    /// Says how many bytes turned out to be in large pages.
    pub(crate) fn set_large(&mut self, bytes: u64) {
        if bytes == self.bytes_in_large_pages {
            return;
        }
        let counter = &self.account.bytes_in_large_pages;

        counter.subtract(self.bytes_in_large_pages);
        counter.0.fetch_add(bytes, Relaxed);
        self.bytes_in_large_pages = bytes;
    }

    /// Counts no more than `bytes` any more: the rest of the memory is back in the pool.
    pub(crate) fn shrink(&mut self, bytes: u64) {
        let returned = self.bytes.saturating_sub(bytes);

        self.account.bytes.subtract(returned);
        self.account.user.bytes.subtract(returned);
        self.account.all.bytes.subtract(returned);
        self.bytes -= returned;
        self.set_large(self.bytes_in_large_pages.min(self.bytes));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink(0);
    }
}
