//! What goes over the socket between a server and its clients: frames, the proofs of a secret key, messages, descriptors.
//!
//! `docs/protocol.md` says it byte by byte, and is what other implementations go by. The parts: `frame` sends and
//! receives, within limits of length and time; `proof` shows that both sides know the key; `message` has what is asked and
//! answered, `figures` the part of it that tells of a state as a whole; `socket` makes connections and says who is at the
//! other end; `directory` has the paths that nobody has chosen.

pub(crate) mod directory;
pub(crate) mod figures;
pub(crate) mod frame;
pub(crate) mod message;
pub(crate) mod proof;
pub(crate) mod socket;

pub(crate) use frame::{Frames, Kind, WireError};
