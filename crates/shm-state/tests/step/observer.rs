//! What readers see while a writer stands still in the middle of an operation: the state before or the state after,
//! by every way of reading, and once the new one, never the old one again.
//!
//! The observer is another process than the stopped one, so it would wait for ever if reading ever waited for a
//! writer. It uses one seat for pins that come and go, one for the snapshot that it holds from the beginning, and one
//! for a snapshot that is taken in the midst of the operation and kept over the next points.

use shm_state::{Arena, Filter, KeyRef, Namespace, Next, Pinned, Place};

use crate::common::model::{self, Model, assert_same, same};
use crate::kill::aftermath;

/// Points over which a snapshot is kept that was taken in the midst of the operation.
const KEPT: u64 = 5;

/// Seats that an observer takes.
pub const SEATS: usize = 3;

/// The identities through which an observer reads.
pub struct Eyes([Namespace; SEATS]);

impl Eyes {
    /// Opens them.
    pub fn of(namespace: &Namespace) -> Self {
        Self(std::array::from_fn(|_| namespace.fork().unwrap()))
    }
}

/// Reads one namespace at point after point of one operation.
pub struct Observer<'n> {
    arena: &'n Arena,
    reader: &'n Namespace,
    before: &'n Model,
    /// The state that the operation leads to, if it changes any.
    after: Option<&'n Model>,
    seq: u64,
    floor: u64,
    is_new: bool,
    held: Pinned<'n>,
    /// Older snapshots that somebody holds, and what is in them.
    older: (&'n [Pinned<'n>], &'n Model),
    floater: &'n Namespace,
    floating: Option<Pinned<'n>>,
    looks: u64,
    /// All keys before or after, with the places that those had which were ever set.
    keys: Vec<(&'n Vec<u8>, Option<Place<'n>>)>,
    /// The snapshots of the history, oldest first.
    history: Vec<(u64, Model)>,
    /// Those that differ: what the log must say.
    changed: Vec<&'n Vec<u8>>,
}

impl<'n> Observer<'n> {
    /// Takes note of the state before the operation.
    pub fn new(
        arena: &'n Arena,
        eyes: &'n Eyes,
        before: &'n Model,
        after: Option<&'n Model>,
        older: (&'n [Pinned<'n>], &'n Model),
    ) -> Self {
        let Eyes([reader, holder, floater]) = eyes;
        let mut keys: Vec<&Vec<u8>> = before.keys().collect();
        keys.extend(
            after
                .into_iter()
                .flat_map(Model::keys)
                .filter(|key| !before.contains_key(*key)),
        );
        let end = after.unwrap_or(before);
        let changed = keys.iter().copied().filter(|key| before.get(*key) != end.get(*key));
        let changed = changed.collect();
        let place = |key: &'n Vec<u8>| (key, reader.place(&KeyRef::new(0, key)).unwrap());
        let snapshot = |seq| model::contents_of(&reader.pin_at(seq).unwrap().unwrap());
        Self {
            arena,
            reader,
            before,
            after,
            seq: reader.seq(),
            floor: reader.floor(),
            is_new: false,
            held: holder.pin().unwrap(),
            older,
            floater,
            floating: None,
            looks: 0,
            keys: keys.into_iter().map(place).collect(),
            history: (reader.floor()..=reader.seq())
                .map(|seq| (seq, snapshot(seq)))
                .collect(),
            changed,
        }
    }

    /// Reads everything. Panics when something is there that must not be.
    pub fn look(&mut self) {
        self.looks += 1;
        let seq = self.reader.seq();
        self.learn(seq);
        let state = self.state_at(seq);
        self.look_at_keys(state);
        let pinned = self.reader.pin().expect("a pin");
        assert_eq!(pinned.seq(), seq, "a new pin");
        self.look_at_snapshot(&pinned, "a new snapshot");
        drop(pinned);
        self.look_at_snapshot(&self.held, "a snapshot held all along");
        if let ([older, ..], state) = self.older {
            assert_same(&model::contents_of(older), state, "an older snapshot");
        }
        if let Some(floating) = &self.floating {
            self.look_at_snapshot(floating, "a snapshot taken in the midst");
        }
        if self.looks % KEPT == 1 {
            self.floating = None;
            self.floating = Some(self.floater.pin().expect("another pin"));
        }
        self.look_at_log(seq);
        self.look_at_the_oldest();
        let names = self.arena.namespaces().expect("the namespaces");
        assert!(names == ["swept"] || names == ["swept", "new"], "{names:?}");
        assert_eq!(self.reader.seq(), seq, "nobody commits meanwhile");
    }

