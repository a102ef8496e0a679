//! Values, and the bytes that the store keeps for them.
//!
//! The store keeps a value as a tag and some bytes. The bytes are fixed here, so that programs of other versions and in
//! other languages can read them. All numbers are little-endian.
//!
//! | kind | tag | bytes |
//! |---|---|---|
//! | none | 1 | – |
//! | bool | 2 | one, 0 or 1 |
//! | int | 3 | eight: two's complement, for what fits in 64 bits |
//! | int | 4 | sixteen: two's complement, for what does not fit above and does fit in 128 bits |
//! | int | 5 | sixteen: unsigned, from 2^127 to 2^128 − 1 |
//! | float | 6 | eight: IEEE 754 binary64 |
//! | str | 7 | UTF-8 |
//! | bytes | 8 | themselves |
//! | list | 9 | its items, one after another |
//! | map | 10 | its entries in insertion order: key item, value item; no key twice |
//! | rkyv | 11 | a fingerprint of the type in eight; the number of bytes of the archive, and of the name, in four each; the archive; the name of the type in UTF-8 |
//!
//! An *item* is a value inside a list or a map: its tag in one byte; then, for the kinds whose length the table does not
//! give (str, bytes, list, map, rkyv and every reserved one), the number of its bytes in four bytes; then its bytes. For
//! instance `[1, "ab"]` is a list (tag 9) of these bytes:
//!
//! ```text
//! 03  01 00 00 00 00 00 00 00   07  02 00 00 00  61 62
//! int 1                         str len 2        a  b
//! ```
//!
//! The key item of an entry is an int, a str, bytes, or a list of such items (a tuple); see [`Key`].
//!
//! **One value, one form.** Equal bytes under equal tags are equal values, and equal values have equal bytes, so the
//! store can tell without reading values whether an update changes anything. An int takes the first tag that it fits;
//! floats are equal if their bits are, so `NaN` equals itself, `0.0` differs from `-0.0`, and `1` from `1.0`. The
//! exception is the order of a map: it survives storing, and does not count when maps are compared, so maps that differ
//! only in it are equal and have different bytes ([`Encoded::same_value`] treats them as equal). Maps with no order of
//! their own, such as a `HashMap`, are written by ascending key.
//!
//! An rkyv archive is the business of programs that have its type, which is called by a name there; see [`ArchivedValue`].
//! Archives are little-endian, with relative pointers of 32 bits and natural alignment, and lie on a multiple of 64 if the
//! value is not inside of another. Arenas are stamped with these settings ([`VALUE_FORMAT`]), so that programs with
//! others refuse them.
//!
//! **Reading.** Bytes are checked for everything that the table says while they are read. Nothing panics, lists and maps
//! nest at most [`MAX_NESTING`] deep (a tuple that is a key counts for itself), and memory is taken in proportion to the
//! bytes that are there, whatever they claim.

mod archive;
pub(crate) mod archived;
mod collections;
mod convert;
mod decode;
mod display;
mod encode;
mod error;
mod format;
mod int;
mod map;
mod scalars;
mod scratch;
mod serial;
pub mod tag;
#[cfg(test)]
mod tests;

pub use archive::OwnedArchive;
pub(crate) use archive::{ALIGNMENT, TypeStamp, bytes_of_type, of_type};
pub use archived::{ArchivedValue, Rkyv, RkyvType};
pub use decode::{Encoded, Entries, FromValue, Items};
pub(crate) use encode::append_item;
pub use encode::{Encoder, ListEncoder, MapEncoder, ToValue};
pub use error::{DecodeError, EncodeError};
pub use format::VALUE_FORMAT;
pub(crate) use format::describe as describe_format;
pub use int::Int;
pub use map::Map;
pub(crate) use scratch::with_scratch;
pub use serial::{Serde, from_value, to_value};
pub use tag::kind_name;

#[cfg(doc)]
use crate::key::Key;

/// How deep lists and maps may lie in one another.
///
/// ```
/// use zproc::{EncodeError, MAX_NESTING, ToValue, Value};
///
/// let mut value = Value::None;
/// for _ in 0..MAX_NESTING {
///     value = Value::List(vec![value]);
/// }
/// assert!(value.with_encoded(|_| ()).is_ok());
/// assert_eq!(Value::List(vec![value]).with_encoded(|_| ()), Err(EncodeError::TooDeep));
/// ```
pub const MAX_NESTING: u8 = 128;

