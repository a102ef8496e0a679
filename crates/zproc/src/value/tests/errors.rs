//! What errors say.

use super::super::encode::length_prefix;
use super::super::{EncodeError, FromValue, Value, tag};
use crate::key::{FromKey, Key};

/// What reading `value` as a `T` is refused with.
fn refusal<T: FromValue + std::fmt::Debug>(value: impl Into<Value>) -> String {
    value.into().to::<T>().unwrap_err().to_string()
}

#[test]
fn the_wrong_type_names_both() {
    assert_eq!(refusal::<i64>("open"), r#"expected i64, found str "open""#);
    assert_eq!(refusal::<u8>(1.0), "expected u8, found float 1.0");
    assert_eq!(refusal::<f64>(1), "expected float, found int 1");
    assert_eq!(refusal::<f32>(1), "expected float, found int 1");
    assert_eq!(refusal::<bool>(1), "expected bool, found int 1");
    assert_eq!(refusal::<i64>(true), "expected i64, found bool True");
    assert_eq!(refusal::<String>(Value::None), "expected str, found none");
    assert_eq!(refusal::<()>(1), "expected none, found int 1");
    assert_eq!(refusal::<Option<i64>>("open"), r#"expected i64, found str "open""#);
    assert_eq!(refusal::<Vec<u8>>("open"), r#"expected bytes, found str "open""#);
    assert_eq!(
        refusal::<Vec<i64>>(&b"op\xffen"[..]),
        r#"expected list, found bytes b"op\xffen""#
    );
    assert_eq!(refusal::<(i64,)>("open"), r#"expected list, found str "open""#);
    assert_eq!(
        refusal::<crate::value::Map>(Value::from_iter([1, 2])),
        "expected map, found list [1, 2]"
    );
    assert_eq!(
        refusal::<Vec<i64>>(Value::from_iter(["a"])),
        r#"expected i64, found str "a""#
    );
    assert_eq!(refusal::<Key>(1.0), "expected key, found float 1.0");
    let error = Value::decode(300, b"..").unwrap_err().to_string();
    assert_eq!(
        error,
        "expected value, found a value with the unknown tag 300: read it as the type it was written as"
    );
}

#[test]
fn a_number_that_does_not_fit_is_named() {
    assert_eq!(refusal::<u8>(256), "expected u8, found int 256, which does not fit");
    assert_eq!(refusal::<u64>(-1), "expected u64, found int -1, which does not fit");
    let error = "expected i64, found int 340282366920938463463374607431768211455, which does not fit";
    assert_eq!(refusal::<i64>(u128::MAX), error);
}

#[test]
fn the_wrong_length_says_both() {
    assert_eq!(
        refusal::<(i64, i64)>(Value::from_iter([1, 2, 3, 4])),
        "expected 2 items, found 4"
    );
    assert_eq!(
        refusal::<(i64, i64)>(Value::from_iter([1])),
        "expected 2 items, found 1"
    );
    assert_eq!(refusal::<[i64; 3]>(Value::from_iter([1])), "expected 3 items, found 1");
    assert_eq!(refusal::<[u8; 3]>(&b"four"[..]), "expected 3 bytes, found 4");
}

#[test]
fn a_long_value_is_shown_in_part() {
    let shown = format!("expected i64, found str \"{}…", "ä".repeat(39));
    assert_eq!(refusal::<i64>("ä".repeat(1_000_000).as_str()), shown);
    assert_eq!(
        refusal::<i64>(vec![0; 1_000_000]),
        r#"expected i64, found bytes b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x…"#
    );
    assert_eq!(
        refusal::<i64>(Value::from_iter(0..100)),
        "expected i64, found list of 900 bytes"
    );
    let list = "expected i64, found list [1000, 1001, 1002, 1003, 1004, 1005, 100…";
    assert_eq!(refusal::<i64>(Value::from_iter(1000..1020)), list);
    let damaged = i64::decode(tag::LIST, &[7]).unwrap_err().to_string();
    assert_eq!(damaged, "expected i64, found list of 1 damaged bytes");
}

#[test]
fn keys_of_the_wrong_type_name_both() {
    let error = |key: Key| key.to_string();
    assert_eq!(error(Key::from(5)), "5");
    let refused = String::from_key(tag::key::INT, &5i64.to_le_bytes()).unwrap_err();
    assert_eq!(refused.to_string(), "expected str, found int 5");
    let refused = <(String, u8)>::from_key(tag::key::STR, b"a").unwrap_err();
    assert_eq!(refused.to_string(), r#"expected tuple, found str "a""#);
    let refused = Key::decode(tag::FLOAT as u8, &1f64.to_le_bytes()).unwrap_err();
    assert_eq!(refused.to_string(), "expected key, found float 1.0");
}

#[test]
fn a_length_that_four_bytes_cannot_say_is_refused() {
    assert_eq!(length_prefix(u32::MAX as usize), Ok([0xff; 4]));
    let len = u32::MAX as usize + 1;
    let error = length_prefix(len).unwrap_err();
    assert_eq!(error, EncodeError::TooLong { len });
    assert_eq!(
        error.to_string(),
        "a list, map or nested string of 4294967296 bytes is longer than 4294967295: store its parts under keys of \
         their own"
    );
}
