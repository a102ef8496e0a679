//! Processes: what they run, what comes back, how they end.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zproc::signals::{SIGABRT, SIGKILL, SIGSEGV, SIGTERM};
use zproc::{Backend, Context, Error, ProcessSettings, Result, State};

zproc::init_tests!();

const PATIENCE: Duration = Duration::from_secs(60);

fn eater(state: State, meals: u32) -> Result<u32> {
    for _ in 0..meals {
        state.get_when_change(["cookies"])?;
        state.atomic(|dict| dict.modify("cookies", |n: i64| n - 1))?;
    }
    Ok(meals)
}

#[test]
fn the_first_program_does_what_it_says() {
    let ctx = Context::new().unwrap();
    let state = ctx.state();
    state.insert("cookies", 0).unwrap();
    let eater = ctx.process(eater).args(5).start().unwrap();
    for _ in 0..5 {
        state.atomic(|dict| dict.modify("cookies", |n: i64| n + 1)).unwrap();
    }
    assert_eq!(eater.wait().unwrap(), 5);
    assert_eq!(state.get("cookies").unwrap(), Some(0));
}

mod kinds {
    use super::*;

    pub fn nothing() {}
    pub fn one(a: u8) -> u8 {
        a
    }
    pub fn two(a: u8, b: String) -> (u8, String) {
        (a, b)
    }
    pub fn three(a: u8, b: u8, c: u8) -> Result<[u8; 3]> {
        Ok([a, b, c])
    }
    pub fn four(a: u8, b: u8, c: u8, d: Vec<u8>) -> Vec<u8> {
        [vec![a, b, c], d].concat()
    }
    pub fn state_alone(state: State) -> Result<()> {
        state.insert("seen", true)
    }
    pub fn state_and_four(state: State, a: u8, b: u8, c: u8, d: u8) -> Result<u64> {
        state.insert("sum", a + b + c + d)?;
        state.seq()
    }
    pub fn context_alone(ctx: Context) -> String {
        ctx.namespace().to_owned()
    }
    pub fn context_and_two(ctx: Context, a: u8, b: u8) -> Result<u8> {
        ctx.process(|a: u8, b: u8| a + b).args((a, b)).start()?.wait()
    }
    pub fn generic<T: std::fmt::Debug>(value: T) -> String {
        format!("{value:?}")
    }
    pub fn none() -> Option<u8> {
        None
    }
}

#[test]
fn every_kind_of_target_runs_with_its_arguments() {
    use kinds::*;
    let ctx = Context::new().unwrap();
    ctx.process(nothing).start().unwrap().wait().unwrap();
    assert_eq!(ctx.process(one).args(1).start().unwrap().wait().unwrap(), 1);
    let both = ctx.process(two).args((1, "b".into())).start().unwrap().wait().unwrap();
    assert_eq!(both, (1, "b".to_owned()));
    assert_eq!(
        ctx.process(three).args((1, 2, 3)).start().unwrap().wait().unwrap(),
        [1, 2, 3]
    );
    let all = ctx
        .process(four)
        .args((1, 2, 3, vec![4, 5]))
        .start()
        .unwrap()
        .wait()
        .unwrap();
    assert_eq!(all, [1, 2, 3, 4, 5]);
    ctx.process(state_alone).start().unwrap().wait().unwrap();
    assert_eq!(
        ctx.process(state_and_four)
            .args((1, 2, 3, 4))
            .start()
            .unwrap()
            .wait()
            .unwrap(),
        2
    );
    assert_eq!(ctx.state().get("sum").unwrap(), Some(10));
    assert_eq!(ctx.process(context_alone).start().unwrap().wait().unwrap(), "default");
    assert_eq!(
        ctx.process(context_and_two)
            .args((1, 2))
            .start()
            .unwrap()
            .wait()
            .unwrap(),
        3
    );
    assert_eq!(
        ctx.process(generic::<[u8; 2]>)
            .args([1, 2])
            .start()
            .unwrap()
            .wait()
            .unwrap(),
        "[1, 2]"
    );
    assert_eq!(ctx.process(none).start().unwrap().wait().unwrap(), None);
    assert_eq!(
        ctx.process(|a: u8, b: u8| a * b)
            .args((3, 4))
            .start()
            .unwrap()
            .wait()
            .unwrap(),
        12
    );
    assert_eq!(
        ctx.process(one as fn(u8) -> u8)
            .args(7)
            .start()
            .unwrap()
            .wait()
            .unwrap(),
        7
    );
    let large: Vec<u64> = (0..1_000_000).collect();
    let echoed = ctx
        .process(|list: Vec<u64>| list)
        .args(large.clone())
        .start()
        .unwrap()
        .wait()
        .unwrap();
    assert!(echoed == large, "a megabyte goes there and back");
}

