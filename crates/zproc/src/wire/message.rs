//! Requests and replies: postcard, in the frames of these names. The handshake has bodies of fixed size.

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::figures;
use super::frame::WireError;
use super::proof::Nonce;

/// The memory of a session that a server keeps for one client state.
pub(crate) type Token = [u8; 16];

/// The newest state, where a snapshot is named.
pub(crate) const NEWEST: u32 = 0;

/// The most keys, or changes, in a list of a request: in memory they take much more than on the wire.
pub(crate) const LIST_MOST: usize = 1 << 20;

/// So many bytes are not copied into a message, but sent from where they lie.
pub(crate) const MANY: usize = 4 << 10;

/// A key as it is stored: tag and bytes.
pub(crate) type WireKey<'a> = (u8, Bytes<'a>);
/// A value as it is stored: tag and bytes.
pub(crate) type WireValue<'a> = (u16, Bytes<'a>);

/// Where a key stands in a snapshot: numbers that mean nothing to a client.
pub(crate) type Place = (u64, u64, u64);

/// What a client asks for, after the handshake. All but the first two are about the session that the connection is of.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request<'a> {
    /// The descriptor of the memory.
    Map,
    /// Makes the connection one of a session: of a new one, or of one that lives.
    Open(#[serde(borrow)] Open<'a>),
    /// The number of the newest update.
    Seq,
    /// The value of a key.
    Get {
        snapshot: u32,
        #[serde(borrow)]
        key: WireKey<'a>,
    },
    /// How many keys there are.
    Len { snapshot: u32 },
    /// Keys and values from the beginning, or behind a place that the last reply told, as many as make a reply of reasonable
    /// size.
    Entries { snapshot: u32, behind: Option<Place> },
    /// Pins a snapshot: of this update, or the newest.
    Pin { seq: Option<u64> },
    /// Lets a snapshot go.
    Unpin { snapshot: u32 },
    /// Puts a value under a key.
    Put {
        #[serde(borrow)]
        key: WireKey<'a>,
        lock_ns: Option<u64>,
        #[serde(borrow)]
        value: WireValue<'a>,
    },
    /// Commits a transaction, if nothing that it has read has changed.
    Commit(#[serde(borrow)] Commit<'a>),
    /// The first update after `cursor` that matches; waits for it as long as it is told.
    Next(#[serde(borrow)] Next<'a>),
    /// What an update did.
    Update { seq: u64 },
    /// Figures of the whole state, with a look at all that is stored.
    Stats,
    /// Figures of the whole state that are had without a lock.
    Status,
    /// Whether all that is stored is in order.
    Verify,
    /// Gives back what dead processes left.
    Reap,
}

/// See [`Request::Open`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Open<'a> {
    pub(crate) session: Option<Token>,
    pub(crate) namespace: &'a str,
    /// That under which the client wrote before, if it had a session that ended.
    pub(crate) identity: Option<u32>,
    pub(crate) precise_time: bool,
    /// The client will not write: a namespace that is not there is not created.
    pub(crate) read_only: bool,
}

/// See [`Request::Commit`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Commit<'a> {
    /// The update after which everything was read.
    pub(crate) base: u64,
    #[serde(borrow, deserialize_with = "not_too_many")]
    pub(crate) reads: Vec<WireKey<'a>>,
    /// All keys were read.
    pub(crate) read_all: bool,
    #[serde(borrow, deserialize_with = "not_too_many")]
    pub(crate) changes: Vec<Change<'a>>,
    pub(crate) lock_ns: Option<u64>,
}

/// A step of a transaction.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Change<'a> {
    Put(#[serde(borrow)] WireKey<'a>, #[serde(borrow)] WireValue<'a>),
    Remove(#[serde(borrow)] WireKey<'a>),
    Clear,
}

/// See [`Request::Next`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Next<'a> {
    pub(crate) cursor: u64,
    /// The last update to look at; `None` for the newest.
    pub(crate) until: Option<u64>,
    #[serde(borrow)]
    pub(crate) filter: Filter<'a>,
    pub(crate) duplicates: bool,
    /// Updates of this identity do not count.
    pub(crate) skip: Option<u32>,
    /// How long to wait: zero not at all, `None` for ever.
    pub(crate) wait_ns: Option<u64>,
}

