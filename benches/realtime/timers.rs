//! How late a timer is, and a woken process.

use std::sync::atomic::Ordering;
use std::time::Duration;

use zproc_bench::clock::{now_ns, sleep_until};
use zproc_bench::cpu::{self, Scheduling};
use zproc_bench::quantiles::Quantiles;

use crate::{Cpus, head, row};

const TICKS: u64 = 5000;
const PERIOD_NS: u64 = 1_000_000;

/// Prints the table.
pub fn print(_: Cpus) {
    head(&[
        "a timer that is due each millisecond",
        "p50 late",
        "p99",
        "p99.9",
        "max",
    ]);
    let show = |name: &str, late: &Quantiles| {
        let cells = [0.5, 0.99, 0.999, 1.0].map(|share| late.time(share));
        row(&[&[name.to_owned()], &cells[..]].concat());
    };
    show("ordinary, timer slack of 50 µs", &late(sleep_until));
    nix::sys::prctl::set_timerslack(1).expect("a thread may ask for that");
    show("ordinary, timer slack of 1 ns", &late(sleep_until));
    match cpu::schedule(Scheduling::Fifo) {
        Ok(()) => {
            show("`SCHED_FIFO`", &late(sleep_until));
            show("`SCHED_FIFO`, awake 100 µs before and spinning", &late(spin_until));
            cpu::schedule(Scheduling::Other).expect("it was so before");
        }
        Err(error) => println!("| `SCHED_FIFO`: {error} | | | | |"),
    }
    nix::sys::prctl::set_timerslack(50_000).expect("a thread may ask for that");
}

fn late(wait_until: fn(u64)) -> Quantiles {
    let mut times = Vec::with_capacity(TICKS as usize);
    let mut due_ns = now_ns() + 10 * PERIOD_NS;
    for _ in 0..TICKS {
        wait_until(due_ns);
        times.push(now_ns() - due_ns);
        due_ns += PERIOD_NS;
    }
    Quantiles::of(times)
}

fn spin_until(ns: u64) {
    sleep_until(ns - Duration::from_micros(100).as_nanos() as u64);
    std::sync::atomic::fence(Ordering::SeqCst);
    while now_ns() < ns {
        std::hint::spin_loop();
    }
}
