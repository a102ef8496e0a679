//! Writing values as bytes.

use super::decode::Encoded;
use super::error::EncodeError;
use super::scratch::with_scratch;
use super::{MAX_NESTING, tag};
use crate::key::ToKey;

/// A type whose values can be stored.
///
/// | Rust | stored as |
/// |---|---|
/// | `()`, `Option::None`, [`Value::None`](crate::Value::None) | none |
/// | `bool` | bool |
/// | integers of every width, [`Int`](crate::Int) | int |
/// | `f32`, `f64` | float |
/// | `str`, `String` | str |
/// | `[u8]`, `Vec<u8>`, `[u8; N]` | bytes |
/// | other slices, vectors and arrays; tuples of one to four | list |
/// | `BTreeMap`, `HashMap` (by key), `IndexMap`, [`Map`](crate::Map) (by insertion) | map |
/// | types with [`archived!`](crate::archived), [`Rkyv`](crate::Rkyv), [`OwnedArchive`](crate::OwnedArchive) | rkyv |
/// | [`Serde`](crate::Serde) of a type with serde's traits | what its parts are stored as |
/// | `Some(x)`, `&x`, boxes, `Rc`, `Arc`, `Cow` | what `x` is stored as |
///
/// `Some(None)` is stored as none too, and so is read back as `None`.
///
/// A type of your own has to say only how it is written, in terms of these:
///
/// ```
/// use zproc::{EncodeError, Encoder, ToValue, Value};
///
/// struct Point { x: i32, y: i32 }
///
/// impl ToValue for Point {
///     fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
///         (self.x, self.y).encode(out)
///     }
/// }
///
/// assert_eq!(Value::of(&Point { x: 3, y: 4 })?, Value::of(&[3, 4])?);
/// # Ok::<(), zproc::DecodeError>(())
/// ```
pub trait ToValue {
    /// Writes this value to `out`. A value that writes nothing is none.
    ///
    /// ```
    /// use zproc::{EncodeError, Encoder, ToValue, Value};
    ///
    /// struct Celsius(f64);
    ///
    /// impl ToValue for Celsius {
    ///     fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
    ///         out.float(self.0)
    ///     }
    /// }
    ///
    /// assert_eq!(Value::of(&Celsius(180.0))?, Value::Float(180.0));
    /// # Ok::<(), zproc::DecodeError>(())
    /// ```
    fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError>;

