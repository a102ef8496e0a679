//! What a watcher waits for.

use shm_state::{KeyRef, Payload};
use smallvec::SmallVec;

use crate::error::Result;
use crate::snapshot::Snapshot;
use crate::value::{Encoded, ToValue, tag};

/// What a closure passed to [`State::get_when`](crate::State::get_when) may return: a bool, or a [`Result`] of one.
///
/// ```
/// let state = zproc::State::anonymous()?;
/// state.insert("cookies", 5)?;
/// let counted = state.get_when(|dict| Ok(dict.get::<u32>("cookies")? == Some(5)))?; // may fail
/// let always = state.get_when(|_| true)?;
/// assert_eq!(counted.seq(), always.seq());
/// # Ok::<(), zproc::Error>(())
/// ```
pub trait Verdict {
    #[doc(hidden)]
    fn verdict(self) -> Result<bool>;
}

impl Verdict for bool {
    fn verdict(self) -> Result<bool> {
        Ok(self)
    }
}

impl Verdict for Result<bool> {
    fn verdict(self) -> Result<bool> {
        self
    }
}

/// A value as it would be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    tag: u16,
    /// Scalars, and what else is as short, lie here.
    bytes: SmallVec<[u8; 16]>,
}

impl Stored {
    fn new(value: impl ToValue) -> Result<Self> {
        Ok(value.with_encoded(|encoded| Self {
            tag: encoded.tag(),
            bytes: SmallVec::from_slice(encoded.bytes()),
        })?)
    }

    /// Its tag and its bytes, to be carried to another process.
    pub(super) fn carried(value: impl ToValue) -> Result<(u16, Vec<u8>)> {
        let stored = Self::new(value)?;
        Ok((stored.tag, stored.bytes.into_vec()))
    }

    /// What was carried here.
    pub(super) fn of(tag: u16, bytes: &[u8]) -> Self {
        Self {
            tag,
            bytes: SmallVec::from_slice(bytes),
        }
    }

    fn equals(&self, payload: &Payload) -> bool {
        Encoded::new(self.tag, &self.bytes).same_value(Encoded::new(payload.tag(), payload.bytes()))
    }
}

/// What must hold for a key. An absent key satisfies none of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Its value is this one.
    Equal(Stored),
    /// Its value is not this one.
    NotEqual(Stored),
    /// Its value is none.
    None,
    /// Its value is not none.
    NotNone,
    /// It is present.
    Available,
}

impl Condition {
    pub(super) fn equal(value: impl ToValue) -> Result<Self> {
        Stored::new(value).map(Self::Equal)
    }

    pub(super) fn not_equal(value: impl ToValue) -> Result<Self> {
        Stored::new(value).map(Self::NotEqual)
    }

    /// Whether it holds for `key` in `snapshot`.
    pub(super) fn holds(&self, snapshot: &Snapshot<'_>, key: &KeyRef<'_>) -> Result<bool> {
        Ok(match (snapshot.payload(key)?, self) {
            (None, _) => false,
            (Some(payload), Self::Equal(value)) => value.equals(&payload),
            (Some(payload), Self::NotEqual(value)) => !value.equals(&payload),
            (Some(payload), Self::None) => payload.tag() == tag::NONE,
            (Some(payload), Self::NotNone) => payload.tag() != tag::NONE,
            (Some(_), Self::Available) => true,
        })
    }
}
