//! What a dump looks like from outside: entries of keys and values, each with the name of its kind.
//!
//! | kind | value | key | for people (JSON, …) | else |
//! |---|---|---|---|---|
//! | `none` | ✓ | | nothing | nothing |
//! | `bool` | ✓ | | a bool | a bool |
//! | `int` | ✓ | ✓ | a number of 64 bits | the same |
//! | `big` | ✓ | ✓ | an integer of more than 64 bits, as decimal text | the same |
//! | `float` | ✓ | | text, the shortest that is read back as the same; `inf`, `-inf`, `nan:` and its bits | its bits, as a number |
//! | `str` | ✓ | ✓ | text | text |
//! | `bytes` | ✓ | ✓ | text of hexadecimal digits | bytes |
//! | `list`, `tuple` | `list` | `tuple` | the items | the items |
//! | `map` | ✓ | | pairs of a key and a value, in their order | the same |
//! | `stored` | ✓ | ✓ | tag, and bytes as above: as the store has it | the same |
//!
//! In JSON `("user", 5): [0.5, None]` is `[{"tuple": [{"str": "user"}, {"int": 5}]}, {"list": [{"float": "0.5"}, "none"]}]`.
//!
//! Kinds are told from outside of the value, and numbers that not every format has are text, so there is no format that
//! loses anything. `stored` is for values of kinds that this version does not know, and for lists and maps that lie deep in
//! others, where the readers of many formats give up.
//!
//! **Reading** takes memory in proportion to what is there, and nests as deep as values may.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, EnumAccess, Error as _, SeqAccess, Unexpected, VariantAccess, Visitor};
use serde::ser::{Error as _, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Entry;
use crate::key::{Key, ToKey};
use crate::value::{DecodeError, Encoded, FromValue, Int, MAX_NESTING, Map, ToValue, Value, tag};

/// Lists and maps below so many others are written as they are stored. Each takes up to three levels of JSON, whose
/// readers go down 128.
const DEEP: u8 = 16;

const FORMAT: &str = "zproc-dump";
const VERSION: u32 = 1;

/// The name of the format; only read if it is that.
pub(super) struct FormatName;

impl Serialize for FormatName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        FORMAT.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for FormatName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Cow::<str>::deserialize(deserializer)?.as_ref() {
            FORMAT => Ok(Self),
            other => Err(D::Error::custom(format_args!(
                "it is no dump of a state: its format is {other:?}"
            ))),
        }
    }
}

/// The version; only read if it is one that this program knows.
pub(super) struct Version;

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        VERSION.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            0 => Err(D::Error::custom("there is no dump of version 0")),
            VERSION => Ok(Self),
            later => Err(D::Error::custom(format_args!(
                "it is of version {later}, and this program knows versions up to {VERSION}: read it by a later version of \
                 zproc"
            ))),
        }
    }
}

/// A number of 64 bits: hexadecimal digits for people.
pub(super) struct Number(pub(super) u64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(&format_args!("{:016x}", self.0))
        } else {
            serializer.serialize_u64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return u64::deserialize(deserializer).map(Self);
        }
        let text = Cow::<str>::deserialize(deserializer)?;
        let number = u64::from_str_radix(&text, 16);
        number
            .map(Self)
            .map_err(|_| D::Error::invalid_value(Unexpected::Str(&text), &"hexadecimal digits"))
    }
}

/// Bytes: hexadecimal digits for people.
struct Raw<B>(B);

impl Serialize for Raw<&[u8]> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(&Hex(self.0))
        } else {
            serializer.serialize_bytes(self.0)
        }
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let byte = |[high, low]: &[u8; 2]| Some((digit(*high)? << 4 | digit(*low)?) as u8);
    pairs.iter().map(byte).collect()
}

impl<'de> Deserialize<'de> for Raw<Vec<u8>> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl<'de> Visitor<'de> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes, or an even number of hexadecimal digits")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<u8>, E> {
                from_hex(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.into())
            }

            fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<Vec<u8>, A::Error> {
                let mut all = Vec::new();
                while let Some(byte) = bytes.next_element()? {
                    all.push(byte);
                }
                Ok(all)
            }
        }

        if deserializer.is_human_readable() {
            deserializer.deserialize_str(Bytes).map(Self)
        } else {
            deserializer.deserialize_byte_buf(Bytes).map(Self)
        }
    }
}

/// A float: for people the shortest text that is read back as the same bits.
struct Float(f64);

const NAN: &str = "nan:";

impl Serialize for Float {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            float if !serializer.is_human_readable() => serializer.serialize_u64(float.to_bits()),
            float if float.is_nan() => serializer.collect_str(&format_args!("{NAN}{:016x}", float.to_bits())),
            float => serializer.collect_str(&float),
        }
    }
}

