//! A snapshot that owns its namespace, for those who keep many of them in a table: a server, for clients that cannot map.

use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::Arc;

use crate::error::Result;
use crate::layout::Seat;
use crate::namespace::{Namespace, SeatRef};
use crate::pinned::Pinned;

/// A pinned snapshot together with its namespace. Made by [`Namespace::hold`].
///
/// ```
/// use std::sync::Arc;
/// use shm_state::{Arena, ArenaOptions, Deadline, KeyRef};
///
/// let namespace = Arc::new(Arena::anonymous(&ArenaOptions::default())?.namespace("default")?);
/// let key = KeyRef::new(1, b"door");
/// namespace.put(&key, None, 1, b"open", Deadline::never())?;
/// let held = namespace.hold(None)?.expect("the newest state is there");
/// namespace.put(&key, None, 1, b"shut", Deadline::never())?;
/// drop(namespace);
/// let before = held.with(|pinned| pinned.get(&key))?.expect("it was there");
/// assert_eq!((held.seq(), before.bytes()), (1, &b"open"[..]));
/// # Ok::<(), shm_state::Error>(())
/// ```
pub struct Held {
    /// Keeps the memory mapped, and the seat, if it is that of the namespace.
    namespace: Arc<Namespace>,
    seat: SeatRef,
    seq: u64,
    borrowed: bool,
}

impl Namespace {
    /// Pins the state after commit `at`, or the newest, for as long as what is returned lives; `None` if it fell out of the
    /// history.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use shm_state::{Arena, ArenaOptions};
    /// # let namespace = Arc::new(Arena::anonymous(&ArenaOptions::default())?.namespace("default")?);
    /// assert_eq!(namespace.hold(None)?.expect("there is one").seq(), 0);
    /// assert!(namespace.hold(Some(7))?.is_none()); // not yet
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn hold(self: &Arc<Self>, at: Option<u64>) -> Result<Option<Held>> {
        let pinned = match at {
            Some(seq) => self.pin_at(seq)?,
            None => Some(self.pin()?),
        };
        Ok(pinned.map(|pinned| {
            let (seat, seq, borrowed) = ManuallyDrop::new(pinned).parts();
            Held {
                namespace: Arc::clone(self),
                seat: SeatRef::of(seat),
                seq,
                borrowed,
            }
        }))
    }
}

impl Held {
    /// The commit that it shows.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use shm_state::{Arena, ArenaOptions};
    /// # let namespace = Arc::new(Arena::anonymous(&ArenaOptions::default())?.namespace("default")?);
    /// assert_eq!(namespace.hold(None)?.expect("there is one").seq(), 0);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// What `f` makes of the snapshot.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use shm_state::{Arena, ArenaOptions};
    /// # let namespace = Arc::new(Arena::anonymous(&ArenaOptions::default())?.namespace("default")?);
    /// assert!(namespace.hold(None)?.expect("there is one").with(|pinned| pinned.is_empty())?);
    /// # Ok::<(), shm_state::Error>(())
    /// ```
    pub fn with<R>(&self, f: impl FnOnce(&Pinned<'_>) -> R) -> R {
        f(&ManuallyDrop::new(self.pinned()))
    }

    /// The snapshot, which gives back its pin when it is dropped.
    fn pinned(&self) -> Pinned<'_> {
        Pinned::new(self.namespace.space(), self.seat(), self.seq, self.borrowed)
    }

    fn seat(&self) -> &Seat {
        // SAFETY: it is that of a snapshot of this very namespace, which keeps its memory mapped.
        unsafe { self.seat.get() }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.pinned());
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("seq", &self.seq).finish_non_exhaustive()
    }
}
