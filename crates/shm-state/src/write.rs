//! Transactions: changes that are private until they commit.
//!
//! **Guarantee.** While a transaction lives, no other writer of the namespace runs; readers see the state before it.
//! Dropping it leaves the state as it was: it only wrote what means nothing yet (contents of blocks that it took, see
//! `heap`), so an abort, an error, a panic or a SIGKILL needs no undoing.
//!
//! A transaction remembers, for each key it changed, the version before and the private version after
//! ([`Pending`]): a short list, with a hash map beside it when it grows. Its own reads look there first.

mod dict;

use hashbrown::HashTable;

use crate::commit;
use crate::error::{Error, Result};
use crate::fault::{Fault, planted};
use crate::heap::{Assignments, Heap, NoRoom};
use crate::key::KeyRef;
use crate::layout::{Entry, GRANULE, KEY_AT, KEY_MAX, PAYLOAD_AT, TOMBSTONE, Version, high, low, pack};
use crate::lock::LockGuard;
use crate::log::Change;
use crate::news::Event;
use crate::read::{NewVersion, SHORT_KEY, Torn, View, short_words, store_bytes, store_version};
use crate::reclaim;
use crate::record;
use crate::signature::Signature;
use crate::space::Space;
use crate::sync::{Ordering, Word, Word64};
use crate::sys::time::Deadline;
use crate::table::Insertion;

/// One key that the transaction touched.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// Hash of the key.
    pub hash: u64,
    /// Granule of its entry.
    pub entry: u32,
    /// Granule of the private version; 0 when the key is back to being absent.
    pub new: u32,
    /// Granule of the newest committed version, 0 if the entry is new.
    pub old: u32,
    /// The key is alive in the committed state.
    pub was_live: bool,
    /// The key is alive in the transaction.
    pub live: bool,
    /// The entry was made by this transaction.
    pub new_entry: bool,
    /// Its place among the keys that this transaction inserted; 0 = it keeps its place.
    pub order: u32,
}

/// Beyond this many pending keys they are found through a map, and their hashes do not fit on the stack.
const FEW: usize = 32;

/// Buffers of a transaction, kept from one to the next so that small ones allocate nothing.
#[derive(Default)]
pub struct Scratch {
    pub(crate) heap: Heap,
    pub(crate) pending: Vec<Pending>,
    /// The hashes of the pending keys, beside them, for a quick search.
    hashes: Vec<u64>,
    /// Places in `pending`, by hash of the key; used when there are more than a few.
    pub(crate) places: HashTable<u32>,
    pub(crate) record: Assignments,
    pub(crate) changes: Vec<Change>,
    pub(crate) insertions: Vec<Insertion>,
    pub(crate) limits: reclaim::Limits,
    /// The number that the commit will have.
    pub(crate) seq: u64,
    pub(crate) signature: Signature,
    /// Keys alive in the transaction.
    pub(crate) live: u32,
    /// Keys that it inserted so far.
    inserted: u32,
    /// No slot of the array from here on is alive after this transaction, as far as it changed the end.
    pub(crate) live_end: Option<usize>,
    /// The commit is decided, or was tried: nothing more can be done with the transaction.
    committed: bool,
    poisoned: bool,
}

impl Scratch {
    #[inline]
    fn begin(&mut self, seq: u64, live: u32, signature: Signature) {
        self.pending.clear();
        self.hashes.clear();
        self.record.clear();
        self.changes.clear();
        self.insertions.clear();
        if !self.places.is_empty() {
            self.places.clear();
        }
        (self.seq, self.live, self.signature) = (seq, live, signature);
        (self.inserted, self.live_end) = (0, None);
        (self.committed, self.poisoned) = (false, false);
    }
}

