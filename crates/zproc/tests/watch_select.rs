//! Waiting for several watchers and descriptors at once.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::Duration;

use support::{HANG, Served, assert_nothing, eventually, left_by_a_dead_writer, now, pair, sleeps, thread_id};
use zproc::{Builder, Canceller, Error, Result, Select, State, WaitStrategy};

mod support;

const STRATEGIES: [WaitStrategy; 3] = [
    WaitStrategy::Spin,
    WaitStrategy::Adaptive(Duration::from_micros(20)),
    WaitStrategy::Block,
];

/// The numbers of what is ready.
fn ready(select: &mut Select<'_>, timeout: Duration) -> Result<Vec<usize>> {
    Ok(select.wait(timeout)?.collect())
}

fn ready_now(select: &mut Select<'_>) -> Result<Vec<usize>> {
    ready(select, Duration::ZERO)
}

#[test]
fn all_that_are_ready_are_told_and_nothing_is_consumed() -> Result<()> {
    let (state, other) = pair();
    let (a, b, c) = (
        state.watch().keys(["a"])?,
        state.watch().keys(["b"])?,
        state.watch().except(["a", "b"])?,
    );
    let mut select = Select::new();
    assert_eq!((select.watch(&a)?, select.watch(&b)?, select.watch(&c)?), (0, 1, 2));
    assert_nothing(ready_now(&mut select));
    other.insert("a", 1)?;
    other.insert("c", 1)?;
    for _ in 0..3 {
        assert_eq!(ready_now(&mut select)?, [0, 2], "levels: it stays so");
        assert_eq!(ready(&mut select, HANG)?, [0, 2]);
    }
    assert_eq!(state.cursor(), 0);
    assert_eq!(a.timeout(Duration::ZERO).get_when_any_change()?.seq(), 1);
    assert_eq!(ready_now(&mut select)?, [2]);
    assert_eq!(now(&state).get_when_any_change()?.seq(), 2);
    assert_nothing(ready_now(&mut select));
    Ok(())
}

#[test]
fn what_a_watcher_would_not_return_does_not_make_it_ready() -> Result<()> {
    let (state, other) = pair();
    state.insert("n", 1)?;
    let mut select = Select::new();
    let plain = select.watch(&state.watch())?;
    let duplicates = select.watch(&state.watch().duplicates())?;
    state.insert("n", 2)?;
    assert_nothing(ready_now(&mut select));
    other.insert("n", 2)?;
    assert_eq!(ready_now(&mut select)?, [duplicates], "an identical update");
    other.insert("n", 3)?;
    assert_eq!(ready_now(&mut select)?, [plain, duplicates]);
    Ok(())
}

#[test]
fn any_of_several_namespaces_and_arenas_wakes_it_under_every_strategy() -> Result<()> {
    for strategy in STRATEGIES {
        let first = State::anonymous().served()?.fork().wait_strategy(strategy).open()?;
        let states = [
            first.fork().namespace("kitchen").open()?,
            first.fork().namespace("hall").open()?,
            State::anonymous().served()?,
        ];
        let writers = states.clone();
        let mut select = Select::new();
        select.watch(&first.watch().keys(["n"])?)?;
        for state in &states {
            select.watch(&state.watch().keys(["n", "m"])?)?;
        }
        for round in 0..60 {
            let number = round % 3;
            std::thread::scope(|scope| {
                let writer = &writers[number];
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_micros(100 * (round as u64 % 7)));
                    writer.insert("n", round as u64).unwrap();
                });
                assert_eq!(ready(&mut select, HANG).unwrap(), [number + 1], "{strategy:?}");
            });
            assert!(now(&states[number]).get_when_change(["n"]).is_ok());
            assert_nothing(ready_now(&mut select));
        }
    }
    Ok(())
}

