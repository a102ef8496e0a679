//! Serde's serializer that makes a [`Value`].

use serde::ser::{
    Error, Impossible, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use crate::key::Key;
use crate::value::{EncodeError, Int, Map, Value};

impl Error for EncodeError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::other(message)
    }
}

type Result<T, E = EncodeError> = std::result::Result<T, E>;

/// Makes a value that may have so many lists and maps in one another.
#[derive(Clone, Copy)]
pub(super) struct ToValueOf {
    pub(super) room: u8,
}

impl ToValueOf {
    /// For what is inside of a list or a map.
    fn inside(self) -> Result<Self> {
        match self.room.checked_sub(1) {
            Some(room) => Ok(Self { room }),
            None => Err(EncodeError::TooDeep),
        }
    }

    fn list(self, len: Option<usize>) -> Result<List> {
        // A hint may be wrong, so no more than a page's worth is believed.
        let items = Vec::with_capacity(len.unwrap_or(0).min(128));
        let inside = self.inside()?;
        Ok(List {
            items,
            inside,
            variant: None,
        })
    }

    fn map(self) -> Result<Entries> {
        let inside = self.inside()?;
        Ok(Entries {
            map: Map::new(),
            key: None,
            inside,
            variant: None,
        })
    }
}

macro_rules! into_value {
    ($($method:ident: $type:ty;)*) => {$(
        fn $method(self, value: $type) -> Result<Value> {
            Ok(value.into())
        }
    )*};
}

impl Serializer for ToValueOf {
    type Ok = Value;
    type Error = EncodeError;
    type SerializeSeq = List;
    type SerializeTuple = List;
    type SerializeTupleStruct = List;
    type SerializeTupleVariant = List;
    type SerializeMap = Entries;
    type SerializeStruct = Entries;
    type SerializeStructVariant = Entries;

    into_value! {
        serialize_bool: bool;
        serialize_i8: i8;
        serialize_i16: i16;
        serialize_i32: i32;
        serialize_i64: i64;
        serialize_i128: i128;
        serialize_u8: u8;
        serialize_u16: u16;
        serialize_u32: u32;
        serialize_u64: u64;
        serialize_u128: u128;
        serialize_f32: f32;
        serialize_f64: f64;
        serialize_str: &str;
        serialize_bytes: &[u8];
    }

    fn serialize_char(self, value: char) -> Result<Value> {
        Ok(Value::Str(value.into()))
    }

