//! The index and the array of insertion order, as a commit changes them.
//!
//! **Index.** Open addressing over 64-bit slots (upper half of the hash, granule of the entry), probed linearly from the
//! start of a group of four, so that a reader looks at whole groups.
//! Slots are only ever filled, so a reader of any snapshot finds in the newest table whatever its snapshot contains;
//! an entry that is absent there has no version for it, or a tombstone.
//!
//! **Array.** As in Python's dict, a second array holds the entries in the order of their insertion. A slot names the
//! commit that inserted the key, and counts only for versions of that insertion: a key that was removed and inserted
//! again stands at the end for new snapshots and keeps its place for old ones.
//!
//! **Growth** ([`rebuild`]) makes both anew, walking each slot of the array once, and drops what no snapshot can see:
//! entries whose tombstone is at or below `recyclable`, and slots of older insertions of keys that were inserted
//! again at or below it. The old blocks are retired like any other.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::fault::{Fault, planted};
use crate::heap::{Assignments, Heap, NoRoom};
use crate::layout::{Dense, DenseSlot, Entry, GRANULE, Shared, TOMBSTONE, Table, Version, high, low};
use crate::read::{GROUP, View, group_of};
use crate::space::Space;
use crate::sync::{Ordering, Word, Word64};

/// A key to be put into the array, and into the index if its entry is new.
#[derive(Clone, Copy, Debug)]
pub struct Insertion {
    /// Hash of the key.
    pub hash: u64,
    /// Granule of its entry.
    pub entry: u32,
    /// The entry is in no table yet.
    pub new_entry: bool,
}

const MIN_BITS: u32 = 4;

/// How many keys a table of this size takes: three eighths, so that groups seldom overflow.
const fn fill(slots: usize) -> usize {
    slots / 8 * 3
}

/// Adds insertions to index and array through the record, or makes both anew if there is no room.
///
/// `pending` tells whether an entry gets a new version by this commit, so that it is not dropped.
pub fn insert(
    space: &Space,
    heap: &mut Heap,
    seq: u64,
    insertions: &[Insertion],
    pending: impl Fn(u32) -> bool,
    record: &mut Assignments,
) -> Result<Result<(), NoRoom>> {
    let table = View::new(space, seq.wrapping_sub(1))
        .table()
        .map_err(|t| t.damage(space))?;
    let reader = &space.control().reader;
    if table.is_empty() {
        return rebuild(space, heap, seq, insertions, pending, record);
    }
    let head: &Table = at(space, (reader.root.load(Ordering::Relaxed) >> 8) as u32)?;
    let dense_at = reader.dense.load(Ordering::Relaxed) as u32;
    let dense: &Dense = at(space, dense_at)?;
    let number = |word: &Word64| word.load(Ordering::Relaxed) as usize;
    let (used, len, capacity) = (number(&head.used), number(&dense.len), number(&dense.capacity));
    let new_entries = insertions.iter().filter(|i| i.new_entry).count();
    if used.saturating_add(new_entries) > fill(table.len()) || len.saturating_add(insertions.len()) > capacity {
        return rebuild(space, heap, seq, insertions, pending, record);
    }
    let offset = |word: &Word64| space.mapping.offset_of(word);
    if !place(table, insertions, |slot, value| record.push((offset(slot), value))) {
        return Err(Error::corrupt("the index has no free slot, although it counts some"));
    }
    append(&dense_slots(space, dense_at, capacity)?[len..], insertions, seq);
    if new_entries > 0 {
        record.push((offset(&head.used), (used + new_entries) as u64));
    }
    let end = (len + insertions.len()) as u64;
    record.push((offset(&dense.len), end));
    record.push((offset(&dense.live_end), end));
    Ok(Ok(()))
}

/// Finds a free slot for each new entry and hands it to `store`, without storing yet. `false` when there is none, which
/// only damage can cause.
fn place<'t>(table: &'t [Word64], insertions: &[Insertion], mut store: impl FnMut(&'t Word64, u64)) -> bool {
    let mask = table.len() - 1;
    // Slots that this very commit fills, which the table does not show yet.
    let (mut few, mut many) = (Vec::new(), HashSet::new());
    let large = insertions.len() > 16;
    for insertion in insertions.iter().filter(|i| i.new_entry) {
        let mut at = group_of(insertion.hash, table.len() / GROUP) * GROUP;
        let mut taken = |at: &usize| if large { !many.insert(*at) } else { few.contains(at) };
        let mut tried = 0;
        while table[at].load(Ordering::Relaxed) != 0 || taken(&at) {
            at = (at + 1) & mask;
            tried += 1;
            if tried > mask {
                return false;
            }
        }
        if !large {
            few.push(at);
        }
        store(&table[at], slot_value(insertion.hash, insertion.entry));
    }
    true
}

