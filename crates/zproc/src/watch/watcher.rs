//! A watcher identity: how far it has watched.
//!
//! Threads that share an identity share its cursor, which only moves forward. `walk` says how they divide the updates
//! between them. What is known of a watcher lies apart from its access ([`Progress`]), so that those who tell of
//! updates (`notify`) know it without keeping the namespace open.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::condition::Condition;
use super::subject::Subject;
use crate::access::Access;
use crate::error::Result;
use crate::store::Store;
use crate::trail::Trail;

/// Access to a namespace, with a cursor.
pub(crate) struct Watcher {
    pub(crate) access: Access,
    progress: Arc<Progress>,
}

/// How far a watcher is.
#[derive(Default)]
pub(crate) struct Progress {
    /// The last update that was consumed.
    cursor: AtomicU64,
    /// What was looked at beyond that, the newest last.
    looked: Mutex<Vec<Arc<Looked>>>,
    /// Where the moves of the cursor are noted, for the parent of this process.
    trail: OnceLock<Arc<Trail>>,
}

/// How far the watchers for one thing have looked without finding it.
pub(crate) struct Looked {
    sought: Sought,
    /// No update up to this one, but those up to the cursor, is what is sought.
    at: AtomicU64,
}

/// What a watcher looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sought {
    pub(crate) subject: Subject,
    pub(crate) condition: Option<Condition>,
    pub(crate) duplicates: bool,
}

/// So many different things are remembered, besides those that somebody is told of.
const MOST_REMEMBERED: usize = 8;

impl Watcher {
    /// Starts with the cursor at the update `since`, or at the newest.
    pub(crate) fn new(access: Access, since: Option<u64>) -> Self {
        let now = || access.store().and_then(Store::seq).unwrap_or(0);
        let progress = Progress {
            cursor: AtomicU64::new(since.unwrap_or_else(now)),
            ..Progress::default()
        };
        Self {
            access,
            progress: Arc::new(progress),
        }
    }

    /// Another identity, with the cursor at the newest update. If that cannot be told, since a server is away, the cursor is
    /// where this one's is: so no update is missed.
    pub(crate) fn fork(&self) -> Self {
        let access = self.access.fork();
        let now = access.store().and_then(Store::seq);
        Self::new(access, Some(now.unwrap_or_else(|_| self.cursor())))
    }

    /// How far it is, for those who do not keep it.
    pub(crate) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// The last update that was consumed. Relaxed, as everywhere: nothing is published through the cursor.
    pub(crate) fn cursor(&self) -> u64 {
        self.progress.cursor()
    }

    /// Moves the cursor, unless another thread has moved it: then says where it stands.
    pub(super) fn move_cursor(&self, from: u64, to: u64) -> Result<(), u64> {
        let cursor = &self.progress.cursor;
        cursor.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed)?;
        self.progress.leave_trail();
        Ok(())
    }

    /// Moves the cursor to `to` at least.
    pub(super) fn raise_cursor(&self, to: u64) {
        self.progress.cursor.fetch_max(to, Ordering::Relaxed);
        self.progress.leave_trail();
    }

    /// Consumes all updates until now.
    pub(crate) fn go_live(&self) -> Result<()> {
        let store = self.access.store()?;
        let now = store.seq()?;
        self.raise_cursor(now);
        store.publish_cursor(now);
        Ok(())
    }
}

impl Progress {
    /// The last update that was consumed.
    pub(crate) fn cursor(&self) -> u64 {
        self.cursor.load(Ordering::Relaxed)
    }

    /// Notes the cursor, as it is now and whenever it moves, for the parent of this process. The first trail counts.
    pub(crate) fn set_trail(&self, trail: Arc<Trail>) {
        let _ = self.trail.set(trail);
        self.leave_trail();
    }

    #[inline]
    fn leave_trail(&self) {
        if let Some(trail) = self.trail.get() {
            trail.note(self.cursor());
        }
    }

    /// Up to which update it is known that none is what is sought; the cursor at least.
    pub(super) fn looked_at(&self, sought: &Sought) -> u64 {
        let looked = self.looked.lock();
        let known = looked.iter().find(|looked| looked.sought == *sought);
        known.map_or(0, |looked| looked.at()).max(self.cursor())
    }

    /// Remembers that no update up to `at`, but those up to the cursor, is what is sought.
    pub(super) fn remember(&self, sought: &Sought, at: u64) {
        self.looked_for(sought).raise(at);
    }

    /// The memory of what is sought, which lasts for as long as somebody has it.
    pub(super) fn looked_for(&self, sought: &Sought) -> Arc<Looked> {
        let mut looked = self.looked.lock();
        if let Some(known) = looked.iter().find(|looked| looked.sought == *sought) {
            return Arc::clone(known);
        }
        // The oldest go first.
        let idle = |looked: &Arc<Looked>| Arc::strong_count(looked) == 1;
        let mut too_many = (looked.iter().filter(|looked| idle(looked)).count() + 1).saturating_sub(MOST_REMEMBERED);
        looked.retain(|looked| {
            let goes = too_many > 0 && idle(looked);
            too_many -= usize::from(goes);
            !goes
        });
        let new = Arc::new(Looked {
            sought: sought.clone(),
            at: AtomicU64::new(0),
        });
        looked.push(Arc::clone(&new));
        new
    }
}

impl Looked {
    /// See the field.
    pub(super) fn at(&self) -> u64 {
        self.at.load(Ordering::Relaxed)
    }

    /// No update up to `at` is what is sought either.
    pub(super) fn raise(&self, at: u64) {
        self.at.fetch_max(at, Ordering::Relaxed);
    }

    /// What is sought.
    pub(super) fn sought(&self) -> &Sought {
        &self.sought
    }
}
