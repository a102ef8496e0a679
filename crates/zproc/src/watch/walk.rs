//! Going through the log: where a watcher is, and whose an update is when threads share a cursor.
//!
//! **Changes.** A watcher looks ahead of the cursor on its own. When it has found an update, and pinned what it is to
//! return, it moves the cursor there by a compare-and-swap from where the cursor was when it started to look. If another
//! thread was faster, that one has consumed everything up to the new cursor, and the watcher looks on from there. So each
//! update is returned to one thread, and the first one that matches is not passed over.
//!
//! **Conditions.** All threads that wait for one may see it come true in the same update, so a watcher goes its own way
//! and only raises the cursor to the update that it returns. It leaves out its identity's own updates like every
//! watcher, but the current state counts whoever made it; so the newest state is tested once more behind own updates,
//! which other threads may have made.
//!
//! **Giving up** consumes nothing: the cursor stays. How far was looked is remembered ([`super::watcher::Looked`]), so
//! that asking for the same again and again neither looks at an update twice nor lags behind because of updates it has
//! looked at. Since the cursor only moves forward, what is remembered stays true.

use shm_state::Next;

use super::watcher::{Sought, Watcher};
use crate::error::{Error, Result};
use crate::snapshot::Snapshot;
use crate::store::Store;

/// The log of a namespace, as one watcher reads it.
pub(super) struct Log<'s, 'w> {
    watcher: &'s Watcher,
    store: Store<'s>,
    sought: &'w Sought,
}

impl<'s, 'w> Log<'s, 'w> {
    pub(super) fn new(watcher: &'s Watcher, sought: &'w Sought) -> Result<Self> {
        Ok(Self {
            watcher,
            store: watcher.access.store()?,
            sought,
        })
    }

    /// The first update of others after `cursor` that changes the subject; the cursor moves there.
    fn next(&self, cursor: &mut u64, until: u64) -> Result<Next> {
        let own = Some(self.store.identity());
        // Own updates are left out even if they fell out of the history: nothing that would be shown was missed.
        *cursor = self.watcher.access.shared().behind_own(*cursor).min(until).max(*cursor);
        self.matching(cursor, until, own)
    }

    /// Whether anybody changed the subject after the update `since`.
    fn has_any(&self, mut since: u64, until: u64) -> Result<bool> {
        Ok(self.matching(&mut since, until, None)? != Next::Nothing)
    }

    fn matching(&self, cursor: &mut u64, until: u64, skip: Option<u32>) -> Result<Next> {
        let Sought {
            subject, duplicates, ..
        } = self.sought;
        self.store
            .next_match(cursor, until, subject.filter(), *duplicates, skip)
    }

    /// Where to look on from: behind the cursor, and what was looked at before.
    fn resume(&self) -> u64 {
        self.watcher.progress().looked_at(self.sought)
    }

    fn remember(&self, at: u64) {
        self.watcher.progress().remember(self.sought, at);
    }
}

/// The place of a watcher for changes.
pub(super) struct Changes {
    /// It follows and moves the cursor of its identity; otherwise only its own place.
    of_cursor: bool,
    /// Where the cursor stood.
    from: u64,
    /// No update up to this one matches.
    at: u64,
}

impl Changes {
    /// Follows and moves the cursor.
    pub(super) fn of_cursor() -> Self {
        Self {
            of_cursor: true,
            from: 0,
            at: 0,
        }
    }

    /// Keeps its place to itself, at first after the update `seq`.
    pub(super) fn after(seq: u64) -> Self {
        Self {
            of_cursor: false,
            from: seq,
            at: seq,
        }
    }

    /// To be called before each wait.
    pub(super) fn start(&mut self, log: &Log<'_, '_>) {
        if self.of_cursor {
            self.from = log.watcher.cursor();
            self.at = log.resume();
        }
    }

    /// What `take` makes of the first update up to `until` that matches; `None` if there is none. `take` returns `None`
    /// if the update fell out of the history.
    pub(super) fn next<T>(
        &mut self,
        log: &Log<'_, '_>,
        until: u64,
        take: impl Fn(u64) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        if self.of_cursor {
            self.follow(log.watcher.cursor());
        }
        while self.at < until {
            let mut at = self.at;
            match log.next(&mut at, until)? {
                Next::Match(seq) => {
                    self.at = seq - 1;
                    // If it is gone, the next round says so.
                    if let Some(taken) = take(seq)?
                        && self.consume(log, seq)
                    {
                        return Ok(Some(taken));
                    }
                }
                Next::Lagged(missed) => {
                    if self.consume(log, at) {
                        return Err(lagged(log, missed, at));
                    }
                }
                Next::Nothing => self.at = at,
            }
        }
        if self.of_cursor {
            log.store.publish_cursor(self.at);
        }
        Ok(None)
    }