impl<'de> Deserialize<'de> for Float {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return Ok(Self(f64::from_bits(u64::deserialize(deserializer)?)));
        }
        let text = Cow::<str>::deserialize(deserializer)?;
        let float = match text.strip_prefix(NAN) {
            Some(bits) => u64::from_str_radix(bits, 16).ok().map(f64::from_bits),
            None => text.parse().ok(),
        };
        float
            .map(Self)
            .ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &"a float as text"))
    }
}

/// All entries, to be written.
pub(super) struct OutEntries<'a>(pub(super) &'a [Entry]);

impl Serialize for OutEntries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|entry| {
            let value = OutValue {
                encoded: Encoded::new(entry.tag, &entry.value),
                depth: 0,
                opaque: entry.opaque,
            };
            (OutKey::new(entry.key_tag.into(), &entry.key), value)
        }))
    }
}

const KEY: &str = "Key";
const VALUE: &str = "Value";

fn damaged<E: serde::ser::Error>(error: DecodeError) -> E {
    E::custom(error)
}

/// The name of a kind, and its number for formats that write one. Both are part of the format: new ones go to the end.
fn kind_of(encoded: Encoded<'_>) -> (u32, &'static str) {
    match encoded.tag() {
        tag::NONE => (0, "none"),
        tag::BOOL => (1, "bool"),
        tag::INT => (2, "int"),
        tag::INT128 | tag::UINT128 => (3, "big"),
        tag::FLOAT => (4, "float"),
        tag::STR => (5, "str"),
        tag::BYTES => (6, "bytes"),
        tag::LIST => (7, "list"),
        tag::MAP => (8, "map"),
        _ => STORED,
    }
}

const STORED: (u32, &str) = (9, "stored");

/// The kinds, to be read.
#[derive(Clone, Copy, Deserialize)]
#[serde(variant_identifier, rename_all = "lowercase")]
enum Kind {
    None,
    Bool,
    Int,
    Big,
    Float,
    Str,
    Bytes,
    #[serde(alias = "tuple")]
    List,
    Map,
    Stored,
}

const KINDS: &[&str] = &[
    "none", "bool", "int", "big", "float", "str", "bytes", "list", "map", "stored",
];
const KINDS_OF_KEYS: &[&str] = &["int", "big", "str", "bytes", "tuple", "stored"];

struct OutValue<'a> {
    encoded: Encoded<'a>,
    depth: u8,
    opaque: bool,
}

impl Serialize for OutValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let encoded = self.encoded;
        let (number, kind) = kind_of(encoded);
        match encoded.tag() {
            _ if self.opaque => write_stored(serializer, VALUE, encoded),
            tag::NONE => serializer.serialize_unit_variant(VALUE, number, kind),
            tag::BOOL => {
                let bool: bool = encoded.get().map_err(damaged)?;
                serializer.serialize_newtype_variant(VALUE, number, kind, &bool)
            }
            tag::FLOAT => {
                let float = Float(encoded.get().map_err(damaged)?);
                serializer.serialize_newtype_variant(VALUE, number, kind, &float)
            }
            tag::LIST if self.depth < DEEP => {
                let items = OutList {
                    list: encoded,
                    depth: self.depth + 1,
                };
                serializer.serialize_newtype_variant(VALUE, number, kind, &items)
            }
            tag::MAP if self.depth < DEEP => {
                let entries = OutMap {
                    map: encoded,
                    depth: self.depth + 1,
                };
                serializer.serialize_newtype_variant(VALUE, number, kind, &entries)
            }
            _ => write_simple(serializer, VALUE, encoded),
        }
    }
}

/// What keys and values have in common.
fn write_simple<S: Serializer>(serializer: S, name: &'static str, encoded: Encoded<'_>) -> Result<S::Ok, S::Error> {
    let (number, kind) = kind_of(encoded);
    match encoded.tag() {
        tag::INT => {
            let int: i64 = encoded.get().map_err(damaged)?;
            serializer.serialize_newtype_variant(name, number, kind, &int)
        }
        tag::INT128 | tag::UINT128 => {
            let int: Int = encoded.get().map_err(damaged)?;
            serializer.serialize_newtype_variant(name, number, kind, &int.to_string())
        }
        tag::STR => {
            let text = std::str::from_utf8(encoded.bytes()).map_err(S::Error::custom)?;
            serializer.serialize_newtype_variant(name, number, kind, text)
        }
        tag::BYTES => serializer.serialize_newtype_variant(name, number, kind, &Raw(encoded.bytes())),
        _ => write_stored(serializer, name, encoded),
    }
}

