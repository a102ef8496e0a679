//! The way to a namespace, and who may go it.
//!
//! Every call of a [`State`](crate::State) comes through [`Access::usable`], which refuses a closed state and one that a
//! fork has made unusable, or through [`Access::store`]. Every write also comes past [`check_not_in_atomic`]: a writer that
//! holds the lock of one namespace and waits for another could wait for ever.
//!
//! **Two transports.** A state that is used over a socket (`over_socket`) has no namespace, and so takes the paths of one
//! that cannot be used, which are cold; there, [`Access::remote`] tells the two apart. So the paths to mapped memory know
//! nothing of the other. Where speed is no matter, a [`Store`] is either of both.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use shm_state::{Deadline, EntryRef, KeyRef, Namespace, Strategy};

use crate::error::{Error, Result};
use crate::over_socket::{Committed, Overlay, Remote};
use crate::shared::Shared;
use crate::snapshot::Snapshot;
use crate::store::Store;

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

/// What a state that is used over a socket may do, besides reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rights {
    ReadOnly,
    Full,
}

/// A namespace, opened under an identity that its updates are signed with.
pub(crate) struct Access {
    /// None in a clone that was made after a fork, which cannot be used, and in a state that is used over a socket.
    namespace: Option<Namespace>,
    remote: Option<Arc<Remote>>,
    /// Of `remote`; of mapped memory the engine knows.
    rights: Rights,
    /// What `mark` holds while the namespace can be used: not after `close`, and not in a forked process.
    usable: AtomicU64,
    mark: &'static AtomicU64,
    pub(crate) patience: Patience,
    shared: Arc<Shared>,
}

/// The mark of what is not mapped.
static NO_MARK: AtomicU64 = AtomicU64::new(0);

/// What no mark ever holds.
const UNUSABLE: u64 = u64::MAX;

impl Access {
    pub(crate) fn new(namespace: Namespace, patience: Patience) -> Self {
        let (mark, value) = namespace.fork_mark();
        Self {
            usable: AtomicU64::new(value),
            mark,
            namespace: Some(namespace),
            remote: None,
            rights: Rights::Full,
            shared: Arc::default(),
            patience,
        }
    }

    /// That to a namespace behind a server. `connect` is given what the two share.
    pub(crate) fn over_socket(patience: Patience, rights: Rights, connect: impl FnOnce(Arc<Shared>) -> Remote) -> Self {
        let shared: Arc<Shared> = Arc::default();
        Self {
            usable: AtomicU64::new(UNUSABLE),
            mark: &NO_MARK,
            namespace: None,
            remote: Some(Arc::new(connect(Arc::clone(&shared)))),
            rights,
            shared,
            patience,
        }
    }

    /// The same under another identity. Unusable if this one is.
    pub(crate) fn fork(&self) -> Self {
        if let Some(remote) = &self.remote {
            return Self::over_socket(self.patience, self.rights, |shared| remote.fork(shared));
        }
        let namespace = self.namespace.as_ref().and_then(|namespace| namespace.fork().ok());
        let (mark, value) = namespace.as_ref().map_or((self.mark, UNUSABLE), Namespace::fork_mark);
        Self {
            usable: AtomicU64::new(value),
            mark,
            namespace,
            remote: None,
            rights: Rights::Full,
            shared: Arc::default(),
            patience: self.patience,
        }
    }

    /// What is used over a socket; the error of what is not and cannot be used.
    #[cold]
    #[inline(never)]
    pub(crate) fn remote(&self) -> Result<&Remote> {
        self.remote.as_deref().ok_or_else(|| self.unusable())
    }

    /// What is used over a socket, if it is.
    #[inline]
    pub(crate) fn if_remote(&self) -> Option<&Remote> {
        self.remote.as_deref()
    }

    /// The same for those who do not keep it; of mapped memory nothing.
    pub(crate) fn weak_remote(&self) -> Weak<Remote> {
        self.remote.as_ref().map(Arc::downgrade).unwrap_or_default()
    }

