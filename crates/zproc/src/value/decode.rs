//! Reading values from bytes, which may be anything at all.

use std::fmt;

use shm_state::FixedSize;

use super::error::DecodeError;
use super::{MAX_NESTING, Value, kind_name, tag};
use crate::key::FromKey;

/// A type that stored values can be read as.
///
/// Every type that is stored without borrowing can be read back; the table is at [`ToValue`](crate::ToValue).
/// An integer is read as any width that it fits in, none only as `()` or an `Option`, a float as an `f32` by rounding.
/// `1` is not read as a float, nor `1.0` as an integer. [`Value`] takes whatever there is.
///
/// ```
/// use zproc::{DecodeError, Encoded, FromValue, Value};
///
/// #[derive(Debug, PartialEq)]
/// struct Point { x: i32, y: i32 }
///
/// impl FromValue for Point {
///     fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
///         let (x, y) = encoded.get()?;
///         Ok(Point { x, y })
///     }
/// }
///
/// assert_eq!(Value::of(&[3, 4])?.to::<Point>()?, Point { x: 3, y: 4 });
/// let error = Value::of("open")?.to::<i64>().unwrap_err();
/// assert_eq!(error.to_string(), r#"expected i64, found str "open""#);
/// # Ok::<(), zproc::DecodeError>(())
/// ```
pub trait FromValue: Sized {
    /// Reads a value.
    ///
    /// ```
    /// use zproc::{Encoded, FromValue, tag};
    ///
    /// assert_eq!(String::from_encoded(Encoded::new(tag::STR, b"open"))?, "open");
    /// assert!(u8::from_encoded(Encoded::new(tag::STR, b"open")).is_err());
    /// # Ok::<(), zproc::DecodeError>(())
    /// ```
    fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError>;

    /// Reads the value that the store holds as `tag` and `bytes`.
    ///
    /// ```
    /// use zproc::{FromValue, tag};
    ///
    /// assert_eq!(u8::decode(tag::INT, &7i64.to_le_bytes())?, 7);
    /// # Ok::<(), zproc::DecodeError>(())
    /// ```
    #[inline]
    fn decode(tag: u16, bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::from_encoded(Encoded::new(tag, bytes))
    }

    /// How many bytes values of this type have, if they all have as many, and how many of them are wanted: then they are
    /// read on a straight path.
    #[doc(hidden)]
    const FIXED_SIZE: Option<FixedSize> = None;

    /// Reads a value from the bytes that are wanted; `None` sends to [`FromValue::from_encoded`], also where there is an error to be told.
    ///
    /// Whatever this calls is inlined: if anybody else got to see the bytes, they would have to be in memory.
    #[doc(hidden)]
    #[inline(always)]
    fn from_fixed(_: Encoded<'_>) -> Option<Self> {
        None
    }

    /// Whether arrays of this type are byte strings.
    #[doc(hidden)]
    const IS_BYTE: bool = false;

    /// Reads a vector of this type: from a list, unless they are bytes.
    #[doc(hidden)]
    fn vec_from_encoded(encoded: Encoded<'_>) -> Result<Vec<Self>, DecodeError> {
        let items = encoded.items_for("list")?;
        let mut out = Vec::with_capacity(items.guess_len::<Self>());
        for item in items {
            out.push(item?.get()?);
        }
        Ok(out)
    }

    /// As [`FromValue::from_fixed`], for an array of this type.
    #[doc(hidden)]
    #[inline(always)]
    fn array_from_fixed<const N: usize>(_: Encoded<'_>) -> Option<[Self; N]> {
        None
    }

    /// Reads an array of this type: from a list, unless they are bytes.
    #[doc(hidden)]
    fn array_from_encoded<const N: usize>(encoded: Encoded<'_>) -> Result<[Self; N], DecodeError> {
        let mut items = encoded.items_for("list")?.exactly(N);
        // On the stack: reading a fixed number of items allocates nothing.
        let mut read = [const { None }; N];
        for place in &mut read {
            *place = Some(items.next()?.get()?);
        }
        items.end()?;
        Ok(read.map(|item: Option<Self>| item.expect("each was read just now")))
    }
}