/// A value of any kind that every program can read.
///
/// Values are compared as the store compares them: integers whatever width they were written in, floats by their bits.
/// Maps are equal in whatever order; see [`Map`].
///
/// ```
/// use zproc::{Map, Value};
///
/// let order = Value::from(Map::from([("cookies", Value::from(5)), ("gift", Value::from(true))]));
/// assert_eq!(order.to_string(), r#"{"cookies": 5, "gift": True}"#);
/// assert_eq!(order.as_map().and_then(|map| map.get("cookies")), Some(&Value::from(5u8)));
/// assert_ne!(Value::from(1), Value::from(1.0));
/// ```
#[derive(Debug, Clone, Default)]
pub enum Value {
    /// No value; what `()` and `Option::None` are stored as.
    #[default]
    None,
    /// True or false.
    Bool(bool),
    /// An integer.
    Int(Int),
    /// A floating-point number.
    Float(f64),
    /// Text.
    Str(String),
    /// A byte string.
    Bytes(Vec<u8>),
    /// A list.
    List(Vec<Value>),
    /// A map.
    Map(Map),
    /// A value of an rkyv type.
    Archived(OwnedArchive),
}

impl Value {
    /// What `value` is stored as.
    ///
    /// ```
    /// use zproc::Value;
    ///
    /// assert_eq!(Value::of(&vec![1, 2])?, Value::List(vec![1.into(), 2.into()]));
    /// # Ok::<(), zproc::DecodeError>(())
    /// ```
    pub fn of<T: ToValue + ?Sized>(value: &T) -> Result<Self, DecodeError> {
        value.with_encoded(Self::from_encoded)?
    }

    /// Reads this value as a `T`.
    ///
    /// ```
    /// use zproc::Value;
    ///
    /// assert_eq!(Value::from(5).to::<u8>()?, 5);
    /// assert_eq!(Value::None.to::<Option<u8>>()?, None);
    /// # Ok::<(), zproc::DecodeError>(())
    /// ```
    pub fn to<T: FromValue>(&self) -> Result<T, DecodeError> {
        self.with_encoded(T::from_encoded)?
    }

    /// The name of the kind of value.
    ///
    /// ```
    /// assert_eq!(zproc::Value::from("open").kind(), "str");
    /// ```
    pub const fn kind(&self) -> &'static str {
        kind_name(match self {
            Self::None => tag::NONE,
            Self::Bool(_) => tag::BOOL,
            Self::Int(_) => tag::INT,
            Self::Float(_) => tag::FLOAT,
            Self::Str(_) => tag::STR,
            Self::Bytes(_) => tag::BYTES,
            Self::List(_) => tag::LIST,
            Self::Map(_) => tag::MAP,
            Self::Archived(_) => tag::ARCHIVED,
        })
    }

    /// Whether this is none.
    ///
    /// ```
    /// assert!(zproc::Value::from(None::<i64>).is_none());
    /// ```
    pub const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

macro_rules! accessors {
    ($($(#[$doc:meta])* $name:ident: $variant:ident($pattern:pat) => $value:expr, $type:ty, $from:literal is $some:literal;)*) => {
        impl Value {$(
            $(#[$doc])*
            ///
            /// ```
            /// use zproc::{Map, Value};
            ///
            #[doc = concat!("assert_eq!(Value::from(", $from, ").", stringify!($name), "(), Some(", $some, "));")]
            #[doc = concat!("assert_eq!(Value::None.", stringify!($name), "(), None);")]
            /// ```
            pub fn $name(&self) -> Option<$type> {
                match self {
                    Self::$variant($pattern) => Some($value),
                    _ => None,
                }
            }
        )*}
    };
}
accessors! {
    /// The bool, if this is one.
    as_bool: Bool(value) => *value, bool, "true" is "true";
    /// The integer, if this is one.
    as_int: Int(int) => *int, Int, "5" is "5.into()";
    /// The floating-point number, if this is one.
    as_float: Float(float) => *float, f64, "0.5" is "0.5";
    /// The text, if this is text.
    as_str: Str(text) => text, &str, "\"open\"" is "\"open\"";
    /// The byte string, if this is one.
    as_bytes: Bytes(bytes) => bytes, &[u8], "&b\"open\"[..]" is "&b\"open\"[..]";
    /// The items, if this is a list.
    as_list: List(items) => items, &[Value], "vec![Value::from(5)]" is "&[5.into()][..]";
    /// The map, if this is one.
    as_map: Map(map) => map, &Map, "Map::from([(\"a\", 5)])" is "&Map::from([(\"a\", 5)])";
}

/// Floats are equal if their bits are, as they are for the store.
impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Str(a), Self::Str(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::List(a), Self::List(b)) => a == b,
            (Self::Map(a), Self::Map(b)) => a == b,
            (Self::Archived(a), Self::Archived(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Value {}