    /// Whichever it is.
    pub(crate) fn store(&self) -> Result<Store<'_>> {
        match self.usable() {
            Some(namespace) => Ok(Store::Mapped(namespace)),
            None => {
                let remote = self.remote()?;
                remote.check()?;
                Ok(Store::Remote(remote))
            }
        }
    }

    /// Whichever it is, for a call that takes the writer locks of all namespaces and repairs what it finds, which is not for
    /// those who only read. Of mapped memory the engine says so.
    pub(crate) fn store_for_locks(&self) -> Result<Store<'_>> {
        let store = self.store()?;
        match store {
            Store::Mapped(_) => check_not_in_atomic()?,
            Store::Remote(_) => self.check_writable()?,
        }
        Ok(store)
    }

    /// Whether its updates are dated by the precise clock.
    pub(crate) fn has_precise_time(&self) -> bool {
        match &self.remote {
            Some(remote) => remote.has_precise_time(),
            None => self.namespace.as_ref().is_some_and(Namespace::has_precise_time),
        }
    }

    /// The namespace, for calls that refuse a forked process themselves.
    #[inline(always)]
    fn opened(&self) -> Option<&Namespace> {
        match &self.namespace {
            // Relaxed: a call that runs while the state is closed may be on either side of it.
            Some(namespace) if self.usable.load(Ordering::Relaxed) != UNUSABLE => Some(namespace),
            _ => None,
        }
    }

    /// As [`Access::opened`], with the error.
    #[inline(always)]
    fn open(&self) -> Result<&Namespace> {
        self.opened().ok_or_else(|| self.unusable())
    }

    /// The namespace, if it can be used, in one comparison.
    #[inline(always)]
    pub(crate) fn usable(&self) -> Option<&Namespace> {
        // Relaxed: a call that runs while the state is closed may be on either side of it.
        let usable = self.usable.load(Ordering::Relaxed) == self.mark.load(Ordering::Relaxed);
        self.namespace.as_ref().filter(|_| usable)
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn unusable(&self) -> Error {
        match &self.namespace {
            Some(namespace) if namespace.check_fork().is_ok() => Error::Closed,
            Some(_) => Error::Forked,
            None => match &self.remote {
                Some(remote) => remote.check().err().unwrap_or(Error::NotMapped),
                None => Error::Forked,
            },
        }
    }

    /// The newest state.
    ///
    /// The slow way returns another type than this one, so that both can be told apart in registers: what is returned
    /// in memory by a call is copied from there by wide loads, which stall on the narrow stores before.
    #[inline(always)]
    pub(crate) fn snapshot(&self) -> Result<Snapshot<'_>> {
        if let Some(namespace) = self.opened()
            && let Some(pinned) = namespace.pin_at_hand()
        {
            return Ok(Snapshot::new(namespace, pinned));
        }
        self.snapshot_slowly().map_err(|error| *error)
    }

    #[cold]
    #[inline(never)]
    fn snapshot_slowly(&self) -> Result<Snapshot<'_>, Box<Error>> {
        self.store().and_then(Snapshot::newest_in).map_err(Box::new)
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

    /// Puts one value under a key, as one commit. `place` is where the key was found before. Always inlined, since a key
    /// that is passed on in memory costs a stall.
    #[inline(always)]
    pub(crate) fn put(&self, key: &KeyRef<'_>, place: Option<EntryRef>, tag: u16, bytes: &[u8]) -> Result<()> {
        let Some(namespace) = self.opened() else {
            return self.put_over_socket(*key, tag, bytes);
        };
        check_not_in_atomic()?;
        self.shared
            .note_own(namespace.put(key, place, tag, bytes, self.deadline())?);
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn put_over_socket(&self, key: KeyRef<'_>, tag: u16, bytes: &[u8]) -> Result<()> {
        let remote = self.remote()?;
        self.check_writable()?;
        let seq = remote.put(&key, tag, bytes, self.patience.lock_timeout)?;
        self.shared.note_own(seq);
        Ok(())
    }

    /// Whether a state that is used over a socket may be written to, here and now.
    pub(crate) fn check_writable(&self) -> Result<()> {
        check_not_in_atomic()?;
        match self.rights {
            Rights::Full => Ok(()),
            Rights::ReadOnly => Err(Error::ReadOnly),
        }
    }

    /// What a state that is used over a socket may do.
    pub(crate) fn rights(&self) -> Rights {
        self.rights
    }

    /// Commits a transaction over the socket; whether it was made, and there was no conflict.
    pub(crate) fn commit_over_socket(&self, overlay: Overlay<'_>) -> Result<bool> {
        Ok(match overlay.commit(self.patience.lock_timeout)? {
            Committed::Made(Some(seq)) => {
                self.shared.note_own(seq);
                true
            }
            Committed::Made(None) => true,
            Committed::Conflict => false,
        })
    }

    /// Makes one commit of what `f` does.
    #[inline]
    pub(crate) fn write<R>(&self, f: impl FnOnce(&mut shm_state::Transaction<'_>) -> Result<R>) -> Result<R> {
        let mut transaction = self.begin()?;
        let result = f(&mut transaction)?;
        self.commit(transaction)?;
        Ok(result)
    }

    /// Makes one commit of a transaction.
    #[inline]
    pub(crate) fn commit(&self, transaction: shm_state::Transaction<'_>) -> Result<()> {
        let before = transaction.base_seq();
        let seq = transaction.commit()?;
        // A transaction that changed nothing makes no update.
        if seq != before {
            self.shared.note_own(seq);
        }
        Ok(())
    }

    /// Ends every wait, and all use.
    pub(crate) fn close(&self) {
        // SeqCst: before the look at who sleeps. A sleeper announces itself and then looks at the flag.
        self.shared.closed().store(true, Ordering::SeqCst);
        self.usable.store(UNUSABLE, Ordering::Relaxed);
        if let Some(namespace) = &self.namespace
            && namespace.check_fork().is_ok()
        {
            namespace.wake_all();
        }
        if let Some(remote) = &self.remote {
            remote.close();
        }
    }

    /// What others know of it.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

/// Those who tell of its updates are told that there will be no more.
impl Drop for Access {
    fn drop(&mut self) {
        let is_known = match &self.remote {
            None => Arc::strong_count(&self.shared) > 1,
            // Who keeps it while he asks has that from a weak one, which he keeps for longer.
            Some(remote) => Arc::weak_count(remote) > 0,
        };
        if is_known {
            self.close();
        }
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
