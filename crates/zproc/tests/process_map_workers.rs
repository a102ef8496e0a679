//! The workers of maps: how many there are, which run what, and what is left of them: after maps that were given up, beside
//! tasks that kill them, when they cannot be replaced, and at the end.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zproc::signals::SIGTERM;
use zproc::{Context, Error, Progress, Result};

mod support;

use support::eventually;

zproc::init_tests!();

const PATIENCE: Duration = Duration::from_secs(60);

fn square(n: u64) -> u64 {
    n * n
}

fn slow_pid(_: u64) -> u32 {
    std::thread::sleep(Duration::from_millis(20));
    std::process::id()
}

fn living(ctx: &Context) -> HashSet<u32> {
    let workers = ctx.workers();
    let living = workers.iter().filter(|worker| worker.is_alive());
    living.filter_map(|worker| worker.pid()).collect()
}

/// The workers of a map with more of them took the chunks of the next one before they saw that they were too many.
#[test]
fn a_map_that_asks_for_one_worker_is_run_by_one() {
    let ctx = Context::new().unwrap();
    for _ in 0..5 {
        let mut many = ctx.process_map(slow_pid, 0..1000).count(4).start().unwrap();
        many.next().unwrap().unwrap();
        drop(many);
        let one = ctx.process_map(slow_pid, 0..12).count(1).start().unwrap();
        let pids: HashSet<u32> = one.map(Result::unwrap).collect();
        assert_eq!(pids.len(), 1, "{pids:?} have run a map that is to be serial");
    }
}

/// Each such map added its workers to those that had nothing to do any more, up to 256 of them.
#[test]
fn new_workers_take_the_place_of_those_that_no_map_needs() {
    let ctx = Context::new().unwrap();
    let pids = || {
        let map = ctx.process_map(slow_pid, 0..6).count(2).new_workers();
        map.start().unwrap().map(Result::unwrap).collect::<HashSet<u32>>()
    };
    let (first, second) = (pids(), pids());
    assert!(first.is_disjoint(&second), "{first:?} {second:?}");
    for _ in 0..3 {
        pids();
    }
    eventually("the old workers end", || living(&ctx).len() <= 2);
    // Beside a map that goes on, they are more.
    let mut other = ctx.process_map(square, 0..).count(2).start().unwrap();
    let before = living(&ctx);
    pids();
    let beside = living(&ctx);
    assert!(
        before.is_subset(&beside) && beside.len() == before.len() + 2,
        "{before:?} {beside:?}"
    );
    assert_eq!(other.next().unwrap().unwrap(), 0);
}

/// A worker that could not be replaced at once, for want of descriptors, ended the whole map.
#[test]
fn a_worker_that_cannot_be_replaced_yet_ends_no_map_while_another_lives() {
    fn short_of_descriptors(ctx: Context) -> Result<()> {
        let mut results = ctx.process_map(slow_pid, 0..60).count(2).start()?;
        let mut seen = vec![results.next().expect("there are more")];
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(Error::other)?;
        // The few that are below are open: there are no others.
        setrlimit(Resource::RLIMIT_NOFILE, 4, hard).map_err(Error::other)?;
        let null = nix::unistd::dup(std::io::stderr());
        assert!(null.is_err(), "{null:?}");
        let victim = *living(&ctx).iter().next().expect("there are two");
        kill(Pid::from_raw(victim.cast_signed()), Signal::SIGKILL).map_err(Error::other)?;
        seen.extend(results.by_ref().take(30));
        assert_eq!(
            living(&ctx).len(),
            1,
            "another was started, although there are no descriptors"
        );
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).map_err(Error::other)?;
        seen.extend(results);
        let lost = seen.iter().filter(|result| result.is_err()).count();
        assert!(seen.len() == 60 && lost <= 1, "{seen:?}");
        assert_eq!(living(&ctx).len(), 2, "nobody has taken the place of the dead one");
        Ok(())
    }
    let ctx = Context::new().unwrap();
    let process = ctx.process(short_of_descriptors).start().unwrap();
    process.wait_timeout(PATIENCE).unwrap();
}

/// Idle workers were ended by SIGTERM alone: one that traps it was killed after its grace.
#[test]
fn workers_that_trap_sigterm_end_with_their_context_at_once() {
    fn trap(n: u64) -> Result<u64> {
        zproc::signal_to_error(SIGTERM)?;
        Ok(n)
    }
    let grace = Duration::from_secs(40);
    let defaults = zproc::ProcessSettings::new().stop_grace(grace);
    let ctx = Context::builder().process_defaults(defaults).build().unwrap();
    let results = ctx.process_map(trap, 0..20).count(2).start().unwrap();
    assert!(results.map(|result| result.unwrap()).eq(0..20));
    let start = Instant::now();
    ctx.close().unwrap();
    assert!(start.elapsed() < grace / 2, "{:?}", start.elapsed());
}

