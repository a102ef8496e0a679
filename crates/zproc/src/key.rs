//! Keys: what a value is stored under.
//!
//! A key is text, an integer, a byte string, or a tuple of keys. The store knows it by a tag of one byte and some bytes,
//! which are those of the value that the key would be (see [`tag`](crate::tag)): the text in UTF-8; eight or sixteen
//! bytes of an integer; the byte string; the components of a tuple one after another, each with its tag and, for text,
//! byte strings and tuples, a length of four bytes before it.
//!
//! Keys are equal exactly if their tags and bytes are: every number, whatever its width, and every text has one form.
//! The text `"1"`, the number `1` and the byte string `b"1"` are three keys.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use indexmap::Equivalent;

use crate::value::tag::key::{BYTES, INT, INT128, STR, TUPLE, UINT128};
use crate::value::{DecodeError, EncodeError, Encoded, Encoder, FromValue, Int, ToValue, append_item, with_scratch};

/// An owned key.
///
/// Keys order by kind (text, numbers, byte strings, tuples) and then as Rust orders them.
///
/// ```
/// use zproc::Key;
///
/// let key = Key::from(("user", 5));
/// assert_eq!(key, Key::from(("user".to_string(), 5u64)));
/// assert_eq!(key.to_string(), r#"("user", 5)"#);
/// assert!(Key::from("a") < Key::from("b"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Text.
    Str(String),
    /// An integer.
    Int(Int),
    /// A byte string.
    Bytes(Vec<u8>),
    /// A tuple of keys.
    Tuple(Vec<Key>),
}

/// A type whose values can be keys: text, integers, byte strings, and tuples of one to four of them.
///
/// A type of your own passes on to one of these:
///
/// ```
/// use zproc::{EncodeError, Key, ToKey};
///
/// struct UserId(u64);
///
/// impl ToKey for UserId {
///     fn with_key<R>(&self, f: impl FnOnce(u8, &[u8]) -> R) -> Result<R, EncodeError> {
///         ("user", self.0).with_key(f)
///     }
/// }
///
/// assert_eq!(UserId(5).to_key()?, Key::from(("user", 5)));
/// # Ok::<(), zproc::DecodeError>(())
/// ```
pub trait ToKey {
    /// Calls `f` with the tag and the bytes of this key.
    ///
    /// Text and byte strings stay where they are, an integer lies on the stack meanwhile, and a tuple is put together in
    /// a buffer that the thread keeps.
    ///
    /// ```
    /// use zproc::{ToKey, tag};
    ///
    /// "cookies".with_key(|tag, bytes| assert_eq!((tag, bytes), (tag::key::STR, &b"cookies"[..])))?;
    /// # Ok::<(), zproc::EncodeError>(())
    /// ```
    fn with_key<R>(&self, f: impl FnOnce(u8, &[u8]) -> R) -> Result<R, EncodeError>;

    /// This key as an owned one.
    ///
    /// ```
    /// use zproc::{Key, ToKey};
    ///
    /// assert_eq!(("user", 5).to_key()?, Key::from(("user", 5)));
    /// # Ok::<(), zproc::DecodeError>(())
    /// ```
    fn to_key(&self) -> Result<Key, DecodeError> {
        self.with_key(Key::decode)?
    }
}

/// A type that keys can be read as.
///
/// ```
/// use zproc::{FromKey, Key, tag};
///
/// assert_eq!(String::from_key(tag::key::STR, b"cookies")?, "cookies");
/// assert_eq!(Key::from_key(tag::key::STR, b"cookies")?, Key::from("cookies"));
/// let error = u8::from_key(tag::key::STR, b"cookies").unwrap_err();
/// assert_eq!(error.to_string(), r#"expected u8, found str "cookies""#);
/// # Ok::<(), zproc::DecodeError>(())
/// ```
pub trait FromKey: Sized {
    /// Reads the key that the store holds as `tag` and `bytes`.
    ///
    /// ```
    /// use zproc::{FromKey, ToKey};
    ///
    /// let user = ("user", 5).with_key(<(String, u64)>::from_key)??;
    /// assert_eq!(user, ("user".to_string(), 5));
    /// # Ok::<(), zproc::DecodeError>(())
    /// ```
    fn from_key(tag: u8, bytes: &[u8]) -> Result<Self, DecodeError>;
}

impl Key {
    /// Reads the key that the store holds as `tag` and `bytes`.
    ///
    /// ```
    /// use zproc::{Key, tag};
    ///
    /// assert_eq!(Key::decode(tag::key::INT, &5i64.to_le_bytes())?, Key::from(5));
    /// assert!(Key::decode(tag::key::STR, b"\xff").is_err());
    /// # Ok::<(), zproc::DecodeError>(())
    /// ```
    pub fn decode(tag: u8, bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::from_encoded(Encoded::new(tag.into(), bytes))
    }

