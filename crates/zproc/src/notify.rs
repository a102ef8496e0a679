//! Telling eventfds and tasks that a watcher has something to return.
//!
//! **One thread** of the process does it for all of them. It sleeps on the events of everything that somebody wants to
//! be told of; when one moves, it looks into the log, and tells those for whom there is something: it writes to their
//! eventfd or wakes their task. It consumes nothing and keeps no namespace open while it sleeps. It starts with the
//! first registration and ends with the last.
//!
//! **A registration** ([`Registered`]) is told once, and then no more until it *wants* to be again
//! ([`Registered::want`]): who has something to read already costs writers nothing. One without a lookout is told by
//! its canceller, at its deadline, and by whoever has its [`Alarm`].
//!
//! **Ordering.** Who wants to be told says up to which update it has looked. The thread arms the events first and then
//! looks at everything behind that (`shm_state`, `sleep`), so what comes between the look of the one and the sleep of
//! the other is found. It learns of a new wish by its *bell*, a word on which it sleeps too.
//!
//! **Bounds.** The kernel watches 128 words at once. Namespaces share them fairly; one with more keys than its share is
//! watched through the word for any change, so that each of its commits wakes the thread. A namespace, and a canceller,
//! takes one word at least: when these run out, a further thread starts (`shard`).
//!
//! **Forks.** A child has none of the threads, and makes its own when it needs one. What it inherited of its parent's
//! it leaves alone: the locks may be held by a thread that it does not have. They are those of the standard library,
//! which keep nothing outside of themselves.

mod round;
mod shard;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use nix::sys::eventfd::EventFd;
use shm_state::{Deadline, Namespace, PerProcess, WeakNamespace};

use crate::canceller::Canceller;
use crate::error::Result;
use crate::os;
use shard::Shard;

static NOTIFIER: PerProcess<Notifier> = PerProcess::new();

/// The threads of this process.
#[derive(Default)]
pub(crate) struct Notifier {
    shards: Mutex<Vec<Arc<Shard>>>,
}

/// One who looks ahead for a watcher.
pub(crate) trait Lookout: Send + Sync {
    /// Of which namespace.
    fn namespace(&self) -> &WeakNamespace;
    /// The hashes of the keys that it is about; `None` for all.
    fn hashes(&self) -> Option<&[u64]>;
    /// Whether the watcher would return at once, with an update after `at` up to `until`, or with an error. If not,
    /// `at` moves to `until`.
    fn look(&self, namespace: &Namespace, at: &mut u64, until: u64) -> bool;
    /// Whether the watcher's state was closed.
    fn is_closed(&self) -> bool;
    /// None of the updates after `at`, up to `to`, concerns it.
    fn passed(&self, at: &mut u64, to: u64);
}

/// One who can be told.
struct Registration {
    lookout: Option<Box<dyn Lookout>>,
    canceller: Option<Canceller>,
    wish: Mutex<Wish>,
    /// The wish is one that the thread has not seen.
    is_fresh: AtomicBool,
    /// The wish has a deadline.
    is_timed: AtomicBool,
}

struct Wish {
    /// Whether it wants to be told.
    is_there: bool,
    at: u64,
    deadline: Deadline,
    /// What the canceller's word held when the wait began.
    cancel_seen: u32,
    teller: Teller,
}

/// How it is told.
pub(crate) enum Teller {
    /// By making this readable.
    Fd(Arc<EventFd>),
    /// By waking the task that asked last.
    #[cfg_attr(not(feature = "tokio"), expect(dead_code, reason = "only streams are awaited"))]
    Task(Option<Waker>),
    /// No more.
    Gone,
}

/// A way to tell one who is registered from another thread than the one here. It tells nobody any more when the
/// registration is dropped.
pub(crate) struct Alarm(Arc<Registration>);

impl Alarm {
    /// Tells it, if it wants to be told. The waker of a task is returned: to be called without a lock, since it may run
    /// what it likes.
    #[must_use]
    pub(crate) fn ring(&self) -> Option<Waker> {
        self.0.tell(&mut lock(&self.0.wish))
    }
}