#[inline(always)]
fn slot_value(hash: u64, entry: u32) -> u64 {
    u64::from(entry) | hash & 0xffff_ffff_0000_0000
}

/// Fills slots of the array that nobody counts yet.
fn append(slots: &[DenseSlot], insertions: &[Insertion], seq: u64) {
    for (slot, insertion) in slots.iter().zip(insertions) {
        slot.entry.store(u64::from(insertion.entry), Ordering::Relaxed);
        slot.inserted.store(seq, Ordering::Relaxed);
    }
}

fn at<T: Shared>(space: &Space, granule: u32) -> Result<&T> {
    space
        .mapping
        .at(granule)
        .ok_or_else(|| Error::corrupt(format!("granule {granule} lies outside of the arena")))
}

fn dense_slots(space: &Space, granule: u32, capacity: usize) -> Result<&[DenseSlot]> {
    let offset = granule as usize * GRANULE + size_of::<Dense>();
    let slots = space.mapping.slice(offset, capacity);
    slots.ok_or_else(|| Error::corrupt(format!("the array at granule {granule} lies outside of the arena")))
}

/// Takes blocks for an index of `slots` slots and its array.
fn take(space: &Space, heap: &mut Heap, slots: usize) -> Result<Result<(u32, u32), NoRoom>> {
    let table = 1 + (slots as u64 * 8).div_ceil(GRANULE as u64);
    let dense = 1 + (fill(slots) * size_of::<DenseSlot>()).div_ceil(GRANULE) as u64;
    let Some(table_at) = heap.take(space, table)? else {
        return Ok(Err(NoRoom { granules: table }));
    };
    match heap.take(space, dense) {
        Ok(Some(dense_at)) => Ok(Ok((table_at, dense_at))),
        // The caller may go on after an error: what was taken is given back.
        Ok(None) => {
            heap.put_back(space, table_at)?;
            Ok(Err(NoRoom { granules: dense }))
        }
        Err(error) => {
            heap.put_back(space, table_at)?;
            Err(error)
        }
    }
}

/// What a walk over the old array keeps.
#[derive(Default)]
struct Kept {
    /// Slots of the new array.
    slots: Vec<(u32, u64)>,
    /// Entries of the new index.
    entries: Vec<Insertion>,
    /// Entries that go, with their tombstones.
    dropped: Vec<(u32, u32)>,
    /// Behind the last slot that is alive.
    live_end: usize,
}

fn walk(space: &Space, seq: u64, recyclable: u64, pending: impl Fn(u32) -> bool) -> Result<Kept> {
    let (slots, _) = View::new(space, seq.wrapping_sub(1))
        .dense()
        .map_err(|t| t.damage(space))?;
    let mut kept = Kept::default();
    for slot in slots {
        let granule = slot.entry.load(Ordering::Relaxed) as u32;
        let inserted = slot.inserted.load(Ordering::Relaxed);
        let entry: &Entry = at(space, granule)?;
        let newest = low(entry.newest.load(Ordering::Relaxed));
        let version: &Version = at(space, newest)?;
        let current = version.inserted.load(Ordering::Relaxed);
        if current != inserted {
            // An older insertion: visible only to snapshots before the key was inserted again.
            if current > recyclable {
                kept.slots.push((granule, inserted));
            }
            continue;
        }
        // Each entry has exactly one current slot, so it is met here once.
        let dead = high(version.older.load(Ordering::Relaxed)) & TOMBSTONE != 0;
        let unseen = dead && version.head.birth.load(Ordering::Relaxed) <= recyclable;
        if !unseen {
            kept.slots.push((granule, inserted));
            if !dead {
                kept.live_end = kept.slots.len();
            }
        }
        if unseen && !pending(granule) {
            kept.dropped.push((granule, newest));
        } else {
            let hash = entry.hash.load(Ordering::Relaxed);
            kept.entries.push(Insertion {
                hash,
                entry: granule,
                new_entry: true,
            });
        }
    }
    Ok(kept)
}