/// Longest value that is read on a straight path, in bytes: a few registers' worth of words at a time.
const STRAIGHT_MAX: usize = 256;

/// The size of a type of which all values have one, if it is worth a path of its own.
pub(crate) const fn straight(size: FixedSize) -> Option<FixedSize> {
    if size.head > 2 * size_of::<u64>() && size.head <= STRAIGHT_MAX {
        Some(size)
    } else {
        None
    }
}

/// A value as the store has it: a tag, which says the kind, and bytes, not yet checked.
///
/// ```
/// use zproc::{Encoded, tag};
///
/// let encoded = Encoded::new(tag::STR, b"open");
/// assert_eq!(encoded.kind(), "str");
/// assert_eq!(encoded.get::<String>()?, "open");
/// # Ok::<(), zproc::DecodeError>(())
/// ```
#[derive(Clone, Copy)]
pub struct Encoded<'a> {
    tag: u16,
    /// How many lists and maps are around this value.
    depth: u8,
    bytes: &'a [u8],
}

impl<'a> Encoded<'a> {
    /// The value that the store holds as `tag` and `bytes`.
    ///
    /// ```
    /// use zproc::{Encoded, tag};
    ///
    /// assert!(Encoded::new(tag::BOOL, &[1]).get::<bool>()?);
    /// # Ok::<(), zproc::DecodeError>(())
    /// ```
    #[inline]
    pub const fn new(tag: u16, bytes: &'a [u8]) -> Self {
        Self { tag, depth: 0, bytes }
    }

    /// A tuple that is a component of a key.
    pub(crate) const fn nested_key(bytes: &'a [u8]) -> Self {
        Self {
            tag: tag::LIST,
            depth: 1,
            bytes,
        }
    }

    /// The tag; see [`tag`].
    ///
    /// ```
    /// use zproc::{ToValue, tag};
    ///
    /// assert_eq!(0.5.with_encoded(|encoded| encoded.tag())?, tag::FLOAT);
    /// # Ok::<(), zproc::EncodeError>(())
    /// ```
    #[inline]
    pub const fn tag(self) -> u16 {
        self.tag
    }

