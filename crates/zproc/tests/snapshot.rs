//! Snapshots: a state stays as it was for whoever holds one.

use zproc::{Map, Result, State, Value};

mod support;
use support::Served;

#[test]
fn a_snapshot_does_not_change() -> Result<()> {
    let state = zproc::Builder::anonymous().history(4, 1 << 20).create().served()?;
    state.extend([("a", 1), ("b", 2)])?;
    let before = state.snapshot()?;
    for n in 0..100 {
        state.insert("a", n)?;
    }
    state.remove("b")?;
    state.insert("c", 3)?;
    assert_eq!(before.seq(), 1);
    assert_eq!(before, Map::from([("a", 1), ("b", 2)]));
    assert_eq!(before.len()?, 2);
    assert_eq!(before.get::<i64>("a")?, Some(1));
    assert!(before.contains_key("b")? && !before.contains_key("c")?);
    assert_eq!(before.keys().collect::<Result<Vec<_>>>()?, ["a".into(), "b".into()]);
    assert_eq!(before.values().collect::<Result<Vec<_>>>()?, [1.into(), 2.into()]);
    assert_eq!(before.iter().next_back().transpose()?, Some(("b".into(), 2.into())));
    drop(before);
    assert_eq!(state.to_map()?.to_string(), r#"{"a": 99, "c": 3}"#);
    Ok(())
}

#[test]
fn snapshots_are_equal_if_their_entries_are() -> Result<()> {
    let (one, other) = (State::anonymous().served()?, State::anonymous().served()?);
    one.extend([("a", 1), ("b", 2)])?;
    other.extend([("b", 2), ("a", 1)])?;
    assert_eq!(
        one.snapshot()?,
        other.snapshot()?,
        "the order does not count, as in a Python dict"
    );
    other.insert("a", 1.0)?;
    assert_ne!(one.snapshot()?, other.snapshot()?, "1 is not 1.0");
    other.remove("a")?;
    assert_ne!(one.snapshot()?, other.snapshot()?);
    other.insert("c", 1)?;
    assert_ne!(one.snapshot()?, other.snapshot()?);
    assert_ne!(Map::from([("a", 1)]), one.snapshot()?);
    assert_eq!(Map::from([("b", 2), ("a", 1)]), one.snapshot()?);
    Ok(())
}

#[test]
fn equality_sees_through_the_order_of_maps_inside() -> Result<()> {
    let state = State::anonymous().served()?;
    let (ab, ba) = (Map::from([("a", 1), ("b", 2)]), Map::from([("b", 2), ("a", 1)]));
    state.insert("map", &ab)?;
    assert_eq!(state.snapshot()?, Map::from([("map", Value::from(ba))]));
    Ok(())
}

#[test]
fn one_thread_may_hold_many_snapshots() -> Result<()> {
    let state = State::anonymous().served()?;
    let mut held = Vec::new();
    for n in 0..100i64 {
        state.insert("n", n)?;
        held.push(state.snapshot()?);
    }
    for (n, snapshot) in (0..100).zip(&held) {
        assert_eq!(snapshot.get::<i64>("n")?, Some(n));
    }
    assert_eq!(support::stats(&state).namespaces[0].pins.len(), 100);
    drop(held);
    assert_eq!(support::stats(&state).namespaces[0].pins.len(), 0);
    Ok(())
}

#[test]
fn a_snapshot_can_be_read_on_another_thread() -> Result<()> {
    let state = State::anonymous().served()?;
    state.insert("n", 1)?;
    let snapshot = state.snapshot()?;
    state.insert("n", 2)?;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| snapshot.get::<i64>("n"));
        assert_eq!(reader.join().unwrap().unwrap(), Some(1));
    });
    Ok(())
}

#[test]
fn a_snapshot_prints_its_number() -> Result<()> {
    let state = State::anonymous().served()?;
    state.insert("n", 1)?;
    assert_eq!(format!("{:?}", state.snapshot()?), "Snapshot { seq: 1, .. }");
    Ok(())
}
