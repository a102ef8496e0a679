//! The way to a namespace, and who may go it.
//!
//! Every call of a [`State`](crate::State) comes through [`Access::ready`], which refuses a closed state and one that a
//! fork has made unusable. Every write also comes past [`check_not_in_atomic`]: a writer that holds the lock of one
//! namespace and waits for another could wait for ever.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shm_state::{Deadline, EntryRef, KeyRef, Namespace, Strategy};

use crate::error::{Error, Result};
use crate::snapshot::Snapshot;

thread_local! {
    /// This thread runs a closure that was passed to `atomic`.
    static IN_ATOMIC: Cell<bool> = const { Cell::new(false) };
}

/// How calls wait.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Patience {
    pub(crate) strategy: Strategy,
    pub(crate) lock_timeout: Option<Duration>,
}

/// A namespace, opened under an identity that its updates are signed with.
pub(crate) struct Access {
    /// None in a clone that was made after a fork, which cannot be used.
    namespace: Option<Namespace>,
    closed: AtomicBool,
    pub(crate) patience: Patience,
}

impl Access {
    pub(crate) fn new(namespace: Namespace, patience: Patience) -> Self {
        Self {
            namespace: Some(namespace),
            closed: AtomicBool::new(false),
            patience,
        }
    }

    /// The same under another identity. Unusable if this one is.
    pub(crate) fn fork(&self) -> Self {
        let namespace = self.namespace.as_ref().and_then(|namespace| namespace.fork().ok());
        Self {
            namespace,
            closed: AtomicBool::new(false),
            patience: self.patience,
        }
    }

    /// The namespace, if it can be used.
    #[inline(always)]
    pub(crate) fn ready(&self) -> Result<&Namespace> {
        let namespace = self.open()?;
        if namespace.check_fork().is_err() {
            return Err(self.unusable());
        }
        Ok(namespace)
    }

    /// The namespace, for calls that refuse a forked process themselves.
    #[inline(always)]
    fn open(&self) -> Result<&Namespace> {
        match &self.namespace {
            // Relaxed: a call that runs while the state is closed may be on either side of it.
            Some(namespace) if !self.closed.load(Ordering::Relaxed) => Ok(namespace),
            _ => Err(self.unusable()),
        }
    }

    #[cold]
    #[inline(never)]
    fn unusable(&self) -> Error {
        match &self.namespace {
            Some(namespace) if namespace.check_fork().is_ok() => Error::Closed,
            _ => Error::Forked,
        }
    }

    /// The newest state.
    #[inline(always)]
    pub(crate) fn snapshot(&self) -> Result<Snapshot<'_>> {
        Snapshot::newest(self.open()?)
    }

    /// Begins a transaction.
    #[inline]
    pub(crate) fn begin(&self) -> Result<shm_state::Transaction<'_>> {
        let namespace = self.open()?;
        check_not_in_atomic()?;
        Ok(namespace.begin(self.deadline())?)
    }

    /// Until when to wait for the writer lock.
    #[inline]
    fn deadline(&self) -> Deadline {
        self.patience.lock_timeout.map_or(Deadline::never(), Deadline::after)
    }

    /// Puts one value under a key, as one commit. `place` is where the key was found before.
    #[inline]
    pub(crate) fn put(&self, key: &KeyRef<'_>, place: Option<EntryRef>, tag: u16, bytes: &[u8]) -> Result<()> {
        let namespace = self.open()?;
        check_not_in_atomic()?;
        namespace.put(key, place, tag, bytes, self.deadline())?;
        Ok(())
    }

    /// Makes one commit of what `f` does.
    #[inline]
    pub(crate) fn write<R>(&self, f: impl FnOnce(&mut shm_state::Transaction<'_>) -> Result<R>) -> Result<R> {
        let mut transaction = self.begin()?;
        let result = f(&mut transaction)?;
        transaction.commit()?;
        Ok(result)
    }

    /// Ends every wait, and all use.
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
}

/// Whether this thread runs a closure that was passed to `atomic`.
#[inline]
pub(crate) fn is_in_atomic() -> bool {
    IN_ATOMIC.get()
}

/// Fails inside of a closure that was passed to `atomic`.
#[inline]
pub(crate) fn check_not_in_atomic() -> Result<()> {
    if is_in_atomic() {
        Err(Error::NestedAtomic)
    } else {
        Ok(())
    }
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
