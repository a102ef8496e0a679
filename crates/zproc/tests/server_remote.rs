//! States over sockets, where that differs from mapped memory: servers that end, stop or are others, transactions that
//! meet, and what is left of clients. What is the same is in `over_socket.rs`.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zproc::{Backend, Builder, Context, Error, Result, Server, State, Transport};

zproc::init_tests!();

mod support;
use support::{HANG, Place, eventually, has_stopped, now, over_socket};

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// Returns when the process is stopped, or when it was told to go on.
fn stop(server: &Server, stop: bool) {
    let signal = if stop { Signal::SIGSTOP } else { Signal::SIGCONT };
    send(server.pid(), signal);
    eventually("it stops", || !stop || has_stopped(server.pid()));
}

#[test]
fn a_killed_server_is_an_error_and_a_restarted_one_is_gone_on_with() {
    let place = Place::new("restart");
    let server = place.serve();
    let (state, mapped) = place.open();
    mapped.insert("n", 1).unwrap();
    state.insert("own", 1).unwrap();
    let snapshot = state.snapshot().unwrap();
    let waiter = over_socket(&place.address);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| waiter.watch().timeout(HANG).get_when_available("never").map(drop));
        std::thread::sleep(Duration::from_millis(20));
        send(server.pid(), Signal::SIGKILL);
        let result = waiting.join().unwrap();
        assert!(matches!(result, Err(Error::Disconnected { .. })), "{result:?}");
    });
    eventually("it ends", || !server.is_alive());
    let result = state.get::<i64>("n");
    assert!(matches!(result, Err(Error::Disconnected { .. })), "{result:?}");
    let result = state.insert("n", 2);
    assert!(matches!(result, Err(Error::NoServer { .. })), "{result:?}");
    let server = place.serve();
    assert!(matches!(snapshot.get::<i64>("n"), Err(Error::Disconnected { .. })));
    drop(snapshot);
    // The cursor is where it was, and own updates are own ones still.
    mapped.insert("n", 3).unwrap();
    assert_eq!(state.get_when_any_change().unwrap().seq(), 1);
    assert_eq!(state.get_when_any_change().unwrap().seq(), 3);
    state.insert("own", 2).unwrap();
    assert!(matches!(now(&state).get_when_any_change(), Err(Error::Timeout)));
    assert_eq!(mapped.get("own").unwrap(), Some(2));
    drop(server);
    // And of another memory nothing is read by mistake.
    let other = zproc::start_server()
        .address(&place.address)
        .backend(Backend::Thread)
        .start()
        .unwrap();
    let _ = state.len();
    let result = state.len();
    assert!(
        matches!(&result, Err(Error::Disconnected { reason, .. }) if reason.contains("another state")),
        "{result:?}"
    );
    drop(other);
}

/// One that was made while the server was away began with update 1: it lagged, or saw what was long over.
#[test]
fn a_clone_that_is_made_without_a_server_watches_from_where_its_model_is() {
    let place = Place::new("clone");
    let server = place.serve();
    let (state, mapped) = place.open();
    for n in 0..5 {
        mapped.insert("n", n).unwrap();
    }
    state.go_live().unwrap();
    server.stop().unwrap();
    let clone = state.clone();
    let _server = place.serve();
    let nothing = eventually_connected(|| now(&clone).get_when_any_change().map(drop));
    assert!(matches!(nothing, Err(Error::Timeout)), "{nothing:?}");
    mapped.insert("n", 5).unwrap();
    assert_eq!(clone.get_when_any_change().unwrap().seq(), 6);
}

/// What a call returns when it has noticed that the server is another.
fn eventually_connected<T>(mut call: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match call() {
            Err(Error::Disconnected { .. } | Error::NoServer { .. }) => {}
            result => return result,
        }
    }
}

#[test]
fn a_stopped_server_is_an_error_in_time_and_goes_on_later() {
    let server = zproc::start_server().start().unwrap();
    let state = over_socket(server.address());
    state.insert("n", 1).unwrap();
    stop(&server, true);
    let result = state.get::<i64>("n");
    assert!(
        matches!(&result, Err(Error::Disconnected { reason, .. }) if reason.contains("stopped")),
        "{result:?}"
    );
    stop(&server, false);
    assert_eq!(state.get("n").unwrap(), Some(1));
}

