//! Serde's deserializer that reads a [`Value`].

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, Expected, IntoDeserializer, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use crate::key::Key;
use crate::value::{DecodeError, Int, Map, Value};

impl Error for DecodeError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::other(message)
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::other(format_args!("expected {expected}, found {found}"))
    }
}

type Result<T, E = DecodeError> = std::result::Result<T, E>;

/// A value that is read.
pub struct OfValue(pub Value);

/// A key that is read.
pub struct OfKey(Key);

impl<'de> IntoDeserializer<'de, DecodeError> for Value {
    type Deserializer = OfValue;

    fn into_deserializer(self) -> OfValue {
        OfValue(self)
    }
}

impl<'de> IntoDeserializer<'de, DecodeError> for Key {
    type Deserializer = OfKey;

    fn into_deserializer(self) -> OfKey {
        OfKey(self)
    }
}

/// In the narrowest form that it fits, since many visitors do not know the wide ones.
fn visit_int<'de, V: Visitor<'de>>(int: Int, visitor: V) -> Result<V::Value> {
    if let Ok(n) = u64::try_from(int) {
        visitor.visit_u64(n)
    } else if let Ok(n) = i64::try_from(int) {
        visitor.visit_i64(n)
    } else if let Ok(n) = i128::try_from(int) {
        visitor.visit_i128(n)
    } else {
        visitor.visit_u128(u128::try_from(int)?)
    }
}

fn visit_items<'de, T, V: Visitor<'de>>(items: Vec<T>, visitor: V) -> Result<V::Value>
where
    T: IntoDeserializer<'de, DecodeError>,
{
    let mut items = SeqDeserializer::new(items.into_iter());
    let read = visitor.visit_seq(&mut items)?;
    items.end()?;
    Ok(read)
}

fn visit_map<'de, V: Visitor<'de>>(map: Map, visitor: V) -> Result<V::Value> {
    let mut entries = MapDeserializer::new(map.into_iter());
    let read = visitor.visit_map(&mut entries)?;
    entries.end()?;
    Ok(read)
}

/// An archive as a map of what there is to know: what it is of would have to be known to read it.
fn archive_as_map(archive: &crate::value::OwnedArchive) -> Map {
    Map::from([
        ("type", Value::from(archive.name())),
        ("fingerprint", archive.fingerprint().into()),
        ("archive", archive.bytes().into()),
    ])
}

impl<'de> Deserializer<'de> for OfValue {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0 {
            Value::None => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Int(int) => visit_int(int, visitor),
            Value::Float(float) => visitor.visit_f64(float),
            Value::Str(text) => visitor.visit_string(text),
            Value::Bytes(bytes) => visitor.visit_byte_buf(bytes),
            Value::List(items) => visit_items(items, visitor),
            Value::Map(map) => visit_map(map, visitor),
            Value::Archived(archive) => visit_map(archive_as_map(&archive), visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0 {
            Value::None => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    /// A `Vec<u8>` asks for a sequence.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0 {
            Value::Bytes(bytes) => visit_items(bytes, visitor),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        let (variant, contents) = match self.0 {
            Value::Str(variant) => (Key::Str(variant), None),
            Value::Map(map) if map.len() == 1 => match map.into_iter().next() {
                Some((variant, contents)) => (variant, Some(contents)),
                None => return Err(DecodeError::other("expected a variant, found an empty map")),
            },
            other => {
                return Err(DecodeError::other(format_args!(
                    "expected a variant, which is a str or a map of one entry, found {}",
                    other.kind()
                )));
            }
        };
        visitor.visit_enum(Variant { variant, contents })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        tuple_struct map struct identifier
    }
}

impl<'de> Deserializer<'de> for OfKey {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0 {
            Key::Str(text) => visitor.visit_string(text),
            Key::Int(int) => visit_int(int, visitor),
            Key::Bytes(bytes) => visitor.visit_byte_buf(bytes),
            Key::Tuple(keys) => visit_items(keys, visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_enum(Variant {
            variant: self.0,
            contents: None,
        })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// A variant of an enum.
struct Variant {
    variant: Key,
    contents: Option<Value>,
}

impl<'de> EnumAccess<'de> for Variant {
    type Error = DecodeError;
    type Variant = Contents;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Contents)> {
        let variant = seed.deserialize(OfKey(self.variant))?;
        Ok((variant, Contents(self.contents)))
    }
}

/// What a variant has inside.
struct Contents(Option<Value>);

impl Contents {
    fn some(self, expected: &str) -> Result<OfValue> {
        match self.0 {
            Some(contents) => Ok(OfValue(contents)),
            None => Err(DecodeError::other(format_args!(
                "expected {expected}, found a variant without contents"
            ))),
        }
    }
}

impl<'de> VariantAccess<'de> for Contents {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<()> {
        match self.0 {
            None | Some(Value::None) => Ok(()),
            Some(contents) => Err(DecodeError::other(format_args!(
                "expected a variant without contents, found one with {}",
                contents.kind()
            ))),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value> {
        seed.deserialize(self.some("a variant with a value")?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value> {
        self.some("a variant with a list")?.deserialize_tuple(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value> {
        self.some("a variant with fields")?
            .deserialize_struct("", fields, visitor)
    }
}
