//! Where an error of one's own was made, for whoever reports it to another process.
//!
//! An error behind a `Box<dyn Error>` does not tell its type, and no error tells where it was made. In a child, which may
//! have to report it, each thread remembers of the last errors that [`Error::other`](crate::Error::other) made: their
//! address, type, place and backtrace. Elsewhere nothing is remembered, and it costs a look at a flag.
//!
//! `map_err(Error::other)` calls it from inside of the standard library, whose place says nothing. Then the place is that of
//! the first call in the backtrace that is the user's, which takes a while to find: so for the first few such errors only.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::error::Error as StdError;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Whether errors are to be remembered: in children.
static WANTED: AtomicBool = AtomicBool::new(false);

/// So many are remembered.
const MOST: usize = 8;

/// What is known of an error.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) type_name: &'static str,
    pub(crate) location: Option<String>,
    pub(crate) backtrace: Option<String>,
}

thread_local! {
    static LAST: RefCell<VecDeque<(usize, Origin)>> = const { RefCell::new(VecDeque::new()) };
}

/// Has errors remembered from now on.
pub(crate) fn remember() {
    WANTED.store(true, Ordering::Relaxed);
}

/// Takes note of an error that was made of an `E`.
#[track_caller]
pub(crate) fn note<E>(error: &(dyn StdError + Send + Sync)) {
    if WANTED.load(Ordering::Relaxed) {
        keep::<E>(error, Location::caller());
    }
}

#[cold]
fn keep<E>(error: &(dyn StdError + Send + Sync), location: &Location<'_>) {
    let backtrace = Backtrace::capture(); // if RUST_BACKTRACE asks for it
    let location = if location.file().starts_with(STANDARD_LIBRARY) {
        (SOUGHT.fetch_add(1, Ordering::Relaxed) < MOST_SOUGHT)
            .then(|| place_in(&Backtrace::force_capture().to_string()))
            .flatten()
    } else {
        Some(location.to_string())
    };
    let origin = Origin {
        type_name: std::any::type_name::<E>(),
        location,
        backtrace: (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string()),
    };
    LAST.with_borrow_mut(|last| {
        last.retain(|(at, _)| *at != address(error));
        if last.len() == MOST {
            last.pop_front();
        }
        last.push_back((address(error), origin));
    });
}

/// Where the sources of the standard library are, as the compiler tells.
const STANDARD_LIBRARY: &str = "/rustc/";
/// For so many errors of a process the place is looked for in a backtrace.
const MOST_SOUGHT: u32 = 32;
static SOUGHT: AtomicU32 = AtomicU32::new(0);

/// The place of the first call in a backtrace that is neither ours nor the standard library's.
///
/// Ours are told by the directory of their sources, which is that of the first place in this file. Their names do not tell:
/// of a function that was inlined the backtrace of an optimised program knows no crate.
fn place_in(backtrace: &str) -> Option<String> {
    let places = backtrace.lines().filter_map(|line| line.trim().strip_prefix("at "));
    let mut of_rust = places.filter(|place| place.contains(".rs:") && !place.starts_with(STANDARD_LIBRARY));
    let (ours, _) = of_rust.next()?.split_once("origin.rs:")?;
    let place = of_rust.find(|place| !place.starts_with(ours))?;
    Some(place.trim_start_matches("./").to_owned())
}

/// What is known of an error that this thread made.
pub(crate) fn of(error: &(dyn StdError + Send + Sync)) -> Option<Origin> {
    LAST.with_borrow(|last| {
        let known = last.iter().rev().find(|(at, _)| *at == address(error));
        known.map(|(_, origin)| origin.clone())
    })
}

fn address(error: &(dyn StdError + Send + Sync)) -> usize {
    (&raw const *error).addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_that_of_the_first_call_of_the_users() {
        let calls = [
            "zproc::origin::keep\n at ./zproc/src/origin.rs:1:2",
            "core::ops::call\n at /rustc/5/ops.rs:1:2",
            "{impl#2}::other<E>\n at ./zproc/src/error.rs:3:4", // inlined
            "program::eat\n at ./src/main.rs:5:6",
            "zproc::process::child::run\n at ./zproc/src/process/child.rs:7:8",
        ];
        assert_eq!(place_in(&calls.join("\n")), Some("src/main.rs:5:6".to_owned()));
        assert_eq!(place_in("   0: program::eat\n   1: main\n"), None);
        // A stripped program, in a C library that is not.
        assert_eq!(
            place_in("   0: <unknown>\n   1: main\n             at csu/libc-start.c:1:2\n"),
            None
        );
        // A library without line numbers, in a program that has them.
        assert_eq!(
            place_in("   0: zproc::origin::keep\n   1: program::eat\n at ./src/main.rs:5:6\n"),
            None
        );
    }
}
