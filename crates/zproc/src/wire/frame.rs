//! Frames: a head of eight bytes, and a body whose length it tells.
//!
//! ```text
//! 0 "zp"      2 version of the protocol      3 kind      4 length of the body (32 bits, little-endian)      8 body
//! ```
//!
//! A length is compared with what the receiver takes at that moment before anything is allocated.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use thiserror::Error as ThisError;

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
/// Buffers that have grown beyond this are given back. It is enough for a value of 1 MiB, which would otherwise meet new
/// pages each time.
pub(crate) const KEPT: usize = (1 << 20) + (64 << 10);

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