/// The server alone kept the times of calls, so one that was stopped was waited for five seconds, or ten to connect,
/// whatever they were.
#[test]
fn a_stopped_server_is_an_error_within_the_time_of_the_call() {
    let server = zproc::start_server().start().unwrap();
    let lost = |result: Result<()>, within: &[&str]| {
        let says = |reason: &str| within.iter().any(|time| reason.contains(time)) && reason.contains("stopped");
        assert!(
            matches!(&result, Err(Error::Disconnected { reason, .. }) if says(reason)),
            "{result:?}"
        );
    };
    let calls: [fn(&State) -> Result<()>; 5] = [
        |state| now(state).get_when_any_change().map(drop),
        |state| now(state).get_when_available("never").map(drop),
        |state| {
            let watch = state.watch().timeout(Duration::from_millis(10));
            watch.get_when_available("never").map(drop)
        },
        |state| state.insert("n", 2),
        |state| state.atomic(|dict| dict.insert("n", 2)),
    ];
    let state = |_: &fn(&State) -> Result<()>| {
        let state = over_socket(server.address());
        let impatient = state.fork().lock_timeout(Duration::ZERO).open().unwrap();
        impatient.insert("n", 1).unwrap();
        impatient
    };
    let states: Vec<State> = calls.iter().map(state).collect();
    stop(&server, true);
    std::thread::scope(|scope| {
        for (call, state) in calls.iter().zip(&states) {
            scope.spawn(move || {
                // The one that may wait for the lock connects for that.
                lost(call(state), &[" 1.0s", " 2.0s"]);
                // Also if it has to connect first, for which a full server needs more than a second.
                lost(call(state), &[" 2.0s"]);
            });
        }
    });
    stop(&server, false);
    assert_eq!(states[0].len().unwrap(), 1);
}

/// A state that connects held a lock that `close` wanted.
#[test]
fn closing_ends_a_call_that_connects() {
    let server = zproc::start_server().start().unwrap();
    let state = over_socket(server.address());
    stop(&server, true);
    assert!(matches!(
        now(&state).get_when_any_change(),
        Err(Error::Disconnected { .. })
    ));
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..3).map(|_| scope.spawn(|| state.len())).collect();
        std::thread::sleep(Duration::from_millis(100));
        let begin = Instant::now();
        state.close();
        for call in calls {
            let result = call.join().unwrap();
            assert!(matches!(result, Err(Error::Closed)), "{result:?}");
        }
        assert!(begin.elapsed() < Duration::from_secs(8), "they have ten to connect");
    });
    stop(&server, false);
}

