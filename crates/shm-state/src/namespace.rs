//! A namespace as its users see it: one dict, one writer lock, one history.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::key::{Key, KeyRef, Payload};
use crate::layout::{Entry, Seat};
use crate::log::{self, Found, Record};
use crate::overwrite::{self, Put};
use crate::pin::{self, Refused};
use crate::pinned::Pinned;
use crate::read::{ATTEMPTS, Budget, OPTIMISTIC_MAX, Small, Stop, Torn, View};
use crate::seats;
use crate::space::Space;
use crate::sync::{Ordering, Word};
use crate::sys::fork;
use crate::sys::time::Deadline;
use crate::wait::{self, Ended, On, Strategy};
use crate::write::Transaction;

/// One dict of an arena, opened through one identity.
///
/// An identity is what commits are signed with; a watcher can leave out its own. [`Namespace::fork`] makes another
/// identity for the same dict.
pub struct Namespace {
    space: Arc<Space>,
    identity: u32,
    /// Where this identity pins and watches; taken when first needed.
    seat: OnceLock<SeatRef>,
}

struct SeatRef(std::ptr::NonNull<Seat>);

// SAFETY: seats are made of atomic words in shared memory that `space` keeps mapped.
unsafe impl Send for SeatRef {}
// SAFETY: as above.
unsafe impl Sync for SeatRef {}

/// Where a key's value lives: saves the lookup. Made by [`Namespace::locate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRef {
    pub(crate) entry: u32,
    pub(crate) generation: u64,
    /// Address of the control block: of which namespace, in this process.
    pub(crate) namespace: usize,
}

/// Where a key's value lives, resolved: reads it in a few loads. Made by [`Namespace::place`].
#[derive(Clone, Copy)]
pub struct Place<'n> {
    view: View<'n>,
    entry: &'n Entry,
    at: EntryRef,
}

impl Place<'_> {
    /// The newest value, handed to `f` as by [`Namespace::get_with`]. `None` when it cannot be had this way: because it is
    /// large, the place is no longer that of the key, or writers were faster. Then look the key up.
    #[inline(always)]
    pub fn peek<R>(&self, f: impl FnOnce(u16, &[u8]) -> R) -> Option<Option<R>> {
        let view = self.view.renewed();
        if !self.is_current() {
            return None;
        }
        match view.small_at_hand(self.entry) {
            Ok(small) if view.is_valid() => Some(small.map(|small| small.with(f))),
            _ => None,
        }
    }

    /// Whether it still is the place of its key.
    #[inline(always)]
    pub fn is_current(&self) -> bool {
        self.view.generation() == self.at.generation
    }

    /// What [`Namespace::put`] takes.
    #[inline(always)]
    pub fn entry_ref(&self) -> EntryRef {
        self.at
    }
}

