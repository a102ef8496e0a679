//! Watchers for changes: which update they return, and what they have consumed afterwards.

use std::time::Duration;

use zproc::{Builder, Error, Key, Map, Result, State, Value, Watch};

mod support;
use support::Served;

/// Asks without waiting.
fn now(state: &State) -> Watch<'_> {
    state.watch().timeout(Duration::ZERO)
}

fn assert_nothing<T: std::fmt::Debug>(result: Result<T>) {
    assert!(matches!(result, Err(Error::Timeout)), "{result:?}");
}

/// A state, and another identity of it.
fn pair() -> (State, State) {
    let state = State::anonymous().served().unwrap();
    let other = state.clone();
    (state, other)
}

#[test]
fn updates_are_buffered_and_returned_in_order() -> Result<()> {
    let (state, other) = pair();
    for n in 0..5 {
        other.insert("n", n)?;
    }
    for n in 0..5i64 {
        let snapshot = state.get_when_change(["n"])?;
        assert_eq!(snapshot.get("n")?, Some(n), "the state right after that change");
        assert_eq!(state.cursor(), snapshot.seq());
    }
    assert_nothing(now(&state).get_when_change(["n"]));
    Ok(())
}

#[test]
fn a_change_watcher_does_not_test_the_current_state() -> Result<()> {
    let state = State::anonymous().served()?;
    state.insert("n", 1)?;
    assert_nothing(now(&state.clone()).get_when_change(["n"]));
    Ok(())
}

#[test]
fn own_updates_are_invisible() -> Result<()> {
    let (state, other) = pair();
    state.insert("n", 1)?;
    state.atomic(|dict| dict.insert("n", 2))?;
    state.handle("n")?.set(3)?;
    assert_nothing(now(&state).get_when_any_change());
    assert_nothing(now(&state).get_raw_update());
    other.insert("n", 4)?;
    state.insert("n", 5)?;
    assert_eq!(now(&state).get_when_any_change()?.get::<i64>("n")?, Some(4));
    assert_nothing(now(&state).get_when_any_change());
    for n in [1, 2, 3, 5] {
        assert_eq!(
            now(&other).get_when_any_change()?.get::<i64>("n")?,
            Some(n),
            "the other's own is left out too"
        );
    }
    Ok(())
}

#[test]
fn appearing_becoming_different_and_going_are_changes() -> Result<()> {
    let (state, other) = pair();
    other.insert("n", 1)?;
    other.insert("n", 2)?;
    other.insert("n", "2")?;
    other.remove("n")?;
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(now(&state).get_when_change(["n"])?.get::<Value>("n")?);
    }
    assert_eq!(seen, [Some(1.into()), Some(2.into()), Some("2".into()), None]);
    Ok(())
}

#[test]
fn writing_an_equal_value_is_skipped_unless_duplicates_count() -> Result<()> {
    let (state, other) = pair();
    state.insert("n", 1)?;
    other.insert("n", 1)?;
    assert_nothing(now(&state).get_when_change(["n"]));
    assert_nothing(now(&state).get_when_any_change());
    assert_nothing(now(&state).get_when_change_except(["x"]));
    assert_eq!(now(&state).duplicates().get_when_change(["n"])?.seq(), 2);
    other.insert("n", 1.0)?;
    assert_eq!(
        now(&state).get_when_change(["n"])?.seq(),
        3,
        "another type is another value"
    );
    Ok(())
}

#[test]
fn only_the_keys_that_are_asked_for_count() -> Result<()> {
    let (state, other) = pair();
    other.insert("a", 1)?;
    other.insert(1, 1)?;
    other.insert(("a", 1), 1)?;
    other.extend([("x", 1), ("b", 1)])?;
    assert_eq!(now(&state).get_when_change(["b", "c"])?.seq(), 4);
    assert_nothing(now(&state).get_when_any_change());
    other.insert("a", 2)?;
    other.insert(("a", 1), 2)?;
    let keys = [Key::from(1), Key::from(("a", 1))];
    assert_eq!(now(&state).get_when_change(&keys)?.seq(), 6);
    Ok(())
}

#[test]
fn no_keys_means_any_key() -> Result<()> {
    let (state, other) = pair();
    other.insert("a", 1)?;
    other.insert("b", 1)?;
    assert_eq!(now(&state).get_when_change([""; 0])?.seq(), 1);
    assert_eq!(now(&state).get_when_change_except([""; 0])?.seq(), 2);
    Ok(())
}