/// Two threads that answer each other through two namespaces: a wake-up that is lost costs a second.
#[test]
fn ping_pong_through_two_namespaces_loses_no_wake_up() {
    const ROUNDS: u32 = 2000;
    let ping = State::anonymous()
        .unwrap()
        .fork()
        .wait_strategy(WaitStrategy::Block)
        .open()
        .unwrap();
    let pong = ping.fork().namespace("pong").open().unwrap();
    let (ping_too, pong_too) = (ping.clone(), pong.clone());
    let start = std::time::Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut select = Select::new();
            select.watch(&ping_too.watch()).unwrap();
            select.watch(&pong_too.watch()).unwrap();
            for n in 0..ROUNDS {
                assert_eq!(ready(&mut select, HANG).unwrap(), [0]);
                assert_eq!(now(&ping_too).get_when_any_change().unwrap().get("n").unwrap(), Some(n));
                pong_too.insert("n", n).unwrap();
            }
        });
        let mut select = Select::new();
        select.watch(&pong.watch().keys(["n"]).unwrap()).unwrap();
        select.watch(&ping.watch().keys(["n"]).unwrap()).unwrap();
        for n in 0..ROUNDS {
            ping.insert("n", n).unwrap();
            assert_eq!(ready(&mut select, HANG).unwrap(), [0]);
            assert_eq!(now(&pong).get_when_any_change().unwrap().get("n").unwrap(), Some(n));
        }
    });
    assert!(
        start.elapsed() < 2 * HANG,
        "many wake-ups were lost: {:?}",
        start.elapsed()
    );
}

#[test]
fn descriptors_and_watchers_wake_it_alike() -> Result<()> {
    let (state, other) = pair();
    let (mut ours, theirs) = UnixStream::pair().expect("descriptors left");
    let mut select = Select::new();
    let of_state = select.watch(&state.watch().keys(["n"])?)?;
    let of_socket = select.readable(&theirs);
    assert_nothing(ready(&mut select, Duration::from_millis(5)));
    for n in 0..50 {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(n % 3));
                other.insert("n", n).unwrap();
            });
            assert_eq!(ready(&mut select, HANG).unwrap(), [of_state]);
        });
        assert!(now(&state).get_when_any_change().is_ok());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(n % 3));
                ours.write_all(&[1]).unwrap();
            });
            assert_eq!(ready(&mut select, HANG).unwrap(), [of_socket]);
        });
        other.insert("n", -1)?;
        assert_eq!(ready_now(&mut select)?, [of_state, of_socket]);
        assert!(now(&state).get_when_any_change().is_ok());
        (&theirs).read_exact(&mut [0]).expect("a byte was written");
    }
    assert_nothing(ready_now(&mut select));
    drop(ours);
    assert_eq!(ready(&mut select, HANG)?, [of_socket], "the other end is gone");
    Ok(())
}

#[test]
fn a_descriptor_can_be_waited_for_to_take_more() -> Result<()> {
    let (state, other) = pair();
    let (mut ours, theirs) = UnixStream::pair().expect("descriptors left");
    ours.set_nonblocking(true).expect("a socket can be");
    while ours.write(&[0; 4096]).is_ok() {}
    let mut select = Select::new();
    let of_socket = select.writable(&ours);
    let of_state = select.watch(&state.watch())?;
    assert_nothing(ready(&mut select, Duration::from_millis(5)));
    other.insert("n", 1)?;
    assert_eq!(ready(&mut select, HANG)?, [of_state]);
    assert!(now(&state).get_when_any_change().is_ok());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut bytes = [0; 1 << 20];
            (&theirs).read(&mut bytes).unwrap()
        });
        assert_eq!(ready(&mut select, HANG).unwrap(), [of_socket]);
    });
    Ok(())
}

#[test]
fn a_live_watcher_is_told_of_each_news_once() -> Result<()> {
    let (mut ours, theirs) = UnixStream::pair().expect("descriptors left");
    for with_fd in [false, true] {
        let (state, other) = pair();
        other.insert("n", 1)?;
        let mut select = Select::new();
        let live = select.watch(&state.watch().live().keys(["n"])?)?;
        if with_fd {
            select.readable(&theirs);
        }
        assert_nothing(ready_now(&mut select));
        other.insert("n", 2)?;
        other.insert("n", 3)?;
        assert_eq!(ready(&mut select, HANG)?, [live]);
        assert_nothing(ready(&mut select, Duration::from_millis(5)));
        other.insert("m", 1)?;
        assert_nothing(ready(&mut select, Duration::from_millis(5)));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(5));
                other.insert("n", 4).unwrap();
            });
            assert_eq!(ready(&mut select, HANG).unwrap(), [live]);
        });
        assert_eq!(state.cursor(), 0);
    }
    ours.write_all(&[1]).expect("open still");
    Ok(())
}

