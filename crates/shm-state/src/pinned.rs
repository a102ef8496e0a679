//! A pinned snapshot: everything in it stays readable for as long as it lives. `page` goes through it in parts.

mod page;

use crate::arena::as_bytes;
use crate::error::{Error, Result};
use crate::key::{Key, KeyRef, Payload};
use crate::layout::{DenseSlot, GRANULE, PAYLOAD_AT, Seat, Version, high};
use crate::log;
use crate::namespace::NotAtHand;
use crate::pin;
use crate::read::{Budget, Torn, View};
use crate::space::Space;
use crate::sync::{Ordering, Word, Word64};
pub use page::Position;

/// Where the bytes of a value begin, behind a multiple of 64: in the arena, where [`Pinned::in_place`] shows them, and in
/// the copies that `get_with` hands out. So what a layer above puts behind 16 bytes of its own is aligned to 64.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef, PAYLOAD_OFFSET};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let door = KeyRef::new(1, b"door");
/// namespace.put(&door, None, 1, b"open", Deadline::never())?;
/// let pinned = namespace.pin()?;
/// let value = pinned.in_place(&door)?.expect("it is there");
/// assert_eq!(value.bytes().as_ptr().addr() % 64, PAYLOAD_OFFSET);
/// # Ok::<(), shm_state::Error>(())
/// ```
pub const PAYLOAD_OFFSET: usize = PAYLOAD_AT % GRANULE;

/// A value where it lies in the arena; made by [`Pinned::in_place`] only.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let door = KeyRef::new(1, b"door");
/// namespace.put(&door, None, 1, b"open", Deadline::never())?;
/// let pinned = namespace.pin()?;
/// let value = pinned.in_place(&door)?.expect("it is there");
/// namespace.put(&door, None, 1, b"shut", Deadline::never())?;
/// assert_eq!(value.bytes(), b"open"); // as long as it is pinned
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct InPlace<'p> {
    tag: u16,
    bytes: &'p [u8],
    version: VersionId,
}

impl<'p> InPlace<'p> {
    /// The type tag.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// namespace.put(&door, None, 5, b"open", Deadline::never())?;
    /// assert_eq!(namespace.pin()?.in_place(&door)?.map(|value| value.tag()), Some(5));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline(always)]
    pub fn tag(&self) -> u16 {
        self.tag
    }

    /// The bytes.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// namespace.put(&door, None, 1, b"open", Deadline::never())?;
    /// let pinned = namespace.pin()?;
    /// assert_eq!(pinned.in_place(&door)?.expect("it is there").bytes(), b"open");
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline(always)]
    pub fn bytes(&self) -> &'p [u8] {
        self.bytes
    }

    /// Which version of which key this is.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// namespace.put(&door, None, 1, b"open", Deadline::never())?;
    /// let first = namespace.pin()?.in_place(&door)?.expect("it is there").version();
    /// assert_eq!(namespace.pin()?.in_place(&door)?.expect("it is there").version(), first);
    /// namespace.put(&door, None, 1, b"open", Deadline::never())?;
    /// assert_ne!(namespace.pin()?.in_place(&door)?.expect("it is there").version(), first);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline(always)]
    pub fn version(&self) -> VersionId {
        self.version
    }
}

/// Tells one version of a value from all others that this process has ever seen or will see. So what was once found out
/// about its bytes stays true.
///
/// Of all versions that were ever visible, and no others are handed out, no two have place and birth in common: a commit is
/// published once, with one version in a block.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let (door, lamp) = (KeyRef::new(1, b"door"), KeyRef::new(1, b"lamp"));
/// for key in [&door, &lamp] {
///     namespace.put(key, None, 1, b"on", Deadline::never())?;
/// }
/// let pinned = namespace.pin()?;
/// let [a, b] = [&door, &lamp].map(|key| pinned.in_place(key).unwrap().expect("it is there").version());
/// assert_ne!(a, b);
/// assert_eq!((a.space(), a.birth(), b.birth()), (b.space(), 1, 2));
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionId {
    space: u64,
    birth: u64,
    granule: u32,
}

