//! Sleeping until something is committed to one of several namespaces.
//!
//! The protocol is that of `wait`, step by step in the hands of the caller: [`Namespace::arm`] the [`Events`] of each
//! namespace, look at everything up to the commit that it returns, then [`Sleep::until`]. A commit to one of the keys
//! that came after the look has moved one of the words, so the sleep ends at once.
//!
//! A [`Sleep`] is a list of addresses and values for the kernel, which keeps nothing mapped: whoever sleeps may outlive
//! the namespaces, holds them by [`WeakNamespace`]s meanwhile, and is not woken by what is gone.
//!
//! The kernel takes [`MOST_WORDS`](futex::MOST_WORDS) words. Many keys of a namespace are watched through the word for
//! any change instead ([`Events::widen`]), which wakes the sleeper at every commit.
//!
//! What `wait` does for dead writers the caller has to do, at least once a [`SLICE`]: arm again, look again, and
//! [`Namespace::finish_for_the_dead`].

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::cancel::Watched;
use crate::error::Result;
use crate::event::{SLICE, SleeperBits};
use crate::layout::EVENTS;
use crate::log::{self, Found, Record};
use crate::namespace::Namespace;
use crate::read::View;
use crate::space::Space;
use crate::sync::{Ordering, Word};
use crate::sys::futex::{self, Waiter};
use crate::sys::time::Deadline;
use crate::wait::{self, On};

/// A set of events of one namespace: those of some keys, or the one of any key.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, Events, KeyRef, On};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let door = KeyRef::new(1, b"door");
/// let mut events = Events::new();
/// events.add(On::Keys(&[door.hash()]));
/// namespace.arm(&mut events);
/// assert!(!namespace.has_moved(&events));
/// namespace.put(&door, None, 1, b"open", Deadline::never())?;
/// assert!(namespace.has_moved(&events));
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Default)]
pub struct Events {
    list: Vec<Armed>,
    /// Which events are in the list.
    known: Vec<bool>,
    /// How many that are.
    words: usize,
    any: bool,
}

/// One key's place. They are armed from first to last.
struct Armed {
    place: SleeperBits,
    /// Whether it is the first in the list that lies in this event: what its futex held then is what counts for all.
    is_first: bool,
    /// What the futex held when it was armed.
    seen: u32,
}

impl Events {
    /// None.
    ///
    /// ```
    /// assert!(shm_state::Events::new().is_empty());
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Leaves none.
    ///
    /// ```
    /// use shm_state::{Events, On};
    ///
    /// let mut events = Events::new();
    /// events.add(On::Any);
    /// events.clear();
    /// assert!(events.is_empty());
    /// ```
    pub fn clear(&mut self) {
        self.list.clear();
        self.known.clear();
        (self.words, self.any) = (0, false);
    }

    /// Adds those of some keys, or of any.
    ///
    /// ```
    /// use shm_state::{Events, KeyRef, On};
    ///
    /// let door = KeyRef::new(1, b"door").hash();
    /// let mut events = Events::new();
    /// events.add(On::Keys(&[door]));
    /// events.add(On::Keys(&[door])); // is there already
    /// assert_eq!(events.len(), 1);
    /// ```
    pub fn add(&mut self, on: On<'_>) {
        match on {
            On::Keys(hashes) if !hashes.is_empty() && !self.any => hashes.iter().for_each(|hash| self.add_key(*hash)),
            _ => self.widen(),
        }
    }

    fn add_key(&mut self, hash: u64) {
        self.known.resize(EVENTS, false);
        let place = SleeperBits::of(hash, 0);
        let known = std::mem::replace(&mut self.known[place.event], true);
        self.push(place, !known);
    }

    fn push(&mut self, place: SleeperBits, is_first: bool) {
        self.words += usize::from(is_first);
        self.list.push(Armed {
            place,
            is_first,
            seen: 0,
        });
    }

    /// Puts the event of any key in the place of all.
    ///
    /// ```
    /// use shm_state::{Events, KeyRef, On};
    ///
    /// let hashes: Vec<u64> = (0..100u32).map(|n| KeyRef::new(1, &n.to_le_bytes()).hash()).collect();
    /// let mut events = Events::new();
    /// events.add(On::Keys(&hashes));
    /// assert!(events.len() > 1);
    /// events.widen();
    /// assert_eq!(events.len(), 1);
    /// ```
    pub fn widen(&mut self) {
        self.clear();
        self.push(SleeperBits::OF_ANY, true);
        self.any = true;
    }

    /// How many words they are.
    ///
    /// ```
    /// use shm_state::{Events, On};
    ///
    /// let mut events = Events::new();
    /// events.add(On::Any);
    /// assert_eq!(events.len(), 1);
    /// ```
    pub fn len(&self) -> usize {
        self.words
    }

