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
    /// Everything works as with mapped memory, at the speed of a socket, but for what needs the memory itself
    /// ([`Error::NotMapped`](crate::Error::NotMapped)): [`Snapshot::view`](crate::Snapshot::view), [`Select`](crate::Select),
    /// [`Watch::event_fd`](crate::Watch::event_fd), streams, `stats`, `status`, `verify`, `reap`, `load` and `restore`.
    /// [`State::atomic`](crate::State::atomic) may run its closure several times. A request has at most 64 MiB.
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
