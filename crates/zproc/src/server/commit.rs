//! The commit of a transaction that a client has made: validated, and then made.
//!
//! **Validation** goes through the updates since the one that was read from. It is done before the writer lock is taken,
//! for which others wait, and under it for those updates only that came in between. It costs a look at each key that they
//! changed, however much was read.

use std::collections::HashSet;

use shm_state::{Deadline, Filter, Key, KeyRef, Namespace, Next};

use super::accept::Shared;
use super::session::{SLICE, Wrong, locked, own, still_busy};
use crate::wire::Frames;
use crate::wire::message::{Bytes, Change, Commit, Reply};

/// So many keys are compared one by one with those that updates change.
const FEW: usize = 16;
/// So many updates are looked at before a look at the clock.
const STEP: u64 = 256;

/// Commits a transaction, if nothing that it has read has changed.
pub(super) fn commit(
    namespace: &Namespace,
    shared: &Shared,
    frames: &mut Frames,
    commit: &Commit<'_>,
) -> Result<Reply<'static>, Wrong> {
    let mut reads = Reads::of(commit);
    let mut slice = Deadline::after(SLICE);
    // Who has read nothing names no update to begin with, and there may have been any number.
    while !reads.are_none() {
        let newest = namespace.seq();
        let until = newest.min(reads.unchanged.saturating_add(STEP));
        if reads.have_changed(namespace, until)? {
            return Ok(Reply::Conflict);
        }
        if until == newest {
            break;
        }
        if slice.passed() {
            still_busy(shared, frames)?;
            slice = Deadline::after(SLICE);
        }
    }
    locked(shared, frames, commit.lock_ns, |deadline| {
        // The lock may have been waited for.
        if reads.have_changed(namespace, namespace.seq())? {
            return Ok(Reply::Conflict);
        }
        let mut transaction = namespace.begin(deadline)?;
        let now = transaction.base_seq();
        // Nobody else writes from here on.
        if reads.have_changed(namespace, now)? {
            return Ok(Reply::Conflict);
        }
        for change in &commit.changes {
            match *change {
                Change::Put((tag, Bytes(key)), (value_tag, Bytes(value))) => {
                    transaction.put(&KeyRef::new(tag, key), value_tag, value)?;
                }
                Change::Remove((tag, Bytes(key))) => {
                    transaction.remove(&KeyRef::new(tag, key))?;
                }
                Change::Clear => transaction.clear()?,
            }
        }
        let seq = transaction.commit()?;
        Ok(Reply::Committed {
            seq,
            changed: seq != now,
        })
    })
}

/// What a transaction has read, and until when it is known not to have changed.
struct Reads {
    all: bool,
    keys: Vec<Key>,
    /// The same, if they are many.
    many: HashSet<Key>,
    unchanged: u64,
}

impl Reads {
    fn of(commit: &Commit<'_>) -> Self {
        let keys = own(&commit.reads);
        let many = if keys.len() > FEW { &*keys } else { &[] };
        Self {
            all: commit.read_all,
            many: many.iter().cloned().collect(),
            keys,
            unchanged: commit.base,
        }
    }

    fn are_none(&self) -> bool {
        !self.all && self.keys.is_empty()
    }

    /// Whether any of it has changed between then and `now`.
    fn have_changed(&mut self, namespace: &Namespace, now: u64) -> shm_state::Result<bool> {
        let filter = match &*self.keys {
            _ if self.all => Filter::Any,
            _ if !self.many.is_empty() => return self.many_have_changed(namespace, now),
            [] => return Ok(false),
            few => Filter::Keys(few),
        };
        let next = namespace.next_match(&mut self.unchanged, now, filter, false, None)?;
        // What fell out of the history may have been one.
        Ok(next != Next::Nothing)
    }

    fn many_have_changed(&mut self, namespace: &Namespace, now: u64) -> shm_state::Result<bool> {
        while self.unchanged < now {
            let seq = self.unchanged + 1;
            let record = namespace.record(seq)?;
            let keys = record.map(|record| namespace.changed_keys(&record)).transpose()?;
            let Some(keys) = keys.flatten() else {
                // It fell out of the history. The keys themselves may tell that they stayed the same.
                let filter = Filter::Keys(&self.keys);
                match namespace.next_match(&mut self.unchanged, seq, filter, false, None)? {
                    Next::Nothing => continue,
                    _ => return Ok(true),
                }
            };
            let mut changed = keys.iter().filter(|(_, identical)| !identical);
            if changed.any(|(key, _)| self.many.contains(key)) {
                return Ok(true);
            }
            self.unchanged = seq;
        }
        Ok(false)
    }
}