#[test]
fn what_captures_as_much_as_a_pointer_is_refused_when_it_is_started() {
    let ctx = Context::new().unwrap();
    let n = std::hint::black_box(5usize);
    let result = ctx.process(move || n).start();
    let Err(Error::Target { reason, .. }) = result else {
        panic!("{result:?}")
    };
    assert!(reason.contains("captures"), "{reason}");
}

#[test]
fn a_state_watches_from_the_moment_of_its_parents_start() {
    let ctx = Context::new().unwrap();
    ctx.state().insert("n", 0).unwrap();
    let seen = |state: State| -> Result<Vec<i64>> {
        (0..100)
            .map(|_| Ok(state.get_when_change(["n"])?.get("n")?.unwrap_or(-1)))
            .collect()
    };
    let late = ctx.process(seen).deferred().unwrap();
    ctx.state().insert("n", -5).unwrap();
    late.start().unwrap();
    for n in 1..=100 {
        ctx.state().insert("n", n).unwrap();
    }
    assert_eq!(late.wait().unwrap(), (1..=100).collect::<Vec<i64>>());
}

#[test]
fn contexts_nest_five_deep() {
    fn dig(ctx: Context, depth: u32) -> Result<Vec<u32>> {
        ctx.state().insert(("depth", depth), std::process::id())?;
        if depth == 5 {
            return Ok(vec![std::process::id()]);
        }
        let mut pids = ctx.process(dig).args(depth + 1).start()?.wait()?;
        pids.push(std::process::id());
        Ok(pids)
    }
    let ctx = Context::new().unwrap();
    let mut pids = ctx.process(dig).args(1).start().unwrap().wait().unwrap();
    pids.push(std::process::id());
    assert_eq!(ctx.state().len().unwrap(), 5);
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 6, "each is a process of its own");
}

