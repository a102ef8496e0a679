//! Reading the newest state: where a value is, and its copy, checked afterwards.
//!
//! **Guarantee.** What is returned is the value after one commit, the newest when the call began or a later one.
//!
//! A reader takes no lock and stores nothing. It reads `seq`, goes to the value, copies it, and then looks whether the
//! snapshot was still protected (`View::is_valid`). If writers were faster it begins again, and in the end it pins. What is
//! *at hand* is told on a straight path, or not at all.

use super::Namespace;
use crate::copy::{ShortRoom, with_long_room};
use crate::error::Result;
use crate::key::{KeyRef, Payload};
use crate::layout::{Entry, Version};
use crate::log;
use crate::read::{ATTEMPTS, OPTIMISTIC_MAX, Small, Stop, Torn, View};
use crate::sync::{Ordering, Word};

/// Where a key's value lives: saves the lookup. Made by [`Namespace::locate`].
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let door = KeyRef::new(1, b"door");
/// namespace.put(&door, None, 1, b"open", Deadline::never())?;
/// let entry = namespace.locate(&door)?;
/// namespace.put(&door, entry, 1, b"shut", Deadline::never())?; // without a lookup
/// assert_eq!(namespace.get(&door)?.expect("it is there").bytes(), b"shut");
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRef {
    pub(crate) entry: u32,
    pub(crate) generation: u64,
    /// Address of the control block: of which namespace, in this process.
    pub(crate) namespace: usize,
}

/// Where a key's value lives, resolved: reads it in a few loads. Made by [`Namespace::place`].
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let door = KeyRef::new(1, b"door");
/// namespace.put(&door, None, 1, b"open", Deadline::never())?;
/// let place = namespace.place(&door)?.expect("it was put there");
/// namespace.put(&door, Some(place.entry_ref()), 1, b"shut", Deadline::never())?;
/// assert_eq!(place.peek(|_, bytes| bytes.to_vec()), Some(Some(b"shut".to_vec())));
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Place<'n> {
    view: View<'n>,
    entry: &'n Entry,
    at: EntryRef,
}

impl Place<'_> {
    /// The newest value, handed to `f` as by [`Namespace::get_with`]. `None` when it cannot be had this way: because it is
    /// larger than 16 bytes, the place is no longer that of the key, or writers were faster. Then try [`Place::peek_short`]
    /// and [`Namespace::get_at`].
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// namespace.put(&door, None, 1, b"open", Deadline::never())?;
    /// let place = namespace.place(&door)?.expect("it was put there");
    /// assert_eq!(place.peek(|tag, bytes| (tag, bytes.len())), Some(Some((1, 4))));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
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

    /// As [`Place::peek`], for values of up to 528 bytes.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// namespace.put(&door, None, 1, &[7; 100], Deadline::never())?;
    /// let place = namespace.place(&door)?.expect("it was put there");
    /// assert_eq!(place.peek_short(|_, bytes| bytes.len()), Some(Some(100)));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline(always)]
    pub fn peek_short<R>(&self, f: impl FnOnce(u16, &[u8]) -> R) -> Option<Option<R>> {
        let view = self.view.renewed();
        if !self.is_current() {
            return None;
        }
        peek_short(&view, self.entry, f)
    }

    /// As [`Namespace::peek_exactly`], without a lookup.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, FixedSize, KeyRef, ShortRoom};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// namespace.put(&door, None, 1, &7u64.to_le_bytes(), Deadline::never())?;
    /// let place = namespace.place(&door)?.expect("it was put there");
    /// let mut room = ShortRoom::new();
    /// let found = place.peek_exactly(FixedSize { len: 8, head: 8 }, &mut room);
    /// assert!(matches!(found, Ok(Some((1, bytes))) if bytes == 7u64.to_le_bytes()));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline(always)]
    pub fn peek_exactly<'r>(
        &self,
        size: FixedSize,
        room: &'r mut ShortRoom,
    ) -> Result<Option<(u16, &'r [u8])>, NotAtHand> {
        let view = self.view.renewed();
        if !self.is_current() {
            return Err(NotAtHand);
        }
        copy_at_hand(&view, self.entry, size, room)
    }

    /// Whether it still is the place of its key.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// namespace.put(&door, None, 1, b"open", Deadline::never())?;
    /// let place = namespace.place(&door)?.expect("it was put there");
    /// assert!(place.is_current());
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline(always)]
    pub fn is_current(&self) -> bool {
        self.view.generation() == self.at.generation
    }

    /// What [`Namespace::put`] takes.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// namespace.put(&door, None, 1, b"open", Deadline::never())?;
    /// let place = namespace.place(&door)?.expect("it was put there");
    /// assert_eq!(Some(place.entry_ref()), namespace.locate(&door)?);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline(always)]
    pub fn entry_ref(&self) -> EntryRef {
        self.at
    }
}

