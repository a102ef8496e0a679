//! Handles: they stay with their key, whatever happens to it.

use zproc::{Builder, Error, Result, State};

mod support;
use support::Served;

#[test]
fn a_handle_reads_what_others_write() -> Result<()> {
    let state = State::anonymous().served()?;
    let cookies = state.handle::<i64>("cookies")?;
    assert_eq!(cookies.get()?, None, "the key is not there yet");
    let other = state.clone();
    for n in 0..10 {
        other.insert("cookies", n)?;
        assert_eq!(cookies.get()?, Some(n));
    }
    assert_eq!(cookies.key(), "cookies".into());
    Ok(())
}

#[test]
fn a_handle_writes_and_makes_its_key() -> Result<()> {
    let state = State::anonymous().served()?;
    let door = state.handle::<String>(("door", 1))?;
    for text in ["open", "shut", "open for all who want to come in and see"] {
        door.set(text.into())?;
        assert_eq!(door.get()?.as_deref(), Some(text));
        assert_eq!(state.get::<String>(("door", 1))?.as_deref(), Some(text));
    }
    assert_eq!((state.len()?, state.seq()?), (1, 3));
    Ok(())
}

#[test]
fn a_handle_follows_a_key_that_was_removed_and_made_anew() -> Result<()> {
    // A short history and many other keys, so that what the handle has found is dropped and used for others.
    let state = Builder::anonymous().history(2, 1 << 16).create().served()?;
    let cookies = state.handle::<i64>("cookies")?;
    for round in 0..20 {
        state.insert("cookies", round)?;
        assert_eq!(cookies.get()?, Some(round));
        assert_eq!(state.remove("cookies")?, Some(round.into()));
        for n in 0..200 {
            state.insert((round, n), "other")?;
            assert_eq!(cookies.get()?, None);
        }
        for n in 0..200 {
            state.remove((round, n))?;
        }
        state.insert("cookies", -round)?;
        assert_eq!(cookies.get()?, Some(-round));
        cookies.set(round + 1)?;
        assert_eq!(state.get::<i64>("cookies")?, Some(round + 1));
        state.clear()?;
        assert_eq!(cookies.get()?, None);
    }
    assert!(support::is_clean(&state));
    Ok(())
}

#[test]
fn a_handle_of_the_wrong_type_says_so() -> Result<()> {
    let state = State::anonymous().served()?;
    state.insert("door", "open")?;
    let door = state.handle::<i64>("door")?;
    for _ in 0..2 {
        assert!(matches!(door.get(), Err(Error::WrongType { .. })));
    }
    door.set(1)?;
    assert_eq!(door.get()?, Some(1));
    Ok(())
}

#[test]
fn a_handle_of_a_closed_state_is_closed() -> Result<()> {
    let state = State::anonymous().served()?;
    let door = state.handle::<i64>("door")?;
    door.set(1)?;
    state.close();
    assert!(matches!(door.get(), Err(Error::Closed)));
    assert!(matches!(door.set(2), Err(Error::Closed)));
    Ok(())
}
