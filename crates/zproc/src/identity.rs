//! A watcher identity: a namespace opened under a name that its updates are signed with, and how far it has watched.
//!
//! Every call of a [`State`](crate::State) comes through [`Identity::ready`], which refuses a closed state and one that
//! a fork has made unusable; every write through [`Identity::begin`], which refuses to nest. Threads that share an
//! identity share its cursor, which only moves forward: `watch` says how they divide the updates between them.

use std::cell::Cell;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use shm_state::{Deadline, Namespace, Strategy};

use crate::error::{Error, Result};
use crate::watch::Looked;

thread_local! {
    /// This thread runs a closure that was passed to `atomic`.
    static IN_ATOMIC: Cell<bool> = const { Cell::new(false) };
}

/// How calls of an identity wait.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Patience {
    pub(crate) strategy: Strategy,
    pub(crate) lock_timeout: Option<Duration>,
}

pub(crate) struct Identity {
    /// None in a clone that was made after a fork, which cannot be used.
    namespace: Option<Namespace>,
    closed: AtomicBool,
    /// The last update that was consumed.
    cursor: AtomicU64,
    pub(crate) patience: Patience,
    /// What the last watcher that timed out had looked at.
    pub(crate) looked: Mutex<Option<Looked>>,
}

impl Identity {
    /// An identity whose cursor is at `since`, or now.
    pub(crate) fn new(namespace: Option<Namespace>, since: Option<u64>, patience: Patience) -> Self {
        let now = || namespace.as_ref().map_or(0, Namespace::seq);
        let cursor = AtomicU64::new(since.unwrap_or_else(now));
        Self { namespace, closed: AtomicBool::new(false), cursor, patience, looked: Mutex::default() }
    }

    /// Another identity, whose cursor is now. Unusable if this one is.
    pub(crate) fn fork(&self) -> Self {
        let namespace = self.namespace.as_ref().and_then(|namespace| namespace.fork().ok());
        Self::new(namespace, None, self.patience)
    }

    /// The namespace, if it can be used.
    #[inline(always)]
    pub(crate) fn ready(&self) -> Result<&Namespace> {
        match &self.namespace {
            // Relaxed: a call that runs while the state is closed may be on either side of it.
            Some(namespace) if !self.closed.load(Ordering::Relaxed) => {
                namespace.check_fork()?;
                Ok(namespace)
            }
            _ => Err(self.unusable()),
        }
    }

    #[cold]
    fn unusable(&self) -> Error {
        match self.namespace {
            Some(_) => Error::Closed,
            None => Error::Forked,
        }
    }

    /// Begins a transaction.
    #[inline]
    pub(crate) fn begin(&self) -> Result<shm_state::Transaction<'_>> {
        let namespace = self.ready()?;
        check_not_in_atomic()?;
        let deadline = self.patience.lock_timeout.map_or(Deadline::never(), Deadline::after);
        Ok(namespace.begin(deadline)?)
    }

    /// Makes one commit of what `f` does.
    #[inline]
    pub(crate) fn write<R>(&self, f: impl FnOnce(&mut shm_state::Transaction<'_>) -> Result<R>) -> Result<R> {
        let mut transaction = self.begin()?;
        let result = f(&mut transaction)?;
        transaction.commit()?;
        Ok(result)
    }

    /// Ends every wait of this identity, and all use of it.
    pub(crate) fn close(&self) {
        // SeqCst: before the look at who sleeps. A sleeper announces itself and then looks at the flag.
        self.closed.store(true, Ordering::SeqCst);
        if let Some(namespace) = &self.namespace
            && namespace.check_fork().is_ok()
        {
            namespace.wake_all();
        }
    }

    /// What tells a wait to end.
    pub(crate) fn closed(&self) -> &AtomicBool {
        &self.closed
    }

    /// The last update that was consumed. Relaxed, as everywhere: nothing is published through it.
    pub(crate) fn cursor(&self) -> u64 {
        self.cursor.load(Ordering::Relaxed)
    }

    /// Moves the cursor, unless another thread has moved it: then where it stands now.
    pub(crate) fn move_cursor(&self, from: u64, to: u64) -> Result<(), u64> {
        self.cursor.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).map(drop)
    }

    /// Moves the cursor to `to` at least.
    pub(crate) fn raise_cursor(&self, to: u64) {
        self.cursor.fetch_max(to, Ordering::Relaxed);
    }
}

/// Fails inside of a closure that was passed to `atomic`.
#[inline]
pub(crate) fn check_not_in_atomic() -> Result<()> {
    if IN_ATOMIC.get() { Err(Error::NestedAtomic) } else { Ok(()) }
}

/// While it lives, this thread is inside of `atomic`.
pub(crate) struct InAtomic(());

impl InAtomic {
    /// Call after the transaction was begun, which fails inside of another.
    pub(crate) fn enter() -> Self {
        IN_ATOMIC.set(true);
        Self(())
    }
}

impl Drop for InAtomic {
    fn drop(&mut self) {
        IN_ATOMIC.set(false);
    }
}
