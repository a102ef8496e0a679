//! What a transaction does to commit, in the order of its stores.
//!
//! 1. Index and array take the inserted keys, in slots that nobody counts, or in new blocks.
//! 2. A commit of many changes fills a block for the log, and one for the record; both are retired at birth.
//! 3. Superseded blocks are chained behind the tails of their free lists.
//! 4. The log slot.
//! 5. The record: absolute new values of every word that changes.
//! 6. `record::publish`: the marker, the assignments, `seq`. Nothing there allocates or panics.
//! 7. Unlock; wake those who sleep on the changed keys.
//!
//! Steps 1 to 5 are [`prepare`]. It may fail at any point, or die: nothing of it means anything yet.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::event;
use crate::fault::{Fault, planted};
use crate::heap::NoRoom;
use crate::key::INLINE;
use crate::layout::{Entry, RECORD_INLINE, TOMBSTONE, Version, high, pack};
use crate::log::{self, Change, Header};
use crate::read::{Torn, View};
use crate::record;
use crate::space::Space;
use crate::sync::{Ordering, Word, Word64};
use crate::table::{self, Insertion};
use crate::write::{Pending, Transaction};

/// Everything up to the marker. `false` when there is nothing to commit.
#[inline]
pub fn prepare(tx: &mut Transaction<'_>) -> Result<bool> {
    let identical = collect(tx)?;
    if tx.scratch.changes.is_empty() {
        return Ok(false);
    }
    if !tx.scratch.insertions.is_empty() {
        insert(tx)?;
    } else if let Some(end) = tx.scratch.live_end {
        let dense = tx.space.control().reader.dense.load(Ordering::Relaxed) as u32;
        if let Some(dense) = tx.space.mapping.at::<crate::layout::Dense>(dense) {
            tx.scratch
                .record
                .push((tx.space.mapping.offset_of(&dense.live_end), end as u64));
        }
    }
    let log_block = if tx.scratch.changes.len() > log::INLINE_CHANGES {
        write_log_block(tx)?
    } else {
        0
    };
    supersede(tx)?;
    tx.scratch.heap.refill_reserve(tx.space)?;
    let record_block = take_record_block(tx)?;
    let scratch = &mut *tx.scratch;
    scratch.heap.finish(tx.space, &mut scratch.record)?;
    let (_, retired_before) = log::totals(tx.space, scratch.seq.wrapping_sub(1));
    let header = Header {
        identity: scratch.signature.identity(),
        pid: tx.space.pid(),
        time_ns: scratch.signature.time_ns(),
        live: scratch.live,
        identical,
        retired_total: retired_before.wrapping_add(scratch.heap.retired),
    };
    let slot = tx.space.log_slot(scratch.seq);
    log::open(slot);
    log::write(slot, scratch.seq, &header, &scratch.changes, log_block);
    record::write(tx.space, &scratch.record, record_block)?;
    Ok(true)
}

/// Lists the changes and the insertions; says whether all changes are identical.
#[inline]
fn collect(tx: &mut Transaction<'_>) -> Result<bool> {
    let mut all_identical = true;
    let mut ordered = true;
    let mut last_order = 0;
    for at in 0..tx.scratch.pending.len() {
        let pending = tx.scratch.pending[at];
        if pending.new == 0 {
            if pending.new_entry {
                tx.scratch.heap.put_back(tx.space, pending.entry)?;
            }
            continue;
        }
        let version = |granule| -> Result<&Version> {
            tx.space
                .mapping
                .at(granule)
                .ok_or_else(|| Torn(granule).damage(tx.space))
        };
        let identical =
            pending.was_live && pending.live && same_value(tx.space, version(pending.old)?, version(pending.new)?)?;
        all_identical &= identical;
        let Pending { entry, new, old, .. } = pending;
        tx.scratch.changes.push(Change {
            entry,
            new,
            old,
            identical,
        });
        if pending.order != 0 {
            ordered &= pending.order > last_order;
            last_order = pending.order;
            let Pending { hash, new_entry, .. } = pending;
            tx.scratch.insertions.push(Insertion { hash, entry, new_entry });
        }
    }
    if !ordered {
        sort_insertions(tx);
    }
    Ok(all_identical)
}

#[cold]
fn sort_insertions(tx: &mut Transaction<'_>) {
    let mut inserted: Vec<Pending> = tx
        .scratch
        .pending
        .iter()
        .filter(|p| p.new != 0 && p.order != 0)
        .copied()
        .collect();
    inserted.sort_by_key(|p| p.order);
    tx.scratch.insertions.clear();
    let insertions = inserted.iter().map(|p| Insertion {
        hash: p.hash,
        entry: p.entry,
        new_entry: p.new_entry,
    });
    tx.scratch.insertions.extend(insertions);
}

/// [`same_value`] for a value of one word that is at hand, over one that is alive.
#[inline(always)]
pub fn is_word(old: &Version, tag: u16, word: u64) -> bool {
    high(old.older.load(Ordering::Relaxed)) == u32::from(tag)
        && old.len.load(Ordering::Relaxed) == 8
        && old.payload[0].load(Ordering::Relaxed) == word
}

