//! The writer lock of a namespace: a mutex between threads of many processes, any of which may die inside.
//!
//! **Guarantee.** Never two owners; a live owner, also a stopped one, is never robbed; whoever waits for a dead one
//! goes on within milliseconds if the kernel reports the death, and within a few hundred at worst; a waiter of
//! more than a few milliseconds is let in next.
//!
//! **Words.** `word` holds the owner and the lock in one (see `lock/word.rs`): written by whoever takes,
//! releases or waits for the lock, and by the kernel when the owner dies. `starving` names the waiter that is
//! next (see `lock/contend.rs`). `takeovers` counts the owners that died; it decides nothing.
//!
//! **Taking it.** The thread first names the word to the kernel (`list_op_pending` of its robust list, see
//! `sys/robust.rs`), and then writes itself into the word with one compare-and-exchange, so there is no instant at
//! which it owns the lock and the kernel does not know. The field stays set until the sleepers are woken after
//! the release. It names one word only: of several locks held at once, the one taken last; the others are left to
//! the backstop if the process dies.
//!
//! **When the owner dies** the kernel marks the word, and the next owner learns it from [`LockGuard::took_over`]. The
//! mark can be lost: a robust or priority-inheriting mutex of the C library uses the same field (that is what
//! [`LockGuard::rearm`] is for), and so does an exec from a thread that does not lead its process. Then a waiter
//! proves the death (`participant.rs`). A thread that ends while it holds locks marks them itself.
//!
//! **Forked children** never own a lock: the guard's copy in a child does nothing. (`unlock_undisturbed` does not ask. A
//! child that a signal handler forks inside of the section must not return from the handler; see the limits in
//! docs/design.md.)
//!
//! **The ordinary case** ([`Attachment::take_at_hand`]) is that a thread holds no other lock; one that does takes the way of
//! those who have to wait.
//!
//! **Ordering.** A release synchronises with the next acquisition through the word. The low half is also written
//! by the kernel, with fully ordered 32-bit operations; user space only uses 64-bit ones on it.
//!
//! Unsupported: threads made by a raw `clone(CLONE_THREAD)`, vfork children, and signal handlers that lock.

mod contend;
mod gate;
mod thread;
pub(crate) mod word;

#[cfg(test)]
pub(crate) mod tests;

use std::marker::PhantomData;

use crate::fault::{Fault, planted};
use crate::participant::Attachment;
use crate::sync::{ANY, Ordering, Word, Word64};
use crate::sys::time::Deadline;
use crate::sys::{fork, process};
use contend::Contender;
pub(crate) use gate::Gate;
use thread::Thread;
#[cfg(all(loom, test))]
pub(crate) use thread::renew_modelled;
pub(crate) use thread::{MOST_HELD, forget_in_children};
pub(crate) use word::Owner;
use word::{LockState, Released};

/// Sleepers that an unlock wakes first.
const NEXT: u32 = 1;
/// All sleepers.
const REST: u32 = 2;

/// The lock, in the arena. All zeroes is a free one.
#[repr(C, align(64))]
pub(crate) struct WriterLock {
    word: Word64,
    starving: Word64,
    takeovers: Word64,
    reserved: [Word64; 5],
}

const _: () = assert!(size_of::<WriterLock>() == 64 && align_of::<WriterLock>() == 64);
const _: () = assert!(
    cfg!(target_endian = "little"),
    "the kernel must find the TID at the address of the word"
);

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LockError {
    /// The deadline passed while a living owner had the lock.
    #[error(
        "the writer lock was not free in time: thread {tid} of process {pid} has it; wait longer, or end or \
         continue that process if it hangs or is stopped"
    )]
    TimedOut {
        /// The owner's process; 0 if it cannot be named.
        pid: u32,
        /// The owner's thread.
        tid: u32,
    },
    /// The calling thread has the lock already.
    #[error("this thread holds the writer lock already; finish its transaction before it begins another one")]
    Deadlock,
    /// The attachment was made before this process was forked.
    #[error("the arena was opened before this process was forked; open it again in the child")]
    Forked,
    /// The thread holds as many locks as it can.
    #[error("this thread holds {max} writer locks already, the most it can; finish a transaction first", max = thread::MOST_HELD)]
    TooManyHeld,
    /// The system cannot keep the promises of the lock.
    #[error("writer locks do not work here: {0}")]
    Unsupported(&'static str),
}

impl LockError {
    /// This thread, by the name that it goes by, has the lock already.
    #[cold]
    fn held_already(me: Owner) -> Self {
        if process::thread_id() == me.tid() {
            Self::Deadlock
        } else {
            Self::Unsupported(
                "this thread shares the thread-local state of another: it was made by a raw clone, or by vfork",
            )
        }
    }
}

impl WriterLock {
    /// The words that decide something, for the models.
    #[cfg(all(loom, test))]
    pub(crate) fn words(&self) -> (&Word64, &Word64) {
        (&self.word, &self.starving)
    }

    /// How many owners died inside so far.
    pub(crate) fn takeovers(&self) -> u64 {
        self.takeovers.load(Ordering::Relaxed)
    }

