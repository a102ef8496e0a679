//! Reading a snapshot: the index, an entry, its versions, a payload.
//!
//! **Two ways.** *Optimistic*: take `seq`, read with plain loads, then ask whether `floor` still is at or below it
//! ([`crate::pin::still_valid`]). Blocks may be recycled while they are read, so nothing that was read is trusted
//! until then. *Pinned*: a pin keeps every block of the snapshot, so what is read is what was written.
//!
//! Both run the code below, which therefore bounds everything: every granule is checked against backed memory, a
//! length against its block, a probe against the size of the table, a chain of versions by its falling commit
//! numbers. What cannot be right ends in [`Torn`]: for an optimistic reader a reason to look at `floor`, for a pinned
//! one, or when `floor` allows no excuse, damage.
//!
//! **Ordering.** A slot of the index, the head of an entry and the words that lead to a table are loaded with
//! Acquire; each pairs with the Release store by which a commit published what they lead to. All else is relaxed: it
//! was written before those stores.

use crate::arena::Memory;
use crate::copy::{LongRoom, SHORT, ShortRoom, with_long_room};
use crate::error::{Error, Result};
use crate::key::{INLINE, KeyRef, Payload, tag_and_len};
use crate::layout::{
    Dense, DenseSlot, Entry, GRANULE, KEY_AT, PAYLOAD_AT, ReaderLine, Shared, TOMBSTONE, Table, Version, high, low,
    pack,
};
use crate::namespace::FixedSize;
use crate::pin::still_valid;
use crate::space::Space;
use crate::sync::{Ordering, Word, Word64};

/// Something was read that no committed snapshot contains: at this granule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn(pub u32);

impl Torn {
    /// The error when there is no excuse.
    #[cold]
    pub fn damage(self, space: &Space) -> Error {
        Error::corrupt(format!(
            "namespace {:?}: what is linked at granule {} is damaged",
            space.name, self.0
        ))
    }
}

/// Larger payloads are copied under a pin, since an optimistic copy might have to be made again and again.
pub const OPTIMISTIC_MAX: usize = 4096;

/// How often an optimistic read is tried before it pins.
pub const ATTEMPTS: usize = 4;

/// Why an optimistic read cannot go on.
pub enum Stop {
    /// See [`Torn`].
    Torn(Torn),
    /// The payload is larger than [`OPTIMISTIC_MAX`].
    Large,
    /// This process has no memory for a payload of so many bytes.
    NoMemory(usize),
}

impl Stop {
    /// The error of a read that takes payloads of any length, and that nobody disturbed.
    #[cold]
    pub fn into_error(self, space: &Space) -> Error {
        match self {
            Self::Torn(torn) => torn.damage(space),
            Self::Large => Error::corrupt("a payload is longer than the address space"),
            Self::NoMemory(bytes) => Error::out_of_memory(bytes),
        }
    }
}

impl From<Torn> for Stop {
    #[inline(always)]
    fn from(torn: Torn) -> Self {
        Self::Torn(torn)
    }
}

/// How much a walk over a whole snapshot may copy out: what there is of memory. The blocks of an intact snapshot do not
/// overlap; damaged lengths may reach over one another, or many keys lead to one large value.
pub struct Budget(u64);

impl Budget {
    /// For a walk that begins.
    pub fn of(space: &Space) -> Self {
        Self(u64::from(space.mapping.committed()) * GRANULE as u64)
    }

    /// Takes note of what was copied.
    pub fn spend(&mut self, space: &Space, key: usize, value: usize) -> Result<()> {
        match self.0.checked_sub(key as u64 + value as u64) {
            Some(left) => {
                self.0 = left;
                Ok(())
            }
            None => Err(Error::corrupt(format!(
                "namespace {:?}: its keys and values are larger than its memory",
                space.name
            ))),
        }
    }
}

/// One snapshot of a namespace, pinned or not.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Where.
    pub space: &'a Space,
    /// When.
    pub seq: u64,
    memory: Memory<'a>,
    reader: &'a ReaderLine,
}

