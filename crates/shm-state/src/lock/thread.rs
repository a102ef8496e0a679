//! What a thread remembers about the locks it holds, and what happens to them when it ends.
//!
//! The state is a constant-initialised thread local of plain cells, so that the fast path costs no registration
//! check and no allocation. It is valid for one fork epoch: a forked child starts with an empty one.

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::WriterLock;
use super::gate::Gate;
use super::word::{self, Owner};
use crate::sync::{ANY, Word};
use crate::sys::robust::{Pending, Robust};
use crate::sys::{fork, process};

/// How many locks a thread may hold at once.
pub(crate) const MOST_HELD: usize = 8;
/// How many attachments a thread remembers its name in. More than that work, with a new nonce at each return.
const REMEMBERED: usize = 8;

#[derive(Clone, Copy)]
struct Held {
    lock: *const WriterLock,
    owner: u64,
    gate: Option<Gate>,
}

const NOTHING: Held = Held {
    lock: ptr::null(),
    owner: 0,
    gate: None,
};

/// The state of one thread.
pub(super) struct Thread {
    /// The fork epoch that the rest belongs to; 0 before the thread's first lock.
    epoch: Cell<u64>,
    robust: Cell<Option<Robust>>,
    /// By attachment key modulo [`REMEMBERED`]: the key, and this thread's name as an owner there.
    names: [Cell<(u64, u64)>; REMEMBERED],
    depth: Cell<usize>,
    held: [Cell<Held>; MOST_HELD],
    /// What was armed before the fork under way.
    in_fork: Cell<Pending>,
}

thread_local! {
    static THREAD: Thread = const { Thread::new() };
    /// Has a destructor; the state itself has none, so that it can be used from other destructors.
    static EXIT: Exit = const { Exit };
}

struct Exit;

impl Drop for Exit {
    fn drop(&mut self) {
        with(Thread::abandon_all);
    }
}

/// Runs `f` on the calling thread's state.
#[inline(always)]
pub(super) fn with<R>(f: impl FnOnce(&Thread) -> R) -> R {
    #[cfg(all(loom, test))]
    if let Some(thread) = crate::models::system::thread_index() {
        return MODELLED.with(|threads| f(&threads[thread]));
    }
    // Only the address is taken inside `LocalKey::with`, which is not always inlined with a large closure.
    let thread = THREAD.with(ptr::from_ref);
    // SAFETY: the state has no destructor, so it lives as long as the thread, which is running `f`; it is not Sync,
    // and `f` cannot keep the reference.
    f(unsafe { &*thread })
}

/// Has forked children start with an empty state. To be called before the first lock.
///
/// Threads that come here together may register the handlers twice, which does no harm: a `Once` would be inherited by a
/// child that is forked meanwhile, where nobody would ever complete it.
///
/// The thread that forks is not armed meanwhile. The C library registers the robust list of the child before it calls
/// any handler there, and the child might die before ours: as process of another PID namespace, under the TID of its
/// parent, whose lock the kernel would then mark.
pub(crate) fn forget_in_children() -> io::Result<()> {
    extern "C" fn disarm() {
        with(|thread| {
            // Empty the second time, if the handlers were registered twice.
            if let Some(pending) = thread.robust.get().map(Robust::take)
                && pending != Pending::NONE
            {
                thread.in_fork.set(pending);
            }
        });
    }
    extern "C" fn rearm() {
        with(|thread| {
            let pending = thread.in_fork.take();
            if let Some(robust) = thread.robust.get()
                && pending != Pending::NONE
            {
                robust.restore(pending);
            }
        });
    }
    extern "C" fn forget() {
        with(Thread::forget);
    }
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    // Relaxed: nothing is published by it.
    if !REGISTERED.load(Ordering::Relaxed) {
        fork::around(Some(disarm), Some(rearm), forget)?;
        REGISTERED.store(true, Ordering::Relaxed);
    }
    Ok(())
}

/// The states of the threads of a model, which share one system thread. New ones for each execution.
#[cfg(all(loom, test))]
pub(crate) fn renew_modelled() {
    MODELLED.with(|threads| threads.iter().for_each(Thread::forget));
}

#[cfg(all(loom, test))]
thread_local! {
    static MODELLED: [Thread; crate::models::THREADS] = const { [const { Thread::new() }; crate::models::THREADS] };
}

/// Room for the first lock that a thread holds: the bounds are checked by then.
pub(super) struct FirstPlace<'t>(&'t Thread);

impl FirstPlace<'_> {
    /// Takes note of a lock that was taken.
    #[inline(always)]
    pub(super) fn fill(self, lock: &WriterLock, owner: Owner, gate: Gate) {
        self.0.held[0].set(Held {
            lock,
            owner: owner.raw(),
            gate: Some(gate),
        });
        self.0.depth.set(1);
    }
}

impl Thread {
    const fn new() -> Self {
        Self {
            epoch: Cell::new(0),
            robust: Cell::new(None),
            names: [const { Cell::new((0, 0)) }; REMEMBERED],
            depth: Cell::new(0),
            held: [const { Cell::new(NOTHING) }; MOST_HELD],
            in_fork: Cell::new(Pending::NONE),
        }
    }

    /// This thread's name in the attachment, if it has one and is not a forked copy.
    #[inline(always)]
    pub(super) fn name(&self, attachment: u64) -> Option<Owner> {
        let (key, name) = self.names[attachment as usize % REMEMBERED].get();
        (key == attachment && self.epoch.get() == fork::epoch()).then(|| Owner::from_raw(name))
    }

