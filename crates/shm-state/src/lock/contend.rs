//! The contended path of the writer lock: spinning, sleeping, letting others go first, and taking over from the
//! dead.
//!
//! **Death.** A waiter sleeps in slices that grow from 4 to 100 ms. If a slice ends and the word still names the
//! owner that it named when the slice began, the waiter asks for a proof that this owner is dead, and with one
//! takes exactly that word over. This is the backstop; usually the kernel has marked the word long before. A waiter
//! without time to sleep asks at once.
//!
//! **Fairness.** Taking a free lock is a race that a thread in a tight loop nearly always wins. So a waiter that
//! has slept for 4 ms writes its name into `starving`, if nobody's is there, and sleeps with the bit NEXT. While
//! the field names another, everybody else stands back from a free lock, also on the fast path, and an unlock
//! wakes the NEXT sleeper before any other. The starving one erases its name when it gets the lock or gives up.
//! It may also die or be stopped: whoever has stood back for 4 ms from a lock that stays free erases the name and
//! competes. Then the next waiter writes its own. `starving` decides only who goes first, never who owns the
//! lock, so a stale or lost value costs time and nothing else.
//!
//! **No lost wake.** WAITERS is set before every sleep on an owned lock, and by every thread that takes the lock
//! after it slept, because the unlock that woke it erased the flag for the others. A thread that leaves without
//! the lock sets it again. A thread that stands back wakes the starving one first; it itself is woken by the
//! unlock of that one, if it is asleep by then. If the starving one came and went between its look at the name and
//! its sleep, it finds the word free as it was and sleeps on until it has stood back for 4 ms. Where a death breaks
//! this chain, the kernel wakes one sleeper of a free word, and every sleep is a slice. It takes a slice if an owner
//! dies between its unlock and its wake, and a thread that never slept takes the lock before the kernel looks; and if
//! the thread that was woken finds the lock taken, and dies or is stopped in the microseconds in which it looks again
//! and again: until it sleeps once more, nobody has set the flag for the others.

use std::time::Duration;

use super::thread::Thread;
use super::word::{self, LockState, Owner};
use super::{LockError, NEXT, REST, WriterLock};
use crate::fault::{Fault, planted};
use crate::interrupt;
use crate::participant::Attachment;
use crate::sync::{Ordering, Word, has_backstops};
use crate::sys::time::Deadline;

/// How long a waiter sleeps before it wants to be next, and how long others stand back for it.
const PATIENCE: Duration = Duration::from_millis(4);
const FIRST_SLICE: Duration = Duration::from_millis(4);
/// The longest sleep of a thread that is next.
const NEXT_SLICE: Duration = Duration::from_millis(1);
const LONGEST_SLICE: Duration = Duration::from_millis(100);
/// The slice of a test that looks for lost wake-ups.
const FOR_EVER: Duration = Duration::from_secs(600);
/// Pauses before a sleep: 10 to 50 µs, as long as the processor makes them, about what a sleep costs both sides. None in
/// models: a look more or less changes nothing that they look for.
const PAUSES: u32 = if cfg!(all(loom, test)) { 0 } else { 1000 };
/// The most between two looks at an owned lock: 2 to 6 µs. Two threads in tight loops would otherwise hand the lock, and
/// every cache line behind it, to and fro at each commit, which takes several times as long as the commit itself.
const LONGEST_PAUSE: u32 = 128;

/// One thread's attempt to get one lock.
pub(super) struct Contender<'a> {
    attachment: &'a Attachment,
    thread: &'a Thread,
    lock: &'a WriterLock,
    me: Owner,
    deadline: Deadline,
    /// Pauses left before the first sleep, and how many come before the next look.
    pauses: u32,
    pause: u32,
    /// When the thread has slept long enough to be next; `None` before its first sleep.
    patience: Option<Deadline>,
    /// Whether `starving` has this thread's name.
    is_next: bool,
    slice: Duration,
    /// The owner seen when the slice began, and when the slice ends.
    watched: Option<(Owner, Deadline)>,
    /// For whom this thread stands back, and how long still.
    standing_back: Option<(u64, Deadline)>,
}

