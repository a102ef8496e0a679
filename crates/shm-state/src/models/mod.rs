//! The protocols of few words, searched: every interleaving up to a bound, with every value that a weak memory may show.
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" cargo test -p shm-state --release --lib models
//! LOOM_MAX_PREEMPTIONS=3 …      # a wider search; 2 is what CI does
//! ZPROC_MODELS_TRACE=1 …        # prints the steps of each counter-example
//! ```
//!
//! **What runs** is the engine itself, unchanged: the whole lock, whole transactions, gets, pins, waits. Under this cfg
//! the words of `sync` are atomics of loom wherever threads share them ([`machine`] finds out where), and `sys` asks a
//! model of the kernel for sleeps, clocks, thread ids and the robust mark ([`kernel`]). An arena is made once by the engine
//! and is as it was at the start of every execution ([`fixture`]).
//!
//! **Death.** A thread can be killed before each of its stores, wake-ups and sleeps, and behind each sleep: one search for
//! each of those points ([`holds_at_each_death`]). It unwinds, without a trace from there on; then the kernel marks the
//! lock that it had named, or the mark is lost, while the others run.
//!
//! **Each model can fail**: beside what must hold there are faults that must be found ([`finds`]): an ordering made
//! relaxed, a fence left out, two stores swapped, a store or a wake-up left out. Some fences are two for one purpose; then
//! both are left out.
//!
//! **What loom cannot show**, and so no search here:
//! - a load that sees a store of the future. Loom runs one step after the other; a load may see old values, never ones that
//!   are stored later. So what keeps loads *before* something (the Release of `unpin`, of an unlock after reads, the
//!   Acquire half of a store's exchange) rests on the argument beside it.
//! - SeqCst accesses, which it takes for AcqRel. A SeqCst load is a fence and an Acquire load here if the same thread made
//!   a SeqCst store before, which is what such pairs are for; nothing in the engine relies on more.
//! - more than the last seven values of a word, more than four threads, more switches than the bound.
//! - the x86-64 way of `fence_after_unlock`: the portable one is searched, that one rests on the manual of the processor.
//!
//! A wake-up and the end of a sleep order memory here as a lock does, which is a little more than the kernel promises; the
//! protocols look at words again after every sleep and rely on those.

pub mod atomic;
mod event;
mod fixture;
mod kernel;
mod lock;
mod log;
mod machine;
mod memory;
mod pin;
mod publish;
mod recycle;
mod setup;
pub mod system;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use machine::{Grown, Machine, claim, join, machine, message, spawn, survives};
pub use machine::{THREADS, kill_point};
use setup::{Fault, Kill, Kind, Search, Setup};

/// What a search found out.
#[derive(Debug)]
struct Explored {
    /// Interleavings and choices of old values.
    executions: usize,
    /// Executions in which the thread to be killed came to its end.
    kills: usize,
    /// Words that more than one thread touched.
    words: usize,
    /// How often the planted faults changed something.
    faulty: usize,
    /// What went wrong in the execution that ended the search.
    found: Option<String>,
}

/// Switches between threads that could have run on. Beyond these the search does not look.
fn preemptions() -> usize {
    std::env::var("LOOM_MAX_PREEMPTIONS").map_or(2, |bound| bound.parse().expect("a number"))
}

/// Runs `scenario` in every way that there is, up to the bound, on a system thread of its own.
fn explore(setup: &Setup, scenario: &Arc<impl Fn() + Send + Sync + 'static>) -> Explored {
    let search = Arc::new(Search {
        traces: std::env::var_os("ZPROC_MODELS_TRACE").is_some(),
        ..Search::default()
    });
    loop {
        let run = {
            let (search, setup, scenario) = (Arc::clone(&search), setup.clone(), Arc::clone(scenario));
            move || {
                let machine = Machine::begin(&search, &setup);
                crate::lock::renew_modelled();
                scenario();
                join();
                machine.end();
            }
        };
        let thread = std::thread::spawn(move || {
            let mut builder = loom::model::Builder::new();
            builder.preemption_bound = Some(preemptions());
            builder.max_branches = 100_000;
            builder.check(run);
        });
        let found = match thread.join() {
            Ok(()) => None,
            Err(payload) if payload.is::<Grown>() => continue,
            Err(payload) => Some(message(&*payload)),
        };
        return Explored {
            executions: search.executions.load(Ordering::Relaxed),
            kills: search.kills.load(Ordering::Relaxed),
            words: search.words.lock().expect("not poisoned").len(),
            faulty: search.faulty.load(Ordering::Relaxed),
            found,
        };
    }
}