    /// Marks the lock as a dead owner's if it names that participant slot. For a slot whose user is proved dead.
    pub(crate) fn abandon(&self, slot: u32) {
        if word::mark_dead(&self.word, |owner| owner.slot() == slot).is_some_and(LockState::has_waiters) {
            self.word.wake(1, ANY);
        }
    }

    /// Whether a waiter is to be let in before anybody else. Relaxed: a late answer only costs that waiter time.
    #[inline(always)]
    fn somebody_starves(&self) -> bool {
        self.starving.load(Ordering::Relaxed) != 0
    }

    #[cold]
    fn wake_one(&self) {
        if planted(Fault::UnlockQuietly) {
            return;
        }
        // Pairs with `Contender::rename_next`.
        Word64::fence(Ordering::SeqCst);
        if !self.somebody_starves() || self.word.wake(1, NEXT) == 0 {
            self.word.wake(1, REST);
        }
    }
}

impl Attachment {
    /// Takes the lock, waiting until the deadline if another thread has it. [`Deadline::at_once`] only tries.
    #[cfg(test)]
    pub(crate) fn lock<'a>(
        &'a self,
        lock: &'a WriterLock,
        deadline: Deadline,
    ) -> Result<LockGuard<'a>, Box<LockError>> {
        let taken = match self.take_at_hand(lock) {
            Some(taken) => taken,
            None => self.take(lock, deadline)?,
        };
        Ok(LockGuard::new(self, lock, taken))
    }

    /// Takes the lock if it is free, in the ordinary case: this thread holds nothing, and had a lock of the attachment
    /// before, by which [`Attachment::take`] gave it a name.
    #[inline(always)]
    pub(crate) fn take_at_hand(&self, lock: &WriterLock) -> Option<Taken> {
        thread::with(|thread| {
            let me = thread.name(self.key())?;
            let place = thread.first_place()?;
            if lock.somebody_starves() {
                return None;
            }
            thread.arm(lock);
            word::try_acquire(&lock.word, LockState::FREE, me, false).ok()?;
            place.fill(lock, me, self.gate());
            Some(Taken {
                owner: me,
                took_over: 0,
            })
        })
    }

    /// Takes the lock, waiting until the deadline if another thread has it.
    ///
    /// The guard is made by the caller, and the error boxed: what travels by value through a result that a cold callee fills
    /// too is written by words and read by wider loads, which stalls.
    #[cold]
    #[inline(never)]
    pub(crate) fn take(&self, lock: &WriterLock, deadline: Deadline) -> Result<Taken, Box<LockError>> {
        thread::with(|thread| {
            let me = self.name_of(thread)?;
            thread.drop_unmapped();
            let result = if thread.holds(lock) {
                Err(LockError::held_already(me))
            } else if !thread.has_room() {
                Err(LockError::TooManyHeld)
            } else {
                Contender::new(self, thread, lock, me, deadline).run()
            };
            match result {
                Ok(dead) => {
                    thread.push(lock, me, self.gate());
                    Ok(Taken {
                        owner: me,
                        took_over: dead.map_or(0, LockState::as_dead),
                    })
                }
                Err(error) => {
                    thread.arm_held();
                    Err(Box::new(error))
                }
            }
        })
    }

    fn name_of(&self, thread: &Thread) -> Result<Owner, LockError> {
        if self.epoch() != fork::epoch() {
            return Err(LockError::Forked);
        }
        match thread.start(self.epoch()) {
            Ok(true) => {}
            Ok(false) => return Err(LockError::Unsupported("this thread has no robust futex list")),
            Err(_) => {
                return Err(LockError::Unsupported(
                    "the kernel does not show this thread's robust futex list",
                ));
            }
        }
        let name = thread.name(self.key());
        Ok(name.unwrap_or_else(|| thread.take_name(self.key(), self.slot(), || self.next_nonce())))
    }

    /// Pid and TID of an owner that died inside. The kernel erases the TID; and if the slot has another user by now, who
    /// swept it, the pid is that one's, and so is not told.
    fn dead_owner(&self, seen: LockState) -> (u32, u32) {
        let (slot, tid) = (seen.owner().slot(), seen.tid());
        let is_its = tid != 0 || self.slot_user_is_dead(slot);
        (if is_its { self.last_pid_of(slot) } else { 0 }, tid)
    }

    /// The lock as it is: slot and TID of its owner, if it has one, or had one that died; whether it did; whether somebody
    /// may sleep.
    pub(crate) fn look_at(&self, lock: &WriterLock) -> (Option<(u32, u32)>, bool, bool) {
        let seen = LockState::read(&lock.word);
        let owner = (seen != LockState::FREE).then(|| (seen.owner().slot(), seen.tid()));
        (owner, seen.owner_died(), seen.has_waiters())
    }

    /// Pid and TID of the lock's owner, if it has one.
    pub(crate) fn holder(&self, lock: &WriterLock) -> Option<(u32, u32)> {
        let seen = LockState::read(&lock.word);
        (!seen.is_free()).then(|| (self.pid_of(seen.owner().slot()), seen.owner().tid()))
    }
}

