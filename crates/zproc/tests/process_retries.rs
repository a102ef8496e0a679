//! Targets that are run again: in the child after failures, by the parent after deaths.

use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zproc::signals::{SIGABRT, SIGKILL, SIGSEGV, SIGTERM, SIGUSR1};
use zproc::{Backend, Context, Error, Process, Result, Retry, State};

zproc::init_tests!();

const SOON: Duration = Duration::from_millis(5);

/// Counts its runs, and fails in all but the last of `runs`.
fn count(state: State, runs: u32, how: u8) -> Result<u32> {
    let run: u32 = state.atomic(|dict| dict.modify_or("runs", 0, |n: u32| n + 1))?;
    if run >= runs {
        return Ok(run);
    }
    match how {
        0 => Err(Error::Timeout),
        1 => Err(Error::other(std::io::Error::other("broken"))),
        2 => panic!("on purpose"),
        3 => std::process::abort(),
        4 => {
            kill(Pid::this(), Signal::SIGSEGV).map_err(Error::other)?;
            std::thread::sleep(Duration::from_secs(600));
            Ok(0)
        }
        _ => zproc::exit(how.into()),
    }
}

fn runs(ctx: &Context) -> u32 {
    ctx.state().get("runs").unwrap().unwrap_or(0)
}

#[test]
fn only_the_chosen_failures_are_retried() {
    let is_timeout = || Retry::when(|error| matches!(error, Error::Timeout));
    let cases: [(Retry, u8, bool); 9] = [
        (is_timeout(), 0, true),
        (is_timeout(), 1, false),
        (Retry::error::<std::io::Error>(), 1, true),
        (Retry::error::<std::fmt::Error>(), 1, false),
        (Retry::panic(), 2, true),
        (Retry::panic(), 0, false),
        (Retry::any(), 1, true),
        (Retry::any(), 2, true),
        (Retry::any(), 9, false),
    ];
    for (retry, how, retried) in cases {
        let ctx = Context::new().unwrap();
        let process = ctx
            .process(count)
            .args((3, how))
            .retry_for(retry.clone())
            .retry_delay(SOON)
            .start()
            .unwrap();
        let result = process.wait();
        assert_eq!(
            (result.is_ok(), runs(&ctx)),
            (retried, if retried { 3 } else { 1 }),
            "{retry:?} {how}"
        );
    }
}

#[test]
fn max_retries_counts_retries_and_not_runs() {
    for retries in [0, 1, 4] {
        let ctx = Context::new().unwrap();
        let process = ctx
            .process(count)
            .args((99, 0))
            .retry_for_any()
            .max_retries(retries)
            .retry_delay(SOON);
        let error = process.start().unwrap().wait().unwrap_err();
        assert!(error.to_string().contains("Timeout"), "{error}");
        assert_eq!(runs(&ctx), retries + 1);
    }
}

#[test]
fn retry_args_take_the_place_of_the_arguments() {
    let ctx = Context::new().unwrap();
    let process = ctx
        .process(count)
        .args((99, 2))
        .retry_args((2, 0))
        .retry_for_any()
        .retry_delay(SOON);
    assert_eq!(process.start().unwrap().wait().unwrap(), 2);
}

#[test]
fn a_retry_goes_on_with_its_state_where_it_was() {
    fn next(state: State) -> Result<i64> {
        let n: i64 = state.get_when_change(["n"])?.get("n")?.unwrap_or(0);
        if n < 5 { Err(Error::other("too few")) } else { Ok(n) }
    }
    let ctx = Context::new().unwrap();
    let process = ctx
        .process(next)
        .retry_for_any()
        .retry_delay(SOON)
        .max_retries(4)
        .start()
        .unwrap();
    for n in 1..=9 {
        ctx.state().insert("n", n).unwrap();
    }
    assert_eq!(process.wait().unwrap(), 5, "each attempt sees one update");
}

#[test]
fn a_trapped_signal_is_retried() {
    fn wait(state: State) -> Result<u32> {
        let run: u32 = state.atomic(|dict| dict.modify_or("runs", 0, |n: u32| n + 1))?;
        if run < 3 {
            state.get_when_available("never").map(|_| 0)
        } else {
            Ok(run)
        }
    }
    let ctx = Context::new().unwrap();
    let process = ctx
        .process(wait)
        .retry_for(Retry::signal(SIGTERM))
        .retry_delay(SOON)
        .start()
        .unwrap();
    for run in [1, 2] {
        ctx.state().get_when_equal("runs", run).unwrap();
        kill(pid(&process), Signal::SIGTERM).unwrap();
    }
    assert_eq!(process.wait().unwrap(), 3);
}

