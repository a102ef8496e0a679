//! Whether the sweep would notice a mistake in the engine: each fault that can be planted must make it fail.
//!
//! A fault is planted into all processes of a point: the one that is killed, the next writer, the sleeper. Each point runs
//! in a process of its own, and is *bad* if any check there failed or never ended. The table says where each fault
//! is looked for; a mistake of order should show at some points and not in an operation that nobody kills, so that is
//! told apart. The last row is the control: with nothing planted there is no bad point.

use std::fmt::Write;

use shm_state::{Fault, plant, without_backstops};

use super::point::{Kill, visit};
use super::scenario::{Scenario, Template};
use super::sleeper::Sleepers;
use super::{contended, end_within, operations, stopped};
use crate::common::process::{Board, end_of, start_fork};

/// Points of an operation that are visited, beside the last ones.
const MOST: u64 = 24;
/// Points that are visited at the same time: many that are bad are so because they wait.
const SIDE_BY_SIDE: usize = 8;

/// Where the sweep must notice what.
const NOTICED: [(Fault, &[&str]); 14] = [
    (Fault::MarkerFirst, &["insert", "put", "transaction"]),
    (Fault::SeqFirst, &["insert", "put", "transaction"]),
    (Fault::LogSlotLate, &["insert", "put"]),
    (Fault::HeadBeforeVersion, &["overwrite", "put"]),
    (Fault::LinkDirectly, &["dropped"]),
    (Fault::SplitDirectly, &["merging"]),
    (Fault::BumpDirectly, &["insert"]),
    (Fault::NoRedo, &["insert", "put", "growth"]),
    (Fault::NoSweep, &["abort"]),
    (Fault::NoRebuildFlag, &["merging"]),
    (Fault::NoGeneration, &["dropping"]),
    (Fault::FloorAfterRecycle, &["trimming"]),
    (Fault::IgnorePins, &["pinned"]),
    (Fault::CountFirst, &["namespace"]),
];

/// Runs a check in a process with that fault.
fn start(fault: Option<Fault>, check: impl FnOnce()) -> i32 {
    start_fork(|| {
        std::panic::set_hook(Box::new(|_| {}));
        plant(fault);
        check();
    })
}

/// Whether a check fails, or does not end, in a process with that fault.
fn fails(fault: Option<Fault>, check: impl FnOnce()) -> bool {
    !end_of(start(fault, check)).success()
}

/// Visits points of an operation with a fault. Returns how many were bad, of how many, and whether the operation fails
/// also if it is not killed.
fn sweep(scenario: &Scenario, fault: Option<Fault>) -> (usize, usize, bool) {
    let template = Template::of(scenario);
    let board = Board::new();
    let check = |at: u64| {
        let mut sleepers = Sleepers::default();
        let outcome = visit(scenario, &template, Kill::at(at), Some(&mut sleepers));
        board.set(0, outcome.stores);
        sleepers.settle();
    };
    // Also the sound operation, for its stores: with the fault it may not get as far as to count them.
    assert!(!fails(None, || check(u64::MAX)), "{} without a fault", scenario.name);
    let always = fails(fault, || check(u64::MAX));
    let stores = board.get(0);
    // The end, where the commit is decided and applied, is looked at closely.
    let step = stores.div_ceil(MOST);
    let points: Vec<u64> = (0..stores).filter(|at| at % step == 0 || at + 40 > stores).collect();
    let bad = points.chunks(SIDE_BY_SIDE).flat_map(|points| {
        let visits: Vec<i32> = points.iter().map(|at| start(fault, || check(*at))).collect();
        visits.into_iter().filter(|pid| !end_of(*pid).success())
    });
    let bad = bad.count();
    (bad, points.len(), always)
}

/// Panics unless every fault is noticed, and nothing else.
pub fn run() {
    end_within(900);
    let mut text = String::new();
    let (mut noticed, mut known) = (0, 0);
    for (fault, names) in NOTICED {
        for name in names {
            let (bad, points, always) = sweep(&operations::named(name), Some(fault));
            let always = if always { ", and without a kill" } else { "" };
            writeln!(text, "  {fault:?} in {name}: {bad} bad of {points} points{always}").unwrap();
            known += 1;
            noticed += usize::from(bad > 0);
        }
    }
    for fault in [Fault::NoWake, Fault::WakeBeforePublish] {
        let late = fails(Some(fault), || {
            // On a busy machine a visit may take as long as a sleeper's own look is away.
            without_backstops();
            stopped::sweep(&operations::named("put"));
        });
        writeln!(
            text,
            "  {fault:?}: a sleeper beside a writer that is stopped in put wakes up late: {late}"
        )
        .unwrap();
        known += 1;
        noticed += usize::from(late);
    }
    for fault in [Fault::UnlockQuietly, Fault::ForgetWaiters] {
        let shown = contended::shows(|visit| fails(Some(fault), visit));
        writeln!(text, "  {fault:?} in the contended lock: {shown:?}").unwrap();
        known += 1;
        noticed += usize::from(shown.is_some());
    }
    let mut clean: Vec<&str> = NOTICED.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    clean.sort_unstable();
    clean.dedup();
    let mut points = 0;
    for name in &clean {
        let (bad, visited, always) = sweep(&operations::named(name), None);
        assert!(bad == 0 && !always, "{name} without a fault: {bad} bad points\n{text}");
        points += visited + 1;
    }
    assert_eq!(noticed, known, "not all were noticed:\n{text}");
    println!("\n{text}swept planted faults: {noticed} of {known} noticed; with none planted 0 bad of {points} points");
}
