//! A client's connection to a server: made, proved, and used for one request after the other.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use shm_state::{Deadline, PinInfo};

use crate::error::{Error, Result};
use crate::os::{failed, wait_readable};
use crate::wire::frame::{BODY_MOST, FRAME_TIME, HANDSHAKE_MOST};
use crate::wire::message::{
    Challenge, Failure, Hello, LIST_MOST, Reply, Request, Welcome, decode, encode, encode_but_last,
};
use crate::wire::proof::{self, Key, Side};
use crate::wire::receive::Wait;
use crate::wire::{Frames, Kind, WireError, socket};

/// How long it may take to connect.
pub(crate) const CONNECT_TIME: Duration = Duration::from_secs(10);
/// A server that has many visitors at once turns away the oldest ones that have not proved themselves.
const ATTEMPTS: u32 = 20;

/// A connection that both sides have proved themselves on.
pub(crate) struct Link {
    frames: Frames,
    address: Arc<str>,
    /// Signals that are events end waits for what is not a reply to a request.
    tells_signals: bool,
    pub(crate) pid: u32,
    /// The file of the memory that is served.
    pub(crate) arena: (u64, u64),
}

/// Why a request has no reply.
pub(crate) enum Fault {
    /// The connection is lost, and the session with it.
    Lost(Error),
    /// The wait was ended on this side: the connection is of no use any more, the session is.
    Left(Error),
    /// The server, or who read the reply, says so. The connection goes on.
    Failed(Error),
}

/// How a request waits for its reply. The server says at least every second that it is busy with it, so in any case
/// [`FRAME_TIME`] of silence is the end of the connection.
#[derive(Clone, Copy, Default)]
pub(crate) struct Terms<'a> {
    /// The reply must have come by then, or the connection is lost.
    pub(crate) within: Option<Duration>,
    /// Signals that are events end it. Only where nothing is lost if the reply is: it is not known.
    pub(crate) tells_signals: bool,
    /// Something else that ends it.
    pub(crate) wake: Option<&'a Wake<'a>>,
}

/// What ends a wait for a reply, besides the reply.
pub(crate) struct Wake<'a> {
    /// Becomes readable when there may be something.
    pub(crate) fd: BorrowedFd<'a>,
    /// What it is.
    pub(crate) reason: &'a dyn Fn() -> Option<Error>,
}

impl Wake<'_> {
    /// Waits until a frame begins; false if that takes too long.
    fn wait(&self, frames: &Frames, deadline: Deadline, tells_signals: bool) -> Result<bool, Fault> {
        let fds = [frames.stream().as_fd(), self.fd];
        // What was received together with the frame before, the socket does not have any more.
        let there = frames.receiver.has_more()
            || wait_readable(&fds, deadline.sooner_of(FRAME_TIME), tells_signals).map_err(Fault::Left)?;
        (self.reason)().map_or(Ok(there), |error| Err(Fault::Left(error)))
    }
}

/// How to connect.
pub(crate) struct Attempt<'a> {
    pub(crate) deadline: Deadline,
    /// Signals that are events end it.
    pub(crate) tells_signals: bool,
    /// Is given each socket that is tried, and may refuse to go on.
    pub(crate) begun: &'a dyn Fn(&Arc<UnixStream>) -> Result<()>,
}

impl Attempt<'_> {
    /// One that signals end, and nothing else.
    pub(crate) fn until(deadline: Deadline) -> Self {
        Self {
            deadline,
            tells_signals: true,
            begun: &|_| Ok(()),
        }
    }

    fn wait(&self) -> Wait {
        Wait::from(self.deadline).telling_signals(self.tells_signals)
    }
}

/// Why a handshake came to nothing.
enum Refused {
    /// The server closed it without a word, as it does when it has too many visitors.
    TurnedAway,
    Error(Error),
}

impl Link {
    /// Connects, and proves itself.
    pub(crate) fn connect(address: &Arc<str>, path: &Path, key: Option<&Key>, attempt: &Attempt<'_>) -> Result<Self> {
        let deadline = attempt.deadline;
        for number in 1..=ATTEMPTS {
            let stream = socket::connect(path, deadline).map_err(|error| no_server(address, deadline, error))?;
            let (user, _) = socket::peer(&stream).map_err(|source| failed("SO_PEERCRED", source))?;
            if !socket::is_trusted(user) {
                let own = socket::own_user();
                return Err(denied(
                    address,
                    format!("the server runs as user {user}, and this process as {own}"),
                ));
            }
            let stream = Arc::new(stream);
            (attempt.begun)(&stream)?;
            let frames = Frames::new(stream).map_err(|source| failed("setting time limits", source))?;
            match Self::shake_hands(frames, address, key, attempt) {
                Ok(link) => return Ok(link),
                Err(Refused::Error(error)) => return Err(error),
                Err(Refused::TurnedAway) if deadline.passed() => break,
                Err(Refused::TurnedAway) => std::thread::sleep(Duration::from_millis(u64::from(number))),
            }
        }
        Err(Error::Disconnected {
            address: address.to_string(),
            reason: "the server closed the connection before it was made, again and again".into(),
        })
    }

