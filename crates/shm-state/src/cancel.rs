//! Ending the waits of this process, from any of its threads and from signal handlers.
//!
//! **Word.** A [`CancelWord`] is a futex in memory of this process: odd while it is cancelled, even while it is not.
//! Each change adds one, so a wait that notes the word when it begins ([`CancelWord::watch`]) learns of a cancel also
//! if a reset follows at once.
//!
//! **Who waits** sleeps on the events of its keys and on the words of its cancellers at once. The kernel compares each
//! word with what was noted before it lets the thread sleep, so there is no instant in which a cancel could be missed.
//! **Who cancels** makes the word odd and wakes its sleepers: two atomic accesses and a system call, all of which may
//! be done in a signal handler, whichever thread it interrupts.
//!
//! The word is never in an arena: cancelling is between the threads of one process, and a death ends them all.

use std::sync::atomic::{AtomicBool, Ordering as Local};

use crate::sync::{ANY, Ordering, Word, Word32};
use crate::sys;
use crate::sys::futex::Waiter;
use crate::wait::Ended;

/// A flag that ends waits.
///
/// ```
/// use shm_state::CancelWord;
///
/// let word = CancelWord::new();
/// let seen = word.watch();
/// word.cancel();
/// word.reset();
/// assert!(seen.is_cancelled() && !word.is_cancelled(), "a wait that was under way is told");
/// ```
pub struct CancelWord(Word32);

/// A [`CancelWord`] as it was when a wait began.
///
/// ```
/// use shm_state::CancelWord;
///
/// let word = CancelWord::new();
/// let before = word.watch();
/// word.cancel();
/// word.reset();
/// let after = word.watch();
/// assert!(before.is_cancelled() && !after.is_cancelled());
/// ```
#[derive(Clone, Copy)]
pub struct Watched<'a> {
    word: &'a CancelWord,
    seen: u32,
}

impl CancelWord {
    /// One that is not cancelled.
    ///
    /// ```
    /// use shm_state::CancelWord;
    ///
    /// static STOP: CancelWord = CancelWord::new();
    /// assert!(!STOP.is_cancelled());
    /// ```
    pub const fn new() -> Self {
        Self(Word32::new(0))
    }

    /// Ends the waits that are under way with this word, and those that begin before a [`CancelWord::reset`].
    ///
    /// May be called in a signal handler: it takes no lock, allocates nothing and leaves `errno` as it was.
    ///
    /// ```
    /// use shm_state::CancelWord;
    ///
    /// let word = CancelWord::new();
    /// word.cancel();
    /// assert!(word.is_cancelled());
    /// assert!(word.watch().is_cancelled()); // a wait that begins now ends at once
    /// ```
    pub fn cancel(&self) {
        // Release: what came before is seen by whoever is told of the cancel.
        self.change(false);
        // Also if it was cancelled already: whoever did that may be interrupted right before its own wake-up.
        sys::keeping_errno(|| self.0.wake(u32::MAX, ANY));
    }

    /// Lets waits begin again.
    ///
    /// ```
    /// use shm_state::CancelWord;
    ///
    /// let word = CancelWord::new();
    /// word.cancel();
    /// word.reset();
    /// assert!(!word.watch().is_cancelled());
    /// ```
    pub fn reset(&self) {
        self.change(true);
    }

    /// Ends the waits that are under way with this word, and none that begin later: a cancel and a reset in one.
    ///
    /// May be called in a signal handler, as [`CancelWord::cancel`].
    ///
    /// ```
    /// use shm_state::CancelWord;
    ///
    /// let word = CancelWord::new();
    /// let before = word.watch();
    /// word.pulse();
    /// assert!(before.is_cancelled() && !word.watch().is_cancelled());
    /// ```
    pub fn pulse(&self) {
        // Two steps in one, so that the word says what it said before. Release: as in `cancel`.
        self.0.fetch_add(2, Ordering::Release);
        sys::keeping_errno(|| self.0.wake(u32::MAX, ANY));
    }

    /// Adds one if the word is odd, or if it is even.
    fn change(&self, odd: bool) {
        let mut seen = self.0.load(Ordering::Relaxed);
        while (seen % 2 == 1) == odd {
            match self
                .0
                .compare_exchange(seen, seen.wrapping_add(1), Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(other) => seen = other,
            }
        }
    }

