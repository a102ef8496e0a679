//! Writing, alone.

use std::cell::RefCell;

use zproc_bench::clock::ns_each;
use zproc_bench::keys::Draws;
use zproc_bench::rounds::compare;
use zproc_bench::table::{Goal, Limit, Measured, Unit};

use crate::subject::Subject;
use crate::{Bench, Row};

/// The rows.
pub const ROWS: &[Row] = &[
    Row::alone(
        Goal {
            work: "insert over a key, 1,000 keys",
            limit: Limit::AtMost(1.3),
            reference: "HashMap::insert(key.clone())",
            unit: Unit::Time,
        },
        insert,
    ),
    Row::alone(
        Goal {
            work: "atomic over 16 keys",
            limit: Limit::AtMost(16.0),
            reference: "insert",
            unit: Unit::Time,
        },
        atomic,
    ),
];

fn insert(bench: &Bench) -> Measured {
    let subject = RefCell::new(Subject::new(1000));
    let ours = |round| subject.borrow().insert(round);
    compare(bench.rounds(1000), ours, |round| subject.borrow_mut().map_insert(round)).into()
}

fn atomic(bench: &Bench) -> Measured {
    let subject = Subject::new(1000);
    let ours = |round| insert_16_at_once(&subject, round);
    compare(bench.rounds(1000), ours, |round| subject.insert(Draws::opposite(round))).into()
}

#[inline(never)]
fn insert_16_at_once(subject: &Subject, pass: usize) -> f64 {
    let chunks = subject.draws.pass(pass).chunks_exact(16);
    ns_each(chunks.len(), || {
        for (keys, value) in chunks.zip(0u64..) {
            let result = subject
                .state
                .atomic(|dict| keys.iter().try_for_each(|key| dict.insert(*key, value)));
            result.expect("there is room");
        }
    })
}
