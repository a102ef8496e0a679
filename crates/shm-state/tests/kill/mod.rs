//! The parts of the sweep.

pub mod act;
pub mod aftermath;
pub mod contended;
pub mod lost_word;
pub mod operations;
#[cfg(feature = "planted-faults")]
pub mod planted;
pub mod point;
pub mod random;
pub mod scenario;
pub mod sleeper;
pub mod stopped;
pub mod stranger;
pub mod sweep;

/// Ends this process if it is still at it after so many seconds: by a signal that nobody handles.
pub fn end_within(seconds: u32) {
    // SAFETY: a plain request to the kernel.
    unsafe { libc::alarm(seconds) };
}