    /// Gives this thread a name in the attachment. `next_nonce` is asked for a number that no thread of the slot had.
    pub(super) fn take_name(&self, attachment: u64, slot: u32, next_nonce: impl FnOnce() -> u64) -> Owner {
        let name = Owner::new(process::tid(), slot, next_nonce());
        self.names[attachment as usize % REMEMBERED].set((attachment, name.raw()));
        name
    }

    /// Prepares the thread for its first lock in this epoch. `Ok(false)`: its C library registers no robust list.
    pub(super) fn start(&self, epoch: u64) -> io::Result<bool> {
        if self.epoch.get() == epoch {
            return Ok(true);
        }
        self.forget();
        let Some(robust) = Robust::of_this_thread()? else {
            return Ok(false);
        };
        // In a destructor of another thread local the registration may fail: then the kernel's mark is enough.
        let _ = EXIT.try_with(|_| ());
        self.robust.set(Some(robust));
        self.epoch.set(epoch);
        Ok(true)
    }

    fn forget(&self) {
        if let Some(robust) = self.robust.take() {
            robust.clear();
        }
        self.epoch.set(0);
        self.depth.set(0);
        self.in_fork.set(Pending::NONE);
        for name in &self.names {
            name.set((0, 0));
        }
    }

    /// Names `lock` to the kernel: if this thread dies now, it marks the lock (or wakes a sleeper of a free one).
    #[inline(always)]
    pub(super) fn arm(&self, lock: &WriterLock) {
        if let Some(robust) = self.robust.get() {
            robust.arm(lock.word.futex());
        }
    }

    /// Names the lock taken last to the kernel, or none.
    pub(super) fn arm_held(&self) {
        let Some(robust) = self.robust.get() else { return };
        match self.depth.get().checked_sub(1).and_then(|top| self.held.get(top)) {
            None => robust.clear(),
            Some(top) => {
                // SAFETY: only the address of the word is computed, the lock is not accessed: it may be unmapped
                // if its guard was forgotten, which the kernel tolerates.
                let word = unsafe { &raw const (*top.get().lock).word };
                robust.arm(word.cast());
            }
        }
    }

    #[inline(always)]
    pub(super) fn has_room(&self) -> bool {
        self.depth.get() < MOST_HELD
    }

    /// Whether the thread holds nothing, and how it takes note of its first lock.
    #[inline(always)]
    pub(super) fn first_place(&self) -> Option<FirstPlace<'_>> {
        (self.depth.get() == 0).then_some(FirstPlace(self))
    }

    #[inline(always)]
    pub(super) fn holds_any(&self) -> bool {
        self.depth.get() != 0
    }

    /// Whether this thread holds the lock, or one under the same name (the same lock through another mapping).
    pub(super) fn holds(&self, lock: &WriterLock) -> bool {
        self.all_held().any(|held| ptr::eq(held.lock, lock))
    }

    pub(super) fn holds_as(&self, owner: Owner) -> bool {
        self.all_held().any(|held| held.owner == owner.raw())
    }

    fn all_held(&self) -> impl Iterator<Item = Held> {
        self.held[..self.depth.get().min(MOST_HELD)].iter().map(Cell::get)
    }

    pub(super) fn push(&self, lock: &WriterLock, owner: Owner, gate: Gate) {
        let depth = self.depth.get();
        if let Some(place) = self.held.get(depth) {
            place.set(Held {
                lock,
                owner: owner.raw(),
                gate: Some(gate),
            });
            self.depth.set(depth + 1);
        }
    }

    /// Forgets a lock that was released, and names the one still held to the kernel.
    #[inline(always)]
    pub(super) fn pop(&self, lock: &WriterLock) {
        if self.depth.get() == 1 && ptr::eq(self.held[0].get().lock, lock) {
            self.depth.set(0);
            if let Some(robust) = self.robust.get() {
                robust.clear();
            }
            return;
        }
        self.pop_one_of_many(lock);
    }

    #[cold]
    fn pop_one_of_many(&self, lock: &WriterLock) {
        self.keep(|held| !ptr::eq(held.lock, lock));
        self.arm_held();
    }

    /// Forgets locks whose attachment has gone (their guards were forgotten).
    pub(super) fn drop_unmapped(&self) {
        self.keep(|held| held.gate.is_some_and(|gate| !gate.is_closed()));
    }

    #[cold]
    fn keep(&self, mut wanted: impl FnMut(&Held) -> bool) {
        let mut kept = 0;
        for index in 0..self.depth.get().min(MOST_HELD) {
            let held = self.held[index].get();
            if wanted(&held) {
                self.held[kept].set(held);
                kept += 1;
            }
        }
        self.depth.set(kept);
    }

    /// The thread ends: does for every lock that it still holds what the kernel does for one of them.
    fn abandon_all(&self) {
        if self.epoch.get() != fork::epoch() {
            return;
        }
        for held in self.all_held() {
            let Some(gate) = held.gate else { continue };
            gate.pass(|| {
                // SAFETY: `push` got the lock by reference through an attachment, and its memory stays mapped at
                // least until that attachment has closed the gate, which waits for us. Other processes may die or
                // write it meanwhile: it is all atomics.
                let lock = unsafe { &*held.lock };
                self.arm(lock);
                if word::mark_dead(&lock.word, |owner| owner.raw() == held.owner).is_some() {
                    lock.word.wake(1, ANY);
                }
            });
        }
        self.forget();
    }

    /// Forgets what it holds, as if it were interrupted before it noted that.
    #[cfg(test)]
    pub(super) fn lose_records(&self) {
        self.depth.set(0);
    }

    /// Erases the mark that the kernel would act on, as a robust mutex of the C library does.
    #[cfg(test)]
    pub(super) fn lose_mark(&self) {
        if let Some(robust) = self.robust.get() {
            robust.clear();
        }
    }
}