fn sleep() {
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn stop_ends_a_process_and_what_it_has_started_and_returns_its_exit_code() {
    let ctx = Context::new().unwrap();
    let parent = ctx.process(|ctx: Context| -> Result<()> {
        let child = ctx.process(sleep).start()?;
        ctx.state().insert("grandchild", child.pid().unwrap())?;
        child.wait()
    });
    let parent = parent.start().unwrap();
    let now = ctx.state().get_when_available("grandchild").unwrap();
    let grandchild: u32 = now.get("grandchild").unwrap().unwrap();
    drop(now);
    assert!(parent.is_alive() && parent.exitcode().is_none());
    assert_eq!(parent.stop().unwrap(), -SIGTERM);
    assert_eq!((parent.is_alive(), parent.exitcode()), (false, Some(-SIGTERM)));
    assert_eq!(parent.stop().unwrap(), -SIGTERM, "it may be stopped again");
    assert!(is_gone(parent.pid().unwrap()), "it is reaped");
    eventually(|| is_gone(grandchild));
}

#[test]
fn who_does_not_end_by_sigterm_is_killed_after_the_grace() {
    let ctx = Context::new().unwrap();
    let stubborn = ctx.process(|state: State| -> Result<()> {
        zproc::signal_to_error(SIGTERM)?;
        state.insert("ready", true)?;
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    let stubborn = stubborn.stop_grace(Duration::from_millis(50)).start().unwrap();
    ctx.state().get_when_available("ready").unwrap();
    assert_eq!(stubborn.stop().unwrap(), -SIGKILL);
}

#[test]
fn exit_codes_tell_how_it_ended() {
    let ctx = Context::new().unwrap();
    let fine = ctx.process(|| ()).start().unwrap();
    fine.wait().unwrap();
    assert_eq!(fine.exitcode(), Some(0));
    for (code, target) in [
        (1, (|| Err(Error::Timeout)) as fn() -> Result<()>),
        (1, || panic!("on purpose")),
        (7, || zproc::exit(7)),
        (0, || zproc::exit(0)),
        (8, || std::process::exit(8)),
        (-SIGABRT, || std::process::abort()),
        (-SIGSEGV, || {
            kill(Pid::this(), Signal::SIGSEGV).unwrap();
            sleep();
            Ok(())
        }),
    ] {
        let process = ctx.process(target).start().unwrap();
        let error = process.wait().unwrap_err();
        let Error::ProcessWait { exit_code, pid, .. } = error else {
            panic!("{error}")
        };
        assert_eq!((exit_code, Some(pid)), (code, process.pid()));
        assert_eq!(process.exitcode(), Some(code));
    }
}

#[test]
fn an_error_comes_with_type_message_sources_and_place() {
    let ctx = Context::new().unwrap();
    let target = || -> Result<()> { std::fs::read("/no/such/file").map(drop).map_err(Error::other) };
    let error = ctx.process(target).start().unwrap().wait().unwrap_err();
    let Error::ProcessWait {
        source: Some(source), ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(source.type_name(), "std::io::error::Error");
    assert!(source.message().contains("No such file"), "{}", source.message());
    assert!(
        source.location().unwrap().contains("process.rs:"),
        "{:?}",
        source.location()
    );
    let chained = ctx.process(|| -> Result<()> { Err(Error::other(Outer(Inner))) });
    let error = chained.start().unwrap().wait().unwrap_err();
    let Error::ProcessWait {
        source: Some(source), ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(
        (source.message(), source.chain().collect::<Vec<_>>()),
        ("outer", vec!["inner"])
    );
    assert!(source.type_name().ends_with("Outer"), "{}", source.type_name());
    assert!(
        source.location().unwrap().contains("tests/process.rs:"),
        "{:?}",
        source.location()
    );
    // The whole error chains, too.
    let chain: Vec<String> = std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source())
        .map(ToString::to_string)
        .collect();
    assert_eq!(chain.len(), 3, "{chain:?}");
    let panicked = ctx
        .process(|| -> () { panic!("at the disco {}", 5) })
        .start()
        .unwrap()
        .wait()
        .unwrap_err();
    let Error::ProcessWait {
        source: Some(source), ..
    } = &panicked
    else {
        panic!("{panicked}")
    };
    assert!(source.is_panic() && source.message() == "at the disco 5");
    assert!(source.location().unwrap().contains("tests/process.rs:"));
    assert!(
        source.backtrace().unwrap().contains("process"),
        "{:?}",
        source.backtrace()
    );
}

#[derive(Debug)]
struct Outer(Inner);
#[derive(Debug)]
struct Inner;
impl std::fmt::Display for Outer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("outer")
    }
}
impl std::fmt::Display for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("inner")
    }
}
impl std::error::Error for Inner {}
impl std::error::Error for Outer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[test]
fn a_wait_that_takes_too_long_is_a_timeout_and_may_be_repeated() {
    let ctx = Context::new().unwrap();
    let waiting = ctx
        .process(|state: State| state.get_when_available("go").map(|_| 5))
        .start()
        .unwrap();
    for timeout in [Duration::ZERO, Duration::from_millis(20)] {
        assert!(matches!(waiting.wait_timeout(timeout), Err(Error::Timeout)));
    }
    ctx.state().insert("go", true).unwrap();
    assert_eq!(waiting.wait_timeout(PATIENCE).unwrap(), 5);
    assert_eq!(waiting.wait_timeout(Duration::ZERO).unwrap(), 5);
}

#[test]
fn a_process_is_started_once_and_waited_for_only_after_that() {
    let ctx = Context::new().unwrap();
    let process = ctx.process(|| 5).deferred().unwrap();
    assert_eq!(
        (process.pid(), process.is_alive(), process.exitcode()),
        (None, false, None)
    );
    assert!(matches!(process.wait(), Err(Error::Process { .. })));
    assert!(matches!(process.stop(), Err(Error::Process { .. })));
    process.start().unwrap();
    assert!(matches!(process.start(), Err(Error::Process { .. })));
    assert_eq!(process.wait().unwrap(), 5);
    assert!(matches!(process.start(), Err(Error::Process { .. })));
}

#[test]
fn a_thread_does_what_a_process_does() {
    let ctx = Context::builder()
        .process_defaults(ProcessSettings::new().backend(Backend::Thread))
        .build()
        .unwrap();
    ctx.state().insert("cookies", 0).unwrap();
    let thread = ctx.process(eater).args(2).start().unwrap();
    assert_eq!(thread.pid(), Some(std::process::id()));
    ctx.state().insert("cookies", 1).unwrap();
    ctx.state().insert("cookies", 2).unwrap();
    assert_eq!(thread.wait().unwrap(), 2);
    let failing = ctx.process(|| -> () { panic!("in a thread") }).start().unwrap();
    let error = failing.wait().unwrap_err();
    assert!(error.to_string().contains("in a thread"), "{error}");
    assert_eq!(failing.exitcode(), Some(1));
    let left = ctx.process(|| -> () { zproc::exit(9) }).start().unwrap();
    assert!(left.wait().is_err());
    assert_eq!(left.exitcode(), Some(9));
}