/// Bytes of the file beside the slots that are in memory.
fn large_bytes() -> u64 {
    let files = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .flatten()
        .map(|fd| fd.path());
    let is_large = |fd: &PathBuf| std::fs::read_link(fd).is_ok_and(|to| to.to_string_lossy().contains("zproc-large"));
    let blocks = |fd: PathBuf| Some((std::fs::metadata(&fd).ok()?, std::fs::read_link(fd).ok()?));
    let mut sizes: Vec<(u64, u64)> = files
        .filter(is_large)
        .filter_map(blocks)
        .map(|(file, _)| {
            use std::os::unix::fs::MetadataExt;
            (file.ino(), file.blocks() * 512)
        })
        .collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes.iter().map(|(_, size)| size).sum()
}

/// Results that do not fit into a slot stayed in the file beside it when nobody took them.
#[test]
fn large_results_that_nobody_takes_leave_no_memory_behind() {
    fn in_a_process_of_its_own(ctx: Context) -> Result<()> {
        let large = |_: u64| "x".repeat(1 << 20);
        for _ in 0..5 {
            let mut results = ctx.process_map(large, 0..1000).count(2).start()?;
            assert_eq!(results.next().expect("there are more")?.len(), 1 << 20);
            // Others are done by now, or soon.
            std::thread::sleep(Duration::from_millis(30));
        }
        ctx.process_map(square, 0..10).count(2).start()?.for_each(drop);
        eventually("what nobody takes is given back", || {
            ctx.process_map(square, [1]).count(2).start().unwrap().for_each(drop);
            large_bytes() < 1 << 20
        });
        Ok(())
    }
    let ctx = Context::new().unwrap();
    ctx.process(in_a_process_of_its_own)
        .start()
        .unwrap()
        .wait_timeout(2 * PATIENCE)
        .unwrap();
}

/// Deaths were counted for all tasks together, so that one which kills all its workers ended any other.
#[test]
fn a_task_that_kills_its_workers_ends_no_other() {
    let ctx = Context::new().unwrap();
    let with = |n: u64, _: Deadly| n;
    let mut deadly = ctx.process_map(with, 0..4).args(Deadly(66)).count(1).start().unwrap();
    let results: Vec<Result<u64>> = ctx.process_map(square, 0..50).count(1).start().unwrap().collect();
    assert!(results.len() == 50 && results.iter().all(Result::is_ok), "{results:?}");
    let error = deadly.next().unwrap().unwrap_err();
    assert!(matches!(error, Error::ProcessWait { exit_code: -6, .. }), "{error}");
    assert!(deadly.next().is_none());
}

/// It ended the worker, and with its successors the map.
#[test]
fn common_arguments_that_panic_while_they_are_decoded_are_an_error_of_each_item() {
    let ctx = Context::new().unwrap();
    let with = |n: u64, _: Deadly| n;
    let results = ctx.process_map(with, 0..4).args(Deadly(77)).count(1).start().unwrap();
    let results: Vec<Result<u64>> = results.collect();
    let is_panic = |result: &Result<u64>| matches!(result, Err(Error::Remote(error)) if error.is_panic());
    assert!(results.len() == 4 && results.iter().all(is_panic), "{results:?}");
}

#[derive(Clone, serde::Serialize)]
struct Deadly(u64);

impl<'de> serde::Deserialize<'de> for Deadly {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        match u64::deserialize(from)? {
            66 => std::process::abort(),
            77 => panic!("while it is decoded"),
            n => Ok(Self(n)),
        }
    }
}

/// The results that had just come were lost with a panic of the callback that is told of them.
#[test]
fn a_progress_callback_that_panics_costs_no_result() {
    let ctx = Context::new().unwrap();
    let calls = RefCell::new(0);
    let progress = |_: Progress| {
        *calls.borrow_mut() += 1;
        assert!(*calls.borrow() % 3 != 0, "on purpose");
    };
    let mut results = ctx
        .process_map(square, 0..3000)
        .count(2)
        .progress(progress)
        .start()
        .unwrap();
    let (mut squares, mut panics) = (Vec::new(), 0);
    loop {
        let next = std::panic::AssertUnwindSafe(|| results.next());
        match std::panic::catch_unwind(next) {
            Ok(Some(square)) => squares.push(square.unwrap()),
            Ok(None) => break,
            Err(_) => panics += 1,
        }
    }
    assert!(
        panics > 0 && squares.iter().copied().eq((0..3000).map(square)),
        "{}",
        squares.len()
    );
}

/// One for each CPU that this process may use.
#[test]
fn there_is_a_worker_for_each_cpu_unless_a_number_is_set() {
    let ctx = Context::new().unwrap();
    ctx.process_map(square, 0..10).start().unwrap().for_each(drop);
    let cpus = std::thread::available_parallelism().unwrap().get();
    assert_eq!(ctx.workers().len(), cpus.min(256));
}
