//! Transactions: all or nothing, and one at a time.

use std::sync::mpsc;
use std::time::Duration;

use zproc::{Error, Map, Result, State, Transaction, Value};

mod support;
use support::Served;

/// Longer than anything here takes.
const HANG: Duration = Duration::from_secs(60);

#[test]
fn a_transaction_is_a_dict_that_sees_its_own_changes() -> Result<()> {
    let state = State::anonymous().served()?;
    state.extend([("a", 1), ("b", 2), ("c", 3)])?;
    let seen = state.atomic(|dict| {
        dict.insert("d", 4)?;
        assert_eq!(dict.remove("a")?, Some(1.into()));
        assert_eq!(dict.modify("b", |n: i64| n * 10)?, 20);
        assert_eq!(dict.modify_or("e", 5, |n: i64| n + 1)?, 6);
        assert_eq!(dict.get_or_insert("e", 0)?, 6);
        assert_eq!(dict.get_or_insert("f", 7)?, 7);
        assert_eq!(dict.take::<i64>("c")?, Some(3));
        assert_eq!(dict.pop_item()?, Some(("f".into(), 7.into())));
        assert_eq!((dict.len(), dict.is_empty()), (3, false));
        assert!(dict.contains_key("d")? && !dict.contains_key("a")?);
        assert_eq!(dict.get::<i64>("d")?, Some(4));
        dict.extend([("a", 8), ("b", 21)])?;
        assert!(dict.keys()?.eq(["b", "d", "e", "a"].map(Into::into)));
        assert!(dict.values()?.eq([21, 4, 6, 8].map(Into::into)));
        assert_eq!(dict.iter()?.next_back(), Some(("a".into(), 8.into())));
        dict.to_map()
    })?;
    assert_eq!(seen.to_string(), r#"{"b": 21, "d": 4, "e": 6, "a": 8}"#);
    assert_eq!(state.to_map()?.to_string(), seen.to_string());
    assert_eq!(state.seq()?, 2, "all of it is one update");
    Ok(())
}

#[test]
fn an_error_leaves_the_state_unaffected() -> Result<()> {
    let state = State::anonymous().served()?;
    state.insert("cookies", 5)?;
    let result: Result<()> = state.atomic(|dict| {
        dict.insert("cookies", 6)?;
        dict.insert("new", 1)?;
        dict.clear()?;
        Err(Error::other("enough"))
    });
    assert_eq!(result.unwrap_err().to_string(), "enough");
    assert_eq!((state.to_map()?, state.seq()?), (Map::from([("cookies", 5)]), 1));
    assert!(support::is_clean(&state));
    Ok(())
}

#[test]
fn a_panic_leaves_the_state_unaffected_and_the_lock_free() -> Result<()> {
    let state = State::anonymous().served()?;
    state.insert("cookies", 5)?;
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        state.atomic(|dict| -> Result<()> {
            dict.insert("cookies", 6)?;
            panic!("on purpose")
        })
    }));
    assert!(panic.is_err());
    assert_eq!(state.get::<i64>("cookies")?, Some(5));
    state.insert("cookies", 7)?;
    state.atomic(|dict| dict.insert("cookies", 8))?;
    Ok(())
}

#[test]
fn an_error_that_the_closure_handles_keeps_the_rest() -> Result<()> {
    let state = State::anonymous().served()?;
    state.insert("door", "open")?;
    state.atomic(|dict| {
        assert!(matches!(dict.modify("door", |n: i64| n), Err(Error::WrongType { .. })));
        assert!(matches!(dict.take::<i64>("door"), Err(Error::WrongType { .. })));
        dict.insert("cookies", 1)
    })?;
    assert_eq!(state.len()?, 2);
    Ok(())
}

#[test]
fn modifying_a_missing_key_is_an_error_that_names_it() -> Result<()> {
    let state = State::anonymous().served()?;
    let error = state.atomic(|dict| dict.modify(("user", 5), |n: i64| n)).unwrap_err();
    assert!(
        matches!(&error, Error::MissingKey { key } if *key == ("user", 5).into()),
        "{error}"
    );
    Ok(())
}

#[test]
fn nothing_changed_is_no_update() -> Result<()> {
    let state = State::anonymous().served()?;
    state.atomic(|dict| {
        dict.insert("a", 1)?;
        dict.remove("a")?;
        dict.remove("b")
    })?;
    assert_eq!(state.seq()?, 0);
    Ok(())
}