    /// Whether there are none.
    ///
    /// ```
    /// use shm_state::{Events, On};
    ///
    /// let mut events = Events::new();
    /// assert!(events.is_empty());
    /// events.add(On::Any);
    /// assert!(!events.is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// What to sleep on.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, Events, KeyRef, On, Sleep};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// let (mut events, mut sleep) = (Events::new(), Sleep::new());
/// events.add(On::Any);
/// let seen = namespace.arm(&mut events);
/// assert_eq!(seen, 0); // nothing to look at yet
/// sleep.add(&namespace, &events);
/// // Whoever commits from now on ends the sleep, also before it has begun.
/// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
/// sleep.until(Deadline::never());
/// assert_eq!(namespace.arm(&mut events), 1);
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Default)]
pub struct Sleep {
    waiters: Vec<Waiter>,
}

impl Sleep {
    /// Nothing.
    ///
    /// ```
    /// assert!(shm_state::Sleep::new().is_empty());
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Leaves nothing.
    ///
    /// ```
    /// use shm_state::{CancelWord, Sleep};
    ///
    /// let word = CancelWord::new();
    /// let mut sleep = Sleep::new();
    /// sleep.add_word(&word.watch());
    /// sleep.clear();
    /// assert!(sleep.is_empty());
    /// ```
    pub fn clear(&mut self) {
        self.waiters.clear();
    }

    /// How many words are in it.
    ///
    /// ```
    /// use shm_state::{CancelWord, Sleep};
    ///
    /// let words = [CancelWord::new(), CancelWord::new()];
    /// let mut sleep = Sleep::new();
    /// words.iter().for_each(|word| sleep.add_word(&word.watch()));
    /// assert_eq!(sleep.len(), 2);
    /// ```
    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Whether there are none.
    ///
    /// ```
    /// use shm_state::{CancelWord, Sleep};
    ///
    /// let word = CancelWord::new();
    /// let mut sleep = Sleep::new();
    /// assert!(sleep.is_empty());
    /// sleep.add_word(&word.watch());
    /// assert!(!sleep.is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Adds the events of a namespace, which were armed.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Events, On, Sleep};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let other = arena.namespace("other")?;
    /// let (mut here, mut there, mut sleep) = (Events::new(), Events::new(), Sleep::new());
    /// here.add(On::Any);
    /// there.add(On::Any);
    /// namespace.arm(&mut here);
    /// other.arm(&mut there);
    /// sleep.add(&namespace, &here);
    /// sleep.add(&other, &there);
    /// assert_eq!(sleep.len(), 2);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn add(&mut self, namespace: &Namespace, armed: &Events) {
        let control = namespace.space().control();
        let firsts = armed.list.iter().filter(|armed| armed.is_first);
        let waiter = |armed: &Armed| Waiter::new(armed.place.words(control).0.futex(), armed.seen);
        self.waiters.extend(firsts.map(waiter));
    }

    /// Adds a word by which the sleep can be cancelled.
    ///
    /// ```
    /// use shm_state::{CancelWord, Deadline, Sleep};
    ///
    /// let word = CancelWord::new();
    /// let seen = word.watch();
    /// let mut sleep = Sleep::new();
    /// sleep.add_word(&seen);
    /// word.cancel();
    /// sleep.until(Deadline::never()); // ends at once
    /// assert!(seen.is_cancelled());
    /// ```
    pub fn add_word(&mut self, word: &Watched<'_>) {
        self.waiters.push(word.waiter());
    }

    /// Sleeps until one of the words moves, or the deadline. May end earlier.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, Events, KeyRef, On, Sleep, SLICE};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let (mut events, mut sleep) = (Events::new(), Sleep::new());
    /// events.add(On::Any);
    /// let writer = namespace.fork()?;
    /// std::thread::scope(|scope| {
    ///     scope.spawn(move || writer.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never()));
    ///     while namespace.arm(&mut events) == 0 {
    ///         sleep.clear();
    ///         sleep.add(&namespace, &events);
    ///         sleep.until(Deadline::after(SLICE));
    ///     }
    /// });
    /// assert_eq!(namespace.seq(), 1);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn until(&self, deadline: Deadline) {
        if self.waiters.is_empty() {
            std::thread::sleep(deadline.remaining().unwrap_or(SLICE));
        } else {
            futex::wait_any(&self.waiters, deadline);
        }
    }
}

