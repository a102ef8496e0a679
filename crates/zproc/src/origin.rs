//! Where an error of one's own was made, for whoever reports it to another process.
//!
//! An error behind a `Box<dyn Error>` does not tell its type, and no error tells where it was made. In a child, which may
//! have to report it, the last errors that [`Error::other`](crate::Error::other) made are remembered, on whichever thread:
//! their address, type, place and backtrace. Elsewhere nothing is remembered, and it costs a look at a flag.
//!
//! An address may be used again, when the error there was handled and dropped. So what is made an [`Error`](crate::Error)
//! without being noted has its address forgotten, and what is asked about must be as large as what was noted. Errors without
//! a size have no memory of their own, and so all the same address: of those the last of a thread counts.
//!
//! `map_err(Error::other)` calls it from inside of the standard library, whose place says nothing. Then the place is that of
//! the first call in the backtrace that is the user's, which takes a while to find: so for the first few such errors only.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::VecDeque;
use std::error::Error as StdError;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use shm_state::PerProcess;

/// Whether errors are to be remembered: in children.
static WANTED: AtomicBool = AtomicBool::new(false);

/// So many are remembered.
const MOST: usize = 64;

/// What is known of an error.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) type_name: &'static str,
    pub(crate) location: Option<String>,
    pub(crate) backtrace: Option<String>,
}

/// An error in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    address: usize,
    size: usize,
    align: usize,
}

struct Kept {
    place: Place,
    thread: ThreadId,
    origin: Origin,
}

/// In a plain fork a new one: another thread may have had the lock.
static KEPT: PerProcess<Mutex<VecDeque<Kept>>> = PerProcess::new();

fn kept() -> Option<MutexGuard<'static, VecDeque<Kept>>> {
    let kept = KEPT.get().ok()?;
    Some(kept.lock().unwrap_or_else(PoisonError::into_inner))
}

fn place(error: &(dyn StdError + Send + Sync)) -> Place {
    Place {
        address: (&raw const *error).addr(),
        size: size_of_val(error),
        align: align_of_val(error),
    }
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
    let location = if is_of_standard_library(location.file()) {
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
    let (place, thread) = (place(error), std::thread::current().id());
    let Some(mut kept) = kept() else { return };
    remove(&mut kept, place, thread);
    if kept.len() == MOST {
        kept.pop_front();
    }
    kept.push_back(Kept { place, thread, origin });
}

/// Takes note that an error was made whose origin is not known.
pub(crate) fn forget(error: &(dyn StdError + Send + Sync)) {
    if WANTED.load(Ordering::Relaxed)
        && let Some(mut kept) = kept()
    {
        remove(&mut kept, place(error), std::thread::current().id());
    }
}

/// Nothing else can be at the address now, unless it has no size.
fn remove(kept: &mut VecDeque<Kept>, place: Place, thread: ThreadId) {
    kept.retain(|one| one.place.address != place.address || place.size == 0 && one.thread != thread);
}

/// Whether a file is one of the standard library, as the compiler tells; where its sources are installed, as with
/// rust-analyzer, it tells of those.
fn is_of_standard_library(file: &str) -> bool {
    file.starts_with("/rustc/") || file.contains("/lib/rustlib/src/rust/library/")
}

/// For so many errors of a process the place is looked for in a backtrace.
const MOST_SOUGHT: u32 = 32;
static SOUGHT: AtomicU32 = AtomicU32::new(0);

/// The place of the first call in a backtrace that is neither ours nor the standard library's.
///
/// Ours are told by the directory of their sources, which is that of the first place in this file. Their names do not tell:
/// of a function that was inlined the backtrace of an optimised program knows no crate.
fn place_in(backtrace: &str) -> Option<String> {
    let places = backtrace.lines().filter_map(|line| line.trim().strip_prefix("at "));
    let mut of_rust = places.filter(|place| place.contains(".rs:") && !is_of_standard_library(place));
    let (ours, _) = of_rust.next()?.split_once("origin.rs:")?;
    let place = of_rust.find(|place| !place.starts_with(ours))?;
    Some(place.trim_start_matches("./").to_owned())
}

/// What is known of an error.
pub(crate) fn of(error: &(dyn StdError + Send + Sync)) -> Option<Origin> {
    let (place, thread) = (place(error), std::thread::current().id());
    let kept = kept()?;
    let known = kept.iter().rev().filter(|one| one.place == place);
    // Own ones first: see the header of those without a size.
    let known = known.min_by_key(|one| one.thread != thread);
    known.map(|one| one.origin.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_that_of_the_first_call_of_the_users() {
        let calls = [
            "zproc::origin::keep\n at ./zproc/src/origin.rs:1:2",
            "core::ops::call\n at /rustc/5/ops.rs:1:2",
            "core::ops::call_once\n at /home/me/.rustup/toolchains/stable/lib/rustlib/src/rust/library/core/src/ops.rs:1:2",
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
