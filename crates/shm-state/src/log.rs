//! The commit log: a ring of records that watchers read, and where a writer finds the totals of the last commit.
//!
//! **Guarantee.** Commit `t` can be read while `floor < t`; its slot then says `t` before and after reading.
//!
//! **Writer**, under the lock, before the commit is decided: slot.seq = 0 ([`open`]), the fields, slot.seq = t. Nobody looks at a
//! slot before `seq` has reached it, so a writer that dies there leaves nothing to undo; the next one writes the same
//! slot again. The slot of `t` was that of `t − ring`; a writer raises the floor past it first.
//!
//! **Reader**: slot.seq, the fields, fence, slot.seq again, and the floor last of all. More than two changes lie in a block that is
//! retired by the very commit, so the same check covers it.

use std::fmt;
use std::ops::Deref;

use crate::arena::Mapping;
use crate::layout::{GRANULE, ListBlock, LogSlot, high, low, pack};
use crate::pin::still_valid;
use crate::space::Space;
use crate::sync::{Ordering, Word, Word64};

/// Changes that fit into a slot.
pub const INLINE_CHANGES: usize = 2;
const IDENTICAL: u32 = 1 << 31;

/// What a commit did to one key.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
/// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
/// let [first, second] = [1, 2].map(|seq| namespace.record(seq).unwrap().expect("it is recent").changes[0]);
/// assert_eq!((first.old, first.identical), (0, false)); // the key is new
/// assert_eq!((second.old, second.identical), (first.new, true));
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Granule of the key's entry.
    pub entry: u32,
    /// Granule of its new version.
    pub new: u32,
    /// Granule of the version before, 0 if the key had none.
    pub old: u32,
    /// The new value equals the old one, or the key is absent before and after.
    pub identical: bool,
}

/// What a commit did, key by key: a slice. One or two changes take no memory of their own, so that a watcher of such
/// commits allocates nothing.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let mut transaction = namespace.begin(Deadline::never())?;
/// for name in ["door", "lamp", "stove"] {
///     transaction.put(&KeyRef::new(1, name.as_bytes()), 1, b"on")?;
/// }
/// let seq = transaction.commit()?;
/// let changes = namespace.record(seq)?.expect("it is recent").changes;
/// assert_eq!(changes.len(), 3);
/// assert!(changes.iter().all(|change| change.old == 0)); // all of the keys are new
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Changes {
    few: [Change; INLINE_CHANGES],
    /// How many of `few` count.
    len: usize,
    /// All of them, if they are more than fit.
    many: Vec<Change>,
}

impl Changes {
    fn set(&mut self, changes: impl Iterator<Item = Change>, count: usize) {
        self.many.clear();
        self.len = 0;
        if count > INLINE_CHANGES {
            self.many.extend(changes);
            return;
        }
        for (to, change) in self.few.iter_mut().zip(changes) {
            *to = change;
            self.len += 1;
        }
    }
}

impl Deref for Changes {
    type Target = [Change];

    fn deref(&self) -> &[Change] {
        if self.many.is_empty() {
            &self.few[..self.len]
        } else {
            &self.many
        }
    }
}

impl PartialEq for Changes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Changes {}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// One commit.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let seq = namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
/// let record = namespace.record(seq)?.expect("it is recent");
/// assert_eq!((record.seq, record.pid, record.live), (1, std::process::id(), 1));
/// assert_eq!(record.identity, namespace.identity());
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub seq: u64,
    /// The identity through which it was made.
    pub identity: u32,
    /// The process that made it.
    pub pid: u32,
    /// When: nanoseconds since the Unix epoch. The clock moves on with the scheduler's tick, every 1 to 10 ms, unless the
    /// writer asked for a precise one ([`Namespace::with_precise_time`](crate::Namespace::with_precise_time)), which costs
    /// it 20 to 25 ns a commit.
    pub time_ns: u64,
    /// Keys alive after it.
    pub live: u32,
    /// No key changed its value.
    pub identical: bool,
    /// What it did.
    pub changes: Changes,
}

/// What reading the log at a commit found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// The record.
    Record,
    /// It fell out of the history.
    Gone,
    /// The slot is in bounds of the history and does not hold what it must: damage.
    Damaged,
}

/// What the writer puts into a slot, the changes apart.
pub struct Header {
    pub identity: u32,
    pub pid: u32,
    pub time_ns: u64,
    pub live: u32,
    pub identical: bool,
    pub retired_total: u64,
}

/// Takes a slot for another commit: before anything else is written into it.
#[inline(always)]
pub fn open(slot: &LogSlot) {
    slot.seq.store(0, Ordering::Relaxed);
    // The zero is seen before any field changes: a reader that sees a new field sees it too, and gives up.
    Word64::fence(Ordering::Release);
}

/// Writes the opened slot of commit `seq`. `block` holds the changes if they do not fit.
pub fn write(slot: &LogSlot, seq: u64, header: &Header, changes: &[Change], block: u32) {
    match changes {
        [change] => write_one(slot, seq, header, *change),
        [first, second] => write_slot(slot, seq, header, 2, || {
            slot.inline[0].store(pack(first.entry, first.old), Ordering::Relaxed);
            slot.inline[1].store(pack(flagged(first), second.entry), Ordering::Relaxed);
            slot.inline[2].store(pack(second.old, flagged(second)), Ordering::Relaxed);
        }),
        _ => write_slot(slot, seq, header, changes.len() as u32, || {
            slot.inline[0].store(u64::from(block), Ordering::Relaxed);
        }),
    }
}

