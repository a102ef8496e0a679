//! Frames: a head of eight bytes, and a body whose length it tells.
//!
//! ```text
//! 0 "zp"      2 version of the protocol      3 kind      4 length of the body (32 bits, little-endian)      8 body
//! ```
//!
//! **Limits.** A length is compared with what the receiver takes at that moment before anything is allocated, and memory
//! grows with the bytes that arrive, so an announcement costs nothing. From its first byte on a frame has [`FRAME_TIME`] to
//! arrive, however its bytes trickle, and as long to be taken by the other side.
//!
//! **System calls.** One for a frame that is sent, and one for a frame that is received, if it fits into the buffer. The
//! kernel's limit for receiving, set once, is the one for the first bytes. It counts anew with each call, and that for
//! sending even with each piece that the other side takes, so a frame that comes or goes in pieces is timed here.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, recv, send, sendmsg};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use shm_state::{Deadline, Unshared};
use thiserror::Error as ThisError;

use crate::error::Error;
use crate::os::{wait_readable, wait_writable};
use crate::signals;

/// The version of the protocol. Both sides must have the same.
pub(crate) const VERSION: u8 = 1;
/// How long a frame may take from its first byte to its last.
pub(crate) const FRAME_TIME: Duration = Duration::from_secs(5);
/// The longest body of a frame during the handshake.
pub(crate) const HANDSHAKE_MOST: usize = 256;
/// The longest body of a frame after it.
pub(crate) const BODY_MOST: usize = 64 << 20;

pub(crate) const HEAD: usize = 8;
const MAGIC: [u8; 2] = *b"zp";
/// So much is received at once. Buffers that have grown beyond [`KEPT`] are given back.
const PIECE: usize = 16 << 10;
/// A frame that is late by this is received with a look at the clock before each call.
const LATE: Duration = Duration::from_millis(100);
/// Enough for a value of 1 MiB, which would otherwise meet new pages each time.
pub(crate) const KEPT: usize = (1 << 20) + (64 << 10);

/// Sends what there is room for, and does not end the process if the other side is gone.
const AT_ONCE: MsgFlags = MsgFlags::MSG_NOSIGNAL.union(MsgFlags::MSG_DONTWAIT);

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Hello = 1,
    Challenge = 2,
    Proof = 3,
    Welcome = 4,
    Ping = 5,
    Pong = 6,
    Request = 7,
    Reply = 8,
    /// The request is being worked on.
    Busy = 9,
    /// The server refuses, says why, and closes.
    Refusal = 10,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        use Kind::*;
        let all = [
            Hello, Challenge, Proof, Welcome, Ping, Pong, Request, Reply, Busy, Refusal,
        ];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Why a frame was not had.
#[derive(Debug, ThisError)]
pub(crate) enum WireError {
    #[error("the other side has closed the connection")]
    Closed,
    #[error("no frame came in time")]
    TimedOut,
    #[error("a frame did not arrive as a whole within {FRAME_TIME:?}")]
    Slow,
    #[error("the other side did not take a frame in time")]
    NotTaken,
    #[error("the frame does not begin with \"zp\": this is another protocol, or the connection is out of step")]
    Magic,
    #[error("the other side has version {0} of the protocol, and this one {VERSION}")]
    Version(u8),
    #[error("a frame of the unknown kind {0}")]
    UnknownKind(u8),
    #[error("a frame of {length} bytes, where {most} are the most")]
    TooLong { length: usize, most: usize },
    #[error("a frame of the kind {found:?}, where {expected} was due")]
    Unexpected { found: Kind, expected: &'static str },
    #[error("the body of a frame makes no sense: {0}")]
    Malformed(String),
    #[error("signal {0} came")]
    Signal(i32),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for WireError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN => Self::Closed,
            other => Self::Io(other.into()),
        }
    }
}

/// The head of a frame that is to be sent.
pub(crate) fn head(kind: Kind, length: usize) -> [u8; HEAD] {
    let [a, b] = MAGIC;
    let [c, d, e, f] = (length as u32).to_le_bytes();
    [a, b, VERSION, kind as u8, c, d, e, f]
}