    /// The text, if this is text.
    ///
    /// ```
    /// assert_eq!(zproc::Key::from("cookies").as_str(), Some("cookies"));
    /// ```
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if this is an integer.
    ///
    /// ```
    /// assert_eq!(zproc::Key::from(5).as_int(), Some(zproc::Int::from(5)));
    /// ```
    pub fn as_int(&self) -> Option<Int> {
        match self {
            Self::Int(int) => Some(*int),
            _ => None,
        }
    }
}

impl ToKey for Key {
    fn with_key<R>(&self, f: impl FnOnce(u8, &[u8]) -> R) -> Result<R, EncodeError> {
        match self {
            Self::Str(text) => text.with_key(f),
            Self::Int(int) => int.with_key(f),
            Self::Bytes(bytes) => bytes.with_key(f),
            Self::Tuple(_) => self.with_encoded(|list| f(TUPLE, list.bytes())),
        }
    }
}

impl ToValue for Key {
    fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
        match self {
            Self::Str(text) => out.str(text),
            Self::Int(int) => out.int(*int),
            Self::Bytes(bytes) => out.bytes(bytes),
            Self::Tuple(keys) => out.list(|list| keys.iter().try_for_each(|key| list.push(key))),
        }
    }
}

impl FromKey for Key {
    fn from_key(tag: u8, bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode(tag, bytes)
    }
}

impl FromValue for Key {
    fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
        Ok(match u8::try_from(encoded.tag()) {
            Ok(STR) => Self::Str(encoded.get()?),
            Ok(INT | INT128 | UINT128) => Self::Int(encoded.get()?),
            Ok(BYTES) => Self::Bytes(encoded.get()?),
            Ok(TUPLE) => Self::Tuple(encoded.get()?),
            _ => return Err(encoded.wrong_type("key")),
        })
    }
}

/// Goes by the tag and the bytes, so that a borrowed key can be looked up in a map of owned ones.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // A key that has no form as bytes cannot be stored; that all of those collide does no harm.
        let _ = self.with_key(|tag, bytes| Lookup { tag, bytes }.hash(state));
    }
}

/// A borrowed key that finds an equal [`Key`] in a map.
#[derive(Clone, Copy)]
pub(crate) struct Lookup<'a> {
    pub(crate) tag: u8,
    pub(crate) bytes: &'a [u8],
}

impl Hash for Lookup<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u8(self.tag);
        state.write(self.bytes);
    }
}

impl Equivalent<Key> for Lookup<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        key.with_key(|tag, bytes| tag == self.tag && bytes == self.bytes)
            .unwrap_or(false)
    }
}

/// As Python writes it, but for the quotes, which are double: `("user", 5)`.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Str(text) => write!(f, "{text:?}"),
            Self::Int(int) => write!(f, "{int}"),
            Self::Bytes(bytes) => write!(f, "b\"{}\"", bytes.escape_ascii()),
            Self::Tuple(keys) => {
                f.write_str("(")?;
                for (i, key) in keys.iter().enumerate() {
                    write!(f, "{}{key}", if i > 0 { ", " } else { "" })?;
                }
                f.write_str(if keys.len() == 1 { ",)" } else { ")" })
            }
        }
    }
}

impl ToKey for str {
    #[inline(always)]
    fn with_key<R>(&self, f: impl FnOnce(u8, &[u8]) -> R) -> Result<R, EncodeError> {
        Ok(f(STR, self.as_bytes()))
    }
}

impl ToKey for String {
    #[inline(always)]
    fn with_key<R>(&self, f: impl FnOnce(u8, &[u8]) -> R) -> Result<R, EncodeError> {
        self.as_str().with_key(f)
    }
}

impl ToKey for [u8] {
    #[inline(always)]
    fn with_key<R>(&self, f: impl FnOnce(u8, &[u8]) -> R) -> Result<R, EncodeError> {
        Ok(f(BYTES, self))
    }
}

impl ToKey for Vec<u8> {
    #[inline(always)]
    fn with_key<R>(&self, f: impl FnOnce(u8, &[u8]) -> R) -> Result<R, EncodeError> {
        self.as_slice().with_key(f)
    }
}

impl<const N: usize> ToKey for [u8; N] {
    #[inline(always)]
    fn with_key<R>(&self, f: impl FnOnce(u8, &[u8]) -> R) -> Result<R, EncodeError> {
        self.as_slice().with_key(f)
    }
}

impl ToKey for Int {
    #[inline(always)]
    fn with_key<R>(&self, f: impl FnOnce(u8, &[u8]) -> R) -> Result<R, EncodeError> {
        Ok(self.with_bytes(|tag, bytes| f(tag as u8, bytes)))
    }
}

