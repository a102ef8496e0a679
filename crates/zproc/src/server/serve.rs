//! One connection: the handshake, and then one request after the other.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use shm_state::Deadline;

use super::accept::{Guest, Shared, protocol};
use super::session::{self, Session};
use crate::wire::frame::{BODY_MOST, FRAME_TIME, HANDSHAKE_MOST};
use crate::wire::message::{Challenge, Failure, Hello, PROOF, Reply, Request, Welcome, decode, encode};
use crate::wire::proof::{self, Side};
use crate::wire::{Frames, Kind, Sender, WireError};

/// How a connection ends, but for a client that leaves in good order.
pub(super) enum End {
    /// There is nobody to tell.
    Gone,
    /// The client is told why.
    Refused(Failure),
}

impl From<WireError> for End {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Closed | WireError::NotTaken | WireError::Io(_) => Self::Gone,
            other => Self::Refused(protocol(&other)),
        }
    }
}

/// Serves a connection until it ends.
pub(super) fn serve(shared: &Shared, guest: &Guest<'_>, frames: &mut Frames) -> Result<(), End> {
    shake_hands(shared, guest, frames)?;
    let mut session: Option<Arc<Session>> = None;
    while !shared.is_stopping() {
        // A client may be silent for as long as it likes, between two frames.
        let (kind, body) = frames.receiver.receive(BODY_MOST, Deadline::never())?;
        let sender = &mut frames.sender;
        match kind {
            Kind::Ping => sender.send(Kind::Pong, body)?,
            Kind::Request => match (decode(body)?, &session) {
                (Request::Map, None) => hand_over(shared, sender)?,
                (Request::Open(open), None) => match Session::open(shared, &open) {
                    Ok((opened, seq)) => {
                        session::send(sender, &opened.opened(seq))?;
                        session = Some(opened);
                    }
                    Err(failure) => session::send(sender, &Reply::Failed(failure))?,
                },
                (request, Some(session)) => session.answer(shared, sender, &request)?,
                (_, None) => {
                    return Err(End::Refused(Failure::Protocol(
                        "the connection is not one of a session".into(),
                    )));
                }
            },
            found => {
                let expected = "a Ping or a Request";
                return Err(WireError::Unexpected { found, expected }.into());
            }
        }
    }
    Ok(())
}

/// See `docs/protocol.md`. Nothing is told to a client before it has proved itself, but for a nonce.
fn shake_hands(shared: &Shared, guest: &Guest<'_>, frames: &mut Frames) -> Result<(), End> {
    let hello = Hello::parse(expect(frames, Kind::Hello, "a Hello")?)?;
    let challenge = Challenge {
        nonce: proof::random().map_err(|_| End::Gone)?,
        has_key: shared.key.is_some(),
        pid: shared.pid,
    };
    frames.sender.send(Kind::Challenge, &challenge.to_bytes())?;
    let found = expect(frames, Kind::Proof, "a Proof")?;
    let found: [u8; PROOF] = found
        .try_into()
        .map_err(|_| WireError::Malformed(format!("a proof of {} bytes", found.len())))?;
    let denied = |reason: &str| Err(End::Refused(Failure::Denied(reason.into())));
    let proof = match &shared.key {
        Some(_) if !hello.has_key => return denied("it asks for a secret key, and this client has none"),
        Some(key) if !key.is_proved(Side::Client, &hello.nonce, &challenge.nonce, found) => {
            return denied("the secret key is wrong");
        }
        Some(key) => key.prove(Side::Server, &hello.nonce, &challenge.nonce),
        None => [0; 32],
    };
    guest.becomes_client().map_err(End::Refused)?;
    let arena = shared.arena_file();
    frames
        .sender
        .send(Kind::Welcome, &Welcome { proof, arena }.to_bytes())?;
    Ok(())
}

fn expect<'f>(frames: &'f mut Frames, kind: Kind, expected: &'static str) -> Result<&'f [u8], WireError> {
    match frames.receiver.receive(HANDSHAKE_MOST, Deadline::after(FRAME_TIME))? {
        (found, body) if found == kind => Ok(body),
        (found, _) => Err(WireError::Unexpected { found, expected }),
    }
}

/// Gives the client the memory.
fn hand_over(shared: &Shared, sender: &mut Sender) -> Result<(), WireError> {
    let fd: Option<BorrowedFd<'_>> = shared.state.fd();
    match fd {
        Some(fd) => sender.send_with_fd(Kind::Reply, fd, |out| encode(&Reply::Mapped, out)),
        None => {
            let failure = Failure::Other("its memory has no descriptor that could be handed over".into());
            sender.send_with(Kind::Reply, |out| encode(&Reply::Failed(failure), out))
        }
    }
}