#[test]
fn a_report_of_each_failure_goes_to_stderr() {
    fn parent(ctx: Context) -> Result<(u32, u32)> {
        let child = ctx
            .process(count)
            .args((3, 2))
            .retry_for_any()
            .retry_delay(SOON)
            .start()?;
        child.wait()?;
        Ok((std::process::id(), child.pid().unwrap_or(0)))
    }
    // A test cannot see its own stderr, so this one runs itself with another.
    let Ok(file) = std::env::var("ZPROC_TEST_REPORT") else {
        let path = std::env::temp_dir().join(format!("zproc-report-{}", std::process::id()));
        let file = std::fs::File::create(&path).unwrap();
        let mut test = std::process::Command::new(std::env::current_exe().unwrap());
        test.args(["--exact", "a_report_of_each_failure_goes_to_stderr", "--nocapture"]);
        let status = test
            .env("ZPROC_TEST_REPORT", &path)
            .stderr(file)
            .stdout(std::process::Stdio::null())
            .status();
        let told = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        assert!(status.unwrap().success(), "{told}");
        return;
    };
    let ctx = Context::new().unwrap();
    let (parent, child) = ctx.process(parent).start().unwrap().wait().unwrap();
    let told = std::fs::read_to_string(file).unwrap();
    let reports: Vec<&str> = told.lines().filter(|line| line.starts_with("zproc: process")).collect();
    assert_eq!(reports.len(), 2, "{told}");
    for (report, attempt) in reports.iter().zip(1..) {
        for part in [
            format!("process {child} "),
            format!("child of {parent}"),
            "count".into(),
            format!("attempt {attempt}"),
            "on purpose".into(),
            "tests/process_retries.rs:".into(),
            format!("retry {attempt} in 5ms"),
        ] {
            assert!(report.contains(&part), "{part:?} is not in {report:?}");
        }
    }
    assert!(
        told.contains("rust_begin_unwind") || told.contains("   0:"),
        "a backtrace: {told}"
    );
}

/// The report of a failure panicked where stderr is broken: a child died of it, and a thread was waited for for ever.
#[test]
fn a_broken_stderr_costs_no_retry() {
    fn with_broken_stderr(ctx: Context, backend: Backend) -> Result<u32> {
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .map_err(Error::other)?;
        nix::unistd::dup2_stderr(full).map_err(Error::other)?;
        let inner = ctx
            .process(count)
            .args((3, 0))
            .retry_for_any()
            .retry_delay(SOON)
            .backend(backend);
        inner.start()?.wait_timeout(Duration::from_secs(60))
    }
    let ctx = Context::new().unwrap();
    for backend in [Backend::Process, Backend::Thread] {
        let outer = ctx.process(with_broken_stderr).args(backend).start().unwrap();
        assert_eq!(outer.wait().unwrap(), 3, "{backend:?}");
        ctx.state().clear().unwrap();
    }
}

/// What says which failures are retried is the user's, and may panic; a thread was waited for for ever then, too.
#[test]
fn a_panic_while_it_is_seen_what_to_retry_ends_the_process() {
    let ctx = Context::new().unwrap();
    for backend in [Backend::Process, Backend::Thread] {
        let process = ctx
            .process(|| Err::<(), _>(Error::Timeout))
            .retry_for(Retry::when(|_| panic!("undecided")))
            .backend(backend)
            .start()
            .unwrap();
        let error = process.wait_timeout(Duration::from_secs(60)).unwrap_err();
        assert!(error.to_string().contains("undecided"), "{error}");
    }
}

