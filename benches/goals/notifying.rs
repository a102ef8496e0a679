//! Telling others.

use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use zproc::State;
use zproc_bench::board::Board;
use zproc_bench::clock::{now_ns, stay_busy};
use zproc_bench::futex;
use zproc_bench::peer::{Controlled, Peer};
use zproc_bench::rounds::{Comparison, Round, Spread, compare, take_turns};
use zproc_bench::table::{Goal, Limit, Measured, Time, Unit};

use crate::jobs::{self, MESSAGE, WATCHERS, watched_keys};
use crate::subject::Subject;
use crate::{Bench, Row};

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
    Row::between(
        goal(
            "write → watcher has the value, spinning",
            5.0,
            "one-way cache-line ping",
        ),
        spinning,
    ),
    Row::between(
        goal(
            "write → watcher has the value, asleep 1 ms",
            1.25,
            "raw FUTEX_WAKE → running",
        ),
        asleep,
    ),
    Row::between(
        goal("insert with 1,000 watchers on other keys", 1.2, "insert with none"),
        watched,
    ),
];

/// What rounds between processes say, with their control.
pub fn controlled(rounds: &Controlled, note: &str) -> Measured {
    let Spread { p10, median, p90 } = Spread::of(rounds.one_way_ns.clone());
    let control = format!(
        "one way {median:.0} ns ({p10:.0}–{p90:.0}), {} rounds redone",
        rounds.discarded
    );
    let note = if note.is_empty() {
        control
    } else {
        format!("{note}; {control}")
    };
    Measured::from(Comparison::of(&rounds.rounds)).with_note(note)
}

fn spinning(bench: &Bench) -> Measured {
    let subject = Subject::new(1000);
    subject.state.insert(MESSAGE, 0).expect("there is room");
    let mut peer = Peer::spawn(bench.other_cpu(), &[subject.address()]);
    let rounds = peer.rounds(bench.rounds(50), |peer, _, one_way_ns| {
        let ours = exchange(peer, jobs::RECEIVE_SPINNING, 2000, Duration::from_micros(3), |_| {
            tell(&subject.state)
        });
        Round {
            ours,
            reference: one_way_ns,
        }
    });
    controlled(&rounds, "")
}

fn asleep(bench: &Bench) -> Measured {
    let subject = Subject::new(1000);
    subject.state.insert(MESSAGE, 0).expect("there is room");
    let mut peer = Peer::spawn(bench.other_cpu(), &[subject.address()]);
    let rounds = peer.rounds(bench.rounds(100), |peer, number, _| {
        let peer = RefCell::new(peer);
        let pause = Duration::from_millis(1);
        let ours = || {
            exchange(&mut peer.borrow_mut(), jobs::RECEIVE_ASLEEP, 40, pause, |_| {
                tell(&subject.state)
            })
        };
        let reference = || exchange(&mut peer.borrow_mut(), jobs::RECEIVE_BY_FUTEX, 40, pause, tell_by_futex);
        take_turns(number, ours, reference)
    });
    controlled(&rounds, "")
}

fn tell(state: &State) {
    state.insert(MESSAGE, now_ns()).expect("there is room");
}

fn tell_by_futex(board: &Board) {
    board.sent_ns.store(now_ns(), Ordering::Relaxed);
    board.futex.fetch_add(1, Ordering::Release);
    futex::wake(&board.futex);
}

/// Sends `count` messages, each `pause` after the last was received. Returns how long they took, in the median.
fn exchange(peer: &mut Peer, job: u32, count: u64, pause: Duration, send: impl Fn(&Board)) -> f64 {
    peer.during(job, count, |board| {
        for number in 0..count {
            // The receiver by futex says that it is ready by a number of its own.
            let ready = if number == 0 && job == jobs::RECEIVE_BY_FUTEX {
                u64::MAX
            } else {
                number
            };
            await_received(board, ready);
            stay_busy(pause);
            send(board);
        }
        await_received(board, count);
        let samples = board.samples.iter().take(count as usize);
        Spread::of(samples.map(|sample| sample.load(Ordering::Relaxed) as f64).collect()).median
    })
    .0
}

fn await_received(board: &Board, number: u64) {
    let start = Instant::now();
    while board.received.load(Ordering::Acquire) != number {
        std::hint::spin_loop();
        assert!(start.elapsed() < Duration::from_secs(10), "a message was lost");
    }
}

/// Two states, of which one is watched.
fn watched(bench: &Bench) -> Measured {
    let [watched, alone] = [(); 2].map(|()| {
        let subject = Subject::new(1000);
        for key in watched_keys() {
            subject.state.insert(key, 0).expect("there is room");
        }
        subject
    });
    let mut peer = Peer::spawn(bench.other_cpu(), &[watched.address()]);
    let before = peer.one_way_ns();
    peer.during(jobs::SLEEP, 0, |_| ());
    let wakes = || watched.state.stats().expect("the lock is free").namespaces[0].wakes;
    let wakes_before = wakes();
    let comparison = compare(
        bench.rounds(1000),
        |round| watched.insert(round),
        |round| alone.insert(round),
    );
    let note = format!(
        "{WATCHERS} asleep, {} wakes; one way {}",
        wakes() - wakes_before,
        Time(before)
    );
    Measured::from(comparison).with_note(note)
}
