//! A descriptor that becomes readable when a watcher has something to return.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use nix::sys::eventfd::EventFd;
use shm_state::Deadline;

use super::told::Told;
use super::{Scout, Watch};
use crate::canceller::Canceller;
use crate::error::{Error, Result};
use crate::notify::Teller;
use crate::os;

impl Watch<'_> {
    /// A descriptor for an event loop (poll, epoll, mio, tokio's `AsyncFd`) that becomes readable when this watcher has
    /// something to return.
    ///
    /// The timeout does not count. For everything else see [`EventFeed`].
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Forked`]; [`Error::Engine`] if there is no descriptor or no thread left. A server that
    /// is away is for the watcher to say: the feed is readable.
    ///
    /// ```
    /// use std::time::Duration;
    /// use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    /// use std::os::fd::AsFd;
    /// use zproc::State;
    ///
    /// let state = State::anonymous()?;
    /// let watch = state.watch().keys(["cookies"])?;
    /// let feed = watch.event_fd()?;
    ///
    /// let other = state.clone();
    /// std::thread::spawn(move || other.insert("cookies", 5));
    ///
    /// let mut fds = [PollFd::new(feed.as_fd(), PollFlags::POLLIN)];
    /// poll(&mut fds, PollTimeout::NONE).expect("can be polled");
    /// feed.clear()?;
    /// let mut updates = watch.timeout(Duration::ZERO).updates()?;
    /// assert_eq!(updates.next().expect("endless")?.changed, ["cookies".into()]);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn event_fd(&self) -> Result<EventFeed> {
        let fd = Arc::new(os::event_fd()?);
        let told = Told::new(self, Scout::placed(self), Teller::Fd(Arc::clone(&fd)))?;
        let feed = EventFeed {
            fd,
            told,
            canceller: self.canceller.clone(),
            live: self.live,
        };
        feed.look(0)?;
        Ok(feed)
    }
}

/// A descriptor that becomes readable when a watcher has something to return. Made by [`Watch::event_fd`].
///
/// It says *that* there is something; the watcher returns it, asked with a timeout of zero. It has the watcher's
/// settings: keys, duplicates, canceller.
///
/// **Levels.** The feed of an ordinary watcher is readable for as long as a call of the watcher would return at once,
/// with an update or with an error. It stays readable until [`EventFeed::clear`], which makes it unreadable, unless
/// there is something still. So the order is: poll, clear, then take one update, or all up to [`Error::Timeout`];
/// nothing is missed in either case, and whoever takes only one is told at once that there are more. What reads the
/// descriptor itself does not have the feed look again: use `clear`.
///
/// **Edges.** That of a [live](Watch::live) watcher becomes readable when there was an update since it was made, or
/// since it was cleared last. It is for those who look at the newest state when they are told, and consume nothing.
///
/// When the state is closed or dropped, or the canceller is cancelled, the feed becomes readable and stays so. It does
/// not keep the state open.
///
/// **Cost.** One thread of the process serves all feeds and streams, and ends with the last of them. While a feed is
/// not readable, an update of its keys costs the writer a `FUTEX_WAKE`, about 1 µs, and the thread some microseconds;
/// while it is readable, nothing. With more than about 120 different keys in all, the thread is woken by every update.
///
/// **Over a socket** ([`State::transport`](crate::State::transport)) each feed has a thread and a connection of its own, and
/// `clear` is a request; the server has a thread for it, too, and takes 1,024 connections of all its clients together. While
/// the server is away, the feed is readable, also after `clear`, since the watcher would say so: a loop that is told so
/// pauses before it goes on, or it spins. When there is a server again, the feed goes on where it was. A server that is
/// stopped holds up `clear` for a second, or two if it has to connect.
///
/// In a forked child an inherited feed fails with [`Error::Forked`] and never becomes readable by the child's doing.
///
/// ```
/// use std::time::Duration;
/// use zproc::{Error, State};
///
/// let state = State::anonymous()?;
/// let feed = state.watch().event_fd()?;
/// state.clone().insert("cookies", 5)?;
/// // ... the event loop says that the feed is readable ...
/// feed.clear()?;
/// let watch = state.watch().timeout(Duration::ZERO);
/// loop {
///     match watch.get_raw_update() {
///         Ok(update) => println!("{:?}", update.changed),
///         Err(Error::Lagged { missed }) => println!("{missed} updates are lost"),
///         Err(Error::Timeout) => break,
///         Err(error) => return Err(error),
///     }
/// }
/// # Ok::<(), Error>(())
/// ```
pub struct EventFeed {
    fd: Arc<EventFd>,
    told: Told,
    canceller: Option<Canceller>,
    live: bool,
}

impl EventFeed {
    /// Makes it unreadable, unless the watcher has something to return still.
    ///
    /// # Errors
    /// [`Error::Closed`] if the state was closed or dropped, [`Error::Cancelled`] if the watcher's canceller is
    /// cancelled (then it stays readable), [`Error::Forked`]. Over a socket the error of a server that answers and lets
    /// nobody wait, because it takes no more connections ([`Error::Disconnected`]), and [`Error::Engine`] if the thread that
    /// waits there has failed; it stays readable, and can be cleared again.
    ///
    /// ```
    /// use zproc::{Error, State};
    ///
    /// let state = State::anonymous()?;
    /// let feed = state.watch().event_fd()?;
    /// feed.clear()?;
    /// drop(state);
    /// assert!(matches!(feed.clear(), Err(Error::Closed)));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn clear(&self) -> Result<()> {
        if !self.told.is_current() {
            return Err(Error::Forked);
        }
        // Nobody writes to it before the next wish.
        let at = self.told.rest()?;
        os::silence(&self.fd);
        self.look(at)
    }

    /// Makes it readable if there is something behind `at`, and else has it become readable when there is.
    fn look(&self, mut at: u64) -> Result<()> {
        let cancel = self.canceller.as_ref().map(Canceller::watch);
        let found = match self.told.opened() {
            None => Err(Error::Closed),
            Some(_) if cancel.is_some_and(|cancel| cancel.is_cancelled()) => Err(Error::Cancelled),
            Some(opened) if self.live => match opened.seq() {
                Ok(newest) => {
                    at = newest;
                    Ok(false)
                }
                // The watcher will say so.
                Err(_) => Ok(true),
            },
            Some(opened) => Ok(opened.look(&mut at)),
        };
        if matches!(found, Ok(false)) {
            let cancel_seen = cancel.map_or(0, |cancel| cancel.seen());
            self.told.want(at, Deadline::never(), cancel_seen, None);
        } else {
            os::ring(&self.fd);
        }
        found.map(drop)
    }
}

impl AsFd for EventFeed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for EventFeed {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_fd().as_raw_fd()
    }
}

impl fmt::Debug for EventFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventFeed")
            .field("fd", &self.as_raw_fd())
            .field("live", &self.live)
            .finish_non_exhaustive()
    }
}
