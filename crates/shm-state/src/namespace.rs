//! A namespace as its users see it: one dict, one writer lock, one history.

mod following;
mod pinning;
mod reading;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

pub use following::{Filter, Next};
pub(crate) use pinning::SeatRef;
pub use reading::{EntryRef, FixedSize, NotAtHand, Place};

use crate::cancel::Cancel;
use crate::error::Result;
use crate::key::KeyRef;
use crate::overwrite;
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

    /// The same, whose commits are dated by a precise clock, or by a coarse one: see
    /// [`Record::time_ns`](crate::Record::time_ns).
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

    /// Begins a transaction, waiting for the writer lock until the deadline.
    ///
    /// # Errors
    /// [`Error::LockTimeout`](crate::Error::LockTimeout) names the process that holds the lock;
    /// [`Error::Deadlock`](crate::Error::Deadlock) if this thread does.
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
            // SAFETY: it came from this very space, whose memory is still mapped.
            self.space.return_seat(unsafe { seat.get() });
        }
    }
}
