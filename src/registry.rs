// SPDX-License-Identifier: GPL-2.0

//! A set of things that register themselves, and that somebody else may empty.

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

    /// Adds an entry and returns its key, or returns `ENOMEM`.
    pub(crate) fn insert(&self, entry: T) -> Result<u64> {
        let node = RBTreeNodeReservation::new(GFP_KERNEL)?;
        let mut entries = self.entries.lock();
        let key = entries.next;

        entries.next += 1;
        // No entry has that key.
        entries.tree.insert(node.into_node(key, entry));

        Ok(key)
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

    /// Adds up a number that each entry has.
    pub(crate) fn sum(&self, number: impl Fn(&T) -> u64) -> u64 {
        self.entries.lock().tree.values().map(number).sum()
    }
}