#[test]
fn a_state_that_is_closed_is_ready_to_say_so() -> Result<()> {
    let (_ours, theirs) = UnixStream::pair().expect("descriptors left");
    for strategy in STRATEGIES {
        for with_fd in [false, true] {
            let state = State::anonymous().served()?.fork().wait_strategy(strategy).open()?;
            let other = state.clone();
            let mut select = Select::new();
            select.watch(&other.watch())?;
            select.watch(&state.watch())?;
            if with_fd {
                select.readable(&theirs);
            }
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(10));
                    state.close();
                });
                assert_eq!(ready(&mut select, HANG).unwrap(), [1], "{strategy:?} {with_fd}");
            });
            assert!(matches!(state.get_when_any_change(), Err(Error::Closed)));
            assert!(matches!(select.watch(&state.watch()), Err(Error::Closed)));
        }
    }
    Ok(())
}

/// One that was closed while the wait with a descriptor began was an error of the whole wait.
#[test]
fn a_state_is_ready_however_its_end_races_with_the_wait() -> Result<()> {
    let (_ours, theirs) = UnixStream::pair().expect("descriptors left");
    let begun = AtomicU32::new(0);
    for round in 1..=1500 {
        let state = State::anonymous().served()?;
        let mut select = Select::new();
        select.watch(&state.watch())?;
        select.readable(&theirs);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while begun.load(Ordering::Acquire) != round {
                    std::thread::yield_now();
                }
                // Further into the wait from round to round.
                (0..round % 64 * 8).for_each(|_| std::hint::spin_loop());
                state.close();
            });
            begun.store(round, Ordering::Release);
            assert_eq!(ready(&mut select, HANG).unwrap(), [0], "round {round}");
        });
    }
    Ok(())
}

#[test]
fn it_can_be_cancelled_however_it_waits() -> Result<()> {
    let (_ours, theirs) = UnixStream::pair().expect("descriptors left");
    for strategy in STRATEGIES {
        for (with_watch, with_fd) in [(true, false), (true, true), (false, true), (false, false)] {
            let state = State::anonymous().served()?.fork().wait_strategy(strategy).open()?;
            let canceller = Canceller::new();
            let mut select = Select::new();
            if with_watch {
                select.watch(&state.watch())?;
            }
            if with_fd {
                select.readable(&theirs);
            }
            select.cancel(&canceller);
            for _ in 0..10 {
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        std::thread::sleep(Duration::from_millis(2));
                        canceller.cancel();
                    });
                    let result = ready(&mut select, HANG);
                    assert!(matches!(result, Err(Error::Cancelled)), "{strategy:?}: {result:?}");
                });
                assert!(matches!(ready_now(&mut select), Err(Error::Cancelled)));
                canceller.reset();
                assert_nothing(ready_now(&mut select));
            }
        }
    }
    Ok(())
}

#[test]
fn the_canceller_of_one_watcher_makes_that_one_ready() -> Result<()> {
    let (_ours, theirs) = UnixStream::pair().expect("descriptors left");
    for with_fd in [false, true] {
        let (state, other) = pair();
        let canceller = Canceller::new();
        let mut select = Select::new();
        select.watch(&other.watch())?;
        let cancelled = select.watch(&state.watch().cancel(&canceller))?;
        if with_fd {
            select.readable(&theirs);
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(5));
                canceller.cancel();
            });
            assert_eq!(ready(&mut select, HANG).unwrap(), [cancelled]);
        });
        canceller.reset();
        assert_nothing(ready_now(&mut select));
    }
    Ok(())
}

