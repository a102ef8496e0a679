//! Updates in full, and iterating over them.

use std::fmt;
use std::time::{Duration, SystemTime};

use shm_state::KeyRef;

use super::walk::Changes;
use super::writer::Writer;
use super::{Sought, Watch};
use crate::codec::decode_key;
use crate::error::{Error, Result};
use crate::key::Key;
use crate::snapshot::Snapshot;
use crate::store::Store;

/// One update: what a single write or a single `atomic` did.
///
/// ```
/// use zproc::State;
///
/// let state = State::anonymous()?;
/// state.clone().atomic(|dict| dict.extend([("flour", 3), ("cookies", 0)]))?;
/// let update = state.get_raw_update()?;
/// assert_eq!(update.changed, ["flour".into(), "cookies".into()]);
/// assert!(update.before.is_empty()?);
/// assert_eq!(update.after.get::<i64>("flour")?, Some(3));
/// assert_eq!(update.writer.pid, std::process::id());
/// # Ok::<(), zproc::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Update<'s> {
    /// The state before it.
    pub before: Snapshot<'s>,
    /// The state after it.
    pub after: Snapshot<'s>,
    /// It wrote only values that were there already.
    pub identical: bool,
    /// Its number.
    pub seq: u64,
    /// The process that made it.
    pub writer: Writer,
    /// When it was made: to a few milliseconds, or to the nanosecond if its writer asked for that
    /// ([`Builder::precise_time`](crate::Builder::precise_time)).
    pub time: SystemTime,
    /// The keys that it changed, in the order in which it wrote them; for a watcher of duplicates all that it wrote.
    pub changed: Vec<Key>,
}

impl<'s> Update<'s> {
    /// Reads the update `seq`; `None` if it fell out of the history.
    pub(super) fn read(store: Store<'s>, seq: u64, duplicates: bool) -> Result<Option<Self>> {
        let Some(before) = Snapshot::at_in(store, seq - 1)? else {
            return Ok(None);
        };
        let Some(after) = Snapshot::at_in(store, seq)? else {
            return Ok(None);
        };
        let namespace = match store {
            Store::Mapped(namespace) => namespace,
            Store::Remote(remote) => {
                return remote.update(seq, |update| Self::received(before, after, seq, update, duplicates));
            }
        };
        let Some(record) = namespace.record(seq)? else {
            return Ok(None);
        };
        let Some(keys) = namespace.changed_keys(&record)? else {
            return Ok(None);
        };
        let written = keys.iter().filter(|(_, identical)| duplicates || !identical);
        let changed: Result<Vec<Key>> = written.map(|(key, _)| decode_key(&key.as_ref())).collect();
        Ok(Some(Self {
            before,
            after,
            identical: record.identical,
            seq,
            writer: Writer {
                pid: record.pid,
                name: namespace.writer_name(&record),
            },
            time: SystemTime::UNIX_EPOCH + Duration::from_nanos(record.time_ns),
            changed: changed?,
        }))
    }

    /// What the server says of it.
    fn received(
        before: Snapshot<'s>,
        after: Snapshot<'s>,
        seq: u64,
        update: &crate::wire::message::Update<'_>,
        duplicates: bool,
    ) -> Result<Self> {
        let written = update.keys.iter().filter(|(_, identical)| duplicates || !identical);
        let changed: Result<Vec<Key>> = written
            .map(|((tag, bytes), _)| decode_key(&KeyRef::new(*tag, bytes.0)))
            .collect();
        Ok(Self {
            before,
            after,
            identical: update.identical,
            seq,
            writer: Writer {
                pid: update.pid,
                name: update.name.map(Into::into),
            },
            time: SystemTime::UNIX_EPOCH + Duration::from_nanos(update.time_ns),
            changed: changed?,
        })
    }
}

/// The updates one after another; see [`State::updates`](crate::State::updates).
///
/// After [`Error::Lagged`], [`Error::Timeout`] and [`Error::Cancelled`] it goes on, after another error it ends.
///
/// ```
/// use zproc::{Builder, Error};
///
/// let state = Builder::anonymous().history(4, 1 << 20).create()?;
/// let other = state.clone();
/// for n in 1..=100 {
///     other.insert("cookies", n)?;
/// }
/// let (mut seen, mut missed) = (0, 0);
/// for update in state.updates()? {
///     match update {
///         Ok(update) => {
///             seen += 1;
///             if update.after.get("cookies")? == Some(100) {
///                 break;
///             }
///         }
///         Err(Error::Lagged { missed: count }) => missed += count, // and on with the oldest that there is
///         Err(error) => return Err(error),
///     }
/// }
/// assert!(seen >= 4);
/// assert_eq!(seen + missed, 100);
/// # Ok::<(), zproc::Error>(())
/// ```
pub struct Updates<'s> {
    watch: Watch<'s>,
    sought: Sought,
    changes: Changes,
    ended: bool,
}

impl<'s> Updates<'s> {
    pub(super) fn new(watch: Watch<'s>, changes: Changes) -> Self {
        Self {
            sought: watch.sought(watch.subject.clone(), None),
            watch,
            changes,
            ended: false,
        }
    }
}

impl<'s> Iterator for Updates<'s> {
    type Item = Result<Update<'s>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.watch.next_update(&mut self.changes, &self.sought);
        self.ended = next.as_ref().is_err_and(ends);
        Some(next)
    }
}

/// Whether one who goes from update to update has come to the end.
pub(super) fn ends(error: &Error) -> bool {
    !matches!(error, Error::Lagged { .. } | Error::Timeout | Error::Cancelled)
}

impl fmt::Debug for Updates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Updates")
            .field("watch", &self.watch)
            .finish_non_exhaustive()
    }
}
