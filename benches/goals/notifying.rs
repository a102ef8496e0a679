//! Telling others.

use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use zproc_bench::board::Board;
use zproc_bench::clock::{now_ns, stay_busy};
use zproc_bench::futex;
use zproc_bench::peer::{Controlled, Peer};
use zproc_bench::rounds::{Comparison, Spread, compare, take_turns};
use zproc_bench::table::{Goal, Limit, Measured, Time, Unit};

use crate::jobs::{self, MESSAGE, READY, WATCHERS, watched_keys};
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
        "half a round trip {median:.0} ns ({p10:.0}–{p90:.0}), {} rounds redone",
        rounds.redone
    );
    let note = if note.is_empty() {
        control
    } else {
        format!("{note}; {control}")
    };
    Measured::from(Comparison::of(&rounds.rounds)).with_note(note)
}

/// The reference is measured as ours is: the message is the time, and lies in a cache line. Half a round trip, which the
/// note says, is shorter by a look at the clock.
fn spinning(bench: &Bench) -> Measured {
    told(
        bench.rounds(50),
        bench,
        Duration::from_micros(3),
        1000,
        [jobs::RECEIVE_SPINNING, jobs::RECEIVE_BY_LINE],
        |board| {
            board.sent_ns.store(now_ns(), Ordering::Release);
        },
    )
}

fn asleep(bench: &Bench) -> Measured {
    told(
        bench.rounds(100),
        bench,
        Duration::from_millis(1),
        40,
        [jobs::RECEIVE_ASLEEP, jobs::RECEIVE_BY_FUTEX],
        |board| {
            board.sent_ns.store(now_ns(), Ordering::Relaxed);
            board.futex.fetch_add(1, Ordering::Release);
            futex::wake(&board.futex);
        },
    )
}

/// Compares how long messages take through a state, and how long by `send`, `pause` after the one before.
fn told(
    rounds: usize,
    bench: &Bench,
    pause: Duration,
    count: u64,
    [ours, reference]: [u32; 2],
    send: impl Fn(&Board),
) -> Measured {
    let subject = Subject::new(1000);
    let tell = || subject.state.insert(MESSAGE, now_ns()).expect("there is room");
    tell();
    let mut peer = Peer::spawn(bench.other_cpu(), &[subject.address()]);
    let rounds = peer.rounds(rounds, |peer, number| {
        let peer = RefCell::new(peer);
        let ours = || exchange(&mut peer.borrow_mut(), ours, count, pause, 0, |_| tell());
        let reference = || exchange(&mut peer.borrow_mut(), reference, count, pause, READY, &send);
        take_turns(number, ours, reference)
    });
    controlled(&rounds, "")
}

/// Sends `count` messages, each `pause` after the last was received, the first when the receiver has received `ready`.
/// Returns how long they took, in the median.
fn exchange(peer: &mut Peer, job: u32, count: u64, pause: Duration, ready: u64, send: impl Fn(&Board)) -> f64 {
    let exchange = peer.during(job, count, |board| {
        for number in 0..count {
            await_received(board, if number == 0 { ready } else { number });
            stay_busy(pause);
            send(board);
        }
        await_received(board, count);
        let samples = board.samples.iter().take(count as usize);
        Spread::of(samples.map(|sample| sample.load(Ordering::Relaxed) as f64).collect()).median
    });
    exchange.0
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
        "{WATCHERS} asleep, {} wakes; half a round trip {}",
        wakes() - wakes_before,
        Time(before)
    );
    Measured::from(comparison).with_note(note)
}
