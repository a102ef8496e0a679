//! The control of all figures between processes: how long a cache line takes from one core to the other.
//!
//! The host of a virtual machine moves its cores about, which changes this by factors. Figures are only compared within
//! one mode of it.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::board::Board;
use crate::clock::ns_each;
use crate::rounds::Spread;

/// Round trips that are timed together.
const BATCH: u32 = 100;
/// Round trips of one measurement.
const ROUND_TRIPS: u32 = 20 * BATCH;

/// Nanoseconds of one way, while the peer runs [`answer`]: the median of short batches, few of which a scheduler
/// interrupts.
pub fn one_way_ns(board: &Board) -> f64 {
    let batches = (1..=ROUND_TRIPS).step_by(BATCH as usize).map(|first| {
        ns_each(2 * BATCH as usize, || {
            for number in first..first + BATCH {
                board.ping.store(number, Ordering::Release);
                wait_for(&board.pong, number);
            }
        })
    });
    Spread::of(batches.collect()).median
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
