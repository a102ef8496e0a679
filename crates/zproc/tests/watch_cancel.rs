//! Cancelling waits: from other threads, and from signal handlers.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use support::{HANG, Served, assert_nothing, eventually, pair, sleeps, thread_id};
use zproc::{Canceller, Error, Result, Snapshot, State, WaitStrategy, Watch};

mod support;

const STRATEGIES: [WaitStrategy; 3] = [
    WaitStrategy::Spin,
    WaitStrategy::Adaptive(Duration::from_micros(20)),
    WaitStrategy::Block,
];

fn assert_cancelled<T: std::fmt::Debug>(result: Result<T>) {
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
}

type Watcher = for<'s> fn(Watch<'s>) -> Result<Snapshot<'s>>;

/// Watchers of all kinds; none of them returns while only `m` is set.
const WATCHERS: [(&str, Watcher); 8] = [
    ("get_when_change", |watch| watch.get_when_change(["n"])),
    ("get_when_change of two", |watch| watch.get_when_change(["n", "o"])),
    ("get_when_change_except", |watch| watch.get_when_change_except(["m"])),
    ("get_when_any_change of a key", |watch| {
        watch.keys(["n"])?.get_when_any_change()
    }),
    ("get_when", |watch| watch.get_when(|state| state.contains_key("n"))),
    ("get_when_equal", |watch| watch.get_when_equal("n", 5)),
    ("get_when_not_none", |watch| watch.get_when_not_none("n")),
    ("get_raw_update", |watch| Ok(watch.keys(["n"])?.get_raw_update()?.after)),
];

#[test]
fn a_cancel_ends_every_kind_of_wait_under_every_strategy() {
    for strategy in STRATEGIES {
        let state = State::anonymous().served().unwrap();
        let state = state.fork().wait_strategy(strategy).open().unwrap();
        for (name, watcher) in WATCHERS {
            let canceller = Canceller::new();
            std::thread::scope(|scope| {
                let watch = state.watch().cancel(&canceller).timeout(HANG);
                let waiting = scope.spawn(move || watcher(watch).map(|found| found.seq()));
                std::thread::sleep(Duration::from_millis(3));
                canceller.cancel();
                let result = waiting.join().unwrap();
                assert!(
                    matches!(result, Err(Error::Cancelled)),
                    "{name} {strategy:?}: {result:?}"
                );
            });
        }
    }
}

/// A waiter and a canceller, 12,000 times: whether the cancel comes before, while, or after it falls asleep. A cancel
/// that was missed would show as a wait that lasts until the waiter looks for itself, after a second.
#[test]
fn no_cancel_is_missed_however_it_races_with_the_wait() {
    // Spinners take the processor from each other where there are few.
    const RACES: [(WaitStrategy, &[&str], u32); 4] = [
        (WaitStrategy::Spin, &["n"], 1000),
        (WaitStrategy::Adaptive(Duration::from_micros(20)), &["n"], 3000),
        (WaitStrategy::Block, &["n", "m"], 4000),
        (WaitStrategy::Block, &[], 4000),
    ];
    for (strategy, keys, rounds) in RACES {
        let state = State::anonymous().served().unwrap();
        let state = state.fork().wait_strategy(strategy).open().unwrap();
        let (canceller, begun) = (Canceller::new(), AtomicU32::new(0));
        let mut slow = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=rounds {
                    while begun.load(Ordering::Acquire) != round {
                        std::thread::yield_now();
                    }
                    // Further into the wait from round to round, and back again.
                    (0..round % 256 * 32).for_each(|_| std::hint::spin_loop());
                    canceller.cancel();
                }
            });
            let watch = state.watch().cancel(&canceller).timeout(HANG);
            for round in 1..=rounds {
                let start = Instant::now();
                begun.store(round, Ordering::Release);
                assert_cancelled(watch.get_when_change(keys));
                slow += u32::from(start.elapsed() > Duration::from_millis(900));
                canceller.reset();
            }
        });
        assert!(
            slow < rounds / 100,
            "{slow} of {rounds} cancels under {strategy:?} were missed"
        );
    }
}

#[test]
fn a_reset_right_after_the_cancel_takes_nothing_back() {
    let state = State::anonymous().served().unwrap();
    let canceller = Canceller::new();
    for _ in 0..200 {
        let thread = AtomicI32::new(0);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                thread.store(thread_id(), Ordering::Release);
                let watch = state.watch().cancel(&canceller).timeout(HANG);
                watch.get_when_change(["n"]).map(|found| found.seq())
            });
            eventually("the waiter to sleep", || sleeps(thread.load(Ordering::Acquire)));
            canceller.cancel();
            canceller.reset();
            assert_cancelled(waiting.join().unwrap());
        });
    }
    assert_nothing(
        state
            .watch()
            .cancel(&canceller)
            .timeout(Duration::ZERO)
            .get_when_change(["n"]),
    );
}

