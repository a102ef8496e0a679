//! What a watcher waits for.

use std::borrow::Cow;

use shm_state::{KeyRef, Payload};

use crate::error::Result;
use crate::snapshot::Snapshot;
use crate::value::{Encoded, tag};

/// What a closure passed to [`State::get_when`](crate::State::get_when) may return: a bool, or a [`Result`] of one.
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
pub(super) struct Stored<'v> {
    tag: u16,
    bytes: Cow<'v, [u8]>,
}

impl<'v> Stored<'v> {
    pub(super) fn new(tag: u16, bytes: &'v [u8]) -> Self {
        let bytes = Cow::Borrowed(bytes);
        Self { tag, bytes }
    }

    fn to_static(&self) -> Stored<'static> {
        Stored {
            tag: self.tag,
            bytes: Cow::Owned(self.bytes.to_vec()),
        }
    }

    fn equals(&self, payload: &Payload) -> bool {
        Encoded::new(self.tag, &self.bytes).same_value(Encoded::new(payload.tag(), payload.bytes()))
    }
}

/// What must hold for a key. An absent key satisfies none of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition<'v> {
    /// Its value is this one.
    Equal(Stored<'v>),
    /// Its value is not this one.
    NotEqual(Stored<'v>),
    /// Its value is none.
    None,
    /// Its value is not none.
    NotNone,
    /// It is present.
    Available,
}

impl Condition<'_> {
    /// A copy that owns its value.
    pub(super) fn to_static(&self) -> Condition<'static> {
        match self {
            Self::Equal(value) => Condition::Equal(value.to_static()),
            Self::NotEqual(value) => Condition::NotEqual(value.to_static()),
            Self::None => Condition::None,
            Self::NotNone => Condition::NotNone,
            Self::Available => Condition::Available,
        }
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