    /// Whether the new state has been seen.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// What was seen once is there for good.
    fn learn(&mut self, seq: u64) {
        let is_new = seq != self.seq;
        assert!(!is_new || (self.after.is_some() && seq == self.seq + 1), "commit {seq}");
        assert!(is_new || !self.is_new, "the old state came back");
        self.is_new = is_new;
        let floor = self.reader.floor();
        assert!(
            self.floor <= floor && floor <= seq,
            "the floor went from {} to {floor}",
            self.floor
        );
        self.floor = floor;
    }

    fn state_at(&self, seq: u64) -> &'n Model {
        if seq == self.seq {
            self.before
        } else {
            self.after.expect("only operations that commit have a new state")
        }
    }

    fn look_at_keys(&self, state: &Model) {
        for (key, place) in &self.keys {
            let value = state.get(*key);
            let key = KeyRef::new(0, key);
            model::assert_read(&model::reads(self.reader, &key), value, key.bytes(), "the newest");
            assert_eq!(self.reader.contains(&key).expect("contains"), value.is_some());
            // Through handles of before and of now; they may send the reader back to the key.
            for place in [*place, self.reader.place(&key).expect("a place")]
                .into_iter()
                .flatten()
            {
                let by_handle = place.peek(|_, bytes| bytes.to_vec()).map(|found| ("peek", found));
                let at = self.reader.get_at(&place, |_, bytes| bytes.to_vec()).expect("get_at");
                let reads: Vec<_> = by_handle.into_iter().chain(at.map(|found| ("get_at", found))).collect();
                model::assert_read(&reads, value, key.bytes(), "by a handle");
            }
        }
        assert!(self.reader.get(&KeyRef::new(0, b"never set")).expect("get").is_none());
        assert_eq!(self.reader.len().expect("len"), state.len(), "len");
    }

    fn look_at_snapshot(&self, pinned: &Pinned<'_>, which: &str) {
        let state = self.state_at(pinned.seq());
        assert_same(&model::contents_of(pinned), state, which);
        assert_eq!(pinned.len().expect("len"), state.len(), "{which}: its length");
        let backwards = pinned.iter().expect("iter").rev().map(|pair| pair.expect("a pair").0);
        assert!(
            backwards
                .map(|key| key.bytes().to_vec())
                .eq(state.keys().rev().cloned()),
            "{which}: backwards"
        );
        for key in &self.changed {
            let looks = model::looks(pinned, &KeyRef::new(0, key));
            model::assert_read(&looks, state.get(*key), key, which);
        }
    }

    /// The snapshot that is recycled first.
    fn look_at_the_oldest(&self) {
        let oldest = self.history.iter().find(|(seq, _)| *seq >= self.floor);
        if let Some((seq, state)) = oldest {
            let pinned = self.reader.pin_at(*seq).expect("the oldest snapshot");
            let pinned = pinned.expect("the snapshot at the floor");
            assert_same(&model::contents_of(&pinned), state, "the snapshot at the floor");
        }
    }

    fn look_at_log(&self, seq: u64) {
        aftermath::check_log(self.reader);
        let next = self.seq + 1;
        let record = self.reader.record(next).expect("the record");
        let mut cursor = self.seq;
        let found = self.reader.next_match(&mut cursor, seq, Filter::Any, true, None);
        let found = found.expect("the next match");
        if seq == self.seq {
            assert_eq!(
                (record, found),
                (None, Next::Nothing),
                "a commit that is not visible yet"
            );
            return;
        }
        assert_eq!((found, cursor), (Next::Match(next), next));
        let record = record.expect("a commit that is visible");
        let state = self.state_at(seq);
        assert_eq!((record.seq, record.live as usize), (next, state.len()));
        let keys = self
            .reader
            .changed_keys(&record)
            .expect("keys")
            .expect("keys in the history");
        let listed = |key: &[u8]| keys.iter().any(|(k, identical)| k.bytes() == key && !identical);
        assert!(self.changed.iter().all(|key| listed(key)), "the log lacks a key");
        if self.floor <= self.seq {
            let old = self.reader.pin_at(self.seq).expect("the snapshot before");
            let old = old.expect("the snapshot before, above the floor");
            assert!(
                same(&model::contents_of(&old), self.before),
                "the snapshot before, by its number"
            );
        }
    }
}