    /// The bytes.
    ///
    /// ```
    /// use zproc::ToValue;
    ///
    /// assert_eq!("open".with_encoded(|encoded| encoded.bytes().to_vec())?, b"open");
    /// # Ok::<(), zproc::EncodeError>(())
    /// ```
    #[inline]
    pub const fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// The name of the kind of value.
    ///
    /// ```
    /// use zproc::ToValue;
    ///
    /// assert_eq!([1, 2].with_encoded(|encoded| encoded.kind())?, "list");
    /// # Ok::<(), zproc::EncodeError>(())
    /// ```
    pub const fn kind(self) -> &'static str {
        kind_name(self.tag)
    }

    /// Reads the value as a `T`.
    ///
    /// ```
    /// use zproc::ToValue;
    ///
    /// assert_eq!(7u64.with_encoded(|encoded| encoded.get::<u8>())??, 7);
    /// # Ok::<(), zproc::DecodeError>(())
    /// ```
    #[inline]
    pub fn get<T: FromValue>(self) -> Result<T, DecodeError> {
        T::from_encoded(self)
    }

    /// Reads the key of an entry as a `K`.
    ///
    /// ```
    /// use zproc::{Map, ToValue};
    ///
    /// let map = Map::from([(("user", 5), "ann")]);
    /// let key = map.with_encoded(|encoded| {
    ///     let (key, _) = encoded.entries()?.next().expect("one entry")?;
    ///     key.get_key::<(String, u64)>()
    /// })??;
    /// assert_eq!(key, ("user".to_string(), 5));
    /// # Ok::<(), zproc::DecodeError>(())
    /// ```
    pub fn get_key<K: FromKey>(self) -> Result<K, DecodeError> {
        match u8::try_from(self.tag) {
            Ok(tag) => K::from_key(tag, self.bytes),
            Err(_) => Err(self.wrong_type("key")),
        }
    }

    /// The items of a list.
    ///
    /// ```
    /// use zproc::ToValue;
    ///
    /// let sum = (1, 2).with_encoded(|encoded| {
    ///     encoded.items()?.map(|item| item?.get::<i64>()).sum::<Result<i64, zproc::DecodeError>>()
    /// })??;
    /// assert_eq!(sum, 3);
    /// # Ok::<(), zproc::DecodeError>(())
    /// ```
    #[inline]
    pub fn items(self) -> Result<Items<'a>, DecodeError> {
        self.items_for("list")
    }

    /// The items of a list for a reader who wanted an `expected`.
    #[inline]
    pub(crate) fn items_for(self, expected: &'static str) -> Result<Items<'a>, DecodeError> {
        self.nested(tag::LIST, expected)
    }

    /// The entries of a map: key and value.
    ///
    /// ```
    /// use std::collections::BTreeMap;
    /// use zproc::ToValue;
    ///
    /// let ages = BTreeMap::from([("ann", 41), ("bob", 37)]);
    /// let first = ages.with_encoded(|encoded| {
    ///     let (key, value) = encoded.entries()?.next().expect("two entries")?;
    ///     Ok::<_, zproc::DecodeError>((key.get_key::<String>()?, value.get::<u8>()?))
    /// })??;
    /// assert_eq!(first, ("ann".to_string(), 41));
    /// # Ok::<(), zproc::DecodeError>(())
    /// ```
    pub fn entries(self) -> Result<Entries<'a>, DecodeError> {
        self.nested(tag::MAP, "map").map(|items| Entries { items })
    }

    #[inline]
    fn nested(self, tag: u16, expected: &'static str) -> Result<Items<'a>, DecodeError> {
        if self.tag != tag {
            return Err(self.wrong_type(expected));
        }
        if self.depth >= MAX_NESTING {
            return Err(DecodeError::TooDeep);
        }
        Ok(Items {
            tag,
            depth: self.depth + 1,
            rest: self.bytes,
        })
    }

    /// Whether `other` is an equal value of the same kind.
    ///
    /// Equal bytes are always equal values. The reverse holds too, but for maps that have the same entries in another
    /// order: those are equal and have different bytes.
    ///
    /// ```
    /// use zproc::{Encoded, Map, ToValue};
    ///
    /// let ab = Map::from_iter([("a", 1), ("b", 2)]);
    /// let ba = Map::from_iter([("b", 2), ("a", 1)]);
    /// let equal = ab.with_encoded(|ab| ba.with_encoded(|ba| (ab.bytes() == ba.bytes(), ab.same_value(ba))))??;
    /// assert_eq!(equal, (false, true));
    /// # Ok::<(), zproc::EncodeError>(())
    /// ```
    pub fn same_value(self, other: Encoded<'_>) -> bool {
        if self.tag != other.tag || self.bytes.len() != other.bytes.len() {
            return false;
        }
        if self.bytes == other.bytes {
            return true;
        }
        let reordered = || Some(self.get::<Value>().ok()? == other.get::<Value>().ok()?);
        matches!(self.tag, tag::LIST | tag::MAP) && reordered().unwrap_or(false)
    }

    /// The error for a reader who wanted an `expected` and found this.
    ///
    /// ```
    /// use zproc::{DecodeError, Encoded, FromValue, Value};
    ///
    /// #[derive(Debug)]
    /// enum Door { Open, Shut }
    ///
    /// impl FromValue for Door {
    ///     fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
    ///         match encoded.get::<String>()?.as_str() {
    ///             "open" => Ok(Door::Open),
    ///             "shut" => Ok(Door::Shut),
    ///             _ => Err(encoded.wrong_type("door (open or shut)")),
    ///         }
    ///     }
    /// }
    ///
    /// assert!(matches!(Value::from("shut").to()?, Door::Shut));
    /// let error = Value::from("ajar").to::<Door>().unwrap_err();
    /// assert_eq!(error.to_string(), r#"expected door (open or shut), found str "ajar""#);
    /// # Ok::<(), zproc::DecodeError>(())
    /// ```
    #[cold]
    pub fn wrong_type(self, expected: &'static str) -> DecodeError {
        if self.kind() == "unknown" {
            return DecodeError::UnknownTag {
                expected,
                tag: self.tag,
            };
        }
        DecodeError::WrongType {
            expected,
            found: super::display::preview(self).into(),
        }
    }
}

