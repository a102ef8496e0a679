//! What each strategy costs the one who waits, and the one who writes.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use zproc_bench::board::Board;
use zproc_bench::clock::{now_ns, stay_busy};
use zproc_bench::peer::Peer;
use zproc_bench::quantiles::Quantiles;

use crate::jobs::{self, MESSAGE, STRATEGIES, watched_state};
use crate::{Cpus, head, row};

/// Messages of each row.
const MESSAGES: u64 = 4000;

/// Prints the table.
pub fn print(cpus: Cpus) {
    head(&[
        "strategy",
        "the message comes after",
        "write → value in hand, p50",
        "p99",
        "processor time of the waiter",
        "`insert` that wakes it, p50",
    ]);
    for (number, (name, _)) in STRATEGIES.iter().enumerate() {
        for pause in [Duration::from_micros(10), Duration::from_millis(1)] {
            let (state, address) = watched_state();
            let mut peer = Peer::spawn(cpus.other, &[address]);
            let argument = jobs::receive_argument(number, MESSAGES);
            let ((latency, inserts), used) = peer.during(jobs::RECEIVE, argument, |board| {
                let mut inserts = Vec::new();
                for number in 0..MESSAGES {
                    await_received(board, number);
                    stay_busy(pause);
                    let start = Instant::now();
                    state.insert(MESSAGE, now_ns()).expect("there is room");
                    inserts.push(start.elapsed().as_nanos() as u64);
                }
                await_received(board, MESSAGES);
                let samples = board.samples.iter().take(MESSAGES as usize);
                let samples = samples.map(|sample| sample.load(Ordering::Relaxed)).collect();
                (Quantiles::of(samples), Quantiles::of(inserts))
            });
            row(&[
                (*name).into(),
                format!("{pause:?}"),
                latency.time(0.5),
                latency.time(0.99),
                format!("{:.0} %", used as f64 / 1e4),
                inserts.time(0.5),
            ]);
        }
    }
}

fn await_received(board: &Board, number: u64) {
    let start = Instant::now();
    while board.received.load(Ordering::Acquire) != number {
        std::hint::spin_loop();
        assert!(start.elapsed() < Duration::from_secs(10), "a message was lost");
    }
}