/// A value of at most 16 bytes, read by [`Namespace::peek`](crate::Namespace::peek).
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let door = KeyRef::new(1, b"door");
/// namespace.put(&door, None, 1, b"open", Deadline::never())?;
/// if let Some(Some(small)) = namespace.peek(&door) {
///     assert_eq!(small.with(|_, bytes| bytes.to_vec()), b"open");
/// }
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Small {
    tag: u16,
    len: usize,
    words: [u64; 2],
}

impl Small {
    /// Calls `f` with tag and bytes.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// namespace.put(&door, None, 1, b"open", Deadline::never())?;
    /// if let Some(Some(small)) = namespace.peek(&door) {
    ///     assert_eq!(small.with(|tag, bytes| (tag, bytes.len())), (1, 4));
    /// }
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline(always)]
    pub fn with<R>(self, f: impl FnOnce(u16, &[u8]) -> R) -> R {
        let mut bytes = [0; INLINE];
        bytes[..8].copy_from_slice(&self.words[0].to_le_bytes());
        bytes[8..].copy_from_slice(&self.words[1].to_le_bytes());
        f(self.tag, &bytes[..self.len.min(INLINE)])
    }

    /// Its type tag.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// namespace.put(&door, None, 5, b"open", Deadline::never())?;
    /// if let Some(Some(small)) = namespace.peek(&door) {
    ///     assert_eq!(small.tag(), 5);
    /// }
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline(always)]
    pub fn tag(self) -> u16 {
        self.tag
    }

    /// Whether these are its tag and bytes.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// namespace.put(&door, None, 1, b"open", Deadline::never())?;
    /// if let Some(Some(small)) = namespace.peek(&door) {
    ///     assert!(small.is(1, b"open"));
    ///     assert!(!small.is(2, b"open") && !small.is(1, b"opened"));
    /// }
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline(always)]
    pub fn is(self, tag: u16, bytes: &[u8]) -> bool {
        if self.tag != tag || self.len != bytes.len() || bytes.len() > INLINE {
            return false;
        }
        let [first, second, _] = short_words(bytes);
        // What is behind a value of one word is none of its.
        self.words[0] == first && (bytes.len() <= 8 || self.words[1] == second)
    }
}

impl<'a> View<'a> {
    /// The snapshot of commit `seq`, which was read before.
    #[inline(always)]
    pub fn new(space: &'a Space, seq: u64) -> Self {
        Self {
            space,
            seq,
            memory: space.mapping.memory(),
            reader: &space.control().reader,
        }
    }

    /// The snapshot of commit `seq`, in what this process has seen of the arena: for readers who look again where that is
    /// not all.
    #[inline(always)]
    pub fn recent(space: &'a Space, seq: u64) -> Self {
        Self {
            space,
            seq,
            memory: space.mapping.recent(),
            reader: &space.control().reader,
        }
    }

    /// The newest snapshot for an optimistic reader.
    #[inline(always)]
    pub fn newest(space: &'a Space) -> Self {
        let reader = &space.control().reader;
        // Acquire pairs with the store of `seq` that made the commit visible.
        Self::recent(space, reader.seq.load(Ordering::Acquire))
    }

    /// The same namespace as it is now.
    #[inline(always)]
    pub fn renewed(self) -> Self {
        Self {
            seq: self.reader.seq.load(Ordering::Acquire),
            memory: self.space.mapping.recent(),
            ..self
        }
    }

    /// Which entries places may refer to: changes when a commit drops entries.
    #[inline(always)]
    pub fn generation(&self) -> u64 {
        // Acquire: pairs with the Release of the commit that dropped entries, which precedes its `seq`.
        self.reader.generation.load(Ordering::Acquire)
    }

