//! Ending waits for writer locks from outside.
//!
//! A wait for a lock sleeps in slices, which a signal handler on its thread ends too. Before each it asks whoever has
//! registered here, so that a program can have signals end it. Nobody is asked where the lock is free, or soon is.

use std::sync::OnceLock;

static BY: OnceLock<fn() -> bool> = OnceLock::new();

/// Has waits of this process for writer locks end, as if their time were over, when `by` returns true: it is asked on the
/// thread that waits, at least every 100 ms. The first registration counts.
///
/// ```
/// shm_state::interrupt_lock_waits(|| false); // never
/// ```
pub fn interrupt_lock_waits(by: fn() -> bool) {
    let _ = BY.set(by);
}

/// Whether a wait on this thread is to end.
pub(crate) fn is_asked_for() -> bool {
    BY.get().is_some_and(|by| by())
}
