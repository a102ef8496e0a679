//! A namespace as its users see it: one dict, one writer lock, one history.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use crate::cancel::Cancel;
use crate::copy::{ShortRoom, with_long_room};
use crate::error::{Error, Result};
use crate::key::{Key, KeyRef, Payload};
use crate::layout::{Entry, Seat, Version};
use crate::log::{self, Record};
use crate::overwrite;
use crate::pin::{self, Refused};
use crate::pinned::Pinned;
use crate::read::{ATTEMPTS, Budget, OPTIMISTIC_MAX, Small, Stop, Torn, View};
use crate::seats;
use crate::signature::Signature;
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
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let door = KeyRef::new(1, b"door");
/// namespace.put(&door, None, 1, b"open", Deadline::never())?;
/// let before = namespace.pin()?;
/// namespace.put(&door, None, 1, b"shut", Deadline::never())?;
/// assert_eq!(namespace.get(&door)?.expect("it is there").bytes(), b"shut");
/// assert_eq!(before.get(&door)?.expect("it was there").bytes(), b"open");
/// # Ok::<(), shm_state::Error>(())
/// ```
pub struct Namespace {
    space: Arc<Space>,
    signature: Signature,
    /// Where this identity pins and watches; taken when first needed.
    seat: OnceLock<SeatRef>,
}

pub(crate) struct SeatRef(std::ptr::NonNull<Seat>);

impl SeatRef {
    pub(crate) fn of(seat: &Seat) -> Self {
        Self(seat.into())
    }

    /// The seat.
    ///
    /// # Safety
    /// The memory that it lies in is still mapped, and stays so for as long as the reference.
    pub(crate) unsafe fn get<'a>(&self) -> &'a Seat {
        // SAFETY: the caller's promise.
        unsafe { self.0.as_ref() }
    }
}

