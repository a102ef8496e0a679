//! Which updates a watcher looks at.

use std::sync::Arc;

use shm_state::{Filter, Key, On};

use crate::codec::own_key;
use crate::error::Result;
use crate::key::ToKey;

/// What an update must change. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Any key.
    Any,
    /// This key. Nothing is allocated for a short one.
    Key(Key),
    /// One of these keys.
    Keys(Arc<[Key]>),
    /// A key other than these.
    Except(Arc<[Key]>),
}

impl Subject {
    /// One of `keys`; any key if there are none.
    pub(super) fn keys<K: ToKey>(keys: impl IntoIterator<Item = K>) -> Result<Self> {
        let keys = own_keys(keys)?;
        Ok(if keys.is_empty() { Self::Any } else { Self::Keys(keys) })
    }

    /// A key other than `keys`.
    pub(super) fn except<K: ToKey>(keys: impl IntoIterator<Item = K>) -> Result<Self> {
        Ok(Self::Except(own_keys(keys)?))
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
            Self::Keys(keys) => f(On::Keys(&hashes(keys))),
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

fn hashes(keys: &[Key]) -> Vec<u64> {
    keys.iter().map(|key| key.as_ref().hash()).collect()
}

fn own_keys<K: ToKey>(keys: impl IntoIterator<Item = K>) -> Result<Arc<[Key]>> {
    keys.into_iter().map(own_key).collect()
}
