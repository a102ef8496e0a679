//! The control of all figures between processes: how long a cache line takes from one core to the other.
//!
//! The host of a virtual machine moves its cores about, which changes this by factors. Figures are only compared within
//! one mode of it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use crate::board::Board;

/// Round trips of one measurement.
pub const ROUND_TRIPS: u32 = 2000;

/// Nanoseconds of one way, while the peer runs [`answer`].
pub fn one_way_ns(board: &Board) -> f64 {
    let start = Instant::now();
    for number in 1..=ROUND_TRIPS {
        board.ping.store(number, Ordering::Release);
        wait_for(&board.pong, number);
    }
    start.elapsed().as_nanos() as f64 / f64::from(ROUND_TRIPS) / 2.0
}

/// The other side of [`one_way_ns`].
pub fn answer(board: &Board) {
    for number in 1..=ROUND_TRIPS {
        wait_for(&board.ping, number);
        board.pong.store(number, Ordering::Release);
    }
}

#[inline]
fn wait_for(word: &AtomicU32, value: u32) {
    while word.load(Ordering::Acquire) != value {
        std::hint::spin_loop();
    }
}
