//! A million keys of several types in one state (fewer in a debug build, unless `ZPROC_LIMITS=all`).

use zproc::{Builder, Result, Value};

#[test]
fn a_million_keys_are_inserted_iterated_removed_and_inserted_again() -> Result<()> {
    let all = !cfg!(debug_assertions) || std::env::var("ZPROC_LIMITS").is_ok_and(|limits| limits == "all");
    let keys: i64 = if all { 1 << 20 } else { 1 << 15 };
    let state = Builder::anonymous().capacity(2 << 30).history(16, 64 << 20).create()?;
    for n in 0..keys / 2 {
        state.insert(n, n)?;
    }
    let half = state.snapshot()?;
    state.atomic(|dict| (keys / 2..keys).try_for_each(|n| dict.insert(("pair", n), n).map(drop)))?;
    assert_eq!(state.len()? as i64, keys);
    let map = state.snapshot()?.to_map()?;
    assert!(
        map.values().cloned().eq((0..keys).map(Value::from)),
        "in the order of insertion"
    );
    for n in (0..keys / 2).step_by(2) {
        assert!(state.remove(n)?.is_some());
    }
    assert_eq!(state.len()? as i64, keys * 3 / 4);
    for n in 0..keys / 2 {
        assert_eq!(state.get::<i64>(n)?, (n % 2 == 1).then_some(n));
        assert_eq!(half.get::<i64>(n)?, Some(n), "in the snapshot of before");
    }
    for n in (0..keys / 2).step_by(2) {
        state.insert(n, -n)?;
    }
    assert_eq!((state.len()? as i64, half.len()? as i64), (keys, keys / 2));
    assert_eq!(state.get::<i64>(("pair", keys - 1))?, Some(keys - 1));
    assert_eq!(state.get::<i64>(2)?, Some(-2));
    drop(half);
    let report = state.verify()?;
    assert!(report.is_clean(), "{:?}", report.problems);
    Ok(())
}