/// Which keys an update must change.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Filter<'a> {
    Any,
    Keys(#[serde(borrow, deserialize_with = "not_too_many")] Vec<WireKey<'a>>),
    Except(#[serde(borrow, deserialize_with = "not_too_many")] Vec<WireKey<'a>>),
}

impl Request<'_> {
    /// How many keys, or changes, its longest list has.
    pub(crate) fn longest_list(&self) -> usize {
        match self {
            Self::Commit(commit) => commit.reads.len().max(commit.changes.len()),
            Self::Next(next) => match &next.filter {
                Filter::Keys(keys) | Filter::Except(keys) => keys.len(),
                Filter::Any => 0,
            },
            _ => 0,
        }
    }
}

/// The answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply<'a> {
    /// The descriptor comes with the frame.
    Mapped,
    /// The request failed; the connection goes on.
    Failed(Failure),
    /// It is done.
    Done,
    Opened {
        session: Token,
        identity: u32,
        seq: u64,
        /// How values are encoded, which both sides must agree on.
        value_format: u64,
    },
    /// Of an update, or of keys.
    Number(u64),
    Value(#[serde(borrow)] Option<WireValue<'a>>),
    Entries {
        #[serde(borrow)]
        entries: Vec<(WireKey<'a>, WireValue<'a>)>,
        /// Where the next are asked for, if there are more.
        more: Option<Place>,
    },
    /// The number of the snapshot, and of its update; `None` if it fell out of the history.
    Pinned(Option<(u32, u64)>),
    /// The number of the newest update, and whether it is this transaction's.
    Committed {
        seq: u64,
        changed: bool,
    },
    /// Something that the transaction has read has changed.
    Conflict,
    /// What was found, and the last update that was looked at.
    Next(Found, u64),
    /// `None` if it fell out of the history.
    Update(#[serde(borrow)] Option<Update<'a>>),
    Stats(Box<figures::Stats>),
    Status(Box<figures::Status>),
    Verified(figures::Report),
    Reaped(figures::Reaped),
}

/// See [`Reply::Next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Found {
    Match(u64),
    Nothing,
    Lagged(u64),
}

/// See [`Reply::Update`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Update<'a> {
    pub(crate) identical: bool,
    pub(crate) pid: u32,
    pub(crate) name: Option<&'a str>,
    pub(crate) time_ns: u64,
    /// The keys that it wrote, each with whether its value stayed the same.
    #[serde(borrow)]
    pub(crate) keys: Vec<(WireKey<'a>, bool)>,
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
    /// The session, or the snapshot, is not known: the server has begun anew.
    Gone(String),
    /// The writer lock was not had in time.
    LockTimeout { pid: u32, tid: u32 },
    /// There is no room.
    Full {
        requested: u64,
        free: u64,
        committed: u64,
        capacity: u64,
        /// Snapshots that keep old values: process, its name, whether it is dead, update, updates since.
        pins: Vec<(u32, Option<String>, bool, u64, u64)>,
    },
    /// The memory holds bytes that no correct process writes.
    Corrupt(String),
    /// There is no such namespace, and who only reads does not create it.
    ReadOnly,
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

/// A message that may end with many bytes.
pub(crate) trait Message<'a>: Serialize + Sized {
    /// The same without them, and they. `None` if it does not, or they are few.
    fn split_last(&self) -> Option<(Self, &'a [u8])>;
}

impl<'a> Message<'a> for Request<'a> {
    fn split_last(&self) -> Option<(Self, &'a [u8])> {
        let Self::Put { key, lock_ns, value } = *self else {
            return None;
        };
        let (value, bytes) = split_value(value)?;
        Some((Self::Put { key, lock_ns, value }, bytes))
    }
}

impl<'a> Message<'a> for Reply<'a> {
    fn split_last(&self) -> Option<(Self, &'a [u8])> {
        let Self::Value(Some(value)) = *self else {
            return None;
        };
        let (value, bytes) = split_value(value)?;
        Some((Self::Value(Some(value)), bytes))
    }
}

fn split_value((tag, Bytes(bytes)): WireValue<'_>) -> Option<(WireValue<'_>, &[u8])> {
    (bytes.len() >= MANY).then_some(((tag, Bytes(&[])), bytes))
}