    fn shake_hands(
        mut frames: Frames,
        address: &Arc<str>,
        key: Option<&Key>,
        attempt: &Attempt<'_>,
    ) -> Result<Self, Refused> {
        let lost = |error| refused(address, error);
        let nonce = proof::random().map_err(|source| Refused::Error(failed("getrandom", source)))?;
        let has_key = key.is_some();
        let hello = Hello { nonce, has_key }.to_bytes();
        frames.sender.send(Kind::Hello, &hello).map_err(lost)?;
        let body = expect(&mut frames, Kind::Challenge, attempt, address)?;
        let challenge = Challenge::parse(body).map_err(lost)?;
        let denied = |reason: &str| Refused::Error(denied(address, reason.into()));
        match (has_key, challenge.has_key) {
            (false, true) => {
                return Err(denied(
                    "the server asks for a secret key, and this client has none: give it one",
                ));
            }
            (true, false) => {
                return Err(denied(
                    "the server has no secret key, so it may be another than was meant: give this client none if it is not",
                ));
            }
            _ => {}
        }
        let prove = |key: &Key| key.prove(Side::Client, &nonce, &challenge.nonce);
        let proof = key.map_or([0; 32], prove);
        frames.sender.send(Kind::Proof, &proof).map_err(lost)?;
        let body = expect(&mut frames, Kind::Welcome, attempt, address)?;
        let welcome = Welcome::parse(body).map_err(lost)?;
        if let Some(key) = key
            && !key.is_proved(Side::Server, &nonce, &challenge.nonce, welcome.proof)
        {
            return Err(denied("the server did not prove that it knows the secret key"));
        }
        Ok(Self {
            frames,
            address: Arc::clone(address),
            tells_signals: attempt.tells_signals,
            pid: challenge.pid,
            arena: welcome.arena,
        })
    }

    /// Sends bytes, and returns whether the same bytes came back.
    pub(crate) fn echo(&mut self, payload: &[u8], deadline: Deadline) -> Result<bool> {
        let sent = self.frames.sender.send_by(deadline, Kind::Ping, |out| {
            out.extend_from_slice(payload);
            Ok(())
        });
        match sent {
            // As if it had been taken, and not been answered.
            Err(WireError::NotTaken) if deadline.passed() => return Err(Error::Timeout),
            sent => sent.map_err(|error| self.lost(error))?,
        }
        let wait = Wait::from(deadline).telling_signals(self.tells_signals);
        match self.frames.receiver.receive(BODY_MOST, wait) {
            Ok((Kind::Pong, body)) => Ok(body == payload),
            Ok((found, body)) => Err(unexpected(&self.address, found, body, "a Pong")),
            Err(error) => Err(disconnected(&self.address, error)),
        }
    }

    /// Asks for the descriptor of the memory.
    pub(crate) fn ask_for_memory(&mut self, deadline: Deadline) -> Result<OwnedFd> {
        let sent = self
            .frames
            .sender
            .send_with(Kind::Request, |out| encode(&Request::Map, out));
        sent.map_err(|error| self.lost(error))?;
        let mut fd = None;
        let wait = Wait::from(deadline).telling_signals(self.tells_signals);
        let reply = match self.frames.receiver.receive_with_fd(BODY_MOST, wait, &mut fd) {
            Ok((Kind::Reply, body)) => decode(body).map_err(|error| disconnected(&self.address, error))?,
            Ok((found, body)) => return Err(unexpected(&self.address, found, body, "a Reply")),
            Err(error) => return Err(disconnected(&self.address, error)),
        };
        match (reply, fd) {
            (Reply::Mapped, Some(fd)) => Ok(fd),
            (Reply::Mapped, None) => Err(Error::Disconnected {
                address: self.address.to_string(),
                reason: "the descriptor of the memory did not arrive: this process may have no more descriptors left"
                    .into(),
            }),
            (Reply::Failed(failure), _) => Err(failure_of(&self.address, failure)),
            (other, _) => Err(disconnected(
                &self.address,
                WireError::Malformed(format!("{other:?} is no descriptor")),
            )),
        }
    }