#[test]
fn a_child_that_died_is_restarted() {
    let ctx = Context::new().unwrap();
    let process = ctx
        .process(count)
        .args((4, 3))
        .restart_for([SIGABRT])
        .restart_delay(SOON)
        .start()
        .unwrap();
    assert_eq!(process.wait().unwrap(), 4);
    assert_eq!((process.exitcode(), process.is_alive()), (Some(0), false));
    let ctx = Context::new().unwrap();
    let process = ctx.process(count).args((3, 4)).restart_for([SIGSEGV, SIGABRT]);
    assert_eq!(process.restart_delay(SOON).start().unwrap().wait().unwrap(), 3);
    // Not for another signal.
    let ctx = Context::new().unwrap();
    let process = ctx
        .process(count)
        .args((4, 3))
        .restart_for([SIGSEGV])
        .restart_delay(SOON)
        .start()
        .unwrap();
    assert!(matches!(process.wait(), Err(Error::ProcessWait { exit_code: -6, .. })));
    assert_eq!(runs(&ctx), 1);
    // Nor for an error, which is the child's to retry.
    let process = ctx
        .process(count)
        .args((4, 0))
        .restart_for_any()
        .restart_delay(SOON)
        .start()
        .unwrap();
    assert!(matches!(process.wait(), Err(Error::ProcessWait { exit_code: 1, .. })));
    assert_eq!(runs(&ctx), 2);
}

#[test]
fn restarts_end_at_their_limit_and_when_it_is_stopped() {
    let ctx = Context::new().unwrap();
    let process = ctx
        .process(count)
        .args((99, 3))
        .restart_for_any()
        .restart_delay(SOON)
        .max_restarts(3)
        .start()
        .unwrap();
    assert!(matches!(process.wait(), Err(Error::ProcessWait { exit_code: -6, .. })));
    assert_eq!((runs(&ctx), process.exitcode()), (4, Some(-6)));
    let ctx = Context::new().unwrap();
    let process = ctx
        .process(count)
        .args((99, 3))
        .restart_for_any()
        .restart_delay(Duration::from_secs(600))
        .start()
        .unwrap();
    ctx.state().get_when_equal("runs", 1).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert!(process.is_alive(), "it will be restarted");
    assert!([-SIGABRT, -SIGTERM].contains(&process.stop().unwrap()));
    assert!(!process.is_alive());
    // A running one is stopped, and stays so.
    let sleeper = ctx
        .process(|| std::thread::sleep(Duration::from_secs(600)))
        .restart_for_any()
        .restart_delay(SOON);
    let sleeper = sleeper.start().unwrap();
    assert_eq!(sleeper.stop().unwrap(), -SIGTERM);
    std::thread::sleep(Duration::from_millis(30));
    assert!(!sleeper.is_alive());
}

/// The child ran, and nobody kept it: whoever dropped its context waited for ever.
#[test]
fn a_process_that_could_not_be_kept_is_not_started() {
    fn short_of_memory(ctx: Context) -> Result<()> {
        // There is a thread that starts processes.
        ctx.process(|| ()).start()?.wait()?;
        let (soft, hard) = getrlimit(Resource::RLIMIT_AS).map_err(Error::other)?;
        let pages = std::fs::read_to_string("/proc/self/statm").map_err(Error::other)?;
        let pages: u64 = pages
            .split(' ')
            .next()
            .unwrap_or_default()
            .parse()
            .map_err(Error::other)?;
        // Not enough for the stack of another thread.
        setrlimit(Resource::RLIMIT_AS, 4096 * pages + (1 << 20), hard).map_err(Error::other)?;
        let result = ctx
            .process(|| std::thread::sleep(Duration::from_secs(600)))
            .restart_for_any()
            .start();
        setrlimit(Resource::RLIMIT_AS, soft, hard).map_err(Error::other)?;
        let error = result.map(drop).unwrap_err();
        assert!(error.to_string().contains("thread"), "{error}");
        ctx.close()
    }
    let ctx = Context::new().unwrap();
    let outer = ctx.process(short_of_memory).start().unwrap();
    outer.wait_timeout(Duration::from_secs(60)).unwrap();
}

#[test]
fn a_killed_child_is_restarted_and_watches_on() {
    fn echo(state: State) -> Result<()> {
        state.insert("ready", std::process::id())?;
        loop {
            let n: i64 = state.get_when_change(["n"])?.get("n")?.unwrap_or(0);
            state.insert("echo", n)?;
        }
    }
    let ctx = Context::new().unwrap();
    let process = ctx
        .process(echo)
        .restart_for([SIGKILL])
        .restart_delay(SOON)
        .start()
        .unwrap();
    let mut last = 0u32;
    for n in 1..=5 {
        let now = ctx
            .state()
            .get_when(|now| Ok(now.get::<u32>("ready")?.is_some_and(|pid| pid != last)))
            .unwrap();
        last = now.get("ready").unwrap().unwrap();
        assert_eq!(process.pid(), Some(last));
        drop(now);
        ctx.state().insert("n", n).unwrap();
        ctx.state().get_when_equal("echo", n).unwrap();
        kill(Pid::from_raw(last as i32), Signal::SIGKILL).unwrap();
    }
    drop(ctx);
    assert!(!process.is_alive());
}