/// Exclusive, atomic access to a namespace. Dropping it without [`Transaction::commit`] leaves no trace.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
/// let arena = Arena::anonymous(&ArenaOptions::default())?;
/// let namespace = arena.namespace("default")?;
/// let mut transaction = namespace.begin(Deadline::never())?;
/// transaction.put(&KeyRef::new(0, b"door"), 1, b"open")?;
/// transaction.commit()?;
/// assert_eq!(namespace.get(&KeyRef::new(0, b"door"))?.unwrap().bytes(), b"open");
/// # Ok::<(), shm_state::Error>(())
/// ```
pub struct Transaction<'n> {
    pub(crate) space: &'n Space,
    pub(crate) scratch: &'n mut Scratch,
    pub(crate) guard: Option<LockGuard<'n>>,
}

/// Takes the writer lock, which a forked child does not get, and finishes what a dead owner left.
#[inline(always)]
pub(crate) fn enter(space: &Space, deadline: Deadline) -> Result<LockGuard<'_>> {
    let guard = space.lock(deadline)?;
    if guard.took_over() || record::is_unfinished(space) {
        recover(space, guard.dead_owner())?;
    }
    // Before any block is overwritten: an optimistic reader that meets what we write also sees the floor that allowed it,
    // which an earlier owner of the lock may have stored. Pairs with the fence in `pin::still_valid`.
    Word64::fence(Ordering::Release);
    Ok(guard)
}

/// The newest commit, for the owner of the writer lock.
#[inline(always)]
pub(crate) fn newest(space: &Space) -> u64 {
    space.control().reader.seq.load(Ordering::Relaxed)
}

#[cold]
fn recover(space: &Space, dead_owner: Option<(u32, u32)>) -> Result<()> {
    if let Some((pid, tid)) = dead_owner {
        let namespace = space.name.clone();
        space.mapping.news().note(Event::TookOver { namespace, pid, tid });
    }
    record::recover(space, dead_owner.is_some())
}

impl<'n> Transaction<'n> {
    /// Takes the lock, finishes what a dead owner left, and makes room in the history.
    #[inline]
    pub(crate) fn begin(space: &'n Space, signature: Signature, deadline: Deadline) -> Result<Self> {
        let guard = enter(space, deadline)?;
        Ok(Self::entered(space, guard, newest(space), signature))
    }

    /// Goes on from [`enter`].
    #[inline]
    pub(crate) fn entered(space: &'n Space, guard: LockGuard<'n>, seq: u64, signature: Signature) -> Self {
        // SAFETY: we hold the writer lock until the transaction is dropped, and ask once.
        let scratch = unsafe { space.scratch() };
        let (live, retired) = crate::log::totals(space, seq);
        reclaim::trim_history(space, seq, retired, &mut scratch.limits);
        scratch.begin(seq.wrapping_add(1), live, signature);
        scratch.heap.begin(space.control());
        Self {
            space,
            scratch,
            guard: Some(guard),
        }
    }

