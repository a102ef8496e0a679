//! Watchers that have to wait: for others, for other threads of their own, for the timeout, for the end.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::Duration;

use zproc::{Error, Result, Snapshot, State, WaitStrategy};

mod support;
use support::Served;

/// Longer than anything here takes.
const HANG: Duration = Duration::from_secs(60);
/// Time for another thread to go to sleep; if it does not, the test passes all the same.
const A_WHILE: Duration = Duration::from_millis(30);

const STRATEGIES: [WaitStrategy; 3] = [
    WaitStrategy::Spin,
    WaitStrategy::Adaptive(Duration::from_micros(20)),
    WaitStrategy::Block,
];

fn with_strategy(strategy: WaitStrategy) -> (State, State) {
    let state = State::anonymous()
        .served()
        .unwrap()
        .fork()
        .wait_strategy(strategy)
        .open()
        .unwrap();
    let other = state.clone();
    (state, other)
}

#[test]
fn every_watcher_wakes_up_under_every_strategy() {
    type Watcher = for<'s> fn(&'s State) -> Result<Snapshot<'s>>;
    let watchers: [(&str, Watcher); 9] = [
        ("get_when_change", |state| state.get_when_change(["n"])),
        ("get_when_change of two", |state| state.get_when_change(["n", "m"])),
        ("get_when_any_change", |state| state.get_when_any_change()),
        ("get_when_change_except", |state| state.get_when_change_except(["m"])),
        ("get_when", |state| {
            state.get_when(|state| Ok(state.get::<i64>("n")? == Some(5)))
        }),
        ("get_when_equal", |state| state.get_when_equal("n", 5)),
        ("get_when_not_equal", |state| state.get_when_not_equal("n", 4)),
        ("get_when_not_none", |state| state.get_when_not_none("n")),
        ("get_when_available", |state| state.get_when_available("n")),
    ];
    for strategy in STRATEGIES {
        for (name, watcher) in watchers {
            let (state, other) = with_strategy(strategy);
            std::thread::scope(|scope| {
                let found = scope.spawn(|| watcher(&state).map(|found| found.get::<i64>("n").unwrap()));
                std::thread::sleep(Duration::from_millis(2));
                other.insert("n", 5).unwrap();
                assert_eq!(found.join().unwrap().unwrap(), Some(5), "{name} with {strategy:?}");
            });
        }
    }
}

#[test]
fn ping_pong_loses_no_update() {
    const ROUNDS: i64 = 300;
    for strategy in STRATEGIES {
        let (ping, pong) = with_strategy(strategy);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..ROUNDS {
                    pong.get_when_equal("ping", n).unwrap();
                    pong.insert("pong", n).unwrap();
                }
            });
            for n in 0..ROUNDS {
                ping.insert("ping", n).unwrap();
                let answer = ping.watch().timeout(HANG).get_when_change(["pong"]).unwrap();
                assert_eq!(answer.get::<i64>("pong").unwrap(), Some(n));
            }
        });
    }
}

#[test]
fn after_the_deadline_it_is_a_timeout() {
    for strategy in STRATEGIES {
        let (state, other) = with_strategy(strategy);
        other.insert("m", 1).unwrap();
        for timeout in [Duration::ZERO, Duration::from_nanos(1), Duration::from_millis(5)] {
            let watch = state.watch().timeout(timeout);
            assert!(
                matches!(watch.get_when_change(["n"]), Err(Error::Timeout)),
                "{strategy:?} {timeout:?}"
            );
            assert!(
                matches!(watch.live().get_when_any_change(), Err(Error::Timeout)),
                "{strategy:?} {timeout:?}"
            );
            assert!(
                matches!(watch.get_when_equal("n", 1), Err(Error::Timeout)),
                "{strategy:?} {timeout:?}"
            );
            assert!(
                matches!(watch.get_when(|_| false), Err(Error::Timeout)),
                "{strategy:?} {timeout:?}"
            );
        }
    }
}

#[test]
fn what_matches_already_comes_before_the_timeout() -> Result<()> {
    let (state, other) = with_strategy(WaitStrategy::default());
    other.insert("n", 1)?;
    other.insert("n", 2)?;
    for n in [1, 2] {
        let found = state.watch().timeout(Duration::ZERO).get_when_change(["n"])?;
        assert_eq!(found.get::<i64>("n")?, Some(n));
    }
    assert!(matches!(
        state.watch().timeout(Duration::ZERO).get_when_change(["n"]),
        Err(Error::Timeout)
    ));
    Ok(())
}

#[test]
fn a_timeout_starts_anew_with_each_call() -> Result<()> {
    let (state, other) = with_strategy(WaitStrategy::default());
    let watch = state.watch().timeout(HANG);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..3 {
                std::thread::sleep(Duration::from_millis(5));
                other.insert("n", n).unwrap();
            }
        });
        for n in 0..3i64 {
            assert_eq!(watch.get_when_change(["n"]).unwrap().get("n").unwrap(), Some(n));
        }
    });
    Ok(())
}

#[test]
fn close_from_another_thread_ends_every_wait() {
    for strategy in STRATEGIES {
        let (state, other) = with_strategy(strategy);
        std::thread::scope(|scope| {
            let waits = [
                scope.spawn(|| state.get_when_any_change().map(drop)),
                scope.spawn(|| state.get_when_change(["n"]).map(drop)),
                scope.spawn(|| state.get_when_equal("n", 1).map(drop)),
                scope.spawn(|| state.get_when(|_| false).map(drop)),
                scope.spawn(|| state.updates()?.next().unwrap().map(drop)),
            ];
            std::thread::sleep(A_WHILE);
            state.close();
            for wait in waits {
                let result = wait.join().unwrap();
                assert!(matches!(result, Err(Error::Closed)), "{strategy:?}: {result:?}");
            }
        });
        assert!(matches!(state.get::<i64>("n"), Err(Error::Closed)));
        assert!(matches!(state.insert("n", 1), Err(Error::Closed)));
        assert!(matches!(state.snapshot(), Err(Error::Closed)));
        other.insert("n", 1).unwrap();
        assert_eq!(state.clone().get::<i64>("n").unwrap(), Some(1), "a clone is open");
    }
}

