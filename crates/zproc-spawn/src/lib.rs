//! The system's part of `zproc`'s processes, behind safe functions. It knows nothing of states or results.
//!
//! A process is started by executing the running program once more ([`spawn`]), never by a bare fork, which would leave it
//! the locks of threads that it does not have. What it is to run is told by a place in the build that both have
//! ([`entry`], [`Place`]). The lives of parent and child are tied together by the kernel ([`spawn`], [`tie`]).
//!
//! | module | subject |
//! |---|---|
//! | `image` | places in the loaded images, and which build that is |
//! | [`entry`] | targets that are found by their place |
//! | [`spawn`] | clone and execute; the thread that does it |
//! | [`tie`] | a child ends when its parent does |
//! | [`exit`] | how a process ended |
//! | [`signal`] | signals as events |
//! | [`shared`] | words and bytes that a parent shares with its children, and sleeping on a word |
//! | [`start`] | the first instants of a child |
//!
//! It is a part of `zproc`, which re-exports what programs need of it.

pub mod entry;
pub mod exit;
mod image;
pub mod shared;
pub mod signal;
pub mod spawn;
pub mod start;
pub mod tie;

pub use image::Place;

use std::io;

/// Turns a libc return value into a result: −1 becomes the error of `errno`.
fn check<T: PartialEq + From<i8>>(value: T) -> io::Result<T> {
    if value == T::from(-1) {
        Err(io::Error::last_os_error())
    } else {
        Ok(value)
    }
}
