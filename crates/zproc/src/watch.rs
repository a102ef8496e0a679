//! Watching: sleeping until an update that one waits for, and getting the state as it was right after it.
//!
//! There are two kinds of watchers. One for *changes* looks at the updates after the cursor and moves the cursor to the
//! one that it returns. One for a *condition* looks at the current state first, then at the state after each update
//! since the cursor; it moves the cursor only if it returns such an update. Live watchers start at the call instead of
//! the cursor, and leave the cursor alone. What users are promised is told in `semantics`.
//!
//! The parts: `subject` says which updates count, `condition` what must hold after one, `walk` goes through the log
//! under the eyes of other threads; this file waits. The snapshot that is returned is pinned before the update counts as
//! consumed, so an update that falls out of the history in between is reported as missed, exactly.
//!
//! Three ways to wait for more than one thing, or without blocking: `select` for several states and descriptors, `feed`
//! for an eventfd, `stream` for async tasks. They ask a [`Scout`] whether a watcher would return something, and consume
//! nothing; the latter two are `told` when to ask: by the thread of `notify`, or by a `listener` at a server.

pub(crate) mod at_once;
mod condition;
mod feed;
mod listener;
mod scout;
mod select;
mod standing;
#[cfg(feature = "tokio")]
mod stream;
mod subject;
mod told;
mod update;
mod walk;
mod watcher;
mod writer;

use std::fmt;
use std::time::Duration;

use shm_state::{Cancel, Deadline, Ended, Small, Watched};
use smallvec::SmallVec;

use crate::access::is_in_atomic;
use crate::canceller::Canceller;
use crate::codec::own_key;
use crate::error::{Error, Result};
use crate::key::ToKey;
use crate::over_socket::{self, InTime, Remote};
use crate::signals::Signals;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::value::ToValue;
use condition::Condition;
pub use condition::Verdict;
pub use feed::EventFeed;
pub(crate) use scout::Scout;
pub use select::{Ready, Select};
pub(crate) use standing::Standing;
#[cfg(feature = "tokio")]
pub use stream::UpdateStream;
use subject::Subject;
pub use update::{Update, Updates};
use walk::{Changes, Log, States};
pub(crate) use watcher::{Progress, Sought, Watcher};
pub use writer::{Writer, set_process_name};

/// How to watch, and the watchers themselves. Made by [`State::watch`](crate::State::watch).
///
/// A setting makes a new `Watch` of it; the old one stays as it is and can be used further.
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
#[derive(Clone)]
pub struct Watch<'s> {
    watcher: &'s Watcher,
    subject: Subject,
    canceller: Option<Canceller>,
    live: bool,
    duplicates: bool,
    timeout: Option<Duration>,
    /// No update behind this one is looked at by a watcher for changes.
    last: Option<u64>,
}

