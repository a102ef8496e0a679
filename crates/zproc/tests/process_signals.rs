//! Signals that end blocking calls, without an instant in which one is missed.
//!
//! What a signal does concerns a whole process, so each test does it in a child.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, raise, sigaction};
use nix::unistd::Pid;
use zproc::signals::{SIGTERM, SIGUSR1, SIGUSR2};
use zproc::{Context, Error, Result, Select, State, signal_to_error};

mod support;

zproc::init_tests!();

fn is_signal<T>(result: &Result<T>, number: i32) -> bool {
    matches!(result, Err(Error::Signal { signal }) if *signal == number)
}

/// Waits for signals until told otherwise, in the kernel's futexes or in its poll; each is told once.
fn target(state: State, polls: bool) -> Result<u32> {
    signal_to_error(SIGUSR1)?;
    let (reader, _writer) = nix::unistd::pipe().map_err(Error::other)?;
    let watch = state.watch().keys(["end"])?;
    let mut select = Select::new();
    select.watch(&watch)?;
    select.readable(&reader);
    state.insert("told", 0u32)?;
    let mut told = 0u32;
    loop {
        let waited = match polls {
            true => select.wait(None).map(drop),
            false => state.get_when_available("end").map(drop),
        };
        match waited {
            Ok(()) => return Ok(told),
            Err(Error::Signal { signal: SIGUSR1 }) => {
                told += 1;
                state.insert("told", told)?;
            }
            Err(error) => return Err(error),
        }
    }
}

#[test]
fn ten_thousand_signals_at_random_moments_of_a_wait_are_each_returned() {
    each_is_returned(10_000 * load(), false);
}

#[test]
fn so_are_those_at_random_moments_of_a_wait_that_polls() {
    each_is_returned(2_000 * load(), true);
}

fn each_is_returned(count: u32, polls: bool) {
    let ctx = Context::new().unwrap();
    let process = ctx.process(target).args(polls).start().unwrap();
    let pid = Pid::from_raw(process.pid().unwrap() as i32);
    let state = ctx.state();
    let watch = state.watch().timeout(Duration::from_secs(60));
    watch.get_when_available("told").unwrap();
    let mut random = 88_172_645_463_325_252u64;
    for sent in 1..=count {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Up to 60 µs after the last was told: the wait begins, spins, or sleeps.
        let until = Instant::now() + Duration::from_nanos(random % 60_000);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        kill(pid, Signal::SIGUSR1).unwrap();
        let seen = watch.get_when_equal("told", sent);
        assert!(seen.is_ok(), "signal {sent} was not told");
    }
    state.insert("end", true).unwrap();
    assert_eq!(process.wait().unwrap(), count);
}

/// Every call that blocks, in a child whose other thread signals it.
#[test]
fn every_blocking_call_is_ended() {
    fn blocked(ctx: Context, which: u8) -> Result<()> {
        signal_to_error(SIGUSR1)?;
        let state = ctx.state();
        let (reader, _writer) = nix::unistd::pipe().map_err(|errno| Error::other(std::io::Error::from(errno)))?;
        let sleeps = |_: u32| std::thread::sleep(Duration::from_secs(600));
        let never = ctx.process(|| std::thread::sleep(Duration::from_secs(600)));
        let never = if (4..=5).contains(&which) {
            Some(never.start()?)
        } else {
            None
        };
        let (locked, release) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
        std::thread::scope(|scope| {
            if [6, 7].contains(&which) {
                let holder = state.clone();
                scope.spawn(move || {
                    holder.atomic(|_| {
                        locked.0.send(()).map_err(Error::other)?;
                        let _ = release.1.recv();
                        Ok(())
                    })
                });
                let _ = locked.1.recv();
            }
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(30));
                kill(Pid::this(), Signal::SIGUSR1)
            });
            let mut select = Select::new();
            let watch = state.watch().keys(["never"])?;
            let result = match which {
                0 => state.get_when_change(["never"]).map(drop),
                1 => state.get_raw_update().map(drop),
                2 => select.watch(&watch).and_then(|_| select.wait(None).map(drop)),
                3 => {
                    select.watch(&watch)?;
                    select.readable(&reader);
                    select.wait(None).map(drop)
                }
                4 => never.as_ref().map_or(Ok(()), |never| never.wait()),
                5 => ctx.wait_all(None).map(drop),
                6 => state.insert("n", 1),
                7 => state.atomic(|_| Ok(())),
                8 => ctx.process_map(sleeps, 0..2).count(1).start()?.next().unwrap_or(Ok(())),
                9 => {
                    let task = ctx.process_map(sleeps, 0..2).count(1).submit()?;
                    ctx.pull_results_for_task(&task)?.next().unwrap_or(Ok(()))
                }
                _ => state.updates()?.next().map_or(Ok(()), |update| update.map(drop)),
            };
            drop(release.0);
            if is_signal(&result, SIGUSR1) {
                Ok(())
            } else {
                Err(Error::other(format!("{which}: {result:?}")))
            }
        })
    }
    let ctx = Context::new().unwrap();
    let all: Vec<_> = (0..=10)
        .map(|which| ctx.process(blocked).args(which).start().unwrap())
        .collect();
    for process in all {
        process.wait_timeout(Duration::from_secs(60)).unwrap();
    }
}

