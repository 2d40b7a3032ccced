// SPDX-License-Identifier: GPL-2.0

//! A set whose entries register themselves, and that revocation empties.

use kernel::{
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::{
        new_mutex,
        Mutex, //
    }, //
};

struct Entries<T> {
    next: u64,
    tree: RBTree<u64, T>,
}

/// The set. Each entry has a key, which is never given a second time.
///
/// The lock is held only to look at the set itself: never while an entry is used or dropped.
#[pin_data]
pub(crate) struct Registry<T> {
    #[pin]
    entries: Mutex<Entries<T>>,
}

// `Unpin`: the entries are moved in and out.
impl<T: Unpin> Registry<T> {
    /// Creates an empty set.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            entries <- new_mutex!(Entries {
                next: 0,
                tree: RBTree::new(),
            }),
        })
    }

    /// Returns the key of an entry that is to be added.
    pub(crate) fn key(&self) -> u64 {
        let mut entries = self.entries.lock();
        let key = entries.next;

        entries.next += 1;
        key
    }

    /// Adds an entry, or returns `ENOMEM`. The key comes from [`Registry::key`].
    pub(crate) fn insert(&self, key: u64, entry: T) -> Result {
        let node = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;

        // No entry has that key.
        self.entries.lock().tree.insert(node.into_node(key, entry));
        Ok(())
    }

    /// Takes an entry out, if it is still there.
    pub(crate) fn remove(&self, key: u64) -> Option<T> {
        self.entries.lock().tree.remove(&key)
    }

    /// Takes any entry out, until there is none.
    pub(crate) fn pop(&self) -> Option<T> {
        let mut entries = self.entries.lock();
        let (_, node) = entries.tree.cursor_front_mut()?.remove_current();

        Some(node.to_key_value().1)
    }

    /// Returns the entry with the lowest key from `key` on, and that key.
    pub(crate) fn next(&self, key: u64) -> Option<(u64, T)>
    where
        T: Clone,
    {
        let entries = self.entries.lock();
        let cursor = entries.tree.cursor_lower_bound(&key)?;
        let (&key, entry) = cursor.current();

        Some((key, entry.clone()))
    }
}