fn write_stored<S: Serializer>(serializer: S, name: &'static str, encoded: Encoded<'_>) -> Result<S::Ok, S::Error> {
    let (number, kind) = STORED;
    serializer.serialize_newtype_variant(name, number, kind, &(encoded.tag(), Raw(encoded.bytes())))
}

struct OutList<'a> {
    list: Encoded<'a>,
    depth: u8,
}

impl Serialize for OutList<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let items = self.list.items().map_err(damaged)?;
        let mut out = serializer.serialize_seq(Some(items.clone().count()))?;
        for item in items {
            out.serialize_element(&OutValue {
                encoded: item.map_err(damaged)?,
                depth: self.depth,
                opaque: false,
            })?;
        }
        out.end()
    }
}

struct OutMap<'a> {
    map: Encoded<'a>,
    depth: u8,
}

impl Serialize for OutMap<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let entries = self.map.entries().map_err(damaged)?;
        let mut out = serializer.serialize_seq(Some(entries.clone().count()))?;
        for entry in entries {
            let (key, value) = entry.map_err(damaged)?;
            let value = OutValue {
                encoded: value,
                depth: self.depth,
                opaque: false,
            };
            out.serialize_element(&(OutKey::new(key.tag(), key.bytes()), value))?;
        }
        out.end()
    }
}

struct OutKey<'a> {
    encoded: Encoded<'a>,
    depth: u8,
}

impl<'a> OutKey<'a> {
    fn new(tag: u16, bytes: &'a [u8]) -> Self {
        Self {
            encoded: Encoded::new(tag, bytes),
            depth: 0,
        }
    }
}

impl Serialize for OutKey<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.encoded.tag() != tag::LIST || self.depth >= DEEP {
            return write_simple(serializer, KEY, self.encoded);
        }
        let items = self.encoded.items().map_err(damaged)?;
        let keys = items.map(|item| {
            Ok(OutKey {
                encoded: item?,
                depth: self.depth + 1,
            })
        });
        let keys: Result<Vec<OutKey<'_>>, DecodeError> = keys.collect();
        let (number, _) = kind_of(self.encoded);
        serializer.serialize_newtype_variant(KEY, number, "tuple", &keys.map_err(damaged)?)
    }
}

/// All entries, as they were read.
pub(super) struct Entries(pub(super) Vec<Entry>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Self(Vec::new()))
    }
}

impl<'de> Visitor<'de> for Entries {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pairs of a key and a value")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut entries: A) -> Result<Self, A::Error> {
        while let Some((key, value)) = entries.next_element_seed(Pair { depth: 0 })? {
            let key = key
                .with_key(|tag, bytes| (tag, bytes.into()))
                .map_err(A::Error::custom)?;
            let entry = Entry::new(key, value.store().map_err(A::Error::custom)?);
            self.0.push(entry.map_err(A::Error::custom)?);
        }
        Ok(self)
    }
}

/// A value as it was read.
enum Item {
    Value(Value),
    /// As the store is to have it.
    Stored(u16, Vec<u8>),
}

impl Item {
    fn store(self) -> Result<(u16, Box<[u8]>), DecodeError> {
        match self {
            Self::Value(value) => Ok(value.with_encoded(|encoded| (encoded.tag(), encoded.bytes().into()))?),
            Self::Stored(tag, bytes) => Ok((tag, bytes.into())),
        }
    }

    fn value(self) -> Result<Value, DecodeError> {
        match self {
            Self::Value(value) => Ok(value),
            Self::Stored(tag, bytes) => Value::decode(tag, &bytes),
        }
    }
}

/// Reads a key and a value below `depth` lists and maps.
#[derive(Clone, Copy)]
struct Pair {
    depth: u8,
}

impl<'de> DeserializeSeed<'de> for Pair {
    type Value = (Key, Item);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(Key, Item), D::Error> {
        deserializer.deserialize_tuple(2, self)
    }
}

impl<'de> Visitor<'de> for Pair {
    type Value = (Key, Item);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a pair of a key and a value")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<(Key, Item), A::Error> {
        let key = pair.next_element_seed(ReadKey { depth: 0 })?;
        let key = key.ok_or_else(|| A::Error::invalid_length(0, &self))?;
        let value = pair.next_element_seed(ReadValue { depth: self.depth })?;
        let value = value.ok_or_else(|| A::Error::invalid_length(1, &self))?;
        Ok((key, value))
    }
}

fn check_depth<E: serde::de::Error>(depth: u8) -> Result<(), E> {
    if depth > MAX_NESTING {
        return Err(E::custom(DecodeError::TooDeep));
    }
    Ok(())
}

/// Reads a value below `depth` lists and maps.
#[derive(Clone, Copy)]
struct ReadValue {
    depth: u8,
}