    /// The entry at a granule.
    pub fn entry(&self, granule: u32) -> Option<&'a Entry> {
        self.at(granule)
    }

    /// The structure at a granule. The arena may have grown since the view was made.
    #[inline(always)]
    fn at<T: Shared>(&self, granule: u32) -> Option<&'a T> {
        match self.memory.at(granule) {
            Some(found) => Some(found),
            None => at_in_grown(self.space, granule),
        }
    }

    /// Words behind the start of a granule; as for [`View::at`].
    #[inline(always)]
    fn words(&self, granule: u32, skip: usize, count: usize) -> Option<&'a [Word64]> {
        match self.memory.words(granule, skip, count) {
            Some(found) => Some(found),
            None => words_in_grown(self.space, granule, skip, count),
        }
    }

    /// The slots of the index. An empty slice when there is no index yet.
    pub fn table(&self) -> Result<&'a [Word64], Torn> {
        let root = self.reader.root.load(Ordering::Acquire);
        if root == 0 {
            return Ok(&[]);
        }
        // Granule and size come in one word, so they belong together whenever it was read.
        let (granule, bits) = ((root >> 8) as u32, root as u8);
        self.words(granule, size_of::<Table>(), 1 << (bits & 63))
            .ok_or(Torn(granule))
    }

    /// The slots of the index as they are searched.
    #[inline(always)]
    fn groups(&self) -> Result<&'a [[Word64; GROUP]], Torn> {
        let root = self.reader.root.load(Ordering::Acquire);
        if root == 0 {
            return Ok(&[]);
        }
        let (granule, bits) = ((root >> 8) as u32, root as u8);
        match self.memory.groups(granule, bits) {
            Some(found) => Ok(found),
            None => groups_in_grown(self.space, granule, bits),
        }
    }

    /// The entry of a key, if the index knows it.
    #[inline(always)]
    pub fn find(&self, key: &KeyRef<'_>) -> Result<Option<u32>, Torn> {
        let groups = self.groups()?;
        // Nearly always the first group decides, and the first slot in it that matches.
        if let Some(group) = groups.get(group_of(key.hash(), groups.len())) {
            let candidates = candidates(group, key.hash());
            if candidates != 0 {
                let entry = low(group[candidates.trailing_zeros() as usize % GROUP].load(Ordering::Acquire));
                // A hash whose upper half is 0 looks like that of a free slot.
                if entry != 0 && self.entry_has_key(entry, key)? {
                    return Ok(Some(entry));
                }
            } else if group.iter().any(|slot| slot.load(Ordering::Relaxed) == 0) {
                return Ok(None);
            }
        }
        self.find_further(groups, *key)
    }

    /// As [`View::find`], for the ordinary case on a straight path: `Err` when it takes more than a look.
    #[inline(always)]
    pub fn find_at_hand(&self, key: &KeyRef<'_>) -> Result<Option<&'a Entry>, ()> {
        let Some(granule) = self.candidate_at_hand(key)? else {
            return Ok(None);
        };
        match self.memory.at::<Entry>(granule) {
            Some(entry) if has_short_key(entry, key) => Ok(Some(entry)),
            _ => Err(()),
        }
    }

    /// Where the entry of a key may be, if it is anywhere: the first in its first group whose hash is the same as far as
    /// the index knows it. `Err` when it takes more than a look to tell.
    #[inline(always)]
    pub fn candidate_at_hand(&self, key: &KeyRef<'_>) -> Result<Option<u32>, ()> {
        let root = self.reader.root.load(Ordering::Acquire);
        let (granule, bits) = ((root >> 8) as u32, root as u8);
        let Some(groups) = self.memory.groups::<GROUP>(granule, bits) else {
            return Err(());
        };
        let Some(group) = groups.get(group_of(key.hash(), groups.len())) else {
            return Err(());
        };
        let candidates = candidates(group, key.hash());
        if candidates == 0 {
            return match group.iter().any(|slot| slot.load(Ordering::Relaxed) == 0) {
                true => Ok(None),
                false => Err(()),
            };
        }
        let slot = &group[candidates.trailing_zeros() as usize % GROUP];
        Ok(Some(low(slot.load(Ordering::Acquire))))
    }

    /// The value of an entry if it is small, for the ordinary case on a straight path: `Err` when it takes more than a look.
    #[inline(always)]
    pub fn small_at_hand(&self, entry: &Entry) -> Result<Option<Small>, ()> {
        let mut granule = low(entry.newest.load(Ordering::Acquire));
        // A writer may have been faster a few times since `seq` was read.
        for _ in 0..4 {
            let Some(version) = self.memory.at::<Version>(granule) else {
                return Err(());
            };
            let older = version.older.load(Ordering::Relaxed);
            if version.head.birth.load(Ordering::Relaxed) > self.seq {
                granule = low(older);
                continue;
            }
            let shape = high(older);
            if shape & TOMBSTONE != 0 {
                return Ok(None);
            }
            let len = version.len.load(Ordering::Relaxed) as usize;
            if len > INLINE {
                return Err(());
            }
            let words = [
                version.payload[0].load(Ordering::Relaxed),
                version.payload[1].load(Ordering::Relaxed),
            ];
            return Ok(Some(Small {
                tag: shape as u16,
                len,
                words,
            }));
        }
        Err(())
    }

    /// The version of an entry that this snapshot sees, for the ordinary case: `Err` when it takes more than a look.
    #[inline(always)]
    pub fn version_at_hand(&self, entry: &Entry) -> Result<Option<&'a Version>, ()> {
        let mut granule = low(entry.newest.load(Ordering::Acquire));
        for _ in 0..4 {
            let Some(version) = self.memory.at::<Version>(granule) else {
                return Err(());
            };
            let older = version.older.load(Ordering::Relaxed);
            if version.head.birth.load(Ordering::Relaxed) <= self.seq {
                return Ok((high(older) & TOMBSTONE == 0).then_some(version));
            }
            granule = low(older);
        }
        Err(())
    }

    /// The whole search, for those whom the first group did not serve.
    #[cold]
    #[inline(never)]
    fn find_further(self, groups: &[[Word64; GROUP]], key: KeyRef<'_>) -> Result<Option<u32>, Torn> {
        let mask = groups.len().wrapping_sub(1);
        let first = group_of(key.hash(), groups.len());
        // Each group once at most: a table without a free slot, which only damage can make, ends the search too.
        for group in (0..groups.len()).map(|i| &groups[(first + i) & mask]) {
            let (mut candidates, free) = look_at(group, key.hash());
            while candidates != 0 {
                let entry = low(group[candidates.trailing_zeros() as usize].load(Ordering::Acquire));
                if entry != 0 && self.entry_has_key(entry, &key)? {
                    return Ok(Some(entry));
                }
                candidates &= candidates - 1;
            }
            if free != 0 {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Whether the entry at `granule` is that of `key`.
    #[inline(always)]
    pub fn entry_has_key(&self, granule: u32, key: &KeyRef<'_>) -> Result<bool, Torn> {
        let entry: &Entry = self.at(granule).ok_or(Torn(granule))?;
        if high(entry.newest.load(Ordering::Relaxed)) != key.shape() {
            return Ok(false);
        }
        match key.bytes() {
            bytes if bytes.len() <= SHORT_KEY => Ok(are_short_words(&entry.key, bytes)),
            bytes => self.entry_has_long_key(granule, bytes),
        }
    }

    #[inline(never)]
    fn entry_has_long_key(self, granule: u32, bytes: &[u8]) -> Result<bool, Torn> {
        let words = self.words(granule, KEY_AT, bytes.len().div_ceil(8));
        Ok(same_bytes(words.ok_or(Torn(granule))?, bytes))
    }

    /// The version of an entry that this snapshot sees, tombstones included.
    #[inline(always)]
    pub fn version(&self, entry: u32) -> Result<Option<&'a Version>, Torn> {
        self.version_of(self.at(entry).ok_or(Torn(entry))?)
    }

    /// As [`View::live_version`], of an entry that is at hand.
    pub fn live_version_of(&self, entry: &Entry) -> Result<Option<&'a Version>, Torn> {
        Ok(self
            .version_of(entry)?
            .filter(|v| high(v.older.load(Ordering::Relaxed)) & TOMBSTONE == 0))
    }

    /// As [`View::version`], of an entry that is at hand.
    #[inline(always)]
    fn version_of(&self, head: &Entry) -> Result<Option<&'a Version>, Torn> {
        // Acquire pairs with the Release by which a commit made the version the newest.
        let mut granule = low(head.newest.load(Ordering::Acquire));
        let mut newer = u64::MAX;
        while granule != 0 {
            let version: &Version = self.at(granule).ok_or(Torn(granule))?;
            let birth = version.head.birth.load(Ordering::Relaxed);
            if birth <= self.seq {
                return Ok(Some(version));
            }
            // Strictly falling, so that even a chain of garbage ends.
            if birth >= newer {
                return Err(Torn(granule));
            }
            newer = birth;
            // The version before was published before this one; its contents are ordered by the first Acquire.
            granule = low(version.older.load(Ordering::Relaxed));
        }
        Ok(None)
    }

    /// As [`View::version`], `None` for a tombstone.
    #[inline(always)]
    pub fn live_version(&self, entry: u32) -> Result<Option<&'a Version>, Torn> {
        Ok(self
            .version(entry)?
            .filter(|v| high(v.older.load(Ordering::Relaxed)) & TOMBSTONE == 0))
    }

    /// Copies a payload out.
    #[inline(always)]
    pub fn payload(&self, version: &Version, limit: usize) -> Result<Payload, Stop> {
        let tag = high(version.older.load(Ordering::Relaxed)) as u16;
        let len = version.len.load(Ordering::Relaxed) as usize;
        if len <= INLINE {
            let words = [
                version.payload[0].load(Ordering::Relaxed),
                version.payload[1].load(Ordering::Relaxed),
            ];
            return Ok(Payload::inline(tag, len, words));
        }
        if len > limit {
            return Err(Stop::Large);
        }
        let words = self.payload_words(version, len)?;
        let mut bytes = Vec::new();
        // A value may be a good part of what this process can still map.
        bytes
            .try_reserve_exact(words.len() * 8)
            .map_err(|_| Stop::NoMemory(len))?;
        load_bytes(words, len, &mut bytes);
        Ok(Payload::heap(tag, bytes))
    }

    /// Copies a payload to the stack, and returns its tag and its bytes; `None` if there is no room for it, or it is torn.
    #[inline(always)]
    pub fn copy_short<'r>(&self, version: &Version, room: &'r mut ShortRoom) -> Option<(u16, &'r [u8])> {
        let tag = high(version.older.load(Ordering::Relaxed)) as u16;
        let len = version.len.load(Ordering::Relaxed) as usize;
        if len > SHORT {
            return None;
        }
        let words = self.payload_words(version, len).ok()?;
        room.copy(words, len).map(|bytes| (tag, bytes))
    }

    /// As [`View::copy_short`], of the head of a payload that has this length.
    #[inline(always)]
    pub fn copy_exactly<'r>(
        &self,
        version: &Version,
        FixedSize { len, head }: FixedSize,
        room: &'r mut ShortRoom,
    ) -> Option<(u16, &'r [u8])> {
        let tag = high(version.older.load(Ordering::Relaxed)) as u16;
        if version.len.load(Ordering::Relaxed) != len as u64 {
            return None;
        }
        let words = self.payload_words_at_hand(version, len)?;
        room.copy_exactly(words, head).map(|bytes| (tag, bytes))
    }

    /// As [`View::payload_words`], in memory that this process has seen.
    #[inline(always)]
    pub fn payload_words_at_hand(&self, version: &Version, len: usize) -> Option<&'a [Word64]> {
        let granule = (self.space.mapping.offset_of(version) / GRANULE as u64) as u32;
        let block = high(version.head.link.load(Ordering::Relaxed)) as usize * GRANULE;
        if len > block.saturating_sub(PAYLOAD_AT) {
            return None;
        }
        self.memory.words(granule, PAYLOAD_AT, len.div_ceil(8))
    }

    /// Copies a payload into a buffer, and returns its tag.
    pub fn copy_long(&self, version: &Version, limit: usize, room: &mut LongRoom) -> Result<u16, Stop> {
        let tag = high(version.older.load(Ordering::Relaxed)) as u16;
        let len = version.len.load(Ordering::Relaxed) as usize;
        if len > limit {
            return Err(Stop::Large);
        }
        let words = self.payload_words(version, len)?;
        // A value may be a good part of what this process can still map.
        room.copy(words, len).map_err(|_| Stop::NoMemory(len))?;
        Ok(tag)
    }

    /// Hands a copy of a payload to `f`, for readers whom no writer disturbs.
    #[inline]
    pub fn copy_for<R>(&self, version: &Version, f: impl FnOnce(u16, &[u8]) -> R) -> Result<R> {
        match small(version) {
            Some(small) => Ok(small.with(f)),
            None => self.copy_more_for(version, f),
        }
    }

    #[inline(never)]
    fn copy_more_for<R>(&self, version: &Version, f: impl FnOnce(u16, &[u8]) -> R) -> Result<R> {
        let mut room = ShortRoom::new();
        match self.copy_short(version, &mut room) {
            Some((tag, bytes)) => Ok(f(tag, bytes)),
            None => self.copy_long_for(version, f),
        }
    }

    #[cold]
    fn copy_long_for<R>(&self, version: &Version, f: impl FnOnce(u16, &[u8]) -> R) -> Result<R> {
        with_long_room(|room| {
            let copied = self.copy_long(version, usize::MAX, room);
            let tag = copied.map_err(|stop| stop.into_error(self.space))?;
            Ok(f(tag, room.bytes()))
        })
    }

    /// The words of a payload, after its length was checked against the block and the arena.
    #[inline]
    pub fn payload_words(&self, version: &Version, len: usize) -> Result<&'a [Word64], Torn> {
        let granule = (self.space.mapping.offset_of(version) / GRANULE as u64) as u32;
        let torn = Torn(granule);
        let block = high(version.head.link.load(Ordering::Relaxed)) as usize * GRANULE;
        if len > block.saturating_sub(PAYLOAD_AT) {
            return Err(torn);
        }
        self.words(granule, PAYLOAD_AT, len.div_ceil(8)).ok_or(torn)
    }

    /// Whether the snapshot was intact until now.
    #[inline(always)]
    pub fn is_valid(&self) -> bool {
        still_valid(&self.reader.floor, self.seq)
    }

    /// The key of an entry.
    pub fn key_of(&self, granule: u32) -> Result<(u8, Vec<u8>), Torn> {
        let torn = Torn(granule);
        let entry: &Entry = self.at(granule).ok_or(torn)?;
        let (tag, len) = tag_and_len(high(entry.newest.load(Ordering::Relaxed)));
        let block = high(entry.head.link.load(Ordering::Relaxed)) as usize * GRANULE;
        if len > block.saturating_sub(KEY_AT) {
            return Err(torn);
        }
        let words = self.words(granule, KEY_AT, len.div_ceil(8)).ok_or(torn)?;
        let mut bytes = Vec::with_capacity(words.len() * 8);
        load_bytes(words, len, &mut bytes);
        Ok((tag, bytes))
    }

    /// The array of entries in insertion order: its used slots, and the end of those that may be alive now.
    pub fn dense(&self) -> Result<(&'a [DenseSlot], usize), Torn> {
        let granule = self.reader.dense.load(Ordering::Acquire) as u32;
        if granule == 0 {
            return Ok((&[], 0));
        }
        let torn = Torn(granule);
        let dense: &Dense = self.at(granule).ok_or(torn)?;
        // Acquire pairs with the Release of the commit that appended: the slots below are written.
        let len = dense.len.load(Ordering::Acquire) as usize;
        let live_end = dense.live_end.load(Ordering::Relaxed) as usize;
        let offset = granule as usize * GRANULE + size_of::<Dense>();
        let slots = self.space.mapping.slice(offset, len).ok_or(torn)?;
        Ok((slots, live_end.min(len)))
    }

    /// The live version that stands at a slot of the array: `None` if another slot stands for the key, or none.
    #[inline]
    pub fn at_slot(&self, slot: &DenseSlot) -> Result<Option<(u32, &'a Version)>, Torn> {
        let entry = slot.entry.load(Ordering::Relaxed) as u32;
        let version = self.live_version(entry)?;
        let inserted = slot.inserted.load(Ordering::Relaxed);
        Ok(version
            .filter(|v| v.inserted.load(Ordering::Relaxed) == inserted)
            .map(|v| (entry, v)))
    }
}

