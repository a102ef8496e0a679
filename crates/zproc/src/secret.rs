//! The secret key that a user gives, or none.

use crate::error::{Error, Result};
use crate::wire::proof::Key;

/// A secret key, as far as it was given.
#[derive(Clone, Debug, Default)]
pub(crate) enum Secret {
    /// None was given.
    #[default]
    None,
    /// One without a byte, which is refused when it is used.
    Empty,
    /// One.
    Key(Key),
}

impl Secret {
    pub(crate) fn new(secret: &[u8]) -> Self {
        if secret.is_empty() {
            Self::Empty
        } else {
            Self::Key(Key::of(secret))
        }
    }

    /// The key, if there is one.
    pub(crate) fn key(&self, address: &str) -> Result<Option<&Key>> {
        match self {
            Self::None => Ok(None),
            Self::Key(key) => Ok(Some(key)),
            Self::Empty => Err(Error::AccessDenied {
                address: address.into(),
                reason: "the secret key is empty, which would protect nothing: give one that nobody guesses, or none"
                    .into(),
            }),
        }
    }

    /// For a child of this process.
    pub(crate) fn to_bytes(&self) -> Option<[u8; 32]> {
        match self {
            Self::Key(key) => Some(key.to_bytes()),
            Self::None | Self::Empty => None,
        }
    }

    /// What a parent has given.
    pub(crate) fn from_bytes(key: Option<[u8; 32]>) -> Self {
        key.map_or(Self::None, |key| Self::Key(Key::from_bytes(key)))
    }
}
