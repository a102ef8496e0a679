//! The bytes themselves: that they are the documented ones, that a value has one form, and that bytes of any kind can be
//! read without harm.

use std::collections::{BTreeMap, HashMap};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::super::{DecodeError, Encoded, FromValue, Int, MAX_NESTING, Map, Value, tag};
use super::{archive, encoded, in_lists, values};
use crate::key::Key;

#[test]
fn the_bytes_are_the_documented_ones() {
    let cases: Vec<(Value, u16, &[u8])> = vec![
        (Value::None, 1, &[]),
        (true.into(), 2, &[1]),
        ((-2).into(), 3, &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        (
            (1i128 << 64).into(),
            4,
            &[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        ),
        (
            (1u128 << 127).into(),
            5,
            &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80],
        ),
        (1.0.into(), 6, &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f]),
        ("é".into(), 7, &[0xc3, 0xa9]),
        (vec![1u8, 2].into(), 8, &[1, 2]),
        (
            Value::List(vec![1.into(), "ab".into()]),
            9,
            &[3, 1, 0, 0, 0, 0, 0, 0, 0, 7, 2, 0, 0, 0, b'a', b'b'],
        ),
        (
            Map::from([
                (Key::from("k"), Value::None),
                (Key::from(("t",)), Value::List(vec![true.into()])),
            ])
            .into(),
            10,
            &[
                7, 1, 0, 0, 0, b'k', 1, 9, 6, 0, 0, 0, 7, 1, 0, 0, 0, b't', 9, 2, 0, 0, 0, 2, 1,
            ],
        ),
        (
            Value::Archived(archive(0x0807_0605_0403_0201, "T", &[7, 9])),
            11,
            &[1, 2, 3, 4, 5, 6, 7, 8, 2, 0, 0, 0, 1, 0, 0, 0, 7, 9, b'T'],
        ),
        (
            Value::List(vec![archive(0, "é", &[]).into(), 1.0.into()]),
            9,
            &[
                11, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0xc3, 0xa9, 6, 0, 0, 0, 0, 0, 0, 0xf0,
                0x3f,
            ],
        ),
    ];
    for (value, tag, bytes) in cases {
        assert_eq!(encoded(&value), (tag, bytes.to_vec()), "{value}");
        assert_eq!(Value::decode(tag, bytes), Ok(value));
    }
}

#[test]
fn maps_with_no_order_of_their_own_are_written_by_key() {
    let numbers: Vec<i64> = (0..100).rev().chain([i64::MIN, -1]).collect();
    let hashed: HashMap<_, _> = numbers.iter().map(|n| (*n, n.to_string())).collect();
    let sorted: BTreeMap<_, _> = numbers.iter().map(|n| (*n, n.to_string())).collect();
    assert_eq!(encoded(&hashed), encoded(&sorted));
}

