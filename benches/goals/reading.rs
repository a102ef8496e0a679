//! Reading, alone.

use std::hint::black_box;

use zproc::{Handle, State};
use zproc_bench::clock::ns_each;
use zproc_bench::rounds::compare;
use zproc_bench::table::{Goal, Limit, Measured, Unit};

use crate::subject::Subject;
use crate::{Bench, Row};

const GET: &str = "HashMap::get";
const GET_OF_1000: &str = "HashMap::get, 1,000 keys";

const fn goal(work: &'static str, limit: f64, reference: &'static str) -> Goal {
    Goal {
        work,
        limit: Limit::AtMost(limit),
        reference,
        unit: Unit::Time,
    }
}

/// The rows.
pub const ROWS: &[Row] = &[
    Row::alone(goal("get, 1,000 keys", 1.0, GET), |bench| get(bench, 1000)),
    Row::alone(goal("get, 10 keys", 1.5, GET), |bench| get(bench, 10)),
    Row::alone(goal("get, 100,000 keys", 1.5, GET), |bench| get(bench, 100_000)),
    Row::alone(goal("Handle::get", 0.2, GET_OF_1000), handle_get),
    Row::alone(goal("snapshot take and drop, 10 keys", 0.6, GET_OF_1000), |bench| {
        snapshot(bench, 10)
    }),
    Row::alone(
        goal("snapshot take and drop, 100,000 keys", 0.6, GET_OF_1000),
        |bench| snapshot(bench, 100_000),
    ),
];

fn get(bench: &Bench, keys: usize) -> Measured {
    let subject = Subject::new(keys);
    let rounds = bench.rounds(if keys > 10_000 { 200 } else { 2000 });
    compare(rounds, |round| subject.get(round), |round| subject.map_get(round)).into()
}

fn handle_get(bench: &Bench) -> Measured {
    let subject = Subject::new(1000);
    let handle = subject
        .state
        .handle(subject.draws.pass(0)[0])
        .expect("the key has a form");
    let rounds = bench.rounds(2000);
    compare(rounds, |_| get_by(&handle), |round| subject.map_get(round)).into()
}

#[inline(never)]
fn get_by(handle: &Handle<'_, u64>) -> f64 {
    let mut sum = 0u64;
    let ns = ns_each(1 << 13, || {
        for _ in 0..1 << 13 {
            sum = sum.wrapping_add(handle.get().expect("is readable").expect("is present"));
        }
    });
    black_box(sum);
    ns
}

fn snapshot(bench: &Bench, keys: usize) -> Measured {
    let (subject, reference) = (Subject::new(keys), Subject::new(1000));
    let rounds = bench.rounds(2000);
    compare(
        rounds,
        |_| take_and_drop(&subject.state),
        |round| reference.map_get(round),
    )
    .into()
}

#[inline(never)]
fn take_and_drop(state: &State) -> f64 {
    let mut sum = 0u64;
    let ns = ns_each(1 << 13, || {
        for _ in 0..1 << 13 {
            sum = sum.wrapping_add(state.snapshot().expect("a seat is free").seq());
        }
    });
    black_box(sum);
    ns
}