    /// Moves on to `seq`. Not if another thread has moved the cursor: then behind what that one consumed.
    fn consume(&mut self, log: &Log<'_, '_>, seq: u64) -> bool {
        if self.of_cursor
            && let Err(now) = log.watcher.move_cursor(self.from, seq)
        {
            self.follow(now);
            return false;
        }
        (self.from, self.at) = (seq, seq);
        if self.of_cursor {
            log.store.publish_cursor(seq);
        }
        true
    }

    /// Whether it follows the cursor.
    #[cfg(feature = "tokio")]
    pub(super) fn is_of_cursor(&self) -> bool {
        self.of_cursor
    }

    /// No update up to this one matches.
    #[cfg(feature = "tokio")]
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// It has become known that no update up to `at` matches.
    #[cfg(feature = "tokio")]
    pub(super) fn skip(&mut self, at: u64) {
        self.at = self.at.max(at);
    }

    fn follow(&mut self, cursor: u64) {
        (self.from, self.at) = (cursor, self.at.max(cursor));
    }

    /// To be called after a wait that ended without success.
    pub(super) fn gave_up(&self, log: &Log<'_, '_>) {
        if self.of_cursor {
            log.remember(self.at);
        }
    }
}

/// The error of a watcher that fell out of the history, told to those who listen to events, too. No lock is held.
#[cold]
fn lagged(log: &Log<'_, '_>, missed: u64, oldest: u64) -> Error {
    let namespace = log.store.name();
    tracing::warn!(target: "zproc", namespace, missed, oldest, "a watcher fell out of the history");
    Error::Lagged { missed }
}

/// The place of a watcher for a condition.
pub(super) struct States {
    live: bool,
    /// No state after an update up to this one satisfies the condition, unless it is our own.
    at: u64,
    /// The last state that was tested as the current one.
    tested: u64,
}

impl States {
    /// After the current state, that of `tested`, was tested.
    pub(super) fn new(log: &Log<'_, '_>, live: bool, tested: u64) -> Self {
        let at = match log.sought.condition {
            _ if live => tested,
            // What a closure tests is not known, so it cannot be the same as before.
            None => log.watcher.cursor(),
            Some(_) => log.resume(),
        };
        Self { live, at, tested }
    }

    /// The state after the first update up to `until` for which `test` holds.
    pub(super) fn next<'s>(
        &mut self,
        log: &Log<'s, '_>,
        until: u64,
        mut test: impl FnMut(&Snapshot<'_>) -> Result<bool>,
    ) -> Result<Option<Snapshot<'s>>> {
        while self.at < until {
            let mut at = self.at;
            match log.next(&mut at, until)? {
                Next::Match(seq) => {
                    let Some(snapshot) = Snapshot::at_in(log.store, seq)? else {
                        continue;
                    };
                    if test(&snapshot)? {
                        self.consume(log, seq);
                        return Ok(Some(snapshot));
                    }
                    (self.at, self.tested) = (seq, self.tested.max(seq));
                }
                Next::Lagged(missed) => {
                    self.consume(log, at);
                    return Err(lagged(log, missed, at));
                }
                Next::Nothing => self.at = at,
            }
        }
        if self.tested < until && log.has_any(self.tested, until)? {
            let snapshot = Snapshot::newest_in(log.store)?;
            self.tested = snapshot.seq();
            if test(&snapshot)? {
                return Ok(Some(snapshot));
            }
        }
        self.tested = self.tested.max(until);
        Ok(None)
    }

    fn consume(&self, log: &Log<'_, '_>, seq: u64) {
        if !self.live {
            log.watcher.raise_cursor(seq);
            log.store.publish_cursor(seq);
        }
    }

    /// To be called after a wait that ended without success.
    pub(super) fn gave_up(&self, log: &Log<'_, '_>) {
        if !self.live && log.sought.condition.is_some() {
            log.remember(self.at);
        }
    }
}