/// What the beginning of `bytes` says: kind and length of the body; `None` if the head is not there as a whole.
pub(crate) fn parse_head(bytes: &[u8], most: usize) -> Result<Option<(Kind, usize)>, WireError> {
    // As early as can be: who speaks another protocol may never send as much as a head.
    if bytes.iter().zip(&MAGIC).any(|(found, expected)| found != expected) {
        return Err(WireError::Magic);
    }
    let Some(&[_, _, version, kind, a, b, c, d]) = bytes.first_chunk::<HEAD>() else {
        return Ok(None);
    };
    if version != VERSION {
        return Err(WireError::Version(version));
    }
    let kind = Kind::of(kind).ok_or(WireError::UnknownKind(kind))?;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if length > most {
        return Err(WireError::TooLong { length, most });
    }
    Ok(Some((kind, length)))
}

/// What ends a wait for the first byte of a frame, besides the frame.
#[derive(Clone, Copy)]
pub(crate) struct Wait {
    deadline: Deadline,
    is_impatient: bool,
    tells_signals: bool,
}

impl Wait {
    /// Silence of [`FRAME_TIME`] ends it too, whatever its deadline.
    pub(crate) fn impatient(self) -> Self {
        Self {
            is_impatient: true,
            ..self
        }
    }

    /// Signals that are events end it too.
    pub(crate) fn telling_signals(self, tells_signals: bool) -> Self {
        Self { tells_signals, ..self }
    }
}

impl From<Deadline> for Wait {
    fn from(deadline: Deadline) -> Self {
        Self {
            deadline,
            is_impatient: false,
            tells_signals: false,
        }
    }
}

/// A connection, frame by frame.
pub(crate) struct Frames {
    /// A child that is forked plainly does not keep the connection open. Before the stream, since it goes first.
    _unshared: Unshared,
    stream: Arc<UnixStream>,
    /// What has come and is not consumed, up to `filled`.
    incoming: Vec<u8>,
    filled: usize,
    /// How much of it is the frame that was returned last.
    consumed: usize,
    outgoing: Vec<u8>,
}

impl Frames {
    /// Sets the time limit of the socket.
    pub(crate) fn new(stream: Arc<UnixStream>) -> io::Result<Self> {
        stream.set_read_timeout(Some(FRAME_TIME))?;
        // As much as the system allows of it: a frame that fits goes at once, where the other side would have to make room
        // again and again.
        nix::sys::socket::setsockopt(&stream.as_fd(), nix::sys::socket::sockopt::SndBuf, &KEPT)?;
        Ok(Self {
            _unshared: Unshared::new(stream.as_fd())?,
            stream,
            incoming: Vec::new(),
            filled: 0,
            consumed: 0,
            outgoing: Vec::new(),
        })
    }

    pub(crate) fn stream(&self) -> &Arc<UnixStream> {
        &self.stream
    }

    /// Whether bytes have come that are not of the frame that was returned last.
    pub(crate) fn has_more(&self) -> bool {
        self.filled > self.consumed
    }