impl VersionId {
    /// The namespace, as this process has it open: a number that is given once.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// let other = arena.namespace("other")?;
    /// let [here, there] = [&namespace, &other].map(|namespace| {
    ///     namespace.put(&door, None, 1, b"open", Deadline::never()).unwrap();
    ///     let pinned = namespace.pin().unwrap();
    ///     pinned.in_place(&door).unwrap().expect("it is there").version()
    /// });
    /// assert_ne!(here.space(), there.space());
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline(always)]
    pub fn space(&self) -> u64 {
        self.space
    }

    /// The commit that made the version.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// let seq = namespace.put(&door, None, 1, b"open", Deadline::never())?;
    /// assert_eq!(namespace.pin()?.in_place(&door)?.expect("it is there").version().birth(), seq);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline(always)]
    pub fn birth(&self) -> u64 {
        self.birth
    }

    /// Where in the arena it lies.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// let seq = namespace.put(&door, None, 1, b"open", Deadline::never())?;
    /// let granule = namespace.pin()?.in_place(&door)?.expect("it is there").version().granule();
    /// // The log names the version by its place, too.
    /// assert_eq!(granule, namespace.record(seq)?.expect("it is recent").changes[0].new);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline(always)]
    pub fn granule(&self) -> u32 {
        self.granule
    }
}

/// A state of a namespace as it was after one commit.
///
/// Reading from it never fails because of writers. It keeps the versions that it may show from being recycled, so
/// drop it when it is no longer needed.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
/// let pinned = namespace.pin()?;
/// namespace.put(&KeyRef::new(1, b"lamp"), None, 1, b"on", Deadline::never())?;
/// assert_eq!((pinned.len()?, namespace.len()?), (1, 2));
/// # Ok::<(), shm_state::Error>(())
/// ```
pub struct Pinned<'n> {
    space: &'n Space,
    seat: &'n Seat,
    seq: u64,
    /// Not 0: the seat is not the one of the [`crate::Namespace`] itself, and goes back to the idle ones. A whole word,
    /// since a byte with padding behind it is moved by a load that stalls on the stores before.
    borrowed: u64,
}

impl<'n> Pinned<'n> {
    #[inline(always)]
    pub(crate) fn new(space: &'n Space, seat: &'n Seat, seq: u64, borrowed: bool) -> Self {
        Self {
            space,
            seat,
            seq,
            borrowed: u64::from(borrowed),
        }
    }

    /// The commit after which the state was like this.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
    /// let pinned = namespace.pin()?;
    /// assert_eq!(pinned.seq(), 1);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Its seat, its commit, and whether the seat goes back with it.
    pub(crate) fn parts(&self) -> (&'n Seat, u64, bool) {
        (self.seat, self.seq, self.borrowed != 0)
    }