#[test]
fn a_signal_that_came_before_the_wait_is_returned_by_it_and_consumes_nothing() {
    fn early(state: State) -> Result<()> {
        signal_to_error(SIGUSR1)?;
        state.clone().insert("n", 1)?;
        raise(Signal::SIGUSR1).map_err(|errno| Error::other(std::io::Error::from(errno)))?;
        assert!(is_signal(&state.get_when_change(["n"]), SIGUSR1));
        assert_eq!(state.get_when_change(["n"])?.get("n")?, Some(1));
        // Each of two kinds is told.
        signal_to_error(SIGUSR2)?;
        let _ = (raise(Signal::SIGUSR2), raise(Signal::SIGUSR1));
        assert!(is_signal(&state.get_when_change(["n"]), SIGUSR1));
        assert!(is_signal(&state.get_when_change(["n"]), SIGUSR2));
        Ok(())
    }
    let ctx = Context::new().unwrap();
    ctx.process(early).start().unwrap().wait().unwrap();
}

/// These looked for signals behind their first sleep only, and a thread that had never looked took what came in it for old.
#[test]
fn a_signal_during_the_first_sleep_of_a_thread_is_not_missed() {
    fn first_waits(ctx: Context, locks: bool) -> Result<()> {
        signal_to_error(SIGUSR1)?;
        let (sender, told) = std::sync::mpsc::channel();
        let (started, threads) = std::sync::mpsc::channel();
        let wait = || -> Result<()> {
            if locks {
                let state = ctx.state().clone();
                let _ = started.send(support::thread_id());
                return state.insert("n", 1);
            }
            let never = |_: u32| std::thread::sleep(Duration::from_secs(600));
            let task = ctx.process_map(never, 0..2).count(1).submit()?;
            let mut results = ctx.pull_results_for_task::<()>(&task)?;
            let _ = started.send(support::thread_id());
            results.next().unwrap_or(Ok(()))
        };
        let rounds = || -> Result<()> {
            for _ in 0..10 {
                std::thread::scope(|scope| {
                    let sender = sender.clone();
                    scope.spawn(move || sender.send(wait()));
                    let thread = threads.recv().map_err(Error::other)?;
                    support::eventually("it sleeps", || support::sleeps(thread));
                    let _ = kill(Pid::this(), Signal::SIGUSR1);
                    let result = told.recv_timeout(Duration::from_secs(20));
                    if !matches!(result, Ok(Err(Error::Signal { signal: SIGUSR1 }))) {
                        eprintln!("missed: {result:?}");
                        std::process::exit(3);
                    }
                    Ok::<_, Error>(())
                })?;
            }
            Ok(())
        };
        // The lock is held by this thread meanwhile.
        if locks {
            ctx.state().atomic(|_| rounds())
        } else {
            rounds()
        }
    }
    let ctx = Context::new().unwrap();
    for locks in [false, true] {
        let process = ctx.process(first_waits).args(locks).start().unwrap();
        process.wait_timeout(Duration::from_secs(100)).unwrap();
    }
}

