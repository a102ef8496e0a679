//! Which updates a watcher looks at.

use shm_state::{Filter, Key, KeyRef, On};

use crate::codec::own_key;
use crate::error::Result;
use crate::key::ToKey;

/// What an update must change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject<'k> {
    /// Any key.
    Any,
    /// This key, which needs no copy.
    Key(KeyRef<'k>),
    /// One of these keys.
    Keys(Vec<Key>),
    /// A key other than these.
    Except(Vec<Key>),
}

impl<'k> Subject<'k> {
    /// One of `keys`; any key if there are none.
    pub(super) fn keys<K: ToKey>(keys: impl IntoIterator<Item = K>) -> Result<Self> {
        let keys = own_keys(keys)?;
        Ok(if keys.is_empty() { Self::Any } else { Self::Keys(keys) })
    }

    /// A key other than `keys`.
    pub(super) fn except<K: ToKey>(keys: impl IntoIterator<Item = K>) -> Result<Self> {
        Ok(Self::Except(own_keys(keys)?))
    }

    /// A copy that owns its keys.
    pub(super) fn to_static(&self) -> Subject<'static> {
        match self {
            Self::Any => Subject::Any,
            Self::Key(key) => Subject::Keys(vec![key.to_owned()]),
            Self::Keys(keys) => Subject::Keys(keys.clone()),
            Self::Except(keys) => Subject::Except(keys.clone()),
        }
    }

    /// Whether both are the same, one of which may be a copy of the other.
    pub(super) fn same_as(&self, other: &Subject<'_>) -> bool {
        match (self, other) {
            (Self::Keys(keys), Subject::Key(key)) => matches!(&**keys, [only] if only.as_ref() == *key),
            _ => self == other,
        }
    }

    pub(super) fn filter(&self) -> Filter<'_> {
        match self {
            Self::Any => Filter::Any,
            Self::Key(key) => Filter::Key(*key),
            Self::Keys(keys) => Filter::Keys(keys),
            Self::Except(keys) => Filter::Except(keys),
        }
    }

    /// Calls `f` with the hashes of the keys whose changes are to end a sleep.
    pub(super) fn with_hashes<R>(&self, f: impl FnOnce(On<'_>) -> R) -> R {
        match self {
            Self::Key(key) => f(On::Keys(&[key.hash()])),
            Self::Keys(keys) => {
                let hashes: Vec<u64> = keys.iter().map(|key| key.as_ref().hash()).collect();
                f(On::Keys(&hashes))
            }
            Self::Any | Self::Except(_) => f(On::Any),
        }
    }
}

fn own_keys<K: ToKey>(keys: impl IntoIterator<Item = K>) -> Result<Vec<Key>> {
    keys.into_iter().map(own_key).collect()
}
