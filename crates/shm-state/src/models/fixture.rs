//! An arena for a model: made once a search, by the engine itself, and as it was then at the start of each execution.

use std::sync::Arc;

use crate::layout::{Entry, GRANULE, low};
use crate::read::View;
use crate::reclaim;
use crate::signature::Signature;
use crate::space::{History, Space};
use crate::sync::{Ordering, Word};
use crate::write::Transaction;
use crate::{Arena, ArenaOptions, Deadline, KeyRef, Namespace};

/// A namespace with something in it.
pub struct Dict {
    _arena: Arena,
    namespace: Namespace,
    granule: u32,
}

impl Dict {
    /// An arena that keeps `count` commits, filled by `fill`.
    pub fn new(count: u32, fill: impl FnOnce(&Namespace)) -> Arc<Self> {
        let options = ArenaOptions {
            capacity: 4 << 20,
            history: History { count, bytes: 1 << 20 },
            ..ArenaOptions::default()
        };
        let arena = Arena::anonymous(&options).expect("an anonymous arena");
        let namespace = arena.namespace("model").expect("the first namespace");
        fill(&namespace);
        let space = namespace.space();
        let granule = (space.mapping.offset_of(space.control()) / GRANULE as u64) as u32;
        Arc::new(Self {
            _arena: arena,
            namespace,
            granule,
        })
    }

    /// The namespace as the arena's maker sees it, to name its words.
    pub fn space(&self) -> &Space {
        self.namespace.space()
    }

    /// The namespace with nothing cached: what an execution begins with.
    pub fn fresh(&self) -> Arc<Space> {
        let old = self.namespace.space();
        let (mapping, attachment) = (Arc::clone(&old.mapping), Arc::clone(&old.attachment));
        let space = Space::new(mapping, attachment, "model".into(), self.granule, old.history);
        Arc::new(space.expect("it was resolved before"))
    }
}

/// A key.
pub fn key(name: &'static str) -> KeyRef<'static> {
    KeyRef::new(1, name.as_bytes())
}

/// Sets a key to a number of one word, in one commit.
pub fn set(namespace: &Namespace, name: &'static str, value: u64) {
    namespace
        .put(&key(name), None, 1, &value.to_le_bytes(), Deadline::never())
        .expect("there is room");
}

/// The number that a key is set to.
pub fn get(namespace: &Namespace, name: &'static str) -> Option<u64> {
    let payload = namespace.get(&key(name)).expect("no damage")?;
    Some(u64::from_le_bytes(payload.bytes().try_into().expect("eight bytes")))
}

impl Dict {
    /// The granules of a key's entry and of its newest version.
    pub fn place(&self, name: &'static str) -> (u32, u32) {
        let view = View::newest(self.space());
        let entry = view.find(&key(name)).expect("no damage").expect("it was set");
        let newest = view.entry(entry).expect("in bounds").newest.load(Ordering::Relaxed);
        (entry, low(newest))
    }

    /// The entry of a key.
    pub fn entry(&self, name: &'static str) -> &Entry {
        self.space().mapping.at(self.place(name).0).expect("in bounds")
    }
}

/// The granule of the newest version of a key, in an execution.
pub fn newest(space: &Space, name: &'static str) -> u32 {
    let view = View::newest(space);
    let entry = view.find(&key(name)).expect("no damage").expect("it was set");
    low(view.entry(entry).expect("in bounds").newest.load(Ordering::Relaxed))
}

/// Gives up all history, as a writer that runs out of room does.
pub fn drop_history(space: &Space) {
    let _transaction = Transaction::begin(space, Signature::NOBODY, Deadline::never()).expect("the lock is free");
    reclaim::drop_history(space, space.seq()).expect("no damage");
}
