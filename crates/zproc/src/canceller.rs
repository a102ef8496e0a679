//! Ending waits that are under way.

use std::fmt;
use std::sync::Arc;

use shm_state::{CancelWord, Watched};

/// Ends waits of this process with [`Error::Cancelled`](crate::Error::Cancelled), from another thread or from a signal
/// handler.
///
/// Clones are one and the same canceller. It is given to a watcher by [`Watch::cancel`](crate::Watch::cancel), to any
/// number of them. [`Canceller::cancel`] ends all waits with it that are under way, and every call with it from then on
/// fails at once, also if there is something to return, until [`Canceller::reset`]. Nothing is consumed by a call that
/// is cancelled, so a watcher that goes on later has missed nothing.
///
/// ```
/// use zproc::{Canceller, Error, State};
///
/// let state = State::anonymous()?;
/// let canceller = Canceller::new();
/// std::thread::scope(|scope| {
///     let watch = state.watch().cancel(&canceller);
///     let waiting = scope.spawn(move || watch.get_when_available("never").map(drop));
///     canceller.cancel();
///     assert!(matches!(waiting.join().unwrap(), Err(Error::Cancelled)));
/// });
/// # Ok::<(), Error>(())
/// ```
///
/// # In signal handlers
/// `cancel` may be called there, whichever thread the handler runs on: it takes no lock, allocates nothing, and leaves
/// `errno` alone. The canceller has to be where the handler finds it, such as in a static
/// [`OnceLock`](std::sync::OnceLock) that was set before the handler was installed.
///
/// # What it costs
/// A wait with a canceller sleeps on several words at once (`futex_waitv`), which takes the kernel a little longer than
/// a wait without one, and a watcher of one key is also woken, now and then, by another key's update. Before Linux 5.16
/// there is no such call; then the wait looks for the cancel every 10 ms.
///
/// After a fork the child has a canceller of its own, in the state that it was in.
#[derive(Clone, Default)]
pub struct Canceller {
    word: Arc<CancelWord>,
}

impl Canceller {
    /// One that is not cancelled.
    ///
    /// ```
    /// assert!(!zproc::Canceller::new().is_cancelled());
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the waits that are under way with this canceller, and those that begin before [`Canceller::reset`].
    ///
    /// ```
    /// use zproc::{Canceller, Error, State};
    ///
    /// let state = State::anonymous()?;
    /// let canceller = Canceller::new();
    /// canceller.cancel();
    /// let result = state.watch().cancel(&canceller).get_when_any_change();
    /// assert!(matches!(result, Err(Error::Cancelled)));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn cancel(&self) {
        self.word.cancel();
    }

    /// Lets waits begin again. Those that were under way when it was cancelled end all the same.
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::{Canceller, Error, State};
    ///
    /// let state = State::anonymous()?;
    /// let canceller = Canceller::new();
    /// canceller.cancel();
    /// canceller.reset();
    /// let watch = state.watch().cancel(&canceller).timeout(Duration::ZERO);
    /// assert!(matches!(watch.get_when_any_change(), Err(Error::Timeout)));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn reset(&self) {
        self.word.reset();
    }

    /// Whether it is cancelled now.
    ///
    /// ```
    /// use zproc::Canceller;
    ///
    /// let canceller = Canceller::new();
    /// canceller.clone().cancel();
    /// assert!(canceller.is_cancelled());
    /// ```
    pub fn is_cancelled(&self) -> bool {
        self.word.is_cancelled()
    }

    /// What a wait that begins now has to note.
    pub(crate) fn watch(&self) -> Watched<'_> {
        self.word.watch()
    }

    /// What a wait has noted that began when the word held `seen`.
    pub(crate) fn watched_since(&self, seen: u32) -> Watched<'_> {
        self.word.watched_since(seen)
    }

    /// A number for it that its clones share.
    pub(crate) fn id(&self) -> usize {
        Arc::as_ptr(&self.word).addr()
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller")
            .field("is_cancelled", &self.is_cancelled())
            .finish_non_exhaustive()
    }
}
