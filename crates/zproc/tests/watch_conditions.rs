//! Watchers for a condition: the current state first, then the updates since the cursor.

use std::time::Duration;

use zproc::{Builder, Error, Key, Map, Result, Snapshot, State, Value, Watch};

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

type Watcher = for<'s> fn(Watch<'s>) -> Result<Snapshot<'s>>;

/// All of them: they hold if `n` is 5, `none` is none, `other` is not.
const WATCHERS: [(&str, Watcher); 7] = [
    ("get_when", |watch| {
        watch.get_when(|state| Ok(state.get::<i64>("n")? == Some(5)))
    }),
    ("get_when", |watch| {
        watch.get_when(|state| state.get::<i64>("n").unwrap() == Some(5))
    }),
    ("get_when_equal", |watch| watch.get_when_equal("n", 5)),
    ("get_when_not_equal", |watch| watch.get_when_not_equal("n", 4)),
    ("get_when_none", |watch| watch.get_when_none("none")),
    ("get_when_not_none", |watch| watch.get_when_not_none("n")),
    ("get_when_available", |watch| watch.get_when_available("n")),
];

fn make_all_hold(state: &State) -> Result<()> {
    state.extend([("n", Some(5)), ("none", None)])
}

#[test]
fn a_condition_that_holds_returns_the_current_state_and_consumes_nothing() -> Result<()> {
    let (state, other) = pair();
    make_all_hold(&other)?;
    other.insert("more", 1)?;
    for (name, watcher) in WATCHERS {
        assert_eq!(watcher(now(&state))?.seq(), 2, "{name}");
        assert_eq!(watcher(now(&state).live())?.seq(), 2, "{name}");
        assert_eq!(state.cursor(), 0, "{name}");
    }
    Ok(())
}

#[test]
fn a_condition_that_came_and_went_is_found_and_consumed() -> Result<()> {
    for (name, watcher) in WATCHERS {
        let (state, other) = pair();
        other.insert("first", 1)?;
        make_all_hold(&other)?;
        other.clear()?;
        assert_nothing(watcher(now(&state).live()));
        let found = watcher(now(&state))?;
        assert_eq!((found.seq(), state.cursor()), (2, 2), "{name}");
        assert_nothing(watcher(now(&state)));
        assert_eq!(state.cursor(), 2, "{name}: giving up consumes nothing");
    }
    Ok(())
}

#[test]
fn an_own_update_that_holds_now_counts() -> Result<()> {
    for (name, watcher) in WATCHERS {
        let (state, _other) = pair();
        make_all_hold(&state)?;
        assert_eq!(watcher(now(&state))?.seq(), 1, "{name}");
        state.clear()?;
        assert_nothing(watcher(now(&state)));
    }
    Ok(())
}

#[test]
fn a_missing_key_satisfies_no_condition() -> Result<()> {
    let state = State::anonymous().served()?;
    for (_, watcher) in &WATCHERS[2..] {
        assert_nothing(watcher(now(&state)));
    }
    assert_nothing(now(&state).get_when_equal("n", Value::None));
    assert!(
        now(&state).get_when(|state| !state.contains_key("n").unwrap()).is_ok(),
        "a closure decides itself"
    );
    Ok(())
}

#[test]
fn equality_is_that_of_the_stored_type_and_value() -> Result<()> {
    let state = State::anonymous().served()?;
    state.insert("n", 5u8)?;
    assert!(now(&state).get_when_equal("n", 5i128).is_ok());
    assert_nothing(now(&state).get_when_not_equal("n", 5i128));
    assert_nothing(now(&state).get_when_equal("n", 5.0));
    assert!(now(&state).get_when_not_equal("n", 5.0).is_ok());
    assert!(now(&state).get_when_not_none("n").is_ok());
    assert_nothing(now(&state).get_when_none("n"));
    state.insert("map", Map::from([("a", 1), ("b", 2)]))?;
    assert!(
        now(&state)
            .get_when_equal("map", Map::from([("b", 2), ("a", 1)]))
            .is_ok(),
        "the order does not count"
    );
    state.insert("none", Value::None)?;
    assert!(now(&state).get_when_equal("none", Value::None).is_ok());
    assert!(now(&state).get_when_available("none").is_ok());
    assert_nothing(now(&state).get_when_not_none("none"));
    Ok(())
}

#[test]
fn a_closure_is_asked_once_for_each_state_and_not_for_identical_updates() -> Result<()> {
    let (state, other) = pair();
    state.insert("n", 0)?;
    for n in [1, 1, 2] {
        other.insert("n", n)?;
    }
    let mut asked = Vec::new();
    let result = now(&state).get_when(|state| {
        asked.push(state.seq());
        false
    });
    assert_nothing(result);
    assert_eq!(
        asked,
        [4, 2, 4],
        "the current state, then each update that changed something"
    );
    asked.clear();
    let result = now(&state).duplicates().get_when(|state| {
        asked.push(state.seq());
        false
    });
    assert_nothing(result);
    assert_eq!(asked, [4, 2, 3, 4]);
    Ok(())
}

