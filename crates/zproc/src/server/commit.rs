//! The commit of a transaction that a client has made: validated, and then made.
//!
//! **Validation** goes through the updates since the one that was read from. It is done before the writer lock is taken,
//! for which others wait, and under it for those updates only that came in between. It costs a look at each key that they
//! changed, however much was read.

use std::collections::HashSet;

use shm_state::{Deadline, Filter, Key, KeyRef, Namespace, Next};

use super::accept::Shared;
use super::session::{SLICE, Wrong, locked, own, still_busy};
use crate::wire::Sender;
use crate::wire::message::{Bytes, Change, Commit, Reply};

/// So many keys are compared one by one with those that updates change.
const FEW: usize = 16;
/// So many updates are looked at before a look at the clock.
const STEP: u64 = 256;

/// How many updates a validation went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Validated {
    before_the_lock: u64,
    under_the_lock: u64,
}

/// Commits a transaction, if nothing that it has read has changed.
pub(super) fn commit(
    namespace: &Namespace,
    shared: &Shared,
    sender: &mut Sender,
    commit: &Commit<'_>,
) -> Result<Reply<'static>, Wrong> {
    let (reply, validated) = validate_and_commit(namespace, shared, sender, commit)?;
    let Validated {
        before_the_lock,
        under_the_lock,
    } = validated;
    tracing::trace!(target: "zproc", before_the_lock, under_the_lock, "the transaction of a client was validated");
    Ok(reply)
}

fn validate_and_commit(
    namespace: &Namespace,
    shared: &Shared,
    sender: &mut Sender,
    commit: &Commit<'_>,
) -> Result<(Reply<'static>, Validated), Wrong> {
    let mut reads = Reads::of(commit);
    let mut slice = Deadline::after(SLICE);
    // Who has read nothing names no update to begin with, and there may have been any number.
    while !reads.are_none() {
        let newest = namespace.seq();
        let until = newest.min(reads.unchanged.saturating_add(STEP));
        if reads.have_changed(namespace, until)? {
            return Ok((Reply::Conflict, reads.validated(0)));
        }
        if until == newest {
            break;
        }
        if slice.passed() {
            still_busy(shared, sender)?;
            slice = Deadline::after(SLICE);
        }
    }
    locked(shared, sender, commit.lock_ns, |deadline| {
        // The lock may have been waited for.
        if reads.have_changed(namespace, namespace.seq())? {
            return Ok((Reply::Conflict, reads.validated(0)));
        }
        let mut transaction = namespace.begin(deadline)?;
        let now = transaction.base_seq();
        let before = reads.looked_at;
        // Nobody else writes from here on.
        if reads.have_changed(namespace, now)? {
            return Ok((Reply::Conflict, reads.validated(reads.looked_at - before)));
        }
        let validated = reads.validated(reads.looked_at - before);
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
        let changed = seq != now;
        Ok((Reply::Committed { seq, changed }, validated))
    })
}

/// What a transaction has read, and until when it is known not to have changed.
struct Reads {
    all: bool,
    keys: Vec<Key>,
    /// The same, if they are many.
    many: HashSet<Key>,
    unchanged: u64,
    /// Updates so far.
    looked_at: u64,
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
            looked_at: 0,
        }
    }

    fn validated(&self, under_the_lock: u64) -> Validated {
        Validated {
            before_the_lock: self.looked_at - under_the_lock,
            under_the_lock,
        }
    }

    fn are_none(&self) -> bool {
        !self.all && self.keys.is_empty()
    }

    /// Whether any of it has changed between then and `now`.
    fn have_changed(&mut self, namespace: &Namespace, now: u64) -> shm_state::Result<bool> {
        if !self.are_none() {
            self.looked_at += now.saturating_sub(self.unchanged);
        }
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use super::*;
    use crate::state::Builder;

    fn put(namespace: &Namespace, key: u64, value: u64) {
        let (key, value) = (key.to_le_bytes(), value.to_le_bytes());
        let key = KeyRef::new(1, &key);
        namespace.put(&key, None, 1, &value, Deadline::never()).unwrap();
    }

    /// What many others wrote meanwhile is gone through before the lock is had, and under it only what came while the lock
    /// was waited for: so a long validation holds up nobody.
    #[test]
    fn under_the_lock_only_those_updates_are_validated_that_came_last() {
        const MANY: u64 = 5000;
        let state = Builder::anonymous().history(1 << 14, 64 << 20).create().unwrap();
        let shared = Shared::new(state, None, std::process::id());
        let others = shared.state.namespace_of("default", false).unwrap();
        // One key that was read, and more than are compared one by one.
        for keys in [1, 4 * FEW as u64] {
            put(&others, 0, others.seq());
            let base = others.seq();
            (0..MANY).for_each(|n| put(&others, 1000 + n % 7, n));
            let read: Vec<_> = (0..keys).map(|n| (1u8, n.to_le_bytes())).collect();
            let commit = Commit {
                base,
                reads: read.iter().map(|(tag, key)| (*tag, Bytes(key))).collect(),
                read_all: false,
                changes: vec![Change::Put((1, Bytes(b"key")), (1, Bytes(b"value")))],
                lock_ns: None,
            };
            let commit_now = || {
                let (server, _client) = UnixStream::pair().unwrap();
                let mut frames = crate::wire::Frames::new(Arc::new(server)).unwrap();
                let client = shared.state.namespace_of("default", false).unwrap();
                match validate_and_commit(&client, &shared, &mut frames.sender, &commit) {
                    Ok((Reply::Committed { changed, .. }, validated)) => (changed, validated),
                    Ok((other, _)) => panic!("{other:?}"),
                    Err(_) => panic!("it failed"),
                }
            };
            let expected = |before_the_lock, under_the_lock| Validated {
                before_the_lock,
                under_the_lock,
            };
            std::thread::scope(|scope| {
                let mut writing = others.begin(Deadline::never()).unwrap();
                let committing = scope.spawn(commit_now);
                // The writer goes on when the other has validated, and waits for it.
                while !shared.state.status().unwrap().namespaces[0].lock.has_waiters {
                    assert!(!committing.is_finished(), "it did not wait for the lock");
                    std::thread::yield_now();
                }
                writing
                    .put(&KeyRef::new(1, b"another"), 1, &keys.to_le_bytes())
                    .unwrap();
                writing.commit().unwrap();
                let (changed, validated) = committing.join().unwrap();
                // The last one before the lock, if the client was told just then that it is still waited for.
                let last = validated.under_the_lock;
                assert!(changed && last <= 1, "{validated:?}");
                assert_eq!(validated, expected(MANY + 1 - last, last));
            });
            // By now the own update and that of the other writer are among them.
            assert_eq!(commit_now(), (true, expected(MANY + 2, 0)));
        }
    }
}
