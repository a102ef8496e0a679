//! The redo record: how a commit becomes visible as a whole, and how a dead writer's commit is finished.
//!
//! **Words.** `marker` equals `seq` while nothing is decided. The record is a list of assignments (byte offset, new
//! value) to the few words of a namespace that change: heads of entries, slots of the index, free lists, `bump`. The
//! values are absolute, so they may be assigned any number of times by any number of dying recoverers.
//!
//! **Writer**, under the lock: the record; `marker = seq + 1`, the instant at which the commit is decided; the
//! assignments; `seq = seq + 1`, the instant at which it is visible.
//!
//! **Recovery** ([`recover`]): whoever takes the lock next and finds `marker ≠ seq` assigns again and publishes. If the
//! marker was not stored there is nothing to undo: whatever the dead writer stored before meant nothing yet. It looks
//! at `marker` whether or not the kernel reported a death, because the next record would overwrite a decided one.
//!
//! **Ordering.** The record is stored before `marker` (Release, pairs with the recoverer's Acquire). Each assignment is
//! a Release store, so a reader that follows it sees what it leads to, and `seq` comes after all of them.

use crate::chunks;
use crate::error::{Error, Result};
use crate::fault::{self, Fault, planted};
use crate::layout::{RECORD_INLINE, high, low, pack};
use crate::log::list_words;
use crate::news::{Done, Event};
use crate::reclaim;
use crate::space::Space;
use crate::sync::{Ordering, Word, Word64};

/// Writes the record. `block` is the granule of a block that is large enough, or 0 for the one in the control block.
#[inline]
pub fn write(space: &Space, assignments: &[(u64, u64)], block: u32) -> Result<()> {
    write_into(space, words(space, assignments.len(), block)?, assignments, block);
    Ok(())
}

#[inline(always)]
fn write_into(space: &Space, words: &[Word64], assignments: &[(u64, u64)], block: u32) {
    let control = space.control();
    if planted(Fault::MarkerFirst) {
        let next = control.reader.seq.load(Ordering::Relaxed).wrapping_add(1);
        control.writer.marker.store(next, Ordering::Release);
    }
    for (pair, (offset, value)) in words.chunks_exact(2).zip(assignments) {
        pair[0].store(*offset, Ordering::Relaxed);
        pair[1].store(*value, Ordering::Relaxed);
    }
    let shape = pack(assignments.len() as u32, block);
    control.writer.record.store(shape, Ordering::Relaxed);
}

fn words(space: &Space, assignments: usize, block: u32) -> Result<&[Word64]> {
    let words = if block == 0 {
        space.control().record.get(..2 * assignments)
    } else {
        list_words(&space.mapping, block, 2 * assignments)
    };
    words.ok_or_else(|| {
        Error::corrupt(format!(
            "a commit record of {assignments} assignments does not fit its block"
        ))
    })
}

/// Decides commit `seq`, whose record is written, and makes it visible. `hint` is what a watcher will look at first, see
/// `ReaderLine`.
#[inline(always)]
pub fn publish(space: &Space, seq: u64, hint: u64) -> Result<()> {
    decide(space, seq, hint, || apply(space))
}

/// [`write`] and [`publish`] for a commit that changes a few words, all of them at hand: it assigns to them what it has
/// written into the record, and does not read that back.
#[inline(always)]
pub fn publish_few<const N: usize>(space: &Space, seq: u64, hint: u64, assignments: [(&Word64, u64); N]) -> Result<()> {
    const { assert!(N <= RECORD_INLINE) };
    let offsets = assignments.map(|(word, value)| (space.mapping.offset_of(word), value));
    write_into(space, &space.control().record, &offsets, 0);
    decide(space, seq, hint, || {
        // Release: as in `apply`.
        assignments
            .iter()
            .for_each(|(word, value)| word.store(*value, Ordering::Release));
        Ok(())
    })
}