/// Writes that are under way may have been made or not; all that were answered have been.
#[test]
fn a_server_that_is_killed_while_clients_write_loses_nothing_that_it_has_answered() {
    const WRITERS: usize = 4;
    let place = Place::new("load");
    let server = place.serve();
    let mapped = State::open(&place.state).unwrap();
    mapped.extend((0..WRITERS as i64).map(|n| (n, 0))).unwrap();
    mapped.insert("all", 0).unwrap();
    let counts: Vec<(State, i64)> = std::thread::scope(|scope| {
        let writer = |n: usize| {
            let state = over_socket(&place.address);
            move || {
                let key = n as i64;
                let mut count = 0;
                let error = loop {
                    let result = if n.is_multiple_of(2) {
                        state.insert(key, count + 1)
                    } else {
                        state.atomic(|dict| {
                            dict.modify("all", |all: i64| all + 1)?;
                            dict.insert(key, count + 1)
                        })
                    };
                    match result {
                        Ok(()) => count += 1,
                        Err(error) => break error,
                    }
                };
                // The latter if letting a snapshot go had noticed it.
                let lost = matches!(error, Error::Disconnected { .. } | Error::NoServer { .. });
                assert!(lost, "{error}");
                (state, count)
            }
        };
        let writers: Vec<_> = (0..WRITERS).map(|n| scope.spawn(writer(n))).collect();
        eventually("all of them write", || {
            (0..WRITERS as i64).all(|n| mapped.get::<i64>(n).unwrap() > Some(20))
        });
        send(server.pid(), Signal::SIGKILL);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    eventually("it ends", || !server.is_alive());
    let _server = place.serve();
    let mut together = 0;
    for (n, (state, count)) in counts.iter().enumerate() {
        let found: i64 = state.get(n as i64).unwrap().unwrap();
        assert!((*count..=count + 1).contains(&found), "{found} of {count}");
        together += if n.is_multiple_of(2) { 0 } else { found };
        state.insert("again", n as i64).unwrap();
    }
    assert_eq!(mapped.get("all").unwrap(), Some(together));
    assert!(mapped.verify().unwrap().is_clean());
}

/// The server says that it is busy in between, which goes by the canceller's descriptor.
#[test]
fn a_long_wait_with_a_canceller_goes_on_and_is_cancelled() {
    let server = zproc::start_server().start().unwrap();
    let (state, mapped) = (over_socket(server.address()), State::open(server.address()).unwrap());
    let canceller = zproc::Canceller::new();
    let long = Duration::from_millis(1500);
    std::thread::scope(|scope| {
        let wait = || {
            let watch = state.watch().cancel(&canceller).timeout(HANG);
            watch.get_when_available("key").map(|now| now.seq())
        };
        let waiting = scope.spawn(wait);
        std::thread::sleep(long);
        mapped.insert("key", 1).unwrap();
        assert_eq!(waiting.join().unwrap().unwrap(), 1);
        mapped.remove("key").unwrap();
        let waiting = scope.spawn(wait);
        std::thread::sleep(long);
        canceller.cancel();
        assert!(matches!(waiting.join().unwrap(), Err(Error::Cancelled)));
    });
    assert_eq!(state.len().unwrap(), 0);
}

#[test]
fn a_call_that_waits_for_longer_than_a_server_may_be_silent_goes_on() {
    let server = zproc::start_server().start().unwrap();
    let (state, mapped) = (over_socket(server.address()), State::open(server.address()).unwrap());
    let impatient = state.fork().lock_timeout(Duration::from_millis(50)).open().unwrap();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let (inside, wait_inside) = std::sync::mpsc::channel();
        let writer = mapped.clone();
        scope.spawn(move || {
            writer.atomic(|dict| {
                let _ = inside.send(());
                std::thread::sleep(Duration::from_secs(6));
                dict.insert("n", 1)
            })
        });
        wait_inside.recv().unwrap();
        let result = impatient.insert("n", 0);
        let own = std::process::id();
        assert!(
            matches!(result, Err(Error::LockTimeout { pid, .. }) if pid == own),
            "{result:?}"
        );
        // Others are not held up, though a connection is in use.
        let write = scope.spawn(|| state.insert("n", 2));
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(state.get::<i64>("n").unwrap(), None);
        assert_eq!(
            state
                .watch()
                .timeout(HANG)
                .get_when_available("n")
                .unwrap()
                .get("n")
                .unwrap(),
            Some(1)
        );
        write.join().unwrap().unwrap();
    });
    assert!(begin.elapsed() > Duration::from_secs(6));
    assert_eq!(mapped.get("n").unwrap(), Some(2));
}

#[test]
fn transactions_over_sockets_and_in_memory_lose_nothing_to_each_other() {
    fn counter(address: String) -> Result<()> {
        let state = State::open(&address)?;
        for _ in 0..100 {
            state.atomic(|dict| dict.modify("n", |n: i64| n + 1))?;
        }
        Ok(())
    }
    let server = zproc::start_server().start().unwrap();
    let state = State::open(server.address()).unwrap();
    state.insert("n", 0).unwrap();
    let ctx = Context::new().unwrap();
    let socket = format!("{}?transport=socket", server.address());
    for address in [&socket, &socket, &server.address().to_owned()] {
        ctx.process(counter).args(address.clone()).start().unwrap();
    }
    ctx.wait_all(HANG).unwrap();
    assert_eq!((state.get("n").unwrap(), state.seq().unwrap()), (Some(300), 301));
}