    /// Whether it is cancelled now.
    ///
    /// ```
    /// use shm_state::CancelWord;
    ///
    /// let word = CancelWord::new();
    /// assert!(!word.is_cancelled());
    /// word.cancel();
    /// assert!(word.is_cancelled());
    /// ```
    pub fn is_cancelled(&self) -> bool {
        // Acquire pairs with the Release of `cancel`.
        self.0.load(Ordering::Acquire) % 2 == 1
    }

    /// What a wait that begins now has to note.
    ///
    /// ```
    /// use shm_state::CancelWord;
    ///
    /// let word = CancelWord::new();
    /// let seen = word.watch();
    /// assert!(!seen.is_cancelled());
    /// word.cancel();
    /// assert!(seen.is_cancelled());
    /// ```
    pub fn watch(&self) -> Watched<'_> {
        let seen = self.0.load(Ordering::Acquire);
        Watched { word: self, seen }
    }

    /// What a wait that began when the word held `seen` has noted; see [`Watched::seen`].
    ///
    /// ```
    /// use shm_state::CancelWord;
    ///
    /// let word = CancelWord::new();
    /// let seen = word.watch().seen(); // a number, which can be kept without the word
    /// word.cancel();
    /// word.reset();
    /// assert!(word.watched_since(seen).is_cancelled());
    /// ```
    pub fn watched_since(&self, seen: u32) -> Watched<'_> {
        Watched { word: self, seen }
    }
}

impl Default for CancelWord {
    fn default() -> Self {
        Self::new()
    }
}

impl Watched<'_> {
    /// Whether it was cancelled before that, or has been since.
    ///
    /// ```
    /// use shm_state::CancelWord;
    ///
    /// let word = CancelWord::new();
    /// let seen = word.watch();
    /// word.cancel();
    /// assert!(seen.is_cancelled() && word.watch().is_cancelled());
    /// ```
    #[inline]
    pub fn is_cancelled(&self) -> bool {
        // Acquire pairs with the Release of `cancel`.
        self.seen % 2 == 1 || self.word.0.load(Ordering::Acquire) != self.seen
    }

    /// What the word held.
    ///
    /// ```
    /// use shm_state::CancelWord;
    ///
    /// let word = CancelWord::new();
    /// let before = word.watch().seen();
    /// word.cancel();
    /// assert_ne!(word.watch().seen(), before);
    /// ```
    pub fn seen(&self) -> u32 {
        self.seen
    }

    /// For the kernel.
    pub(crate) fn waiter(&self) -> Waiter {
        Waiter::new(self.word.0.futex(), self.seen)
    }
}

/// What ends a wait before its time.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Cancel, CancelWord, Deadline, Ended, On, Strategy};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// use std::sync::atomic::AtomicBool;
///
/// let (closed, word) = (AtomicBool::new(false), CancelWord::new());
/// let words = [word.watch()];
/// let cancel = Cancel { closed: &closed, words: &words };
/// word.cancel();
/// let never = |_| Ok(None::<()>);
/// let ended = namespace.wait(On::Any, Strategy::Block, Deadline::never(), cancel, never)?;
/// assert_eq!(ended, Err(Ended::Cancelled(0)));
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Cancel<'a> {
    /// Looked at before each sleep. Who sets it calls [`Namespace::wake_all`](crate::Namespace::wake_all) afterwards.
    pub closed: &'a AtomicBool,
    /// Slept on, too. The fewer the better: each takes a place in the kernel's list of 128.
    pub words: &'a [Watched<'a>],
}

impl Cancel<'_> {
    /// How the wait ends, if it does.
    #[inline]
    pub(crate) fn ended(&self, order: Local) -> Option<Ended> {
        if self.closed.load(order) {
            return Some(Ended::Closed);
        }
        let first = self.words.iter().position(Watched::is_cancelled)?;
        Some(Ended::Cancelled(first))
    }
}

impl<'a> From<&'a AtomicBool> for Cancel<'a> {
    fn from(closed: &'a AtomicBool) -> Self {
        Self { closed, words: &[] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_is_seen_by_those_who_wait_and_lasts_until_the_reset() {
        let word = CancelWord::new();
        let before = word.watch();
        assert!(!before.is_cancelled());
        word.cancel();
        word.cancel();
        assert!(before.is_cancelled() && word.is_cancelled() && word.watch().is_cancelled());
        word.reset();
        word.reset();
        assert!(before.is_cancelled() && !word.is_cancelled() && !word.watch().is_cancelled());
    }

    #[test]
    fn cancelling_keeps_errno() {
        nix::errno::Errno::set_raw(7);
        CancelWord::new().cancel();
        assert_eq!(nix::errno::Errno::last_raw(), 7);
    }
}