/// The value of a version, if it is small.
#[inline(always)]
fn small(version: &Version) -> Option<Small> {
    let len = version.len.load(Ordering::Relaxed) as usize;
    (len <= INLINE).then(|| Small {
        tag: high(version.older.load(Ordering::Relaxed)) as u16,
        len,
        words: [
            version.payload[0].load(Ordering::Relaxed),
            version.payload[1].load(Ordering::Relaxed),
        ],
    })
}

#[cold]
#[inline(never)]
fn at_in_grown<T: Shared>(space: &Space, granule: u32) -> Option<&T> {
    space.mapping.memory().at(granule)
}

#[cold]
#[inline(never)]
fn words_in_grown(space: &Space, granule: u32, skip: usize, count: usize) -> Option<&[Word64]> {
    space.mapping.memory().words(granule, skip, count)
}

#[cold]
#[inline(never)]
fn groups_in_grown(space: &Space, granule: u32, bits: u8) -> Result<&[[Word64; GROUP]], Torn> {
    space.mapping.memory().groups(granule, bits).ok_or(Torn(granule))
}

/// Slots of the index that are looked at together; half a cache line.
pub const GROUP: usize = 4;

/// Which slots of a group carry the upper half of a hash, and which are free, as bits.
///
/// All slots at once: which of them matches cannot be predicted, and a branch for each would be.
#[inline(always)]
fn look_at(group: &[Word64; GROUP], hash: u64) -> (u32, u32) {
    let (mut candidates, mut free) = (0, 0);
    for (i, slot) in group.iter().enumerate() {
        // Relaxed: whoever goes on to the entry loads the slot again.
        let slot = slot.load(Ordering::Relaxed);
        candidates |= u32::from(high(slot) == high(hash)) << i;
        free |= u32::from(slot == 0) << i;
    }
    // A hash whose upper half is 0 looks like that of a free slot.
    (candidates & !free, free)
}