/// Settings.
impl<'s> Watch<'s> {
    #[inline]
    pub(crate) fn new(watcher: &'s Watcher) -> Self {
        Self {
            watcher,
            subject: Subject::Any,
            canceller: None,
            live: false,
            duplicates: false,
            timeout: None,
            last: None,
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
    pub fn live(&self) -> Self {
        Self {
            live: true,
            ..self.clone()
        }
    }

    /// Gives up after `timeout` with [`Error::Timeout`], unless something that matches is there already. Zero asks
    /// without waiting. A watcher that gives up leaves the cursor where it is.
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::{Error, State};
    ///
    /// let state = State::anonymous()?;
    /// let watch = state.watch().timeout(Duration::from_millis(1));
    /// assert!(matches!(watch.get_when_any_change(), Err(Error::Timeout)));
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub fn timeout(&self, timeout: Duration) -> Self {
        Self {
            timeout: Some(timeout),
            ..self.clone()
        }
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
    pub fn duplicates(&self) -> Self {
        Self {
            duplicates: true,
            ..self.clone()
        }
    }

    /// Ends with [`Error::Cancelled`] when the canceller says so: see [`Canceller`].
    ///
    /// ```
    /// use zproc::{Canceller, Error, State};
    ///
    /// let state = State::anonymous()?;
    /// let canceller = Canceller::new();
    /// let watch = state.watch().cancel(&canceller);
    /// canceller.cancel();
    /// assert!(matches!(watch.get_when_any_change(), Err(Error::Cancelled)));
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub fn cancel(&self, canceller: &Canceller) -> Self {
        Self {
            canceller: Some(canceller.clone()),
            ..self.clone()
        }
    }

    /// Counts only updates that change one of `keys` (any key, if there are none).
    ///
    /// This holds for everything that names no keys itself: [`Watch::updates`], [`Watch::updates_since`],
    /// [`Watch::get_raw_update`], [`Watch::get_when_any_change`], [`Watch::event_fd`], a [`Select`], a stream; and
    /// [`Watch::get_when`], whose closure is then asked about the current state and about those after updates of these
    /// keys. A watcher of keys sleeps while others change.
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::State;
    ///
    /// let state = State::anonymous()?;
    /// let other = state.clone();
    /// other.insert("noise", 1)?;
    /// other.insert("cookies", 5)?;
    /// other.insert("flour", 3)?;
    /// let updates = state.watch().keys(["cookies", "flour"])?.timeout(Duration::ZERO).updates()?;
    /// let seqs: Vec<u64> = updates.map_while(|update| Some(update.ok()?.seq)).collect();
    /// assert_eq!(seqs, [2, 3]);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn keys<K: ToKey>(&self, keys: impl IntoIterator<Item = K>) -> Result<Self> {
        Ok(self.of(Subject::keys(keys)?))
    }

    /// Counts only updates that change a key that is not one of `keys`; see [`Watch::keys`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::State;
    ///
    /// let state = State::anonymous()?;
    /// let other = state.clone();
    /// other.insert("noise", 1)?;
    /// other.insert("cookies", 5)?;
    /// let update = state.watch().except(["noise"])?.get_raw_update()?;
    /// assert_eq!(update.seq, 2);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn except<K: ToKey>(&self, keys: impl IntoIterator<Item = K>) -> Result<Self> {
        Ok(self.of(Subject::except(keys)?))
    }

    fn of(&self, subject: Subject) -> Self {
        Self {
            subject,
            ..self.clone()
        }
    }
}

/// Watchers.
impl<'s> Watch<'s> {
    /// See [`State::get_when_change`](crate::State::get_when_change).
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::{Error, State};
    ///
    /// let state = State::anonymous()?;
    /// let other = state.clone();
    /// let watch = state.watch().timeout(Duration::from_millis(10));
    /// other.insert("flour", 3)?;
    /// assert!(matches!(watch.get_when_change(["cookies", "milk"]), Err(Error::Timeout)));
    /// other.insert("milk", 1)?;
    /// assert_eq!(watch.get_when_change(["cookies", "milk"])?.seq(), 2);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn get_when_change<K: ToKey>(&self, keys: impl IntoIterator<Item = K>) -> Result<Snapshot<'s>> {
        self.next_snapshot(Subject::keys(keys)?)
    }

