//! States that have been used for years: numbers of updates at the ends of what words hold.

use std::time::Duration;

use shm_state::{Arena, ArenaOptions, History};
use zproc::{Error, Result, State};

mod support;
use support::Served;
use support::words::Words;

/// A state whose newest update has this number, and that keeps 16 of them.
fn state_at(seq: u64) -> Result<State> {
    let history = History {
        count: 16,
        bytes: 1 << 20,
    };
    let capacity = 4 << 20;
    let arena = Arena::anonymous(&ArenaOptions {
        capacity,
        history,
        value_format: zproc::VALUE_FORMAT,
    })?;
    let fd = arena
        .fd()
        .expect("it has a file")
        .try_clone_to_owned()
        .expect("a descriptor is free");
    // The first namespace of the arena, which nobody has open.
    drop(arena.namespace("default")?);
    Words::of(arena.fd().expect("it has a file")).move_to(0, seq);
    State::from_fd(fd).served()
}

/// What a state remembers of its own updates has 44 bits for a number. When the numbers passed that (in two months of
/// writing without a pause), a subtraction overflowed, and from then on a watcher whose own updates had left the history
/// was told that it had missed something.
#[test]
fn own_updates_are_not_missed_when_their_numbers_outgrow_the_word() -> Result<()> {
    for wrap in [1u64 << 32, 1 << 44, 5 << 44, 1 << 61] {
        let state = state_at(wrap - 100)?;
        let other = state.clone();
        assert_eq!(state.seq()?, wrap - 100);
        for round in 0..8 {
            // More of them than the history keeps.
            for n in 0..50 {
                state.insert("own", n)?;
            }
            let now = state.watch().timeout(Duration::ZERO).get_when_any_change();
            assert!(matches!(now, Err(Error::Timeout)), "{wrap}, round {round}: {now:?}");
            other.insert("theirs", round)?;
            let seen = state.watch().timeout(Duration::ZERO).get_when_any_change()?;
            assert_eq!(seen.get::<i64>("theirs")?, Some(round), "{wrap}, round {round}");
            // The other missed ours, and is told how many.
            match other.watch().timeout(Duration::ZERO).get_when_any_change() {
                Err(Error::Lagged { missed }) => assert!((1..=51).contains(&missed), "{missed}"),
                found => panic!("{wrap}, round {round}: {found:?}"),
            }
            while other.watch().timeout(Duration::ZERO).get_when_any_change().is_ok() {}
        }
        assert!(state.seq()? > wrap);
        assert_eq!(support::problems(&state), [""; 0]);
    }
    Ok(())
}

/// Handles, snapshots, conditions and transactions, with numbers beyond 32 bits and more.
#[test]
fn a_state_is_used_as_ever_beyond_large_numbers() -> Result<()> {
    for wrap in [1u64 << 31, 1 << 32, 1 << 44, 1 << 53] {
        let state = state_at(wrap - 30)?;
        let other = state.clone();
        let handle = state.handle::<i64>("n")?;
        for n in 0..60i64 {
            other.atomic(|dict| {
                dict.insert("n", n)?;
                dict.insert(("m", n % 7), n)
            })?;
            assert_eq!(handle.get()?, Some(n));
            let snapshot = state.watch().timeout(Duration::from_secs(60)).get_when_change(["n"])?;
            assert_eq!((snapshot.get("n")?, snapshot.seq()), (Some(n), state.cursor()));
            assert_eq!(state.snapshot()?.get::<i64>(("m", n % 7))?, Some(n));
            if n % 5 == 4 {
                other.remove(("m", n % 7))?;
                let _ = state.watch().timeout(Duration::from_secs(60)).get_when_any_change()?;
            }
        }
        assert!(state.seq()? > wrap);
    }
    Ok(())
}
