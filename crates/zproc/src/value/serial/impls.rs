//! Values, keys and numbers as something that serde writes and reads, in any format.
//!
//! Formats that have bytes, numbers of 128 bits and keys of other kinds than text keep everything apart; JSON, for one,
//! makes lists of byte strings and text of numbers that are keys, and refuses tuples as keys. An rkyv archive becomes a map
//! of its type, fingerprint and bytes, and is read back as that map.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::key::Key;
use crate::value::{Int, Map, OwnedArchive, Value};

impl Serialize for Int {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        // The narrow forms are those that every format has.
        if let Ok(n) = i64::try_from(*self) {
            out.serialize_i64(n)
        } else if let Ok(n) = u64::try_from(*self) {
            out.serialize_u64(n)
        } else if let Ok(n) = i128::try_from(*self) {
            out.serialize_i128(n)
        } else {
            out.serialize_u128(u128::try_from(*self).map_err(serde::ser::Error::custom)?)
        }
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Str(text) => out.serialize_str(text),
            Self::Int(int) => int.serialize(out),
            Self::Bytes(bytes) => out.serialize_bytes(bytes),
            Self::Tuple(keys) => out.collect_seq(keys),
        }
    }
}

impl Serialize for Map {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_map(self)
    }
}

struct AsBytes<'a>(&'a [u8]);

impl Serialize for AsBytes<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_bytes(self.0)
    }
}

impl Serialize for OwnedArchive {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut map = out.serialize_map(Some(3))?;
        map.serialize_entry("type", self.name())?;
        map.serialize_entry("fingerprint", &self.fingerprint())?;
        map.serialize_entry("archive", &AsBytes(self.bytes()))?;
        map.end()
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => out.serialize_unit(),
            Self::Bool(value) => out.serialize_bool(*value),
            Self::Int(int) => int.serialize(out),
            Self::Float(float) => out.serialize_f64(*float),
            Self::Str(text) => out.serialize_str(text),
            Self::Bytes(bytes) => out.serialize_bytes(bytes),
            Self::List(items) => out.collect_seq(items),
            Self::Map(map) => map.serialize(out),
            Self::Archived(archive) => archive.serialize(out),
        }
    }
}

/// The visits of integers, which all become one kind.
macro_rules! visit_ints {
    ($($method:ident: $type:ty;)*) => {$(
        fn $method<E: de::Error>(self, n: $type) -> Result<Self::Value, E> {
            Ok(n.into())
        }
    )*};
}

/// The visits of text and bytes.
macro_rules! visit_strings {
    ($kind:ident) => {
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok($kind::Str(text.into()))
        }

        fn visit_string<E: de::Error>(self, text: String) -> Result<Self::Value, E> {
            Ok($kind::Str(text))
        }

        fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
            Ok($kind::Bytes(bytes.into()))
        }

        fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Self::Value, E> {
            Ok($kind::Bytes(bytes))
        }
    };
}

fn visit_items<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(mut seq: A) -> Result<Vec<T>, A::Error> {
    let mut items = Vec::new();
    while let Some(item) = seq.next_element()? {
        items.push(item);
    }
    Ok(items)
}

fn visit_entries<'de, A: MapAccess<'de>>(mut access: A) -> Result<Map, A::Error> {
    let mut map = Map::new();
    while let Some((key, value)) = access.next_entry::<Key, Value>()? {
        map.insert(key, value);
    }
    Ok(map)
}

struct IntVisitor;

impl Visitor<'_> for IntVisitor {
    type Value = Int;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an int")
    }

    visit_ints! {
        visit_i64: i64;
        visit_u64: u64;
        visit_i128: i128;
        visit_u128: u128;
    }
}

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(IntVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key: str, int, bytes, or a tuple of them")
    }

    visit_ints! {
        visit_i64: i64;
        visit_u64: u64;
        visit_i128: i128;
        visit_u128: u128;
    }
    visit_strings!(Key);

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Key, A::Error> {
        visit_items(seq).map(Key::Tuple)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(KeyVisitor)
    }
}

struct MapVisitor;

impl<'de> Visitor<'de> for MapVisitor {
    type Value = Map;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Map, A::Error> {
        visit_entries(map)
    }
}

impl<'de> Deserialize<'de> for Map {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(MapVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    visit_ints! {
        visit_bool: bool;
        visit_i64: i64;
        visit_u64: u64;
        visit_i128: i128;
        visit_u128: u128;
        visit_f64: f64;
    }
    visit_strings!(Value);

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::None)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::None)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        Value::deserialize(from)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        Value::deserialize(from)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Value, A::Error> {
        visit_items(seq).map(Value::List)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        visit_entries(map).map(Value::Map)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ValueVisitor)
    }
}
