//! What goes over the socket between a server and its clients: frames, the proofs of a secret key, messages, descriptors.
//!
//! `docs/protocol.md` says it byte by byte, and is what other implementations go by. The parts: `frame` is what
//! all of it goes in; `send` and `receive` keep within limits of length and time, and `frames` has both; `proof` shows that both sides know the key; `message` has what is asked and
//! answered, `figures` the part of it that tells of a state as a whole; `socket` makes connections and says who is at the
//! other end; `directory` has the paths that nobody has chosen.

pub(crate) mod directory;
pub(crate) mod figures;
pub(crate) mod frame;
mod frames;
pub(crate) mod message;
pub(crate) mod proof;
pub(crate) mod receive;
mod send;
pub(crate) mod socket;

pub(crate) use frame::{Kind, WireError};
pub(crate) use frames::Frames;
pub(crate) use send::Sender;
