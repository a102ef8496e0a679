//! Keys.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::rc::Rc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::{DecodeError, EncodeError, MAX_NESTING, Map, ToValue, Value, tag};
use super::{encoded, keys};
use crate::key::{FromKey, Key, ToKey};

/// The tag and the bytes of a key.
fn stored<K: ToKey + ?Sized>(key: &K) -> (u8, Vec<u8>) {
    key.with_key(|tag, bytes| (tag, bytes.to_vec())).unwrap()
}

/// `key` in as many tuples.
fn in_tuples(count: usize, key: Key) -> Key {
    (0..count).fold(key, |key, _| Key::Tuple(vec![key]))
}

#[test]
fn every_type_of_key_is_read_as_it_was_written() {
    fn round_trip<K: ToKey + FromKey + Into<Key> + PartialEq + std::fmt::Debug>(key: K) -> u8 {
        let (tag, bytes) = stored(&key);
        assert_eq!(K::from_key(tag, &bytes).as_ref(), Ok(&key));
        assert_eq!(key.to_key(), Ok(key.into()));
        tag
    }
    assert_eq!(round_trip("a".to_string()), tag::key::STR);
    assert_eq!(round_trip(Box::<str>::from("a")), tag::key::STR);
    assert_eq!(round_trip(5u8), tag::key::INT);
    assert_eq!(round_trip(u64::MAX), tag::key::INT128);
    assert_eq!(round_trip(u128::MAX), tag::key::UINT128);
    assert_eq!(round_trip(b"ab".to_vec()), tag::key::BYTES);
    assert_eq!(round_trip(*b"ab"), tag::key::BYTES);
    assert_eq!(round_trip(("a".to_string(),)), tag::key::TUPLE);
    assert_eq!(
        round_trip(("a".to_string(), (1i8, *b"x"), Key::from("b"), i128::MIN)),
        tag::key::TUPLE
    );
}

#[test]
fn borrowed_keys_are_the_owned_ones() {
    let key = stored("cookies");
    assert_eq!(key, (7, b"cookies".to_vec()));
    assert_eq!(stored(&"cookies"), key);
    assert_eq!(stored(&String::from("cookies")), key);
    assert_eq!(stored(&Cow::Borrowed("cookies")), key);
    assert_eq!(stored(&Rc::<str>::from("cookies")), key);
    assert_eq!(stored(&Key::from("cookies")), key);
    assert_eq!(stored(&b"ab"[..]), stored(b"ab"));
    assert_eq!(stored(&(1, "a")), stored(&Key::from((1u128, "a".to_string()))));
}

#[test]
fn kinds_of_keys_differ() {
    let mut all = vec![
        Key::from(b"1"),
        Key::from(("1",)),
        Key::from(1),
        Key::from("1"),
        Key::Tuple(vec![]),
    ];
    all.sort();
    assert_eq!(
        all,
        [Key::from("1"), 1.into(), b"1".into(), Key::Tuple(vec![]), ("1",).into()]
    );
    let distinct: BTreeMap<_, _> = all.iter().map(|key| (stored(key), key)).collect();
    assert_eq!(distinct.len(), all.len());
}

#[test]
fn tuples_that_nest_too_deep_are_refused() {
    let limit = usize::from(MAX_NESTING);
    let deepest = in_tuples(limit, Key::from(1));
    assert_eq!(deepest.to_key(), Ok(deepest.clone()));
    let inner = in_tuples(limit - 1, Key::from(1));
    assert_eq!((&inner,).to_key(), Ok(deepest.clone()));
    assert_eq!((&deepest, 1).with_key(|_, _| ()), Err(EncodeError::TooDeep));
    let too_deep = Key::from((deepest.clone(),));
    assert_eq!(too_deep.with_key(|_, _| ()), Err(EncodeError::TooDeep));
    assert_eq!(too_deep.to_key(), Err(DecodeError::Encode(EncodeError::TooDeep)));
    // As a key of a map a tuple counts for itself.
    let map = Map::from([(deepest.clone(), 1)]);
    assert_eq!(Value::of(&map), Ok(Value::Map(map.clone())));
    assert_eq!(map.get(&deepest), Some(&1.into()));
    let map = Map::from([(too_deep.clone(), 1)]);
    assert_eq!(map.with_encoded(|_| ()), Err(EncodeError::TooDeep));
    assert_eq!(map.get(&too_deep), None);
}

proptest! {
    #[test]
    fn keys_are_read_as_written(key in keys()) {
        let (tag, bytes) = stored(&key);
        prop_assert_eq!(Key::decode(tag, &bytes), Ok(key.clone()));
        // A key is stored as the value that it would be.
        prop_assert_eq!(encoded(&key), (u16::from(tag), bytes.clone()));
        prop_assert_eq!(encoded(&Value::from(key)), (u16::from(tag), bytes));
    }

    #[test]
    fn keys_are_equal_if_their_bytes_are(a in keys(), b in keys(), same in any::<bool>()) {
        let b = if same { a.clone() } else { b };
        prop_assert_eq!(a == b, stored(&a) == stored(&b));
        let hasher = std::hash::RandomState::new();
        prop_assert!(a != b || hasher.hash_one(&a) == hasher.hash_one(&b));
        prop_assert_eq!(a.cmp(&b).is_eq(), a == b);
    }

    #[test]
    fn keys_are_in_one_form(tag in 0..12u8, bytes in vec(0..16u8, 0..24)) {
        if let Ok(key) = Key::decode(tag, &bytes) {
            prop_assert_eq!(stored(&key), (tag, bytes));
        }
    }
}