#[test]
fn a_transaction_is_run_again_if_what_it_read_has_changed_and_only_then() {
    let server = zproc::start_server().backend(Backend::Thread).start().unwrap();
    let (state, other) = (over_socket(server.address()), State::open(server.address()).unwrap());
    other.extend([("a", 1), ("b", 1)]).unwrap();
    let runs = |read: &dyn Fn(&mut zproc::Transaction<'_>) -> Result<()>, change: &str, to: i64| {
        let mut runs = 0;
        let result = state.atomic(|dict| {
            runs += 1;
            read(dict)?;
            if runs == 1 {
                // As another process would, and not nested: this thread is inside of `atomic`.
                std::thread::scope(|scope| scope.spawn(|| other.insert(change, to)).join().unwrap())?;
            }
            dict.insert("result", runs)
        });
        result.unwrap();
        assert_eq!(other.get("result").unwrap(), Some(runs));
        runs
    };
    assert_eq!(runs(&|dict| dict.get::<i64>("a").map(drop), "a", 2), 2);
    assert_eq!(runs(&|dict| dict.get::<i64>("a").map(drop), "b", 2), 1);
    assert_eq!(
        runs(&|dict| dict.get::<i64>("a").map(drop), "a", 2),
        1,
        "the value is the same"
    );
    assert_eq!(runs(&|_| Ok(()), "a", 3), 1);
    assert_eq!(
        runs(
            &|dict| {
                dict.len();
                Ok(())
            },
            "b",
            4
        ),
        2
    );
    assert_eq!(runs(&|dict| dict.contains_key("absent").map(drop), "absent", 1), 2);
    // One that never has its way ends.
    let impatient = state.fork().lock_timeout(Duration::from_millis(50)).open().unwrap();
    let mut n = 10;
    let result = impatient.atomic(|dict| {
        n += 1;
        dict.get::<i64>("a")?;
        std::thread::scope(|scope| scope.spawn(|| other.insert("a", n)).join().unwrap())?;
        dict.insert("never", 1)
    });
    assert!(
        matches!(result, Err(Error::Conflict { attempts }) if attempts > 1),
        "{result:?}"
    );
    assert!(!other.contains_key("never").unwrap());
}

/// Each key that was read was compared with each that had changed, while everybody waited for the lock.
#[test]
fn a_transaction_that_reads_much_meets_what_has_changed_and_nothing_else() {
    let server = zproc::start_server().backend(Backend::Thread).start().unwrap();
    let (state, other) = (over_socket(server.address()), State::open(server.address()).unwrap());
    other.extend((0..3000).map(|n| (n, n))).unwrap();
    let runs = |change: i64, value: i64| {
        let mut runs = 0;
        let result = state.atomic(|dict| {
            runs += 1;
            for n in 0..2000 {
                dict.get::<i64>(n)?;
            }
            if runs == 1 {
                // More updates than the history has.
                std::thread::scope(|scope| {
                    let write = || {
                        (2000..2900).try_for_each(|n| other.insert(n, -n))?;
                        other.insert(change, value)
                    };
                    scope.spawn(write).join().unwrap()
                })?;
            }
            dict.insert("result", runs)
        });
        result.unwrap();
        assert_eq!(other.get("result").unwrap(), Some(runs));
        runs
    };
    assert_eq!(runs(2950, 1), 1, "it was not read");
    assert_eq!(runs(1999, 1999), 1, "the value is the same");
    assert_eq!(runs(1999, 1), 2);
}

/// They were not validated, so that the transaction was committed on what had changed since.
#[test]
fn reads_that_go_past_a_transaction_are_refused_over_sockets() -> Result<()> {
    let server = zproc::start_server().backend(Backend::Thread).start()?;
    let (state, mapped) = (over_socket(server.address()), State::open(server.address())?);
    let (same, kitchen) = (over_socket(server.address()), state.fork().namespace("kitchen").open()?);
    state.insert("limit", 5)?;
    kitchen.insert("limit", 6)?;
    let before = state.snapshot()?;
    let handle = state.handle::<i64>("limit")?;
    let nested = |result: Result<()>| assert!(matches!(result, Err(Error::NestedAtomic)), "{result:?}");
    state.atomic(|dict| {
        nested(state.get::<i64>("limit").map(drop));
        nested(state.len().map(drop));
        nested(state.snapshot().map(drop));
        nested(state.keys().map(drop));
        nested(handle.get().map(drop));
        nested(same.contains_key("limit").map(drop));
        nested(now(&state).get_when_available("limit").map(drop));
        // What is not of this moment, or not changed here, is not meant to be.
        assert_eq!((before.get("limit")?, mapped.get("limit")?), (Some(5), Some(5)));
        assert_eq!(kitchen.get("limit")?, Some(6));
        dict.insert("x", dict.get::<i64>("limit")?.unwrap_or(0))
    })?;
    assert_eq!(state.get("x")?, Some(5));
    let failed: Result<()> = state.atomic(|_| Err(Error::other("no")));
    assert!(failed.is_err());
    assert_eq!(state.get("x")?, Some(5));
    Ok(())
}