/// What the dead one had not read, and all that came before the restart, was gone without a word.
#[test]
fn a_restart_misses_nothing_and_repeats_nothing() {
    fn note(state: State) -> Result<()> {
        let seen = state.fork().namespace("seen").open()?;
        loop {
            let n: u64 = state.get_when_change(["n"])?.get("n")?.unwrap_or(0);
            seen.insert(seen.len()? as u64, n)?;
            if n.is_multiple_of(7) {
                kill(Pid::this(), Signal::SIGKILL).map_err(Error::other)?;
            }
        }
    }
    let ctx = Context::new().unwrap();
    ctx.process(note)
        .restart_for([SIGKILL])
        .restart_delay(Duration::from_millis(50))
        .start()
        .unwrap();
    let seen = ctx.state().fork().namespace("seen").open().unwrap();
    for n in 1..=20u64 {
        ctx.state().insert("n", n).unwrap();
    }
    let watch = seen.watch().timeout(Duration::from_secs(60));
    let now = watch.get_when(|now| Ok(now.len()? == 20)).unwrap();
    let all: Vec<u64> = (0..20u64).map(|at| now.get(at).unwrap().unwrap()).collect();
    assert_eq!(all, (1..=20).collect::<Vec<_>>());
}

/// A run that failed, or died, was another writer to the next one, which saw its updates as news.
#[test]
fn what_a_run_has_written_is_no_news_to_the_next() {
    fn write_and_fail(state: State, dies: bool) -> Result<i64> {
        let runs = state.fork().namespace("runs").open()?;
        if runs.atomic(|dict| dict.modify_or("runs", 0, |n: u32| n + 1))? < 3 {
            state.insert("n", -1)?;
            state.insert("n", -2)?;
            if dies {
                kill(Pid::this(), Signal::SIGKILL).map_err(Error::other)?;
            }
            return Err(Error::Timeout);
        }
        runs.insert("last", true)?;
        Ok(state.get_when_change(["n"])?.get("n")?.unwrap_or(0))
    }
    for dies in [false, true] {
        let ctx = Context::new().unwrap();
        let process = ctx.process(write_and_fail).args(dies).retry_for_any().retry_delay(SOON);
        let process = process.restart_for_any().restart_delay(SOON).start().unwrap();
        let runs = ctx.state().fork().namespace("runs").open().unwrap();
        runs.get_when_available("last").unwrap();
        ctx.state().insert("n", 5).unwrap();
        assert_eq!(process.wait().unwrap(), 5, "{dies}");
    }
}

#[test]
fn a_signal_that_is_no_failure_of_the_target_ends_the_child() {
    let ctx = Context::new().unwrap();
    let process = ctx
        .process(|state: State| state.get_when_available("never").map(drop))
        .retry_for_any()
        .start()
        .unwrap();
    kill(pid(&process), Signal::SIGUSR1).unwrap();
    assert!(matches!(process.wait(), Err(Error::ProcessWait { exit_code, .. }) if exit_code == -SIGUSR1));
}

/// It was slept through and then forgotten, so that who asked the process to end had to kill it.
#[test]
fn a_signal_that_is_not_to_be_retried_ends_the_rest_before_a_retry() {
    fn trap(state: State) -> Result<()> {
        zproc::signal_to_error(SIGTERM)?;
        let run: u32 = state.atomic(|dict| dict.modify_or("runs", 0, |n: u32| n + 1))?;
        if run == 1 {
            return Err(Error::Timeout);
        }
        state.get_when_available("never").map(drop)
    }
    let ctx = Context::new().unwrap();
    let process = ctx
        .process(trap)
        .retry_for(Retry::when(|error| matches!(error, Error::Timeout)))
        .retry_delay(Duration::from_secs(600))
        .stop_grace(Duration::from_secs(30))
        .start()
        .unwrap();
    ctx.state().get_when_equal("runs", 1).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(process.stop().unwrap(), 1);
    assert!(process.wait().unwrap_err().to_string().contains("signal 15"));
    assert_eq!(runs(&ctx), 2);
}

