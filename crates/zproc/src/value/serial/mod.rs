//! Values of any type that has serde's traits, by way of [`Value`].
//!
//! Serde's model becomes the kinds that every program can read, as JSON has it where JSON has it too:
//!
//! | serde | kind |
//! |---|---|
//! | unit, unit struct, `None` | none |
//! | bool; integers; floats; char and str; bytes | bool; int; float; str; bytes |
//! | `Some(x)`, newtype struct | what `x` is |
//! | seq, tuple, tuple struct | list |
//! | map | map; its keys are ints, strs, bytes, tuples of them, or what becomes one of these |
//! | struct | map, by the names of the fields |
//! | variant without contents | str, its name |
//! | variant with contents | map of one entry, from its name to the contents |
//!
//! `to_value` writes, `from_value` reads, and `impls` makes values themselves something that serde can write and read.

mod from_value;
mod impls;
mod to_value;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::decode::{Encoded, FromValue};
use super::encode::{Encoder, ToValue};
use super::error::{DecodeError, EncodeError};
use super::{MAX_NESTING, Value};

/// The value that serde makes of `value`.
///
/// Structs become maps by the names of their fields, so every program can read them; enums become their variant's name, or
/// a map from that to its contents.
///
/// # Errors
/// [`EncodeError::Other`] if the type's implementation fails, or a map has keys that cannot be keys here (floats, bools,
/// none, maps); [`EncodeError::TooDeep`].
///
/// ```
/// use serde::Serialize;
///
/// #[derive(Serialize)]
/// enum Filling { Plain, Jam { sugar: u8 } }
///
/// #[derive(Serialize)]
/// struct Order<'a> { name: &'a str, fillings: Vec<Filling> }
///
/// let order = Order { name: "ann", fillings: vec![Filling::Plain, Filling::Jam { sugar: 3 }] };
/// let value = zproc::to_value(&order)?;
/// assert_eq!(value.to_string(), r#"{"name": "ann", "fillings": ["Plain", {"Jam": {"sugar": 3}}]}"#);
/// # Ok::<(), zproc::EncodeError>(())
/// ```
pub fn to_value<T: Serialize + ?Sized>(value: &T) -> Result<Value, EncodeError> {
    value.serialize(to_value::ToValueOf { room: MAX_NESTING })
}

/// Reads a value as serde reads a `T`.
///
/// # Errors
/// [`DecodeError::Other`] with what the type's implementation says is wrong.
///
/// ```
/// use serde::Deserialize;
/// use zproc::{Map, Value};
///
/// #[derive(Deserialize, Debug, PartialEq)]
/// struct Oven { heat: u16, #[serde(default)] fan: bool }
///
/// let value = Value::from(Map::from([("heat", 180)]));
/// assert_eq!(zproc::from_value::<Oven>(value)?, Oven { heat: 180, fan: false });
/// let error = zproc::from_value::<Oven>(Map::from([("heat", "high")]).into()).unwrap_err();
/// assert_eq!(error.to_string(), r#"expected u16, found string "high""#);
/// # Ok::<(), zproc::DecodeError>(())
/// ```
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, DecodeError> {
    T::deserialize(from_value::OfValue(value))
}

/// A value of a type that has serde's traits: stored as what [`to_value`] makes of it.
///
/// Unlike an rkyv archive it can be read by programs that do not know the type, and is not bound to its layout; but it is
/// read by taking it apart, so it costs many times as much.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use zproc::{Map, Serde, State};
///
/// #[derive(Serialize, Deserialize, Debug, PartialEq)]
/// struct Oven { heat: u16, fan: bool }
///
/// let state = State::anonymous()?;
/// let oven = Oven { heat: 180, fan: true };
/// state.insert("oven", Serde(&oven))?;
/// assert_eq!(state.get::<Serde<Oven>>("oven")?, Some(Serde(oven)));
/// assert_eq!(state.get::<Map>("oven")?.map(|map| map.to_string()), Some(r#"{"heat": 180, "fan": True}"#.into()));
/// # Ok::<(), zproc::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serde<T>(pub T);

impl<T: Serialize> ToValue for Serde<T> {
    fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
        to_value(&self.0)?.encode(out)
    }

    fn with_encoded<R>(&self, f: impl FnOnce(Encoded<'_>) -> R) -> Result<R, EncodeError> {
        to_value(&self.0)?.with_encoded(f)
    }
}

impl<T: DeserializeOwned> FromValue for Serde<T> {
    fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
        from_value(encoded.get()?).map(Self)
    }
}