#[test]
fn what_a_transaction_sees_is_what_it_did() -> Result<()> {
    let server = zproc::start_server().backend(Backend::Thread).start()?;
    let (state, mapped) = (over_socket(server.address()), State::open(server.address())?);
    let steps = |state: &State| -> Result<Vec<String>> {
        state.replace_all([("a", 1), ("b", 2), ("c", 3)])?;
        let mut seen = Vec::new();
        state.atomic(|dict| {
            seen.clear();
            dict.insert("d", 4)?;
            dict.remove("b")?;
            seen.push(dict.to_map()?.to_string());
            dict.insert("b", 5)?;
            dict.modify("a", |n: i64| n + 10)?;
            seen.push(dict.to_map()?.to_string());
            seen.push(format!("{:?} {}", dict.pop_item()?, dict.len()));
            dict.clear()?;
            seen.push(format!("{:?} {}", dict.get::<i64>("a")?, dict.is_empty()));
            dict.extend([("z", 1), ("y", 2)])?;
            seen.push(dict.to_map()?.to_string());
            Ok(())
        })?;
        seen.push(state.to_map()?.to_string());
        Ok(seen)
    };
    assert_eq!(steps(&state)?, steps(&mapped)?);
    assert!(mapped.verify()?.is_clean());
    Ok(())
}

#[test]
fn large_states_and_values_come_in_pieces() -> Result<()> {
    let server = zproc::start_server().start()?;
    let state = over_socket(server.address());
    state.extend((0..20_000).map(|n| (n, format!("the value of number {n:0100}"))))?;
    let keys: Vec<_> = state.keys()?.collect();
    assert_eq!(keys.len(), 20_000);
    assert!(keys.iter().enumerate().all(|(n, key)| *key == (n as i64).into()));
    // Nearly a page, and behind it a value that fits into a frame only if it is alone.
    let together = over_socket(server.address()).fork().namespace("together").open()?;
    together.insert("first", vec![1u8; 900 << 10])?;
    together.insert("second", vec![2u8; (64 << 20) - 100])?;
    assert_eq!(together.values()?.count(), 2);
    let large = vec![7u8; 20 << 20];
    state.insert("large", large.clone())?;
    assert_eq!(state.get::<Vec<u8>>("large")?.as_deref(), Some(&large[..]));
    let result = state.insert("too large", vec![7u8; 65 << 20]);
    assert!(
        matches!(&result, Err(Error::Disconnected { reason, .. }) if reason.contains("map the state")),
        "{result:?}"
    );
    assert_eq!(state.len()?, 20_001, "the connection goes on");
    // One that was put there by others.
    State::open(server.address())?.insert("too large", vec![7u8; 65 << 20])?;
    assert!(state.get::<Vec<u8>>("too large").is_err());
    assert_eq!(state.len()?, 20_002);
    Ok(())
}

#[test]
fn what_a_client_held_goes_with_it() {
    fn client(address: String) -> Result<()> {
        let state = State::open(&address)?;
        let held: Result<Vec<_>> = (0..10).map(|_| state.snapshot()).collect();
        std::mem::forget(held?);
        state.insert("held", true)?;
        std::thread::sleep(HANG);
        Ok(())
    }
    let server = zproc::start_server().start().unwrap();
    let state = State::open(server.address()).unwrap();
    let ctx = Context::new().unwrap();
    let client = ctx.process(client);
    let client = client
        .args(format!("{}?transport=socket", server.address()))
        .start()
        .unwrap();
    state.get_when_available("held").unwrap();
    assert_eq!(state.stats().unwrap().namespaces[0].pins.len(), 10);
    send(client.pid().unwrap(), Signal::SIGKILL);
    eventually("the snapshots are given back", || {
        state.stats().unwrap().namespaces[0].pins.is_empty()
    });
}

