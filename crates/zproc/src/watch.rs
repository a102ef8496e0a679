//! Watching: sleeping until an update that one waits for, and getting the state as it was right after it.
//!
//! There are two kinds of watchers. One for *changes* looks at the updates after the cursor and moves the cursor to the
//! one that it returns. One for a *condition* looks at the current state first, then at the state after each update
//! since the cursor; it moves the cursor only if it returns such an update. Live watchers start at the call instead of
//! the cursor, and leave the cursor alone.
//!
//! The parts: `subject` says which updates count, `condition` what must hold after one, `walk` goes through the log
//! under the eyes of other threads; this file waits. The snapshot that is returned is pinned before the update counts as
//! consumed, so an update that falls out of the history in between is reported as missed, exactly.

mod condition;
mod subject;
mod update;
mod walk;
mod watcher;

use std::fmt;
use std::time::Duration;

use shm_state::{Deadline, Ended};

use crate::access::is_in_atomic;
use crate::codec::{with_key, with_value};
use crate::error::{Error, Result};
use crate::key::ToKey;
use crate::snapshot::Snapshot;
use crate::value::ToValue;
pub use condition::Verdict;
use condition::{Condition, Stored};
use subject::Subject;
pub use update::{Update, Updates};
use walk::{Changes, Log, States};
pub(crate) use watcher::Watcher;

/// How to watch, and the watchers themselves. Made by [`State::watch`](crate::State::watch).
///
/// ```
/// use std::time::Duration;
/// use zproc::{Error, State};
///
/// let state = State::anonymous()?;
/// let watch = state.watch().timeout(Duration::from_millis(10));
/// assert!(matches!(watch.get_when_change(["cookies"]), Err(Error::Timeout)));
/// state.clone().insert("cookies", 5)?;
/// assert_eq!(watch.get_when_change(["cookies"])?.get::<i64>("cookies")?, Some(5));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Watch<'s> {
    watcher: &'s Watcher,
    live: bool,
    duplicates: bool,
    timeout: Option<Duration>,
}

impl<'s> Watch<'s> {
    pub(crate) fn new(watcher: &'s Watcher) -> Self {
        Self {
            watcher,
            live: false,
            duplicates: false,
            timeout: None,
        }
    }

    /// Looks only at updates that are made after the call, and leaves the cursor where it is.
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::{Error, State};
    ///
    /// let state = State::anonymous()?;
    /// state.clone().insert("cookies", 5)?;
    /// let watch = state.watch().timeout(Duration::ZERO);
    /// assert!(matches!(watch.live().get_when_any_change(), Err(Error::Timeout)));
    /// assert!(watch.get_when_any_change().is_ok());
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub fn live(mut self) -> Self {
        self.live = true;
        self
    }

    /// Gives up after `timeout` with [`Error::Timeout`], unless something that matches is there already. Zero asks
    /// without waiting. A watcher that gives up leaves the cursor where it is.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Counts updates that write the value that is there already.
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::{Error, State};
    ///
    /// let state = State::anonymous()?;
    /// state.insert("cookies", 5)?;
    /// state.clone().insert("cookies", 5)?;
    /// let watch = state.watch().timeout(Duration::ZERO);
    /// assert!(matches!(watch.get_when_any_change(), Err(Error::Timeout)));
    /// assert!(watch.duplicates().get_when_any_change().is_ok());
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub fn duplicates(mut self) -> Self {
        self.duplicates = true;
        self
    }

