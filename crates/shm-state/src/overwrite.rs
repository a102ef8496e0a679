//! The most frequent commit on a straight path: one value over an existing one.
//!
//! It is the general commit (`commit`) for this case: the same words through the same record, in the same order up to
//! stores that mean nothing yet. It saves the bookkeeping of a transaction, which costs as much again as the commit
//! itself. Whatever is out of the ordinary (a new key, a value of another size class, an empty free list, a reserve to be
//! filled) goes the general way, before anything was stored.

use crate::commit::{is_word, same_value, wake};
use crate::error::Result;
use crate::fault::{Fault, planted};
use crate::heap::{class_of, class_size};
use crate::key::KeyRef;
use crate::layout::{BlockHead, Entry, RESERVE, TOMBSTONE, Version, high, low, pack};
use crate::lock::LockGuard;
use crate::log::{self, Change, Header};
use crate::namespace::EntryRef;
use crate::read::{View, store_version};
use crate::reclaim;
use crate::record;
use crate::signature::Signature;
use crate::space::Space;
use crate::sync::{Ordering, Word, Word64};
use crate::sys::time::Deadline;
use crate::write::{Transaction, enter, newest, version_granules};

/// What a write puts where.
pub struct Put<'a> {
    /// The key.
    pub key: &'a KeyRef<'a>,
    /// Where its entry was, if the caller knows.
    pub place: Option<EntryRef>,
    /// The type tag.
    pub tag: u16,
    /// The value.
    pub bytes: &'a [u8],
}

/// Sets one key, as one commit. Returns the number of the commit.
#[inline]
pub fn put(space: &Space, signature: Signature, put: &Put<'_>, deadline: Deadline) -> Result<u64> {
    let guard = enter(space, deadline)?;
    let seq = newest(space);
    let totals = log::totals(space, seq);
    // SAFETY: we hold the writer lock, and `Transaction::entered` below is only called after the last use.
    let limits = unsafe { &mut space.scratch().limits };
    reclaim::trim_history(space, seq, totals.1, limits);
    let Some(plan) = plan(space, seq, totals, put)? else {
        return put_generally(space, guard, seq, signature, put);
    };
    let next = seq.wrapping_add(1);
    overwrite(space, next, signature, put, &plan)?;
    guard.unlock();
    wake(space, &[put.key.hash()]);
    space.mapping.news().tell();
    Ok(next)
}

#[cold]
fn put_generally(space: &Space, guard: LockGuard<'_>, seq: u64, signature: Signature, put: &Put<'_>) -> Result<u64> {
    let mut transaction = Transaction::entered(space, guard, seq, signature);
    transaction.put(put.key, put.tag, put.bytes)?;
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
    live: u32,
    retired_total: u64,
}

/// Looks everything up, storing nothing. `None` when the case is not the ordinary one.
#[inline(always)]
fn plan<'n>(space: &'n Space, seq: u64, (live, retired): (u32, u64), put: &Put<'_>) -> Result<Option<Plan<'n>>> {
    let control = space.control();
    let mapping = &*space.mapping;
    let view = View::recent(space, seq);
    let generation = control.reader.generation.load(Ordering::Relaxed);
    let entry = match put.place {
        Some(place) if place.generation == generation && place.namespace == std::ptr::from_ref(control).addr() => {
            place.entry
        }
        _ => match view.find(put.key).map_err(|torn| torn.damage(space))? {
            Some(entry) => entry,
            None => return Ok(None),
        },
    };
    let granules = version_granules(put.bytes.len());
    if granules >= u64::from(crate::layout::CHUNK_GRANULES) {
        return Ok(None);
    }
    let mut class = class_of(granules as u32);
    class += usize::from(u64::from(class_size(class)) < granules);
    let list = &control.classes[class];
    let word = list.load(Ordering::Relaxed);
    let (new, last) = (low(word), high(word));
    if new == last || high(control.writer.reserve.load(Ordering::Relaxed)) < RESERVE {
        return Ok(None);
    }
    // Blocks that are newer than what this process has seen of the arena are for the general way, as damage is.
    let blocks = mapping.blocks();
    let Some(entry_head) = blocks.at::<Entry>(entry) else {
        return Ok(None);
    };
    let Some(new_version) = blocks.at::<Version>(new) else {
        return Ok(None);
    };
    let link = new_version.head.link.load(Ordering::Relaxed);
    if new_version.head.retired.load(Ordering::Relaxed) > control.writer.recyclable.load(Ordering::Relaxed)
        || high(link) != class_size(class)
        || low(link) == 0
    {
        return Ok(None);
    }
    let old = low(entry_head.newest.load(Ordering::Relaxed));
    let Some(old_version) = blocks.at::<Version>(old) else {
        return Ok(None);
    };
    let Some(tail) = blocks.at::<BlockHead>(last) else {
        return Ok(None);
    };
    let old_granules = high(old_version.head.link.load(Ordering::Relaxed));
    if high(old_version.older.load(Ordering::Relaxed)) & TOMBSTONE != 0
        || old_granules == 0
        || class_of(old_granules) != class
    {
        return Ok(None);
    }
    let retired_total = retired.wrapping_add(u64::from(old_granules));
    let rest = low(link);
    Ok(Some(Plan {
        entry,
        entry_head,
        old,
        old_version,
        new,
        new_version,
        list,
        rest,
        tail,
        live,
        retired_total,
    }))
}

/// The commit; see `commit` for the order.
#[inline(always)]
fn overwrite(space: &Space, seq: u64, signature: Signature, put: &Put<'_>, plan: &Plan<'_>) -> Result<()> {
    let Plan { entry, old, new, .. } = *plan;
    // First of all one store to each line that a watcher may have: they come back from its core all at once, instead of
    // one after the other at the end. The old version and the entry are alive until the commit, so their `retired` means
    // nothing; and nothing counts beyond a tail.
    plan.old_version.head.retired.store(seq, Ordering::Relaxed);
    plan.tail.link.store(
        pack(old, high(plan.tail.link.load(Ordering::Relaxed))),
        Ordering::Relaxed,
    );
    plan.entry_head.head.retired.store(0, Ordering::Relaxed);
    space.log_slot(seq).seq.store(0, Ordering::Relaxed);
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
        put.tag,
        put.bytes,
    )?;
    let identical = match put.bytes.as_array::<8>() {
        Some(word) => is_word(plan.old_version, put.tag, u64::from_le_bytes(*word)),
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
        space.log_slot(seq),
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