    fn serialize_none(self) -> Result<Value> {
        Ok(Value::None)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Value> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<Value> {
        Ok(Value::None)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<Value> {
        Ok(Value::None)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<Value> {
        Ok(variant.into())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<Value> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Value> {
        let contents = value.serialize(self.inside()?)?;
        Ok(Map::from([(variant, contents)]).into())
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<List> {
        self.list(len)
    }

    fn serialize_tuple(self, len: usize) -> Result<List> {
        self.list(Some(len))
    }

    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<List> {
        self.list(Some(len))
    }

    fn serialize_tuple_variant(self, _: &'static str, _: u32, variant: &'static str, len: usize) -> Result<List> {
        let list = self.inside()?.list(Some(len))?;
        Ok(List {
            variant: Some(variant),
            ..list
        })
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Entries> {
        self.map()
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Entries> {
        self.map()
    }

    fn serialize_struct_variant(self, _: &'static str, _: u32, variant: &'static str, _: usize) -> Result<Entries> {
        let map = self.inside()?.map()?;
        Ok(Entries {
            variant: Some(variant),
            ..map
        })
    }
}

/// The value itself, or the contents of a variant.
fn of_variant(variant: Option<&'static str>, contents: Value) -> Value {
    match variant {
        Some(variant) => Map::from([(variant, contents)]).into(),
        None => contents,
    }
}

/// A list that is being made.
pub(super) struct List {
    items: Vec<Value>,
    inside: ToValueOf,
    variant: Option<&'static str>,
}

impl List {
    fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.items.push(value.serialize(self.inside)?);
        Ok(())
    }

    fn finish(self) -> Value {
        of_variant(self.variant, Value::List(self.items))
    }
}

macro_rules! lists {
    ($($trait:ident: $method:ident;)*) => {$(
        impl $trait for List {
            type Ok = Value;
            type Error = EncodeError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
                self.push(value)
            }

            fn end(self) -> Result<Value> {
                Ok(self.finish())
            }
        }
    )*};
}
lists! {
    SerializeSeq: serialize_element;
    SerializeTuple: serialize_element;
    SerializeTupleStruct: serialize_field;
    SerializeTupleVariant: serialize_field;
}

/// A map that is being made.
pub(super) struct Entries {
    map: Map,
    /// The key whose value comes next.
    key: Option<Key>,
    inside: ToValueOf,
    variant: Option<&'static str>,
}

impl Entries {
    fn insert<T: Serialize + ?Sized>(&mut self, key: Key, value: &T) -> Result<()> {
        self.map.insert(key, value.serialize(self.inside)?);
        Ok(())
    }

    fn finish(self) -> Value {
        of_variant(self.variant, Value::Map(self.map))
    }
}

impl SerializeMap for Entries {
    type Ok = Value;
    type Error = EncodeError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<()> {
        self.key = Some(key.serialize(ToKeyOf { room: self.inside.room })?);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        match self.key.take() {
            Some(key) => self.insert(key, value),
            None => Err(EncodeError::other("a map was given a value before its key")),
        }
    }

    fn end(self) -> Result<Value> {
        Ok(self.finish())
    }
}

macro_rules! structs {
    ($($trait:ident)*) => {$(
        impl $trait for Entries {
            type Ok = Value;
            type Error = EncodeError;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<()> {
                self.insert(name.into(), value)
            }

            fn end(self) -> Result<Value> {
                Ok(self.finish())
            }
        }
    )*};
}
structs!(SerializeStruct SerializeStructVariant);

/// Makes a key, which may have so many tuples in one another.
#[derive(Clone, Copy)]
struct ToKeyOf {
    room: u8,
}

/// A tuple that is being made.
struct Tuple {
    keys: Vec<Key>,
    inside: ToKeyOf,
}

impl ToKeyOf {
    fn tuple(self) -> Result<Tuple> {
        match self.room.checked_sub(1) {
            Some(room) => Ok(Tuple {
                keys: Vec::new(),
                inside: Self { room },
            }),
            None => Err(EncodeError::TooDeep),
        }
    }
}

#[cold]
fn no_key<T>(what: &str) -> Result<T> {
    Err(EncodeError::other(format_args!(
        "the keys of a map can be str, int, bytes and tuples of them, not {what}: make the map a list of pairs"
    )))
}

macro_rules! into_key {
    ($($method:ident: $type:ty;)*) => {$(
        fn $method(self, key: $type) -> Result<Key> {
            Ok(key.into())
        }
    )*};
}

macro_rules! no_keys {
    ($($method:ident($($type:ty),*) $what:literal;)*) => {$(
        fn $method(self, $(_: $type),*) -> Result<Key> {
            no_key($what)
        }
    )*};
}

macro_rules! int_keys {
    ($($method:ident: $type:ty;)*) => {$(
        fn $method(self, key: $type) -> Result<Key> {
            Ok(Key::Int(Int::from(key)))
        }
    )*};
}

impl Serializer for ToKeyOf {
    type Ok = Key;
    type Error = EncodeError;
    type SerializeSeq = Tuple;
    type SerializeTuple = Tuple;
    type SerializeTupleStruct = Tuple;
    type SerializeTupleVariant = Impossible<Key, EncodeError>;
    type SerializeMap = Impossible<Key, EncodeError>;
    type SerializeStruct = Impossible<Key, EncodeError>;
    type SerializeStructVariant = Impossible<Key, EncodeError>;

    int_keys! {
        serialize_i8: i8;
        serialize_i16: i16;
        serialize_i32: i32;
        serialize_i64: i64;
        serialize_i128: i128;
        serialize_u8: u8;
        serialize_u16: u16;
        serialize_u32: u32;
        serialize_u64: u64;
        serialize_u128: u128;
    }

    into_key! {
        serialize_str: &str;
        serialize_bytes: &[u8];
    }

    no_keys! {
        serialize_bool(bool) "a bool";
        serialize_f32(f32) "a float";
        serialize_f64(f64) "a float";
        serialize_none() "none";
        serialize_unit() "none";
        serialize_unit_struct(&'static str) "none";
    }

    fn serialize_char(self, key: char) -> Result<Key> {
        Ok(Key::Str(key.into()))
    }

    fn serialize_some<T: Serialize + ?Sized>(self, key: &T) -> Result<Key> {
        key.serialize(self)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<Key> {
        Ok(variant.into())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, key: &T) -> Result<Key> {
        key.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<Key> {
        no_key("a variant with contents")
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Tuple> {
        self.tuple()
    }

    fn serialize_tuple(self, _: usize) -> Result<Tuple> {
        self.tuple()
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Tuple> {
        self.tuple()
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant> {
        no_key("a variant with contents")
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap> {
        no_key("a map")
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct> {
        no_key("a struct")
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant> {
        no_key("a variant with contents")
    }
}

macro_rules! tuples {
    ($($trait:ident: $method:ident;)*) => {$(
        impl $trait for Tuple {
            type Ok = Key;
            type Error = EncodeError;

            fn $method<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<()> {
                self.keys.push(key.serialize(self.inside)?);
                Ok(())
            }

            fn end(self) -> Result<Key> {
                Ok(Key::Tuple(self.keys))
            }
        }
    )*};
}
tuples! {
    SerializeSeq: serialize_element;
    SerializeTuple: serialize_element;
    SerializeTupleStruct: serialize_field;
}