#[test]
fn threads_that_share_a_state_share_its_updates() -> Result<()> {
    const COUNT: u64 = 400;
    let other = zproc::Builder::anonymous()
        .history(COUNT as u32, 64 << 20)
        .create()
        .served()?;
    let state = other.clone();
    let (found, all) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let (state, found) = (&state, found.clone());
            scope.spawn(move || {
                while let Ok(snapshot) = state.get_when_change(["n"]) {
                    found.send(snapshot.seq()).unwrap();
                }
            });
        }
        for n in 0..COUNT {
            other.insert("n", n).unwrap();
        }
        let seqs: Vec<u64> = (0..COUNT).map(|_| all.recv_timeout(HANG).unwrap()).collect();
        state.close();
        assert_eq!(
            BTreeSet::from_iter(seqs),
            (1..=COUNT).collect(),
            "each went to exactly one thread"
        );
    });
    assert!(all.try_recv().is_err());
    Ok(())
}

#[test]
fn threads_that_share_a_state_all_see_a_condition_come_true() {
    let state = State::anonymous().served().unwrap();
    std::thread::scope(|scope| {
        let waits: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| state.get_when_equal("n", 1).map(drop)))
            .collect();
        std::thread::sleep(A_WHILE);
        // Through the very state that they wait on: it is their own, and yet it is so.
        state.insert("n", 1).unwrap();
        for wait in waits {
            wait.join().unwrap().unwrap();
        }
    });
}

#[test]
fn a_watcher_shows_how_far_it_is() -> Result<()> {
    if support::is_over_socket() {
        return Ok(()); // the server does not show it of its clients
    }
    let (state, other) = with_strategy(WaitStrategy::default());
    other.insert("n", 1)?;
    state.get_when_change(["n"])?;
    other.insert("n", 2)?;
    other.insert("n", 3)?;
    let stats = support::stats(&state);
    let watcher = stats.namespaces[0].watchers.first().expect("it watches");
    assert_eq!((watcher.pid, watcher.cursor, watcher.lag), (std::process::id(), 1, 2));
    Ok(())
}

#[test]
fn a_history_as_long_as_the_burst_misses_nothing() -> Result<()> {
    const COUNT: i64 = 2000;
    let other = zproc::Builder::anonymous()
        .history(2 * COUNT as u32, 64 << 20)
        .create()
        .served()?;
    let state = other.clone();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| -> Result<()> {
            for n in 1..=COUNT {
                assert_eq!(state.get_when_change(["n"])?.get::<i64>("n")?, Some(n));
            }
            Ok(())
        });
        for n in 1..=COUNT {
            other.insert("n", n).unwrap();
            other.insert("noise", n).unwrap();
        }
        reader.join().unwrap()
    })
}

#[test]
fn a_live_condition_is_met_by_later_updates_and_consumes_nothing() -> Result<()> {
    for strategy in STRATEGIES {
        let (state, other) = with_strategy(strategy);
        other.insert("n", 1)?;
        other.insert("n", 2)?;
        let watch = state.watch().live().timeout(Duration::ZERO);
        assert!(
            matches!(watch.get_when_equal("n", 1), Err(Error::Timeout)),
            "it came and went before the call"
        );
        std::thread::scope(|scope| {
            let found = scope.spawn(|| state.watch().live().get_when_equal("n", 1).map(|found| found.seq()));
            std::thread::sleep(Duration::from_millis(5));
            other.insert("n", 1).unwrap();
            assert_eq!(found.join().unwrap().unwrap(), 3, "{strategy:?}");
        });
        assert_eq!(state.cursor(), 0);
    }
    Ok(())
}

/// A writer stays inside of `atomic`: watchers of its namespace see nothing new, and nothing half done; those of
/// another namespace go on.
#[test]
fn a_stuck_writer_holds_up_no_watcher_of_another_namespace() -> Result<()> {
    let (state, other) = with_strategy(WaitStrategy::default());
    let kitchen = state.fork().namespace("kitchen").open()?;
    let cook = kitchen.clone();
    other.insert("n", 1)?;
    std::thread::scope(|scope| -> Result<()> {
        let (inside, is_inside) = mpsc::channel();
        let (done, is_done) = mpsc::channel::<()>();
        let other = &other;
        scope.spawn(move || {
            other
                .atomic(|dict| {
                    dict.insert("n", 2)?;
                    inside.send(()).unwrap();
                    is_done.recv_timeout(HANG).unwrap();
                    dict.insert("m", 2)
                })
                .unwrap();
        });
        is_inside.recv_timeout(HANG).unwrap();
        assert_eq!(state.get_when_change(["n"])?.seq(), 1);
        let short = state.watch().timeout(Duration::from_millis(5));
        assert!(matches!(short.get_when_any_change(), Err(Error::Timeout)));
        for n in 1..=50 {
            cook.insert("soup", n)?;
            assert_eq!(
                kitchen.watch().timeout(HANG).get_when_change(["soup"])?.get("soup")?,
                Some(n)
            );
        }
        done.send(()).unwrap();
        let update = state.watch().timeout(HANG).get_raw_update()?;
        assert_eq!(update.changed, ["n".into(), "m".into()]);
        Ok(())
    })
}