/// A registration. Nobody is told any more when it is dropped.
pub(crate) struct Registered {
    registration: Arc<Registration>,
    shard: Arc<Shard>,
    home: &'static Notifier,
}

/// Registers one who can be told when there is something for `lookout`, when `canceller` says so, or at a deadline.
pub(crate) fn register(
    lookout: Option<Box<dyn Lookout>>,
    canceller: Option<Canceller>,
    teller: Teller,
) -> Result<Registered> {
    let home = NOTIFIER
        .get()
        .map_err(|error| os::failed("mapping the page that notices a fork", error))?;
    let wish = Wish {
        is_there: false,
        at: 0,
        deadline: Deadline::never(),
        cancel_seen: 0,
        teller,
    };
    let registration = Arc::new(Registration {
        lookout,
        canceller,
        wish: Mutex::new(wish),
        is_fresh: AtomicBool::new(false),
        is_timed: AtomicBool::new(false),
    });
    let mut shards = lock(&home.shards);
    let mut shard = None;
    for candidate in shards.iter() {
        if candidate.add(&registration)? {
            shard = Some(Arc::clone(candidate));
            break;
        }
    }
    let shard = match shard {
        Some(shard) => shard,
        None => {
            let new = Arc::new(Shard::default());
            new.add(&registration)?;
            shards.push(Arc::clone(&new));
            new
        }
    };
    Ok(Registered {
        registration,
        shard,
        home,
    })
}

impl Registered {
    /// Wants to be told of what comes after the update `at`, and when the deadline passes. `cancel_seen` is what the
    /// canceller's word held when the wait began. For a task, `waker` wakes it.
    pub(crate) fn want(&self, at: u64, deadline: Deadline, cancel_seen: u32, waker: Option<&Waker>) {
        let mut waker = waker.cloned();
        {
            let mut wish = lock(&self.registration.wish);
            if let Teller::Task(told) = &mut wish.teller {
                std::mem::swap(told, &mut waker);
            }
            wish.is_there = true;
            (wish.at, wish.deadline, wish.cancel_seen) = (at, deadline, cancel_seen);
            // Relaxed: in front of the ring, which leads the thread to it.
            let is_timed = deadline != Deadline::never();
            self.registration.is_timed.store(is_timed, Ordering::Relaxed);
        }
        // The old one, outside of the lock: it may run what it likes when it is dropped.
        drop(waker);
        if self.registration.is_told_by_others_only() {
            return;
        }
        // Release pairs with the Acquire of whoever takes it: the wish is there.
        self.registration.is_fresh.store(true, Ordering::Release);
        self.shard.ring();
    }

    /// Wants not to be told any more. Returns up to which update it was looked for nothing.
    pub(crate) fn rest(&self) -> u64 {
        let mut wish = lock(&self.registration.wish);
        wish.is_there = false;
        wish.at
    }

    /// Whether this process made it, and did not inherit it.
    pub(crate) fn is_current(&self) -> bool {
        NOTIFIER.is_current(self.home)
    }

    /// A way to tell it from elsewhere.
    pub(crate) fn alarm(&self) -> Alarm {
        Alarm(Arc::clone(&self.registration))
    }

    /// The one who looks ahead.
    pub(crate) fn lookout(&self) -> Option<&dyn Lookout> {
        self.registration.lookout.as_deref()
    }
}

impl Registration {
    /// Whether the thread has nothing to look at.
    fn is_told_by_others_only(&self) -> bool {
        // Relaxed: see the store.
        self.lookout.is_none() && self.canceller.is_none() && !self.is_timed.load(Ordering::Relaxed)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if !self.is_current() {
            return;
        }
        // Whoever is told meanwhile is told before this returns.
        let teller = {
            let mut wish = lock(&self.registration.wish);
            wish.is_there = false;
            std::mem::replace(&mut wish.teller, Teller::Gone)
        };
        // Outside of the lock, as above.
        drop(teller);
        self.shard.remove(&self.registration);
    }
}

/// Wakes a task. An executor that panics is not to take the others' news with it; it has told about the panic.
pub(crate) fn wake(waker: Waker) {
    let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
}

/// What a panic may have left behind is a list or a wish, which are whole at each step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
