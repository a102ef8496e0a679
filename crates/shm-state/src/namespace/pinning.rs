//! Pinning a snapshot, and the seat of an identity, in which it pins and shows how far it has read.
//!
//! Each identity keeps one seat from its first pin on; further pins at the same time take others. Who finds none free does
//! without its own.

use super::Namespace;
use crate::error::{Error, Result};
use crate::key::KeyRef;
use crate::layout::Seat;
use crate::pin::{self, Refused};
use crate::pinned::Pinned;
use crate::read::{Small, View};
use crate::seats;
use crate::sync::{Ordering, Word};

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

impl Namespace {
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
}
