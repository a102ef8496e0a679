//! Watching for what is so already.

use std::hint::black_box;

use zproc_bench::clock::ns_each;
use zproc_bench::keys::Draws;
use zproc_bench::rounds::compare;
use zproc_bench::table::{Goal, Limit, Measured, Unit};

use crate::subject::Subject;
use crate::{Bench, Row};

/// The rows.
pub const ROWS: &[Row] = &[Row::alone(
    Goal {
        work: "get_when_equal that holds already, 1,000 keys",
        limit: Limit::AtMost(2.0),
        reference: "get",
        unit: Unit::Time,
    },
    holds_already,
)];

fn holds_already(bench: &Bench) -> Measured {
    let subject = Subject::new(1000);
    compare(
        bench.rounds(2000),
        |round| get_when_equal(&subject, round),
        |round| subject.get(Draws::opposite(round)),
    )
    .into()
}

/// Nanoseconds of a `get_when_equal` that holds, snapshot and all, in the pass with this number.
#[inline(never)]
fn get_when_equal(subject: &Subject, pass: usize) -> f64 {
    // What to wait for is known before.
    let pairs: Vec<(&str, u64)> = subject
        .draws
        .pass(pass)
        .iter()
        .map(|key| (*key, subject.map[*key]))
        .collect();
    let mut sum = 0u64;
    let ns = ns_each(pairs.len(), || {
        for (key, value) in &pairs {
            let snapshot = subject.state.get_when_equal(*key, *value).expect("it holds");
            sum = sum.wrapping_add(snapshot.seq());
        }
    });
    black_box(sum);
    ns
}
