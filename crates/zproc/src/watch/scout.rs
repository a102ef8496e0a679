//! Whether a watcher for changes would return at once, asked without consuming anything.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use shm_state::{Namespace, Next, WeakNamespace};

use super::Watch;
use super::watcher::{Looked, Progress, Sought};
use crate::error::Result;
use crate::notify::Lookout;
use crate::shared::Shared;
use crate::store::Store;

/// Looks ahead for a watcher, in the store that it is shown.
pub(crate) struct Scout {
    shared: Arc<Shared>,
    place: Place,
    hashes: Option<Vec<u64>>,
}

/// Where it looks from.
enum Place {
    /// Behind the cursor, and what was looked at before.
    Cursor(Arc<Progress>, Arc<Looked>),
    /// Where the caller says.
    Own(Sought),
}

impl Scout {
    /// For `watch`; with the place to begin at.
    pub(super) fn of(watch: &Watch<'_>) -> Result<(Self, u64)> {
        let store = watch.watcher.access.store()?;
        let at = if watch.live { store.seq()? } else { 0 };
        Ok((Self::placed(watch), at))
    }

    /// For `watch`, whose caller knows where to begin.
    pub(super) fn placed(watch: &Watch<'_>) -> Self {
        if watch.live {
            return Self::elsewhere(watch);
        }
        let progress = watch.watcher.progress();
        let looked = progress.looked_for(&watch.sought(watch.subject.clone(), None));
        Self::new(watch, Place::Cursor(Arc::clone(progress), looked))
    }

    /// For one who goes through the updates at a place of its own.
    pub(super) fn elsewhere(watch: &Watch<'_>) -> Self {
        let sought = watch.sought(watch.subject.clone(), None);
        Self::new(watch, Place::Own(sought))
    }

    fn new(watch: &Watch<'_>, place: Place) -> Self {
        Self {
            shared: Arc::clone(watch.watcher.access.shared()),
            hashes: watch.subject.hashes(),
            place,
        }
    }

    /// What is looked for.
    pub(super) fn sought(&self) -> &Sought {
        match &self.place {
            Place::Cursor(_, looked) => looked.sought(),
            Place::Own(sought) => sought,
        }
    }

    /// The hashes of the keys that it is about; `None` for all.
    pub(super) fn hashes(&self) -> Option<&[u64]> {
        self.hashes.as_deref()
    }

    /// Whether the watcher's state was closed.
    pub(super) fn is_closed(&self) -> bool {
        // SeqCst: after the events were armed. Who closes sets the flag and then wakes.
        self.shared.closed().load(Ordering::SeqCst)
    }

    /// Where to look on from, of one who has looked up to `at`: behind what was consumed, what others have looked at, and
    /// own updates.
    pub(super) fn resume(&self, at: u64) -> u64 {
        self.shared.behind_own(self.known(at))
    }

    fn known(&self, at: u64) -> u64 {
        match &self.place {
            Place::Cursor(progress, looked) => progress.cursor().max(looked.at()).max(at),
            Place::Own(_) => at,
        }
    }

    /// Whether the watcher would return at once, with an update after `at` up to `until`, or with an error. If not, `at`
    /// moves to how far was looked.
    pub(super) fn look(&self, store: Store<'_>, at: &mut u64, until: u64) -> bool {
        // The watcher will say so.
        self.try_look(store, at, until).unwrap_or(true)
    }

    /// As [`Scout::look`]; fails if it could not be looked.
    pub(super) fn try_look(&self, store: Store<'_>, at: &mut u64, until: u64) -> Result<bool> {
        *at = self.known(*at);
        *at = self.shared.behind_own(*at).min(until).max(*at);
        let (sought, own) = (self.sought(), Some(store.identity()));
        let mut seen = *at;
        let next = store.next_match(&mut seen, until, sought.subject.filter(), sought.duplicates, own);
        let found = match next? {
            Next::Nothing => {
                self.passed(at, seen);
                false
            }
            Next::Match(seq) => {
                self.passed(at, seq.saturating_sub(1));
                true
            }
            // The watcher will say so.
            Next::Lagged(_) => true,
        };
        Ok(found || self.is_closed())
    }

    /// None of the updates after `at`, up to `to`, concerns it.
    pub(super) fn passed(&self, at: &mut u64, to: u64) {
        *at = (*at).max(to);
        if let Place::Cursor(_, looked) = &self.place {
            looked.raise(*at);
        }
    }
}

/// One that looks into mapped memory, without keeping it open.
pub(super) struct Mapped {
    namespace: WeakNamespace,
    scout: Scout,
}

impl Mapped {
    pub(super) fn new(namespace: &Namespace, scout: Scout) -> Self {
        Self {
            namespace: namespace.downgrade(),
            scout,
        }
    }
}

impl Lookout for Mapped {
    fn namespace(&self) -> &WeakNamespace {
        &self.namespace
    }

    fn hashes(&self) -> Option<&[u64]> {
        self.scout.hashes()
    }

    fn is_closed(&self) -> bool {
        self.scout.is_closed()
    }

    fn look(&self, namespace: &Namespace, at: &mut u64, until: u64) -> bool {
        self.scout.look(Store::Mapped(namespace), at, until)
    }

    fn passed(&self, at: &mut u64, to: u64) {
        self.scout.passed(at, to);
    }
}
