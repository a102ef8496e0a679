//! From point to point.

use super::point::{Outcome, visit};
use super::scenario::{Act, Scenario, Template};
use crate::common::{Random, number_from_env};

/// Points at which the recoverer is killed too, unless all are visited.
const NESTED: u64 = 120;
/// The same when all are.
const MANY_NESTED: u64 = 3000;

/// Sweeps one operation, in this process. Panics at the first point where something is wrong.
pub fn run(scenario: &Scenario) {
    let template = Template::of(scenario);
    let whole = visit(scenario, &template, u64::MAX, None);
    assert!(!whole.killed && whole.stores >= scenario.least_stores, "{whole:?}");
    let all = std::env::var("ZPROC_SWEEP").is_ok_and(|v| v == "all");
    let step = if all {
        1
    } else {
        whole.stores.div_ceil(scenario.most_points)
    };
    let seed = number_from_env("ZPROC_SWEEP_OFFSET").unwrap_or(u64::from(std::process::id()));
    let offset = seed % step;
    let mut points = 0;
    let mut decided = None;
    for at in (offset..whole.stores).step_by(step as usize) {
        print_if_it_fails(scenario, at, None, seed);
        let outcome = visit(scenario, &template, at, None);
        points += 1;
        assert!(
            outcome.killed,
            "the operation has {} stores and ended before its store {at}",
            whole.stores
        );
        // There is one store by which the operation is decided.
        if outcome.is_after && decided.is_none() {
            decided = Some(at);
        }
        assert_eq!(outcome.is_after, decided.is_some(), "at {at}, decided at {decided:?}");
    }
    let last: Outcome = visit(scenario, &template, whole.stores, None);
    assert!(!last.killed, "{last:?}");
    if matches!(scenario.act, Act::Commit | Act::Put) {
        assert!(
            last.is_after && (step > 1 || decided.is_some()),
            "decided at {decided:?} of {}",
            whole.stores
        );
    }
    let nested = if scenario.act == Act::CreateArena {
        0
    } else {
        nested(scenario, &template, whole.stores, all, seed)
    };
    let note = if step == 1 {
        String::new()
    } else {
        format!(" (every {step}th, ZPROC_SWEEP_OFFSET={seed})")
    };
    println!(
        "\nswept {}: {points} of {} points{note}, {nested} with a second death",
        scenario.name, whole.stores
    );
}

/// The recoverer is killed as well: at random pairs of points, most of them where there is something to recover.
fn nested(scenario: &Scenario, template: &Template, stores: u64, all: bool, seed: u64) -> u64 {
    let count = if all { MANY_NESTED } else { NESTED };
    let mut random = Random::new(seed);
    let late = stores.saturating_sub(60);
    for _ in 0..count {
        let at = if random.below(4) == 0 {
            random.below(stores)
        } else {
            late + random.below(stores - late)
        };
        let wide = random.below(4) == 0;
        let second = random.below(if wide { 400 } else { 60 });
        print_if_it_fails(scenario, at, Some(second), seed);
        visit(scenario, template, at, Some(second));
    }
    count
}

/// Leaves a note of the point for the message of a panic.
fn print_if_it_fails(scenario: &Scenario, at: u64, second: Option<u64>, seed: u64) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            before(info);
            eprintln!("{}", NOTE.lock().unwrap());
        }));
    });
    let second = second.map_or(String::new(), |second| format!(", the recoverer at {second}"));
    *NOTE.lock().unwrap() = format!(
        "failed in {:?}: killed before store {at}{second} (ZPROC_SWEEP_OFFSET={seed})",
        scenario.name
    );
}

static NOTE: std::sync::Mutex<String> = std::sync::Mutex::new(String::new());
