//! Following the commits: what each did, and which one is the next that a watcher is interested in.

use std::sync::Arc;

use super::Namespace;
use crate::error::{Error, Result};
use crate::key::{Key, KeyRef};
use crate::log::{self, Record};
use crate::read::{Budget, Torn, View};

/// Which commits a watcher is interested in.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, Filter, KeyRef, Next};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// for name in ["door", "lamp"] {
///     namespace.put(&KeyRef::new(1, name.as_bytes()), None, 1, b"on", Deadline::never())?;
/// }
/// let doors = [KeyRef::new(1, b"door").to_owned()];
/// let first = |filter| namespace.next_match(&mut 0, namespace.seq(), filter, false, None);
/// assert_eq!(first(Filter::Any)?, Next::Match(1));
/// assert_eq!(first(Filter::Keys(&doors))?, Next::Match(1));
/// assert_eq!(first(Filter::Except(&doors))?, Next::Match(2));
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub enum Filter<'a> {
    /// Those that change any key.
    Any,
    /// Those that change this key.
    Key(KeyRef<'a>),
    /// Those that change one of these keys.
    Keys(&'a [Key]),
    /// Those that change a key that is not one of these.
    Except(&'a [Key]),
}

/// What [`Namespace::next_match`] found between a cursor and a commit.
///
/// ```
/// use shm_state::{Arena, ArenaOptions, Deadline, Filter, History, KeyRef, Next};
///
/// let history = History { count: 4, bytes: 1 << 20 };
/// let arena = Arena::anonymous(&ArenaOptions { history, ..Default::default() })?;
/// let namespace = arena.namespace("default")?;
/// for _ in 0..100 {
///     namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
/// }
/// let mut cursor = 0;
/// let found = namespace.next_match(&mut cursor, 100, Filter::Any, true, None)?;
/// let Next::Lagged(missed) = found else { panic!("{found:?}") };
/// assert_eq!(cursor, missed);
/// assert_eq!(namespace.next_match(&mut cursor, 100, Filter::Any, true, None)?, Next::Match(missed + 1));
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// This commit matches; the cursor stands at it.
    Match(u64),
    /// None; the cursor stands at the last commit looked at.
    Nothing,
    /// So many commits fell out of the history unseen; the cursor stands at the last of them. A watcher of keys is not
    /// told of commits of which it is known that they touched none of these.
    Lagged(u64),
}

impl Namespace {
    /// Reads the record of a commit. `None` when it fell out of the history, or has not been made.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
    /// assert_eq!(namespace.record(1)?.expect("it is recent").pid, std::process::id());
    /// assert!(namespace.record(2)?.is_none());
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn record(&self, seq: u64) -> Result<Option<Record>> {
        if seq > self.seq() {
            return Ok(None);
        }
        let mut record = Record::default();
        match log::read(&self.space, seq, &mut record) {
            log::Found::Record => Ok(Some(record)),
            log::Found::Gone => Ok(None),
            log::Found::Damaged => Err(self.damaged_log(seq)),
        }
    }

    #[cold]
    pub(crate) fn damaged_log(&self, seq: u64) -> Error {
        Error::corrupt(format!(
            "namespace {:?}: the log does not hold commit {seq}",
            self.space.name
        ))
    }

    #[cold]
    fn lost(&self, seq: u64) -> Error {
        Error::corrupt(format!(
            "namespace {:?}: the log holds commit {seq}, and the newest one is {}",
            self.space.name,
            self.seq()
        ))
    }

    /// The name of the process that made a commit, [`set_process_name`](crate::set_process_name); `None` if it is dead or
    /// gone and some thousand others have come since.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef, set_process_name};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// set_process_name("porter");
    /// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
    /// let record = namespace.record(1)?.expect("it is recent");
    /// assert_eq!(namespace.writer_name(&record).as_deref(), Some("porter"));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn writer_name(&self, record: &Record) -> Option<Arc<str>> {
        self.space.attachment.writer_name(record)
    }

    /// The keys that a commit changed, each with whether its value stayed the same. `None` when it fell out of the
    /// history.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// namespace.put(&door, None, 1, b"open", Deadline::never())?;
    /// let record = namespace.record(1)?.expect("it is recent");
    /// assert_eq!(namespace.changed_keys(&record)?, Some(vec![(door.to_owned(), false)]));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn changed_keys(&self, record: &Record) -> Result<Option<Vec<(Key, bool)>>> {
        let view = View::new(&self.space, record.seq.saturating_sub(1));
        let mut budget = Budget::of(&self.space);
        let damage = |torn: Torn| torn.damage(&self.space);
        let keys: Result<Vec<_>> = record
            .changes
            .iter()
            .map(|change| {
                let (tag, bytes) = view.key_of(change.entry).map_err(damage)?;
                budget.spend(&self.space, bytes.len(), 0)?;
                Ok((KeyRef::new(tag, &bytes).to_owned(), change.identical))
            })
            .collect();
        if !view.is_valid() {
            return Ok(None);
        }
        keys.map(Some)
    }

    /// Looks for the first commit after `cursor`, up to `until`, that matches, and moves the cursor there. `until` is a
    /// commit that [`Namespace::seq`] has shown.
    ///
    /// `duplicates` includes commits that set a key to the value it had; `skip` is an identity whose commits are
    /// left out.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, Filter, KeyRef, Next};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let other = namespace.fork()?;
    /// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
    /// other.put(&KeyRef::new(1, b"lamp"), None, 1, b"on", Deadline::never())?;
    /// // A watcher that leaves out what was done through itself.
    /// let own = Some(namespace.identity());
    /// let mut cursor = 0;
    /// assert_eq!(namespace.next_match(&mut cursor, 2, Filter::Any, false, own)?, Next::Match(2));
    /// assert_eq!(namespace.next_match(&mut cursor, 2, Filter::Any, false, own)?, Next::Nothing);
    /// assert_eq!(cursor, 2);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn next_match(
        &self,
        cursor: &mut u64,
        until: u64,
        filter: Filter<'_>,
        duplicates: bool,
        skip: Option<u32>,
    ) -> Result<Next> {
        let mut record = Record::default();
        while *cursor < until {
            let seq = *cursor + 1;
            match log::read(&self.space, seq, &mut record) {
                log::Found::Record => {}
                log::Found::Gone => match self.lagged(cursor, filter) {
                    Some(lagged) => return Ok(lagged),
                    None => continue,
                },
                log::Found::Damaged => return Err(self.damaged_log(seq)),
            }
            if skip != Some(record.identity) {
                let view = View::new(&self.space, *cursor);
                let matches = self.matches(&view, &record, filter, duplicates);
                // The entries may have been recycled while their keys were compared.
                if !view.is_valid() {
                    match self.lagged(cursor, filter) {
                        Some(lagged) => return Ok(lagged),
                        None => continue,
                    }
                }
                if matches.map_err(|torn| torn.damage(&self.space))? {
                    // Whoever gets a match looks at its state, and would look again if that cannot be had yet.
                    if seq > self.seq() {
                        return Err(self.lost(seq));
                    }
                    *cursor = seq;
                    return Ok(Next::Match(seq));
                }
            }
            *cursor = seq;
        }
        Ok(Next::Nothing)
    }

    /// The cursor fell behind the floor: commits up to it cannot be read. `None` if they do not concern the watcher.
    #[cold]
    fn lagged(&self, cursor: &mut u64, filter: Filter<'_>) -> Option<Next> {
        if let Filter::Keys(keys) = filter
            && let Some(floor) = self.untouched_until(keys, *cursor)
            && floor > *cursor
        {
            *cursor = floor;
            return None;
        }
        let floor = self.floor();
        let missed = floor.saturating_sub(*cursor);
        *cursor = floor;
        Some(Next::Lagged(missed))
    }

    fn matches(&self, view: &View<'_>, record: &Record, filter: Filter<'_>, duplicates: bool) -> Result<bool, Torn> {
        let is_listed = |entry: u32, keys: &[Key]| -> Result<bool, Torn> {
            for key in keys {
                if view.entry_has_key(entry, &key.as_ref())? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        for change in record.changes.iter().filter(|change| duplicates || !change.identical) {
            let matches = match filter {
                Filter::Any => true,
                Filter::Key(key) => view.entry_has_key(change.entry, &key)?,
                Filter::Keys(keys) => is_listed(change.entry, keys)?,
                Filter::Except(keys) => !is_listed(change.entry, keys)?,
            };
            if matches {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
