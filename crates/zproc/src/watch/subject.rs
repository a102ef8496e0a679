//! Which updates a watcher looks at.

use std::sync::Arc;

use shm_state::{Filter, Key, On};
use smallvec::SmallVec;

use crate::codec::own_key;
use crate::error::Result;
use crate::key::ToKey;

/// What an update must change. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Any key.
    Any,
    /// This key. Nothing is allocated for a short one, and so nothing freed between a change and the answer.
    Key(Key),
    /// One of these keys.
    Keys(Arc<[Key]>),
    /// A key other than these.
    Except(Arc<[Key]>),
}

impl Subject {
    /// One of `keys`; any key if there are none.
    pub(super) fn keys<K: ToKey>(keys: impl IntoIterator<Item = K>) -> Result<Self> {
        Self::one_of(keys.into_iter().map(own_key))
    }

    /// As [`Subject::keys`], of keys as the engine takes them.
    pub(super) fn one_of(mut keys: impl Iterator<Item = Result<Key>>) -> Result<Self> {
        let Some(first) = keys.next().transpose()? else {
            return Ok(Self::Any);
        };
        let Some(second) = keys.next() else {
            return Ok(Self::Key(first));
        };
        Ok(Self::Keys(
            [Ok(first), second].into_iter().chain(keys).collect::<Result<_>>()?,
        ))
    }

    /// A key other than `keys`.
    pub(super) fn except<K: ToKey>(keys: impl IntoIterator<Item = K>) -> Result<Self> {
        Ok(Self::Except(keys.into_iter().map(own_key).collect::<Result<_>>()?))
    }

    pub(super) fn filter(&self) -> Filter<'_> {
        match self {
            Self::Any => Filter::Any,
            Self::Key(key) => Filter::Keys(std::slice::from_ref(key)),
            Self::Keys(keys) => Filter::Keys(keys),
            Self::Except(keys) => Filter::Except(keys),
        }
    }

    /// Calls `f` with what is to end a sleep.
    pub(super) fn on<R>(&self, f: impl FnOnce(On<'_>) -> R) -> R {
        match self {
            Self::Key(key) => f(On::Keys(&[key.as_ref().hash()])),
            Self::Keys(keys) => {
                let hashes: SmallVec<[u64; 8]> = keys.iter().map(|key| key.as_ref().hash()).collect();
                f(On::Keys(&hashes))
            }
            Self::Any | Self::Except(_) => f(On::Any),
        }
    }

    /// The hashes of the keys whose changes count; `None` for those of all keys.
    pub(super) fn hashes(&self) -> Option<Vec<u64>> {
        self.on(|on| match on {
            On::Keys(hashes) => Some(hashes.to_vec()),
            On::Any => None,
        })
    }
}