/// The size of a value that [`Namespace::peek_exactly`] reads.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, FixedSize, KeyRef, ShortRoom};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let door = KeyRef::new(1, b"door");
/// namespace.put(&door, None, 1, b"open since noon", Deadline::never())?;
/// let (size, mut room) = (FixedSize { len: 15, head: 4 }, ShortRoom::new());
/// let found = namespace.peek_exactly(&door, size, &mut room);
/// assert!(matches!(found, Ok(Some((1, b"open")))));
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedSize {
    /// Bytes that it has.
    pub len: usize,
    /// How many of them are copied, from the first on: up to 528.
    pub head: usize,
}

/// A value takes more than a look: [`Namespace::get_with`] and [`Namespace::get_at`] read it.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, FixedSize, KeyRef, NotAtHand, ShortRoom};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let door = KeyRef::new(1, b"door");
/// namespace.put(&door, None, 1, b"open", Deadline::never())?;
/// // It does not have the size that was asked for.
/// let (size, mut room) = (FixedSize { len: 8, head: 8 }, ShortRoom::new());
/// assert!(matches!(namespace.peek_exactly(&door, size, &mut room), Err(NotAtHand)));
/// assert_eq!(namespace.get_with(&door, |_, bytes| bytes.len())?, Some(4));
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct NotAtHand;

/// Hands the value of an entry to `f`, copied to the stack.
#[inline(always)]
fn peek_short<R>(view: &View<'_>, entry: &Entry, f: impl FnOnce(u16, &[u8]) -> R) -> Option<Option<R>> {
    let mut room = ShortRoom::new();
    let copied = match view.version_at_hand(entry).ok()? {
        Some(version) => Some(view.copy_short(version, &mut room)?),
        None => None,
    };
    view.is_valid().then(|| copied.map(|(tag, bytes)| f(tag, bytes)))
}

/// Copies the head of the value of an entry, if that has this size.
#[inline(always)]
fn copy_at_hand<'r>(
    view: &View<'_>,
    entry: &Entry,
    size: FixedSize,
    room: &'r mut ShortRoom,
) -> Result<Option<(u16, &'r [u8])>, NotAtHand> {
    let copied = match view.version_at_hand(entry) {
        Ok(Some(version)) => Some(view.copy_exactly(version, size, room).ok_or(NotAtHand)?),
        Ok(None) => None,
        Err(()) => return Err(NotAtHand),
    };
    if view.is_valid() { Ok(copied) } else { Err(NotAtHand) }
}

/// Where a reader begins to look for a value.
#[derive(Clone, Copy)]
enum Start<'a> {
    /// At the index.
    Key(KeyRef<'a>),
    /// At the entry that a place of this generation leads to.
    Place(&'a Entry, u64),
}

/// What a reader found.
enum Found<T> {
    /// The version, or what became of it.
    Version(T),
    /// The key is absent.
    Nothing,
    /// The entry may be another key's by now.
    Elsewhere,
}

impl Start<'_> {
    fn find<'n>(&self, view: &View<'n>) -> Result<Found<&'n Version>, Torn> {
        let version = match self {
            Self::Key(key) => match view.find(key)? {
                Some(entry) => view.live_version(entry)?,
                None => None,
            },
            // After `seq` was read: entries that were dropped since are in memory that this snapshot protects.
            Self::Place(_, generation) if view.generation() != *generation => return Ok(Found::Elsewhere),
            Self::Place(entry, _) => view.live_version_of(entry)?,
        };
        Ok(version.map_or(Found::Nothing, Found::Version))
    }
}