#[inline(always)]
fn decide(space: &Space, seq: u64, hint: u64, assign: impl FnOnce() -> Result<()>) -> Result<()> {
    let control = space.control();
    fault::before_marker(space, seq);
    // Release: the record, the log slot and all new blocks are there when the marker is.
    control.writer.marker.store(seq, Ordering::Release);
    if planted(Fault::SeqFirst) {
        control.reader.seq.store(seq, Ordering::Release);
    }
    assign()?;
    // Right before `seq`, so that the line moves once.
    control.reader.hint.store(hint, Ordering::Relaxed);
    // Release pairs with the Acquire of every reader. Who wakes sleepers next needs a fence first, see `event`.
    control.reader.seq.store(seq, Ordering::Release);
    Ok(())
}

/// In `marker`, beside the number of the newest commit: the record changes the namespace's own blocks and no key.
const MAINTENANCE: u64 = 1 << 63;

/// Assigns a record that changes no key, and so is no commit that anybody sees.
pub fn maintain(space: &Space, seq: u64) -> Result<()> {
    let marker = &space.control().writer.marker;
    marker.store(seq | MAINTENANCE, Ordering::Release);
    apply(space)?;
    marker.store(seq, Ordering::Release);
    Ok(())
}

/// Assigns what the record says. For commit and recovery alike.
#[inline]
fn apply(space: &Space) -> Result<()> {
    let shape = space.control().writer.record.load(Ordering::Relaxed);
    let (count, block) = (low(shape) as usize, high(shape));
    if block == 0 && count > RECORD_INLINE {
        return Err(Error::corrupt(format!("the commit record claims {count} assignments")));
    }
    for pair in words(space, count, block)?.chunks_exact(2) {
        let offset = pair[0].load(Ordering::Relaxed);
        let Some(target) = space.mapping.assignable(offset) else {
            return Err(Error::corrupt(format!(
                "the commit record assigns to offset {offset}, where no commit changes anything"
            )));
        };
        // Release: what the value leads to was written before.
        target.store(pair[1].load(Ordering::Relaxed), Ordering::Release);
    }
    Ok(())
}

/// Whether the last owner of the lock left something to finish.
#[inline(always)]
pub fn is_unfinished(space: &Space) -> bool {
    let control = space.control();
    // Acquire pairs with the Release of `marker`: its record is there.
    let marker = control.writer.marker.load(Ordering::Acquire);
    marker != control.reader.seq.load(Ordering::Relaxed) || control.writer.rebuilding.load(Ordering::Relaxed) != 0
}

/// Finishes what the last owner of the lock left. Only under the lock; `died` when that owner is known to be dead.
#[cold]
pub fn recover(space: &Space, died: bool) -> Result<()> {
    let control = space.control();
    let marker = control.writer.marker.load(Ordering::Acquire);
    let seq = control.reader.seq.load(Ordering::Acquire);
    let mut done = Done::default();
    if marker == seq.wrapping_add(1) && planted(Fault::NoRedo) {
        control.reader.seq.store(marker, Ordering::Release);
    } else if marker == seq.wrapping_add(1) {
        publish(space, marker, 0)?;
        done.commit = true;
    } else if marker == seq | MAINTENANCE {
        maintain(space, seq)?;
        done.maintenance = true;
    } else if marker != seq {
        return Err(Error::corrupt(format!(
            "namespace {:?}: its marker says {marker}, its newest commit is {seq}",
            space.name
        )));
    }
    if control.writer.rebuilding.load(Ordering::Relaxed) != 0 {
        reclaim::rebuild_free_lists(space, None)?;
        done.free_lists = true;
    }
    if died && !planted(Fault::NoSweep) {
        done.chunks = chunks::sweep(&space.mapping, space.index)?;
    }
    control.writer.recoveries.fetch_add(1, Ordering::Relaxed);
    // The dead writer may have published without waking anybody.
    space.wake_all();
    space.mapping.news().note(Event::Recovered {
        namespace: space.name.clone(),
        seq: space.seq(),
        done,
    });
    Ok(())
}
