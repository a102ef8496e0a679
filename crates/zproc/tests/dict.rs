//! A state as a dict: what each operation does, and the order of its keys.

use zproc::{Error, Int, Key, Map, Result, State, Value};

mod support;
use support::Served;

/// A state with these entries.
fn state<const N: usize>(entries: [(&str, i64); N]) -> State {
    let state = State::anonymous().served().unwrap();
    state.extend(entries).unwrap();
    state
}

fn keys(state: &State) -> Vec<String> {
    state
        .keys()
        .unwrap()
        .map(|key| key.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_missing_key_is_none_and_no_error() -> Result<()> {
    let state = State::anonymous().served()?;
    assert_eq!(state.get::<i64>("cookies")?, None);
    assert_eq!(state.remove("cookies")?, None);
    assert_eq!(state.take::<i64>("cookies")?, None);
    assert_eq!(state.pop_item()?, None);
    assert!(!state.contains_key("cookies")?);
    assert_eq!(state.seq()?, 0, "nothing was changed, so there is no update");
    Ok(())
}

#[test]
fn none_is_a_value_and_not_a_missing_key() -> Result<()> {
    let state = State::anonymous().served()?;
    state.insert("oven", Value::None)?;
    assert_eq!(state.get::<Option<i64>>("oven")?, Some(None));
    assert_eq!(state.get::<Value>("oven")?, Some(Value::None));
    assert!(state.contains_key("oven")?);
    assert!(matches!(state.get::<i64>("oven"), Err(Error::WrongType { .. })));
    state.insert("oven", Some(180))?;
    assert_eq!(state.get::<Option<i64>>("oven")?, Some(Some(180)));
    Ok(())
}

#[test]
fn every_kind_of_value_comes_back() -> Result<()> {
    let state = State::anonymous().served()?;
    let long = "long enough to lie in a block of its own ".repeat(1000);
    let values = Map::from([
        ("none", Value::None),
        ("bool", true.into()),
        ("int", (-5).into()),
        ("large", u128::MAX.into()),
        ("float", 0.1.into()),
        ("str", "open".into()),
        ("bytes", b"\x00\xff"[..].into()),
        ("list", Value::from_iter([1, 2, 3])),
        ("map", Map::from([("inner", Value::from_iter(["a", "b"]))]).into()),
        ("long", long.as_str().into()),
    ]);
    state.extend(&values)?;
    assert_eq!(state.to_map()?, values);
    assert_eq!(state.get("str")?, Some("open".to_owned()));
    assert_eq!(state.get("bytes")?, Some(vec![0u8, 255]));
    assert_eq!(state.get("list")?, Some(vec![1, 2, 3]));
    assert_eq!(state.get("long")?, Some(long));
    Ok(())
}

#[test]
fn integers_of_every_width_are_one_kind_and_floats_another() -> Result<()> {
    let state = State::anonymous().served()?;
    state.insert("n", 200u8)?;
    assert_eq!(state.get::<i128>("n")?, Some(200));
    assert_eq!(state.get::<Int>("n")?, Some(200.into()));
    assert!(
        matches!(state.get::<i8>("n"), Err(Error::WrongType { .. })),
        "it does not fit"
    );
    assert!(matches!(state.get::<f64>("n"), Err(Error::WrongType { .. })));
    state.insert(1u8, "one")?;
    assert_eq!(state.get::<String>(1i64)?.as_deref(), Some("one"));
    Ok(())
}

#[test]
fn keys_of_different_kinds_are_different_keys() -> Result<()> {
    let state = State::anonymous().served()?;
    state.insert("1", "text")?;
    state.insert(1, "number")?;
    state.insert(b"1", "bytes")?;
    state.insert(("1", 1), "tuple")?;
    let expected = [Key::from("1"), Key::from(1), Key::from(b"1"), Key::from(("1", 1))];
    assert_eq!(state.keys()?.collect::<Vec<_>>(), expected);
    assert_eq!(state.get::<String>(("1", 1))?.as_deref(), Some("tuple"));
    for key in expected {
        assert!(state.remove(&key)?.is_some(), "{key}");
    }
    Ok(())
}

#[test]
fn the_wrong_type_is_an_error_that_names_both_and_the_key() {
    let state = State::anonymous().served().unwrap();
    state.insert(("user", 5), "ann").unwrap();
    let error = state.get::<i64>(("user", 5)).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"the value of ("user", 5): expected i64, found str "ann""#
    );
}

#[test]
fn keys_keep_the_order_of_insertion() -> Result<()> {
    let state = state([("b", 1), ("a", 2), ("c", 3)]);
    assert_eq!(keys(&state), ["b", "a", "c"]);
    state.insert("b", 4)?;
    assert_eq!(keys(&state), ["b", "a", "c"], "an old key stays where it is");
    state.remove("b")?;
    state.insert("b", 5)?;
    assert_eq!(keys(&state), ["a", "c", "b"], "a key that comes back goes to the end");
    assert_eq!(state.values()?.collect::<Vec<_>>(), [2.into(), 3.into(), 5.into()]);
    assert_eq!(state.iter()?.next_back(), Some(("b".into(), 5.into())));
    assert_eq!(state.iter()?.len(), 3);
    Ok(())
}

#[test]
fn pop_item_takes_what_was_inserted_last() -> Result<()> {
    let state = state([("a", 1), ("b", 2), ("c", 3)]);
    state.insert("a", 4)?;
    state.remove("c")?;
    assert_eq!(state.pop_item()?, Some(("b".into(), 2.into())));
    assert_eq!(state.pop_item()?, Some(("a".into(), 4.into())));
    assert!(state.is_empty()?);
    Ok(())
}

#[test]
fn remove_returns_what_was_there() -> Result<()> {
    let state = state([("a", 1), ("b", 2)]);
    assert_eq!(state.remove("a")?, Some(1.into()));
    assert_eq!(state.len()?, 1);
    assert!(matches!(state.take::<String>("b"), Err(Error::WrongType { .. })));
    assert_eq!(
        state.take::<u8>("b")?,
        Some(2),
        "a value that could not be read was not taken out"
    );
    Ok(())
}

#[test]
fn get_or_insert_leaves_what_is_there() -> Result<()> {
    let state = State::anonymous().served()?;
    assert_eq!(state.get_or_insert("cookies", 5)?, 5);
    assert_eq!(state.get_or_insert("cookies", 6)?, 5);
    assert_eq!(state.seq()?, 1, "finding the key is no update");
    assert!(matches!(
        state.get_or_insert("cookies", String::new()),
        Err(Error::WrongType { .. })
    ));
    Ok(())
}

#[test]
fn each_call_is_one_update() -> Result<()> {
    let state = state([("a", 1), ("b", 2), ("c", 3)]);
    assert_eq!(state.seq()?, 1);
    state.replace_all([("x", 1), ("y", 2)])?;
    assert_eq!(state.seq()?, 2);
    state.clear()?;
    assert_eq!(state.seq()?, 3);
    state.clear()?;
    assert_eq!(state.seq()?, 3, "there was nothing to clear");
    Ok(())
}

#[test]
fn replace_all_leaves_nothing_of_what_was() -> Result<()> {
    let state = state([("a", 1), ("b", 2), ("c", 3)]);
    state.replace_all([("c", 4), ("x", 5), ("a", 1)])?;
    assert_eq!(keys(&state), ["c", "x", "a"]);
    assert_eq!(state.snapshot()?, Map::from([("a", 1), ("c", 4), ("x", 5)]));
    Ok(())
}

#[test]
fn a_write_that_fails_half_way_changes_nothing() -> Result<()> {
    let state = state([("a", 1)]);
    let too_deep = (0..=zproc::MAX_NESTING).fold(Value::None, |value, _| Value::List(vec![value]));
    let entries = [("a", Value::from(2)), ("b", too_deep)];
    assert!(matches!(state.extend(entries.clone()), Err(Error::Encode(_))));
    assert!(matches!(state.replace_all(entries), Err(Error::Encode(_))));
    assert_eq!(state.to_map()?, Map::from([("a", 1)]));
    Ok(())
}

#[test]
fn many_keys_come_and_go() -> Result<()> {
    let state = State::anonymous().served()?;
    for n in 0..5000 {
        state.insert(n, n * n)?;
    }
    for n in (0..5000).filter(|n| n % 3 != 0) {
        state.remove(n)?;
    }
    let expected: Map = (0..5000).filter(|n| n % 3 == 0).map(|n| (n, n * n)).collect();
    assert_eq!(state.len()?, expected.len());
    assert_eq!(state.snapshot()?, expected);
    assert!(state.keys()?.eq(expected.keys().cloned()));
    assert!(support::is_clean(&state));
    Ok(())
}

#[test]
fn namespaces_are_dicts_of_their_own() -> Result<()> {
    let hall = State::anonymous().served()?;
    let kitchen = hall.fork().namespace("kitchen").open()?;
    hall.insert("door", "open")?;
    kitchen.insert("door", "shut")?;
    assert_eq!(hall.get::<String>("door")?.as_deref(), Some("open"));
    assert_eq!(kitchen.get::<String>("door")?.as_deref(), Some("shut"));
    assert_eq!((hall.namespace(), kitchen.namespace()), ("default", "kitchen"));
    assert_eq!((hall.seq()?, kitchen.seq()?), (1, 1));
    let whole_name = hall.fork().namespace("kit").open()?;
    assert!(whole_name.is_empty()?);
    Ok(())
}

#[test]
fn a_full_state_says_how_full_and_who_pins() -> Result<()> {
    let state = zproc::Builder::anonymous().capacity(1 << 20).create().served()?;
    let held = state.snapshot()?;
    let error = (0..)
        .find_map(|n| state.insert("block", vec![n as u8; 100_000]).err())
        .unwrap();
    let Error::Full {
        requested,
        capacity,
        ref pins,
        ..
    } = error
    else {
        panic!("{error}")
    };
    assert!(requested >= 100_000 && capacity <= 1 << 20, "{error}");
    assert_eq!(
        (pins.len(), pins[0].pid, pins[0].seq),
        (1, std::process::id(), held.seq())
    );
    assert!(
        error.to_string().contains(&format!("process {} (", std::process::id())),
        "{error}"
    );
    drop(held);
    state.insert("block", vec![0u8; 100_000])?;
    assert!(support::is_clean(&state));
    Ok(())
}
