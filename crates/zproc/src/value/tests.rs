//! Tests of values and keys.

mod bytes;
mod errors;
mod keys;
mod types;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::{EncodeError, FromValue, MAX_NESTING, Map, OwnedArchive, ToValue, Value, tag};
use crate::key::Key;

/// Integers, the borders of the widths among them more often than chance would have it.
pub(crate) fn ints() -> impl Strategy<Value = super::Int> {
    prop_oneof![
        any::<i64>().prop_map(Into::into),
        any::<i128>().prop_map(Into::into),
        any::<u128>().prop_map(Into::into),
        (0..128u32, -1..=1i128).prop_map(|(bit, d)| (1i128 << bit).wrapping_add(d).into()),
        Just(u128::MAX.into()),
    ]
}

/// Keys that nest a little.
pub(crate) fn keys() -> impl Strategy<Value = Key> {
    let leaf = prop_oneof![
        ".{0,8}".prop_map(Key::Str),
        ints().prop_map(Key::Int),
        vec(any::<u8>(), 0..8).prop_map(Key::Bytes),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| vec(inner, 0..4).prop_map(Key::Tuple))
}

/// Values that nest a little.
pub(crate) fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::Bool),
        ints().prop_map(Value::Int),
        any::<u64>().prop_map(|bits| Value::Float(f64::from_bits(bits))),
        ".{0,8}".prop_map(Value::Str),
        vec(any::<u8>(), 0..8).prop_map(Value::Bytes),
        (any::<u64>(), ".{1,8}", vec(any::<u8>(), 0..20)).prop_map(|(fingerprint, name, bytes)| archive(
            fingerprint,
            &name,
            &bytes
        )
        .into()),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::List),
            vec((keys(), inner.clone()), 0..6).prop_map(|entries| Value::Map(entries.into_iter().collect())),
            btree_map(keys(), inner, 0..6).prop_map(|entries| Value::Map(entries.into_iter().collect())),
        ]
    })
}

/// An archive of a type that nobody has.
pub(crate) fn archive(fingerprint: u64, name: &str, bytes: &[u8]) -> OwnedArchive {
    let lengths = [bytes.len() as u32, name.len() as u32].map(u32::to_le_bytes).concat();
    let stored = [&fingerprint.to_le_bytes()[..], &lengths, bytes, name.as_bytes()].concat();
    OwnedArchive::decode(tag::ARCHIVED, &stored).unwrap()
}

/// The tag and the bytes of a value.
pub(crate) fn encoded<T: ToValue + ?Sized>(value: &T) -> (u16, Vec<u8>) {
    value
        .with_encoded(|encoded| (encoded.tag(), encoded.bytes().to_vec()))
        .unwrap()
}

/// `value` in as many lists.
pub(crate) fn in_lists(count: usize, value: Value) -> Value {
    (0..count).fold(value, |value, _| Value::List(vec![value]))
}

#[test]
fn values_and_keys_are_four_words() {
    assert_eq!((size_of::<Value>(), size_of::<Key>()), (32, 32));
}

#[test]
fn nesting_ends_at_the_limit_when_writing_too() {
    let limit = usize::from(MAX_NESTING);
    let deepest = in_lists(limit, Value::None);
    assert_eq!(Value::of(&deepest), Ok(deepest.clone()));
    let too_deep = [
        Value::List(vec![deepest.clone()]),
        Value::Map(Map::from([("a", deepest.clone())])),
        in_lists(limit, Value::Map(Map::new())),
        in_lists(10 * limit, Value::None),
    ];
    for value in too_deep {
        assert_eq!(value.with_encoded(|_| ()), Err(EncodeError::TooDeep));
    }
    assert_eq!((deepest,).with_encoded(|_| ()), Err(EncodeError::TooDeep));
}

#[test]
fn floats_are_equal_if_their_bits_are() {
    assert_eq!(Value::from(f64::NAN), Value::from(f64::NAN));
    assert_ne!(Value::from(f64::NAN), Value::from(-f64::NAN));
    assert_ne!(Value::from(0.0), Value::from(-0.0));
    assert_ne!(Value::from(1), Value::from(1.0));
}

#[test]
fn values_are_written_for_people_as_in_python() {
    let value = Value::from(Map::from([
        (Key::from("none"), Value::None),
        (Key::from(1), Value::from_iter([true, false])),
        (Key::from(b"\x00a"), Value::from(-2.0)),
        (Key::from(("a", 2)), Value::from(&b"\"\xff"[..])),
        (Key::from(("a",)), Value::from("it's \"so\"\n")),
        (Key::Tuple(vec![]), Value::from(u128::MAX)),
        (Key::from("pose"), archive(1, "robot.Pose", &[0; 64]).into()),
    ]));
    let expected = r#"{"none": None, 1: [True, False], b"\x00a": -2.0, ("a", 2): b"\"\xff", ("a",): "it's \"so\"\n", (): 340282366920938463463374607431768211455, "pose": <robot.Pose, 64 bytes>}"#;
    assert_eq!(value.to_string(), expected);
}

#[test]
fn a_map_keeps_its_order_through_the_store() {
    let map = Map::from([("b", 1), ("a", 2), ("c", 3)]);
    let read: Map = Value::of(&map).unwrap().to().unwrap();
    assert_eq!(read.keys().collect::<Vec<_>>(), [&"b".into(), &"a".into(), &"c".into()]);
    assert_eq!(read, Map::from([("c", 3), ("b", 1), ("a", 2)]));
}

proptest! {
    #[test]
    fn a_map_finds_what_was_inserted(entries in vec((keys(), any::<i64>()), 0..8), other in keys()) {
        let map: Map = entries.iter().cloned().collect();
        let expected = |key: &Key| entries.iter().rev().find(|(k, _)| k == key).map(|(_, n)| Value::from(*n));
        for key in entries.iter().map(|(key, _)| key).chain([&other]) {
            prop_assert_eq!(map.get(key).cloned(), expected(key));
        }
    }
}
