//! Values of types with serde's traits: what they are stored as, that they come back, and what is refused.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;

use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zproc::{DecodeError, EncodeError, Int, Key, MAX_NESTING, Map, Rkyv, Serde, State, Value, from_value, to_value};

mod support;
use support::Served;

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Unit;

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Meters(f64);

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Pair(i32, String);

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Side {
    Left,
    Right,
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
enum Step {
    Wait,
    Turn(Meters),
    Go(i8, i8),
    Carry { what: String, side: Option<Side> },
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Tagged {
    Plain { size: u8 },
    Other(Inner),
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Inner {
    x: i64,
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(untagged)]
enum Either {
    Number(i64),
    Text(String),
    Many(Vec<Either>),
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Config {
    name: String,
    #[serde(default)]
    retries: u8,
    steps: Vec<Step>,
    sides: BTreeMap<Side, i32>,
    by_number: HashMap<i16, (u8, char)>,
    by_pair: BTreeMap<(u8, String), Unit>,
    tagged: Vec<Tagged>,
    either: Either,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[track_caller]
fn round_trip<T: Serialize + DeserializeOwned + Debug + PartialEq>(value: &T) -> Value {
    let stored = to_value(value).unwrap();
    assert_eq!(&from_value::<T>(stored.clone()).unwrap(), value, "{stored}");
    // The same by way of a state.
    let state = State::anonymous().served().unwrap();
    state.insert("value", Serde(value)).unwrap();
    assert_eq!(
        state.get::<Serde<T>>("value").unwrap().map(|read| read.0).as_ref(),
        Some(value)
    );
    assert_eq!(state.get::<Value>("value").unwrap().as_ref(), Some(&stored));
    stored
}

#[test]
fn the_kinds_are_the_documented_ones() {
    let cases = [
        (round_trip(&()), "None"),
        (round_trip(&Unit), "None"),
        (round_trip(&None::<u8>), "None"),
        (round_trip(&Some(5)), "5"),
        (round_trip(&true), "True"),
        (round_trip(&i128::MIN), "-170141183460469231731687303715884105728"),
        (round_trip(&u128::MAX), "340282366920938463463374607431768211455"),
        (round_trip(&u64::MAX), "18446744073709551615"),
        (round_trip(&0.5f32), "0.5"),
        (round_trip(&'é'), r#""é""#),
        (round_trip(&"text".to_string()), r#""text""#),
        (round_trip(&Meters(1.5)), "1.5"),
        (round_trip(&Pair(-1, "b".into())), r#"[-1, "b"]"#),
        (round_trip(&(1, (2, 3))), "[1, [2, 3]]"),
        (round_trip(&vec![1u8, 2]), "[1, 2]"),
        (round_trip(&Step::Wait), r#""Wait""#),
        (round_trip(&Step::Turn(Meters(0.5))), r#"{"Turn": 0.5}"#),
        (round_trip(&Step::Go(1, -2)), r#"{"Go": [1, -2]}"#),
        (
            round_trip(&Step::Carry {
                what: "tea".into(),
                side: Some(Side::Left),
            }),
            r#"{"Carry": {"what": "tea", "side": "Left"}}"#,
        ),
        (
            round_trip(&BTreeMap::from([(Side::Left, 1), (Side::Right, 2)])),
            r#"{"Left": 1, "Right": 2}"#,
        ),
        (round_trip(&BTreeMap::from([(-1i16, 'a')])), r#"{-1: "a"}"#),
        (
            round_trip(&BTreeMap::from([((1u8, "b".to_string()), ())])),
            r#"{(1, "b"): None}"#,
        ),
        (
            round_trip(&Tagged::Plain { size: 3 }),
            r#"{"kind": "plain", "size": 3}"#,
        ),
        (
            round_trip(&Tagged::Other(Inner { x: -1 })),
            r#"{"kind": "other", "x": -1}"#,
        ),
        (
            round_trip(&Either::Many(vec![Either::Number(1), Either::Text("a".into())])),
            r#"[1, "a"]"#,
        ),
    ];
    for (value, shown) in cases {
        assert_eq!(value.to_string(), shown);
    }
}

fn config() -> Config {
    Config {
        name: "kitchen".into(),
        retries: 3,
        steps: vec![
            Step::Wait,
            Step::Go(1, 2),
            Step::Carry {
                what: "tea".into(),
                side: None,
            },
        ],
        sides: BTreeMap::from([(Side::Right, -1)]),
        by_number: HashMap::from([(5, (1, 'x')), (-7, (2, 'y'))]),
        by_pair: BTreeMap::from([((1, "a".into()), Unit)]),
        tagged: vec![Tagged::Plain { size: 1 }, Tagged::Other(Inner { x: 2 })],
        either: Either::Text("so".into()),
        rest: BTreeMap::from([("more".into(), Value::from_iter([1, 2]))]),
    }
}

#[test]
fn a_struct_with_everything_comes_back() {
    let stored = round_trip(&config());
    let map = stored.as_map().unwrap();
    assert_eq!(map.get("name"), Some(&"kitchen".into()));
    assert_eq!(map.get("more"), Some(&Value::from_iter([1, 2])));
    let mut without = map.clone();
    without.remove("retries");
    assert_eq!(
        from_value::<Config>(without.into()),
        Ok(Config { retries: 0, ..config() })
    );
}

#[test]
fn values_themselves_pass_through_unchanged() {
    let value = Value::from(Map::from([
        (Key::from("none"), Value::None),
        (Key::from(1), Value::from_iter([true, false])),
        (Key::from(b"\x00a"), Value::from(-2.0)),
        (Key::from(("a", (2, b"b"))), Value::from(&b"\"\xff"[..])),
        (Key::from(u128::MAX), Value::from(i128::MIN)),
    ]));
    assert_eq!(to_value(&value), Ok(value.clone()));
    assert_eq!(from_value::<Value>(value.clone()), Ok(value.clone()));
    let map = value.as_map().unwrap();
    assert_eq!(to_value(map), Ok(value.clone()));
    assert_eq!(from_value::<Map>(value.clone()).as_ref(), Ok(map));
    assert_eq!(from_value::<Int>(5.into()), Ok(Int::from(5)));
    assert_eq!(from_value::<Key>(Value::from_iter([1, 2])), Ok(Key::from((1, 2))));
}

#[test]
fn archives_are_shown_as_maps() {
    let archive = Value::of(&Rkyv(5u32)).unwrap();
    let shown = to_value(&archive).unwrap();
    let shown = shown.as_map().unwrap();
    assert_eq!(shown.get("type"), Some(&"u32".into()));
    assert_eq!(shown.get("archive"), Some(&Value::from(&[5u8, 0, 0, 0][..])));
    #[derive(Deserialize, Debug, PartialEq)]
    struct Shown {
        r#type: String,
    }
    assert_eq!(from_value::<Shown>(archive), Ok(Shown { r#type: "u32".into() }));
}

#[test]
fn values_go_through_json() {
    let value = Value::from(Map::from([
        ("none", Value::None),
        ("numbers", Value::from_iter([Int::from(-1), u64::MAX.into()])),
        ("float", 0.5.into()),
        ("text", "é\n".into()),
        ("map", Map::from([("a", true)]).into()),
    ]));
    let json = serde_json::to_string(&value).unwrap();
    assert_eq!(
        json,
        r#"{"none":null,"numbers":[-1,18446744073709551615],"float":0.5,"text":"é\n","map":{"a":true}}"#
    );
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), value);
    assert_eq!(serde_json::from_str::<Map>(&json).unwrap(), *value.as_map().unwrap());
    let numbered = Map::from([(1, "a")]);
    assert_eq!(serde_json::to_string(&numbered).unwrap(), r#"{"1":"a"}"#);
    assert!(
        serde_json::to_string(&Map::from([((1, 2), "a")])).is_err(),
        "JSON has no such keys"
    );
}

#[test]
fn keys_that_cannot_be_are_refused() {
    let told = |result: Result<Value, EncodeError>, what: &str| {
        let error = result.unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("not {what}: make the map a list of pairs")),
            "{error}"
        );
    };
    told(to_value(&HashMap::from([(true, 1)])), "a bool");
    told(to_value(&HashMap::from([((), 1)])), "none");
    told(to_value(&BTreeMap::from([(BTreeMap::from([(1, 1)]), 1)])), "a map");
    told(to_value(&BTreeMap::from([(None::<u8>, 1)])), "none");
    assert_eq!(
        to_value(&BTreeMap::from([(Some(1), 1)])),
        Ok(Map::from([(1, 1)]).into())
    );
    struct Floats;
    impl Serialize for Floats {
        fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
            out.collect_map([(0.5, 1)])
        }
    }
    told(to_value(&Floats), "a float");
}

#[test]
fn what_does_not_fit_is_told() {
    let told = |error: Option<DecodeError>, expected: &str| assert_eq!(error.unwrap().to_string(), expected);
    told(
        from_value::<u8>(300.into()).err(),
        "invalid value: integer `300`, expected u8",
    );
    told(from_value::<u8>("a".into()).err(), r#"expected u8, found string "a""#);
    told(
        from_value::<Meters>(true.into()).err(),
        "expected f64, found boolean `true`",
    );
    told(from_value::<Inner>(Map::new().into()).err(), "missing field `x`");
    told(
        from_value::<Step>("Run".into()).err(),
        "unknown variant `Run`, expected one of `Wait`, `Turn`, `Go`, `Carry`",
    );
    told(
        from_value::<Step>(5.into()).err(),
        "expected a variant, which is a str or a map of one entry, found int",
    );
    told(
        from_value::<Step>("Turn".into()).err(),
        "expected a variant with a value, found a variant without contents",
    );
    told(
        from_value::<Step>(Map::from([("Wait", 1)]).into()).err(),
        "expected a variant without contents, found one with int",
    );
    told(
        from_value::<(u8, u8)>(Value::from_iter([1, 2, 3])).err(),
        "invalid length 3, expected 2 elements in sequence",
    );
    let state = State::anonymous().served().unwrap();
    state.insert("a", 5).unwrap();
    let error = state.get::<Serde<Inner>>("a").unwrap_err().to_string();
    assert_eq!(error, r#"the value of "a": expected struct Inner, found integer `5`"#);
}

#[test]
fn nesting_ends_at_the_limit() {
    #[derive(Serialize, Deserialize, Debug)]
    struct Tree(Vec<Tree>);
    #[derive(Serialize, Deserialize, Debug)]
    enum Chain {
        End,
        Next(Box<Chain>),
    }
    let trees = |depth: u8| (1..depth).fold(Tree(vec![]), |inner, _| Tree(vec![inner]));
    let chains = |depth: u8| (0..depth).fold(Chain::End, |inner, _| Chain::Next(Box::new(inner)));
    for depth in [1, 5, MAX_NESTING] {
        let (tree, chain) = (to_value(&trees(depth)).unwrap(), to_value(&chains(depth)).unwrap());
        assert!(from_value::<Tree>(Value::of(&tree).unwrap()).is_ok());
        assert!(from_value::<Chain>(Value::of(&chain).unwrap()).is_ok());
    }
    assert_eq!(to_value(&trees(MAX_NESTING + 1)), Err(EncodeError::TooDeep));
    assert_eq!(to_value(&chains(MAX_NESTING + 1)), Err(EncodeError::TooDeep));
}

#[test]
fn a_vector_of_bytes_is_read_from_bytes_too() {
    assert_eq!(from_value::<Vec<u8>>(Value::from(&[1u8, 2][..])), Ok(vec![1, 2]));
    assert_eq!(from_value::<[u8; 2]>(Value::from(&[1u8, 2][..])), Ok([1, 2]));
}

/// What has a lock, a cursor or a descriptor behind it is nothing that another process could read.
#[test]
fn states_are_no_values() {
    /// Ambiguous, and so an error when it is named, for a type that implements the trait.
    trait NotSerialize<A> {
        fn checked() {}
    }
    impl<T: ?Sized> NotSerialize<()> for T {}
    struct Implements;
    impl<T: ?Sized + Serialize> NotSerialize<Implements> for T {}
    trait NotDeserialize<A> {
        fn checked() {}
    }
    impl<T: ?Sized> NotDeserialize<()> for T {}
    impl<T: DeserializeOwned> NotDeserialize<Implements> for T {}
    macro_rules! neither {
        ($($type:ty)*) => {$(
            <$type as NotSerialize<_>>::checked();
            <$type as NotDeserialize<_>>::checked();
        )*};
    }
    neither!(State zproc::Snapshot<'static> zproc::Handle<'static, i64> zproc::Error zproc::Transaction<'static>);
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Wait),
        any::<i32>().prop_map(|n| Step::Turn(Meters(f64::from(n) / 8.0))),
        any::<(i8, i8)>().prop_map(|(x, y)| Step::Go(x, y)),
        (any::<String>(), any::<Option<bool>>()).prop_map(|(what, side)| Step::Carry {
            what,
            side: side.map(|left| if left { Side::Left } else { Side::Right }),
        }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        steps in prop::collection::vec(steps(), 0..10),
        numbers in any::<(i128, u128, i64, u64, Option<i8>, f64)>(),
        by_number in prop::collection::btree_map(any::<u128>(), any::<(char, [u8; 3])>(), 0..8),
        by_text in prop::collection::hash_map(".{0,6}", any::<[Option<i16>; 3]>(), 0..8),
        by_tuple in prop::collection::btree_map(any::<(i8, char, (bool, u8))>(), any::<u8>(), 0..4),
    ) {
        prop_assume!(!numbers.5.is_nan());
        prop_assert_eq!(&from_value::<Vec<Step>>(to_value(&steps).unwrap()).unwrap(), &steps);
        prop_assert_eq!(from_value(to_value(&numbers).unwrap()), Ok(numbers));
        prop_assert_eq!(from_value(to_value(&by_number).unwrap()), Ok(by_number));
        prop_assert_eq!(from_value(to_value(&by_text).unwrap()), Ok(by_text));
        // A bool is no key, wherever it stands in one.
        prop_assert!(by_tuple.is_empty() || to_value(&by_tuple).is_err());
    }
}