    /// Calls `f` with the tag and the bytes of this value.
    ///
    /// A scalar lies on the stack meanwhile, and text and byte strings stay where they are. The others are put together in
    /// a buffer that the thread keeps.
    ///
    /// ```
    /// use zproc::{ToValue, tag};
    ///
    /// let (tag, len) = "open".with_encoded(|encoded| (encoded.tag(), encoded.bytes().len()))?;
    /// assert_eq!((tag, len), (tag::STR, 4));
    /// # Ok::<(), zproc::EncodeError>(())
    /// ```
    #[inline(always)]
    fn with_encoded<R>(&self, f: impl FnOnce(Encoded<'_>) -> R) -> Result<R, EncodeError> {
        with_buffer(|out| self.encode(out), f)
    }

    /// Writes `items` to `out`: as a list, unless they are bytes.
    #[doc(hidden)]
    fn encode_slice(items: &[Self], out: Encoder<'_>) -> Result<(), EncodeError>
    where
        Self: Sized,
    {
        out.list(|list| items.iter().try_for_each(|item| list.push(item)))
    }

    /// Calls `f` with the tag and the bytes of `items`.
    #[doc(hidden)]
    #[inline]
    fn with_encoded_slice<R>(items: &[Self], f: impl FnOnce(Encoded<'_>) -> R) -> Result<R, EncodeError>
    where
        Self: Sized,
    {
        with_buffer(|out| Self::encode_slice(items, out), f)
    }
}

/// Lets `write` put an item together, and calls `f` with it.
fn with_buffer<R>(
    write: impl FnOnce(Encoder<'_>) -> Result<(), EncodeError>,
    f: impl FnOnce(Encoded<'_>) -> R,
) -> Result<R, EncodeError> {
    with_scratch(|buffer| {
        write(Encoder { buffer, depth: 0 })?;
        let Some((&tag, payload)) = buffer.split_first() else {
            return Ok(f(Encoded::new(tag::NONE, &[])));
        };
        let tag = u16::from(tag);
        let prefix = if tag::payload_len(tag).is_some() {
            0
        } else {
            size_of::<u32>()
        };
        Ok(f(Encoded::new(tag, &payload[prefix..])))
    })
}

/// The place for one value.
///
/// Each method writes the whole of it and so uses the encoder up; one that is dropped unused leaves none.
///
/// ```
/// use zproc::{EncodeError, Encoder, ToValue, Value};
///
/// struct Job { id: u64, tags: Vec<String> }
///
/// impl ToValue for Job {
///     fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
///         out.map(|map| {
///             map.insert("id", &self.id)?;
///             map.insert("tags", &self.tags)
///         })
///     }
/// }
///
/// let job = Value::of(&Job { id: 7, tags: vec!["new".into()] })?;
/// assert_eq!(job.to_string(), r#"{"id": 7, "tags": ["new"]}"#);
/// # Ok::<(), zproc::DecodeError>(())
/// ```
#[derive(Debug)]
pub struct Encoder<'a> {
    buffer: &'a mut Vec<u8>,
    /// How many lists and maps are around this value.
    depth: u8,
}

impl Encoder<'_> {
    /// Writes none.
    ///
    /// ```
    /// use zproc::{EncodeError, Encoder, ToValue, Value};
    ///
    /// struct Mine;
    ///
    /// impl ToValue for Mine {
    ///     fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
    ///         out.none()
    ///     }
    /// }
    ///
    /// assert_eq!(Value::of(&Mine)?, Value::None);
    /// # Ok::<(), zproc::DecodeError>(())
    /// ```
    #[inline]
    pub fn none(self) -> Result<(), EncodeError> {
        self.put(tag::NONE, &[])
    }

    /// Writes a bool.
    ///
    /// ```
    /// use zproc::{EncodeError, Encoder, ToValue, Value};
    ///
    /// struct Mine;
    ///
    /// impl ToValue for Mine {
    ///     fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
    ///         out.bool(true)
    ///     }
    /// }
    ///
    /// assert_eq!(Value::of(&Mine)?, Value::Bool(true));
    /// # Ok::<(), zproc::DecodeError>(())
    /// ```
    #[inline]
    pub fn bool(self, value: bool) -> Result<(), EncodeError> {
        self.put(tag::BOOL, &[u8::from(value)])
    }

    /// Writes an integer.
    ///
    /// ```
    /// use zproc::{EncodeError, Encoder, ToValue, Value};
    ///
    /// struct Mine;
    ///
    /// impl ToValue for Mine {
    ///     fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
    ///         out.int(5)
    ///     }
    /// }
    ///
    /// assert_eq!(Value::of(&Mine)?, Value::from(5));
    /// # Ok::<(), zproc::DecodeError>(())
    /// ```
    #[inline]
    pub fn int(self, value: impl Into<super::Int>) -> Result<(), EncodeError> {
        value.into().with_bytes(|tag, bytes| self.put(tag, bytes))
    }

    /// Writes a floating-point number.
    ///
    /// ```
    /// use zproc::{EncodeError, Encoder, ToValue, Value};
    ///
    /// struct Mine;
    ///
    /// impl ToValue for Mine {
    ///     fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
    ///         out.float(0.5)
    ///     }
    /// }
    ///
    /// assert_eq!(Value::of(&Mine)?, Value::Float(0.5));
    /// # Ok::<(), zproc::DecodeError>(())
    /// ```
    #[inline]
    pub fn float(self, value: f64) -> Result<(), EncodeError> {
        self.put(tag::FLOAT, &value.to_le_bytes())
    }

    /// Writes text.
    ///
    /// ```
    /// use zproc::{EncodeError, Encoder, ToValue, Value};
    ///
    /// struct Mine;
    ///
    /// impl ToValue for Mine {
    ///     fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
    ///         out.str("open")
    ///     }
    /// }
    ///
    /// assert_eq!(Value::of(&Mine)?, Value::from("open"));
    /// # Ok::<(), zproc::DecodeError>(())
    /// ```
    #[inline]
    pub fn str(self, value: &str) -> Result<(), EncodeError> {
        self.put(tag::STR, value.as_bytes())
    }

    /// Writes a byte string.
    ///
    /// ```
    /// use zproc::{EncodeError, Encoder, ToValue, Value};
    ///
    /// struct Mine;
    ///
    /// impl ToValue for Mine {
    ///     fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
    ///         out.bytes(b"open")
    ///     }
    /// }
    ///
    /// assert_eq!(Value::of(&Mine)?, Value::Bytes(b"open".to_vec()));
    /// # Ok::<(), zproc::DecodeError>(())
    /// ```
    #[inline]
    pub fn bytes(self, value: &[u8]) -> Result<(), EncodeError> {
        self.put(tag::BYTES, value)
    }

    /// Writes a list that `fill` puts the items into.
    ///
    /// ```
    /// use zproc::{EncodeError, Encoder, ToValue, Value};
    ///
    /// struct Mine;
    ///
    /// impl ToValue for Mine {
    ///     fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
    ///         out.list(|list| {
    ///             list.push("open")?;
    ///             list.push(&5)
    ///         })
    ///     }
    /// }
    ///
    /// assert_eq!(Value::of(&Mine)?, Value::from_iter([Value::from("open"), Value::from(5)]));
    /// # Ok::<(), zproc::DecodeError>(())
    /// ```
    #[inline]
    pub fn list(self, fill: impl FnOnce(&mut ListEncoder<'_>) -> Result<(), EncodeError>) -> Result<(), EncodeError> {
        self.nest(tag::LIST, |buffer, depth| fill(&mut ListEncoder { buffer, depth }))
    }

    /// Writes a map that `fill` puts the entries into, no key twice.
    ///
    /// ```
    /// use zproc::{EncodeError, Encoder, ToValue, Value};
    ///
    /// struct Mine;
    ///
    /// impl ToValue for Mine {
    ///     fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
    ///         out.map(|map| {
    ///             map.insert("door", "open")?;
    ///             map.insert("guests", &5)
    ///         })
    ///     }
    /// }
    ///
    /// assert_eq!(Value::of(&Mine)?, Value::from(zproc::Map::from([("door", Value::from("open")), ("guests", Value::from(5))])));
    /// # Ok::<(), zproc::DecodeError>(())
    /// ```
    #[inline]
    pub fn map(self, fill: impl FnOnce(&mut MapEncoder<'_>) -> Result<(), EncodeError>) -> Result<(), EncodeError> {
        self.nest(tag::MAP, |buffer, depth| fill(&mut MapEncoder { buffer, depth }))
    }

    #[inline]
    fn put(self, tag: u16, bytes: &[u8]) -> Result<(), EncodeError> {
        append_item(self.buffer, tag, bytes)
    }

    /// Writes a list or a map.
    fn nest(self, tag: u16, fill: impl FnOnce(&mut Vec<u8>, u8) -> Result<(), EncodeError>) -> Result<(), EncodeError> {
        if self.depth >= MAX_NESTING {
            return Err(EncodeError::TooDeep);
        }
        let depth = self.depth + 1;
        self.fill(tag, |buffer| fill(buffer, depth))
    }

    /// Writes a value whose length is filled in once `fill` has appended what is inside.
    pub(crate) fn fill(
        self,
        tag: u16,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        self.buffer.push(tag as u8);
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; size_of::<u32>()]);
        let first = self.buffer.len();
        fill(self.buffer)?;
        let len = length_prefix(self.buffer.len() - first)?;
        self.buffer[start..first].copy_from_slice(&len);
        Ok(())
    }
}

/// Takes the items of a list; see [`Encoder::list`].
///
/// ```
/// use zproc::{EncodeError, Encoder, ToValue, Value};
///
/// struct Row { name: String, cells: [f64; 2] }
///
/// impl ToValue for Row {
///     fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
///         out.list(|list| {
///             list.push(&self.name)?;
///             list.push(&self.cells)
///         })
///     }
/// }
///
/// let row = Value::of(&Row { name: "oven".into(), cells: [180.0, 0.5] })?;
/// assert_eq!(row.to_string(), r#"["oven", [180.0, 0.5]]"#);
/// # Ok::<(), zproc::DecodeError>(())
/// ```
#[derive(Debug)]
pub struct ListEncoder<'a> {
    buffer: &'a mut Vec<u8>,
    depth: u8,
}

impl ListEncoder<'_> {
    /// Appends `item`.
    ///
    /// ```
    /// use zproc::{EncodeError, Encoder, ToValue, Value};
    ///
    /// struct Countdown(u32);
    ///
    /// impl ToValue for Countdown {
    ///     fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
    ///         out.list(|list| (0..self.0).rev().try_for_each(|n| list.push(&n)))
    ///     }
    /// }
    ///
    /// assert_eq!(Value::of(&Countdown(3))?.to_string(), "[2, 1, 0]");
    /// # Ok::<(), zproc::DecodeError>(())
    /// ```
    #[inline]
    pub fn push<T: ToValue + ?Sized>(&mut self, item: &T) -> Result<(), EncodeError> {
        nested(item, self.buffer, self.depth)
    }
}

/// Takes the entries of a map; see [`Encoder::map`].
///
/// ```
/// use zproc::{EncodeError, Encoder, ToValue, Value};
///
/// struct Oven { degrees: u32, door: Option<&'static str> }
///
/// impl ToValue for Oven {
///     fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
///         out.map(|map| {
///             map.insert("degrees", &self.degrees)?;
///             map.insert("door", &self.door)
///         })
///     }
/// }
///
/// let oven = Value::of(&Oven { degrees: 180, door: None })?;
/// assert_eq!(oven.to_string(), r#"{"degrees": 180, "door": None}"#);
/// # Ok::<(), zproc::DecodeError>(())
/// ```
#[derive(Debug)]
pub struct MapEncoder<'a> {
    buffer: &'a mut Vec<u8>,
    depth: u8,
}

impl MapEncoder<'_> {
    /// Appends an entry. A key that is there already makes a map that cannot be read.
    ///
    /// ```
    /// use zproc::{EncodeError, Encoder, ToValue, Value};
    ///
    /// struct Squares(u32);
    ///
    /// impl ToValue for Squares {
    ///     fn encode(&self, out: Encoder<'_>) -> Result<(), EncodeError> {
    ///         out.map(|map| (1..=self.0).try_for_each(|n| map.insert(&n, &(n * n))))
    ///     }
    /// }
    ///
    /// assert_eq!(Value::of(&Squares(3))?.to_string(), "{1: 1, 2: 4, 3: 9}");
    /// # Ok::<(), zproc::DecodeError>(())
    /// ```
    #[inline]
    pub fn insert<K, V>(&mut self, key: &K, value: &V) -> Result<(), EncodeError>
    where
        K: ToKey + ?Sized,
        V: ToValue + ?Sized,
    {
        key.with_key(|tag, bytes| append_item(self.buffer, tag.into(), bytes))??;
        nested(value, self.buffer, self.depth)
    }
}