#[test]
fn all_keys_but_some_count() -> Result<()> {
    let (state, other) = pair();
    other.insert("a", 1)?;
    other.extend([("a", 2), ("b", 2)])?;
    other.insert("b", 3)?;
    other.insert("c", 4)?;
    assert_eq!(now(&state).get_when_change_except(["a", "b"])?.seq(), 4);
    assert_eq!(
        now(&other.fork().since(0).open()?).get_when_change_except(["a"])?.seq(),
        2
    );
    Ok(())
}

#[test]
fn live_watchers_see_only_what_comes_after_the_call_and_consume_nothing() -> Result<()> {
    let state = Builder::anonymous().history(1 << 16, 64 << 20).create().served()?;
    let other = state.clone();
    other.insert("n", 1)?;
    assert_nothing(now(&state).live().get_when_any_change());
    let waiting = state.watch().live();
    std::thread::scope(|scope| {
        let found = scope.spawn(|| waiting.get_when_change(["n"]).map(|found| found.seq()));
        while !found.is_finished() {
            other.atomic(|dict| dict.modify("n", |n: i64| n + 1)).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(found.join().unwrap().unwrap() > 1);
    });
    assert_eq!(state.cursor(), 0);
    assert_eq!(now(&state).get_when_any_change()?.seq(), 1);
    Ok(())
}

#[test]
fn go_live_forgets_what_was_buffered() -> Result<()> {
    let (state, other) = pair();
    other.insert("n", 1)?;
    state.go_live()?;
    assert_eq!(state.cursor(), 1);
    assert_nothing(now(&state).get_when_any_change());
    other.insert("n", 2)?;
    assert_eq!(now(&state).get_when_any_change()?.seq(), 2);
    Ok(())
}

#[test]
fn giving_up_consumes_nothing() -> Result<()> {
    let (state, other) = pair();
    other.insert("a", 1)?;
    assert_nothing(now(&state).get_when_change(["b"]));
    assert_nothing(state.watch().timeout(Duration::from_millis(5)).get_when_change(["b"]));
    assert_eq!(now(&state).get_when_change(["a"])?.seq(), 1);
    Ok(())
}

#[test]
fn a_watcher_that_fell_out_of_the_history_is_told_exactly_how_much_it_missed_once() -> Result<()> {
    let state = Builder::anonymous().history(4, 1 << 20).create().served()?;
    let other = state.clone();
    for n in 1..=100 {
        other.insert("n", n)?;
    }
    let Err(Error::Lagged { missed }) = now(&state).get_when_change(["n"]) else {
        panic!("it did not lag")
    };
    assert!((1..=96).contains(&missed), "{missed}: at least four are kept");
    assert_eq!(state.cursor(), missed);
    for seq in missed + 1..=100 {
        assert_eq!(now(&state).get_when_change(["n"])?.seq(), seq);
    }
    assert_nothing(now(&state).get_when_change(["n"]));
    Ok(())
}

#[test]
fn asking_again_and_again_for_a_quiet_key_does_not_lag() -> Result<()> {
    let state = Builder::anonymous().history(4, 1 << 20).create().served()?;
    let other = state.clone();
    for n in 0..100 {
        other.insert("busy", n)?;
        assert_nothing(now(&state).get_when_change(["quiet"]));
    }
    other.insert("quiet", 1)?;
    assert_eq!(now(&state).get_when_change(["quiet"])?.seq(), 101);
    Ok(())
}

#[test]
fn a_raw_update_says_all_about_it() -> Result<()> {
    let (state, other) = pair();
    state.extend([("a", 1), ("b", 2)])?;
    let start = std::time::SystemTime::now() - Duration::from_secs(1);
    other.atomic(|dict| {
        dict.insert("c", 3)?;
        dict.insert("b", 2)?;
        dict.remove("a")
    })?;
    let update = now(&state).get_raw_update()?;
    assert_eq!(
        (update.seq, update.identical, update.writer.pid),
        (2, false, std::process::id())
    );
    assert_eq!(update.before, Map::from([("a", 1), ("b", 2)]));
    assert_eq!(update.after, Map::from([("b", 2), ("c", 3)]));
    assert_eq!(update.changed, ["c".into(), "a".into()]);
    assert!(update.time > start && update.time <= std::time::SystemTime::now());
    assert_eq!(state.cursor(), 2);
    Ok(())
}

#[test]
fn a_raw_update_that_is_identical_says_so() -> Result<()> {
    let (state, other) = pair();
    state.insert("a", 1)?;
    other.insert("a", 1)?;
    assert_nothing(now(&state).get_raw_update());
    let update = now(&state).duplicates().get_raw_update()?;
    assert!(update.identical);
    assert_eq!(update.changed, ["a".into()]);
    assert_eq!(update.before, update.after);
    Ok(())
}

#[test]
fn updates_yields_one_after_another_and_goes_on_after_lagging() -> Result<()> {
    let state = Builder::anonymous().history(4, 1 << 20).create().served()?;
    let other = state.clone();
    let mut updates = now(&state).updates()?;
    other.insert("n", 1)?;
    assert_eq!(updates.next().unwrap()?.seq, 1);
    assert_nothing(updates.next().unwrap());
    for n in 2..=50 {
        other.insert("n", n)?;
    }
    let Some(Err(Error::Lagged { missed })) = updates.next() else {
        panic!("it did not lag")
    };
    let seqs: Vec<u64> = updates.by_ref().map_while(|update| Some(update.ok()?.seq)).collect();
    assert_eq!(seqs, (2 + missed..=50).collect::<Vec<_>>());
    assert_eq!(state.cursor(), 50, "they are consumed");
    state.close();
    assert!(matches!(updates.next(), Some(Err(Error::Closed))));
    assert!(updates.next().is_none());
    Ok(())
}

#[test]
fn updates_since_leaves_the_cursor() -> Result<()> {
    let (state, other) = pair();
    for n in 1..=5 {
        other.insert("n", n)?;
    }
    let seqs: Result<Vec<u64>> = state.updates_since(2).take(3).map(|update| Ok(update?.seq)).collect();
    assert_eq!((seqs?, state.cursor()), (vec![3, 4, 5], 0));
    Ok(())
}

#[test]
fn live_updates_leave_the_cursor_and_miss_nothing_between() -> Result<()> {
    let (state, other) = pair();
    other.insert("n", 0)?;
    let mut updates = now(&state).live().updates()?;
    for n in 1..=3 {
        other.insert("n", n)?;
    }
    let seqs: Vec<u64> = updates.by_ref().map_while(|update| Some(update.ok()?.seq)).collect();
    assert_eq!((seqs, state.cursor()), (vec![2, 3, 4], 0));
    Ok(())
}

#[test]
fn watchers_of_one_namespace_see_nothing_of_another() -> Result<()> {
    let (state, other) = pair();
    other.fork().namespace("kitchen").open()?.insert("n", 1)?;
    assert_nothing(now(&state).get_when_any_change());
    Ok(())
}

/// Own updates are invisible to a watcher, but those that fell out of the history counted as missed: a producer that
/// wrote much between two waits was told that it had lagged, although nobody else had written.
#[test]
fn own_updates_are_never_missed_however_many() -> Result<()> {
    let state = State::anonymous().served()?;
    for i in 0..2000 {
        state.insert("own", i)?;
    }
    state.atomic(|dict| dict.insert("own", -1))?;
    let update = state.watch().timeout(Duration::ZERO).get_when_any_change();
    assert!(matches!(update, Err(Error::Timeout)), "{:?}", update.map(|s| s.seq()));

    let other = state.clone();
    other.insert("other", 1)?;
    for i in 0..2000 {
        state.insert("own", i)?;
    }
    let update = state.watch().timeout(Duration::ZERO).get_when_any_change();
    assert!(
        matches!(update, Err(Error::Lagged { missed }) if missed > 0),
        "the update of the other is gone"
    );
    Ok(())
}

/// A watcher of a key that was not asked for long, while others changed more often than the history is long, was told
/// that it had lagged, although nobody had touched its key.
#[test]
fn a_key_that_nobody_touched_loses_nothing_by_a_short_history() -> Result<()> {
    let state = Builder::anonymous().history(4, 1 << 20).create().served()?;
    let other = state.clone();
    other.insert("quiet", 0)?;
    // The index grows with new keys, and forgets which there were.
    for n in 0..50 {
        other.insert(n, n)?;
    }
    state.go_live()?;
    for round in 1..=5 {
        for n in 0..1000 {
            other.insert(n % 50, round * 1000 + n)?;
        }
        assert_nothing(now(&state).get_when_change(["quiet", "never there"]));
        assert_nothing(now(&state).get_when_equal("never there", 1));
        assert_nothing(now(&state).keys(["quiet"])?.get_raw_update());
        other.insert("quiet", round)?;
        assert_eq!(now(&state).get_when_change(["quiet"])?.get("quiet")?, Some(round));
    }
    assert!(matches!(
        now(&state).get_when_change(["quiet", "0"]),
        Err(Error::Timeout)
    ));
    for n in 0..1000 {
        other.insert(n % 50, n)?;
    }
    assert!(matches!(now(&state).get_when_change([1, 2]), Err(Error::Lagged { missed }) if missed > 900));
    Ok(())
}