#[test]
fn settings_of_a_process_count_before_those_of_its_context() {
    let settings = ProcessSettings::new().namespace("kitchen").backend(Backend::Thread);
    let ctx = Context::builder().process_defaults(settings).build().unwrap();
    let name = |state: State| (state.namespace().to_owned(), std::process::id());
    let by_default = ctx.process(name).start().unwrap();
    assert_eq!(by_default.wait().unwrap(), ("kitchen".to_owned(), std::process::id()));
    let own = ctx
        .process(name)
        .namespace("hall")
        .backend(Backend::Process)
        .start()
        .unwrap();
    assert_eq!(own.namespace(), "hall");
    assert_eq!(own.wait().unwrap(), ("hall".to_owned(), own.pid().unwrap()));
}

#[test]
fn settings_of_the_state_are_passed_on() {
    let address = format!("shm://zproc-test-process-{}", std::process::id());
    let ctx = Context::builder()
        .address(&address)
        .namespace("kitchen")
        .build()
        .unwrap();
    let place = |state: State| (state.address().map(str::to_owned), state.namespace().to_owned());
    assert_eq!(
        ctx.process(place).start().unwrap().wait().unwrap(),
        (Some(address.clone()), "kitchen".to_owned())
    );
    // Also when there is nothing at the address any more.
    zproc::remove(&address).unwrap();
    assert_eq!(ctx.process(place).start().unwrap().wait().unwrap().0, Some(address));
}

/// The variables of the environment that are ours by their names.
fn marks() -> Vec<String> {
    let names = std::env::vars().map(|(name, _)| name);
    let mut marks: Vec<String> = names.filter(|name| name.starts_with("ZPROC")).collect();
    marks.sort();
    marks
}

#[test]
fn a_child_has_the_arguments_the_environment_and_the_name_of_its_parent() {
    let ctx = Context::new().unwrap();
    let told = ctx.process(|| {
        let args: Vec<String> = std::env::args().collect();
        (args, marks(), std::fs::read_to_string("/proc/self/comm").unwrap())
    });
    let (args, marked, name) = told.start().unwrap().wait().unwrap();
    assert_eq!(args, std::env::args().collect::<Vec<_>>());
    // What this process was given, such as the settings of a long test, is inherited; nothing is added.
    assert_eq!(marked, marks(), "what a child executes is no child");
    assert_eq!(name, std::fs::read_to_string("/proc/self/comm").unwrap());
}

#[test]
fn a_grandchild_that_outlives_its_parent_delays_nothing() {
    let ctx = Context::new().unwrap();
    let started = Instant::now();
    let child = ctx.process(|| {
        std::process::Command::new("sleep")
            .arg("30")
            .spawn()
            .map(|child| child.id())
            .map_err(Error::other)
    });
    let sleeper = child.start().unwrap().wait().unwrap();
    assert!(started.elapsed() < Duration::from_secs(25));
    kill(Pid::from_raw(sleeper as i32), Signal::SIGKILL).unwrap();
}

/// Each look at a child that was on its way to `init` once counted as a tenth of a second, however quickly they came: one
/// that was asked for often was killed as if it had forgotten `init`.
#[test]
fn a_child_that_is_asked_for_often_is_not_given_up() {
    let ctx = Context::new().unwrap();
    for _ in 0..5 {
        let child = ctx.process(|| 5).start().unwrap();
        while let Err(error) = child.wait_timeout(Duration::ZERO) {
            assert!(matches!(error, Error::Timeout), "{error}");
        }
        assert_eq!(child.wait().unwrap(), 5);
    }
}