#[test]
fn the_delay_is_waited_for() {
    let ctx = Context::new().unwrap();
    let start = Instant::now();
    let delay = Duration::from_millis(150);
    ctx.process(count)
        .args((3, 0))
        .retry_for_any()
        .retry_delay(delay)
        .start()
        .unwrap()
        .wait()
        .unwrap();
    assert!(start.elapsed() >= 2 * delay);
}

fn pid<T>(process: &Process<T>) -> Pid {
    Pid::from_raw(process.pid().unwrap() as i32)
}

/// Aborts in its first run when it is told to.
fn dies_once(state: State) -> Result<u32> {
    let run: u32 = state.atomic(|dict| dict.modify_or("runs", 0, |n: u32| n + 1))?;
    if run == 1 {
        state.get_when_available("die")?;
        std::process::abort();
    }
    Ok(run)
}

/// One restart that failed, for want of descriptors, ended the process for good.
#[test]
fn a_restart_that_fails_counts_as_a_death_and_is_tried_again() {
    fn short_of_descriptors(ctx: Context, gives_back: bool) -> Result<()> {
        let restarts = if gives_back { None } else { Some(3) };
        let process = ctx.process(dies_once).restart_for_any().restart_delay(SOON);
        let process = process.max_restarts(restarts).start()?;
        ctx.state().get_when_equal("runs", 1)?;
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(Error::other)?;
        // The few that are below are open: there are no others.
        setrlimit(Resource::RLIMIT_NOFILE, 4, hard).map_err(Error::other)?;
        ctx.state().insert("die", true)?;
        if gives_back {
            std::thread::sleep(Duration::from_millis(200));
            assert!(process.is_alive(), "{:?}", process.wait());
            setrlimit(Resource::RLIMIT_NOFILE, soft, hard).map_err(Error::other)?;
            assert_eq!(process.wait()?, 2);
        } else {
            let error = process.wait().map(drop).unwrap_err();
            setrlimit(Resource::RLIMIT_NOFILE, soft, hard).map_err(Error::other)?;
            let text = error.to_string();
            assert!(
                text.contains("could not be restarted") && text.contains("3 times"),
                "{text}"
            );
        }
        Ok(())
    }
    for gives_back in [true, false] {
        let ctx = Context::new().unwrap();
        let outer = ctx.process(short_of_descriptors).args(gives_back).start().unwrap();
        outer.wait_timeout(Duration::from_secs(60)).unwrap();
    }
}

/// The keeper was about to start it: it is stopped, and not started once more.
#[test]
fn a_process_may_be_stopped_while_it_is_restarted() {
    for pause in 0..30 {
        let ctx = Context::new().unwrap();
        let process = ctx
            .process(|state: State| -> Result<()> {
                state.atomic(|dict| dict.modify_or("runs", 0, |n: u32| n + 1))?;
                std::process::abort()
            })
            .restart_for_any()
            .restart_delay(Duration::ZERO)
            .start()
            .unwrap();
        ctx.state().get_when_available("runs").unwrap();
        std::thread::sleep(Duration::from_micros(300 * pause));
        let code = process.stop().unwrap();
        assert!([-SIGTERM, -SIGABRT].contains(&code), "{code}");
        let last = runs(&ctx);
        assert!(!process.is_alive());
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!((runs(&ctx), process.exitcode()), (last, Some(code)));
    }
}

/// It ended the child until that had come to trap it, which is a while after `start` has returned.
#[test]
fn a_signal_that_is_retried_may_come_as_soon_as_the_process_is_started() {
    fn wait(state: State) -> Result<(u32, String)> {
        let run: u32 = state.atomic(|dict| dict.modify_or("runs", 0, |n: u32| n + 1))?;
        if run < 2 {
            state.get_when_available("never")?;
        }
        let status = std::fs::read_to_string("/proc/self/status").map_err(Error::other)?;
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        Ok((run, blocked.unwrap_or_default().trim().to_owned()))
    }
    for signal in [Signal::SIGUSR1, Signal::SIGTERM] {
        for _ in 0..3 {
            let ctx = Context::new().unwrap();
            let process = ctx
                .process(wait)
                .retry_for(Retry::signal(signal as i32))
                .retry_delay(SOON);
            let process = process.start().unwrap();
            kill(pid(&process), signal).unwrap();
            assert_eq!(process.wait().unwrap(), (2, "0".repeat(16)), "{signal}");
        }
    }
}