macro_rules! to_key_for_ints {
    ($($int:ident)*) => {$(
        impl ToKey for $int {
            #[inline(always)]
            fn with_key<R>(&self, f: impl FnOnce(u8, &[u8]) -> R) -> Result<R, EncodeError> {
                Int::from(*self).with_key(f)
            }
        }

        impl From<$int> for Key {
            fn from(int: $int) -> Self {
                Self::Int(int.into())
            }
        }
    )*};
}
to_key_for_ints!(i8 i16 i32 i64 i128 isize u8 u16 u32 u64 u128 usize);

macro_rules! to_key_for_pointers {
    ($([$($generics:tt)*] $pointer:ty;)*) => {$(
        impl<$($generics)*> ToKey for $pointer {
            #[inline(always)]
            fn with_key<R>(&self, f: impl FnOnce(u8, &[u8]) -> R) -> Result<R, EncodeError> {
                (**self).with_key(f)
            }
        }
    )*};
}
to_key_for_pointers! {
    [T: ToKey + ?Sized] &T;
    [T: ToKey + ?Sized] &mut T;
    [T: ToKey + ?Sized] Box<T>;
    [T: ToKey + ?Sized] Rc<T>;
    [T: ToKey + ?Sized] Arc<T>;
    [T: ToKey + ToOwned + ?Sized] Cow<'_, T>;
}

macro_rules! from_key_for {
    ($([$($generics:tt)*] $type:ty;)*) => {$(
        impl<$($generics)*> FromKey for $type {
            #[inline]
            fn from_key(tag: u8, bytes: &[u8]) -> Result<Self, DecodeError> {
                Self::decode(tag.into(), bytes)
            }
        }
    )*};
}
from_key_for! {
    [] i8; [] i16; [] i32; [] i64; [] i128; [] isize;
    [] u8; [] u16; [] u32; [] u64; [] u128; [] usize; [] Int;
    [] String; [] Box<str>; [] Vec<u8>;
    [const N: usize] [u8; N];
}

/// Appends a component of a tuple.
#[inline]
fn append_component<K: ToKey + ?Sized>(buffer: &mut Vec<u8>, key: &K) -> Result<(), EncodeError> {
    key.with_key(|tag, bytes| {
        if tag == TUPLE {
            check_nesting(Encoded::nested_key(bytes)).map_err(|_| EncodeError::TooDeep)?;
        }
        append_item(buffer, tag.into(), bytes)
    })?
}

/// Fails for tuples that lie too deep in one another, which each by itself does not show.
fn check_nesting(key: Encoded<'_>) -> Result<(), DecodeError> {
    match u8::try_from(key.tag()) {
        Ok(TUPLE) => key.items()?.try_for_each(|item| check_nesting(item?)),
        _ => Ok(()),
    }
}

macro_rules! key_tuples {
    ($($len:literal: $($name:ident $field:tt)*;)*) => {$(
        impl<$($name: ToKey),*> ToKey for ($($name,)*) {
            #[inline(always)]
            fn with_key<R>(&self, f: impl FnOnce(u8, &[u8]) -> R) -> Result<R, EncodeError> {
                with_scratch(|buffer| {
                    $(append_component(buffer, &self.$field)?;)*
                    Ok(f(TUPLE, buffer))
                })
            }
        }

        impl<$($name: FromKey),*> FromKey for ($($name,)*) {
            fn from_key(tag: u8, bytes: &[u8]) -> Result<Self, DecodeError> {
                let mut items = Encoded::new(tag.into(), bytes).items_for("tuple")?.exactly($len);
                let tuple = ($(items.next()?.get_key::<$name>()?,)*);
                items.end()?;
                Ok(tuple)
            }
        }

        impl<$($name: Into<Key>),*> From<($($name,)*)> for Key {
            fn from(tuple: ($($name,)*)) -> Self {
                Self::Tuple(vec![$(tuple.$field.into()),*])
            }
        }
    )*};
}
key_tuples! {
    1: A 0;
    2: A 0 B 1;
    3: A 0 B 1 C 2;
    4: A 0 B 1 C 2 D 3;
}

macro_rules! key_from {
    ($([$($generics:tt)*] $type:ty => $key:expr;)*) => {$(
        impl<$($generics)*> From<$type> for Key {
            fn from(value: $type) -> Self {
                ($key)(value)
            }
        }
    )*};
}
key_from! {
    [] &str => |text: &str| Key::Str(text.into());
    [] String => Key::Str;
    [] &String => |text: &String| Key::Str(text.clone());
    [] Box<str> => |text: Box<str>| Key::Str(text.into());
    [] Cow<'_, str> => |text: Cow<'_, str>| Key::Str(text.into_owned());
    [] Int => Key::Int;
    [] &[u8] => |bytes: &[u8]| Key::Bytes(bytes.into());
    [] Vec<u8> => Key::Bytes;
    [const N: usize] [u8; N] => |bytes: [u8; N]| Key::Bytes(bytes.into());
    [const N: usize] &[u8; N] => |bytes: &[u8; N]| Key::Bytes(bytes.into());
    [] Vec<Key> => Key::Tuple;
    [] &Key => Key::clone;
}
