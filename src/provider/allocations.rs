// SPDX-License-Identifier: GPL-2.0

//! All memory of a provider that is allocated, and memory that its last user gave up but DMA still
//! uses.

use kernel::{
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::{
        new_spinlock,
        Arc,
        SpinLock, //
    },
    task::Kuid,
    time::Msecs, //
};

use kernel_ext::{
    gate::SleepableRevocable,
    p2pmem::Allocation,
    task::Process,
    workqueue::Retry, //
};

use super::account::Reservation;

use core::ops::Range;

/// Memory that is reached from inside the gate.
pub(crate) type Memory = Arc<SleepableRevocable<Allocation>>;

/// Key of an allocation: its CPU address, and a number that no other one has.
pub(crate) type Key = (u64, u64);

/// An allocation.
pub(crate) struct AllocationEntry {
    /// None while it is being given back.
    memory: Option<Memory>,
    reservation: Reservation,
    /// The process that asked for it.
    owner: Process,
}

/// Properties of an allocation that are listed.
pub(crate) struct Summary {
    pub(crate) owner: Process,
    pub(crate) user: Kuid,
    /// CPU address.
    pub(crate) start: u64,
    pub(crate) bytes: u64,
    pub(crate) bytes_in_large_pages: u64,
    /// A ring or a device has it.
    pub(crate) is_held: bool,
    /// Its last user gave it up, and DMA still uses it.
    pub(crate) is_outstanding: bool,
}

impl AllocationEntry {
    /// An entry of memory that was just allocated for a process.
    pub(super) fn new(memory: Memory, reservation: Reservation) -> Self {
        Self {
            memory: Some(memory),
            reservation,
            owner: Process::current(),
        }
    }

    fn summary(&self, start: u64, is_outstanding: bool) -> Summary {
        Summary {
            owner: self.owner,
            user: self.reservation.user(),
            start,
            bytes: self.reservation.bytes(),
            bytes_in_large_pages: self.reservation.bytes_in_large_pages(),
            is_held: self.memory.as_ref().is_some_and(|memory| memory.is_held()),
            is_outstanding,
        }
    }
}

/// A place in the list that is reserved for an allocation.
pub(super) type Place = RBTreeNodeReservation<Key, AllocationEntry>;

/// An allocation whose memory was taken out in order to be given back.
pub(super) struct Taken {
    pub(super) key: Key,
    pub(super) memory: Memory,
    pub(super) owner: Process,
    pub(super) bytes: u64,
}

struct Trees {
    /// Apart from those that are being given back, these do not overlap.
    in_use: RBTree<Key, AllocationEntry>,
    /// Memory of these that is back in the pool may be part of others.
    outstanding: RBTree<Key, AllocationEntry>,
    next_number: u64,
}

/// The allocations of a provider.
///
/// The lock is held only to look at the trees: never while memory is used or given back, and never
/// for long.
#[pin_data]
pub(crate) struct Allocations {
    #[pin]
    trees: SpinLock<Trees>,
}