    /// See [`State::get_when_any_change`](crate::State::get_when_any_change).
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::{Error, State};
    ///
    /// let state = State::anonymous()?;
    /// state.insert("cookies", 5)?; // its own updates do not count
    /// let watch = state.watch().timeout(Duration::from_millis(10));
    /// assert!(matches!(watch.get_when_any_change(), Err(Error::Timeout)));
    /// state.clone().insert("cookies", 4)?;
    /// assert_eq!(watch.get_when_any_change()?.get("cookies")?, Some(4));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn get_when_any_change(&self) -> Result<Snapshot<'s>> {
        self.next_snapshot(self.subject.clone())
    }

    /// See [`State::get_when_change_except`](crate::State::get_when_change_except).
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::{Error, State};
    ///
    /// let state = State::anonymous()?;
    /// let watch = state.watch().timeout(Duration::from_millis(10));
    /// state.clone().insert("noise", 1)?;
    /// assert!(matches!(watch.get_when_change_except(["noise"]), Err(Error::Timeout)));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn get_when_change_except<K: ToKey>(&self, keys: impl IntoIterator<Item = K>) -> Result<Snapshot<'s>> {
        self.next_snapshot(Subject::except(keys)?)
    }

    /// See [`State::get_when`](crate::State::get_when).
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::State;
    ///
    /// let state = State::anonymous()?;
    /// state.extend([("flour", 3), ("sugar", 2)])?;
    /// let watch = state.watch().timeout(Duration::from_secs(5));
    /// let enough = watch.get_when(|shelf| Ok(shelf.get::<u32>("flour")? > shelf.get("sugar")?))?;
    /// assert_eq!(enough.len()?, 2);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn get_when<V: Verdict>(&self, mut test: impl FnMut(&Snapshot<'_>) -> V) -> Result<Snapshot<'s>> {
        let sought = self.sought(self.subject.clone(), None);
        self.until(&sought, |snapshot| test(snapshot).verdict())
    }

    /// See [`State::get_when_equal`](crate::State::get_when_equal).
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::State;
    ///
    /// let state = State::anonymous()?;
    /// let other = state.clone();
    /// other.insert("door", "open")?;
    /// other.insert("door", "shut")?;
    /// let watch = state.watch().timeout(Duration::from_millis(10));
    /// assert_eq!(watch.get_when_equal("door", "open")?.seq(), 1); // came and went
    /// assert!(watch.live().get_when_equal("door", "open").is_err()); // what was before does not count
    /// # Ok::<(), zproc::Error>(())
    /// ```
    #[inline]
    pub fn get_when_equal(&self, key: impl ToKey, value: impl ToValue) -> Result<Snapshot<'s>> {
        match self.at_once(&key, at_once::equals(&value)) {
            Some(now) => Ok(now),
            None => self.until_equal(key, value).map_err(|error| *error),
        }
    }

    /// See [`State::get_when_not_equal`](crate::State::get_when_not_equal).
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::{Error, State};
    ///
    /// let state = State::anonymous()?;
    /// let watch = state.watch().timeout(Duration::from_millis(10));
    /// // A key that is missing is neither equal to anything nor not equal.
    /// assert!(matches!(watch.get_when_not_equal("door", "open"), Err(Error::Timeout)));
    /// state.insert("door", "shut")?;
    /// assert!(watch.get_when_not_equal("door", "open").is_ok());
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn get_when_not_equal(&self, key: impl ToKey, value: impl ToValue) -> Result<Snapshot<'s>> {
        self.until_key(key, Condition::not_equal(value)?)
            .map_err(|error| *error)
    }

    /// See [`State::get_when_none`](crate::State::get_when_none).
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::{Error, State};
    ///
    /// let state = State::anonymous()?;
    /// let watch = state.watch().timeout(Duration::from_millis(10));
    /// assert!(matches!(watch.get_when_none("oven"), Err(Error::Timeout))); // missing, which is not none
    /// state.insert("oven", None::<u32>)?;
    /// assert!(watch.get_when_none("oven").is_ok());
    /// # Ok::<(), zproc::Error>(())
    /// ```
    #[inline]
    pub fn get_when_none(&self, key: impl ToKey) -> Result<Snapshot<'s>> {
        match self.at_once(&key, at_once::is_none) {
            Some(now) => Ok(now),
            None => self.until_key(key, Condition::None).map_err(|error| *error),
        }
    }

    /// See [`State::get_when_not_none`](crate::State::get_when_not_none).
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::{Error, State};
    ///
    /// let state = State::anonymous()?;
    /// let watch = state.watch().timeout(Duration::from_millis(10));
    /// state.insert("oven", None::<u32>)?;
    /// assert!(matches!(watch.get_when_not_none("oven"), Err(Error::Timeout)));
    /// state.insert("oven", 180)?;
    /// assert!(watch.get_when_not_none("oven").is_ok());
    /// # Ok::<(), zproc::Error>(())
    /// ```
    #[inline]
    pub fn get_when_not_none(&self, key: impl ToKey) -> Result<Snapshot<'s>> {
        match self.at_once(&key, at_once::is_not_none) {
            Some(now) => Ok(now),
            None => self.until_key(key, Condition::NotNone).map_err(|error| *error),
        }
    }

    /// See [`State::get_when_available`](crate::State::get_when_available).
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::State;
    ///
    /// let state = State::anonymous()?;
    /// let watch = state.watch().timeout(Duration::from_secs(5));
    /// std::thread::scope(|scope| {
    ///     let cook = state.clone();
    ///     scope.spawn(move || cook.insert("cookies", 5));
    ///     assert_eq!(watch.get_when_available("cookies")?.get("cookies")?, Some(5));
    ///     Ok::<(), zproc::Error>(())
    /// })?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    #[inline]
    pub fn get_when_available(&self, key: impl ToKey) -> Result<Snapshot<'s>> {
        match self.at_once(&key, at_once::is_there) {
            Some(now) => Ok(now),
            None => self.until_key(key, Condition::Available).map_err(|error| *error),
        }
    }

    /// See [`State::get_raw_update`](crate::State::get_raw_update).
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::State;
    ///
    /// let state = State::anonymous()?;
    /// let other = state.clone();
    /// other.insert("cookies", 5)?;
    /// other.insert("cookies", 5)?;
    /// let watch = state.watch().duplicates().timeout(Duration::from_secs(5));
    /// assert!(!watch.get_raw_update()?.identical);
    /// assert!(watch.get_raw_update()?.identical);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn get_raw_update(&self) -> Result<Update<'s>> {
        let sought = self.sought(self.subject.clone(), None);
        self.next_update(&mut self.start()?, &sought)
    }

    /// See [`State::updates`](crate::State::updates). A timeout holds for each update; when it passes, the iterator
    /// yields [`Error::Timeout`] and can be asked again. The iterator of a live watcher starts at this call, and then
    /// keeps a place of its own.
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::State;
    ///
    /// let state = State::anonymous()?;
    /// let other = state.clone();
    /// let mut updates = state.watch().live().keys(["cookies"])?.timeout(Duration::ZERO).updates()?;
    /// other.insert("cookies", 5)?;
    /// other.insert("flour", 3)?;
    /// other.insert("cookies", 4)?;
    /// assert_eq!(updates.next().expect("endless")?.seq, 1);
    /// assert_eq!(updates.next().expect("endless")?.seq, 3);
    /// assert_eq!(state.cursor(), 0);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn updates(&self) -> Result<Updates<'s>> {
        Ok(Updates::new(self.clone(), self.start()?))
    }

    /// See [`State::updates_since`](crate::State::updates_since), and [`Watch::updates`] for the settings.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// let other = state.clone();
    /// for n in [5, 4, 4, 3] {
    ///     other.insert("cookies", n)?;
    /// }
    /// let mut updates = state.watch().updates_since(1);
    /// assert_eq!(updates.next().expect("endless")?.seq, 2);
    /// assert_eq!(updates.next().expect("endless")?.seq, 4);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn updates_since(&self, seq: u64) -> Updates<'s> {
        Updates::new(self.clone(), Changes::after(seq))
    }

    /// Where a watcher for changes starts.
    fn start(&self) -> Result<Changes> {
        let store = self.watcher.access.store()?;
        Ok(if self.live {
            Changes::after(store.seq()?)
        } else {
            Changes::of_cursor()
        })
    }

    fn sought(&self, subject: Subject, condition: Option<Condition>) -> Sought {
        Sought {
            subject,
            condition,
            duplicates: self.duplicates,
        }
    }

    /// The current state, if it can be told in nanoseconds that the value of `key` is there and `holds`.
    #[inline(always)]
    fn at_once(&self, key: &impl ToKey, holds: impl FnOnce(Small) -> bool) -> Option<Snapshot<'s>> {
        match self.canceller {
            None => at_once::holds_now(self.watcher, key, holds),
            Some(_) => None,
        }
    }

    fn next_snapshot(&self, subject: Subject) -> Result<Snapshot<'s>> {
        let store = self.watcher.access.store()?;
        let sought = self.sought(subject, None);
        self.change(&mut self.start()?, &sought, |seq| Snapshot::at_in(store, seq))
    }

    fn next_update(&self, changes: &mut Changes, sought: &Sought) -> Result<Update<'s>> {
        let store = self.watcher.access.store()?;
        self.change(changes, sought, |seq| Update::read(store, seq, self.duplicates))
    }

    /// Waits for the next update that is `sought`, and returns what `take` makes of it.
    fn change<T>(&self, changes: &mut Changes, sought: &Sought, take: impl Fn(u64) -> Result<Option<T>>) -> Result<T> {
        let cancel = self.not_cancelled()?;
        let _in_time = self.in_time();
        let log = Log::new(self.watcher, sought)?;
        changes.start(&log);
        let last = self.last.unwrap_or(u64::MAX);
        let result = self.wait(&sought.subject, cancel, |until| {
            changes.next(&log, until.min(last), &take)
        });
        if matches!(result, Err(Error::Timeout | Error::Cancelled | Error::Signal { .. })) {
            changes.gave_up(&log);
        }
        result
    }

    /// [`Watch::get_when_equal`] when it is not told at once. The error is in a box for the reason given at
    /// `Access::snapshot`.
    #[cold]
    #[inline(never)]
    pub(crate) fn until_equal(&self, key: impl ToKey, value: impl ToValue) -> Result<Snapshot<'s>, Box<Error>> {
        self.until_key(key, Condition::equal(value)?)
    }

    #[cold]
    #[inline(never)]
    fn until_key(&self, key: impl ToKey, condition: Condition) -> Result<Snapshot<'s>, Box<Error>> {
        let key = own_key(key)?;
        let sought = self.sought(Subject::Key(key.clone()), Some(condition.clone()));
        let found = self.until(&sought, |snapshot| condition.holds(snapshot, &key.as_ref()));
        found.map_err(Box::new)
    }

    /// Waits until `test` holds, which need only be asked again after updates that are `sought`.
    fn until(&self, sought: &Sought, mut test: impl FnMut(&Snapshot<'_>) -> Result<bool>) -> Result<Snapshot<'s>> {
        let cancel = self.not_cancelled()?;
        let _in_time = self.in_time();
        let now = Snapshot::newest_in(self.watcher.access.store()?)?;
        if test(&now)? {
            return Ok(now);
        }
        let tested = now.seq();
        drop(now);
        let log = Log::new(self.watcher, sought)?;
        let mut states = States::new(&log, self.live, tested);
        let result = self.wait(&sought.subject, cancel, |until| states.next(&log, until, &mut test));
        if matches!(result, Err(Error::Timeout | Error::Cancelled | Error::Signal { .. })) {
            states.gave_up(&log);
        }
        result
    }

    /// Has a server that is asked answer in time.
    fn in_time(&self) -> Option<InTime> {
        let remote = self.watcher.access.if_remote();
        remote.map(|_| over_socket::in_time(self.timeout))
    }

    /// What a wait that begins now has to know of its canceller, unless that is cancelled already.
    fn not_cancelled(&self) -> Result<Option<Watched<'_>>> {
        let watched = self.canceller.as_ref().map(Canceller::watch);
        if watched.is_some_and(|watched| watched.is_cancelled()) {
            return Err(Error::Cancelled);
        }
        Ok(watched)
    }

    /// Waits until `look`, called with the newest update whenever there may be a new one, finds something.
    fn wait<T>(
        &self,
        subject: &Subject,
        cancel: Option<Watched<'_>>,
        mut look: impl FnMut(u64) -> Result<Option<T>>,
    ) -> Result<T> {
        let store = self.watcher.access.store()?;
        let deadline = match self.timeout {
            Some(Duration::ZERO) => return look(store.seq()?)?.ok_or(Error::Timeout),
            // Waiting with a writer lock in hand could be for ever.
            _ if is_in_atomic() => return look(store.seq()?)?.ok_or(Error::NestedAtomic),
            Some(timeout) => Deadline::after(timeout),
            None => Deadline::never(),
        };
        let namespace = match store {
            Store::Mapped(namespace) => namespace,
            Store::Remote(remote) => return self.wait_over_socket(remote, subject, deadline, cancel, look),
        };
        let strategy = self.watcher.access.patience.strategy;
        let mut signals = Signals::default();
        loop {
            signals.check()?;
            let own = cancel.is_some();
            let words: SmallVec<[Watched<'_>; 2]> = cancel.into_iter().chain(signals.word()).collect();
            let cancel = Cancel {
                closed: self.watcher.access.shared().closed(),
                words: &words,
            };
            let ended = subject.on(|on| {
                // An error of ours ends the wait as a success does.
                namespace.wait(on, strategy, deadline, cancel, |seq| Ok(look(seq).transpose()))
            })?;
            return match ended {
                Ok(result) => result,
                Err(Ended::TimedOut) => Err(Error::Timeout),
                Err(Ended::Cancelled(0)) if own => Err(Error::Cancelled),
                // The next look at the signals says which.
                Err(Ended::Cancelled(_)) => continue,
                Err(Ended::Closed) => Err(Error::Closed),
            };
        }
    }
}

impl Watch<'_> {
    /// As [`Watch::wait`], where the server waits.
    #[cold]
    fn wait_over_socket<T>(
        &self,
        remote: &Remote,
        subject: &Subject,
        deadline: Deadline,
        cancel: Option<Watched<'_>>,
        mut look: impl FnMut(u64) -> Result<Option<T>>,
    ) -> Result<T> {
        let cancel = self.canceller.as_ref().zip(cancel);
        loop {
            Signals::default().check()?;
            // Before the look, so that what it finds at the end is looked at.
            let late = deadline.passed();
            let until = remote.seq()?;
            if let Some(found) = look(until)? {
                return Ok(found);
            }
            if late {
                return Err(Error::Timeout);
            }
            remote.wait(subject.filter(), until, deadline, cancel)?;
        }
    }
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            subject,
            live,
            duplicates,
            timeout,
            ..
        } = self;
        f.debug_struct("Watch")
            .field("subject", subject)
            .field("live", live)
            .field("duplicates", duplicates)
            .field("timeout", timeout)
            .finish_non_exhaustive()
    }
}