/// Which slots of a group carry the upper half of a hash; a free slot carries 0.
#[inline(always)]
fn candidates(group: &[Word64; GROUP], hash: u64) -> u32 {
    let mut candidates = 0;
    for (i, slot) in group.iter().enumerate() {
        candidates |= u32::from(high(slot.load(Ordering::Relaxed)) == high(hash)) << i;
    }
    candidates
}

/// The group where the search for a key begins, of so many.
#[inline(always)]
pub fn group_of(hash: u64, groups: usize) -> usize {
    hash as usize & groups.wrapping_sub(1)
}

/// Whether an entry is that of a key, which is short.
#[inline(always)]
pub fn has_short_key(entry: &Entry, key: &KeyRef<'_>) -> bool {
    high(entry.newest.load(Ordering::Relaxed)) == key.shape()
        && key.bytes().len() <= SHORT_KEY
        && are_short_words(&entry.key, key.bytes())
}

/// Whether these are the words of a short key, all in one comparison.
#[inline(always)]
fn are_short_words(theirs: &[Word64; 3], bytes: &[u8]) -> bool {
    let words = short_words(bytes).into_iter().zip(theirs);
    let differ = words.map(|(ours, theirs)| ours ^ theirs.load(Ordering::Relaxed));
    differ.fold(0, |all, word| all | word) == 0
}