#[test]
fn every_thread_that_waits_is_told() {
    fn threads(state: State) -> Result<u32> {
        signal_to_error(SIGUSR1)?;
        let told = AtomicU32::new(0);
        std::thread::scope(|scope| {
            let (started, threads) = std::sync::mpsc::channel();
            for _ in 0..4 {
                let (state, started) = (state.clone(), started.clone());
                let told = &told;
                scope.spawn(move || {
                    let _ = started.send(support::thread_id());
                    if is_signal(&state.get_when_available("never"), SIGUSR1) {
                        told.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            for thread in threads.iter().take(4) {
                support::eventually("it sleeps", || support::sleeps(thread));
            }
            let _ = kill(Pid::this(), Signal::SIGUSR1);
        });
        Ok(told.load(Ordering::Relaxed))
    }
    let ctx = Context::new().unwrap();
    assert_eq!(
        ctx.process(threads)
            .start()
            .unwrap()
            .wait_timeout(Duration::from_secs(60))
            .unwrap(),
        4
    );
}

static CALLS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: i32) {
    CALLS.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn the_handler_that_was_there_is_run_too_and_can_be_restored() {
    fn chained(state: State) -> Result<u32> {
        let handler = SigAction::new(SigHandler::Handler(count), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler only counts.
        unsafe { sigaction(Signal::SIGTERM, &handler) }.map_err(|errno| Error::other(std::io::Error::from(errno)))?;
        signal_to_error(SIGTERM)?;
        let _ = raise(Signal::SIGTERM);
        assert!(is_signal(&state.get_when_available("never"), SIGTERM));
        zproc::restore_signal(SIGTERM)?;
        let _ = raise(Signal::SIGTERM);
        let after = state
            .watch()
            .timeout(Duration::from_millis(10))
            .get_when_available("never");
        assert!(matches!(after, Err(Error::Timeout)));
        Ok(CALLS.load(Ordering::Relaxed))
    }
    let ctx = Context::new().unwrap();
    assert_eq!(ctx.process(chained).start().unwrap().wait().unwrap(), 2);
}

/// What was found at the first call was taken for the previous handler for ever.
#[test]
fn a_handler_that_came_between_two_calls_is_run_and_restored() {
    fn again(state: State) -> Result<()> {
        let raise = || raise(Signal::SIGTERM).map_err(Error::other);
        let calls = || (CALLS.load(Ordering::Relaxed), OTHERS.load(Ordering::Relaxed));
        install(count, None)?;
        signal_to_error(SIGTERM)?;
        zproc::restore_signal(SIGTERM)?;
        install(count_others, None)?;
        signal_to_error(SIGTERM)?;
        raise()?;
        assert!(is_signal(&state.get_when_available("never"), SIGTERM));
        assert_eq!(calls(), (0, 1));
        zproc::restore_signal(SIGTERM)?;
        raise()?;
        assert_eq!(calls(), (0, 2));
        Ok(())
    }
    let ctx = Context::new().unwrap();
    ctx.process(again).start().unwrap().wait().unwrap();
}

/// A second call did nothing where another library had put its handler over ours. To put ours on top again must not have the
/// two call each other for ever.
#[test]
fn a_handler_that_was_put_over_ours_is_run_once() {
    fn covered(state: State) -> Result<()> {
        let calls = || (CALLS.load(Ordering::Relaxed), OTHERS.load(Ordering::Relaxed));
        let told = || {
            let _ = raise(Signal::SIGTERM);
            assert!(is_signal(&state.get_when_available("never"), SIGTERM));
            let now = state.watch().timeout(Duration::ZERO);
            assert!(matches!(now.get_when_available("never"), Err(Error::Timeout)), "once");
        };
        install(count, None)?;
        signal_to_error(SIGTERM)?;
        // One that does not chain: nothing is told until we are asked again.
        let ours = install(count_others, None)?;
        let _ = raise(Signal::SIGTERM);
        assert_eq!(calls(), (0, 1));
        signal_to_error(SIGTERM)?;
        told();
        assert_eq!(calls(), (0, 2));
        zproc::restore_signal(SIGTERM)?;
        // One that does.
        install(chain, Some(ours))?;
        signal_to_error(SIGTERM)?;
        told();
        assert_eq!(calls(), (1, 3));
        zproc::restore_signal(SIGTERM)?;
        told(); // by the chain
        assert_eq!(calls(), (2, 4));
        Ok(())
    }
    let ctx = Context::new().unwrap();
    ctx.process(covered).start().unwrap().wait().unwrap();
}

static OTHERS: AtomicU32 = AtomicU32::new(0);
static CHAINED: std::sync::OnceLock<SigAction> = std::sync::OnceLock::new();

extern "C" fn count_others(_: i32) {
    OTHERS.fetch_add(1, Ordering::Relaxed);
}

extern "C" fn chain(signal: i32) {
    OTHERS.fetch_add(1, Ordering::Relaxed);
    if let Some(SigHandler::SigAction(handler)) = CHAINED.get().map(SigAction::handler) {
        handler(signal, std::ptr::null_mut(), std::ptr::null_mut());
    }
}

/// Puts a handler of SIGTERM over what is there, which it may be given to chain.
fn install(handler: extern "C" fn(i32), chained: Option<SigAction>) -> Result<SigAction> {
    chained.map(|action| CHAINED.get_or_init(|| action));
    let action = SigAction::new(SigHandler::Handler(handler), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handlers count, and call another.
    unsafe { sigaction(Signal::SIGTERM, &action) }.map_err(Error::other)
}

#[test]
fn what_cannot_be_handled_is_an_error() {
    for signal in [9, 19, 0, -1, 65, 1000] {
        assert!(signal_to_error(signal).is_err(), "{signal}");
    }
}

/// How many times as often as usual things are repeated: more in a soak.
fn load() -> u32 {
    std::env::var("ZPROC_LOAD")
        .ok()
        .and_then(|load| load.parse().ok())
        .unwrap_or(1)
}
