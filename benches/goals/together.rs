//! Two and three processes at once.

use std::time::{Duration, Instant};

use zproc::State;
use zproc_bench::board::Board;
use zproc_bench::cpu;
use zproc_bench::peer::Peer;
use zproc_bench::rounds::take_turns;
use zproc_bench::table::{Goal, Limit, Measured, Unit};

use crate::jobs::{self, COUNT, increment};
use crate::notifying::controlled;
use crate::subject::Subject;
use crate::{Bench, Row};

/// The rows.
pub const ROWS: &[Row] = &[
    Row::between(
        Goal {
            work: "get beside a non-stop writer, 1,000 keys",
            limit: Limit::AtMost(2.0),
            reference: "the same get, idle",
            unit: Unit::Time,
        },
        get_beside_a_writer,
    ),
    Row::between(
        Goal {
            work: "increments by atomic, two processes",
            limit: Limit::AtLeast(0.25),
            reference: "pthread robust mutex",
            unit: Unit::Rate,
        },
        increments,
    ),
    Row::between(
        Goal {
            work: "longest wait of a third writer beside two",
            limit: Limit::FigureAtMost(20e6),
            reference: "",
            unit: Unit::Time,
        },
        third_writer,
    ),
];

fn get_beside_a_writer(bench: &Bench) -> Measured {
    let subject = Subject::new(1000);
    let mut peer = Peer::spawn(bench.other_cpu(), &[subject.address()]);
    let (mut writes, mut seconds) = (0, 0.0);
    let rounds = peer.rounds(bench.rounds(200), |peer, number, _| {
        let beside = || {
            let ((ns, time), written) = peer.during(jobs::WRITE, 0, |_| get_for_some_passes(&subject, number));
            (writes, seconds) = (writes + written, seconds + time);
            ns
        };
        take_turns(number, beside, || get_for_some_passes(&subject, number).0)
    });
    controlled(&rounds, &format!("{:.1} M writes/s", writes as f64 / seconds / 1e6))
}

/// Nanoseconds of a `get`, and the seconds of all; after a pass that brings back what the other process had in its cache.
fn get_for_some_passes(subject: &Subject, number: usize) -> (f64, f64) {
    const PASSES: usize = 4;
    let start = Instant::now();
    subject.get(number);
    let ns: f64 = (1..=PASSES).map(|pass| subject.get(number + pass)).sum();
    (ns / PASSES as f64, start.elapsed().as_secs_f64())
}

fn increments(bench: &Bench) -> Measured {
    let subject = Subject::new(1000);
    let state = &subject.state;
    state.insert(COUNT, 0).expect("there is room");
    let mut peer = Peer::spawn(bench.other_cpu(), &[subject.address()]);
    let rounds = peer.rounds(bench.rounds(40), |peer, number, _| {
        let peer = std::cell::RefCell::new(peer);
        let ours = || rate(&mut peer.borrow_mut(), jobs::INCREMENT, |_| increment(state));
        let reference = || {
            rate(&mut peer.borrow_mut(), jobs::INCREMENT_ROBUST, |board| {
                board.counter.increment()
            })
        };
        take_turns(number, ours, reference)
    });
    controlled(&rounds, "")
}

/// How often a second `f` runs in this process and the peer's job in the other, together.
fn rate(peer: &mut Peer, job: u32, f: impl Fn(&Board)) -> f64 {
    let ((own, seconds), others) = peer.during(job, 0, |board| {
        let (start, mut count) = (Instant::now(), 0u64);
        while start.elapsed() < Duration::from_millis(30) {
            (0..64).for_each(|_| f(board));
            count += 64;
        }
        (count, start.elapsed().as_secs_f64())
    });
    (own + others) as f64 / seconds
}

/// The other two are pinned to a CPU each; this one goes where the kernel puts it.
fn third_writer(bench: &Bench) -> Measured {
    let subject = Subject::new(1000);
    let state = &subject.state;
    state.insert(COUNT, 0).expect("there is room");
    let mut first = Peer::spawn(bench.own_cpu(), &[subject.address()]);
    let mut second = Peer::spawn(bench.other_cpu(), &[subject.address()]);
    let time = Duration::from_secs(if bench.quick { 1 } else { 5 });
    cpu::pin(&[bench.own_cpu(), bench.other_cpu()]);
    let (((count, longest), others), more) = second.during(jobs::INCREMENT, 0, |_| {
        first.during(jobs::INCREMENT, 0, |_| longest_of(state, time))
    });
    cpu::pin(&[bench.own_cpu()]);
    Measured::figure(longest.as_nanos() as f64).with_note(format!(
        "{count} of {} increments were the third's",
        count + others + more
    ))
}

/// How often the counter could be incremented, and how long that took at worst, until it was committed.
fn longest_of(state: &State, time: Duration) -> (u64, Duration) {
    let (start, mut count, mut longest) = (Instant::now(), 0, Duration::ZERO);
    while start.elapsed() < time {
        let before = Instant::now();
        increment(state);
        longest = longest.max(before.elapsed());
        count += 1;
    }
    (count, longest)
}
