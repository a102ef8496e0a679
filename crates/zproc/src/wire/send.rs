//! Sending frames.
//!
//! One system call sends a frame, if the other side has room for it. Otherwise it goes in pieces, for which the kernel's
//! time limit would begin anew each: [`FRAME_TIME`] for all of them is kept here.
//!
//! **A tail** is what a frame ends with, sent from where it lies. Who can do without it for a moment only ([`PROMPT`])
//! begins to send, and finishes later: what the other side has not taken by then is copied.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, send, sendmsg, setsockopt, sockopt};
use shm_state::Deadline;

use super::frame::{BODY_MOST, FRAME_TIME, HEAD, KEPT, Kind, WireError, head};
use crate::os::wait_writable;

/// Sends what there is room for, and does not end the process if the other side is gone.
const AT_ONCE: MsgFlags = MsgFlags::MSG_NOSIGNAL.union(MsgFlags::MSG_DONTWAIT);

/// How long the tail of a frame is needed where it lies, at most.
const PROMPT: Duration = Duration::from_millis(20);

/// Sends frames.
pub(crate) struct Sender {
    stream: Arc<UnixStream>,
    /// The frame that is being sent, but for its tail.
    composed: Vec<u8>,
    /// There is more of a frame to be sent, all of it in `composed`.
    is_unfinished: bool,
}

impl Sender {
    pub(super) fn new(stream: Arc<UnixStream>) -> io::Result<Self> {
        // As much as the system allows of it: a frame that fits goes at once, where the other side would have to make room
        // again and again.
        setsockopt(&stream.as_fd(), sockopt::SndBuf, &KEPT)?;
        Ok(Self {
            stream,
            composed: Vec::new(),
            is_unfinished: false,
        })
    }

    /// Sends a frame whose body `fill` appends.
    pub(crate) fn send_with<E>(&mut self, kind: Kind, fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E>
    where
        E: From<WireError>,
    {
        self.send_by(Deadline::never(), kind, fill)
    }

    /// As [`Sender::send_with`], until `deadline` at the latest.
    pub(crate) fn send_by<E>(
        &mut self,
        deadline: Deadline,
        kind: Kind,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E>
    where
        E: From<WireError>,
    {
        self.send_with_tail(deadline, kind, |out| fill(out).map(|()| &[][..]))
    }

    /// As [`Sender::send_by`]; what `fill` returns is sent behind what it appends, from where it lies.
    pub(crate) fn send_with_tail<'t, E>(
        &mut self,
        deadline: Deadline,
        kind: Kind,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<&'t [u8], E>,
    ) -> Result<(), E>
    where
        E: From<WireError>,
    {
        let tail = self.compose(kind, fill)?;
        Ok(self.flush(deadline, tail)?)
    }

    /// Begins to send a frame whose body is what `fill` appends and what it returns, which is not needed any longer than
    /// this call takes. [`Sender::finish`] is to follow.
    pub(crate) fn begin<'t, E>(
        &mut self,
        kind: Kind,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<&'t [u8], E>,
    ) -> Result<(), E>
    where
        E: From<WireError>,
    {
        let tail = self.compose(kind, fill)?;
        let length = self.composed.len();
        let sent = self.push(|| Deadline::after(PROMPT), tail, send_parts)?;
        if sent < length + tail.len() {
            self.composed.drain(..sent.min(length));
            self.composed.extend_from_slice(&tail[sent.saturating_sub(length)..]);
            self.is_unfinished = true;
        }
        Ok(())
    }

    /// Sends what is left of a frame that was begun.
    pub(crate) fn finish(&mut self) -> Result<(), WireError> {
        if std::mem::take(&mut self.is_unfinished) {
            self.flush(Deadline::never(), &[])?;
        }
        Ok(())
    }

    /// Sends a frame.
    pub(crate) fn send(&mut self, kind: Kind, body: &[u8]) -> Result<(), WireError> {
        self.send_with_tail(Deadline::never(), kind, |_| Ok(body))
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
        self.compose(kind, |out| fill(out).map(|()| &[][..]))?;
        let fds = [fd.as_raw_fd()];
        let mut messages = &[ControlMessage::ScmRights(&fds)][..];
        let sent = self.push(
            || Deadline::after(FRAME_TIME),
            &[],
            |socket, bytes, _| {
                let sent = sendmsg::<()>(socket, &[io::IoSlice::new(bytes)], messages, AT_ONCE, None)?;
                // It goes with the first bytes.
                messages = &[];
                Ok(sent)
            },
        )?;
        Ok(self.end(sent, 0)?)
    }

    /// Makes the frame, but for its tail.
    fn compose<'t, E>(
        &mut self,
        kind: Kind,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<&'t [u8], E>,
    ) -> Result<&'t [u8], E>
    where
        E: From<WireError>,
    {
        self.composed.clear();
        self.composed.extend_from_slice(&head(kind, 0));
        let tail = fill(&mut self.composed)?;
        let length = self.composed.len() - HEAD + tail.len();
        if length > BODY_MOST {
            self.composed = Vec::new();
            return Err(WireError::TooLong {
                length,
                most: BODY_MOST,
            }
            .into());
        }
        self.composed[..HEAD].copy_from_slice(&head(kind, length));
        Ok(tail)
    }

    /// Sends the composed frame and its tail.
    fn flush(&mut self, deadline: Deadline, tail: &[u8]) -> Result<(), WireError> {
        let sent = self.push(|| deadline.sooner_of(FRAME_TIME), tail, send_parts)?;
        self.end(sent, tail.len())
    }

    /// Sends as much of the composed frame and its tail with `send`, which does not wait, as is taken in time; `limit` is
    /// asked when it has to be waited for the first time. Returns how much it was.
    fn push(
        &self,
        limit: impl Fn() -> Deadline,
        tail: &[u8],
        mut send: impl FnMut(RawFd, &[u8], &[u8]) -> nix::Result<usize>,
    ) -> Result<usize, WireError> {
        let composed = self.composed.len();
        let mut sent = 0;
        let mut until = None;
        while sent < composed + tail.len() {
            let (first, rest) = (sent.min(composed), sent.saturating_sub(composed));
            match send(self.stream.as_raw_fd(), &self.composed[first..], &tail[rest..]) {
                Ok(count) => sent += count,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let until = *until.get_or_insert_with(&limit);
                    // Also if there is room by now: who takes a little now and then could keep it here for ever.
                    if until.passed() || !wait_writable(self.stream.as_fd(), until).map_err(io::Error::other)? {
                        break;
                    }
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(sent)
    }

    /// So much of a frame with such a tail was sent: it must have been all.
    fn end(&mut self, sent: usize, tail: usize) -> Result<(), WireError> {
        if sent < self.composed.len() + tail {
            return Err(WireError::NotTaken);
        }
        if self.composed.capacity() > KEPT {
            self.composed = Vec::new();
        }
        Ok(())
    }
}

fn send_parts(socket: RawFd, bytes: &[u8], tail: &[u8]) -> nix::Result<usize> {
    match tail {
        [] => send(socket, bytes, AT_ONCE),
        tail => sendmsg::<()>(socket, &[bytes, tail].map(io::IoSlice::new), &[], AT_ONCE, None),
    }
}