/// A lock that was taken.
#[derive(Clone, Copy)]
pub(crate) struct Taken {
    /// By whom.
    owner: Owner,
    /// Not 0: the last owner died inside, and what it left behind may need repair. Then it is the word as that owner left
    /// it, see [`LockState::as_dead`]. A whole word: a byte with padding is moved by a load that stalls on the stores before.
    took_over: u64,
}

/// Owns a lock until it is dropped, on the thread that took it.
#[must_use = "the lock is released when the guard is dropped"]
pub(crate) struct LockGuard<'a> {
    taken: Taken,
    lock: &'a WriterLock,
    attachment: &'a Attachment,
    /// The kernel's mark belongs to the thread that took the lock.
    not_send: PhantomData<*const ()>,
}

impl LockGuard<'_> {
    /// Whether the last owner died inside: what it left behind may need repair.
    #[inline(always)]
    pub(crate) fn took_over(&self) -> bool {
        self.taken.took_over != 0
    }

    /// Pid and TID of the last owner, if it died inside; 0 for what is not known of it.
    #[inline(always)]
    pub(crate) fn dead_owner(&self) -> Option<(u32, u32)> {
        LockState::of_dead(self.taken.took_over).map(|seen| self.attachment.dead_owner(seen))
    }

    /// Names the lock to the kernel again. To be called after foreign code ran inside: a robust or
    /// priority-inheriting mutex of the C library erases the name.
    #[inline]
    pub(crate) fn rearm(&self) {
        if self.attachment.epoch() == fork::epoch() {
            thread::with(|thread| thread.arm(self.lock));
        }
    }

    /// Whether this thread still owns the lock. Not after a fork, and not while the thread ends: its destructor gives up
    /// what it holds, and may run before that of a thread-local that keeps a guard.
    #[inline]
    pub(crate) fn is_held(&self) -> bool {
        self.attachment.epoch() == fork::epoch() && LockState::read(&self.lock.word).owner() == self.taken.owner
    }

    /// Releases the lock now.
    #[inline(always)]
    pub(crate) fn unlock(self) {
        let Self {
            attachment,
            lock,
            taken,
            ..
        } = *std::mem::ManuallyDrop::new(self);
        release(attachment, lock, taken.owner);
    }

    /// Releases the lock, where no code of others but the allocator has run on this thread since it was taken: so the
    /// kernel's mark is still there, and this is no forked child. (An allocator that locks a priority-inheriting mutex would
    /// erase the mark, for the instant that is left until the unlock.)
    #[inline(always)]
    pub(crate) fn unlock_undisturbed(self) {
        let Self { lock, taken, .. } = *std::mem::ManuallyDrop::new(self);
        thread::with(|thread| release_marked(thread, lock, taken.owner));
    }

    /// Goes on without the guard, for [`LockGuard::of_owner`]: who was the owner before is no longer known.
    #[inline(always)]
    pub(crate) fn into_owner(self) -> Owner {
        std::mem::ManuallyDrop::new(self).taken.owner
    }
}

impl<'a> LockGuard<'a> {
    /// The guard of a lock that this thread has taken.
    #[inline(always)]
    pub(crate) fn new(attachment: &'a Attachment, lock: &'a WriterLock, taken: Taken) -> Self {
        Self {
            taken,
            lock,
            attachment,
            not_send: PhantomData,
        }
    }

    /// The guard that [`LockGuard::into_owner`] took apart, on the same thread.
    pub(crate) fn of_owner(attachment: &'a Attachment, lock: &'a WriterLock, owner: Owner) -> Self {
        Self::new(attachment, lock, Taken { owner, took_over: 0 })
    }
}

impl Drop for LockGuard<'_> {
    /// Where it ends without [`LockGuard::unlock`]. A call that takes the fields, so that the guard itself, whose drop is on
    /// the way of every error, needs no place in memory.
    #[inline(always)]
    fn drop(&mut self) {
        release_rarely(self.attachment, self.lock, self.taken.owner);
    }
}

#[cold]
#[inline(never)]
fn release_rarely(attachment: &Attachment, lock: &WriterLock, owner: Owner) {
    release(attachment, lock, owner);
}

#[inline(always)]
fn release(attachment: &Attachment, lock: &WriterLock, owner: Owner) {
    // A forked child has a copy of the guard, and the parent still owns the lock.
    if attachment.epoch() != fork::epoch() {
        return;
    }
    thread::with(|thread| {
        // A foreign mutex may have erased the name, or it is that of a lock taken later.
        thread.arm(lock);
        release_marked(thread, lock, owner);
    });
}

#[inline(always)]
fn release_marked(thread: &Thread, lock: &WriterLock, owner: Owner) {
    if word::release(&lock.word, owner) == Released::WithWaiters {
        lock.wake_one();
    }
    // Only after the wake: if this thread dies between the two, the kernel wakes a sleeper of a free word.
    thread.pop(lock);
}