    /// Sends a request, and reads the reply where it lies.
    pub(crate) fn request<R>(
        &mut self,
        request: &Request<'_>,
        terms: Terms<'_>,
        read: impl FnOnce(Reply<'_>) -> Result<R, Fault>,
    ) -> Result<R, Fault> {
        let count = request.longest_list();
        if count > LIST_MOST {
            return Err(Fault::Failed(Error::Disconnected {
                address: self.address.to_string(),
                reason: format!(
                    "a request with {count} keys or changes is more than the {LIST_MOST} that go over a socket at once: map the \
                     state for so many"
                ),
            }));
        }
        let deadline = terms.within.map_or(Deadline::never(), Deadline::after);
        let sent = self
            .frames
            .sender
            .send_with_tail(deadline, Kind::Request, |out| encode_but_last(request, out));
        match sent {
            Ok(()) => {}
            // Nothing of it was sent.
            Err(WireError::TooLong { length, most }) => {
                return Err(Fault::Failed(Error::Disconnected {
                    address: self.address.to_string(),
                    reason: format!(
                        "a request of {length} bytes is more than the {most} that go over a socket at once: map the state \
                         for values of this size"
                    ),
                }));
            }
            Err(WireError::NotTaken) => return Err(Fault::Lost(silent(&self.address, terms))),
            Err(error) => return Err(Fault::Lost(self.lost(error))),
        }
        let wait = Wait::from(deadline).impatient().telling_signals(terms.tells_signals);
        loop {
            if let Some(wake) = terms.wake
                && !wake.wait(&self.frames, deadline, terms.tells_signals)?
            {
                return Err(Fault::Lost(silent(&self.address, terms)));
            }
            match self.frames.receiver.receive(BODY_MOST, wait) {
                Ok((Kind::Busy, _)) => {}
                Ok((Kind::Reply, body)) => {
                    return match decode(body) {
                        Ok(Reply::Failed(failure @ Failure::Gone(_))) => {
                            Err(Fault::Lost(failure_of(&self.address, failure)))
                        }
                        Ok(Reply::Failed(failure)) => Err(Fault::Failed(failure_of(&self.address, failure))),
                        Ok(reply) => read(reply),
                        Err(error) => Err(Fault::Lost(disconnected(&self.address, error))),
                    };
                }
                Ok((found, body)) => return Err(Fault::Lost(unexpected(&self.address, found, body, "a Reply"))),
                Err(WireError::TimedOut) => return Err(Fault::Lost(silent(&self.address, terms))),
                Err(WireError::Signal(signal)) => return Err(Fault::Left(Error::Signal { signal })),
                Err(error) => return Err(Fault::Lost(disconnected(&self.address, error))),
            }
        }
    }

    /// The socket, to end what waits on it.
    pub(crate) fn stream(&self) -> &Arc<UnixStream> {
        self.frames.stream()
    }

    fn lost(&self, error: WireError) -> Error {
        disconnected(&self.address, error)
    }
}

/// The body of the next frame, which must be of this kind.
fn expect<'f>(frames: &'f mut Frames, kind: Kind, attempt: &Attempt<'_>, address: &str) -> Result<&'f [u8], Refused> {
    match frames.receiver.receive(HANDSHAKE_MOST, attempt.wait()) {
        Ok((found, body)) if found == kind => Ok(body),
        Ok((found, body)) => Err(Refused::Error(unexpected(
            address,
            found,
            body,
            "a step of the handshake",
        ))),
        Err(error) => Err(refused(address, error)),
    }
}

fn refused(address: &str, error: WireError) -> Refused {
    match error {
        WireError::Closed => Refused::TurnedAway,
        other => Refused::Error(disconnected(address, other)),
    }
}

/// The error of a frame that is not the one that was due: perhaps it says why.
fn unexpected(address: &str, found: Kind, body: &[u8], expected: &'static str) -> Error {
    if found == Kind::Refusal
        && let Ok(failure) = decode::<Failure>(body)
    {
        return failure_of(address, failure);
    }
    disconnected(address, WireError::Unexpected { found, expected })
}

fn failure_of(address: &str, failure: Failure) -> Error {
    match failure {
        Failure::Denied(reason) => denied(address, reason),
        Failure::Protocol(reason) | Failure::Busy(reason) | Failure::Gone(reason) | Failure::Other(reason) => {
            Error::Disconnected {
                address: address.into(),
                reason: format!("the server says: {reason}"),
            }
        }
        Failure::LockTimeout { pid, tid } => Error::LockTimeout { pid, tid },
        Failure::Corrupt(what) => Error::Corrupt { what },
        Failure::ReadOnly => Error::ReadOnly,
        Failure::Full {
            requested,
            free,
            committed,
            capacity,
            pins,
        } => Error::Full {
            requested,
            free,
            committed,
            capacity,
            pins: pins
                .into_iter()
                .map(|(pid, name, dead, seq, lag)| PinInfo::new(pid, name.map(Into::into), dead, seq, lag))
                .collect(),
        },
    }
}

fn disconnected(address: &str, error: WireError) -> Error {
    match error {
        WireError::TimedOut => Error::Timeout,
        WireError::Signal(signal) => Error::Signal { signal },
        other => Error::Disconnected {
            address: address.into(),
            reason: other.to_string(),
        },
    }
}

fn silent(address: &str, terms: Terms<'_>) -> Error {
    let within = terms.within.map_or(FRAME_TIME, |within| within.min(FRAME_TIME));
    Error::Disconnected {
        address: address.into(),
        reason: format!("the server has said nothing for {within:.1?}: it may be stopped"),
    }
}

fn denied(address: &str, reason: String) -> Error {
    Error::AccessDenied {
        address: address.into(),
        reason,
    }
}

fn no_server(address: &str, deadline: Deadline, error: std::io::Error) -> Error {
    use std::io::ErrorKind;
    let reason = match error.kind() {
        ErrorKind::NotFound => "there is no socket".into(),
        ErrorKind::ConnectionRefused => "there is a socket, and its server has ended".into(),
        ErrorKind::PermissionDenied => return denied(address, "the socket is not this user's".into()),
        ErrorKind::WouldBlock if deadline.passed() => return Error::Timeout,
        _ => error.to_string(),
    };
    Error::NoServer {
        address: address.into(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::os::event_fd;
    use crate::wire::frame::head;

    fn pair() -> (Link, UnixStream) {
        let (one, other) = UnixStream::pair().unwrap();
        let link = Link {
            frames: Frames::new(Arc::new(one)).unwrap(),
            address: "ipc:///test".into(),
            tells_signals: false,
            pid: 0,
            arena: (0, 0),
        };
        (link, other)
    }

    fn frame(kind: Kind, reply: Option<&Reply<'_>>) -> Vec<u8> {
        let mut body = Vec::new();
        reply.inspect(|reply| encode(*reply, &mut body).unwrap());
        [&head(kind, body.len())[..], &body].concat()
    }

    /// What came with the Busy before it was waited for on the socket, where it was not any more.
    #[test]
    fn a_reply_that_comes_together_with_a_busy_is_read() {
        let (mut link, mut server) = pair();
        let fd = event_fd().unwrap();
        let wake = Wake {
            fd: fd.as_fd(),
            reason: &|| None,
        };
        let busy = frame(Kind::Busy, None);
        let reply = frame(Kind::Reply, Some(&Reply::Number(7)));
        server.write_all(&[busy.clone(), busy, reply].concat()).unwrap();
        let terms = Terms {
            wake: Some(&wake),
            ..Terms::default()
        };
        let result = link.request(&Request::Seq, terms, |reply| match reply {
            Reply::Number(number) => Ok(number),
            _ => panic!("{reply:?}"),
        });
        assert!(matches!(result, Ok(7)));
    }

    #[test]
    fn a_request_is_lost_in_its_time_if_there_is_no_reply_and_if_it_is_not_taken() {
        let (mut link, mut server) = pair();
        let terms = Terms {
            within: Some(Duration::from_millis(10)),
            ..Terms::default()
        };
        server.write_all(&frame(Kind::Busy, None)).unwrap();
        let large = vec![7; 8 << 20];
        let put = Request::Put {
            key: (1, crate::wire::message::Bytes(b"key")),
            value: (1, crate::wire::message::Bytes(&large)),
            lock_ns: None,
        };
        for request in [Request::Seq, put] {
            let lost = link.request(&request, terms, |_| Ok(()));
            let Err(Fault::Lost(Error::Disconnected { reason, .. })) = lost else {
                panic!("there was no reply")
            };
            assert!(reason.contains("stopped"), "{reason}");
        }
        drop(link);
        assert!(server.read_to_end(&mut Vec::new()).unwrap() < large.len());
    }
}