    /// See [`State::get_when_change`](crate::State::get_when_change).
    pub fn get_when_change<K: ToKey>(self, keys: impl IntoIterator<Item = K>) -> Result<Snapshot<'s>> {
        self.next_snapshot(Subject::keys(keys)?)
    }

    /// See [`State::get_when_any_change`](crate::State::get_when_any_change).
    pub fn get_when_any_change(self) -> Result<Snapshot<'s>> {
        self.next_snapshot(Subject::Any)
    }

    /// See [`State::get_when_change_except`](crate::State::get_when_change_except).
    pub fn get_when_change_except<K: ToKey>(self, keys: impl IntoIterator<Item = K>) -> Result<Snapshot<'s>> {
        self.next_snapshot(Subject::except(keys)?)
    }

    /// See [`State::get_when`](crate::State::get_when).
    pub fn get_when<V: Verdict>(self, mut test: impl FnMut(&Snapshot<'_>) -> V) -> Result<Snapshot<'s>> {
        self.until(&Subject::Any, None, |snapshot| test(snapshot).verdict())
    }

    /// See [`State::get_when_equal`](crate::State::get_when_equal).
    pub fn get_when_equal(self, key: impl ToKey, value: impl ToValue) -> Result<Snapshot<'s>> {
        with_value(value, |tag, bytes| {
            self.until_key(key, &Condition::Equal(Stored::new(tag, bytes)))
        })
    }

    /// See [`State::get_when_not_equal`](crate::State::get_when_not_equal).
    pub fn get_when_not_equal(self, key: impl ToKey, value: impl ToValue) -> Result<Snapshot<'s>> {
        with_value(value, |tag, bytes| {
            self.until_key(key, &Condition::NotEqual(Stored::new(tag, bytes)))
        })
    }

    /// See [`State::get_when_none`](crate::State::get_when_none).
    pub fn get_when_none(self, key: impl ToKey) -> Result<Snapshot<'s>> {
        self.until_key(key, &Condition::None)
    }

    /// See [`State::get_when_not_none`](crate::State::get_when_not_none).
    pub fn get_when_not_none(self, key: impl ToKey) -> Result<Snapshot<'s>> {
        self.until_key(key, &Condition::NotNone)
    }

    /// See [`State::get_when_available`](crate::State::get_when_available).
    pub fn get_when_available(self, key: impl ToKey) -> Result<Snapshot<'s>> {
        self.until_key(key, &Condition::Available)
    }

    /// See [`State::get_raw_update`](crate::State::get_raw_update).
    pub fn get_raw_update(self) -> Result<Update<'s>> {
        self.next_update(&mut self.start()?)
    }

    /// See [`State::updates`](crate::State::updates). A timeout holds for each update; when it passes, the iterator
    /// yields [`Error::Timeout`] and can be asked again.
    pub fn updates(self) -> Result<Updates<'s>> {
        Ok(Updates::new(self, self.start()?))
    }

    /// See [`State::updates_since`](crate::State::updates_since).
    pub(crate) fn updates_since(self, seq: u64) -> Updates<'s> {
        Updates::new(self, Changes::after(seq))
    }

    /// Where a watcher for changes starts.
    fn start(self) -> Result<Changes> {
        let namespace = self.watcher.access.ready()?;
        Ok(if self.live {
            Changes::after(namespace.seq())
        } else {
            Changes::of_cursor()
        })
    }

    fn next_snapshot(self, subject: Subject<'_>) -> Result<Snapshot<'s>> {
        let namespace = self.watcher.access.ready()?;
        self.change(&mut self.start()?, &subject, |seq| Snapshot::at(namespace, seq))
    }

    fn next_update(self, changes: &mut Changes) -> Result<Update<'s>> {
        let namespace = self.watcher.access.ready()?;
        self.change(changes, &Subject::Any, |seq| {
            Update::read(namespace, seq, self.duplicates)
        })
    }

    /// Waits for the next update that changes `subject`, and returns what `take` makes of it.
    fn change<T>(
        self,
        changes: &mut Changes,
        subject: &Subject<'_>,
        take: impl Fn(u64) -> Result<Option<T>>,
    ) -> Result<T> {
        let log = Log::new(self.watcher, subject, self.duplicates)?;
        changes.start(&log);
        let result = self.wait(subject, |until| changes.next(&log, until, &take));
        if matches!(result, Err(Error::Timeout)) {
            changes.gave_up(&log);
        }
        result
    }

    /// Copies neither the key nor the value of the condition, so that nothing is allocated.
    fn until_key(self, key: impl ToKey, condition: &Condition<'_>) -> Result<Snapshot<'s>> {
        with_key(key, |key| {
            let test = |snapshot: &Snapshot<'_>| condition.holds(snapshot, key);
            self.until(&Subject::Key(*key), Some(condition), test)
        })
    }

    /// Waits until `test` holds; `condition` says what it tests, if that is known.
    fn until(
        self,
        subject: &Subject<'_>,
        condition: Option<&Condition<'_>>,
        mut test: impl FnMut(&Snapshot<'_>) -> Result<bool>,
    ) -> Result<Snapshot<'s>> {
        let namespace = self.watcher.access.ready()?;
        let now = Snapshot::newest(namespace)?;
        if test(&now)? {
            return Ok(now);
        }
        let tested = now.seq();
        drop(now);
        let log = Log::new(self.watcher, subject, self.duplicates)?;
        let mut states = States::new(&log, condition, self.live, tested);
        let result = self.wait(subject, |until| states.next(&log, until, &mut test));
        if matches!(result, Err(Error::Timeout)) {
            states.gave_up(&log, condition);
        }
        result
    }

    /// Waits until `look`, called with the newest update whenever there may be a new one, finds something.
    fn wait<T>(self, subject: &Subject<'_>, mut look: impl FnMut(u64) -> Result<Option<T>>) -> Result<T> {
        let namespace = self.watcher.access.ready()?;
        let deadline = match self.timeout {
            Some(Duration::ZERO) => return look(namespace.seq())?.ok_or(Error::Timeout),
            // Waiting with a writer lock in hand could be for ever.
            _ if is_in_atomic() => return look(namespace.seq())?.ok_or(Error::NestedAtomic),
            Some(timeout) => Deadline::after(timeout),
            None => Deadline::never(),
        };
        let closed = self.watcher.access.closed();
        let strategy = self.watcher.access.patience.strategy;
        let ended = subject.with_hashes(|on| {
            // An error of ours ends the wait as a success does.
            namespace.wait(on, strategy, deadline, closed, |seq| Ok(look(seq).transpose()))
        })?;
        match ended {
            Ok(result) => result,
            Err(Ended::TimedOut) => Err(Error::Timeout),
            Err(Ended::Cancelled) => Err(Error::Closed),
        }
    }
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            live,
            duplicates,
            timeout,
            ..
        } = self;
        f.debug_struct("Watch")
            .field("live", live)
            .field("duplicates", duplicates)
            .field("timeout", timeout)
            .finish_non_exhaustive()
    }
}