/// Searches everything, and wants to find nothing wrong.
fn holds(what: &str, setup: &Setup, scenario: impl Fn() + Send + Sync + 'static) {
    let start = std::time::Instant::now();
    let explored = explore(setup, &Arc::new(scenario));
    report(what, &explored, start);
    assert_eq!(explored.found, None, "{what}: {setup:?}");
    assert!(explored.words > 0, "{what}: the threads share nothing");
}

/// As [`holds`], with `thread` killed before each of its stores, wake-ups and sleeps, one search for each.
fn holds_at_each_death(
    what: &str,
    setup: &Setup,
    thread: usize,
    marked: bool,
    scenario: impl Fn() + Send + Sync + 'static,
) {
    let start = std::time::Instant::now();
    let scenario = Arc::new(scenario);
    let mut all = Explored {
        executions: 0,
        kills: 0,
        words: 0,
        faulty: 0,
        found: None,
    };
    let mut at = 0;
    loop {
        let kill = Some(Kill { thread, at, marked });
        let setup = Setup { kill, ..setup.clone() };
        let explored = explore(&setup, &scenario);
        assert_eq!(explored.found, None, "{what}: {setup:?}");
        all.executions += explored.executions;
        all.kills += explored.kills;
        all.words = all.words.max(explored.words);
        if explored.kills == 0 {
            break;
        }
        at += 1;
    }
    report(&format!("{what}, killed at {at} points"), &all, start);
    assert!(at > 0, "{what}: nobody was killed");
}

/// Searches until the planted fault shows.
fn finds(what: &str, setup: &Setup, faults: &[Fault], scenario: impl Fn() + Send + Sync + 'static) {
    let start = std::time::Instant::now();
    let setup = Setup {
        faults: faults.to_vec(),
        ..setup.clone()
    };
    let explored = explore(&setup, &Arc::new(scenario));
    report(what, &explored, start);
    assert!(explored.faulty > 0, "{what}: the fault changes nothing: {setup:?}");
    let found = explored.found.unwrap_or_else(|| panic!("{what}: not found: {setup:?}"));
    assert!(!found.contains(UNSET), "{what}: {found}");
}

fn report(what: &str, explored: &Explored, start: std::time::Instant) {
    let Explored {
        executions,
        kills,
        words,
        found,
        ..
    } = explored;
    let found = found
        .as_deref()
        .map_or(String::new(), |found| format!("; found: {found}"));
    println!(
        "{what}: {executions} executions, {words} shared words, {kills} with a death, {:.1?}{found}",
        start.elapsed()
    );
}

/// How often all threads slept and time had to pass.
fn jumps() -> usize {
    machine().map_or(0, |machine| machine.kernel.jumps())
}

/// The longest of those times, in nanoseconds.
fn longest_jump() -> u64 {
    machine().map_or(0, |machine| machine.kernel.longest())
}

/// Begins what a scenario claims about itself, in the thread that nobody disturbs.
const UNSET: &str = "the scene is not set";

/// Searches each death of a thread with a planted fault, until it shows.
fn finds_at_some_death(what: &str, faults: &[Fault], thread: usize, scenario: impl Fn() + Send + Sync + 'static) {
    let start = std::time::Instant::now();
    let scenario = Arc::new(scenario);
    for at in 0.. {
        let kill = Some(Kill {
            thread,
            at,
            marked: true,
        });
        let setup = Setup {
            faults: faults.to_vec(),
            kill,
            ..Setup::default()
        };
        let explored = explore(&setup, &scenario);
        if let Some(found) = &explored.found {
            report(&format!("{what}, killed at point {at}"), &explored, start);
            assert!(explored.faulty > 0 && !found.contains(UNSET), "{what}: {found}");
            return;
        }
        assert!(explored.kills > 0, "{what}: not found at any of {at} points: {setup:?}");
    }
}

/// The address of a word, to name it in a fault.
fn at<T>(word: &T) -> usize {
    std::ptr::from_ref(word).addr()
}