impl<'de> DeserializeSeed<'de> for ReadValue {
    type Value = Item;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Item, D::Error> {
        check_depth(self.depth)?;
        deserializer.deserialize_enum(VALUE, KINDS, self)
    }
}

impl<'de> Visitor<'de> for ReadValue {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value with the name of its kind")
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Item, A::Error> {
        let (kind, variant) = data.variant()?;
        let depth = self.depth + 1;
        let value = match kind {
            Kind::None => {
                variant.unit_variant()?;
                Value::None
            }
            Kind::Bool => Value::Bool(variant.newtype_variant()?),
            Kind::Float => Value::Float(variant.newtype_variant::<Float>()?.0),
            Kind::List => Value::List(variant.newtype_variant_seed(ReadList { depth })?),
            Kind::Map => Value::Map(variant.newtype_variant_seed(ReadMap { depth })?),
            Kind::Stored => {
                let (tag, Raw(bytes)) = variant.newtype_variant()?;
                return Ok(Item::Stored(tag, bytes));
            }
            Kind::Int => Value::Int(variant.newtype_variant::<i64>()?.into()),
            Kind::Big => Value::Int(read_big(variant)?),
            Kind::Str => Value::Str(variant.newtype_variant()?),
            Kind::Bytes => Value::Bytes(variant.newtype_variant::<Raw<Vec<u8>>>()?.0),
        };
        Ok(Item::Value(value))
    }
}

fn read_big<'de, A: VariantAccess<'de>>(variant: A) -> Result<Int, A::Error> {
    let text: Cow<'_, str> = variant.newtype_variant()?;
    let signed = text.parse::<i128>().map(Int::from);
    signed
        .or_else(|_| text.parse::<u128>().map(Int::from))
        .map_err(|_| A::Error::invalid_value(Unexpected::Str(&text), &"an integer of up to 128 bits as text"))
}

#[derive(Clone, Copy)]
struct ReadList {
    depth: u8,
}

impl<'de> DeserializeSeed<'de> for ReadList {
    type Value = Vec<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Value>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ReadList {
    type Value = Vec<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("values")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<Value>, A::Error> {
        // However many are announced: memory is taken as they come.
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(ReadValue { depth: self.depth })? {
            list.push(item.value().map_err(A::Error::custom)?);
        }
        Ok(list)
    }
}

#[derive(Clone, Copy)]
struct ReadMap {
    depth: u8,
}

impl<'de> DeserializeSeed<'de> for ReadMap {
    type Value = Map;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Map, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ReadMap {
    type Value = Map;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pairs of a key and a value")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Map, A::Error> {
        let mut map = Map::new();
        while let Some((key, item)) = entries.next_element_seed(Pair { depth: self.depth })? {
            if map.insert(key, item.value().map_err(A::Error::custom)?).is_some() {
                return Err(A::Error::custom("a map has a key twice"));
            }
        }
        Ok(map)
    }
}

/// Reads a key below `depth` tuples.
#[derive(Clone, Copy)]
struct ReadKey {
    depth: u8,
}

impl<'de> DeserializeSeed<'de> for ReadKey {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        check_depth(self.depth)?;
        deserializer.deserialize_enum(KEY, KINDS_OF_KEYS, self)
    }
}

impl<'de> Visitor<'de> for ReadKey {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key with the name of its kind")
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Key, A::Error> {
        let (kind, variant) = data.variant()?;
        Ok(match kind {
            Kind::Int => Key::Int(variant.newtype_variant::<i64>()?.into()),
            Kind::Big => Key::Int(read_big(variant)?),
            Kind::Str => Key::Str(variant.newtype_variant()?),
            Kind::Bytes => Key::Bytes(variant.newtype_variant::<Raw<Vec<u8>>>()?.0),
            Kind::List => Key::Tuple(variant.newtype_variant_seed(ReadTuple { depth: self.depth + 1 })?),
            Kind::Stored => {
                let (tag, Raw(bytes)): (u8, Raw<Vec<u8>>) = variant.newtype_variant()?;
                Key::decode(tag, &bytes).map_err(A::Error::custom)?
            }
            Kind::None | Kind::Bool | Kind::Float | Kind::Map => {
                return Err(A::Error::custom(
                    "a key is text, an integer, a byte string or a tuple of keys",
                ));
            }
        })
    }
}

#[derive(Clone, Copy)]
struct ReadTuple {
    depth: u8,
}

impl<'de> DeserializeSeed<'de> for ReadTuple {
    type Value = Vec<Key>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Key>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ReadTuple {
    type Value = Vec<Key>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("keys")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<Key>, A::Error> {
        let mut keys = Vec::new();
        while let Some(key) = items.next_element_seed(ReadKey { depth: self.depth })? {
            keys.push(key);
        }
        Ok(keys)
    }
}
