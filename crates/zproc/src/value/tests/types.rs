//! Rust types as values.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::rc::Rc;
use std::sync::Arc;

use indexmap::IndexMap;
use proptest::prelude::*;

use super::super::{EncodeError, Encoder, FromValue, Int, ToValue, Value, tag};
use super::{encoded, ints};
use crate::key::{Key, ToKey};

/// Writes `value`, reads it back as its own type, and returns its tag.
fn round_trip<T: ToValue + FromValue + PartialEq + Debug>(value: T) -> u16 {
    let (tag, bytes) = encoded(&value);
    assert_eq!(T::decode(tag, &bytes).as_ref(), Ok(&value));
    // Inside a list as well, where bytes and tag take another path.
    let (list, bytes) = encoded(&(&value, 0u8));
    assert_eq!(<(T, u8)>::decode(list, &bytes), Ok((value, 0)));
    tag
}

#[test]
fn every_type_is_read_as_it_was_written() {
    assert_eq!(round_trip(()), tag::NONE);
    assert_eq!(round_trip(None::<i64>), tag::NONE);
    assert_eq!(round_trip(Some(5i64)), tag::INT);
    assert_eq!(round_trip(true), tag::BOOL);
    assert_eq!(round_trip(1.5f64), tag::FLOAT);
    assert_eq!(round_trip(0.1f32), tag::FLOAT);
    assert_eq!(round_trip("open".to_string()), tag::STR);
    assert_eq!(round_trip(Box::<str>::from("open")), tag::STR);
    assert_eq!(round_trip(Cow::Borrowed("open")), tag::STR);
    assert_eq!(round_trip(vec![1u8, 2]), tag::BYTES);
    assert_eq!(round_trip([1u8, 2]), tag::BYTES);
    assert_eq!(round_trip([0u8; 0]), tag::BYTES);
    assert_eq!(round_trip(Box::<[u8]>::from([1, 2])), tag::BYTES);
    assert_eq!(round_trip(Cow::Borrowed(&b"ab"[..])), tag::BYTES);
    assert_eq!(round_trip(vec![1i8, 2]), tag::LIST);
    assert_eq!(round_trip(Vec::<i64>::new()), tag::LIST);
    assert_eq!(round_trip(vec![vec![1u8], vec![]]), tag::LIST);
    assert_eq!(round_trip([Some("a".to_string()), None]), tag::LIST);
    assert_eq!(round_trip(Box::<[u16]>::from([1, 2])), tag::LIST);
    assert_eq!(round_trip((1u8,)), tag::LIST);
    assert_eq!(round_trip((1u8, "a".to_string(), (2.5, ()), [true])), tag::LIST);
    assert_eq!(
        round_trip(BTreeMap::from([((1, "a".to_string()), vec![1u8])])),
        tag::MAP
    );
    assert_eq!(round_trip(HashMap::from([(1u64, 2.5), (u64::MAX, 3.5)])), tag::MAP);
    assert_eq!(
        round_trip(IndexMap::<[u8; 2], Box<u8>>::from([([1, 2], Box::new(3))])),
        tag::MAP
    );
    assert_eq!(round_trip(Key::from(("a", 5))), tag::LIST);
    assert_eq!(round_trip(Int::from(u128::MAX)), tag::UINT128);
}

#[test]
fn pointers_are_stored_as_what_they_point_to() {
    let plain = encoded("open");
    assert_eq!(encoded(&&"open"), plain);
    assert_eq!(encoded(&&mut String::from("open")), plain);
    assert_eq!(encoded(&Box::<str>::from("open")), plain);
    assert_eq!(encoded(&Rc::new("open")), plain);
    assert_eq!(encoded(&Arc::<str>::from("open")), plain);
    assert_eq!(encoded(&Cow::Borrowed("open")), plain);
    assert_eq!(encoded(&Some("open")), plain);
    assert_eq!(encoded(&Value::from("open")), plain);
    assert_eq!(encoded(&[1, 2][..]), encoded(&vec![1u64, 2]));
    assert_eq!(encoded(&b"ab"), encoded(&vec![b'a', b'b']));
}