/// Appends `value` as an item.
#[inline]
fn nested<T: ToValue + ?Sized>(value: &T, buffer: &mut Vec<u8>, depth: u8) -> Result<(), EncodeError> {
    let start = buffer.len();
    value.encode(Encoder { buffer, depth })?;
    if buffer.len() == start {
        buffer.push(tag::NONE as u8);
    }
    Ok(())
}

/// Appends an item: the tag, the length of the bytes unless the tag implies it, the bytes.
#[inline]
pub(crate) fn append_item(buffer: &mut Vec<u8>, tag: u16, bytes: &[u8]) -> Result<(), EncodeError> {
    // A number, which is what long lists are made of, is appended in one go.
    if let (Some(8), Ok(word)) = (tag::payload_len(tag), <[u8; 8]>::try_from(bytes)) {
        let mut item = [tag as u8; 9];
        item[1..].copy_from_slice(&word);
        buffer.extend_from_slice(&item);
        return Ok(());
    }
    buffer.push(tag as u8);
    if tag::payload_len(tag).is_none() {
        buffer.extend_from_slice(&length_prefix(bytes.len())?);
    }
    buffer.extend_from_slice(bytes);
    Ok(())
}

/// The four bytes that say `len`.
#[inline]
pub(crate) fn length_prefix(len: usize) -> Result<[u8; 4], EncodeError> {
    u32::try_from(len)
        .map(u32::to_le_bytes)
        .map_err(|_| EncodeError::TooLong { len })
}
