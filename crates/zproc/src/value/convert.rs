//! [`Value`] itself as a stored value, and what converts into one.

use super::decode::{Encoded, FromValue};
use super::encode::{Encoder, ToValue};
use super::error::{DecodeError, EncodeError};
use super::{Int, Map, OwnedArchive, Value, tag};
use crate::key::Key;

impl ToValue for Value {
    fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
        match self {
            Self::None => out.none(),
            Self::Bool(value) => value.encode(out),
            Self::Int(int) => int.encode(out),
            Self::Float(float) => float.encode(out),
            Self::Str(text) => text.encode(out),
            Self::Bytes(bytes) => bytes.encode(out),
            Self::List(items) => items.encode(out),
            Self::Map(map) => map.encode(out),
            Self::Archived(archive) => archive.encode(out),
        }
    }

    fn with_encoded<R>(&self, f: impl FnOnce(Encoded<'_>) -> R) -> Result<R, EncodeError> {
        match self {
            Self::None => ().with_encoded(f),
            Self::Bool(value) => value.with_encoded(f),
            Self::Int(int) => int.with_encoded(f),
            Self::Float(float) => float.with_encoded(f),
            Self::Str(text) => text.with_encoded(f),
            Self::Bytes(bytes) => bytes.with_encoded(f),
            Self::List(items) => items.with_encoded(f),
            Self::Map(map) => map.with_encoded(f),
            Self::Archived(archive) => archive.with_encoded(f),
        }
    }
}

impl FromValue for Value {
    fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
        Ok(match encoded.tag() {
            tag::NONE => encoded.get().map(|()| Self::None)?,
            tag::BOOL => Self::Bool(encoded.get()?),
            tag::INT | tag::INT128 | tag::UINT128 => Self::Int(encoded.get()?),
            tag::FLOAT => Self::Float(encoded.get()?),
            tag::STR => Self::Str(encoded.get()?),
            tag::BYTES => Self::Bytes(encoded.get()?),
            tag::LIST => Self::List(encoded.get()?),
            tag::MAP => Self::Map(encoded.get()?),
            tag::ARCHIVED => Self::Archived(encoded.get()?),
            _ => return Err(encoded.wrong_type("value")),
        })
    }
}

macro_rules! value_from {
    ($($type:ty => $value:expr;)*) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                ($value)(value)
            }
        }
    )*};
}
value_from! {
    () => |()| Self::None;
    bool => Self::Bool;
    Int => Self::Int;
    f32 => |float: f32| Self::Float(float.into());
    f64 => Self::Float;
    &str => |text: &str| Self::Str(text.into());
    String => Self::Str;
    &[u8] => |bytes: &[u8]| Self::Bytes(bytes.into());
    Vec<u8> => Self::Bytes;
    Vec<Value> => Self::List;
    Map => Self::Map;
    OwnedArchive => Self::Archived;
}

macro_rules! value_from_ints {
    ($($int:ident)*) => {$(
        impl From<$int> for Value {
            fn from(int: $int) -> Self {
                Self::Int(int.into())
            }
        }
    )*};
}
value_from_ints!(i8 i16 i32 i64 i128 isize u8 u16 u32 u64 u128 usize);

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::None, Into::into)
    }
}

impl From<Key> for Value {
    fn from(key: Key) -> Self {
        match key {
            Key::Str(text) => Self::Str(text),
            Key::Int(int) => Self::Int(int),
            Key::Bytes(bytes) => Self::Bytes(bytes),
            Key::Tuple(keys) => keys.into_iter().collect(),
        }
    }
}

/// Makes a list.
impl<T: Into<Value>> FromIterator<T> for Value {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}