#[test]
fn a_string_is_passed_on_where_it_is() {
    let text = String::from("a text that nobody has to copy");
    assert_eq!(text.with_encoded(|encoded| encoded.bytes().as_ptr()), Ok(text.as_ptr()));
    assert_eq!(
        Some(&text).with_encoded(|encoded| encoded.bytes().as_ptr()),
        Ok(text.as_ptr())
    );
    let bytes = text.as_bytes();
    assert_eq!(
        bytes.with_encoded(|encoded| encoded.bytes().as_ptr()),
        Ok(bytes.as_ptr())
    );
    assert_eq!(text.with_key(|_, bytes| bytes.as_ptr()), Ok(text.as_ptr()));
}

#[test]
fn a_float_of_32_bits_is_rounded_to() {
    assert_eq!(Value::from(0.1f64).to::<f32>(), Ok(0.1f32));
    assert_eq!(Value::from(1e300).to::<f32>(), Ok(f32::INFINITY));
}

#[test]
fn a_value_that_writes_nothing_is_none() {
    struct Silent;
    impl ToValue for Silent {
        fn encode(&self, _: Encoder<'_>) -> Result<(), EncodeError> {
            Ok(())
        }
    }
    assert_eq!(Value::of(&Silent), Ok(Value::None));
    assert_eq!(
        Value::of(&[Silent, Silent]),
        Ok(Value::List(vec![Value::None, Value::None]))
    );
}

/// Checks that `int` is read as a `$type` exactly if it fits, and that all widths that it fits in are stored alike.
macro_rules! check_widths {
    ($int:expr, $($type:ident)*) => {$(
        let int: Int = $int;
        let exact = match i128::try_from(int) {
            Ok(n) => $type::try_from(n).ok(),
            Err(_) => $type::try_from(u128::try_from(int).unwrap()).ok(),
        };
        let (tag, bytes) = encoded(&int);
        match ($type::decode(tag, &bytes), exact) {
            (Ok(read), Some(n)) => {
                prop_assert_eq!(read, n);
                prop_assert_eq!(encoded(&n), (tag, bytes));
                prop_assert_eq!(Int::from(n), int);
                prop_assert_eq!(n.to_key(), int.to_key());
                prop_assert_eq!(n.to_key().unwrap(), Key::from(n));
                prop_assert_eq!(Value::from(n), Value::from(int));
            }
            (Err(error), None) => {
                let expected = format!("expected {}, found int {int}, which does not fit", stringify!($type));
                prop_assert_eq!(error.to_string(), expected);
            }
            (read, exact) => prop_assert!(false, "{:?} for {:?}", read, exact),
        }
    )*};
}

fn check_every_width(int: Int) -> Result<(), TestCaseError> {
    check_widths!(int, i8 i16 i32 i64 i128 isize u8 u16 u32 u64 u128 usize);
    Ok(())
}

#[test]
fn integers_convert_at_the_borders_of_every_width() {
    let powers = (0..127).map(|bit| 1i128 << bit);
    let signed = powers.flat_map(|power| [-power - 1, -power, -power + 1, power - 1, power, power + 1]);
    let large = [1u128 << 127, (1 << 127) - 1, (1 << 127) + 1, u128::MAX - 1, u128::MAX];
    let all = signed
        .chain([0, i128::MIN, i128::MIN + 1, i128::MAX])
        .map(Int::from)
        .chain(large.map(Int::from));
    for int in all {
        check_every_width(int).unwrap();
    }
}

proptest! {
    #[test]
    fn integers_convert_when_they_fit(int in ints()) {
        check_every_width(int)?;
    }

    #[test]
    fn integers_compare_as_numbers(a in ints(), b in ints()) {
        let wide = |n: Int| n.to_string().parse::<f64>().unwrap();
        prop_assert!(a == b || wide(a) == wide(b) || (a < b) == (wide(a) < wide(b)));
        prop_assert_eq!(a == b, a.to_string() == b.to_string());
    }

    #[test]
    fn floats_keep_their_bits(bits in any::<u64>()) {
        let (tag, bytes) = encoded(&f64::from_bits(bits));
        prop_assert_eq!(f64::decode(tag, &bytes).unwrap().to_bits(), bits);
    }

    #[test]
    fn lists_of_everything_are_read(list in any::<Vec<(Option<i16>, String, Vec<u8>, (f64, bool))>>()) {
        let (tag, bytes) = encoded(&list);
        prop_assert_eq!(FromValue::decode(tag, &bytes), Ok(list));
    }
}
