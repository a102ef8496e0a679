//! The seam under every protocol word: atomics, fences, futex calls and kill points.
//!
//! The lock, the events, the pins and the publication of a commit are written against the trait [`Word`], not
//! against `std::sync::atomic`. Production code instantiates them with [`Word32`] and [`Word64`], which live in
//! the arena. Builds for the models (`models`) put words under them whose interleavings and weak orderings are searched.
//!
//! Every store to the arena goes through this module, so a test build (feature `kill-points`) can stop the
//! process before each one of them: see [`kill_point`].

#[cfg(all(loom, test))]
use crate::models::atomic::{self, AtomicU32, AtomicU64};
#[cfg(not(all(loom, test)))]
use std::sync::atomic::{self, AtomicU32, AtomicU64};

pub use std::sync::atomic::Ordering;

use crate::sys::futex;
use crate::sys::time::Deadline;

/// An atomic integer in shared memory on which threads of any process may also sleep.
pub trait Word {
    /// The integer that the word holds.
    type Int: Copy + Eq + std::fmt::Debug;

    /// Reads the word.
    fn load(&self, order: Ordering) -> Self::Int;
    /// Writes the word.
    fn store(&self, value: Self::Int, order: Ordering);
    /// Writes `new` if the word holds `current`; `Err` carries what it held instead.
    fn compare_exchange(
        &self,
        current: Self::Int,
        new: Self::Int,
        success: Ordering,
        failure: Ordering,
    ) -> Result<Self::Int, Self::Int>;
    /// Adds, wrapping, and returns the old value.
    fn fetch_add(&self, value: Self::Int, order: Ordering) -> Self::Int;
    /// Bitwise or; returns the old value.
    fn fetch_or(&self, value: Self::Int, order: Ordering) -> Self::Int;
    /// Bitwise and; returns the old value.
    fn fetch_and(&self, value: Self::Int, order: Ordering) -> Self::Int;
    /// A memory fence of the same memory model as the word.
    fn fence(order: Ordering);
    /// Orders the stores before an unlock before the loads after it, once the unlock, a read-modify-write, is done.
    fn fence_after_unlock();
    /// Sleeps while the low 32 bits of the word equal `expected`, until a wake-up that shares a bit with `bits`,
    /// or the deadline.
    fn wait(&self, expected: u32, bits: u32, deadline: Deadline) -> Wait;
    /// Wakes at most `count` sleepers whose bits share one with `bits`; returns how many.
    fn wake(&self, count: u32, bits: u32) -> u32;
}

/// Why a sleep on a [`Word`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Somebody woke us, or a signal arrived: look again.
    Woken,
    /// The word did not hold the expected value; we never slept.
    Changed,
    /// The deadline passed.
    TimedOut,
}

/// All bits: sleeps and wakes that do not select.
pub const ANY: u32 = u32::MAX;

/// A 32-bit protocol word in the arena.
#[repr(transparent)]
pub struct Word32(AtomicU32);

/// A 64-bit protocol word in the arena. Sleeping on it means sleeping on its low half.
#[repr(transparent)]
pub struct Word64(AtomicU64);