/// Makes index and array anew, insertions included.
#[cold]
fn rebuild(
    space: &Space,
    heap: &mut Heap,
    seq: u64,
    insertions: &[Insertion],
    pending: impl Fn(u32) -> bool,
    record: &mut Assignments,
) -> Result<Result<(), NoRoom>> {
    let reader = &space.control().reader;
    let mut kept = walk(space, seq, heap.recyclable(), pending)?;
    kept.entries.extend(insertions.iter().filter(|i| i.new_entry));
    let needed = (kept.slots.len() + insertions.len()).max(kept.entries.len());
    // At most a quarter full, so that the next rebuild is at least an eighth of the table away.
    let bits = (needed * 4).next_power_of_two().ilog2().max(MIN_BITS);
    let (table_at, dense_at) = match take(space, heap, 1 << bits)? {
        Ok(blocks) => blocks,
        Err(no_room) => return Ok(Err(no_room)),
    };
    fill_table(space, table_at, 1 << bits, seq, &kept.entries)?;
    fill_dense(space, dense_at, fill(1 << bits), seq, &kept, insertions)?;
    for old in [
        reader.root.load(Ordering::Relaxed) >> 8,
        reader.dense.load(Ordering::Relaxed),
    ] {
        if old != 0 {
            heap.retire(space, old as u32, seq)?;
        }
    }
    for (entry, tombstone) in &kept.dropped {
        heap.retire(space, *entry, seq)?;
        heap.retire(space, *tombstone, seq)?;
    }
    let offset = |word: &Word64| space.mapping.offset_of(word);
    record.push((offset(&reader.dense), u64::from(dense_at)));
    record.push((offset(&reader.root), u64::from(table_at) << 8 | u64::from(bits)));
    if !kept.dropped.is_empty() && !planted(Fault::NoGeneration) {
        // Last: a reader that sees the new generation looks its handle's key up in the new index.
        record.push((
            offset(&reader.generation),
            reader.generation.load(Ordering::Relaxed).wrapping_add(1),
        ));
    }
    Ok(Ok(()))
}

fn fill_table(space: &Space, granule: u32, slots: usize, seq: u64, entries: &[Insertion]) -> Result<()> {
    let head: &Table = at(space, granule)?;
    let table: Option<&[Word64]> = space
        .mapping
        .slice(granule as usize * GRANULE + size_of::<Table>(), slots);
    let table = table.ok_or_else(|| Error::corrupt("a new index lies outside of the arena"))?;
    table.iter().for_each(|slot| slot.store(0, Ordering::Relaxed));
    for entry in entries {
        let mut at = group_of(entry.hash, slots / GROUP) * GROUP;
        while table[at].load(Ordering::Relaxed) != 0 {
            at = (at + 1) & (slots - 1);
        }
        table[at].store(slot_value(entry.hash, entry.entry), Ordering::Relaxed);
    }
    head.head.birth.store(seq, Ordering::Relaxed);
    head.used.store(entries.len() as u64, Ordering::Relaxed);
    Ok(())
}

fn fill_dense(
    space: &Space,
    granule: u32,
    capacity: usize,
    seq: u64,
    kept: &Kept,
    insertions: &[Insertion],
) -> Result<()> {
    let slots = dense_slots(space, granule, capacity)?;
    for (slot, (entry, inserted)) in slots.iter().zip(&kept.slots) {
        slot.entry.store(u64::from(*entry), Ordering::Relaxed);
        slot.inserted.store(*inserted, Ordering::Relaxed);
    }
    append(&slots[kept.slots.len()..], insertions, seq);
    let end = kept.slots.len() + insertions.len();
    let live_end = if insertions.is_empty() { kept.live_end } else { end };
    let dense: &Dense = at(space, granule)?;
    dense.head.birth.store(seq, Ordering::Relaxed);
    dense.capacity.store(capacity as u64, Ordering::Relaxed);
    dense.len.store(end as u64, Ordering::Relaxed);
    dense.live_end.store(live_end as u64, Ordering::Relaxed);
    Ok(())
}