impl fmt::Debug for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tag, bytes, .. } = self;
        write!(f, "Encoded({tag}, {})", super::display::Bytes(bytes))
    }
}

/// The items of a list, as [`Encoded::items`] gives them. After an error there are no more.
///
/// ```
/// use zproc::ToValue;
///
/// let lengths: Result<Vec<usize>, zproc::DecodeError> = vec!["a", "bcd"].with_encoded(|encoded| {
///     encoded.items()?.map(|item| Ok(item?.bytes().len())).collect()
/// })?;
/// assert_eq!(lengths?, [1, 3]);
/// # Ok::<(), zproc::DecodeError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Items<'a> {
    /// What the items are inside of: a list or a map.
    tag: u16,
    depth: u8,
    rest: &'a [u8],
}

impl<'a> Items<'a> {
    /// Whether there are no more.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// How much room to make for items that become a `T` each: right for items of one length, and never more memory
    /// than the bytes themselves take.
    pub(crate) fn guess_len<T>(&self) -> usize {
        let first = self.split().map_or(1, |(_, rest)| self.rest.len() - rest.len());
        (self.rest.len() / first.max(1)).min(self.rest.len() / size_of::<T>().max(1))
    }

    /// Takes the first item off; `None` if it is not whole.
    #[inline]
    fn split(&self) -> Option<(Encoded<'a>, &'a [u8])> {
        let (&tag, rest) = self.rest.split_first()?;
        let tag = u16::from(tag);
        let (len, rest) = match tag::payload_len(tag) {
            Some(len) => (len, rest),
            None => {
                let (len, rest) = rest.split_first_chunk()?;
                (usize::try_from(u32::from_le_bytes(*len)).ok()?, rest)
            }
        };
        let (bytes, rest) = rest.split_at_checked(len)?;
        Some((
            Encoded {
                tag,
                depth: self.depth,
                bytes,
            },
            rest,
        ))
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<Encoded<'a>, DecodeError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let Some((item, rest)) = self.split() else {
            self.rest = &[];
            return Some(Err(DecodeError::malformed(self.tag, "it ends within an item")));
        };
        self.rest = rest;
        Some(Ok(item))
    }
}

/// The entries of a map, as [`Encoded::entries`] gives them. After an error there are no more.
///
/// ```
/// use zproc::{Map, ToValue};
///
/// let total = Map::from([("flour", 3), ("sugar", 2)]).with_encoded(|encoded| {
///     let mut total = 0;
///     for entry in encoded.entries()? {
///         let (_, value) = entry?;
///         total += value.get::<u32>()?;
///     }
///     Ok::<_, zproc::DecodeError>(total)
/// })??;
/// assert_eq!(total, 5);
/// # Ok::<(), zproc::DecodeError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    items: Items<'a>,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<(Encoded<'a>, Encoded<'a>), DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let key = match self.items.next()? {
            Ok(key) => key,
            Err(error) => return Some(Err(error)),
        };
        Some(match self.items.next() {
            Some(value) => value.map(|value| (key, value)),
            None => Err(DecodeError::malformed(tag::MAP, "its last key has no value")),
        })
    }
}