macro_rules! word {
    ($word:ident, $atomic:ident, $int:ty) => {
        impl $word {
            /// A word outside of any arena.
            #[allow(dead_code, reason = "there are such words of 32 bits; of 64 only in tests")]
            pub const fn new(value: $int) -> Self {
                Self($atomic::new(value))
            }

            /// The address that the kernel sleeps on: the low 32 bits of the word on a little-endian machine.
            pub fn futex(&self) -> *const std::sync::atomic::AtomicU32 {
                std::ptr::from_ref(&self.0).cast()
            }
        }

        impl Word for $word {
            type Int = $int;

            #[inline(always)]
            fn load(&self, order: Ordering) -> $int {
                self.0.load(order)
            }
            #[inline(always)]
            fn store(&self, value: $int, order: Ordering) {
                kill_point();
                self.0.store(value, order);
            }
            #[inline(always)]
            fn compare_exchange(
                &self,
                current: $int,
                new: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                kill_point();
                self.0.compare_exchange(current, new, success, failure)
            }
            #[inline(always)]
            fn fetch_add(&self, value: $int, order: Ordering) -> $int {
                kill_point();
                self.0.fetch_add(value, order)
            }
            #[inline(always)]
            fn fetch_or(&self, value: $int, order: Ordering) -> $int {
                kill_point();
                self.0.fetch_or(value, order)
            }
            #[inline(always)]
            fn fetch_and(&self, value: $int, order: Ordering) -> $int {
                kill_point();
                self.0.fetch_and(value, order)
            }
            #[inline(always)]
            fn fence(order: Ordering) {
                atomic::fence(order);
            }
            #[inline(always)]
            fn fence_after_unlock() {
                // On x86-64 every locked instruction is a full barrier already, so only the compiler is to be held.
                // (Intel SDM vol. 3A, 10.2.3.9: "Loads and stores are not reordered with locked instructions".)
                // Models look at the portable way.
                if cfg!(all(target_arch = "x86_64", not(all(loom, test)))) {
                    atomic::compiler_fence(Ordering::SeqCst);
                } else {
                    atomic::fence(Ordering::SeqCst);
                }
            }
            fn wait(&self, expected: u32, bits: u32, deadline: Deadline) -> Wait {
                futex::wait(self.futex(), expected, bits, deadline)
            }
            fn wake(&self, count: u32, bits: u32) -> u32 {
                futex::wake(self.futex(), count, bits)
            }
        }
    };
}

word!(Word32, AtomicU32, u32);
word!(Word64, AtomicU64, u64);

/// Called before each store to the arena. Does nothing unless the crate is built with `kill-points`.
#[cfg(not(any(feature = "kill-points", all(loom, test))))]
#[inline(always)]
pub fn kill_point() {}

#[cfg(all(loom, test))]
pub use crate::models::kill_point;

/// Whether a test wants the backstops out of the way: see `without_backstops`.
#[cfg(not(feature = "kill-points"))]
pub const fn has_backstops() -> bool {
    true
}

#[cfg(all(feature = "kill-points", not(all(loom, test))))]
pub use counting::kill_point;
#[cfg(feature = "kill-points")]
pub use counting::{has_backstops, kill_at, kill_points_passed, stop_at, without_backstops};

#[cfg(feature = "kill-points")]
mod counting {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    static PATIENT: AtomicBool = AtomicBool::new(false);
    static PASSED: AtomicU64 = AtomicU64::new(0);
    static DEADLY: AtomicU64 = AtomicU64::new(u64::MAX);
    static ONLY_STOPS: AtomicBool = AtomicBool::new(false);

    /// Counts a store to the arena; ends the process by SIGKILL when its number is the one set by [`kill_at`], or stops
    /// it if it was set by [`stop_at`].
    pub fn kill_point() {
        if PASSED.fetch_add(1, Ordering::Relaxed) != DEADLY.load(Ordering::Relaxed) {
            return;
        }
        if ONLY_STOPS.load(Ordering::Relaxed) {
            crate::sys::process::stop_self();
        } else {
            crate::sys::process::kill_self();
        }
    }

    /// As [`kill_at`], but the process is stopped there, and goes on after a SIGCONT.
    pub fn stop_at(n: u64) {
        ONLY_STOPS.store(true, Ordering::Relaxed);
        kill_at(n);
    }

    /// Starts counting at 0 and ends the process before the store number `n` (counted from 0).
    pub fn kill_at(n: u64) {
        DEADLY.store(n, Ordering::Relaxed);
        PASSED.store(0, Ordering::Relaxed);
    }

    /// From here on, who waits for a lock sleeps for minutes if nobody wakes it, and a watcher three times as long. So a test
    /// sees that a wake-up was lost, which a slice of a few milliseconds, or of a second, would make up for.
    pub fn without_backstops() {
        PATIENT.store(true, Ordering::Relaxed);
    }

    pub fn has_backstops() -> bool {
        !PATIENT.load(Ordering::Relaxed)
    }

    /// How many stores have been counted since [`kill_at`], or since the start.
    pub fn kill_points_passed() -> u64 {
        PASSED.load(Ordering::Relaxed)
    }
}