#[test]
fn no_write_and_no_wait_nests_in_atomic() -> Result<()> {
    let state = State::anonymous().served()?;
    let other = state.fork().namespace("other").open()?;
    let handle = state.handle::<i64>("a")?;
    let nested = |result: Result<()>| assert!(matches!(result, Err(Error::NestedAtomic)), "{result:?}");
    state.atomic(|dict| {
        dict.insert("a", 1)?;
        for inner in [&state, &other, &state.clone()] {
            nested(inner.atomic(|_| Ok(())));
            nested(inner.insert("b", 1));
            nested(inner.extend([("b", 1)]));
            nested(inner.remove("b").map(drop));
            nested(inner.pop_item().map(drop));
            nested(inner.get_or_insert("b", 1).map(drop));
            nested(inner.clear());
            nested(inner.get_when_available("b").map(drop));
            nested(inner.get_when_any_change().map(drop));
            if !support::is_over_socket() {
                nested(inner.stats().map(drop));
                nested(inner.verify().map(drop));
            }
        }
        nested(handle.set(1));
        Ok(())
    })?;
    assert_eq!(state.to_map()?, Map::from([("a", 1)]));
    assert!(other.is_empty()?);
    other.insert("b", 1)?;
    Ok(())
}

#[test]
fn reading_inside_of_atomic_sees_the_state_before() -> Result<()> {
    let state = State::anonymous().served()?;
    state.insert("a", 1)?;
    state.atomic(|dict| {
        dict.insert("a", 2)?;
        if support::is_over_socket() {
            // It could not be validated.
            assert!(matches!(state.get::<i64>("a"), Err(Error::NestedAtomic)));
            return Ok(());
        }
        assert_eq!(state.get::<i64>("a")?, Some(1));
        assert_eq!(state.snapshot()?.get::<i64>("a")?, Some(1));
        assert_eq!(
            state.get_when_equal("a", 1)?.seq(),
            1,
            "it holds, so there is nothing to wait for"
        );
        Ok(())
    })?;
    assert_eq!(state.get::<i64>("a")?, Some(2));
    Ok(())
}

#[test]
fn increments_of_many_threads_all_count() -> Result<()> {
    let state = State::anonymous().served()?;
    state.insert("n", 0)?;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let own = state.clone();
            scope.spawn(move || {
                for _ in 0..500 {
                    own.atomic(|dict| dict.modify("n", |n: i64| n + 1)).unwrap();
                }
            });
        }
    });
    assert_eq!((state.get::<i64>("n")?, state.seq()?), (Some(2000), 2001));
    Ok(())
}

#[test]
fn a_writer_that_holds_the_lock_is_named_to_those_who_do_not_get_it() -> Result<()> {
    if support::is_over_socket() {
        return Ok(()); // there `atomic` keeps nobody from writing
    }
    let state = State::anonymous().served()?;
    let impatient = state.fork().lock_timeout(Duration::from_millis(20)).open()?;
    let elsewhere = impatient.fork().namespace("elsewhere").open()?;
    let (inside, wait_inside) = mpsc::channel();
    let (done, wait_done) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let owner = state.clone();
        scope.spawn(move || {
            owner.atomic(|dict| {
                dict.insert("a", 1)?;
                inside.send(()).unwrap();
                wait_done.recv_timeout(HANG).unwrap();
                Ok(())
            })
        });
        wait_inside.recv_timeout(HANG).unwrap();
        for result in [impatient.insert("a", 2), impatient.atomic(|dict| dict.insert("a", 3))] {
            let Err(Error::LockTimeout { pid, tid }) = result else {
                panic!("{result:?}")
            };
            assert_eq!(pid, std::process::id());
            assert_ne!(tid, 0);
        }
        assert_eq!(impatient.get::<i64>("a").unwrap(), None, "readers are not held up");
        elsewhere.insert("a", 4).unwrap();
        done.send(()).unwrap();
    });
    assert_eq!(state.get::<i64>("a")?, Some(1));
    impatient.insert("a", 2)
}

#[test]
fn atomic_wraps_a_function() -> Result<()> {
    fn eat(dict: &mut Transaction<'_>, (who, count): (&str, i64)) -> Result<i64> {
        dict.modify_or(who, 0, |eaten| eaten + count)?;
        dict.modify("cookies", |n: i64| n - count)
    }
    let state = State::anonymous().served()?;
    let eat = zproc::atomic(eat);
    assert!(eat(&state, ("ann", 2)).is_err());
    assert!(state.is_empty()?, "the failed call left nothing");
    state.insert("cookies", 5)?;
    assert_eq!(eat(&state, ("ann", 2))?, 3);
    assert_eq!(eat(&state, ("bob", 1))?, 2);
    assert_eq!(state.to_map()?.to_string(), r#"{"cookies": 2, "ann": 2, "bob": 1}"#);
    Ok(())
}

#[test]
fn errors_of_all_sorts_pass_through() -> Result<()> {
    let state = State::anonymous().served()?;
    let result: Result<i64> = state.atomic(|_| "five".parse::<i64>().map_err(Error::other));
    assert!(matches!(result, Err(Error::Custom(_))));
    let result: Result<Value> = state.atomic(|_| Err(Error::other("five".to_owned())));
    assert_eq!(result.unwrap_err().to_string(), "five");
    let boxed = || -> Box<dyn std::error::Error + Send + Sync> { "boxed".into() };
    let result: Result<()> = state.atomic(|_| Ok(Err(boxed())?));
    assert_eq!(result.unwrap_err().to_string(), "boxed");
    Ok(())
}