#[test]
fn what_a_dead_writer_decided_is_found() -> Result<()> {
    let (_ours, theirs) = UnixStream::pair().expect("descriptors left");
    for strategy in STRATEGIES {
        for with_fd in [false, true] {
            let state = left_by_a_dead_writer();
            let state = state.fork().since(0).wait_strategy(strategy).open()?;
            let mut select = Select::new();
            let of_state = select.watch(&state.watch().keys(["n"])?)?;
            if with_fd {
                select.readable(&theirs);
            }
            assert_eq!(ready(&mut select, HANG)?, [of_state], "{strategy:?} {with_fd}");
            assert_eq!(now(&state).get_when_any_change()?.get("n")?, Some(1));
        }
    }
    // At the deadline it counts as having happened before.
    let state = left_by_a_dead_writer();
    let mut select = Select::new();
    let of_state = select.watch(&state.watch())?;
    assert_eq!(ready(&mut select, Duration::from_millis(5))?, [of_state]);
    Ok(())
}

#[test]
fn a_watcher_that_lags_is_ready_to_say_so() -> Result<()> {
    let state = Builder::anonymous().history(4, 1 << 20).create().served()?;
    let other = state.clone();
    let mut select = Select::new();
    let of_state = select.watch(&state.watch().keys(["n"])?)?;
    for n in 0..50 {
        other.insert("n", n)?;
    }
    assert_eq!(ready_now(&mut select)?, [of_state]);
    assert!(matches!(now(&state).get_when_change(["n"]), Err(Error::Lagged { .. })));
    Ok(())
}

#[test]
fn more_keys_and_namespaces_than_the_kernel_watches_are_waited_for_all_the_same() -> Result<()> {
    let first = Builder::anonymous().capacity(64 << 20).history(8, 1 << 20).create()?;
    let states: Vec<State> = (0..140)
        .map(|n| first.fork().namespace(format!("n{n}")).open())
        .collect::<Result<_>>()?;
    let writers = states.clone();
    for count in [1, 2, 40, 127, 140] {
        let mut select = Select::new();
        for state in &states[..count] {
            select.watch(&state.watch().keys((0..200).map(|n| format!("key {n}")))?)?;
        }
        for number in [0, count / 2, count - 1] {
            let thread = AtomicI32::new(0);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    eventually("the waiter to sleep", || sleeps(thread.load(Ordering::Acquire)));
                    let other = writers[number].fork().open().unwrap();
                    other.insert("noise", number as u64 + count as u64 * 1000).unwrap();
                    other.insert("key 199", count as u64).unwrap();
                });
                thread.store(thread_id(), Ordering::Release);
                assert_eq!(ready(&mut select, HANG).unwrap(), [number], "of {count}");
            });
            assert!(now(&states[number]).get_when_change(["key 199"]).is_ok());
            writers[number].remove("key 199")?;
            states[number].go_live()?;
        }
    }
    Ok(())
}

#[test]
fn inside_of_atomic_it_does_not_wait() -> Result<()> {
    let (state, other) = pair();
    let elsewhere = State::anonymous().served()?;
    let mut select = Select::new();
    select.watch(&state.watch())?;
    elsewhere.atomic(|_| {
        assert!(matches!(ready(&mut select, HANG), Err(Error::NestedAtomic)));
        Ok(())
    })?;
    other.insert("n", 1)?;
    elsewhere.atomic(|_| {
        assert_eq!(ready(&mut select, HANG)?, [0], "what is there needs no wait");
        Ok(())
    })
}

#[test]
fn a_quiet_key_beside_a_busy_one_does_not_lag() -> Result<()> {
    let state = Builder::anonymous().history(4, 1 << 20).create().served()?;
    let other = state.clone();
    let quiet = state.watch().keys(["quiet"])?;
    let mut select = Select::new();
    select.watch(&quiet)?;
    for n in 0..100 {
        other.insert("busy", n)?;
        assert_nothing(ready_now(&mut select));
    }
    other.insert("quiet", 1)?;
    assert_eq!(ready_now(&mut select)?, [0]);
    assert_eq!(quiet.get_when_any_change()?.seq(), 101);
    Ok(())
}

#[test]
fn what_waits_goes_from_thread_to_thread() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<Canceller>();
    shared::<zproc::EventFeed>();
    sent::<Select<'_>>();
    sent::<zproc::Updates<'_>>();
}