impl Namespace {
    /// Arms events. The caller has to look at everything up to the commit that is returned before it sleeps on them.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, Events, KeyRef, On};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
    /// let mut events = Events::new();
    /// events.add(On::Any);
    /// assert_eq!(namespace.arm(&mut events), 1);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn arm(&self, events: &mut Events) -> u64 {
        let control = self.space().control();
        for armed in &mut events.list {
            armed.seen = armed.place.arm(control);
        }
        // SeqCst: after the bits were set, see `event`.
        control.reader.seq.load(Ordering::SeqCst)
    }

    /// Whether one of the events has moved since they were armed: then they have to be armed again.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, Events, KeyRef, On};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let (door, lamp) = (KeyRef::new(1, b"door"), KeyRef::new(1, b"lamp"));
    /// let mut events = Events::new();
    /// events.add(On::Keys(&[door.hash()]));
    /// namespace.arm(&mut events);
    /// namespace.put(&lamp, None, 1, b"on", Deadline::never())?;
    /// assert!(!namespace.has_moved(&events));
    /// namespace.put(&door, None, 1, b"open", Deadline::never())?;
    /// assert!(namespace.has_moved(&events));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn has_moved(&self, armed: &Events) -> bool {
        let control = self.space().control();
        let moved = |armed: &Armed| {
            // Relaxed: what moves after this look is seen by the kernel, which looks again.
            armed.place.words(control).0.load(Ordering::Relaxed) != armed.seen
        };
        armed.list.iter().any(moved)
    }

    /// Publishes what a dead writer decided, unless the writer lock cannot be had for so long.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// use std::time::Duration;
    ///
    /// namespace.put(&KeyRef::new(1, b"door"), None, 1, b"open", Deadline::never())?;
    /// namespace.finish_for_the_dead(Duration::from_millis(100)); // a look, since nobody died
    /// assert_eq!(namespace.seq(), 1);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn finish_for_the_dead(&self, patience: Duration) {
        wait::finish_for_the_dead(self.space(), patience);
    }

    /// Calls `f` with the hash of each key that a commit after `since`, up to `until`, has set or removed. `false` when
    /// commits among these fell out of the history meanwhile; then what `f` was told means nothing.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let (door, lamp) = (KeyRef::new(1, b"door"), KeyRef::new(1, b"lamp"));
    /// namespace.put(&door, None, 1, b"open", Deadline::never())?;
    /// namespace.put(&lamp, None, 1, b"on", Deadline::never())?;
    /// let mut changed = Vec::new();
    /// assert!(namespace.changed_hashes(0, 2, |hash| changed.push(hash))?);
    /// assert_eq!(changed, [door.hash(), lamp.hash()]);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn changed_hashes(&self, since: u64, until: u64, mut f: impl FnMut(u64)) -> Result<bool> {
        let mut record = Record::default();
        for seq in since.saturating_add(1)..=until {
            match log::read(self.space(), seq, &mut record) {
                Found::Record => {}
                Found::Gone => return Ok(false),
                Found::Damaged => return Err(self.damaged_log(seq)),
            }
            let view = View::new(self.space(), seq - 1);
            for change in record.changes.iter() {
                // An entry that cannot be there is one that was recycled, or damage, which the watchers will meet.
                let Some(entry) = view.entry(change.entry) else {
                    return Ok(false);
                };
                f(entry.hash.load(Ordering::Relaxed));
            }
            // The entries may have been recycled while their hashes were read.
            if !view.is_valid() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The namespace under the same identity, without keeping it open.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let weak = namespace.fork()?.downgrade();
    /// assert!(weak.upgrade().is_some()); // `namespace` keeps the dict open
    /// drop(namespace);
    /// assert!(weak.upgrade().is_none());
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn downgrade(&self) -> WeakNamespace {
        WeakNamespace {
            space: Arc::downgrade(self.space()),
            identity: self.identity(),
        }
    }
}

/// A namespace that is not kept open. Made by [`Namespace::downgrade`].
///
/// ```
/// use shm_state::{Arena, ArenaOptions};
///
/// let arena = Arena::anonymous(&ArenaOptions::default())?;
/// let namespace = arena.namespace("n")?;
/// let weak = namespace.downgrade();
/// assert_eq!(weak.upgrade().map(|again| again.identity()), Some(namespace.identity()));
/// drop(namespace);
/// assert!(weak.upgrade().is_none());
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone)]
pub struct WeakNamespace {
    space: Weak<Space>,
    identity: u32,
}

impl WeakNamespace {
    /// The namespace, while anybody in this process has it open.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let weak = namespace.downgrade();
    /// let again = weak.upgrade().expect("it is open");
    /// assert_eq!((again.name(), again.identity()), ("default", namespace.identity()));
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn upgrade(&self) -> Option<Namespace> {
        Some(Namespace::new(self.space.upgrade()?, self.identity))
    }

    /// A number for the dict that this is of: different ones for different dicts that are open at the same time.
    ///
    /// ```
    /// # use shm_state::{Arena, ArenaOptions};
    /// # let arena = Arena::anonymous(&ArenaOptions::default())?;
    /// # let namespace = arena.namespace("default")?;
    /// let (fork, other) = (namespace.fork()?, arena.namespace("other")?);
    /// assert_eq!(namespace.downgrade().dict(), fork.downgrade().dict());
    /// assert_ne!(namespace.downgrade().dict(), other.downgrade().dict());
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn dict(&self) -> usize {
        self.space.as_ptr().addr()
    }
}
