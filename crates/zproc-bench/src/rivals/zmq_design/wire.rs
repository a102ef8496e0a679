//! What goes over the sockets, in postcard's form.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::Variant;

/// A value as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owned {
    Number(u64),
    Bytes(#[serde(with = "bytes")] Vec<u8>),
}

/// A value inside of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Borrowed<'m> {
    Number(u64),
    Bytes(#[serde(borrow, serialize_with = "bytes::serialize")] &'m [u8]),
}

impl Owned {
    /// To be put into a message.
    pub fn borrow(&self) -> Borrowed<'_> {
        match self {
            Self::Number(number) => Borrowed::Number(*number),
            Self::Bytes(bytes) => Borrowed::Bytes(bytes),
        }
    }
}

impl Borrowed<'_> {
    /// To be kept.
    pub fn keep(self) -> Owned {
        match self {
            Self::Number(number) => Owned::Number(number),
            Self::Bytes(bytes) => Owned::Bytes(bytes.to_vec()),
        }
    }

    /// The number that it is.
    pub fn number(self) -> u64 {
        match self {
            Self::Number(number) => number,
            Self::Bytes(_) => panic!("bytes where a number was expected"),
        }
    }
}

/// Bytes as one run, not as a list of numbers.
mod bytes {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        <&[u8]>::deserialize(deserializer).map(<[u8]>::to_vec)
    }
}

/// The dict as the server keeps it.
pub type State = HashMap<String, Owned>;
/// The dict inside of a message.
pub type View<'m> = HashMap<&'m str, Borrowed<'m>>;

/// What a client asks of the server.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request<'m> {
    /// The value under a key.
    #[serde(borrow)]
    Get(&'m str),
    /// The whole dict.
    All,
    /// Puts a value; the number is who does it.
    Set(u64, &'m str, Borrowed<'m>),
    /// Puts many, without telling anybody.
    Fill(Vec<(&'m str, Borrowed<'m>)>),
    /// Sends something on the topic [`greeting`] of this watcher, which so learns that it is subscribed.
    Hello(u64),
    /// The value under a key, or the dict; the client will push what becomes of it.
    Atomic(&'m str),
}

/// A reply that is not the whole dict.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply<'m> {
    Done,
    #[serde(borrow)]
    Value(Option<Borrowed<'m>>),
    /// Bytes, as they are, in a part of their own.
    Follows,
}

/// So many bytes are worth a part of their own, which saves a copy.
pub const MANY: usize = 4096;

/// What follows the ticket of a reply to an atomic request, back from the client.
#[derive(Debug, Serialize, Deserialize)]
pub struct Push<'m> {
    /// Which request this is about.
    pub ticket: u64,
    /// Who changed it.
    pub writer: u64,
    /// The key that was changed.
    pub key: &'m str,
    /// Its new value; or `None` if the whole dict follows in a part of its own.
    #[serde(borrow)]
    pub value: Option<Borrowed<'m>>,
}

/// What is told of an update. The whole dict before and after follow in parts of their own, in the faithful variant.
#[derive(Debug, Serialize, Deserialize)]
pub struct Update<'m> {
    pub writer: u64,
    pub identical: bool,
    #[serde(borrow)]
    pub before: Option<Borrowed<'m>>,
    pub after: Option<Borrowed<'m>>,
}

/// What a watcher subscribes to: updates of a key, or in the faithful variant all of them.
pub fn topic<V: Variant>(key: &str) -> &str {
    if V::WHOLE { "update" } else { key }
}

/// The topic of one watcher alone.
pub fn greeting(watcher: u64) -> String {
    format!("hello {watcher}")
}

/// As bytes.
pub fn encode(message: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(message).expect("memory is left")
}

/// From bytes.
pub fn decode<'m, T: Deserialize<'m>>(bytes: &'m [u8]) -> T {
    postcard::from_bytes(bytes).expect("the other side speaks this form")
}
