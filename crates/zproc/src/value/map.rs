//! An ordered map from keys to values.

use std::fmt;

use indexmap::IndexMap;

use super::Value;
use super::collections::decode_entries;
use super::decode::{Encoded, FromValue};
use super::encode::{Encoder, ToValue};
use super::error::{DecodeError, EncodeError};
use crate::key::{Key, Lookup, ToKey};

/// A map that remembers the order in which its keys were first inserted, like a Python dict.
///
/// As there, the order does not count when maps are compared. It does count for the stored bytes: an update that only
/// reorders a map is a change.
///
/// ```
/// use zproc::{Map, Value};
///
/// let mut map = Map::new();
/// map.insert("eaten", 3);
/// map.insert("baked", 5);
/// map.insert("eaten", 4);
/// assert_eq!(map.get("eaten"), Some(&Value::from(4)));
/// assert_eq!(map.to_string(), r#"{"eaten": 4, "baked": 5}"#);
/// assert_eq!(map, Map::from([("baked", 5), ("eaten", 4)]));
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Map {
    /// Boxed because every [`Value`] has the size of its largest variant.
    entries: Box<IndexMap<Key, Value>>,
}

impl Map {
    /// A map with no entries.
    ///
    /// ```
    /// let mut map = zproc::Map::new();
    /// map.insert("cookies", 5);
    /// assert_eq!(map, zproc::Map::from([("cookies", 5)]));
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of entries.
    ///
    /// ```
    /// assert_eq!(zproc::Map::from([("a", 1), ("b", 2)]).len(), 2);
    /// ```
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    ///
    /// ```
    /// assert!(zproc::Map::new().is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value under `key`.
    ///
    /// ```
    /// let map = zproc::Map::from([(("user", 5), "ann")]);
    /// assert_eq!(map.get(&("user", 5)), Some(&"ann".into()));
    /// assert_eq!(map.get("user"), None);
    /// ```
    pub fn get<K: ToKey + ?Sized>(&self, key: &K) -> Option<&Value> {
        key.with_key(|tag, bytes| self.entries.get(&Lookup { tag, bytes }))
            .ok()?
    }

    /// The value under `key`, to be changed.
    ///
    /// ```
    /// let mut map = zproc::Map::from([("eaten", 3)]);
    /// if let Some(eaten) = map.get_mut("eaten") {
    ///     *eaten = 4.into();
    /// }
    /// assert_eq!(map, zproc::Map::from([("eaten", 4)]));
    /// ```
    pub fn get_mut<K: ToKey + ?Sized>(&mut self, key: &K) -> Option<&mut Value> {
        key.with_key(|tag, bytes| self.entries.get_mut(&Lookup { tag, bytes }))
            .ok()?
    }

    /// Whether there is an entry for `key`.
    ///
    /// ```
    /// assert!(zproc::Map::from([("a", 1)]).contains_key("a"));
    /// ```
    pub fn contains_key<K: ToKey + ?Sized>(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Puts `value` under `key`, and returns the value that it replaces. A new key goes to the end, an old one stays
    /// where it is.
    ///
    /// ```
    /// let mut map = zproc::Map::from([("a", 1), ("b", 2)]);
    /// assert_eq!(map.insert("a", "one"), Some(1.into()));
    /// assert_eq!(map.insert(3, 4.5), None);
    /// assert_eq!(map.to_string(), r#"{"a": "one", "b": 2, 3: 4.5}"#);
    /// ```
    pub fn insert(&mut self, key: impl Into<Key>, value: impl Into<Value>) -> Option<Value> {
        self.entries.insert(key.into(), value.into())
    }

    /// Takes out the entry for `key`; the others keep their order.
    ///
    /// ```
    /// let mut map = zproc::Map::from([("a", 1), ("b", 2), ("c", 3)]);
    /// assert_eq!(map.remove("a"), Some(1.into()));
    /// assert_eq!(map.to_string(), r#"{"b": 2, "c": 3}"#);
    /// ```
    pub fn remove<K: ToKey + ?Sized>(&mut self, key: &K) -> Option<Value> {
        key.with_key(|tag, bytes| self.entries.shift_remove(&Lookup { tag, bytes }))
            .ok()?
    }

    /// The entries in order.
    ///
    /// ```
    /// let map = zproc::Map::from([("b", 1), ("a", 2)]);
    /// let texts: Vec<_> = map.iter().map(|(key, value)| format!("{key} is {value}")).collect();
    /// assert_eq!(texts, [r#""b" is 1"#, r#""a" is 2"#]);
    /// ```
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&Key, &Value)> + ExactSizeIterator {
        self.entries.iter()
    }

    /// The keys in order.
    ///
    /// ```
    /// let map = zproc::Map::from([("b", 1), ("a", 2)]);
    /// assert!(map.keys().eq(&["b".into(), "a".into()]));
    /// ```
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &Key> + ExactSizeIterator {
        self.entries.keys()
    }

    /// The values in the order of their keys.
    ///
    /// ```
    /// let map = zproc::Map::from([("b", 1), ("a", 2)]);
    /// assert!(map.values().eq(&[1.into(), 2.into()]));
    /// ```
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &Value> + ExactSizeIterator {
        self.entries.values()
    }
}

impl<'a> IntoIterator for &'a Map {
    type Item = (&'a Key, &'a Value);
    type IntoIter = indexmap::map::Iter<'a, Key, Value>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.iter()
    }
}

impl IntoIterator for Map {
    type Item = (Key, Value);
    type IntoIter = indexmap::map::IntoIter<Key, Value>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl<K: Into<Key>, V: Into<Value>> FromIterator<(K, V)> for Map {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::new();
        map.extend(entries);
        map
    }
}

impl<K: Into<Key>, V: Into<Value>> Extend<(K, V)> for Map {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        self.entries
            .extend(entries.into_iter().map(|(key, value)| (key.into(), value.into())));
    }
}

impl<K: Into<Key>, V: Into<Value>, const N: usize> From<[(K, V); N]> for Map {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl ToValue for Map {
    fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
        self.entries.encode(out)
    }
}

impl FromValue for Map {
    fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
        let mut entries = Box::<IndexMap<_, _>>::default();
        decode_entries(encoded, |key, value| entries.insert(key, value).is_none())?;
        Ok(Self { entries })
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries.fmt(f)
    }
}
