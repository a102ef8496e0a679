//! From point to point.

use super::operations;
use super::point::{Kill, Outcome, visit};
use super::scenario::{Act, Scenario, Template};
use super::sleeper::Sleepers;
use crate::common::{Random, number_from_env};

/// Points at which the recoverer is killed too, unless all are visited.
const NESTED: u64 = 30;
/// The same when all are.
const MANY_NESTED: u64 = 500;
/// At most so many points of an operation, and the last ones in any case, get a sleeper beside them.
const MOST_WATCHED: u64 = 2000;
const WATCHED_END: u64 = 300;

/// Whether every point is visited.
pub fn is_complete() -> bool {
    std::env::var("ZPROC_SWEEP").is_ok_and(|value| value == "all")
}

/// Where a sampled sweep begins, and which pairs are drawn.
pub fn seed() -> u64 {
    number_from_env("ZPROC_SWEEP_OFFSET").unwrap_or(u64::from(std::process::id()))
}

/// Sweeps one operation, in this process. Panics at the first point where something is wrong.
pub fn run(scenario: &Scenario) {
    let (all, seed) = (is_complete(), seed());
    let template = Template::of(scenario);
    let mut sleepers = Sleepers::default();
    let whole = visit(scenario, &template, Kill::at(u64::MAX), Some(&mut sleepers));
    assert!(!whole.killed && whole.stores >= scenario.least_stores, "{whole:?}");
    if scenario.act == Act::Put {
        check_that_it_is_straight(scenario, whole.stores);
    }
    let step = if all {
        1
    } else {
        whole.stores.div_ceil(scenario.most_points)
    };
    let stride = whole.stores.div_ceil(MOST_WATCHED);
    let mut points = 0;
    let mut decided = None;
    for at in (seed % step..whole.stores).step_by(step as usize) {
        let kill = Kill::at(at);
        print_if_it_fails(scenario, kill, seed);
        let watched = at % stride == 0 || at + WATCHED_END > whole.stores;
        let outcome = visit(scenario, &template, kill, watched.then_some(&mut sleepers));
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
    let last: Outcome = visit(scenario, &template, Kill::at(whole.stores), Some(&mut sleepers));
    sleepers.settle();
    assert!(!last.killed, "{last:?}");
    if scenario.commits() {
        assert!(
            last.is_after && (step > 1 || decided.is_some()),
            "decided at {decided:?} of {}",
            whole.stores
        );
    }
    let nested = match scenario.act {
        // No recoverer could be told from the next creator; no watcher sleeps in what is not there.
        Act::CreateArena => 0,
        _ => nested(scenario, &template, whole.stores, all, seed),
    };
    let note = match step {
        1 => String::new(),
        _ => format!(" (every {step}th, ZPROC_SWEEP_OFFSET={seed})"),
    };
    println!(
        "\nswept {}: {points} of {} points{note}, beside {} sleepers ({} woke up late), {nested} with a second death",
        scenario.name, whole.stores, sleepers.woken, sleepers.late
    );
}

/// The straight path stores one word more than the general one, to a line that it wants early. An operation that took the
/// general way after all would store as many as that: once a value was of another size than the one before, and the
/// straight path was not swept.
fn check_that_it_is_straight(scenario: &Scenario, stores: u64) {
    let mut general = operations::named(scenario.name);
    general.act = Act::Commit;
    let template = Template::of(&general);
    let whole = visit(&general, &template, Kill::at(u64::MAX), Some(&mut Sleepers::default()));
    assert_eq!(
        stores,
        whole.stores + 1,
        "stores on the straight path, and on the general one"
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
        let kill = Kill {
            at,
            recoverer: Some(random.below(if wide { 400 } else { 60 })),
        };
        print_if_it_fails(scenario, kill, seed);
        visit(scenario, template, kill, None);
    }
    count
}

/// Leaves a note of the point for the message of a panic.
fn print_if_it_fails(scenario: &Scenario, kill: Kill, seed: u64) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            before(info);
            eprintln!("{}", NOTE.lock().unwrap());
        }));
    });
    let second = kill
        .recoverer
        .map_or(String::new(), |second| format!(", the recoverer at {second}"));
    *NOTE.lock().unwrap() = format!(
        "failed in {:?}: killed before store {}{second} (ZPROC_SWEEP_OFFSET={seed})",
        scenario.name, kill.at
    );
}

static NOTE: std::sync::Mutex<String> = std::sync::Mutex::new(String::new());