/// Writes the opened slot of a commit of one change.
#[inline(always)]
pub fn write_one(slot: &LogSlot, seq: u64, header: &Header, change: Change) {
    write_slot(slot, seq, header, 1, || {
        slot.inline[0].store(pack(change.entry, change.old), Ordering::Relaxed);
        slot.inline[1].store(u64::from(flagged(&change)), Ordering::Relaxed);
    });
}

#[inline(always)]
fn write_slot(slot: &LogSlot, seq: u64, header: &Header, changes: u32, inline: impl FnOnce()) {
    slot.writer.store(pack(header.identity, header.pid), Ordering::Relaxed);
    let count = changes | if header.identical { IDENTICAL } else { 0 };
    slot.counts.store(pack(count, header.live), Ordering::Relaxed);
    slot.time.store(header.time_ns, Ordering::Relaxed);
    slot.retired_total.store(header.retired_total, Ordering::Relaxed);
    inline();
    // Release: the fields are there when the number is.
    slot.seq.store(seq, Ordering::Release);
}

#[inline(always)]
fn flagged(change: &Change) -> u32 {
    change.new | if change.identical { IDENTICAL } else { 0 }
}

/// Granules of the block that holds `changes` changes.
pub fn block_granules(changes: usize) -> u64 {
    1 + (changes as u64 * 16).div_ceil(GRANULE as u64)
}

/// Fills the block of a large commit.
pub fn write_block(words: &[Word64], changes: &[Change]) {
    for (pair, change) in words.chunks_exact(2).zip(changes) {
        pair[0].store(pack(change.entry, flagged(change)), Ordering::Relaxed);
        pair[1].store(u64::from(change.old), Ordering::Relaxed);
    }
}

/// Words of a list block at `granule`.
pub fn list_words(mapping: &Mapping, granule: u32, words: usize) -> Option<&[Word64]> {
    mapping.slice(granule as usize * GRANULE + size_of::<ListBlock>(), words)
}

/// Keys alive and granules retired after commit `seq`, for the writer, who knows that the slot is intact.
#[inline(always)]
pub fn totals(space: &Space, seq: u64) -> (u32, u64) {
    let slot = space.log_slot(seq);
    (
        high(slot.counts.load(Ordering::Relaxed)),
        slot.retired_total.load(Ordering::Relaxed),
    )
}

/// Keys alive after commit `seq`, if the log still has it.
pub fn live(space: &Space, seq: u64) -> Option<u32> {
    if seq == 0 {
        return Some(0); // before the first commit; a slot that says 0 may be one that is being written
    }
    let slot = space.log_slot(seq);
    // Acquire pairs with the Release of the slot's number.
    let before = slot.seq.load(Ordering::Acquire);
    let live = high(slot.counts.load(Ordering::Relaxed));
    Word64::fence(Ordering::Acquire);
    (before == seq && slot.seq.load(Ordering::Relaxed) == seq).then_some(live)
}

/// Reads commit `seq`, which is at most the visible one, into `record`.
pub fn read(space: &Space, seq: u64, record: &mut Record) -> Found {
    let Some(before) = seq.checked_sub(1) else {
        return Found::Gone;
    };
    let slot = space.log_slot(seq);
    // Acquire, and the fence: pair with the Release of the slot's number, and with the fence behind its zero.
    let complete = slot.seq.load(Ordering::Acquire) == seq && read_fields(space, slot, record) && {
        Word64::fence(Ordering::Acquire);
        slot.seq.load(Ordering::Relaxed) == seq
    };
    // A commit is readable while floor < seq, that is: while the snapshot before it is. The floor comes last: a slot that
    // was taken for another commit after a look at the floor would be mistaken for a damaged one.
    if !still_valid(&space.control().reader.floor, before) {
        return Found::Gone;
    }
    if complete {
        record.seq = seq;
        return Found::Record;
    }
    Found::Damaged
}

fn read_fields(space: &Space, slot: &LogSlot, record: &mut Record) -> bool {
    let writer = slot.writer.load(Ordering::Relaxed);
    let counts = slot.counts.load(Ordering::Relaxed);
    (record.identity, record.pid) = (low(writer), high(writer));
    record.time_ns = slot.time.load(Ordering::Relaxed);
    (record.live, record.identical) = (high(counts), low(counts) & IDENTICAL != 0);
    let count = (low(counts) & !IDENTICAL) as usize;
    if count > INLINE_CHANGES {
        let block = slot.inline[0].load(Ordering::Relaxed) as u32;
        let Some(words) = list_words(&space.mapping, block, 2 * count) else {
            return false;
        };
        let changes = words.chunks_exact(2).map(|pair| {
            let (first, second) = (pair[0].load(Ordering::Relaxed), pair[1].load(Ordering::Relaxed));
            change(low(first), low(second), high(first))
        });
        record.changes.set(changes, count);
    } else {
        let mut halves = [0u32; 6];
        for (i, word) in slot.inline.iter().enumerate() {
            let word = word.load(Ordering::Relaxed);
            (halves[2 * i], halves[2 * i + 1]) = (low(word), high(word));
        }
        let changes = halves.chunks_exact(3).take(count);
        record.changes.set(changes.map(|h| change(h[0], h[1], h[2])), count);
    }
    true
}

fn change(entry: u32, old: u32, new: u32) -> Change {
    Change {
        entry,
        new: new & !IDENTICAL,
        old,
        identical: new & IDENTICAL != 0,
    }
}