#[test]
fn damaged_bytes_are_refused() {
    let int128 = |n: i128| n.to_le_bytes().to_vec();
    let cases: Vec<(u16, Vec<u8>, &str)> = vec![
        (tag::NONE, vec![0], "damaged none, it has bytes"),
        (tag::BOOL, vec![], "damaged bool, it is neither 0 nor 1"),
        (tag::BOOL, vec![2], "damaged bool, it is neither 0 nor 1"),
        (tag::INT, vec![0; 7], "damaged int, it is not 8 bytes long"),
        (tag::INT, vec![0; 9], "damaged int, it is not 8 bytes long"),
        (tag::INT128, vec![0; 8], "damaged int, it is not 16 bytes long"),
        (tag::INT128, int128(5), "damaged int, it is written wider than it needs"),
        (
            tag::INT128,
            int128(i64::MIN.into()),
            "damaged int, it is written wider than it needs",
        ),
        (
            tag::UINT128,
            int128(5),
            "damaged int, it is written wider than it needs",
        ),
        (
            tag::UINT128,
            int128(i128::MAX),
            "damaged int, it is written wider than it needs",
        ),
        (tag::FLOAT, vec![0; 4], "damaged float, it is not 8 bytes long"),
        (tag::STR, vec![b'a', 0xff], "damaged str, it is not UTF-8"),
        (tag::LIST, vec![2], "damaged list, it ends within an item"),
        (tag::LIST, vec![7, 1, 0, 0], "damaged list, it ends within an item"),
        (
            tag::LIST,
            vec![7, 0xff, 0xff, 0xff, 0xff, b'a'],
            "damaged list, it ends within an item",
        ),
        (tag::LIST, vec![1, 2, 3], "damaged bool, it is neither 0 nor 1"),
        (tag::MAP, vec![7, 0, 0, 0, 0], "damaged map, its last key has no value"),
        (
            tag::MAP,
            vec![7, 0, 0, 0, 0, 3, 0],
            "damaged map, it ends within an item",
        ),
        (
            tag::MAP,
            vec![7, 0, 0, 0, 0, 1, 7, 0, 0, 0, 0, 1],
            "damaged map, it has a key twice",
        ),
        (tag::ARCHIVED, vec![], "damaged rkyv, it ends within its head"),
        (tag::ARCHIVED, vec![0; 15], "damaged rkyv, it ends within its head"),
        (tag::ARCHIVED, vec![0; 16], "damaged rkyv, its type has no name"),
        (tag::ARCHIVED, vec![0; 17], "damaged rkyv, its lengths do not add up"),
        (tag::ARCHIVED, vec![0xff; 40], "damaged rkyv, its lengths do not add up"),
        (
            tag::ARCHIVED,
            [&[0; 12][..], &[1, 0, 0, 0, 0xff]].concat(),
            "damaged rkyv, the name of its type is not UTF-8",
        ),
    ];
    for (tag, bytes, message) in cases {
        let error = Value::decode(tag, &bytes).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{message}: write the value again"),
            "{tag} {bytes:?}"
        );
    }
    assert!(matches!(
        Value::decode(tag::MAP, &[1, 1]),
        Err(DecodeError::WrongType { expected: "key", .. })
    ));
    for tag in [0, 12, 255, 256, u16::MAX] {
        assert_eq!(
            Value::decode(tag, &[]),
            Err(DecodeError::UnknownTag { expected: "value", tag })
        );
    }
    let unknown_inside = Value::decode(tag::LIST, &[200, 1, 0, 0, 0, 0]);
    assert_eq!(
        unknown_inside,
        Err(DecodeError::UnknownTag {
            expected: "value",
            tag: 200
        })
    );
}

#[test]
fn nesting_ends_at_the_limit_when_reading_too() {
    let nested = |depth: usize| {
        let mut bytes = Vec::new();
        for _ in 1..depth {
            let len = u32::try_from(bytes.len()).unwrap();
            bytes = [&[tag::LIST as u8][..], &len.to_le_bytes(), &bytes].concat();
        }
        bytes
    };
    let limit = usize::from(MAX_NESTING);
    assert_eq!(
        Value::decode(tag::LIST, &nested(limit)),
        Ok(in_lists(limit - 1, Value::List(vec![])))
    );
    for depth in [limit + 1, 2000] {
        let bytes = nested(depth);
        assert_eq!(Value::decode(tag::LIST, &bytes), Err(DecodeError::TooDeep));
        assert_eq!(Key::decode(tag::key::TUPLE, &bytes), Err(DecodeError::TooDeep));
        let map = [
            &[tag::LIST as u8][..],
            &u32::try_from(bytes.len()).unwrap().to_le_bytes(),
            &bytes,
            &[1],
        ]
        .concat();
        assert_eq!(Value::decode(tag::MAP, &map), Err(DecodeError::TooDeep));
    }
}

/// A recursive type of a program's own is bound by the limit as well.
#[test]
fn nesting_ends_at_the_limit_for_other_types() {
    #[derive(Debug)]
    struct Tree(Vec<Tree>);
    impl FromValue for Tree {
        fn from_encoded(encoded: Encoded<'_>) -> Result<Self, DecodeError> {
            encoded.get().map(Tree)
        }
    }
    let mut bytes = Vec::new();
    for _ in 0..2000 {
        let len = u32::try_from(bytes.len()).unwrap();
        bytes = [&[tag::LIST as u8][..], &len.to_le_bytes(), &bytes].concat();
    }
    assert_eq!(Tree::decode(tag::LIST, &bytes).unwrap_err(), DecodeError::TooDeep);
    let leaves = Tree::decode(tag::LIST, &[9, 0, 0, 0, 0, 9, 0, 0, 0, 0]).unwrap();
    assert_eq!(leaves.0.len() + leaves.0[0].0.len(), 2);
}

