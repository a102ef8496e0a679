//! Where an error of one's own was made, for whoever reports it to another process.
//!
//! An error behind a `Box<dyn Error>` does not tell its type, and no error tells where it was made. In a child, which may
//! have to report it, each thread remembers of the last errors that [`Error::other`](crate::Error::other) made: their
//! address, type, place and backtrace. Elsewhere nothing is remembered, and it costs a look at a flag.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::error::Error as StdError;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether errors are to be remembered: in children.
static WANTED: AtomicBool = AtomicBool::new(false);

/// So many are remembered.
const MOST: usize = 8;

/// What is known of an error.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) type_name: &'static str,
    pub(crate) location: String,
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
    let origin = Origin {
        type_name: std::any::type_name::<E>(),
        location: location.to_string(),
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
