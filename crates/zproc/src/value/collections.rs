//! Lists, tuples and maps as values.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash};

use indexmap::IndexMap;
use shm_state::FixedSize;

use super::decode::{Encoded, FromValue, Items, straight};
use super::encode::{Encoder, ToValue};
use super::error::{DecodeError, EncodeError};
use super::tag;
use crate::key::{FromKey, ToKey};

macro_rules! slices_to_values {
    ($([$($generics:tt)*] $slice:ty;)*) => {$(
        impl<T: ToValue, $($generics)*> ToValue for $slice {
            #[inline]
            fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
                T::encode_slice(self, out)
            }

            #[inline]
            fn with_encoded<R>(&self, f: impl FnOnce(Encoded<'_>) -> R) -> Result<R, EncodeError> {
                T::with_encoded_slice(self, f)
            }
        }
    )*};
}
slices_to_values! {
    [] [T];
    [] Vec<T>;
    [const N: usize] [T; N];
}

impl<T: FromValue> FromValue for Vec<T> {
    #[inline]
    fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
        T::vec_from_encoded(encoded)
    }
}

impl<T: FromValue> FromValue for Box<[T]> {
    fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
        T::vec_from_encoded(encoded).map(Into::into)
    }
}

impl<T: FromValue, const N: usize> FromValue for [T; N] {
    const FIXED_SIZE: Option<FixedSize> = if T::IS_BYTE {
        straight(FixedSize { len: N, head: N })
    } else {
        None
    };

    #[inline(always)]
    fn from_fixed(encoded: Encoded<'_>) -> Option<Self> {
        T::array_from_fixed(encoded)
    }

    #[inline]
    fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
        T::array_from_encoded(encoded)
    }
}

/// Items of which there have to be so many.
pub(crate) struct Exactly<'a> {
    items: Items<'a>,
    expected: usize,
    taken: usize,
}

impl<'a> Items<'a> {
    /// The items for a reader who wants `expected` of them.
    #[inline]
    pub(crate) fn exactly(self, expected: usize) -> Exactly<'a> {
        Exactly {
            items: self,
            expected,
            taken: 0,
        }
    }
}

impl<'a> Exactly<'a> {
    /// The next item.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Encoded<'a>, DecodeError> {
        let item = self.items.next().ok_or_else(|| self.wrong_length(self.taken))?;
        self.taken += 1;
        item
    }

    /// Fails if there are more.
    #[inline]
    pub(crate) fn end(self) -> Result<(), DecodeError> {
        if self.items.is_empty() {
            return Ok(());
        }
        Err(self.wrong_length(self.taken + self.items.clone().count()))
    }

    #[cold]
    fn wrong_length(&self, found: usize) -> DecodeError {
        DecodeError::WrongLength {
            expected: self.expected,
            found,
            unit: "items",
        }
    }
}

macro_rules! tuple_values {
    ($($len:literal: $($name:ident $field:tt)*;)*) => {$(
        impl<$($name: ToValue),*> ToValue for ($($name,)*) {
            fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
                out.list(|list| {
                    $(list.push(&self.$field)?;)*
                    Ok(())
                })
            }
        }

        impl<$($name: FromValue),*> FromValue for ($($name,)*) {
            #[inline]
            fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
                let mut items = encoded.items()?.exactly($len);
                let tuple = ($(items.next()?.get::<$name>()?,)*);
                items.end()?;
                Ok(tuple)
            }
        }
    )*};
}
tuple_values! {
    1: A 0;
    2: A 0 B 1;
    3: A 0 B 1 C 2;
    4: A 0 B 1 C 2 D 3;
}

/// Writes a map in the order of `entries`.
fn encode_entries<'a, K, V>(
    entries: impl IntoIterator<Item = (&'a K, &'a V)>,
    out: Encoder<'_>,
) -> Result<(), EncodeError>
where
    K: ToKey + 'a,
    V: ToValue + 'a,
{
    out.map(|map| entries.into_iter().try_for_each(|(key, value)| map.insert(key, value)))
}

/// Reads a map. `insert` says whether the key was new.
pub(crate) fn decode_entries<K: FromKey, V: FromValue>(
    encoded: Encoded<'_>,
    mut insert: impl FnMut(K, V) -> bool,
) -> Result<(), DecodeError> {
    for entry in encoded.entries()? {
        let (key, value) = entry?;
        if !insert(key.get_key()?, value.get()?) {
            return Err(DecodeError::malformed(tag::MAP, "it has a key twice"));
        }
    }
    Ok(())
}

impl<K: ToKey, V: ToValue> ToValue for BTreeMap<K, V> {
    fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
        encode_entries(self, out)
    }
}

/// By key, so that equal maps have equal bytes.
impl<K: ToKey + Ord, V: ToValue, S> ToValue for HashMap<K, V, S> {
    fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
        let mut entries: Vec<_> = self.iter().collect();
        entries.sort_unstable_by_key(|(key, _)| *key);
        encode_entries(entries, out)
    }
}

impl<K: ToKey, V: ToValue, S> ToValue for IndexMap<K, V, S> {
    fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
        encode_entries(self, out)
    }
}

impl<K: FromKey + Ord, V: FromValue> FromValue for BTreeMap<K, V> {
    fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
        let mut map = Self::new();
        decode_entries(encoded, |key, value| map.insert(key, value).is_none())?;
        Ok(map)
    }
}

impl<K: FromKey + Eq + Hash, V: FromValue, S: BuildHasher + Default> FromValue for HashMap<K, V, S> {
    fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
        let mut map = Self::default();
        decode_entries(encoded, |key, value| map.insert(key, value).is_none())?;
        Ok(map)
    }
}

impl<K: FromKey + Eq + Hash, V: FromValue, S: BuildHasher + Default> FromValue for IndexMap<K, V, S> {
    fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
        let mut map = Self::default();
        decode_entries(encoded, |key, value| map.insert(key, value).is_none())?;
        Ok(map)
    }
}
