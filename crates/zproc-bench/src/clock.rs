//! One clock for all processes.

use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

/// Nanoseconds of CLOCK_MONOTONIC, which all processes of a machine read alike.
#[inline]
pub fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("this clock is always there");
    Duration::from(time).as_nanos() as u64
}

/// Sleeps until an instant of that clock.
pub fn sleep_until(ns: u64) {
    let until = TimeSpec::from_duration(Duration::from_nanos(ns));
    while clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &until).is_err() {}
}

/// Stays busy for so long: the core neither sleeps nor slows down.
pub fn stay_busy(duration: Duration) {
    let start = Instant::now();
    while start.elapsed() < duration {
        std::hint::spin_loop();
    }
}

/// Nanoseconds that each of `count` operations took when `f` did them all.
#[inline]
pub fn ns_each(count: usize, f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_nanos() as f64 / count as f64
}