/// Appends a message to a body; but for the bytes that it ends with, if they are many. These are returned, and belong to the
/// body as well: they are sent from where they lie.
pub(crate) fn encode_but_last<'a>(message: &impl Message<'a>, out: &mut Vec<u8>) -> Result<&'a [u8], WireError> {
    let Some((message, bytes)) = message.split_last() else {
        encode(message, out)?;
        return Ok(&[]);
    };
    encode(&message, out)?;
    // In the place of their number, which is zero there.
    out.pop();
    encode(&bytes.len(), out)?;
    Ok(bytes)
}

/// The message that is a body; nothing may follow it.
pub(crate) fn decode<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, WireError> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(WireError::Malformed(format!("{} bytes follow its end", rest.len()))),
        Err(error) => Err(WireError::Malformed(error.to_string())),
    }
}

/// Bytes that are copied in one piece: serde takes a slice for a list of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Bytes<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = &'de [u8];

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_borrowed_bytes<E: de::Error>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
                Ok(bytes)
            }
        }
        deserializer.deserialize_bytes(Borrow).map(Bytes)
    }
}

/// A list of a request, which is given up as soon as it is too long.
fn not_too_many<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct List<T>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "at most {LIST_MOST} items")
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = items.next_element()? {
                if list.len() == LIST_MOST {
                    return Err(de::Error::invalid_length(LIST_MOST + 1, &self));
                }
                list.push(item);
            }
            Ok(list)
        }
    }
    deserializer.deserialize_seq(List(std::marker::PhantomData))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A byte on the wire is a change of 56 bytes in memory: a frame of 64 MiB was gigabytes.
    #[test]
    fn lists_of_requests_are_given_up_when_they_are_too_long() {
        let commit = |count| {
            let mut body = Vec::new();
            let request = Request::Commit(Commit {
                base: 0,
                reads: Vec::new(),
                read_all: false,
                changes: (0..count).map(|_| Change::Clear).collect(),
                lock_ns: None,
            });
            assert_eq!(request.longest_list(), count);
            encode(&request, &mut body).unwrap();
            body
        };
        assert!(decode::<Request<'_>>(&commit(LIST_MOST)).is_ok());
        let error = decode::<Request<'_>>(&commit(LIST_MOST + 1)).unwrap_err();
        assert!(matches!(error, WireError::Malformed(_)), "{error}");
    }

    proptest! {
        #[test]
        fn a_message_whose_bytes_are_sent_from_where_they_lie_is_the_same(tag: u16, count in 0..3 * MANY) {
            fn assert_same<'a>(message: &impl Message<'a>) -> Result<(), TestCaseError> {
                let (mut whole, mut parts) = (Vec::new(), Vec::new());
                encode(message, &mut whole).unwrap();
                let last = encode_but_last(message, &mut parts).unwrap();
                parts.extend_from_slice(last);
                prop_assert_eq!(parts, whole);
                Ok(())
            }
            let bytes: Vec<u8> = (0..count).map(|n| n as u8).collect();
            let value = (tag, Bytes(&bytes));
            let put = Request::Put { key: (1, Bytes(b"key")), lock_ns: Some(tag.into()), value };
            assert_same(&put)?;
            assert_same(&Reply::Value(Some(value)))?;
            prop_assert_eq!(put.split_last().is_some(), count >= MANY);
        }

        /// Whatever a body is: a request, which is encoded as what it was, or an error.
        #[test]
        fn any_body_is_a_request_or_an_error(variant in 0u8..16, rest in prop::collection::vec(0u8..8, 0..60)) {
            let body = [&[variant][..], &rest].concat();
            if let Ok(request) = decode::<Request<'_>>(&body) {
                let mut again = Vec::new();
                encode(&request, &mut again).unwrap();
                prop_assert_eq!(again, body);
            }
        }

        #[test]
        fn any_body_is_a_reply_or_an_error(variant in 0u8..16, rest in prop::collection::vec(0u8..8, 0..60)) {
            let body = [&[variant][..], &rest].concat();
            if let Ok(reply) = decode::<Reply<'_>>(&body) {
                let mut again = Vec::new();
                encode(&reply, &mut again).unwrap();
                prop_assert_eq!(again, body);
            }
        }
    }
}