#[test]
fn what_a_dead_process_left_is_given_back_by_the_server() {
    fn holder(state: State) -> Result<()> {
        let _held = state.snapshot()?;
        state.insert("held", true)?;
        state.get_when_available("never").map(drop)
    }
    let server = zproc::start_server().start().unwrap();
    let (state, mapped) = (over_socket(server.address()), State::open(server.address()).unwrap());
    assert_eq!(state.reap().unwrap().processes, 0, "nobody has died");
    let ctx = Context::builder().state(mapped.clone()).build().unwrap();
    let process = ctx.process(holder).start().unwrap();
    state.watch().timeout(HANG).get_when_available("held").unwrap();
    send(process.pid().unwrap(), Signal::SIGKILL);
    assert!(process.wait().is_err());
    let left = state.status().unwrap().leftovers;
    assert_eq!(left, mapped.status().unwrap().leftovers);
    assert!(left.processes == 1 && left.pins > 0, "{left:?}");
    let reaped = state.reap().unwrap();
    assert!(reaped.processes == 1 && reaped.seats == left.seats, "{reaped:?}");
    assert_eq!(state.status().unwrap().leftovers.processes, 0);
    assert_eq!(state.verify().unwrap(), mapped.verify().unwrap());
}

/// As long as a writer is inside, which is longer than a server may be silent.
#[test]
fn memory_is_verified_when_the_writer_lock_is_free_and_others_go_on() -> Result<()> {
    let server = zproc::start_server().backend(Backend::Thread).start()?;
    let (state, mapped) = (over_socket(server.address()), State::open(server.address())?);
    state.extend((0..100).map(|n| (n, vec![n; 100])))?;
    let start = Instant::now();
    let report = std::thread::scope(|scope| {
        let verifying = mapped.atomic(|dict| {
            let verifying = scope.spawn(|| state.verify());
            while start.elapsed() < Duration::from_secs(6) {
                assert!(!verifying.is_finished());
                assert_eq!(state.get(7)?, Some(vec![7; 100]));
                std::thread::sleep(Duration::from_millis(100));
            }
            dict.insert("done", true)?;
            Ok(verifying)
        })?;
        verifying.join().unwrap()
    })?;
    assert!(report.is_clean() && report.keys == 101, "{report:?}");
    assert_eq!(report, mapped.verify()?);
    state.atomic(|dict| {
        dict.insert("x", 1)?;
        assert!(matches!(state.verify(), Err(Error::NestedAtomic)));
        assert!(matches!(state.reap(), Err(Error::NestedAtomic)));
        Ok(())
    })?;
    state.close();
    assert!(matches!(state.verify(), Err(Error::Closed)));
    assert!(matches!(state.reap(), Err(Error::Closed)));
    Ok(())
}

#[test]
fn a_dump_that_is_too_large_for_a_socket_is_an_error_and_changes_nothing() -> Result<()> {
    let server = zproc::start_server().backend(Backend::Thread).start()?;
    let (state, mapped) = (over_socket(server.address()), State::open(server.address())?);
    state.insert("before", 1)?;
    let other = Builder::anonymous().capacity(256 << 20).create()?;
    for large in 0..2 {
        other.insert(large, vec![7u8; 33 << 20])?;
    }
    let result = state.restore(&other.snapshot()?.dump()?);
    assert!(
        matches!(&result, Err(Error::Disconnected { reason, .. }) if reason.contains("map the state")),
        "{result:?}"
    );
    assert_eq!(mapped.to_map()?.to_string(), r#"{"before": 1}"#);
    // What goes over it is one update.
    other.remove(1)?;
    state.restore(&other.snapshot()?.dump()?)?;
    assert_eq!((mapped.seq()?, mapped.len()?), (2, 1));
    Ok(())
}

#[test]
fn descriptors_are_given_back_by_states_that_are_dropped() {
    fn in_child() -> Result<()> {
        let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let server = zproc::start_server().start()?;
        drop(over_socket(server.address()));
        let before = count();
        for _ in 0..10 {
            let state = over_socket(server.address());
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    let watch = state.watch().timeout(Duration::from_millis(5));
                    scope.spawn(move || watch.get_when_available("never").map(drop));
                }
            });
            let canceller = zproc::Canceller::new();
            let watch = state.watch().cancel(&canceller);
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| watch.get_when_available("never").map(drop));
                std::thread::sleep(Duration::from_millis(5));
                canceller.cancel();
                assert!(matches!(waiting.join().unwrap(), Err(Error::Cancelled)));
            });
            state.len()?;
        }
        eventually("the descriptors are closed", || count() <= before);
        Ok(())
    }
    let ctx = Context::new().unwrap();
    ctx.process(in_child).start().unwrap().wait().unwrap();
}