#[test]
fn an_error_of_the_closure_ends_the_wait() -> Result<()> {
    let (state, other) = pair();
    let test = |state: &Snapshot<'_>| match state.get::<i64>("n")? {
        Some(n) => Ok(n > 5),
        None => Ok(false),
    };
    other.insert("n", "five")?;
    assert!(matches!(state.get_when(test), Err(Error::WrongType { .. })));
    Ok(())
}

#[test]
fn a_condition_that_lags_is_told_so_once_and_goes_on() -> Result<()> {
    let state = Builder::anonymous().history(4, 1 << 20).create().served()?;
    let other = state.clone();
    for n in 1..=100 {
        other.insert("n", n)?;
    }
    assert_eq!(
        now(&state).get_when_equal("n", 100)?.seq(),
        100,
        "what holds now needs no history"
    );
    assert_eq!(state.cursor(), 0);
    let Err(Error::Lagged { missed }) = now(&state).get_when_equal("n", 99) else {
        panic!("it did not lag")
    };
    assert_eq!(state.cursor(), missed);
    assert_eq!(now(&state).get_when_equal("n", 99)?.seq(), 99);
    Ok(())
}

#[test]
fn asking_again_and_again_does_not_lag() -> Result<()> {
    let state = Builder::anonymous().history(4, 1 << 20).create().served()?;
    let other = state.clone();
    other.insert("stop", false)?;
    for n in 0..100 {
        other.insert("busy", n)?;
        assert_nothing(now(&state).get_when_equal("stop", true));
    }
    other.insert("stop", true)?;
    other.insert("stop", false)?;
    assert_eq!(now(&state).get_when_equal("stop", true)?.seq(), 102);
    Ok(())
}

#[test]
fn what_holds_already_is_found_whatever_key_and_value_are() -> Result<()> {
    let (state, other) = pair();
    let long_key = "k".repeat(100);
    let keys = [
        Key::from("n"),
        Key::from(long_key.as_str()),
        Key::from(-7),
        Key::from(("user", 7)),
        Key::from(b"\xff".to_vec()),
    ];
    let values = [
        Value::None,
        true.into(),
        0.into(),
        (-1).into(),
        Value::of(&i128::MAX).unwrap(),
        0.5.into(),
        "".into(),
        "8 bytes.".into(),
        "sixteen bytes...".into(),
        "more than sixteen bytes".into(),
        "x".repeat(5000).into(),
        Value::of(&[1, 2, 3]).unwrap(),
        Value::of(&Map::from([("a", 1), ("b", 2)])).unwrap(),
    ];
    for key in &keys {
        for value in &values {
            other.insert(key, value)?;
            let seq = state.seq()?;
            let held = state.snapshot()?;
            for watch in [now(&state), now(&state).live(), now(&state).duplicates()] {
                assert_eq!(watch.get_when_equal(key, value)?.seq(), seq, "{key} {value}");
                assert_eq!(watch.get_when_available(key)?.seq(), seq);
            }
            assert_eq!(state.get_when_equal(key, value)?.seq(), seq);
            drop(held);
            let found = state.get_when_equal(key, value)?;
            assert_eq!((found.seq(), found.get::<Value>(key)?.as_ref()), (seq, Some(value)));
            drop(found);
            let is_none = *value == Value::None;
            assert_eq!(now(&state).live().get_when_none(key).is_ok(), is_none, "{key} {value}");
            assert_eq!(now(&state).live().get_when_not_none(key).is_ok(), !is_none);
            for another in values.iter().filter(|another| *another != value) {
                assert_nothing(now(&state).live().get_when_equal(key, another));
                assert_eq!(state.get_when_not_equal(key, another)?.seq(), seq);
            }
            state.go_live()?;
        }
        other.remove(key)?;
        assert_nothing(now(&state).live().get_when_available(key));
        assert_nothing(now(&state).live().get_when_equal(key, Value::None));
    }
    state.close();
    assert!(matches!(state.get_when_equal("n", 1), Err(Error::Closed)));
    assert!(matches!(state.get_when_available("n"), Err(Error::Closed)));
    Ok(())
}

/// The state that is returned is one in which it holds, also while a writer changes the value all the time.
#[test]
fn what_is_returned_at_once_holds_beside_a_busy_writer() -> Result<()> {
    let (state, other) = pair();
    other.extend([("n", 0), ("twice", 0)])?;
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            for n in (0..2).cycle() {
                other.extend([("n", n), ("twice", 2 * n)]).unwrap();
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
            }
        });
        for round in 0..20_000i64 {
            match state.watch().live().get_when_equal("n", round % 2) {
                Ok(found) => {
                    assert_eq!(found.get("n")?, Some(round % 2));
                    assert_eq!(found.get("twice")?, Some(2 * (round % 2)));
                }
                Err(Error::Lagged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    })
}
