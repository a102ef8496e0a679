//! Transactions over the socket: made here, and validated by the server when they are committed.
//!
//! What is read comes from a snapshot, and is noted; what is changed is kept, and seen by what is read later. At the end
//! all of it goes to the server in one request, which commits the changes if nothing that was read has changed since the
//! snapshot, and says that there is a conflict if something has. A transaction that has read nothing has no conflict.
//!
//! Whoever asks for all keys (their number, their order, the last of them) has read everything: then the whole state is
//! fetched once, and kept as the transaction sees it.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use indexmap::IndexMap;
use shm_state::{Key, KeyRef, Payload};

use super::{Call, Remote, RemoteSnapshot, long, ns, odd, wire_keys};
use crate::error::{Error, Result};
use crate::wire::message::{Bytes, Change, Commit, LIST_MOST, Reply, Request};

/// What came of a commit.
pub(crate) enum Committed {
    /// It is made; the number of its update, if it changed anything.
    Made(Option<u64>),
    /// Something that it had read has changed.
    Conflict,
}

/// A transaction.
pub(crate) struct Overlay<'s> {
    remote: &'s Remote,
    /// Taken when something is read for the first time.
    base: OnceCell<RemoteSnapshot<'s>>,
    reads: RefCell<HashSet<Key>>,
    /// All keys and values as this transaction sees them, from the first look at all of them on.
    all: RefCell<Option<IndexMap<Key, Payload>>>,
    has_read_all: Cell<bool>,
    /// In their order.
    steps: Vec<Step>,
    /// What the steps left of the keys that they name.
    changed: HashMap<Key, Option<Payload>>,
    cleared: bool,
    /// A failure of a call that cannot say so: it fails the commit.
    failed: RefCell<Option<Error>>,
}

enum Step {
    Put(Key, Payload),
    Remove(Key),
    Clear,
}

impl<'s> Overlay<'s> {
    pub(crate) fn new(remote: &'s Remote) -> Self {
        Self {
            remote,
            base: OnceCell::new(),
            reads: RefCell::default(),
            all: RefCell::default(),
            has_read_all: Cell::new(false),
            steps: Vec::new(),
            changed: HashMap::new(),
            cleared: false,
            failed: RefCell::default(),
        }
    }

    fn base(&self) -> Result<&RemoteSnapshot<'s>> {
        if let Some(base) = self.base.get() {
            return Ok(base);
        }
        let base = self.remote.snapshot_for_transaction()?;
        Ok(self.base.get_or_init(|| base))
    }

    /// What `f` makes of the value of a key, as the transaction sees it.
    pub(crate) fn get_with<R>(&self, key: &KeyRef<'_>, f: impl FnOnce(u16, &[u8]) -> R) -> Result<Option<R>> {
        let owned = key.to_owned();
        if let Some(changed) = self.changed.get(&owned) {
            return Ok(changed.as_ref().map(|payload| f(payload.tag(), payload.bytes())));
        }
        if self.cleared {
            return Ok(None);
        }
        if let Some(all) = &*self.all.borrow() {
            return Ok(all.get(&owned).map(|payload| f(payload.tag(), payload.bytes())));
        }
        self.reads.borrow_mut().insert(owned);
        self.base()?.get(key, f)
    }

    pub(crate) fn contains(&self, key: &KeyRef<'_>) -> Result<bool> {
        Ok(self.get_with(key, |_, _| ())?.is_some())
    }

    pub(crate) fn put(&mut self, key: &KeyRef<'_>, tag: u16, bytes: &[u8]) {
        self.take_step(Step::Put(key.to_owned(), Payload::copy_of(tag, bytes)));
    }

    pub(crate) fn remove(&mut self, key: &KeyRef<'_>) {
        self.take_step(Step::Remove(key.to_owned()));
    }

    pub(crate) fn clear(&mut self) {
        self.take_step(Step::Clear);
    }

    pub(crate) fn pop_last(&mut self) -> Result<Option<(Key, Payload)>> {
        let last = self.with_all(|all| all.last().map(|(key, value)| (key.clone(), value.clone())))?;
        if let Some((key, _)) = &last {
            self.take_step(Step::Remove(key.clone()));
        }
        Ok(last)
    }

    /// Zero if it cannot be told; then the commit fails.
    pub(crate) fn len(&self) -> usize {
        self.with_all(IndexMap::len).unwrap_or_else(|error| {
            self.failed.borrow_mut().get_or_insert(error);
            0
        })
    }

    pub(crate) fn entries(&self) -> Result<Vec<(Key, Payload)>> {
        self.with_all(|all| all.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn with_all<R>(&self, f: impl FnOnce(&IndexMap<Key, Payload>) -> R) -> Result<R> {
        let mut all = self.all.borrow_mut();
        if let Some(all) = &*all {
            return Ok(f(all));
        }
        let mut map = IndexMap::new();
        if !self.cleared {
            map.extend(self.base()?.entries()?);
            self.has_read_all.set(true);
        }
        self.steps.iter().for_each(|step| step.apply(&mut map));
        Ok(f(all.insert(map)))
    }

    fn take_step(&mut self, step: Step) {
        if let Some(all) = self.all.get_mut() {
            step.apply(all);
        }
        match &step {
            Step::Put(key, value) => drop(self.changed.insert(key.clone(), Some(value.clone()))),
            Step::Remove(key) => drop(self.changed.insert(key.clone(), None)),
            Step::Clear => {
                // What came before makes no difference any more.
                self.steps.clear();
                self.changed.clear();
                self.cleared = true;
            }
        }
        self.steps.push(step);
    }

    /// Has the server commit it.
    pub(crate) fn commit(self, patience: Option<Duration>) -> Result<Committed> {
        if let Some(error) = self.failed.into_inner() {
            return Err(error);
        }
        if self.steps.is_empty() {
            // All that was read is of one snapshot: there was an instant at which it was so.
            return Ok(Committed::Made(None));
        }
        let mut reads: Vec<Key> = self.reads.into_inner().into_iter().collect();
        // So many keys are as good as all.
        let read_all = self.has_read_all.get() || reads.len() > LIST_MOST;
        if read_all {
            reads.clear();
        }
        let base = self.base.get().map_or(0, RemoteSnapshot::seq);
        let read = |reply: Reply<'_>| match reply {
            Reply::Committed { seq, changed } => Ok(Committed::Made(changed.then_some(seq))),
            Reply::Conflict => Ok(Committed::Conflict),
            other => Err(odd(&other)),
        };
        self.remote.with_lock(patience, |deadline| {
            let request = Request::Commit(Commit {
                base,
                reads: wire_keys(&reads),
                read_all,
                changes: self.steps.iter().map(Step::wire).collect(),
                lock_ns: deadline.remaining().map(ns),
            });
            let session = self.remote.session()?;
            self.remote
                .call_in(&session, Call::Long, &request, long(deadline), read)
        })
    }
}

impl Step {
    fn apply(&self, map: &mut IndexMap<Key, Payload>) {
        match self {
            Self::Put(key, value) => drop(map.insert(key.clone(), value.clone())),
            Self::Remove(key) => drop(map.shift_remove(key)),
            Self::Clear => map.clear(),
        }
    }

    fn wire(&self) -> Change<'_> {
        match self {
            Self::Put(key, value) => Change::Put((key.tag(), Bytes(key.bytes())), (value.tag(), Bytes(value.bytes()))),
            Self::Remove(key) => Change::Remove((key.tag(), Bytes(key.bytes()))),
            Self::Clear => Change::Clear,
        }
    }
}