#[test]
fn results_come_also_where_others_reap_the_children() {
    fn parent(ctx: Context, ignored: bool) -> Result<(u32, Option<i32>, i32)> {
        if ignored {
            // SAFETY: ignoring a signal runs no code.
            let result = unsafe { nix::sys::signal::signal(Signal::SIGCHLD, nix::sys::signal::SigHandler::SigIgn) };
            result.map_err(|errno| Error::other(std::io::Error::from(errno)))?;
        } else {
            std::thread::spawn(|| {
                loop {
                    if nix::sys::wait::wait().is_err() {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            });
        }
        let (mut sum, mut code) = (0, None);
        for n in 0..20 {
            let child = ctx.process(|n: u32| n).args(n).start()?;
            sum += child.wait()?;
            code = child.exitcode();
        }
        let killed = ctx.process(|| -> () { std::process::abort() }).start()?;
        match killed.wait() {
            Err(Error::ProcessWait { exit_code, .. }) => Ok((sum, code, exit_code)),
            other => Err(Error::other(format!("{other:?}"))),
        }
    }
    let ctx = Context::new().unwrap();
    for ignored in [true, false] {
        let (sum, code, killed) = ctx.process(parent).args(ignored).start().unwrap().wait().unwrap();
        assert_eq!((sum, code), (190, Some(0)));
        // Before Linux 6.15 nobody tells that it was a signal.
        assert!([-SIGABRT, 1].contains(&killed), "{killed}");
    }
}

#[test]
fn a_forked_copy_of_a_context_ends_nothing() {
    fn parent(ctx: Context) -> Result<bool> {
        let child = ctx.process(sleep).start()?;
        let other = child.clone();
        // SAFETY: the forked child drops a value, which makes no use of what other threads may have locked, and leaves.
        let forked = unsafe { libc::fork() };
        if forked == 0 {
            let refused = matches!(other.wait_timeout(Duration::ZERO), Err(Error::Forked));
            drop((child, other, ctx));
            // SAFETY: ends the forked child.
            unsafe { libc::_exit(i32::from(!refused)) };
        }
        let status = nix::sys::wait::waitpid(Pid::from_raw(forked), None);
        let fine = matches!(status, Ok(nix::sys::wait::WaitStatus::Exited(_, 0)));
        std::thread::sleep(Duration::from_millis(20));
        let alive = child.is_alive();
        child.stop()?;
        Ok(fine && alive)
    }
    let ctx = Context::new().unwrap();
    assert!(ctx.process(parent).start().unwrap().wait().unwrap());
}

#[test]
fn a_thousand_processes_lose_no_result() {
    let ctx = Context::new().unwrap();
    for first in (0..1000 * load()).step_by(8) {
        let all: Vec<_> = (first..first + 8)
            .map(|n| ctx.process(|n: u32| n).args(n).start().unwrap())
            .collect();
        for (process, n) in all.iter().zip(first..) {
            assert_eq!(process.wait().unwrap(), n);
        }
    }
}

/// Whether there is no such process, not even one that is not waited for.
fn is_gone(pid: u32) -> bool {
    kill(Pid::from_raw(pid as i32), None).is_err()
}

fn eventually(mut test: impl FnMut() -> bool) {
    let start = Instant::now();
    while !test() {
        assert!(start.elapsed() < PATIENCE, "it does not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How many times as often as usual things are repeated: more in a soak.
fn load() -> u32 {
    std::env::var("ZPROC_LOAD")
        .ok()
        .and_then(|load| load.parse().ok())
        .unwrap_or(1)
}

/// They were remembered by the thread that made them alone.
#[test]
fn an_error_that_another_thread_of_the_child_made_tells_type_and_place() {
    fn made_elsewhere() -> Result<()> {
        let thread = std::thread::spawn(|| Err(Error::other(std::io::Error::other("elsewhere"))));
        thread.join().unwrap_or(Ok(()))
    }
    let ctx = Context::new().unwrap();
    let Err(Error::ProcessWait {
        source: Some(source), ..
    }) = ctx.process(made_elsewhere).start().unwrap().wait()
    else {
        panic!("it does not fail")
    };
    assert_eq!(
        (source.type_name(), source.message()),
        ("std::io::error::Error", "elsewhere")
    );
    assert!(
        source.location().is_some_and(|place| place.contains("process.rs")),
        "{source:?}"
    );
}

/// An error in the memory of one that was dropped was told with the type and the place of that.
#[test]
fn an_error_at_the_address_of_another_is_not_taken_for_it() {
    #[derive(Debug)]
    struct Number(#[allow(dead_code, reason = "it takes room, as nothing else does")] [u64; 60]);
    impl std::fmt::Display for Number {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a number")
        }
    }
    impl std::error::Error for Number {}
    fn at_the_same_address() -> Result<()> {
        type Any = Box<dyn std::error::Error + Send + Sync>;
        for n in 0..1000 {
            let dropped = Error::other(Number([n; 60]));
            let Error::Custom(custom) = &dropped else {
                unreachable!()
            };
            let address = (&raw const **custom).addr();
            drop(dropped);
            // Memory that was freed before may be used first.
            let mut others: Vec<Any> = (0..64).map(|n| Box::new(Number([n; 60])) as Any).collect();
            let is_there = |other: &Any| (&raw const **other).addr() == address;
            if let Some(at) = others.iter().position(is_there) {
                Err(others.swap_remove(at))?;
            }
        }
        Ok(())
    }
    let ctx = Context::new().unwrap();
    let failed = ctx.process(at_the_same_address).start().unwrap().wait();
    let Err(Error::ProcessWait {
        source: Some(source), ..
    }) = failed
    else {
        panic!("no address was used again: {failed:?}")
    };
    assert_eq!((source.type_name(), source.location()), ("dyn std::error::Error", None));
}
