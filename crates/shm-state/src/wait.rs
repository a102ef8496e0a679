//! Waiting for commits.
//!
//! [`wait`] calls `check` with the newest commit whenever there may be something new, until it finds what it looks
//! for. First it spins, as the [`Strategy`] says; then it sleeps:
//!
//! 1. arm the events of the keys in question (`event`),
//! 2. read `seq` and let `check` look at everything up to it,
//! 3. sleep until one of the events moves.
//!
//! `seq` may move between 2 and 3: a commit to one of the keys finds the armed event, other commits do not matter.
//! So a watcher of one key sleeps through commits to others.
//!
//! A sleep lasts at most one slice. At its end the sleeper looks for itself, and if a dead writer left a decided
//! commit unpublished, takes the lock and publishes it.

use std::sync::atomic::{AtomicBool, Ordering as Local};
use std::time::Duration;

use crate::commit::event_of;
use crate::error::Result;
use crate::event::{self, SLICE};
use crate::layout::EventWord;
use crate::record;
use crate::signature::Signature;
use crate::space::Space;
use crate::sync::{ANY, Ordering, Wait, Word};
use crate::sys::futex;
use crate::sys::time::Deadline;
use crate::write::Transaction;

/// How a wait passes its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Never sleep: lowest latency, one core gone while waiting.
    Spin,
    /// Spin this long, then sleep.
    Adaptive(Duration),
    /// Sleep at once.
    Block,
}

impl Default for Strategy {
    /// Spins for 20 µs, about as long as it takes to wake a sleeper.
    fn default() -> Self {
        Self::Adaptive(Duration::from_micros(20))
    }
}

/// What a wait is for.
#[derive(Clone, Copy, Debug)]
pub enum On<'a> {
    /// Any commit.
    Any,
    /// Commits to keys with these hashes.
    Keys(&'a [u64]),
}

/// How a wait ended without success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The deadline passed.
    TimedOut,
    /// Somebody closed what was waited on.
    Cancelled,
}

/// More keys than this are watched through the word for any change.
const MAX_KEYS: usize = 64;

/// Iterations between two looks at the clock while spinning.
const SPINS: u32 = 64;

/// Looks, a few microseconds each, after which a decided commit that is not published seems to be a dead writer's.
const UNFINISHED_ROUNDS: u32 = 1000;

/// Waits until `check`, called with the newest commit, returns something.
pub fn wait<T>(
    space: &Space,
    on: On<'_>,
    strategy: Strategy,
    deadline: Deadline,
    cancel: &AtomicBool,
    mut check: impl FnMut(u64) -> Result<Option<T>>,
) -> Result<Result<T, Ended>> {
    let mut seen = space.seq();
    if let Some(found) = check(seen)? {
        return Ok(Ok(found));
    }
    let spin_until = match strategy {
        Strategy::Spin => deadline,
        Strategy::Adaptive(time) => deadline.sooner_of(time),
        Strategy::Block => Deadline::after(Duration::ZERO),
    };
    let mut spin = strategy != Strategy::Block;
    let mut unfinished = 0;
    let mut look_for_dead = Deadline::after(SLICE);
    loop {
        while spin {
            for _ in 0..SPINS {
                let now = space.seq();
                if now != seen {
                    seen = now;
                    space.fetch_ahead(seen);
                    if let Some(found) = check(seen)? {
                        return Ok(Ok(found));
                    }
                }
                std::hint::spin_loop();
            }
            if cancel.load(Local::Relaxed) {
                return Ok(Err(Ended::Cancelled));
            }
            // A living writer is done in no time; if it takes this long, it may be dead.
            unfinished = if record::is_unfinished(space) {
                unfinished + 1
            } else {
                0
            };
            if unfinished == UNFINISHED_ROUNDS {
                unfinished = 0;
                finish_for_the_dead(space, Duration::from_millis(1));
            }
            if spin_until.passed() {
                if deadline.passed() {
                    return last_look(space, &mut check);
                }
                spin = strategy == Strategy::Spin;
            }
        }
        match sleep(space, on, deadline, cancel, &mut check)? {
            Slept::Found(found) => return Ok(Ok(found)),
            Slept::Cancelled => return Ok(Err(Ended::Cancelled)),
            Slept::Slice | Slept::Woken if deadline.passed() => return last_look(space, &mut check),
            Slept::Slice | Slept::Woken => {}
        }
        // By the clock and not by the end of a sleep: signals may end every sleep early.
        if look_for_dead.passed() {
            finish_for_the_dead(space, Duration::from_millis(100));
            look_for_dead = Deadline::after(SLICE);
        }
        seen = space.seq();
        if let Some(found) = check(seen)? {
            return Ok(Ok(found));
        }
    }
}

/// After the deadline: what a dead writer decided counts as having happened before.
fn last_look<T>(space: &Space, check: &mut impl FnMut(u64) -> Result<Option<T>>) -> Result<Result<T, Ended>> {
    finish_for_the_dead(space, Duration::from_millis(1));
    Ok(check(space.seq())?.ok_or(Ended::TimedOut))
}

enum Slept<T> {
    Found(T),
    Woken,
    Slice,
    Cancelled,
}

fn sleep<T>(
    space: &Space,
    on: On<'_>,
    deadline: Deadline,
    cancel: &AtomicBool,
    check: &mut impl FnMut(u64) -> Result<Option<T>>,
) -> Result<Slept<T>> {
    let any = &space.control().any;
    let events: Vec<(&EventWord, u32)>;
    let mut one = [(any, ANY)];
    let list: &[(&EventWord, u32)] = match on {
        On::Keys([hash]) => {
            one = [event_of(space, *hash)];
            &one
        }
        On::Keys(hashes) if !hashes.is_empty() && hashes.len() <= MAX_KEYS => {
            events = hashes.iter().map(|hash| event_of(space, *hash)).collect();
            &events
        }
        _ => &one,
    };
    let mut armed = [(std::ptr::null(), 0); MAX_KEYS];
    for ((event, bits), slot) in list.iter().zip(&mut armed) {
        *slot = (event.futex.futex(), event::arm(&event.futex, &event.sleepers, *bits));
    }
    // SeqCst: after the bits were set, see `event`.
    let seq = space.control().reader.seq.load(Ordering::SeqCst);
    if let Some(found) = check(seq)? {
        return Ok(Slept::Found(found));
    }
    // SeqCst, for the same reason: who cancels sets the flag and then wakes.
    if cancel.load(Local::SeqCst) {
        return Ok(Slept::Cancelled);
    }
    let slice = deadline.sooner_of(SLICE);
    let woken = match list {
        [(event, bits)] => event.futex.wait(armed[0].1, *bits, slice),
        _ => futex::wait_any(&armed[..list.len()], slice),
    };
    match woken {
        Wait::TimedOut => Ok(Slept::Slice),
        Wait::Woken => {
            space.control().writer.wakeups.fetch_add(1, Ordering::Relaxed);
            Ok(Slept::Woken)
        }
        Wait::Changed => Ok(Slept::Woken),
    }
}

/// Publishes what a dead writer decided, unless a living one is at it.
fn finish_for_the_dead(space: &Space, patience: Duration) {
    if record::is_unfinished(space) {
        // Taking the lock finishes it. If that fails, the next look tries again.
        let _ = Transaction::begin(space, Signature::NOBODY, Deadline::after(patience));
    }
}
