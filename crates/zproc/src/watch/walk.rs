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
//! **Giving up** consumes nothing: the cursor stays. How far was looked is remembered ([`Looked`]), so that asking for
//! the same again and again neither looks at an update twice nor lags behind because of updates it has looked at.

use shm_state::{Namespace, Next};

use super::condition::Condition;
use super::subject::Subject;
use super::watcher::Watcher;
use crate::error::{Error, Result};
use crate::snapshot::Snapshot;

/// How far a watcher of an identity had looked when it gave up.
pub(super) struct Looked {
    subject: Subject,
    condition: Option<Condition>,
    duplicates: bool,
    /// Where the cursor stood.
    from: u64,
    /// No update up to this one matches.
    at: u64,
}

/// The log of a namespace, as one watcher reads it.
pub(super) struct Log<'s, 'w> {
    watcher: &'s Watcher,
    namespace: &'s Namespace,
    subject: &'w Subject,
    duplicates: bool,
}

impl<'s, 'w> Log<'s, 'w> {
    pub(super) fn new(watcher: &'s Watcher, subject: &'w Subject, duplicates: bool) -> Result<Self> {
        Ok(Self {
            watcher,
            namespace: watcher.access.ready()?,
            subject,
            duplicates,
        })
    }

    /// The first update of others after `cursor` that changes the subject; the cursor moves there.
    fn next(&self, cursor: &mut u64, until: u64) -> Result<Next> {
        let own = Some(self.namespace.identity());
        // Own updates are left out even if they fell out of the history: nothing that would be shown was missed.
        *cursor = self.watcher.access.behind_own(*cursor).min(until).max(*cursor);
        Ok(self
            .namespace
            .next_match(cursor, until, self.subject.filter(), self.duplicates, own)?)
    }

    /// Whether anybody changed the subject after the update `since`.
    fn has_any(&self, mut since: u64, until: u64) -> Result<bool> {
        let filter = self.subject.filter();
        let next = self
            .namespace
            .next_match(&mut since, until, filter, self.duplicates, None)?;
        Ok(next != Next::Nothing)
    }

    /// Where to look on from, if the cursor stands at `from`.
    fn resume(&self, from: u64, condition: Option<&Condition>) -> u64 {
        match &*self.watcher.looked.lock() {
            Some(looked)
                if looked.from == from
                    && looked.duplicates == self.duplicates
                    && looked.subject == *self.subject
                    && looked.condition.as_ref() == condition =>
            {
                looked.at
            }
            _ => from,
        }
    }

    fn remember(&self, from: u64, at: u64, condition: Option<&Condition>) {
        let (subject, condition) = (self.subject.clone(), condition.cloned());
        let looked = Looked {
            subject,
            condition,
            duplicates: self.duplicates,
            from,
            at,
        };
        *self.watcher.looked.lock() = Some(looked);
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
            self.at = log.resume(self.from, None);
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
                        return Err(lagged(log, missed));
                    }
                }
                Next::Nothing => self.at = at,
            }
        }
        if self.of_cursor {
            log.namespace.publish_cursor(self.at);
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
            log.namespace.publish_cursor(seq);
        }
        true
    }

    fn follow(&mut self, cursor: u64) {
        (self.from, self.at) = (cursor, self.at.max(cursor));
    }

    /// To be called after a wait that ended without success.
    pub(super) fn gave_up(&self, log: &Log<'_, '_>) {
        if self.of_cursor {
            log.remember(self.from, self.at, None);
        }
    }
}

/// The error of a watcher that fell out of the history, told to those who listen to events, too. No lock is held.
#[cold]
fn lagged(log: &Log<'_, '_>, missed: u64) -> Error {
    let (namespace, oldest) = (log.namespace.name(), log.namespace.floor());
    tracing::warn!(target: "zproc", namespace, missed, oldest, "a watcher fell out of the history");
    Error::Lagged { missed }
}

/// The place of a watcher for a condition.
pub(super) struct States {
    live: bool,
    from: u64,
    /// No state after an update up to this one satisfies the condition, unless it is our own.
    at: u64,
    /// The last state that was tested as the current one.
    tested: u64,
}

impl States {
    /// After the current state, that of `tested`, was tested.
    pub(super) fn new(log: &Log<'_, '_>, condition: Option<&Condition>, live: bool, tested: u64) -> Self {
        let from = if live { tested } else { log.watcher.cursor() };
        let at = if live || condition.is_none() {
            from
        } else {
            log.resume(from, condition)
        };
        Self { live, from, at, tested }
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
                    let Some(snapshot) = Snapshot::at(log.namespace, seq)? else {
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
                    return Err(lagged(log, missed));
                }
                Next::Nothing => self.at = at,
            }
        }
        if self.tested < until && log.has_any(self.tested, until)? {
            let snapshot = Snapshot::newest(log.namespace)?;
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
            log.namespace.publish_cursor(seq);
        }
    }

    /// To be called after a wait that ended without success.
    pub(super) fn gave_up(&self, log: &Log<'_, '_>, condition: Option<&Condition>) {
        if !self.live && condition.is_some() {
            log.remember(self.from, self.at, condition);
        }
    }
}