/// Which commits a watcher is interested in.
#[derive(Clone, Copy, Debug)]
pub enum Filter<'a> {
    /// Those that change any key.
    Any,
    /// Those that change one of these keys.
    Keys(&'a [Key]),
    /// Those that change a key that is not one of these.
    Except(&'a [Key]),
}

/// What [`Namespace::next_match`] found between a cursor and a commit.
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
    pub(crate) fn new(space: Arc<Space>, identity: u32) -> Self {
        Self {
            space,
            identity,
            seat: OnceLock::new(),
        }
    }

    /// The namespace as this process sees it.
    #[inline(always)]
    pub(crate) fn space(&self) -> &Arc<Space> {
        &self.space
    }

    /// Another identity for the same dict.
    pub fn fork(&self) -> Result<Self> {
        self.space.check_fork()?;
        Ok(Self::new(Arc::clone(&self.space), seats::next_identity(&self.space)?))
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.space.name
    }

    /// What commits through this value are signed with.
    pub fn identity(&self) -> u32 {
        self.identity
    }

    /// The number of the newest commit; 0 before the first.
    #[inline(always)]
    pub fn seq(&self) -> u64 {
        self.space.seq()
    }

    /// The oldest commit whose snapshot can be taken.
    pub fn floor(&self) -> u64 {
        self.space.control().reader.floor.load(Ordering::Relaxed)
    }

    /// A word of this process, and what it holds unless the process was forked since the arena was opened: the same as
    /// [`Namespace::check_fork`] in one comparison. It never holds `u64::MAX`.
    pub fn fork_mark(&self) -> (&'static AtomicU64, u64) {
        (fork::word(), self.space.attachment.epoch())
    }

    /// Errors if this process was forked from the one that opened the arena.
    #[inline(always)]
    pub fn check_fork(&self) -> Result<()> {
        self.space.check_fork()
    }

    /// The newest value of a key. Takes no lock and stores nothing.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the arena is damaged.
    #[inline]
    pub fn get(&self, key: &KeyRef<'_>) -> Result<Option<Payload>> {
        match self.peek(key) {
            Some(small) => Ok(small.map(|small| small.with(Payload::copy_of))),
            // Copied once only: it may be a good part of what this process has room for.
            None => self.get_slowly(*key),
        }
    }

    /// As [`Namespace::get`], but hands tag and bytes to `f` instead of copying them into a [`Payload`]. For values of
    /// up to 16 bytes nothing is allocated.
    #[inline(always)]
    pub fn get_with<R>(&self, key: &KeyRef<'_>, f: impl FnOnce(u16, &[u8]) -> R) -> Result<Option<R>> {
        match self.peek(key) {
            Some(small) => Ok(small.map(|small| small.with(f))),
            None => Ok(self.get_slowly(*key)?.map(|payload| f(payload.tag(), payload.bytes()))),
        }
    }

    /// The newest value of a key, if all that is asked for is at hand: `None` sends to [`Namespace::get`].
    #[inline(always)]
    pub fn peek(&self, key: &KeyRef<'_>) -> Option<Option<Small>> {
        let view = View::newest(&self.space);
        let small = match view.find_at_hand(key) {
            Ok(Some(entry)) => view.small_at_hand(entry),
            Ok(None) => Ok(None),
            Err(_) => Err(()),
        };
        // What the words say is not looked at before the snapshot is known to have been intact.
        match small {
            Ok(small) if view.is_valid() => Some(small),
            _ => None,
        }
    }

    #[cold]
    #[inline(never)]
    fn get_slowly(&self, key: KeyRef<'_>) -> Result<Option<Payload>> {
        self.read(|view, limit| match view.find(&key)? {
            Some(entry) => view.live_version(entry)?.map(|v| view.payload(v, limit)).transpose(),
            None => Ok(None),
        })
    }

    /// Whether a key is present.
    pub fn contains(&self, key: &KeyRef<'_>) -> Result<bool> {
        self.read(|view, _| match view.find(key)? {
            Some(entry) => Ok(view.live_version(entry)?.is_some()),
            None => Ok(false),
        })
    }

    /// How many keys are present.
    pub fn len(&self) -> Result<usize> {
        for _ in 0..ATTEMPTS {
            if let Some(live) = log::live(&self.space, self.seq()) {
                return Ok(live as usize);
            }
        }
        self.pin()?.len()
    }

    /// Whether no key is present.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Where the value of a key lives, to read it without a lookup. `None` when the key was never set.
    pub fn locate(&self, key: &KeyRef<'_>) -> Result<Option<EntryRef>> {
        self.read(|view, _| {
            // Acquire, and before the lookup: an entry that a later rebuild drops then has an older generation.
            let generation = self.space.control().reader.generation.load(Ordering::Acquire);
            Ok(view.find(key)?.map(|entry| EntryRef {
                entry,
                generation,
                namespace: std::ptr::from_ref(self.space.control()).addr(),
            }))
        })
    }

    /// A place to read a key from again and again. `None` when the key was never set.
    pub fn place(&self, key: &KeyRef<'_>) -> Result<Option<Place<'_>>> {
        let Some(at) = self.locate(key)? else { return Ok(None) };
        let view = View::new(&self.space, self.space.seq());
        Ok(view.entry(at.entry).map(|entry| Place { view, entry, at }))
    }

    /// Runs an optimistic read until it was not disturbed; after a few attempts, or for a large payload, under a pin.
    #[inline(always)]
    fn read<T>(&self, read: impl Fn(&View<'_>, usize) -> Result<T, Stop>) -> Result<T> {
        let view = View::newest(&self.space);
        let result = read(&view, OPTIMISTIC_MAX);
        if let Ok(value) = result
            && view.is_valid()
        {
            return Ok(value);
        }
        self.read_again(read)
    }

    #[cold]
    fn read_again<T>(&self, read: impl Fn(&View<'_>, usize) -> Result<T, Stop>) -> Result<T> {
        for _ in 1..ATTEMPTS {
            let view = View::new(&self.space, self.space.seq());
            match (read(&view, OPTIMISTIC_MAX), view.is_valid()) {
                (Ok(value), true) => return Ok(value),
                (Err(Stop::Large), true) => break,
                (Err(stop), true) => return Err(stop.into_error(&self.space)),
                (_, false) => {}
            }
        }
        let pinned = self.pin()?;
        let view = View::new(&self.space, pinned.seq());
        read(&view, usize::MAX).map_err(|stop| stop.into_error(&self.space))
    }

    /// Pins the newest snapshot.
    #[inline]
    pub fn pin(&self) -> Result<Pinned<'_>> {
        self.space.check_fork()?;
        let reader = &self.space.control().reader;
        if let Some(seat) = self.own_seat()
            && let Ok(seq) = pin::pin(&seat.pin, &reader.floor, &reader.seq)
        {
            return Ok(Pinned::new(&self.space, seat, seq, false));
        }
        self.pin_elsewhere()
    }

    /// Pins the newest snapshot if the value of a key is in it, at hand, and `holds`: a get and a pin in one. `None`
    /// says nothing: then [`Namespace::pin`] it and look.
    ///
    /// What `holds` is asked about may have been read while it was overwritten; then its answer does not count.
    #[inline(always)]
    pub fn pin_if(&self, key: &KeyRef<'_>, holds: impl FnOnce(Small) -> bool) -> Option<Pinned<'_>> {
        let view = View::newest(&self.space);
        let small = view.small_at_hand(view.find_at_hand(key).ok()??).ok()??;
        if !holds(small) || self.space.check_fork().is_err() {
            return None;
        }
        let seat = self.own_seat()?;
        if pin::pin_at(&seat.pin, &self.space.control().reader.floor, view.seq) != Ok(true) {
            return None;
        }
        // From here on it is a value: should the view turn out not to be intact, it is dropped, and with it the pin.
        let pinned = Pinned::new(&self.space, seat, view.seq, false);
        view.is_valid().then_some(pinned)
    }

    #[cold]
    fn pin_elsewhere(&self) -> Result<Pinned<'_>> {
        let reader = &self.space.control().reader;
        loop {
            let seat = seats::take(&self.space)?;
            match pin::pin(&seat.pin, &reader.floor, &reader.seq) {
                Ok(seq) => return Ok(Pinned::new(&self.space, seat, seq, true)),
                Err(Refused::InUse) => {}
                Err(Refused::Damaged) => {
                    self.space.return_seat(seat);
                    let name = &self.space.name;
                    return Err(Error::corrupt(format!(
                        "namespace {name:?}: its history begins after its newest commit"
                    )));
                }
            }
        }
    }

    /// Pins the snapshot after commit `seq`. `None` when it fell out of the history, or has not been made.
    pub fn pin_at(&self, seq: u64) -> Result<Option<Pinned<'_>>> {
        self.space.check_fork()?;
        if seq > self.seq() {
            return Ok(None);
        }
        let floor = &self.space.control().reader.floor;
        let own = self.own_seat().map(|seat| (seat, pin::pin_at(&seat.pin, floor, seq)));
        let (seat, pinned, borrowed) = match own {
            Some((seat, Ok(pinned))) => (seat, pinned, false),
            _ => loop {
                let seat = seats::take(&self.space)?;
                if let Ok(pinned) = pin::pin_at(&seat.pin, floor, seq) {
                    break (seat, pinned, true);
                }
            },
        };
        if !pinned && borrowed {
            self.space.return_seat(seat);
        }
        Ok(pinned.then(|| Pinned::new(&self.space, seat, seq, borrowed)))
    }

    /// The seat of this identity; `None` when it cannot have one now.
    #[inline(always)]
    fn own_seat(&self) -> Option<&Seat> {
        match self.seat.get() {
            // SAFETY: it came from `seats::take` of this very space, whose memory is still mapped.
            Some(seat) => Some(unsafe { seat.0.as_ref() }),
            None => self.take_own_seat(),
        }
    }

    #[cold]
    fn take_own_seat(&self) -> Option<&Seat> {
        // Without waiting for anybody: whoever finds none does without one of its own.
        let seat = self.space.take_seat()?;
        if self.seat.set(SeatRef(seat.into())).is_err() {
            self.space.return_seat(seat); // another thread was faster
        }
        seats::keep_some_free(&self.space);
        // SAFETY: as in `own_seat`.
        self.seat.get().map(|seat| unsafe { seat.0.as_ref() })
    }

    /// Begins a transaction, waiting for the writer lock until the deadline.
    ///
    /// # Errors
    /// [`Error::LockTimeout`] names the process that holds the lock; [`Error::Deadlock`] if this thread does.
    #[inline]
    pub fn begin(&self, deadline: Deadline) -> Result<Transaction<'_>> {
        Transaction::begin(&self.space, self.identity, deadline)
    }

    /// Sets one key, as one commit. Returns the number of the commit. `place` saves the lookup if it is still valid.
    ///
    /// # Errors
    /// As for [`Namespace::begin`] and [`Transaction::put`]; the state is then as before.
    #[inline]
    pub fn put(
        &self,
        key: &KeyRef<'_>,
        place: Option<EntryRef>,
        tag: u16,
        bytes: &[u8],
        deadline: Deadline,
    ) -> Result<u64> {
        overwrite::put(&self.space, self.identity, &Put { key, place, tag, bytes }, deadline)
    }

    /// Shows others how far this identity has read, for their statistics.
    pub fn publish_cursor(&self, cursor: u64) {
        if self.space.check_fork().is_ok()
            && let Some(seat) = self.own_seat()
        {
            seat.cursor.store(cursor.wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// Reads the record of a commit. `None` when it fell out of the history, or has not been made.
    pub fn record(&self, seq: u64) -> Result<Option<Record>> {
        if seq > self.seq() {
            return Ok(None);
        }
        let mut record = Record::default();
        match log::read(&self.space, seq, &mut record) {
            Found::Record => Ok(Some(record)),
            Found::Gone => Ok(None),
            Found::Damaged => Err(self.damaged_log(seq)),
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

    /// The keys that a commit changed, each with whether its value stayed the same. `None` when it fell out of the
    /// history.
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
                Found::Record => {}
                Found::Gone => match self.lagged(cursor, filter) {
                    Some(lagged) => return Ok(lagged),
                    None => continue,
                },
                Found::Damaged => return Err(self.damaged_log(seq)),
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
                Filter::Keys(keys) => is_listed(change.entry, keys)?,
                Filter::Except(keys) => !is_listed(change.entry, keys)?,
            };
            if matches {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits until `check`, called with the number of the newest commit whenever there may be a new one, returns
    /// something. `cancel` is a flag, or a [`Cancel`] with words besides.
    pub fn wait<'c, T>(
        &self,
        on: On<'_>,
        strategy: Strategy,
        deadline: Deadline,
        cancel: impl Into<Cancel<'c>>,
        check: impl FnMut(u64) -> Result<Option<T>>,
    ) -> Result<Result<T, Ended>> {
        self.space.check_fork()?;
        wait::wait(&self.space, on, strategy, deadline, cancel.into(), check)
    }

    /// Wakes every sleeper of the namespace, in all processes, so that it looks at its cancel flag.
    pub fn wake_all(&self) {
        self.space.wake_all();
    }

    /// Process and thread that hold the writer lock.
    pub fn lock_holder(&self) -> Option<(u32, u32)> {
        self.space.attachment.holder(&self.space.control().lock)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(seat) = self.seat.get() {
            // SAFETY: as in `own_seat`.
            self.space.return_seat(unsafe { seat.0.as_ref() });
        }
    }
}
