//! Whether a watcher for changes would return at once, asked without consuming anything.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use shm_state::{Namespace, Next, WeakNamespace};

use super::Watch;
use super::watcher::{Looked, Progress, Sought};
use crate::error::Result;
use crate::notify::Lookout;
use crate::shared::Shared;

/// Looks ahead for a watcher, without keeping its namespace open.
pub(crate) struct Scout {
    namespace: WeakNamespace,
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
        let namespace = watch.watcher.access.ready()?;
        let sought = watch.sought(watch.subject.clone(), None);
        let (place, at) = if watch.live {
            (Place::Own(sought), namespace.seq())
        } else {
            let progress = watch.watcher.progress();
            let looked = progress.looked_for(&sought);
            (Place::Cursor(Arc::clone(progress), looked), 0)
        };
        Ok((Self::new(watch, namespace, place), at))
    }

    /// For one who goes through the updates at a place of its own.
    #[cfg(feature = "tokio")]
    pub(super) fn elsewhere(watch: &Watch<'_>) -> Result<Self> {
        let namespace = watch.watcher.access.ready()?;
        let sought = watch.sought(watch.subject.clone(), None);
        Ok(Self::new(watch, namespace, Place::Own(sought)))
    }

    fn new(watch: &Watch<'_>, namespace: &Namespace, place: Place) -> Self {
        Self {
            namespace: namespace.downgrade(),
            shared: Arc::clone(watch.watcher.access.shared()),
            hashes: watch.subject.hashes(),
            place,
        }
    }

    fn sought(&self) -> &Sought {
        match &self.place {
            Place::Cursor(_, looked) => looked.sought(),
            Place::Own(sought) => sought,
        }
    }
}

impl Lookout for Scout {
    fn namespace(&self) -> &WeakNamespace {
        &self.namespace
    }

    fn hashes(&self) -> Option<&[u64]> {
        self.hashes.as_deref()
    }

    fn is_closed(&self) -> bool {
        // SeqCst: after the events were armed. Who closes sets the flag and then wakes.
        self.shared.closed().load(Ordering::SeqCst)
    }

    fn look(&self, namespace: &Namespace, at: &mut u64, until: u64) -> bool {
        if let Place::Cursor(progress, looked) = &self.place {
            *at = progress.cursor().max(looked.at()).max(*at);
        }
        *at = self.shared.behind_own(*at).min(until).max(*at);
        let (sought, own) = (self.sought(), Some(namespace.identity()));
        let mut seen = *at;
        let next = namespace.next_match(&mut seen, until, sought.subject.filter(), sought.duplicates, own);
        let found = match next {
            Ok(Next::Nothing) => {
                self.passed(at, seen);
                false
            }
            Ok(Next::Match(seq)) => {
                self.passed(at, seq - 1);
                true
            }
            // The watcher will say so.
            Ok(Next::Lagged(_)) | Err(_) => true,
        };
        found || self.is_closed()
    }

    fn passed(&self, at: &mut u64, to: u64) {
        *at = (*at).max(to);
        if let Place::Cursor(_, looked) = &self.place {
            looked.raise(*at);
        }
    }
}