impl Allocations {
    /// Creates an empty set.
    pub(super) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                trees <- new_spinlock!(Trees {
                    in_use: RBTree::new(),
                    outstanding: RBTree::new(),
                    next_number: 0,
                }),
            }),
            GFP_KERNEL,
        )
    }

    /// Adds an allocation that starts at a CPU address, and returns its key.
    pub(super) fn insert(&self, place: Place, start: u64, entry: AllocationEntry) -> Key {
        let mut trees = self.trees.lock();
        let key = (start, trees.next_number);

        trees.next_number += 1;
        // No entry has that key.
        trees.in_use.insert(place.into_node(key, entry));
        key
    }

    /// Takes the memory of an allocation that is in use out of its entry, unless that was done.
    pub(super) fn take(&self, key: Key) -> Option<Memory> {
        self.trees.lock().in_use.get_mut(&key)?.memory.take()
    }

    /// Takes the memory of the first allocation from `since` on out of its entry: of those in use,
    /// or of those that are outstanding.
    pub(super) fn take_next(&self, since: Key, is_outstanding: bool) -> Option<Taken> {
        let mut trees = self.trees.lock();
        let tree = if is_outstanding {
            &mut trees.outstanding
        } else {
            &mut trees.in_use
        };
        let mut cursor = tree.cursor_lower_bound_mut(&since)?;

        loop {
            let (&key, entry) = cursor.current_mut();
            if let Some(memory) = entry.memory.take() {
                return Some(Taken {
                    key,
                    memory,
                    owner: entry.owner,
                    bytes: entry.reservation.bytes(),
                });
            }
            cursor = cursor.move_next()?;
        }
    }

    /// Puts memory back whose last user gave it up, of which so many bytes are still used. Forgets
    /// it if there are none.
    pub(super) fn put_back(&self, key: Key, memory: Memory, outstanding: usize) {
        let mut guard = self.trees.lock();
        let trees = &mut *guard;

        let node = trees
            .in_use
            .remove_node(&key)
            .or_else(|| trees.outstanding.remove_node(&key));
        match node {
            Some(node) if outstanding != 0 => {
                trees.outstanding.insert(node);
                if let Some(entry) = trees.outstanding.get_mut(&key) {
                    entry.reservation.shrink(outstanding as u64);
                    entry.memory = Some(memory);
                }
            }
            node => {
                // Both are dropped without the lock.
                drop(guard);
                drop((node, memory));
            }
        }
    }

    /// Returns whether there is an allocation, in use or outstanding.
    pub(super) fn is_empty(&self) -> bool {
        let trees = self.trees.lock();

        trees.in_use.is_empty() && trees.outstanding.is_empty()
    }

    /// Passes what is to be told of each allocation to `see`, until that fails. Allocations may
    /// come and go during that.
    pub(crate) fn for_each<E>(
        &self,
        mut see: impl FnMut(Summary) -> Result<(), E>,
    ) -> Result<(), E> {
        for is_outstanding in [false, true] {
            let mut since = (0, 0);

            while let Some(((start, number), summary)) = self.look(since, is_outstanding) {
                see(summary)?;
                since = (start, number + 1);
            }
        }

        Ok(())
    }

    fn look(&self, since: Key, is_outstanding: bool) -> Option<(Key, Summary)> {
        let trees = self.trees.lock();
        let tree = if is_outstanding {
            &trees.outstanding
        } else {
            &trees.in_use
        };
        let cursor = tree.cursor_lower_bound(&since)?;
        let (&key, entry) = cursor.current();

        Some((key, entry.summary(key.0, is_outstanding)))
    }

    /// Returns the length of the longest run in `region` (CPU addresses) that no allocation in use
    /// has, in bytes.
    pub(crate) fn longest_free(&self, region: Range<u64>) -> u64 {
        let mut longest = 0;
        let mut free = region.start;
        let mut since = (region.start, 0);

        while let Some(((start, number), bytes)) = self.next_in_use(since) {
            if start >= region.end {
                break;
            }
            longest = longest.max(start.saturating_sub(free));
            free = free.max(start + bytes);
            since = (start, number + 1);
        }

        longest.max(region.end.saturating_sub(free))
    }

    /// Returns the first allocation in use from `since` on, and its length in bytes.
    fn next_in_use(&self, since: Key) -> Option<(Key, u64)> {
        let trees = self.trees.lock();
        let cursor = trees.in_use.cursor_lower_bound(&since)?;
        let (&key, entry) = cursor.current();

        Some((key, entry.reservation.bytes()))
    }
}

impl Retry for Allocations {
    const INTERVAL: Msecs = 20;

    /// Gives back what DMA does not use any more.
    fn retry(&self) -> bool {
        let mut since = (0, 0);
        let mut again = false;

        while let Some(Taken { key, memory, .. }) = self.take_next(since, true) {
            since = (key.0, key.1 + 1);
            again |= self.give_back(key, memory);
        }

        again
    }
}

impl Allocations {
    /// Gives memory back that was taken out and that has no user. Returns whether DMA still uses a
    /// part of it.
    pub(super) fn give_back(&self, key: Key, memory: Memory) -> bool {
        // Only holders of the memory have more references, and they are users.
        let Some(mut memory) = Arc::into_unique_or_drop(memory) else {
            return false;
        };
        let outstanding = memory.as_mut().value_mut().release();

        self.put_back(key, memory.into(), outstanding);
        outstanding != 0
    }
}