    /// Sends a frame whose body `fill` appends.
    pub(crate) fn send_with<E>(&mut self, kind: Kind, fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E>
    where
        E: From<WireError>,
    {
        self.send_by(Deadline::never(), kind, fill)
    }

    /// As [`Frames::send_with`], until `deadline` at the latest.
    pub(crate) fn send_by<E>(
        &mut self,
        deadline: Deadline,
        kind: Kind,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E>
    where
        E: From<WireError>,
    {
        self.compose(kind, fill)?;
        Ok(self.flush(deadline, |socket, bytes| send(socket, bytes, AT_ONCE))?)
    }

    /// Sends a frame.
    pub(crate) fn send(&mut self, kind: Kind, body: &[u8]) -> Result<(), WireError> {
        self.send_with(kind, |out| {
            out.extend_from_slice(body);
            Ok(())
        })
    }

    /// Sends a frame, and a descriptor with it.
    pub(crate) fn send_with_fd<E>(
        &mut self,
        kind: Kind,
        fd: BorrowedFd<'_>,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E>
    where
        E: From<WireError>,
    {
        self.compose(kind, fill)?;
        let fds = [fd.as_raw_fd()];
        let mut messages = &[ControlMessage::ScmRights(&fds)][..];
        Ok(self.flush(Deadline::never(), |socket, bytes| {
            let sent = sendmsg::<()>(socket, &[io::IoSlice::new(bytes)], messages, AT_ONCE, None)?;
            // It goes with the first bytes.
            messages = &[];
            Ok(sent)
        })?)
    }

    fn compose<E>(&mut self, kind: Kind, fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E>
    where
        E: From<WireError>,
    {
        self.outgoing.clear();
        self.outgoing.extend_from_slice(&head(kind, 0));
        fill(&mut self.outgoing)?;
        let length = self.outgoing.len() - HEAD;
        if length > BODY_MOST {
            self.outgoing = Vec::new();
            return Err(WireError::TooLong {
                length,
                most: BODY_MOST,
            }
            .into());
        }
        self.outgoing[..HEAD].copy_from_slice(&head(kind, length));
        Ok(())
    }

    /// Sends the composed frame with `send`, which does not wait.
    fn flush(
        &mut self,
        deadline: Deadline,
        mut send: impl FnMut(RawFd, &[u8]) -> nix::Result<usize>,
    ) -> Result<(), WireError> {
        let mut sent = 0;
        let mut limit = None;
        while sent < self.outgoing.len() {
            match send(self.stream.as_raw_fd(), &self.outgoing[sent..]) {
                Ok(count) => sent += count,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let limit = *limit.get_or_insert_with(|| deadline.sooner_of(FRAME_TIME));
                    // Also if there is room by now: who takes a little now and then could keep it here for ever.
                    if limit.passed() || !wait_writable(self.stream.as_fd(), limit).map_err(io::Error::other)? {
                        return Err(WireError::NotTaken);
                    }
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        if self.outgoing.capacity() > KEPT {
            self.outgoing = Vec::new();
        }
        Ok(())
    }

    /// The next frame, whose body is at most `most` bytes; waits for its first byte until a deadline, or as told.
    pub(crate) fn receive(&mut self, most: usize, wait: impl Into<Wait>) -> Result<(Kind, &[u8]), WireError> {
        self.receive_then(most, wait.into(), None)
    }

    /// As [`Frames::receive`]; a descriptor that comes with the frame goes to `fd`.
    pub(crate) fn receive_with_fd(
        &mut self,
        most: usize,
        wait: impl Into<Wait>,
        fd: &mut Option<OwnedFd>,
    ) -> Result<(Kind, &[u8]), WireError> {
        self.receive_then(most, wait.into(), Some(fd))
    }

    fn receive_then(
        &mut self,
        most: usize,
        wait: Wait,
        mut fd: Option<&mut Option<OwnedFd>>,
    ) -> Result<(Kind, &[u8]), WireError> {
        self.forget_last();
        let mut begin = (self.filled > 0).then(Instant::now);
        loop {
            let needed = match parse_head(&self.incoming[..self.filled], most)? {
                Some((kind, length)) if self.filled >= HEAD + length => {
                    self.consumed = HEAD + length;
                    return Ok((kind, &self.incoming[HEAD..HEAD + length]));
                }
                Some((_, length)) => HEAD + length,
                None => HEAD,
            };
            // Grows with what arrives, by as much again, and not by what is announced.
            let room = needed.min(2 * self.filled).max(self.filled + PIECE);
            if self.incoming.len() < room {
                self.incoming.resize(room, 0);
            }
            let count = match begin {
                None => self.receive_first(wait, fd.as_deref_mut())?,
                Some(begin) => self.receive_more(begin, fd.as_deref_mut())?,
            };
            if count == 0 {
                return Err(WireError::Closed);
            }
            self.filled += count;
            begin = begin.or_else(|| Some(Instant::now()));
        }
    }

    /// Receives the first bytes of a frame, which may be long in coming.
    fn receive_first(&mut self, wait: Wait, mut fd: Option<&mut Option<OwnedFd>>) -> Result<usize, WireError> {
        let limit = if wait.is_impatient {
            wait.deadline.sooner_of(FRAME_TIME)
        } else {
            wait.deadline
        };
        let mut tells_signals = wait.tells_signals && signals::is_active();
        let mut polls = wait.deadline != Deadline::never() || tells_signals;
        loop {
            if polls {
                match wait_readable(&[self.stream.as_fd()], limit, tells_signals) {
                    Ok(true) => {}
                    Ok(false) => return Err(WireError::TimedOut),
                    Err(Error::Signal { signal }) => return Err(WireError::Signal(signal)),
                    Err(other) => return Err(io::Error::other(other).into()),
                }
            }
            match self.receive_some(fd.as_deref_mut()) {
                Ok(count) => return Ok(count),
                // The limit of the socket, which is not the caller's, or a signal, with which it would begin anew.
                Err(Errno::EAGAIN | Errno::EINTR) if !limit.passed() => {}
                Err(Errno::EAGAIN | Errno::EINTR) => return Err(WireError::TimedOut),
                Err(errno) => return Err(errno.into()),
            }
            tells_signals = wait.tells_signals && signals::is_active();
            polls = tells_signals || limit != Deadline::never();
        }
    }

    /// Receives more of a frame of which there is something since `begin`.
    fn receive_more(&mut self, begin: Instant, mut fd: Option<&mut Option<OwnedFd>>) -> Result<usize, WireError> {
        loop {
            let elapsed = begin.elapsed();
            if elapsed > LATE {
                let left = FRAME_TIME.checked_sub(elapsed).ok_or(WireError::Slow)?;
                let there = wait_readable(&[self.stream.as_fd()], Deadline::after(left), false);
                if !there.map_err(io::Error::other)? {
                    return Err(WireError::Slow);
                }
            }
            match self.receive_some(fd.as_deref_mut()) {
                Ok(count) => return Ok(count),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(WireError::Slow),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Receives what there is, and waits for it as long as the socket is set to.
    fn receive_some(&mut self, fd: Option<&mut Option<OwnedFd>>) -> nix::Result<usize> {
        let room = &mut self.incoming[self.filled..];
        let Some(fd) = fd else {
            // Descriptors that nobody has asked for are closed by the kernel.
            return recv(self.stream.as_raw_fd(), room, MsgFlags::empty());
        };
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [io::IoSliceMut::new(room)];
        let received = recvmsg(&self.stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
            .map_err(|errno| Errno::from_raw(errno.raw_os_error()))?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                *fd = fds.last();
            }
        }
        Ok(received.bytes)
    }

    /// Makes room for the next frame.
    fn forget_last(&mut self) {
        let consumed = std::mem::take(&mut self.consumed);
        if consumed == 0 {
            return;
        }
        self.incoming.copy_within(consumed..self.filled, 0);
        self.filled -= consumed;
        if self.incoming.len() > KEPT && self.filled <= PIECE {
            self.incoming.truncate(PIECE);
            self.incoming.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use proptest::prelude::*;

    use super::*;

    fn pair() -> (Frames, UnixStream) {
        let (one, other) = UnixStream::pair().unwrap();
        (Frames::new(Arc::new(one)).unwrap(), other)
    }

    #[test]
    fn frames_of_all_lengths_arrive_as_they_were_sent() {
        let (one, other) = UnixStream::pair().unwrap();
        let (mut one, mut other) = (
            Frames::new(Arc::new(one)).unwrap(),
            Frames::new(Arc::new(other)).unwrap(),
        );
        std::thread::scope(|scope| {
            let sizes = [0, 1, 255, PIECE - HEAD, PIECE, 300_000, 1 << 20, 3, 0];
            scope.spawn(move || {
                for size in sizes {
                    let body: Vec<u8> = (0..size).map(|n| n as u8).collect();
                    one.send(Kind::Request, &body).unwrap();
                }
            });
            for size in sizes {
                let (kind, body) = other.receive(BODY_MOST, Deadline::never()).unwrap();
                assert_eq!((kind, body.len()), (Kind::Request, size));
                assert!(body.iter().enumerate().all(|(n, byte)| *byte == n as u8));
            }
            assert_eq!(other.filled, other.consumed);
        });
    }

    #[test]
    fn a_length_that_is_too_long_is_refused_before_anything_is_allocated() {
        let (mut frames, mut other) = pair();
        other.write_all(&head(Kind::Request, u32::MAX as usize)).unwrap();
        let error = frames.receive(BODY_MOST, Deadline::never()).unwrap_err();
        assert!(
            matches!(
                error,
                WireError::TooLong {
                    length: 0xffff_ffff,
                    ..
                }
            ),
            "{error}"
        );
        assert!(frames.incoming.len() <= PIECE);
    }

    #[test]
    fn a_long_frame_that_does_not_come_costs_no_memory() {
        let (mut frames, mut other) = pair();
        other.write_all(&head(Kind::Request, BODY_MOST)).unwrap();
        other.write_all(&[0; 100]).unwrap();
        drop(other);
        assert!(matches!(
            frames.receive(BODY_MOST, Deadline::never()),
            Err(WireError::Closed)
        ));
        assert!(frames.incoming.len() <= 2 * PIECE);
    }

    #[test]
    fn a_wait_for_a_frame_ends_at_its_deadline() {
        let (mut frames, _other) = pair();
        let deadline = Deadline::after(Duration::from_millis(5));
        assert!(matches!(frames.receive(10, deadline), Err(WireError::TimedOut)));
    }

    /// The kernel's limits count anew with each piece, so that one which comes or goes now and then kept a frame for hours.
    #[test]
    fn a_frame_that_trickles_ends_in_its_time_either_way() {
        let trickle = Duration::from_millis(200);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut frames, mut reader) = pair();
                std::thread::scope(|scope| {
                    scope.spawn(move || {
                        while reader.read(&mut [0; 40_000]).is_ok_and(|count| count > 0) {
                            std::thread::sleep(trickle);
                        }
                    });
                    let sent = frames.send(Kind::Reply, &vec![0; BODY_MOST]);
                    assert!(matches!(sent, Err(WireError::NotTaken)), "{sent:?}");
                    drop(frames);
                });
            });
            let (mut frames, mut writer) = pair();
            scope.spawn(move || {
                let head = head(Kind::Request, BODY_MOST);
                for byte in head.iter().chain(std::iter::repeat(&0)) {
                    if writer.write_all(&[*byte]).is_err() {
                        break;
                    }
                    std::thread::sleep(trickle);
                }
            });
            let received = frames.receive(BODY_MOST, Deadline::never()).map(|(kind, _)| kind);
            assert!(matches!(received, Err(WireError::Slow)), "{received:?}");
            drop(frames);
        });
    }

    #[test]
    fn a_descriptor_arrives_with_its_frame_and_is_closed_on_exec() {
        use nix::fcntl::{FcntlArg, FdFlag, fcntl};
        let (one, other) = UnixStream::pair().unwrap();
        let (mut one, mut other) = (
            Frames::new(Arc::new(one)).unwrap(),
            Frames::new(Arc::new(other)).unwrap(),
        );
        let file = std::fs::File::open("/proc/self/status").unwrap();
        one.send_with_fd(Kind::Reply, file.as_fd(), |out| {
            out.push(7);
            Ok::<(), WireError>(())
        })
        .unwrap();
        let mut fd = None;
        let (kind, body) = other.receive_with_fd(10, Deadline::never(), &mut fd).unwrap();
        assert_eq!((kind, body), (Kind::Reply, &[7][..]));
        let fd = fd.unwrap();
        assert_eq!(
            FdFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFD).unwrap()),
            FdFlag::FD_CLOEXEC
        );
        let name = |fd: BorrowedFd<'_>| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        assert_eq!(name(fd.as_fd()), name(file.as_fd()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Whatever comes, in whatever pieces: frames, then an error, and never a panic, a hang or much memory.
        #[test]
        fn any_bytes_end_in_frames_or_an_error(
            bytes in prop::collection::vec(
                prop_oneof![
                    3 => (1u8..12, 0usize..40, 0usize..40).prop_map(|(kind, told, sent)| {
                        let mut frame = head(Kind::Request, told).to_vec();
                        frame[3] = kind;
                        frame.resize(HEAD + sent, 0xab);
                        frame
                    }),
                    1 => prop::collection::vec(any::<u8>(), 0..64),
                ],
                0..8,
            ),
            pieces in prop::collection::vec(1usize..30, 1..4),
        ) {
            let (mut frames, mut other) = pair();
            let bytes = bytes.concat();
            let sent = bytes.len();
            let writer = std::thread::spawn(move || {
                let mut rest = &*bytes;
                for piece in pieces.iter().cycle() {
                    let (now, later) = rest.split_at((*piece).min(rest.len()));
                    // Who has met an error takes no more.
                    if now.is_empty() || other.write_all(now).is_err() {
                        break;
                    }
                    std::thread::yield_now();
                    rest = later;
                }
            });
            let mut received = 0;
            loop {
                match frames.receive(32, Deadline::after(FRAME_TIME)) {
                    Ok((_, body)) => received += HEAD + body.len(),
                    Err(WireError::Slow | WireError::TimedOut) => prop_assert!(false, "the end was not noticed"),
                    Err(_) => break,
                }
                prop_assert!(received <= sent);
            }
            prop_assert!(frames.incoming.len() <= 4 * PIECE);
            drop(frames);
            writer.join().unwrap();
        }
    }
}