    /// The state before the transaction.
    #[inline(always)]
    pub(crate) fn before(&self) -> View<'n> {
        View::new(self.space, self.scratch.seq.wrapping_sub(1))
    }

    fn damage(&self) -> impl Fn(Torn) -> Error + use<'n> {
        let space = self.space;
        move |torn| torn.damage(space)
    }

    /// Call after code of others ran on this thread while the transaction was open: a robust mutex of theirs would
    /// otherwise have erased the mark by which the kernel finds our lock if we die.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let mut transaction = namespace.begin(Deadline::never())?;
    /// // ... code of others, which may lock robust mutexes ...
    /// transaction.rearm();
    /// transaction.put(&KeyRef::new(1, b"door"), 1, b"open")?;
    /// transaction.commit()?;
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline]
    pub fn rearm(&self) {
        if let Some(guard) = &self.guard {
            guard.rearm();
        }
    }

    /// Keys alive in the transaction.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let mut transaction = namespace.begin(Deadline::never())?;
    /// transaction.put(&KeyRef::new(1, b"door"), 1, b"open")?;
    /// assert_eq!((transaction.len(), namespace.len()?), (1, 0));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn len(&self) -> usize {
        self.scratch.live as usize
    }

    /// Whether no key is alive.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// assert!(namespace.begin(Deadline::never())?.is_empty());
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.scratch.live == 0
    }

    /// The number of the newest commit before the transaction.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let mut transaction = namespace.begin(Deadline::never())?;
    /// assert_eq!(transaction.base_seq(), 0);
    /// transaction.put(&KeyRef::new(1, b"door"), 1, b"open")?;
    /// assert_eq!(transaction.commit()?, 1);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn base_seq(&self) -> u64 {
        self.scratch.seq.wrapping_sub(1)
    }

    /// The place of a key among the pending ones.
    #[inline]
    fn find_pending(&self, key: &KeyRef<'_>) -> Result<Option<usize>> {
        let Scratch {
            pending,
            hashes,
            places,
            ..
        } = &*self.scratch;
        // A pending entry is alive or private, so it can be read like any other.
        let is_key = |at: usize| self.before().entry_has_key(pending[at].entry, key) == Ok(true);
        if pending.len() <= FEW {
            let same_hash = hashes.iter().enumerate().filter(|(_, hash)| **hash == key.hash());
            return Ok(same_hash.map(|(at, _)| at).find(|at| is_key(*at)));
        }
        let place = places.find(key.hash(), |at| {
            hashes[*at as usize] == key.hash() && is_key(*at as usize)
        });
        Ok(place.map(|at| *at as usize))
    }

    #[inline(always)]
    fn add_pending(&mut self, pending: Pending) {
        self.scratch.hashes.push(pending.hash);
        self.scratch.pending.push(pending);
        if self.scratch.pending.len() > FEW {
            self.add_place();
        }
    }

    fn add_place(&mut self) {
        let Scratch { pending, places, .. } = &mut *self.scratch;
        let first = if pending.len() == FEW + 1 { 0 } else { pending.len() - 1 };
        for at in first..pending.len() {
            places.insert_unique(pending[at].hash, at as u32, |at| pending[*at as usize].hash);
        }
    }

    fn version(&self, granule: u32) -> Result<&'n Version> {
        self.space
            .mapping
            .at(granule)
            .ok_or_else(|| Torn(granule).damage(self.space))
    }

    /// Sets a key. Returns whether it was present before.
    ///
    /// # Errors
    /// [`Error::Full`] and [`Error::FileSystemFull`] leave the transaction usable: it is as if the call had not been
    /// made.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let mut transaction = namespace.begin(Deadline::never())?;
    /// let door = KeyRef::new(1, b"door");
    /// assert!(!transaction.put(&door, 1, b"open")?);
    /// assert!(transaction.put(&door, 1, b"shut")?);
    /// transaction.commit()?;
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline]
    pub fn put(&mut self, key: &KeyRef<'_>, tag: u16, bytes: &[u8]) -> Result<bool> {
        self.check()?;
        if let Some(at) = self.find_pending(key)? {
            return self.put_again(at, tag, bytes);
        }
        let view = self.before();
        let Some(entry) = view.find(key).map_err(self.damage())? else {
            self.put_new(key, tag, bytes)?;
            return Ok(false);
        };
        let (old, was_live, inserted) = self.newest(entry)?;
        let new = self.take(version_granules(bytes.len()))?;
        let inserted = if was_live { inserted } else { self.scratch.seq };
        if planted(Fault::HeadBeforeVersion) {
            let head: Option<&Entry> = self.space.mapping.at(entry);
            head.inspect(|head| {
                let newest = pack(new, high(head.newest.load(Ordering::Relaxed)));
                head.newest.store(newest, Ordering::Release);
            });
        }
        self.fill(new, old, tag, inserted, bytes)?;
        let order = if was_live { 0 } else { self.next_order()? };
        let hash = key.hash();
        self.add_pending(Pending {
            hash,
            entry,
            new,
            old,
            was_live,
            live: true,
            new_entry: false,
            order,
        });
        self.scratch.live = self.scratch.live.wrapping_add(u32::from(!was_live));
        Ok(was_live)
    }

    /// The newest committed version of an entry: where, whether it is alive, when it was inserted.
    #[inline(always)]
    fn newest(&self, entry: u32) -> Result<(u32, bool, u64)> {
        let head: &Entry = self
            .space
            .mapping
            .at(entry)
            .ok_or_else(|| Torn(entry).damage(self.space))?;
        let newest = low(head.newest.load(Ordering::Relaxed));
        let version = self.version(newest)?;
        let live = high(version.older.load(Ordering::Relaxed)) & TOMBSTONE == 0;
        Ok((newest, live, version.inserted.load(Ordering::Relaxed)))
    }

    /// The place of one more inserted key. After an error the transaction can only be dropped: the caller has taken
    /// blocks for the key.
    fn next_order(&mut self) -> Result<u32> {
        let Some(next) = self.scratch.inserted.checked_add(1) else {
            self.scratch.poisoned = true;
            return Err(Error::TooManyInsertions(u32::MAX));
        };
        self.scratch.inserted = next;
        Ok(next)
    }

    /// A key that this transaction touched before.
    fn put_again(&mut self, at: usize, tag: u16, bytes: &[u8]) -> Result<bool> {
        let pending = self.scratch.pending[at];
        let granules = version_granules(bytes.len());
        let fits = pending.new != 0 && u64::from(self.scratch.heap.granules_of(self.space, pending.new)?) == granules;
        let new = if fits { pending.new } else { self.take(granules)? };
        let inserted = if pending.live && pending.order == 0 {
            self.version(pending.new)?.inserted.load(Ordering::Relaxed)
        } else {
            self.scratch.seq
        };
        self.fill(new, pending.old, tag, inserted, bytes)?;
        if !fits && pending.new != 0 {
            self.scratch.heap.put_back(self.space, pending.new)?;
        }
        let order = if pending.live {
            pending.order
        } else {
            self.next_order()?
        };
        self.scratch.live = self.scratch.live.wrapping_add(u32::from(!pending.live));
        let target = &mut self.scratch.pending[at];
        (target.new, target.live, target.order) = (new, true, order);
        Ok(pending.live)
    }

    fn put_new(&mut self, key: &KeyRef<'_>, tag: u16, bytes: &[u8]) -> Result<()> {
        let len = key.bytes().len();
        if len > KEY_MAX {
            return Err(Error::KeyTooLong { len, max: KEY_MAX });
        }
        let entry = self.take((KEY_AT + len).div_ceil(GRANULE) as u64)?;
        let new = match self.take(version_granules(bytes.len())) {
            Ok(new) => new,
            Err(error) => {
                self.scratch.heap.put_back(self.space, entry)?;
                return Err(error);
            }
        };
        self.fill(new, 0, tag, self.scratch.seq, bytes)?;
        let head: &Entry = self
            .space
            .mapping
            .at(entry)
            .ok_or_else(|| Torn(entry).damage(self.space))?;
        head.head.birth.store(self.scratch.seq, Ordering::Relaxed);
        head.hash.store(key.hash(), Ordering::Relaxed);
        // The commit record assigns the newest version; until then the entry has none, and nobody knows it.
        head.newest.store(pack(0, key.shape()), Ordering::Relaxed);
        if len <= SHORT_KEY {
            let words = short_words(key.bytes());
            head.key
                .iter()
                .zip(words)
                .for_each(|(word, value)| word.store(value, Ordering::Relaxed));
        } else {
            let words = self
                .space
                .mapping
                .slice(entry as usize * GRANULE + KEY_AT, len.div_ceil(8));
            store_bytes(words.ok_or_else(|| Torn(entry).damage(self.space))?, key.bytes());
        }
        let order = self.next_order()?;
        self.scratch.live = self.scratch.live.wrapping_add(1);
        let hash = key.hash();
        self.add_pending(Pending {
            hash,
            entry,
            new,
            old: 0,
            was_live: false,
            live: true,
            new_entry: true,
            order,
        });
        Ok(())
    }

    /// Writes a version into a taken block.
    #[inline]
    fn fill(&self, granule: u32, old: u32, tag: u16, inserted: u64, bytes: &[u8]) -> Result<()> {
        let new = NewVersion {
            seq: self.scratch.seq,
            old,
            inserted,
        };
        store_version(self.space, granule, self.version(granule)?, &new, tag, bytes)
    }

    /// Removes a key. Returns whether it was present.
    ///
    /// # Errors
    /// Works in a full arena as long as its reserve lasts, which is refilled by later commits.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let mut transaction = namespace.begin(Deadline::never())?;
    /// let door = KeyRef::new(1, b"door");
    /// assert!(!transaction.remove(&door)?);
    /// transaction.put(&door, 1, b"open")?;
    /// assert!(transaction.remove(&door)?);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn remove(&mut self, key: &KeyRef<'_>) -> Result<bool> {
        self.check()?;
        if let Some(at) = self.find_pending(key)? {
            return self.remove_pending(at);
        }
        match self.before().find(key).map_err(self.damage())? {
            Some(entry) => self.remove_entry(entry, key.hash()),
            None => Ok(false),
        }
    }

    fn remove_entry(&mut self, entry: u32, hash: u64) -> Result<bool> {
        let (old, was_live, inserted) = self.newest(entry)?;
        if !was_live {
            return Ok(false);
        }
        let new = self.tombstone(old, inserted)?;
        self.add_pending(Pending {
            hash,
            entry,
            new,
            old,
            was_live,
            live: false,
            new_entry: false,
            order: 0,
        });
        self.scratch.live = self.scratch.live.wrapping_sub(1);
        Ok(true)
    }

    fn remove_pending(&mut self, at: usize) -> Result<bool> {
        let pending = self.scratch.pending[at];
        if !pending.live {
            return Ok(false);
        }
        let new = if pending.was_live {
            let inserted = self.version(pending.old)?.inserted.load(Ordering::Relaxed);
            self.tombstone(pending.old, inserted)?
        } else {
            0
        };
        self.scratch.heap.put_back(self.space, pending.new)?;
        let target = &mut self.scratch.pending[at];
        (target.new, target.live, target.order) = (new, false, 0);
        self.scratch.live = self.scratch.live.wrapping_sub(1);
        Ok(true)
    }

    fn tombstone(&mut self, old: u32, inserted: u64) -> Result<u32> {
        let new = match self.take(1) {
            Ok(new) => new,
            Err(error @ (Error::Full { .. } | Error::FileSystemFull { .. })) => {
                self.scratch.heap.take_reserve(self.space)?.ok_or(error)?
            }
            Err(error) => return Err(error),
        };
        self.fill(new, old, 0, inserted, &[])?;
        self.version(new)?.older.store(pack(old, TOMBSTONE), Ordering::Relaxed);
        Ok(new)
    }

    /// Removes every key.
    ///
    /// # Errors
    /// After an error the transaction can only be dropped.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let mut transaction = namespace.begin(Deadline::never())?;
    /// transaction.put(&KeyRef::new(1, b"door"), 1, b"open")?;
    /// transaction.clear()?;
    /// assert!(transaction.is_empty());
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn clear(&mut self) -> Result<()> {
        self.check()?;
        // Half a clear must not be committed.
        self.scratch.poisoned = true;
        for at in 0..self.scratch.pending.len() {
            self.remove_pending(at)?;
        }
        let view = self.before();
        let (slots, end) = view.dense().map_err(self.damage())?;
        for slot in &slots[..end] {
            if let Some((entry, _)) = view.at_slot(slot).map_err(self.damage())? {
                let head: &Entry = self
                    .space
                    .mapping
                    .at(entry)
                    .ok_or_else(|| Torn(entry).damage(self.space))?;
                let hash = head.hash.load(Ordering::Relaxed);
                if self.pending_of_entry(entry, hash).is_none() {
                    self.remove_entry(entry, hash)?;
                }
            }
        }
        self.scratch.live_end = Some(0);
        self.scratch.poisoned = false;
        Ok(())
    }

    #[inline]
    fn check(&self) -> Result<()> {
        // A child that was forked inside a transaction has a copy of it, and the parent still has the lock.
        self.space.check_fork()?;
        if !self.guard.as_ref().is_some_and(LockGuard::is_held) {
            return Err(Error::Poisoned);
        }
        if self.scratch.poisoned {
            Err(Error::Poisoned)
        } else {
            Ok(())
        }
    }

    /// Takes a block, reclaiming as far as needed.
    #[inline]
    pub(crate) fn take(&mut self, granules: u64) -> Result<u32> {
        match self.scratch.heap.take(self.space, granules) {
            Ok(Some(granule)) => Ok(granule),
            Ok(None) => self.reclaim_for(NoRoom { granules }, None),
            Err(error @ Error::FileSystemFull { .. }) => self.reclaim_for(NoRoom { granules }, Some(error)),
            Err(error) => Err(error),
        }
    }

    #[cold]
    fn reclaim_for(&mut self, wanted: NoRoom, cause: Option<Error>) -> Result<u32> {
        for thorough in [false, true] {
            self.reclaim(thorough)?;
            match self.scratch.heap.take(self.space, wanted.granules) {
                Ok(Some(granule)) => return Ok(granule),
                Ok(None) | Err(Error::FileSystemFull { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        match cause {
            Some(error) => Err(error),
            None => Err(reclaim::full(self.space, wanted, self.scratch.heap.slack())),
        }
    }

    /// Makes room: history and dead pins go; if `thorough`, free neighbours are merged.
    pub(crate) fn reclaim(&mut self, thorough: bool) -> Result<()> {
        let recyclable = reclaim::drop_history(self.space, self.scratch.seq.wrapping_sub(1))?;
        self.scratch.heap.set_recyclable(recyclable);
        if thorough {
            reclaim::rebuild_free_lists(self.space, Some(&mut self.scratch.heap))?;
        }
        Ok(())
    }

    /// Frees the seats of the dead, and lets be used again what only they pinned. Returns how many seats there were.
    pub(crate) fn reap(&self) -> usize {
        let reaped = reclaim::reap(self.space);
        if reaped > 0 {
            reclaim::raise_again(self.space);
        }
        reaped
    }

    /// Applies a record, already written, that changes no key.
    pub(crate) fn maintain(self) -> Result<()> {
        self.scratch.committed = true;
        record::maintain(self.space, self.scratch.seq.wrapping_sub(1))
    }

    /// Without a commit, or after one that changes no key.
    #[cold]
    fn end(&mut self) {
        if !self.scratch.committed {
            self.scratch.heap.abort(self.space);
        }
        self.unlock();
        self.space.mapping.news().tell();
    }

    #[inline(always)]
    fn unlock(&mut self) {
        if let Some(guard) = self.guard.take() {
            guard.unlock();
        }
    }

    /// Makes all changes visible at once. Returns the number of the commit, or of the newest one if nothing was
    /// changed.
    ///
    /// # Errors
    /// After an error the state is as before the transaction.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let mut transaction = namespace.begin(Deadline::never())?;
    /// transaction.put(&KeyRef::new(1, b"door"), 1, b"open")?;
    /// transaction.put(&KeyRef::new(1, b"lamp"), 1, b"on")?;
    /// assert_eq!(transaction.commit()?, 1);
    /// assert_eq!((namespace.seq(), namespace.len()?), (1, 2));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline]
    pub fn commit(mut self) -> Result<u64> {
        self.check()?;
        self.scratch.poisoned = true;
        if self.scratch.pending.is_empty() {
            return Ok(self.scratch.seq.wrapping_sub(1));
        }
        let decided = commit::prepare(&mut self)?;
        if !decided {
            return Ok(self.scratch.seq.wrapping_sub(1));
        }
        // From here on the commit is decided: if publishing fails, which only damage can cause, the next owner of the
        // lock meets the same damage; the chunks must not be freed under it.
        self.scratch.committed = true;
        let hint = self
            .scratch
            .changes
            .first()
            .map_or(0, |change| pack(change.entry, change.new));
        record::publish(self.space, self.scratch.seq, hint)?;
        // The buffers belong to the next owner of the lock, so what is needed of them is copied before the unlock.
        let seq = self.scratch.seq;
        if self.scratch.hashes.len() <= FEW {
            let mut hashes = [0; FEW];
            let hashes = &mut hashes[..self.scratch.hashes.len()];
            hashes.copy_from_slice(&self.scratch.hashes);
            self.unlock();
            commit::wake(self.space, hashes);
        } else {
            let hashes = self.scratch.hashes.clone();
            self.unlock();
            commit::wake(self.space, &hashes);
        }
        self.space.mapping.news().tell();
        Ok(seq)
    }
}

/// Granules of a version with a payload of `len` bytes.
#[inline(always)]
pub fn version_granules(len: usize) -> u64 {
    (PAYLOAD_AT as u64 + len as u64).div_ceil(GRANULE as u64)
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        // Without the lock the buffers and the claimed chunks are somebody else's: after the unlock, in a forked child, or
        // in a thread that ends.
        if self.guard.as_ref().is_some_and(LockGuard::is_held) {
            self.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Arena, ArenaOptions, Deadline, Error, KeyRef};

    #[test]
    fn a_value_that_comes_back_within_a_transaction_is_identical() {
        let arena = Arena::anonymous(&ArenaOptions::default()).unwrap();
        let namespace = arena.namespace("n").unwrap();
        let (door, lamp) = (KeyRef::new(0, b"door"), KeyRef::new(0, b"lamp"));
        let long = [7; 1000];
        let mut tx = namespace.begin(Deadline::never()).unwrap();
        tx.put(&door, 1, b"open").unwrap();
        tx.put(&lamp, 1, &long).unwrap();
        tx.commit().unwrap();
        let mut tx = namespace.begin(Deadline::never()).unwrap();
        tx.put(&door, 1, b"shut").unwrap();
        tx.put(&lamp, 1, &long).unwrap();
        assert!(tx.remove(&door).unwrap());
        assert!(!tx.put(&door, 1, b"open").unwrap());
        let seq = tx.commit().unwrap();
        let record = namespace.record(seq).unwrap().unwrap();
        assert!(record.identical && record.changes.iter().all(|change| change.identical));
        let mut tx = namespace.begin(Deadline::never()).unwrap();
        tx.put(&door, 1, b"open").unwrap();
        tx.put(&lamp, 1, &long).unwrap();
        tx.put(&lamp, 2, &long).unwrap();
        let seq = tx.commit().unwrap();
        let record = namespace.record(seq).unwrap().unwrap();
        let identical: Vec<bool> = record.changes.iter().map(|change| change.identical).collect();
        assert_eq!((record.identical, identical), (false, vec![true, false]));
        assert!(arena.verify().unwrap().is_clean());
    }

    /// The number of the next key wrapped to 0, which stands for a key that keeps its place: it would have been set
    /// and found by nobody.
    #[test]
    fn a_transaction_that_inserted_2_32_keys_refuses_more_and_is_dropped() {
        let arena = Arena::anonymous(&ArenaOptions::default()).unwrap();
        let namespace = arena.namespace("n").unwrap();
        let mut tx = namespace.begin(Deadline::never()).unwrap();
        tx.put(&KeyRef::new(0, b"a"), 1, b"1").unwrap();
        // As if all the others had been removed again.
        tx.scratch.inserted = u32::MAX - 1;
        tx.put(&KeyRef::new(0, b"b"), 1, b"2").unwrap();
        let error = tx.put(&KeyRef::new(0, b"c"), 1, b"3").unwrap_err();
        assert!(matches!(error, Error::TooManyInsertions(u32::MAX)), "{error}");
        assert!(matches!(tx.put(&KeyRef::new(0, b"a"), 1, b"4"), Err(Error::Poisoned)));
        assert!(matches!(tx.commit(), Err(Error::Poisoned)));
        assert!(namespace.is_empty().unwrap());
        assert!(arena.verify().unwrap().is_clean());
        let mut tx = namespace.begin(Deadline::never()).unwrap();
        tx.put(&KeyRef::new(0, b"c"), 1, b"3").unwrap();
        tx.commit().unwrap();
        assert_eq!(namespace.len().unwrap(), 1);
    }
}