/// Whether two versions hold the same type and bytes.
#[inline(always)]
pub fn same_value(space: &Space, old: &Version, new: &Version) -> Result<bool> {
    let shape = |v: &Version| (high(v.older.load(Ordering::Relaxed)), v.len.load(Ordering::Relaxed));
    if shape(old) != shape(new) {
        return Ok(false);
    }
    let (tag, len) = shape(old);
    if tag & TOMBSTONE != 0 {
        return Ok(true);
    }
    if len <= INLINE as u64 {
        let differ =
            |word: usize| old.payload[word].load(Ordering::Relaxed) ^ new.payload[word].load(Ordering::Relaxed);
        // What is behind a value is none of it.
        return Ok((len == 0 || differ(0) == 0) & (len <= 8 || differ(1) == 0));
    }
    same_long_value(space, old, new, len as usize)
}

#[cold]
#[inline(never)]
fn same_long_value(space: &Space, old: &Version, new: &Version, len: usize) -> Result<bool> {
    let view = View::new(space, u64::MAX);
    let words = |v| view.payload_words(v, len).map_err(|torn: Torn| torn.damage(space));
    Ok(words(old)?
        .iter()
        .zip(words(new)?)
        .all(|(a, b)| a.load(Ordering::Relaxed) == b.load(Ordering::Relaxed)))
}

/// Puts the inserted keys into index and array, reclaiming as far as needed.
fn insert(tx: &mut Transaction<'_>) -> Result<()> {
    let mut effort = [false, true].into_iter();
    loop {
        let scratch = &mut *tx.scratch;
        // Entries of absent keys that come back: they must not be dropped with their tombstones.
        let revived = scratch
            .pending
            .iter()
            .filter(|p| p.new != 0 && !p.was_live && !p.new_entry);
        let revived: HashSet<u32> = revived.map(|p| p.entry).collect();
        let is_pending = |entry| revived.contains(&entry);
        let (insertions, record) = (&scratch.insertions, &mut scratch.record);
        let wanted: NoRoom =
            match table::insert(tx.space, &mut scratch.heap, scratch.seq, insertions, is_pending, record) {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(no_room)) => no_room,
                Err(error @ Error::FileSystemFull { .. }) => match effort.next() {
                    Some(thorough) => {
                        tx.reclaim(thorough)?;
                        continue;
                    }
                    None => return Err(error),
                },
                Err(error) => return Err(error),
            };
        match effort.next() {
            Some(thorough) => tx.reclaim(thorough)?,
            None => return Err(crate::reclaim::full(tx.space, wanted, tx.scratch.heap.slack())),
        }
    }
}

/// The list of changes of a large commit, in a block that is retired by the commit itself.
#[cold]
fn write_log_block(tx: &mut Transaction<'_>) -> Result<u32> {
    let changes = tx.scratch.changes.len();
    let block = tx.take(log::block_granules(changes))?;
    let words = log::list_words(&tx.space.mapping, block, 2 * changes);
    log::write_block(words.ok_or_else(|| Torn(block).damage(tx.space))?, &tx.scratch.changes);
    tx.scratch.heap.retire_new(tx.space, block, tx.scratch.seq)?;
    Ok(block)
}

/// Retires the versions that are superseded, and has the record assign the new ones to their entries.
#[inline]
fn supersede(tx: &mut Transaction<'_>) -> Result<()> {
    let space = tx.space;
    let scratch = &mut *tx.scratch;
    for pending in scratch.pending.iter().filter(|p| p.new != 0) {
        let entry: &Entry = space
            .mapping
            .at(pending.entry)
            .ok_or_else(|| Torn(pending.entry).damage(space))?;
        let newest = pack(pending.new, high(entry.newest.load(Ordering::Relaxed)));
        if pending.new_entry {
            // Private until the index names it.
            entry.newest.store(newest, Ordering::Relaxed);
        } else {
            scratch.heap.retire(space, pending.old, scratch.seq)?;
            scratch.record.push((space.mapping.offset_of(&entry.newest), newest));
        }
    }
    Ok(())
}

/// A block for a record that does not fit into the control block, or 0.
#[inline]
fn take_record_block(tx: &mut Transaction<'_>) -> Result<u32> {
    let assignments = tx.scratch.record.len() + tx.scratch.heap.assignments();
    if assignments <= RECORD_INLINE {
        Ok(0)
    } else {
        take_large_record_block(tx, assignments)
    }
}

#[cold]
fn take_large_record_block(tx: &mut Transaction<'_>, assignments: usize) -> Result<u32> {
    // Taking and retiring the block may touch two more lists, split one block and extend the heap.
    let block = tx.take(log::block_granules(assignments + 24))?;
    tx.scratch.heap.retire_new(tx.space, block, tx.scratch.seq)?;
    let now = tx.scratch.record.len() + tx.scratch.heap.assignments();
    if now > assignments + 24 {
        // Reclaiming in between touched more lists than foreseen.
        return take_large_record_block(tx, now);
    }
    Ok(block)
}

/// Wakes those who sleep on any of the changed keys. After `seq` was stored and the lock released.
#[inline]
pub fn wake(space: &Space, hashes: &[u64]) {
    if planted(Fault::NoWake) || planted(Fault::WakeBeforePublish) {
        return;
    }
    // The writer's fence of `event`; the lock has just been released.
    Word64::fence_after_unlock();
    let control = space.control();
    let mut woken = event::signal_any(control);
    for hash in hashes {
        woken += event::signal_key(control, *hash);
    }
    if woken > 0 {
        space.control().writer.wakes.fetch_add(1, Ordering::Relaxed);
    }
}