impl Namespace {
    /// The newest value of a key. Takes no lock and stores nothing.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) if the arena is damaged.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// assert_eq!(namespace.get(&door)?, None);
    /// namespace.put(&door, None, 1, b"open", Deadline::never())?;
    /// assert_eq!(namespace.get(&door)?.expect("it is there").bytes(), b"open");
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline]
    pub fn get(&self, key: &KeyRef<'_>) -> Result<Option<Payload>> {
        match self.peek(key) {
            Some(small) => Ok(small.map(|small| small.with(Payload::copy_of))),
            // Copied once only: it may be a good part of what this process has room for.
            None => self.get_slowly(*key),
        }
    }

    /// As [`Namespace::get`], but hands tag and bytes to `f` instead of copying them into a [`Payload`]. Nothing is
    /// allocated, but a buffer that the thread keeps for values above 528 bytes, up to 1 MiB.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// namespace.put(&door, None, 1, b"open", Deadline::never())?;
    /// assert_eq!(namespace.get_with(&door, |tag, bytes| (tag, bytes.len()))?, Some((1, 4)));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline(always)]
    pub fn get_with<R>(&self, key: &KeyRef<'_>, f: impl FnOnce(u16, &[u8]) -> R) -> Result<Option<R>> {
        match self.peek(key) {
            Some(small) => Ok(small.map(|small| small.with(f))),
            None => Ok(self.get_at_length(Start::Key(*key), f)?.flatten()),
        }
    }

    /// As [`Namespace::get_with`], without a lookup. `None` when the place is no longer that of its key, or of another
    /// namespace.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// namespace.put(&door, None, 1, &[7; 1000], Deadline::never())?;
    /// let place = namespace.place(&door)?.expect("it was put there");
    /// assert!(place.peek(|_, _| ()).is_none()); // too large for that
    /// assert_eq!(namespace.get_at(&place, |_, bytes| bytes.len())?, Some(Some(1000)));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline(never)]
    pub fn get_at<R>(&self, place: &Place<'_>, f: impl FnOnce(u16, &[u8]) -> R) -> Result<Option<Option<R>>> {
        if place.at.namespace != std::ptr::from_ref(self.space.control()).addr() {
            return Ok(None);
        }
        self.get_at_length(Start::Place(place.entry, place.at.generation), f)
    }

    /// The newest value of a key, if all that is asked for is at hand: `None` sends to [`Namespace::peek_short`] and
    /// [`Namespace::get_with`].
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// namespace.put(&door, None, 1, b"open", Deadline::never())?;
    /// let len = match namespace.peek(&door) {
    ///     Some(small) => small.map(|small| small.with(|_, bytes| bytes.len())),
    ///     None => namespace.get(&door)?.map(|value| value.bytes().len()),
    /// };
    /// assert_eq!(len, Some(4));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
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

    /// As [`Namespace::peek`], for values of up to 528 bytes, which are handed to `f` as by [`Namespace::get_with`].
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// namespace.put(&door, None, 1, &[7; 100], Deadline::never())?;
    /// assert_eq!(namespace.peek_short(&door, |_, bytes| bytes.len()), Some(Some(100)));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline(always)]
    pub fn peek_short<R>(&self, key: &KeyRef<'_>, f: impl FnOnce(u16, &[u8]) -> R) -> Option<Option<R>> {
        let view = View::newest(&self.space);
        match view.find_at_hand(key) {
            Ok(Some(entry)) => peek_short(&view, entry, f),
            Ok(None) if view.is_valid() => Some(None),
            _ => None,
        }
    }

    /// As [`Namespace::get_with`], for a value of up to 4 KiB, which takes no pin and so no seat. `None` when it is longer, or
    /// when writers were faster again and again: then [`Namespace::pin`] and look there.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) if the arena is damaged.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// namespace.put(&door, None, 1, &[7; 1000], Deadline::never())?;
    /// assert_eq!(namespace.get_unpinned(&door, |_, bytes| bytes.len())?, Some(Some(1000)));
    /// namespace.put(&door, None, 1, &[7; 10_000], Deadline::never())?;
    /// assert_eq!(namespace.get_unpinned(&door, |_, bytes| bytes.len())?, None);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn get_unpinned<R>(&self, key: &KeyRef<'_>, f: impl FnOnce(u16, &[u8]) -> R) -> Result<Option<Option<R>>> {
        with_long_room(|room| {
            let tag = self.read_unpinned(ATTEMPTS, |view, limit| {
                let Some(entry) = view.find(key)? else { return Ok(None) };
                let Some(version) = view.live_version(entry)? else {
                    return Ok(None);
                };
                view.copy_long(version, limit, room).map(Some)
            })?;
            Ok(tag.map(|tag| tag.map(|tag| f(tag, room.bytes()))))
        })
    }

    /// As [`Namespace::peek`], for a value of a given length, the head of which is copied into a room of the caller's.
    ///
    /// Where the size is a constant, as for a type of fixed size, the words of the value can go from the arena to where they
    /// are wanted without a stop in memory. That is the point: who stores words, and loads them in pieces of another size
    /// soon after, waits for all stores to be done.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, FixedSize, KeyRef, ShortRoom};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// namespace.put(&door, None, 1, &7u64.to_le_bytes(), Deadline::never())?;
    /// let mut room = ShortRoom::new();
    /// let found = namespace.peek_exactly(&door, FixedSize { len: 8, head: 8 }, &mut room);
    /// assert!(matches!(found, Ok(Some((1, bytes))) if bytes == 7u64.to_le_bytes()));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline(always)]
    pub fn peek_exactly<'r>(
        &self,
        key: &KeyRef<'_>,
        size: FixedSize,
        room: &'r mut ShortRoom,
    ) -> Result<Option<(u16, &'r [u8])>, NotAtHand> {
        let view = View::newest(&self.space);
        match view.find_at_hand(key) {
            Ok(Some(entry)) => copy_at_hand(&view, entry, size, room),
            Ok(None) if view.is_valid() => Ok(None),
            _ => Err(NotAtHand),
        }
    }

    /// The newest value wherever it is and however long; `None` when that is not its place any more.
    #[cold]
    #[inline(never)]
    fn get_at_length<R>(&self, start: Start<'_>, f: impl FnOnce(u16, &[u8]) -> R) -> Result<Option<Option<R>>> {
        let view = View::newest(&self.space);
        let mut room = ShortRoom::new();
        if let Ok(Found::Version(version)) = start.find(&view)
            && let Some((tag, bytes)) = view.copy_short(version, &mut room)
            && view.is_valid()
        {
            return Ok(Some(Some(f(tag, bytes))));
        }
        with_long_room(|room| {
            let found = self.read(|view, limit| match start.find(view)? {
                Found::Version(version) => view.copy_long(version, limit, room).map(Found::Version),
                Found::Nothing => Ok(Found::Nothing),
                Found::Elsewhere => Ok(Found::Elsewhere),
            })?;
            Ok(match found {
                Found::Version(tag) => Some(Some(f(tag, room.bytes()))),
                Found::Nothing => Some(None),
                Found::Elsewhere => None,
            })
        })
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
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
    /// assert!(namespace.contains(&KeyRef::new(1, b"door"))?);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn contains(&self, key: &KeyRef<'_>) -> Result<bool> {
        self.read(|view, _| match view.find(key)? {
            Some(entry) => Ok(view.live_version(entry)?.is_some()),
            None => Ok(false),
        })
    }

    /// How many keys are present.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
    /// assert_eq!(namespace.len()?, 1);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn len(&self) -> Result<usize> {
        for _ in 0..ATTEMPTS {
            if let Some(live) = log::live(&self.space, self.seq()) {
                return Ok(live as usize);
            }
        }
        self.pin()?.len()
    }

    /// Whether no key is present.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// assert!(namespace.is_empty()?);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Where the value of a key lives, to read it without a lookup. `None` when the key was never set.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// assert_eq!(namespace.locate(&KeyRef::new(1, b"door"))?, None);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// assert!(namespace.place(&door)?.is_none());
    /// namespace.put(&door, None, 1, b"open", Deadline::never())?;
    /// assert!(namespace.place(&door)?.is_some_and(|place| place.is_current()));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn place(&self, key: &KeyRef<'_>) -> Result<Option<Place<'_>>> {
        let Some(at) = self.locate(key)? else { return Ok(None) };
        let view = View::new(&self.space, self.space.seq());
        Ok(view.entry(at.entry).map(|entry| Place { view, entry, at }))
    }

    /// Runs an optimistic read until it was not disturbed; after a few attempts, or for a large payload, under a pin.
    #[inline(always)]
    fn read<T>(&self, mut read: impl FnMut(&View<'_>, usize) -> Result<T, Stop>) -> Result<T> {
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
    fn read_again<T>(&self, mut read: impl FnMut(&View<'_>, usize) -> Result<T, Stop>) -> Result<T> {
        if let Some(value) = self.read_unpinned(ATTEMPTS - 1, &mut read)? {
            return Ok(value);
        }
        let pinned = self.pin()?;
        let view = View::new(&self.space, pinned.seq());
        read(&view, usize::MAX).map_err(|stop| stop.into_error(&self.space))
    }

    /// So many optimistic reads, until one was not disturbed. `None` if all were, or for a large payload.
    fn read_unpinned<T>(
        &self,
        attempts: usize,
        mut read: impl FnMut(&View<'_>, usize) -> Result<T, Stop>,
    ) -> Result<Option<T>> {
        for _ in 0..attempts {
            let view = View::new(&self.space, self.space.seq());
            match (read(&view, OPTIMISTIC_MAX), view.is_valid()) {
                (Ok(value), true) => return Ok(Some(value)),
                (Err(Stop::Large), true) => return Ok(None),
                (Err(stop), true) => return Err(stop.into_error(&self.space)),
                (_, false) => {}
            }
        }
        Ok(None)
    }
}