// SAFETY: seats are made of atomic words in shared memory that `space` keeps mapped.
unsafe impl Send for SeatRef {}
// SAFETY: as above.
unsafe impl Sync for SeatRef {}

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
    pub(crate) fn new(space: Arc<Space>, identity: u32) -> Self {
        Self {
            space,
            signature: Signature::of(identity),
            seat: OnceLock::new(),
        }
    }

    /// The namespace as this process sees it.
    #[inline(always)]
    pub(crate) fn space(&self) -> &Arc<Space> {
        &self.space
    }

    /// Another identity for the same dict.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let other = namespace.fork()?;
    /// assert_ne!(other.identity(), namespace.identity());
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn fork(&self) -> Result<Self> {
        self.space.check_fork()?;
        let fork = Self::new(Arc::clone(&self.space), seats::next_identity(&self.space)?);
        Ok(fork.with_precise_time(self.signature.is_precise()))
    }

    /// The same, whose commits are dated by a precise clock, or by a coarse one: see [`Record::time_ns`].
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let precise = namespace.fork()?.with_precise_time(true);
    /// assert!(precise.has_precise_time() && !namespace.has_precise_time());
    /// assert!(precise.fork()?.has_precise_time());
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[must_use]
    pub fn with_precise_time(mut self, precise: bool) -> Self {
        self.signature = self.signature.with_precise_time(precise);
        self
    }

    /// The same under an identity that was had before, for one who goes on after a break: commits are signed with it, and
    /// readers can leave out what it wrote. An identity belongs to one user of the arena at a time.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// let identity = arena.namespace("default")?.identity();
    /// let again = arena.namespace("default")?.with_identity(identity);
    /// assert_eq!(again.identity(), identity);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[must_use]
    pub fn with_identity(mut self, identity: u32) -> Self {
        self.signature = Signature::of(identity).with_precise_time(self.signature.is_precise());
        self
    }

    /// Whether its commits are dated by a precise clock.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// assert!(!namespace.has_precise_time());
    /// assert!(namespace.with_precise_time(true).has_precise_time());
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn has_precise_time(&self) -> bool {
        self.signature.is_precise()
    }

    /// The name.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// assert_eq!(namespace.name(), "default");
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn name(&self) -> &str {
        &self.space.name
    }

    /// What commits through this value are signed with.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let seq = namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
    /// assert_eq!(namespace.record(seq)?.expect("it is recent").identity, namespace.identity());
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn identity(&self) -> u32 {
        self.signature.identity()
    }

    /// The number of the newest commit; 0 before the first.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// assert_eq!(namespace.seq(), 0);
    /// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
    /// assert_eq!(namespace.seq(), 1);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline(always)]
    pub fn seq(&self) -> u64 {
        self.space.seq()
    }

    /// The oldest commit whose snapshot can be taken.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
    /// assert_eq!(namespace.floor(), 0); // also the state before the first commit
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn floor(&self) -> u64 {
        self.space.control().reader.floor.load(Ordering::Relaxed)
    }

    /// A word of this process, and what it holds unless the process was forked since the arena was opened: the same as
    /// [`Namespace::check_fork`] in one comparison. It never holds `u64::MAX`.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let (word, value) = namespace.fork_mark();
    /// assert_eq!(word.load(std::sync::atomic::Ordering::Relaxed), value); // this process was not forked
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn fork_mark(&self) -> (&'static AtomicU64, u64) {
        (fork::word(), self.space.attachment.epoch())
    }

    /// Errors if this process was forked from the one that opened the arena.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// assert!(namespace.check_fork().is_ok());
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline(always)]
    pub fn check_fork(&self) -> Result<()> {
        self.space.check_fork()
    }

    /// The newest value of a key. Takes no lock and stores nothing.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the arena is damaged.
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
    /// [`Error::Corrupt`] if the arena is damaged.
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

    /// Pins the newest snapshot.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let pinned = namespace.pin()?;
    /// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
    /// assert_eq!((pinned.seq(), pinned.len()?), (0, 0));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline]
    pub fn pin(&self) -> Result<Pinned<'_>> {
        match self.pin_at_hand() {
            Some(pinned) => Ok(pinned),
            None => self.pin_elsewhere(),
        }
    }

    /// Pins the newest snapshot if the place for it is at hand. `None` says nothing: then [`Namespace::pin`] it.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let one = namespace.pin_at_hand().expect("nobody else used it");
    /// assert!(namespace.pin_at_hand().is_none()); // its place is taken
    /// assert_eq!(namespace.pin()?.seq(), one.seq());
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline(always)]
    pub fn pin_at_hand(&self) -> Option<Pinned<'_>> {
        if !self.space.is_current() {
            return None;
        }
        let (seat, reader) = (self.own_seat()?, &self.space.control().reader);
        let seq = pin::pin(&seat.pin, &reader.floor, &reader.seq).ok()?;
        Some(Pinned::new(&self.space, seat, seq, false))
    }

    /// Pins the newest snapshot if the value of a key is in it, at hand, and `holds`: a get and a pin in one. `None`
    /// says nothing: then [`Namespace::pin`] it and look.
    ///
    /// What `holds` is asked about may have been read while it was overwritten; then its answer does not count.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// namespace.put(&door, None, 1, b"open", Deadline::never())?;
    /// assert!(namespace.pin_if(&door, |value| value.is(1, b"shut")).is_none());
    /// let pinned = match namespace.pin_if(&door, |value| value.is(1, b"open")) {
    ///     Some(pinned) => pinned,
    ///     None => namespace.pin()?,
    /// };
    /// assert_eq!(pinned.get(&door)?.expect("it is there").bytes(), b"open");
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline(always)]
    pub fn pin_if(&self, key: &KeyRef<'_>, holds: impl FnOnce(Small) -> bool) -> Option<Pinned<'_>> {
        let view = View::newest(&self.space);
        let small = view.small_at_hand(view.find_at_hand(key).ok()??).ok()??;
        if !holds(small) || !self.space.is_current() {
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
        self.space.check_fork()?;
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
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// namespace.put(&door, None, 1, b"open", Deadline::never())?;
    /// namespace.put(&door, None, 1, b"shut", Deadline::never())?;
    /// let first = namespace.pin_at(1)?.expect("it is recent");
    /// assert_eq!(first.get(&door)?.expect("it was there").bytes(), b"open");
    /// assert!(namespace.pin_at(3)?.is_none());
    /// # Ok::<(), shm_state::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, Error, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// use std::time::Duration;
    ///
    /// let mut transaction = namespace.begin(Deadline::after(Duration::from_secs(5)))?;
    /// transaction.put(&KeyRef::new(1, b"door"), 1, b"open")?;
    /// assert!(matches!(namespace.begin(Deadline::never()), Err(Error::Deadlock)));
    /// drop(transaction);
    /// assert!(namespace.is_empty()?);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline]
    pub fn begin(&self, deadline: Deadline) -> Result<Transaction<'_>> {
        Transaction::begin(&self.space, self.signature, deadline)
    }

    /// Sets one key, as one commit. Returns the number of the commit. `place` saves the lookup if it is still valid.
    ///
    /// # Errors
    /// As for [`Namespace::begin`] and [`Transaction::put`]; the state is then as before.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let door = KeyRef::new(1, b"door");
    /// assert_eq!(namespace.put(&door, None, 1, b"open", Deadline::never())?, 1);
    /// assert_eq!(namespace.put(&door, None, 1, b"shut", Deadline::never())?, 2);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    #[inline]
    pub fn put(
        &self,
        key: &KeyRef<'_>,
        place: Option<EntryRef>,
        tag: u16,
        bytes: &[u8],
        deadline: Deadline,
    ) -> Result<u64> {
        overwrite::put(&self.space, self.signature, key, place, tag, bytes, deadline)
    }

    /// Shows others how far this identity has read, for their statistics.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
    /// namespace.publish_cursor(0);
    /// let watcher = &arena.stats()?.namespaces[0].watchers[0];
    /// assert_eq!((watcher.pid, watcher.cursor, watcher.lag), (std::process::id(), 0, 1));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn publish_cursor(&self, cursor: u64) {
        if self.space.check_fork().is_ok()
            && let Some(seat) = self.own_seat()
        {
            seat.cursor.store(cursor.wrapping_add(1), Ordering::Relaxed);
        }
    }

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

    /// Waits until `check`, called with the number of the newest commit whenever there may be a new one, returns
    /// something. `cancel` is a flag, or a [`Cancel`] with words besides.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, Ended, KeyRef, On, Strategy};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// use std::sync::atomic::AtomicBool;
    /// use std::time::Duration;
    ///
    /// let cancel = AtomicBool::new(false);
    /// let writer = namespace.fork()?;
    /// std::thread::scope(|scope| {
    ///     scope.spawn(move || writer.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never()));
    ///     let deadline = Deadline::after(Duration::from_secs(30));
    ///     let first = |seq| Ok((seq > 0).then_some(seq));
    ///     assert_eq!(namespace.wait(On::Any, Strategy::default(), deadline, &cancel, first)?, Ok(1));
    ///     Ok::<(), shm_state::Error>(())
    /// })?;
    /// let never = |_| Ok(None::<()>);
    /// let ended = namespace.wait(On::Any, Strategy::Block, Deadline::at_once(), &cancel, never)?;
    /// assert_eq!(ended, Err(Ended::TimedOut));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, Ended, On, Strategy};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// use std::sync::atomic::{AtomicBool, Ordering};
    ///
    /// let cancel = AtomicBool::new(false);
    /// let never = |_| Ok(None::<()>);
    /// std::thread::scope(|scope| {
    ///     let sleeper = scope.spawn(|| namespace.wait(On::Any, Strategy::Block, Deadline::never(), &cancel, never));
    ///     cancel.store(true, Ordering::SeqCst);
    ///     namespace.wake_all();
    ///     assert_eq!(sleeper.join().unwrap()?, Err(Ended::Closed));
    ///     Ok::<(), shm_state::Error>(())
    /// })?;
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn wake_all(&self) {
        self.space.wake_all();
    }

    /// Process and thread that hold the writer lock.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// assert_eq!(namespace.lock_holder(), None);
    /// let transaction = namespace.begin(Deadline::never())?;
    /// assert_eq!(namespace.lock_holder().map(|(pid, _)| pid), Some(std::process::id()));
    /// # drop(transaction);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
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
