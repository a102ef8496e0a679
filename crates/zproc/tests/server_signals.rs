//! Signals that are events, in processes that use a state over a socket: they end waits, and change nothing else.
//!
//! Each test is in a child, since such a signal is one for the whole process.

use std::sync::mpsc::channel;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, raise};
use nix::unistd::Pid;
use zproc::signals::SIGUSR1;
use zproc::{Backend, Canceller, Context, Error, Result, Server, State, signal_to_error};

zproc::init_tests!();

mod support;
use support::{HANG, eventually, has_stopped};

fn over_socket(server: &Server) -> State {
    State::open(&format!("{}?transport=socket", server.address())).unwrap()
}

fn in_child(test: fn() -> Result<()>) {
    let ctx = Context::new().unwrap();
    ctx.process(test).start().unwrap().wait().unwrap();
}

/// A call that a signal ended left its reply unread, and the next call took that for its own, for good.
#[test]
fn a_signal_between_two_calls_does_not_mix_up_their_replies() {
    in_child(|| {
        let server = zproc::start_server().backend(Backend::Thread).start()?;
        let state = over_socket(&server);
        state.extend([("a", 1), ("b", 2)])?;
        signal_to_error(SIGUSR1)?;
        raise(Signal::SIGUSR1).unwrap();
        // They do not wait, and so are not ended.
        assert_eq!(state.get("a")?, Some(1));
        assert_eq!((state.get("b")?, state.get("a")?), (Some(2), Some(1)));
        assert_eq!(state.len()?, 2);
        Ok(())
    });
}

/// `atomic` and `insert` failed because of a signal and had been made, so that who repeated them did so twice; and what
/// cannot fail (dropping a snapshot, cloning, comparing) took the signal away from those who wait.
#[test]
fn a_signal_is_told_to_who_waits_and_to_nobody_else() {
    in_child(|| {
        let server = zproc::start_server().backend(Backend::Thread).start()?;
        let state = over_socket(&server);
        state.insert("n", 0)?;
        let snapshot = state.snapshot()?;
        signal_to_error(SIGUSR1)?;
        raise(Signal::SIGUSR1).unwrap();
        drop(snapshot);
        let same = state.clone();
        assert_eq!(same.snapshot()?, state.snapshot()?);
        assert_eq!(state.atomic(|dict| dict.modify("n", |n: i64| n + 1))?, 1);
        state.insert("m", 1)?;
        assert_eq!((state.get("n")?, state.seq()?), (Some(1), 3));
        let told = state.watch().timeout(HANG).get_when_available("never").map(drop);
        assert!(matches!(told, Err(Error::Signal { signal: SIGUSR1 })), "{told:?}");
        // Once, and the wait goes on where it was.
        let late = state.watch().timeout(Duration::from_millis(50));
        let told = late.get_when_available("never").map(drop);
        assert!(matches!(told, Err(Error::Timeout)), "{told:?}");
        Ok(())
    });
}

#[test]
fn a_signal_ends_a_wait_for_the_lock_and_nothing_was_written() {
    in_child(|| {
        let server = zproc::start_server().backend(Backend::Thread).start()?;
        let (state, mapped) = (over_socket(&server), State::open(server.address())?);
        state.insert("n", 0)?;
        signal_to_error(SIGUSR1)?;
        std::thread::scope(|scope| {
            let (inside, wait_inside) = channel();
            let (leave, wait_leave) = channel::<()>();
            scope.spawn(move || {
                mapped.atomic(|dict| {
                    inside.send(()).unwrap();
                    wait_leave.recv().unwrap();
                    dict.insert("other", 1)
                })
            });
            wait_inside.recv().unwrap();
            raise(Signal::SIGUSR1).unwrap();
            let put = state.insert("n", 1);
            assert!(matches!(put, Err(Error::Signal { signal: SIGUSR1 })), "{put:?}");
            raise(Signal::SIGUSR1).unwrap();
            let commit = state.atomic(|dict| dict.insert("n", 2));
            assert!(matches!(commit, Err(Error::Signal { signal: SIGUSR1 })), "{commit:?}");
            let impatient = state.fork().lock_timeout(Duration::from_millis(250)).open().unwrap();
            let late = impatient.insert("n", 3);
            assert!(matches!(late, Err(Error::LockTimeout { .. })), "{late:?}");
            leave.send(()).unwrap();
        });
        assert_eq!((state.get("n")?, state.get("other")?), (Some(0), Some(1)));
        assert_eq!(state.seq()?, 2);
        Ok(())
    });
}

/// Where any signal was an event, a server that was stopped was waited for without an end.
#[test]
fn a_stopped_server_is_an_error_in_time_where_signals_are_events() {
    in_child(|| {
        signal_to_error(SIGUSR1)?;
        let server = zproc::start_server().start()?;
        let state = over_socket(&server);
        state.insert("n", 1)?;
        let pid = Pid::from_raw(server.pid().cast_signed());
        kill(pid, Signal::SIGSTOP).unwrap();
        eventually("it stops", || has_stopped(server.pid()));
        let canceller = Canceller::new();
        let stopped = [
            state.get::<i64>("n").map(drop),
            state.watch().cancel(&canceller).get_when_available("never").map(drop),
        ];
        kill(pid, Signal::SIGCONT).unwrap();
        for result in stopped {
            assert!(matches!(result, Err(Error::Disconnected { .. })), "{result:?}");
        }
        eventually("it goes on", || matches!(state.get("n"), Ok(Some(1))));
        Ok(())
    });
}
