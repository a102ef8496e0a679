//! How a state is reached.

use std::fmt;

/// How a state is reached, told by [`State::transport`](crate::State::transport).
///
/// ```
/// use zproc::{Backend, State, Transport};
///
/// assert_eq!(State::anonymous()?.transport(), Transport::Mapped);
/// let server = zproc::start_server().backend(Backend::Thread).start()?;
/// let state = State::open(&format!("{}?transport=socket", server.address()))?;
/// let Transport::Socket { reason } = state.transport() else { panic!("it is what was asked for") };
/// assert_eq!(reason, "the address asks for it");
/// # Ok::<(), zproc::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// Its memory is mapped: nothing stands between the state and this process.
    Mapped,
    /// Each call is a request to the server and its reply.
    ///
    /// Everything works as with mapped memory, at the speed of a socket, but for serving it to others, which needs the
    /// memory itself ([`Error::NotMapped`](crate::Error::NotMapped)). [`State::atomic`](crate::State::atomic) may run its
    /// closure several times. A request has at most 64 MiB, and a million (2²⁰) changes: that is the most for one value, one
    /// transaction, and one dump that is restored, which counts one for taking out what was there.
    ///
    /// A server that does not answer for 5 s, or does not let one in for 10 s, is
    /// [`Error::Disconnected`](crate::Error::Disconnected); for a watcher with a timeout, and for a write with a lock
    /// timeout, it is so 1 s after that time, or 2 s if it has to connect, if that is sooner. Whether a write was made that
    /// ends so is not known.
    /// A signal that is an event ends waits, also for the writer lock, but not the call to a server that does not answer.
    /// A state that is cloned while its server is away watches from where the one that was cloned is.
    ///
    /// Each [`Watch::event_fd`](crate::Watch::event_fd), each stream, and each such watcher in a
    /// [`Select`](crate::Select) has a thread of this process and, from its first wait on, a connection to the server, where
    /// it has a thread too. A server has 1,024 connections at most, fewer if its process may not have so many descriptors,
    /// and all its clients share them: whoever takes them all locks the others out. They are told of a lost server as of an
    /// update, and again and again while it is away: who is told so pauses before the next look. To look for
    /// [`EventFeed::clear`](crate::EventFeed::clear) and for a stream takes no time of its own, so a server that does not
    /// answer is given 1 s, or 2 s to connect.
    ///
    /// [`Snapshot::view`](crate::Snapshot::view) shows a copy that was fetched. A child of this process
    /// ([`Context::process`](crate::Context::process)) uses the state over the same socket; if the server has another
    /// memory when the child connects than it had for its parent, that is
    /// [`Error::Disconnected`](crate::Error::Disconnected).
    Socket {
        /// Why the memory is not mapped.
        reason: String,
    },
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mapped => f.write_str("mapped memory"),
            Self::Socket { reason } => write!(f, "a socket, since {reason}"),
        }
    }
}