    fn view(&self) -> View<'n> {
        View::new(self.space, self.seq)
    }

    fn damage(&self) -> impl Fn(Torn) -> Error + use<'n> {
        let space = self.space;
        move |torn| torn.damage(space)
    }

    fn payload(&self, version: &Version) -> Result<Payload> {
        self.view()
            .payload(version, usize::MAX)
            .map_err(|stop| stop.into_error(self.space))
    }

    /// The version of a key.
    #[inline]
    fn find(&self, key: &KeyRef<'_>) -> Result<Option<&'n Version>, Torn> {
        let view = self.view();
        match view.find(key)? {
            Some(entry) => view.live_version(entry),
            None => Ok(None),
        }
    }

    /// The value of a key.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
    /// let pinned = namespace.pin()?;
    /// assert_eq!(pinned.get(&KeyRef::new(1, b"door"))?.expect("it is there").bytes(), b"open");
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn get(&self, key: &KeyRef<'_>) -> Result<Option<Payload>> {
        let found = self.find(key).map_err(self.damage())?;
        found.map(|version| self.payload(version)).transpose()
    }

    /// As [`Pinned::get`], but hands tag and bytes to `f` instead of copying them into a [`Payload`]. Nothing is
    /// allocated, but a buffer that the thread keeps for values above 528 bytes, up to 1 MiB.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// namespace.put(&door, None, 1, b"open", Deadline::never())?;
    /// let pinned = namespace.pin()?;
    /// assert_eq!(pinned.get_with(&door, |tag, bytes| (tag, bytes.len()))?, Some((1, 4)));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline]
    pub fn get_with<R>(&self, key: &KeyRef<'_>, f: impl FnOnce(u16, &[u8]) -> R) -> Result<Option<R>> {
        let Some(version) = self.find(key).map_err(self.damage())? else {
            return Ok(None);
        };
        self.view().copy_for(version, f).map(Some)
    }

    /// The value of a key where it lies, without a copy. `None` when the key is absent.
    ///
    /// The bytes are borrowed from this snapshot, since they stay what they are only for as long as it pins them. They lie
    /// in memory that other processes can write to. None of this library does; see "Trust and damage" in the design
    /// document for what becomes of a reader when something else does.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the arena is damaged; [`Error::Forked`] in a child that was forked since, whose parent may
    /// have let go of the snapshot.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let (door, lamp) = (KeyRef::new(1, b"door"), KeyRef::new(1, b"lamp"));
    /// namespace.put(&door, None, 1, b"open", Deadline::never())?;
    /// let pinned = namespace.pin()?;
    /// let value = pinned.in_place(&door)?.expect("it is there");
    /// assert_eq!((value.tag(), value.bytes()), (1, &b"open"[..]));
    /// assert!(pinned.in_place(&lamp)?.is_none());
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn in_place(&self, key: &KeyRef<'_>) -> Result<Option<InPlace<'_>>> {
        self.space.check_fork()?;
        let Some(version) = self.find(key).map_err(self.damage())? else {
            return Ok(None);
        };
        let len = version.len.load(Ordering::Relaxed) as usize;
        let words = self.view().payload_words(version, len).map_err(self.damage())?;
        Ok(Some(self.show(version, words, len)))
    }

    /// As [`Pinned::in_place`], for the ordinary case on a straight path: `Err` when it takes more than a look.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef, NotAtHand};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// namespace.put(&door, None, 1, b"open", Deadline::never())?;
    /// let pinned = namespace.pin()?;
    /// let found = match pinned.in_place_at_hand(&door) {
    ///     Ok(found) => found,
    ///     Err(NotAtHand) => pinned.in_place(&door)?,
    /// };
    /// assert_eq!(found.expect("it is there").bytes(), b"open");
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline(always)]
    pub fn in_place_at_hand(&self, key: &KeyRef<'_>) -> Result<Option<InPlace<'_>>, NotAtHand> {
        if !self.space.attachment.is_current() {
            return Err(NotAtHand);
        }
        // What this process has seen of the arena by now is most likely all that there is.
        let view = View::recent(self.space, self.seq);
        let version = match view.find_at_hand(key) {
            Ok(Some(entry)) => view.version_at_hand(entry).map_err(|()| NotAtHand)?,
            Ok(None) => None,
            Err(()) => return Err(NotAtHand),
        };
        let Some(version) = version else { return Ok(None) };
        let len = version.len.load(Ordering::Relaxed) as usize;
        match view.payload_words_at_hand(version, len) {
            Some(words) => Ok(Some(self.show(version, words, len))),
            None => Err(NotAtHand),
        }
    }

    /// Shows the payload of a version that this snapshot sees, which are these words.
    #[inline(always)]
    fn show<'p>(&'p self, version: &Version, words: &'p [Word64], len: usize) -> InPlace<'p> {
        // SAFETY: `version` is part of the snapshot of `self.seq`, which `self` has pinned and which the result borrows, in
        // the process that pinned it. Invariants 7, 8 and 12 (docs/design.md): no process overwrites a block that such a
        // snapshot sees, and of a version that is alive or retired nothing changes but words of its head, which are
        // not among these. Its commit was published by a Release that the lookup has met with an Acquire, so all stores to
        // the payload came before. A process that dies stores nothing more, and nobody takes a pin from a living one. A
        // process that breaks these rules, or damage to the length of the block, can change the bytes under the reader all
        // the same: it is as if it had damaged the reader's own memory.
        let bytes = unsafe { as_bytes(words, len) };
        InPlace {
            tag: high(version.older.load(Ordering::Relaxed)) as u16,
            bytes,
            version: VersionId {
                space: self.space.number,
                birth: version.head.birth.load(Ordering::Relaxed),
                granule: (self.space.mapping.offset_of(version) / GRANULE as u64) as u32,
            },
        }
    }

    /// Whether a key is present.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
    /// let pinned = namespace.pin()?;
    /// assert!(!pinned.contains(&KeyRef::new(1, b"lamp"))?);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn contains(&self, key: &KeyRef<'_>) -> Result<bool> {
        let view = self.view();
        let Some(entry) = view.find(key).map_err(self.damage())? else {
            return Ok(false);
        };
        Ok(view.live_version(entry).map_err(self.damage())?.is_some())
    }

    /// How many keys are present.
    ///
    /// Costs one look at the log while the commit is in it, and a walk over all keys for an older snapshot.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
    /// let pinned = namespace.pin()?;
    /// assert_eq!(pinned.len()?, 1);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn len(&self) -> Result<usize> {
        if let Some(live) = log::live(self.space, self.seq) {
            return Ok(live as usize);
        }
        let mut count = 0;
        let view = self.view();
        for slot in view.dense().map_err(self.damage())?.0 {
            count += usize::from(view.at_slot(slot).map_err(self.damage())?.is_some());
        }
        Ok(count)
    }

    /// Whether no key is present.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
    /// let pinned = namespace.pin()?;
    /// assert!(!pinned.is_empty()?);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Keys and values in the order of insertion.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// for name in ["door", "lamp"] {
    ///     namespace.put(&KeyRef::new(1, name.as_bytes()), None, 1, b"on", Deadline::never())?;
    /// }
    /// let pinned = namespace.pin()?;
    /// for (entry, name) in pinned.iter()?.zip(["door", "lamp"]) {
    ///     let (key, value) = entry?;
    ///     assert_eq!((key.bytes(), value.bytes()), (name.as_bytes(), &b"on"[..]));
    /// }
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn iter(&self) -> Result<impl DoubleEndedIterator<Item = Result<(Key, Payload)>> + '_> {
        let view = self.view();
        let (slots, _) = view.dense().map_err(self.damage())?;
        let mut budget = Budget::of(self.space);
        Ok(slots
            .iter()
            .filter_map(move |slot| self.entry_at(&view, slot, &mut budget)))
    }

    /// The key and the value that stand at a slot of the array, if any do.
    #[inline]
    fn entry_at(&self, view: &View<'_>, slot: &DenseSlot, budget: &mut Budget) -> Option<Result<(Key, Payload)>> {
        let (entry, version) = match view.at_slot(slot) {
            Ok(found) => found?,
            Err(torn) => return Some(Err(torn.damage(self.space))),
        };
        let key = view.key_of(entry).map_err(self.damage());
        Some(key.and_then(|(tag, bytes)| {
            let payload = self.payload(version)?;
            budget.spend(self.space, bytes.len(), payload.bytes().len())?;
            Ok((KeyRef::new(tag, &bytes).to_owned(), payload))
        }))
    }
}

impl Drop for Pinned<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.space.is_current() {
            return; // a forked child: the pin is its parent's
        }
        pin::unpin(&self.seat.pin);
        if self.borrowed != 0 {
            self.space.return_seat(self.seat);
        }
    }
}
