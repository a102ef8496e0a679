//! Receiving frames.
//!
//! **Memory** grows with the bytes that arrive, so an announcement costs nothing.
//!
//! **Time.** From its first byte on a frame has [`FRAME_TIME`] to arrive, however its bytes trickle. One system call receives
//! a frame that fits into the buffer; the kernel's limit, set once, is the one for its first bytes. It counts anew with each
//! call, so a frame that comes in pieces is timed here.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use shm_state::Deadline;

use super::frame::{FRAME_TIME, HEAD, KEPT, Kind, WireError, parse_head};
use crate::error::Error;
use crate::os::wait_readable;
use crate::signals;

/// So much is received at once.
const PIECE: usize = 16 << 10;
/// A frame that is late by this is received with a look at the clock before each call.
const LATE: Duration = Duration::from_millis(100);

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

/// Receives frames.
pub(crate) struct Receiver {
    stream: Arc<UnixStream>,
    /// What has come lies between `start` and `filled`.
    bytes: Vec<u8>,
    start: usize,
    filled: usize,
    /// How much of it is the frame that was returned last.
    consumed: usize,
}

impl Receiver {
    /// Sets the time limit of the socket.
    pub(super) fn new(stream: Arc<UnixStream>) -> io::Result<Self> {
        stream.set_read_timeout(Some(FRAME_TIME))?;
        Ok(Self {
            stream,
            bytes: Vec::new(),
            start: 0,
            filled: 0,
            consumed: 0,
        })
    }

    /// Whether bytes have come that are not of the frame that was returned last.
    pub(crate) fn has_more(&self) -> bool {
        self.filled > self.start + self.consumed
    }

    /// The next frame, whose body is at most `most` bytes; waits for its first byte until a deadline, or as told.
    pub(crate) fn receive(&mut self, most: usize, wait: impl Into<Wait>) -> Result<(Kind, &[u8]), WireError> {
        self.receive_then(most, wait.into(), None)
    }

    /// As [`Receiver::receive`]; a descriptor that comes with the frame goes to `fd`.
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
        self.start += std::mem::take(&mut self.consumed);
        let mut begin = (self.filled > self.start).then(Instant::now);
        loop {
            let there = self.filled - self.start;
            let needed = match parse_head(&self.bytes[self.start..self.filled], most)? {
                Some((kind, length)) if there >= HEAD + length => {
                    self.consumed = HEAD + length;
                    return Ok((kind, &self.bytes[self.start + HEAD..][..length]));
                }
                Some((_, length)) => HEAD + length,
                None => HEAD,
            };
            // Grows with what arrives, by as much again, and not by what is announced.
            self.make_room(needed.min(2 * there).max(there + PIECE));
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
        let room = &mut self.bytes[self.filled..];
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

    /// Makes room for so much of a frame.
    fn make_room(&mut self, room: usize) {
        let is_too_large = self.bytes.len() > KEPT && room <= KEPT;
        if self.start + room <= self.bytes.len() && !is_too_large {
            return;
        }
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.filled, 0);
            self.filled -= self.start;
            self.start = 0;
        }
        if is_too_large {
            self.bytes.truncate(room);
            self.bytes.shrink_to_fit();
        } else if self.bytes.len() < room {
            self.bytes.resize(room, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::super::frame::{BODY_MOST, head};
    use super::*;

    fn pair() -> (Receiver, UnixStream) {
        let (one, other) = UnixStream::pair().unwrap();
        (Receiver::new(Arc::new(one)).unwrap(), other)
    }

    #[test]
    fn a_length_that_is_too_long_is_refused_before_anything_is_allocated() {
        let (mut receiver, mut other) = pair();
        other.write_all(&head(Kind::Request, u32::MAX as usize)).unwrap();
        let error = receiver.receive(BODY_MOST, Deadline::never()).unwrap_err();
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
        assert!(receiver.bytes.len() <= PIECE);
    }

    #[test]
    fn a_long_frame_that_does_not_come_costs_no_memory() {
        let (mut receiver, mut other) = pair();
        other.write_all(&head(Kind::Request, BODY_MOST)).unwrap();
        other.write_all(&[0; 100]).unwrap();
        drop(other);
        assert!(matches!(
            receiver.receive(BODY_MOST, Deadline::never()),
            Err(WireError::Closed)
        ));
        assert!(receiver.bytes.len() <= 2 * PIECE);
    }

    #[test]
    fn small_frames_behind_a_large_one_all_arrive_and_the_buffer_shrinks() {
        let (mut receiver, mut other) = pair();
        let lengths: Vec<usize> = [2 * KEPT].into_iter().chain((0..100_000).map(|n| n % 100)).collect();
        let sent = lengths.clone();
        let writer = std::thread::spawn(move || {
            let frame = |length: usize| [&head(Kind::Ping, length)[..], &vec![length as u8; length]].concat();
            let bytes: Vec<u8> = sent.into_iter().flat_map(frame).collect();
            other.write_all(&bytes).unwrap();
            // Until all has arrived.
            other
        });
        for length in lengths {
            let (_, body) = receiver.receive(BODY_MOST, Deadline::never()).unwrap();
            assert!(body.len() == length && body.iter().all(|byte| *byte == length as u8));
        }
        assert!(!receiver.has_more() && receiver.bytes.len() <= KEPT);
        drop(writer.join().unwrap());
    }

    #[test]
    fn a_wait_for_a_frame_ends_at_its_deadline() {
        let (mut receiver, _other) = pair();
        let deadline = Deadline::after(Duration::from_millis(5));
        assert!(matches!(receiver.receive(10, deadline), Err(WireError::TimedOut)));
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
            let (mut receiver, mut other) = pair();
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
                match receiver.receive(32, Deadline::after(FRAME_TIME)) {
                    Ok((_, body)) => received += HEAD + body.len(),
                    Err(WireError::Slow | WireError::TimedOut) => prop_assert!(false, "the end was not noticed"),
                    Err(_) => break,
                }
                prop_assert!(received <= sent);
            }
            prop_assert!(receiver.bytes.len() <= 4 * PIECE);
            drop(receiver);
            writer.join().unwrap();
        }
    }
}
