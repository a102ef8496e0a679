//! The most frequent commit on a straight path: one value over an existing one.
//!
//! It is the general commit (`commit`) for this case: the same words through the same record, in the same order up to
//! stores that mean nothing yet, and an unlock that does not name the lock to the kernel once more. It saves the
//! bookkeeping of a transaction, which costs as much again as the commit itself. Whatever is out of the ordinary (a new key,
//! a value of another size class, an empty free list, a reserve to be filled) goes the general way, before anything was
//! stored.

use crate::commit::{is_word, same_value, wake};
use crate::error::Result;
use crate::fault::{Fault, planted};
use crate::heap::{class_of, class_size};
use crate::key::KeyRef;
use crate::layout::{BlockHead, Entry, LogSlot, RESERVE, TOMBSTONE, Version, high, low, pack};
use crate::lock::Owner;
use crate::log::{self, Change, Header};
use crate::namespace::EntryRef;
use crate::read::{View, has_short_key, store_version};
use crate::reclaim;
use crate::record;
use crate::signature::Signature;
use crate::space::Space;
use crate::sync::{Ordering, Word, Word64};
use crate::sys::time::Deadline;
use crate::write::{Transaction, enter, newest, version_granules};

/// Sets one key, as one commit. Returns the number of the commit. `place` is where its entry was, if the caller knows.
///
/// Rare cases get by value, one by one, what they need: whatever they took by address would be written to memory in every
/// case.
#[inline]
pub fn put(
    space: &Space,
    signature: Signature,
    key: &KeyRef<'_>,
    place: Option<EntryRef>,
    tag: u16,
    bytes: &[u8],
    deadline: Deadline,
) -> Result<u64> {
    let guard = enter(space, deadline)?;
    let seq = newest(space);
    let totals = log::totals(space, seq);
    // SAFETY: we hold the writer lock, and `Transaction::entered` below is only called after the last use.
    let limits = unsafe { &mut space.scratch().limits };
    reclaim::trim_history(space, seq, totals.1, limits);
    let Some(plan) = plan(space, seq, totals, key, place, bytes.len()) else {
        return put_generally(space, guard.into_owner(), signature, *key, tag, bytes);
    };
    let next = seq.wrapping_add(1);
    overwrite(space, next, signature, tag, bytes, &plan)?;
    guard.unlock_undisturbed();
    wake(space, &[key.hash()]);
    space.mapping.news().tell();
    Ok(next)
}

#[cold]
#[inline(never)]
fn put_generally(
    space: &Space,
    owner: Owner,
    signature: Signature,
    key: KeyRef<'_>,
    tag: u16,
    bytes: &[u8],
) -> Result<u64> {
    let mut transaction = Transaction::entered(space, space.guard_of(owner), newest(space), signature);
    transaction.put(&key, tag, bytes)?;
    transaction.commit()
}

/// The blocks and words that an overwriting commit involves.
struct Plan<'n> {
    entry: u32,
    entry_head: &'n Entry,
    old: u32,
    old_version: &'n Version,
    /// Block for the new version: the front of the free list.
    new: u32,
    new_version: &'n Version,
    list: &'n Word64,
    /// The list after its front is taken.
    rest: u32,
    tail: &'n BlockHead,
    slot: &'n LogSlot,
    live: u32,
    retired_total: u64,
}