#[test]
fn room_is_made_only_for_what_the_bytes_can_hold() {
    let nones = vec![tag::NONE as u8; 1000];
    let items = Encoded::new(tag::LIST, &nones).items().unwrap();
    assert_eq!(items.guess_len::<u8>(), 1000);
    assert_eq!(items.guess_len::<[u64; 25]>(), 5);
    assert_eq!(items.guess_len::<[u64; 1000]>(), 0);
    let (_, numbers) = encoded(&[1, 2, 3]);
    assert_eq!(Encoded::new(tag::LIST, &numbers).items().unwrap().guess_len::<i64>(), 3);
    assert_eq!(Encoded::new(tag::LIST, &[]).items().unwrap().guess_len::<()>(), 0);
}

/// Reads bytes as types of every sort; what counts is that it returns.
fn read_as_everything(tag: u16, bytes: &[u8]) {
    let encoded = Encoded::new(tag, bytes);
    let _ = encoded.get::<Value>();
    let _ = encoded.get::<Option<bool>>();
    let _ = encoded.get::<i8>();
    let _ = encoded.get::<u128>();
    let _ = encoded.get::<f32>();
    let _ = encoded.get::<String>();
    let _ = encoded.get::<Vec<u8>>();
    let _ = encoded.get::<[u8; 4]>();
    let _ = encoded.get::<[Value; 2]>();
    let _ = encoded.get::<Vec<(Int, Box<str>)>>();
    let _ = encoded.get::<(Value, Value, Value)>();
    let _ = encoded.get::<BTreeMap<(Key, String), Value>>();
    let _ = encoded.get::<HashMap<Vec<u8>, ()>>();
    let _ = encoded.get::<Key>();
    let _ = encoded.get_key::<(Key, Key)>();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(value in values()) {
        let (tag, bytes) = encoded(&value);
        let read = Value::decode(tag, &bytes).unwrap();
        prop_assert_eq!(&read, &value);
        // The order of maps, which comparing ignores, is there too.
        prop_assert_eq!(format!("{:?}", read), format!("{:?}", value));
    }

    #[test]
    fn equal_values_are_the_same_value(a in values(), b in values(), same in any::<bool>()) {
        let b = if same { a.clone() } else { b };
        let ((tag_a, a_bytes), (tag_b, b_bytes)) = (encoded(&a), encoded(&b));
        let (stored_a, stored_b) = (Encoded::new(tag_a, &a_bytes), Encoded::new(tag_b, &b_bytes));
        prop_assert_eq!(stored_a.same_value(stored_b), a == b);
        prop_assert!(a == b || (tag_a, &a_bytes) != (tag_b, &b_bytes));
    }

    /// What can be read at all is in the one form that its value has.
    #[test]
    fn what_is_read_would_be_written_the_same(tag in 0..12u16, bytes in vec(0..16u8, 0..24)) {
        read_as_everything(tag, &bytes);
        if let Ok(value) = Value::decode(tag, &bytes) {
            prop_assert_eq!(encoded(&value), (tag, bytes));
        }
    }

    #[test]
    fn random_bytes_do_no_harm(tag in 0..20u16, bytes in vec(any::<u8>(), 0..64)) {
        read_as_everything(tag, &bytes);
    }

    #[test]
    fn changed_bytes_do_no_harm(value in values(), at in any::<Index>(), to in any::<u8>()) {
        let (tag, mut bytes) = encoded(&value);
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        read_as_everything(tag, &bytes);
        if let Ok(value) = Value::decode(tag, &bytes) {
            prop_assert_eq!(encoded(&value), (tag, bytes));
        }
    }

    /// A list or a map that ends early is damaged, unless it ends between items.
    #[test]
    fn truncated_bytes_are_refused_or_a_shorter_value(value in values(), at in any::<Index>()) {
        let (tag, bytes) = encoded(&value);
        let shorter = &bytes[..at.index(bytes.len().max(1)).min(bytes.len())];
        read_as_everything(tag, shorter);
        if let Ok(read) = Value::decode(tag, shorter) {
            prop_assert!(shorter.len() == bytes.len() || read != value);
            prop_assert_eq!(encoded(&read), (tag, shorter.to_vec()));
        }
    }
}