#[test]
fn a_state_says_how_it_is_reached() -> Result<()> {
    let server = zproc::start_server().backend(Backend::Thread).start()?;
    let state = over_socket(server.address());
    let Transport::Socket { reason } = state.transport() else {
        panic!("a socket was asked for")
    };
    assert!(reason.contains("asks"), "{reason}");
    assert_eq!(state.clone().transport(), state.transport());
    state.insert("text", "hello")?;
    assert!(state.fd().is_none());
    let map = State::open(&format!("{}?transport=map", server.address()))?;
    assert_eq!(map.transport(), Transport::Mapped);
    state.close();
    assert!(matches!(state.len(), Err(Error::Closed)));
    assert!(matches!(state.stats(), Err(Error::Closed)));
    Ok(())
}

#[test]
fn a_key_is_needed_over_sockets_too() {
    let server = zproc::start_server()
        .backend(Backend::Thread)
        .secret_key("k")
        .start()
        .unwrap();
    let address = format!("{}?transport=socket", server.address());
    assert!(matches!(State::open(&address), Err(Error::AccessDenied { .. })));
    let state = State::builder(&address).secret_key("k").open().unwrap();
    state.clone().insert("n", 1).unwrap();
    assert_eq!(state.fork().open().unwrap().get("n").unwrap(), Some(1));
    assert!(state.ping().unwrap().send().unwrap().is_some());
}

#[test]
fn an_old_snapshot_keeps_what_it_shows() -> Result<()> {
    let mapped = Builder::anonymous().history(4, 1 << 20).create()?;
    let server = zproc::start_server().state(&mapped).backend(Backend::Thread).start()?;
    let state = over_socket(server.address());
    mapped.insert("n", 0)?;
    let before = state.snapshot()?;
    for n in 1..1000 {
        mapped.insert("n", n)?;
    }
    assert_eq!(before.get("n")?, Some(0));
    assert_eq!(state.get("n")?, Some(999));
    let missed = state.get_when_any_change().map(drop);
    assert!(matches!(missed, Err(Error::Lagged { .. })), "{missed:?}");
    Ok(())
}

const ADDRESS: &str = "ZPROC_TEST_ADDRESS";

/// Run in another PID namespace by the test below.
#[test]
#[ignore = "is a part of the next"]
fn client_in_another_pid_namespace() {
    let address = std::env::var(ADDRESS).expect("it is run by another test");
    let state = State::open(&address).unwrap();
    let Transport::Socket { reason } = state.transport() else {
        panic!("thread ids mean something else here, so the memory must not be mapped")
    };
    assert!(reason.contains("PID namespace"), "{reason}");
    assert!(State::open(&format!("{address}?transport=map")).is_err());
    assert_eq!(state.atomic(|dict| dict.modify("n", |n: i64| n + 1)).unwrap(), 6);
    assert_eq!(
        state
            .watch()
            .timeout(HANG)
            .get_when_change(["n"])
            .unwrap()
            .get("n")
            .unwrap(),
        Some(7)
    );
}

#[test]
fn a_client_in_another_pid_namespace_is_served_over_the_socket() {
    let unshare = if nix::unistd::geteuid().is_root() {
        &["--pid", "--fork"][..]
    } else {
        &["--user", "--map-current-user", "--pid", "--fork"]
    };
    let allowed = Command::new("unshare").args(unshare).arg("true").status();
    if !allowed.is_ok_and(|status| status.success()) || !Path::new("/proc/self/ns/pid").exists() {
        eprintln!("NOT TESTED: this machine makes no PID namespaces for this user");
        return;
    }
    let server = zproc::start_server().start().unwrap();
    let state = State::open(server.address()).unwrap();
    state.insert("n", 5).unwrap();
    let mut client = Command::new("unshare")
        .args(unshare)
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "client_in_another_pid_namespace"])
        .env(ADDRESS, server.address())
        .spawn()
        .unwrap();
    let changed = state.watch().timeout(HANG).get_when_equal("n", 6);
    if changed.is_ok() {
        state.insert("n", 7).unwrap();
    }
    assert!(client.wait().unwrap().success());
    changed.unwrap();
}
