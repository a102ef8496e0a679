//! The updates as an async stream.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use shm_state::Deadline;

use super::told::Told;
use super::update::ends;
use super::walk::Changes;
use super::{Scout, Sought, Update, Watch};
use crate::error::{Error, Result};
use crate::notify::Teller;

/// With the feature `tokio`.
impl<'s> Watch<'s> {
    /// The updates as an async stream: what [`Watch::updates`] is to threads, to tasks. For everything else see
    /// [`UpdateStream`].
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Forked`]; [`Error::Engine`] if there is no thread left; for a live watcher over a socket
    /// [`Error::Disconnected`] and [`Error::NoServer`].
    ///
    /// ```
    /// use zproc::State;
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let state = State::anonymous()?;
    /// let mut updates = state.watch().keys(["cookies"])?.stream()?;
    /// let other = state.clone();
    /// let writer = tokio::spawn(async move { other.insert("cookies", 5) });
    /// let update = updates.next().await.expect("endless")?;
    /// assert_eq!(update.after.get("cookies")?, Some(5));
    /// # writer.await.unwrap()?;
    /// # Ok::<(), zproc::Error>(())
    /// # })?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn stream(&self) -> Result<UpdateStream<'s>> {
        self.stream_of(self.start()?)
    }

    /// The updates after the update `seq` as an async stream; the cursor stays where it is. See
    /// [`Watch::updates_since`] and [`UpdateStream`].
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Forked`]; [`Error::Engine`] if there is no thread left.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let state = zproc::State::anonymous()?;
    /// let other = state.clone();
    /// other.insert("cookies", 5)?;
    /// other.insert("cookies", 4)?;
    /// let mut updates = state.watch().stream_since(1)?;
    /// assert_eq!(updates.next().await.expect("endless")?.seq, 2);
    /// # Ok::<(), zproc::Error>(())
    /// # })?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn stream_since(&self, seq: u64) -> Result<UpdateStream<'s>> {
        self.stream_of(Changes::after(seq))
    }

    fn stream_of(&self, changes: Changes) -> Result<UpdateStream<'s>> {
        let scout = if changes.is_of_cursor() {
            Scout::placed(self)
        } else {
            Scout::elsewhere(self)
        };
        Ok(UpdateStream {
            sought: self.sought(self.subject.clone(), None),
            ask: self.timeout(Duration::ZERO),
            timeout: self.timeout,
            wait: None,
            changes,
            told: Told::new(self, scout, Teller::Task(None))?,
            ended: false,
        })
    }
}

/// The updates one after another, for async tasks. Made by [`State::updates_stream`](crate::State::updates_stream) and
/// [`Watch::stream`]; exists with the feature `tokio`.
///
/// It yields what [`Updates`](crate::Updates) yields: after [`Error::Lagged`], [`Error::Timeout`] and
/// [`Error::Cancelled`] it goes on, after another error it ends. It is a [`Stream`], so the combinators of `futures`
/// and `tokio-stream` work on it, and it runs on any executor. It can be held over an `await` in a task that moves
/// between threads.
///
/// A stream that is dropped while a task waits for it has consumed nothing that it did not yield. A timeout of the
/// watcher holds for each update, as it does for an iterator.
///
/// **Threads.** Over mapped memory one thread of the process wakes the tasks of all streams (see
/// [`EventFeed`](crate::EventFeed), whose it is too); there is none for each stream.
///
/// **Over a socket** ([`State::transport`](crate::State::transport)) each stream has a thread and a connection of its own,
/// with a thread of the server, which takes 1,024 connections of all its clients together. To poll it is one request and its
/// reply, or some, each of which a server that is stopped holds up for a second, or two if it has to connect. A
/// server that is lost is an error, which ends the stream; a new one goes on from the cursor and misses nothing. The stream
/// may not notice a server that was replaced before it was polled.
///
/// ```
/// use zproc::State;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let writer = State::anonymous()?;
/// let state = writer.clone();
/// let counting = tokio::spawn(async move {
///     let mut updates = state.updates_stream()?;
///     let mut sum = 0;
///     while let Some(update) = updates.next().await {
///         match update?.after.get::<i64>("cookies")? {
///             Some(cookies) => sum += cookies,
///             None => break,
///         }
///     }
///     Ok::<_, zproc::Error>(sum)
/// });
/// for n in [1, 2, 3] {
///     writer.insert("cookies", n)?;
/// }
/// writer.remove("cookies")?;
/// assert_eq!(counting.await.unwrap()?, 6);
/// # Ok::<(), zproc::Error>(())
/// # })?;
/// # Ok::<(), zproc::Error>(())
/// ```
pub struct UpdateStream<'s> {
    /// Asks without waiting.
    ask: Watch<'s>,
    sought: Sought,
    timeout: Option<Duration>,
    /// The wait that is under way.
    wait: Option<Wait>,
    changes: Changes,
    told: Told,
    ended: bool,
}

#[derive(Clone, Copy)]
struct Wait {
    deadline: Deadline,
    /// What the canceller's word held at the beginning.
    cancel_seen: u32,
}

impl<'s> UpdateStream<'s> {
    /// The next update: what `StreamExt::next` of other crates does.
    ///
    /// Dropping the future before it is ready loses nothing, so it can be used in a `select!`.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let state = zproc::State::anonymous()?;
    /// state.clone().insert("cookies", 5)?;
    /// let mut updates = state.updates_stream()?;
    /// assert_eq!(updates.next().await.expect("endless")?.seq, 1);
    /// # Ok::<(), zproc::Error>(())
    /// # })?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub async fn next(&mut self) -> Option<Result<Update<'s>>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    fn poll_update(&mut self, context: &Context<'_>) -> Poll<Result<Update<'s>>> {
        if !self.told.is_current() {
            return Poll::Ready(Err(Error::Forked));
        }
        let wait = *self.wait.get_or_insert_with(|| Wait {
            deadline: self.timeout.map_or(Deadline::never(), Deadline::after),
            cancel_seen: self
                .ask
                .canceller
                .as_ref()
                .map_or(0, |canceller| canceller.watch().seen()),
        });
        let canceller = self.ask.canceller.as_ref();
        if canceller.is_some_and(|canceller| canceller.watched_since(wait.cancel_seen).is_cancelled()) {
            return Poll::Ready(Err(Error::Cancelled));
        }
        // As far as others have looked for it.
        let looked = match self.told.rest() {
            Ok(looked) => looked,
            Err(error) => return Poll::Ready(Err(error)),
        };
        if !self.changes.is_of_cursor() {
            self.changes.skip(looked);
        }
        match self.ask.next_update(&mut self.changes, &self.sought) {
            Err(Error::Timeout) if wait.deadline.passed() => Poll::Ready(Err(Error::Timeout)),
            Err(Error::Timeout) => {
                let at = self.changes.at();
                self.told
                    .want(at, wait.deadline, wait.cancel_seen, Some(context.waker()));
                Poll::Pending
            }
            result => Poll::Ready(result),
        }
    }
}

impl<'s> Stream for UpdateStream<'s> {
    type Item = Result<Update<'s>>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let Poll::Ready(next) = this.poll_update(context) else {
            return Poll::Pending;
        };
        this.wait = None;
        this.ended = next.as_ref().is_err_and(ends);
        Poll::Ready(Some(next))
    }
}

impl fmt::Debug for UpdateStream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpdateStream")
            .field("watch", &self.ask)
            .finish_non_exhaustive()
    }
}