/// Where a new version stands among the versions of its key.
pub struct NewVersion {
    /// The commit that makes it.
    pub seq: u64,
    /// The version before, or 0.
    pub old: u32,
    /// The commit that inserted the key.
    pub inserted: u64,
}

/// Writes a version into a block that means nothing yet and is large enough.
#[inline(always)]
pub fn store_version(
    space: &Space,
    granule: u32,
    version: &Version,
    new: &NewVersion,
    tag: u16,
    bytes: &[u8],
) -> Result<()> {
    version.head.birth.store(new.seq, Ordering::Relaxed);
    version.older.store(pack(new.old, u32::from(tag)), Ordering::Relaxed);
    version.inserted.store(new.inserted, Ordering::Relaxed);
    version.len.store(bytes.len() as u64, Ordering::Relaxed);
    if let Some(word) = bytes.as_array::<8>() {
        version.payload[0].store(u64::from_le_bytes(*word), Ordering::Relaxed);
        return Ok(());
    }
    if bytes.len() <= INLINE {
        store_bytes(&version.payload, bytes);
        return Ok(());
    }
    let words = space
        .mapping
        .slice(granule as usize * GRANULE + PAYLOAD_AT, bytes.len().div_ceil(8));
    store_bytes(words.ok_or_else(|| Torn(granule).damage(space))?, bytes);
    Ok(())
}