impl<'a> Contender<'a> {
    pub(super) fn new(
        attachment: &'a Attachment,
        thread: &'a Thread,
        lock: &'a WriterLock,
        me: Owner,
        deadline: Deadline,
    ) -> Self {
        Self {
            attachment,
            thread,
            lock,
            me,
            deadline,
            pauses: PAUSES,
            pause: 1,
            patience: None,
            is_next: false,
            slice: if has_backstops() { FIRST_SLICE } else { FOR_EVER },
            watched: None,
            standing_back: None,
        }
    }

    /// Waits for the lock. `Some`: it came from a dead owner, by this word.
    pub(super) fn run(mut self) -> Result<Option<LockState>, LockError> {
        let result = self.compete();
        if self.is_next {
            let _ = self.rename_next(self.me.raw(), 0);
        }
        if matches!(result, Ok(Some(_))) {
            self.lock.takeovers.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    fn compete(&mut self) -> Result<Option<LockState>, LockError> {
        loop {
            // Before every attempt: if this thread dies right after it, the kernel must know the word.
            self.thread.arm(self.lock);
            let seen = LockState::read(&self.lock.word);
            if seen.is_free() {
                if !self.may_enter() {
                    self.stand_back(seen);
                } else if word::try_acquire(&self.lock.word, seen, self.me, self.may_leave_sleepers()).is_ok() {
                    return Ok(seen.owner_died().then_some(seen));
                }
            } else if self.is_this_thread(seen.owner()) {
                // Our very name, though we hold nothing, is that of someone who uses our thread-local state and is just
                // entering: a signal handler that interrupted us there, or a thread made by a raw clone. Never take that
                // lock. (A dead thread may have had the name too: the same TID, the lost mark, and just as many nonces
                // ago as there are. Then we wait in vain, until we end.)
                if seen.owner() == self.me || self.thread.holds_as(seen.owner()) {
                    return Err(LockError::held_already(self.me));
                }
                // An earlier thread of this process had our TID and died: that it is ours now proves it.
                if word::take_over(&self.lock.word, seen, self.me).is_ok() {
                    return Ok(Some(seen));
                }
            } else if !self.spun()
                && let Some(end) = self.wait_for_owner(seen)
            {
                return end;
            }
        }
    }

    /// Whether a free lock is for us: nobody is starving, or it is this thread, or we stood back long enough.
    fn may_enter(&mut self) -> bool {
        let starving = self.lock.starving.load(Ordering::Relaxed);
        if starving == 0 || starving == self.me.raw() || self.deadline.passed() {
            return true;
        }
        match self.standing_back {
            Some((name, until)) if name == starving => {
                if !until.passed() {
                    return false;
                }
                // It died, was stopped, or is slow: somebody else may be next.
                let _ = self.rename_next(starving, 0);
                true
            }
            _ => {
                self.standing_back = Some((starving, Deadline::after(PATIENCE)));
                false
            }
        }
    }

    fn stand_back(&mut self, seen: LockState) {
        // The wake for the starving thread may have reached us instead.
        self.lock.word.wake(1, NEXT);
        let until = self
            .standing_back
            .map_or(self.deadline, |(_, until)| until.min(self.deadline));
        self.sleep(seen, REST, until);
    }

    fn spun(&mut self) -> bool {
        if self.pauses == 0 || self.deadline.passed() {
            return false;
        }
        (0..self.pause).for_each(|_| std::hint::spin_loop());
        self.pauses = self.pauses.saturating_sub(self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }

    /// One slice of waiting for the owner in `seen`. `Some` ends the attempt.
    fn wait_for_owner(&mut self, seen: LockState) -> Option<Result<Option<LockState>, LockError>> {
        let late = self.deadline.passed();
        if late && !self.has_slept() {
            // There is no time to wait for the kernel's mark, which may have been lost, so the owner is looked at once.
            return match self.is_dead(seen.owner()) {
                true => self.take_over(seen),
                false => Some(Err(self.timed_out(seen))),
            };
        }
        // Before the first sleep, too: who is asked may note by it that this thread waits from now on.
        if interrupt::is_asked_for() {
            return Some(Err(self.timed_out(seen)));
        }
        let seen = word::announce_waiter(&self.lock.word, seen).ok()?;
        if self.slice_is_over(seen.owner(), late) {
            if self.is_dead(seen.owner()) {
                return self.take_over(seen);
            }
            self.slice = (self.slice * 2).min(LONGEST_SLICE);
            self.watched = None;
        }
        if late {
            return Some(Err(self.timed_out(seen)));
        }
        self.become_next();
        let (_, slice_end) = *self
            .watched
            .get_or_insert_with(|| (seen.owner(), Deadline::after(self.slice)));
        let mut until = slice_end.min(self.deadline);
        match self.patience {
            Some(patience) if !self.is_next && !patience.passed() => until = until.min(patience),
            // Whoever is next looks often: its turn must not hang on one wake-up.
            _ if self.is_next && has_backstops() => until = until.min(Deadline::after(NEXT_SLICE)),
            _ => {}
        }
        self.sleep(seen, if self.is_next { NEXT | REST } else { REST }, until);
        None
    }

    /// Whether the owner that was read from the word is certainly dead. The order matters: the word was loaded (Acquire)
    /// before the proof reads the participant's slot.
    fn is_dead(&self, owner: Owner) -> bool {
        self.attachment.thread_is_dead(owner.slot(), owner.tid())
    }

    /// Takes the lock from a dead owner, unless the word has changed: then the attempt goes on.
    fn take_over(&self, seen: LockState) -> Option<Result<Option<LockState>, LockError>> {
        word::take_over(&self.lock.word, seen, self.me)
            .ok()
            .map(|()| Ok(Some(seen)))
    }

    /// Whether `owner` has been there for the whole slice (at the deadline: for what there was of it).
    fn slice_is_over(&mut self, owner: Owner, late: bool) -> bool {
        match self.watched {
            Some((watched, until)) if watched == owner => late || until.passed(),
            _ => {
                self.watched = None;
                false
            }
        }
    }

    fn sleep(&mut self, seen: LockState, bits: u32, until: Deadline) {
        if self.patience.is_none() {
            self.patience = Some(Deadline::after(PATIENCE));
        }
        if self.thread.holds_any() {
            // One word can be armed. A dead waiter costs others a wake at most, a dead owner a slice.
            self.thread.arm_held();
        }
        self.lock.word.wait(seen.low(), bits, until);
        (self.pauses, self.pause) = (PAUSES, 1);
    }

    fn become_next(&mut self) {
        if !self.is_next && self.patience.is_some_and(Deadline::passed) {
            self.is_next = self.rename_next(0, self.me.raw());
        }
    }

    fn rename_next(&self, from: u64, to: u64) -> bool {
        // SeqCst pairs with the fence in `WriterLock::wake_one`: either the unlocker sees the name, or this thread,
        // which checks the word after writing the name, sees the lock free.
        self.lock
            .starving
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
    }

    fn has_slept(&self) -> bool {
        self.patience.is_some()
    }

    /// Whether others may sleep whose flag was erased by the unlock that woke this thread.
    fn may_leave_sleepers(&self) -> bool {
        self.has_slept() && !planted(Fault::ForgetWaiters)
    }

    fn is_this_thread(&self, owner: Owner) -> bool {
        owner.tid() == self.me.tid() && self.attachment.is_this_process(owner.slot())
    }

    fn timed_out(&self, seen: LockState) -> LockError {
        let owner = seen.owner();
        LockError::TimedOut {
            pid: self.attachment.pid_of(owner.slot()),
            tid: owner.tid(),
        }
    }
}