#[test]
fn while_it_is_cancelled_every_call_ends_at_once_and_consumes_nothing() -> Result<()> {
    let (state, other) = pair();
    other.insert("n", 5)?;
    other.insert("m", 5)?;
    let canceller = Canceller::new();
    canceller.cancel();
    let watch = state.watch().cancel(&canceller);
    for (name, watcher) in WATCHERS {
        for watch in [
            watch.clone(),
            watch.timeout(Duration::ZERO),
            watch.live(),
            watch.duplicates(),
        ] {
            let result = watcher(watch);
            assert!(matches!(result, Err(Error::Cancelled)), "{name}: {result:?}");
        }
    }
    assert_eq!(state.cursor(), 0);
    let mut updates = watch.updates()?;
    assert_cancelled(updates.next().expect("goes on"));
    assert_cancelled(updates.next().expect("goes on"));
    canceller.reset();
    assert_eq!(updates.next().expect("goes on")?.seq, 1, "nothing was missed");
    assert_eq!(watch.get_when_equal("m", 5)?.seq(), 2);
    Ok(())
}

#[test]
fn only_waits_with_that_canceller_end_in_whichever_state() -> Result<()> {
    let (state, other) = pair();
    let elsewhere = State::anonymous().served()?;
    let (canceller, another) = (Canceller::new(), Canceller::new());
    fn with(state: &State, canceller: &Canceller) -> Result<u64> {
        let watch = state.watch().cancel(canceller).timeout(HANG);
        watch.get_when_available("n").map(|found| found.seq())
    }
    std::thread::scope(|scope| {
        let cancelled = [
            scope.spawn(|| with(&state, &canceller)),
            scope.spawn(|| with(&other, &canceller.clone())),
            scope.spawn(|| with(&elsewhere, &canceller)),
        ];
        let others = [
            scope.spawn(|| with(&state, &another)),
            scope.spawn(|| {
                state
                    .watch()
                    .timeout(HANG)
                    .get_when_available("n")
                    .map(|found| found.seq())
            }),
        ];
        canceller.cancel();
        for cancelled in cancelled {
            assert_cancelled(cancelled.join().unwrap());
        }
        other.insert("n", 1).unwrap();
        for other in others {
            assert_eq!(other.join().unwrap().unwrap(), 1);
        }
    });
    Ok(())
}

#[test]
fn what_was_looked_at_before_a_cancel_is_not_missed_later() -> Result<()> {
    let state = zproc::Builder::anonymous().history(4, 1 << 20).create().served()?;
    let other = state.clone();
    let canceller = Canceller::new();
    let watch = state.watch().cancel(&canceller).timeout(HANG);
    for n in 0..50 {
        other.insert("busy", n)?;
        let thread = AtomicI32::new(0);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                thread.store(thread_id(), Ordering::Release);
                watch.get_when_change(["quiet"]).map(|found| found.seq())
            });
            eventually("the waiter to sleep", || sleeps(thread.load(Ordering::Acquire)));
            canceller.cancel();
            assert_cancelled(waiting.join().unwrap());
        });
        canceller.reset();
    }
    other.insert("quiet", 1)?;
    assert_eq!(watch.get_when_change(["quiet"])?.seq(), 51);
    Ok(())
}

/// What the handler cancels.
static OF_SIGNAL: OnceLock<Canceller> = OnceLock::new();
/// The thread on which the handler ran last.
static RAN_ON: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_signal(_: i32) {
    RAN_ON.store(thread_id(), Ordering::Relaxed);
    if let Some(canceller) = OF_SIGNAL.get() {
        canceller.cancel();
    }
}

/// One test, since a process has one handler for a signal: it runs on the thread that waits, on another, and wherever
/// the kernel puts it when another process sends the signal.
#[test]
fn a_signal_handler_ends_a_wait_whichever_thread_it_runs_on() {
    let canceller = OF_SIGNAL.get_or_init(Canceller::new);
    let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler stores to atomics and cancels, both of which may be done there.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    let state = State::anonymous().served().unwrap();
    let pid = std::process::id().to_string();
    for strategy in STRATEGIES {
        let state = state.fork().wait_strategy(strategy).open().unwrap();
        for round in 0..60 {
            let from = ["the waiting thread", "another thread", "another process"][round % 3];
            let thread = AtomicI32::new(0);
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| {
                    thread.store(thread_id(), Ordering::Release);
                    let watch = state.watch().cancel(canceller).timeout(HANG);
                    watch.get_when_change(["n"]).map(|found| found.seq())
                });
                let waiter = || thread.load(Ordering::Acquire);
                eventually("the waiter to begin", || waiter() != 0);
                if strategy != WaitStrategy::Spin && round % 2 == 0 {
                    eventually("the waiter to sleep", || sleeps(waiter()));
                }
                match from {
                    "the waiting thread" => {
                        let pid = std::process::id();
                        // SAFETY: plain numbers; the thread is not joined yet, so its id is its own.
                        let sent = unsafe { libc::syscall(libc::SYS_tgkill, pid, waiter(), libc::SIGUSR1) };
                        assert_eq!(sent, 0);
                    }
                    "another thread" => raise(Signal::SIGUSR1).unwrap(),
                    _ => {
                        let kill = std::process::Command::new("kill").args(["-USR1", &pid]).status();
                        assert!(kill.unwrap().success());
                    }
                }
                let result = waiting.join().unwrap();
                assert!(
                    matches!(result, Err(Error::Cancelled)),
                    "{from}, {strategy:?}: {result:?}"
                );
                let ran_on = RAN_ON.load(Ordering::Relaxed);
                match from {
                    "the waiting thread" => assert_eq!(ran_on, waiter()),
                    "another thread" => assert_eq!(ran_on, thread_id()),
                    _ => {}
                }
            });
            canceller.reset();
        }
    }
}