/// Compares words in the arena with bytes.
#[inline(always)]
pub fn same_bytes(words: &[Word64], bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<8>();
    if words.len() < chunks.len() + usize::from(!rest.is_empty()) {
        return false;
    }
    let same = chunks
        .iter()
        .zip(words)
        .all(|(c, w)| w.load(Ordering::Relaxed) == u64::from_le_bytes(*c));
    same && (rest.is_empty() || words[chunks.len()].load(Ordering::Relaxed) == tail_word(rest))
}

/// The last, incomplete word of a byte string, padded with zeros.
#[inline(always)]
pub fn tail_word(rest: &[u8]) -> u64 {
    // Two overlapping loads where there are four bytes, instead of one load a byte.
    if let (Some(first), Some(last)) = (rest.first_chunk::<4>(), rest.last_chunk::<4>()) {
        let last = u64::from(u32::from_le_bytes(*last));
        return u64::from(u32::from_le_bytes(*first)) | last << ((rest.len() - 4) * 8);
    }
    rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// Longest key that lies in the first line of its entry.
pub const SHORT_KEY: usize = 24;

/// A key of at most [`SHORT_KEY`] bytes as words, padded with zeros.
#[inline(always)]
pub fn short_words(bytes: &[u8]) -> [u64; 3] {
    let at = |from: usize| {
        bytes[from..]
            .first_chunk::<8>()
            .map_or(0, |chunk| u64::from_le_bytes(*chunk))
    };
    // The last eight bytes hold the tail in their upper part.
    let tail = |len: usize| at(bytes.len() - 8) >> ((len - bytes.len()) * 8 % 64);
    match bytes.len() {
        0..8 => [tail_word(bytes), 0, 0],
        8 => [at(0), 0, 0],
        9..=16 => [at(0), tail(16), 0],
        _ => [at(0), at(8), if bytes.len() > 16 { tail(24) } else { 0 }],
    }
}

/// Copies bytes out of the arena, into a vector with room for them.
fn load_bytes(words: &[Word64], len: usize, bytes: &mut Vec<u8>) {
    for word in words {
        bytes.extend_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
    }
    bytes.truncate(len);
}

/// Copies bytes into the arena, the last word padded with zeros.
#[inline]
pub fn store_bytes(words: &[Word64], bytes: &[u8]) {
    let (chunks, rest) = bytes.as_chunks::<8>();
    for (word, chunk) in words.iter().zip(chunks) {
        word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
    }
    if let (false, Some(word)) = (rest.is_empty(), words.get(chunks.len())) {
        word.store(tail_word(rest), Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{Arena, ArenaOptions, Deadline};

    /// A reader that was kept from running between its look at how much memory there is and its look at the index took the
    /// index for damaged, if arena and index had grown meanwhile.
    #[test]
    fn an_index_in_memory_that_was_added_since_is_found() {
        let arena = Arena::anonymous(&ArenaOptions::default()).unwrap();
        let namespace = arena.namespace("default").unwrap();
        let put = |key: &[u8]| namespace.put(&KeyRef::new(1, key), None, 1, b"", Deadline::never());
        put(b"door").unwrap();
        let pinned = namespace.pin().unwrap();
        let view = View::new(namespace.space(), pinned.seq());
        let root = || (view.reader.root.load(Ordering::Relaxed) >> 8) as u32;
        let mut keys = 0u64..;
        while view.memory.at::<Table>(root()).is_some() {
            put(&keys.next().unwrap().to_le_bytes()).unwrap();
        }
        assert!(matches!(view.find(&KeyRef::new(1, b"door")), Ok(Some(_))));
        assert!(matches!(view.find(&KeyRef::new(1, b"lamp")), Ok(None)));
    }
}