/// Looks everything up, storing nothing. `None` when the case is not the ordinary one.
#[inline(always)]
fn plan<'n>(
    space: &'n Space,
    seq: u64,
    (live, retired): (u32, u64),
    key: &KeyRef<'_>,
    place: Option<EntryRef>,
    len: usize,
) -> Option<Plan<'n>> {
    let control = space.control();
    // Blocks that are newer than what this process has seen of the arena are for the general way, as damage is.
    let blocks = space.mapping.blocks();
    let (entry, entry_head) = match place {
        Some(place)
            if place.generation == control.reader.generation.load(Ordering::Relaxed)
                && place.namespace == std::ptr::from_ref(control).addr() =>
        {
            (place.entry, blocks.at::<Entry>(place.entry)?)
        }
        _ => {
            let at_hand = match View::recent(space, seq).candidate_at_hand(key) {
                Ok(Some(entry)) => blocks.at::<Entry>(entry).map(|head| (entry, head)),
                Ok(None) => return None,
                Err(()) => None,
            };
            match at_hand {
                Some((entry, head)) if has_short_key(head, key) => (entry, head),
                _ => {
                    let entry = find_elsewhere(space, seq, *key)?;
                    (entry, blocks.at::<Entry>(entry)?)
                }
            }
        }
    };
    let granules = version_granules(len);
    if granules >= u64::from(crate::layout::CHUNK_GRANULES) {
        return None;
    }
    let mut class = class_of(granules as u32);
    class += usize::from(u64::from(class_size(class)) < granules);
    let list = &control.classes[class];
    let word = list.load(Ordering::Relaxed);
    let (new, last) = (low(word), high(word));
    if new == last || high(control.writer.reserve.load(Ordering::Relaxed)) < RESERVE {
        return None;
    }
    let new_version = blocks.at::<Version>(new)?;
    let link = new_version.head.link.load(Ordering::Relaxed);
    if new_version.head.retired.load(Ordering::Relaxed) > control.writer.recyclable.load(Ordering::Relaxed)
        || high(link) != class_size(class)
        || low(link) == 0
    {
        return None;
    }
    let old = low(entry_head.newest.load(Ordering::Relaxed));
    let old_version = blocks.at::<Version>(old)?;
    let tail = blocks.at::<BlockHead>(last)?;
    let old_granules = high(old_version.head.link.load(Ordering::Relaxed));
    if high(old_version.older.load(Ordering::Relaxed)) & TOMBSTONE != 0
        || old_granules == 0
        || class_of(old_granules) != class
    {
        return None;
    }
    Some(Plan {
        entry,
        entry_head,
        old,
        old_version,
        new,
        new_version,
        list,
        rest: low(link),
        tail,
        slot: space.log_slot(seq.wrapping_add(1)),
        live,
        retired_total: retired.wrapping_add(u64::from(old_granules)),
    })
}

/// The entry of a key that is not the first in its first group with that hash, or is long. `None` also when there is
/// damage, which the general way meets again.
#[cold]
#[inline(never)]
fn find_elsewhere(space: &Space, seq: u64, key: KeyRef<'_>) -> Option<u32> {
    View::new(space, seq).find(&key).ok().flatten()
}

/// The commit; see `commit` for the order.
#[inline(always)]
fn overwrite(space: &Space, seq: u64, signature: Signature, tag: u16, bytes: &[u8], plan: &Plan<'_>) -> Result<()> {
    let Plan {
        entry, old, new, slot, ..
    } = *plan;
    // First of all one store to each line that a watcher may have: they come back from its core all at once, instead of
    // one after the other at the end. The old version and the entry are alive until the commit, so their `retired` means
    // nothing; and nothing counts beyond a tail.
    plan.old_version.head.retired.store(seq, Ordering::Relaxed);
    plan.tail.link.store(
        pack(old, high(plan.tail.link.load(Ordering::Relaxed))),
        Ordering::Relaxed,
    );
    plan.entry_head.head.retired.store(0, Ordering::Relaxed);
    log::open(slot);
    let inserted = plan.old_version.inserted.load(Ordering::Relaxed);
    if planted(Fault::HeadBeforeVersion) {
        let newest = pack(new, high(plan.entry_head.newest.load(Ordering::Relaxed)));
        plan.entry_head.newest.store(newest, Ordering::Release);
    }
    store_version(
        space,
        new,
        plan.new_version,
        &crate::read::NewVersion { seq, old, inserted },
        tag,
        bytes,
    )?;
    let identical = match bytes.as_array::<8>() {
        Some(word) => is_word(plan.old_version, tag, u64::from_le_bytes(*word)),
        None => same_value(space, plan.old_version, plan.new_version)?,
    };
    let header = Header {
        identity: signature.identity(),
        pid: space.pid(),
        time_ns: signature.time_ns(),
        live: plan.live,
        identical,
        retired_total: plan.retired_total,
    };
    log::write_one(
        slot,
        seq,
        &header,
        Change {
            entry,
            new,
            old,
            identical,
        },
    );
    let newest = pack(new, high(plan.entry_head.newest.load(Ordering::Relaxed)));
    let assignments = [(&plan.entry_head.newest, newest), (plan.list, pack(plan.rest, old))];
    record::publish_few(space, seq, pack(entry, new), assignments)
}
