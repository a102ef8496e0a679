//! Requests and replies: postcard, in the frames of these names. The handshake has bodies of fixed size.

use serde::{Deserialize, Serialize};

use super::frame::WireError;
use super::proof::Nonce;

/// What a client asks for, after the handshake.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// The descriptor of the memory.
    Map,
}

/// The answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The descriptor comes with the frame.
    Mapped,
    /// The request failed; the connection goes on.
    Failed(Failure),
}

/// Why the server refuses a client, or failed to do what it asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Failure {
    /// The client did not prove that it may.
    Denied(String),
    /// The client broke the protocol.
    Protocol(String),
    /// The server has no more room for clients.
    Busy(String),
    /// Something else.
    Other(String),
}

/// The body of a Hello: the client's nonce, and whether it has a key.
pub(crate) const HELLO: usize = 40;
/// The body of a Challenge: the server's nonce, whether it has a key, its process id.
pub(crate) const CHALLENGE: usize = 40;
/// The body of a Proof: the client's.
pub(crate) const PROOF: usize = 32;
/// The body of a Welcome: the server's proof, and the file of the arena: device, inode.
pub(crate) const WELCOME: usize = 48;

/// A Hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) nonce: Nonce,
    pub(crate) has_key: bool,
}

/// A Challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Challenge {
    pub(crate) nonce: Nonce,
    pub(crate) has_key: bool,
    pub(crate) pid: u32,
}

/// A Welcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Welcome {
    pub(crate) proof: [u8; 32],
    /// Tells whether a server serves the same memory as one before.
    pub(crate) arena: (u64, u64),
}

impl Hello {
    pub(crate) fn to_bytes(self) -> [u8; HELLO] {
        nonce_and(self.nonce, self.has_key, 0)
    }

    pub(crate) fn parse(body: &[u8]) -> Result<Self, WireError> {
        let (nonce, has_key, _) = parse_nonce_and(body)?;
        Ok(Self { nonce, has_key })
    }
}

impl Challenge {
    pub(crate) fn to_bytes(self) -> [u8; CHALLENGE] {
        nonce_and(self.nonce, self.has_key, self.pid)
    }

    pub(crate) fn parse(body: &[u8]) -> Result<Self, WireError> {
        let (nonce, has_key, pid) = parse_nonce_and(body)?;
        Ok(Self { nonce, has_key, pid })
    }
}

impl Welcome {
    pub(crate) fn to_bytes(self) -> [u8; WELCOME] {
        let mut body = [0; WELCOME];
        body[..32].copy_from_slice(&self.proof);
        body[32..40].copy_from_slice(&self.arena.0.to_le_bytes());
        body[40..].copy_from_slice(&self.arena.1.to_le_bytes());
        body
    }

    pub(crate) fn parse(body: &[u8]) -> Result<Self, WireError> {
        let (proof, arena) = parts::<32, 16>(body)?;
        let (device, inode) = parts::<8, 8>(&arena)?;
        let arena = (u64::from_le_bytes(device), u64::from_le_bytes(inode));
        Ok(Self { proof, arena })
    }
}

fn nonce_and(nonce: Nonce, has_key: bool, pid: u32) -> [u8; 40] {
    let mut body = [0; 40];
    body[..32].copy_from_slice(&nonce);
    body[32..36].copy_from_slice(&u32::from(has_key).to_le_bytes());
    body[36..].copy_from_slice(&pid.to_le_bytes());
    body
}

fn parse_nonce_and(body: &[u8]) -> Result<(Nonce, bool, u32), WireError> {
    let (nonce, rest) = parts::<32, 8>(body)?;
    let (flags, pid) = parts::<4, 4>(&rest)?;
    match u32::from_le_bytes(flags) {
        flags @ 0..=1 => Ok((nonce, flags == 1, u32::from_le_bytes(pid))),
        flags => Err(WireError::Malformed(format!(
            "the flags {flags:#x} are none that are known"
        ))),
    }
}

/// A body of so many bytes, in two parts.
fn parts<const A: usize, const B: usize>(body: &[u8]) -> Result<([u8; A], [u8; B]), WireError> {
    let wrong = || WireError::Malformed(format!("it has {} bytes, and should have {}", body.len(), A + B));
    let (first, rest) = body.split_first_chunk::<A>().ok_or_else(wrong)?;
    let rest = rest.try_into().map_err(|_| wrong())?;
    Ok((*first, rest))
}

/// Appends a message to a body.
pub(crate) fn encode(message: &impl Serialize, out: &mut Vec<u8>) -> Result<(), WireError> {
    let taken = std::mem::take(out);
    *out = postcard::to_extend(message, taken).map_err(|error| WireError::Malformed(error.to_string()))?;
    Ok(())
}

/// The message that is a body; nothing may follow it.
pub(crate) fn decode<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, WireError> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(WireError::Malformed(format!("{} bytes follow its end", rest.len()))),
        Err(error) => Err(WireError::Malformed(error.to_string())),
    }
}
