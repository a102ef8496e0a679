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
//! A wait with cancellers (`cancel`) sleeps on their words too.
//!
//! A sleep lasts at most one slice. At its end the sleeper looks for itself, and if a dead writer left a decided
//! commit unpublished, takes the lock and publishes it.

use std::sync::atomic::Ordering as Local;
use std::time::Duration;

use smallvec::SmallVec;

use crate::cancel::{Cancel, Watched};
use crate::error::Result;
use crate::event::{SLICE, SleeperBits};
use crate::record;
use crate::signature::Signature;
use crate::space::Space;
use crate::sync::{Ordering, Wait, Word, has_backstops};
use crate::sys::futex::{self, Waiter};
use crate::sys::time::Deadline;
use crate::write::Transaction;

/// How a wait passes its time until something happens.
///
/// | | from the write to the watcher | costs |
/// |---|---|---|
/// | [`Strategy::Spin`] | some trips of a cache line between cores: below 1 µs | one core while it waits |
/// | [`Strategy::Adaptive`] | the same while it spins, then as `Block` | one core while it spins, at each wait |
/// | [`Strategy::Block`] | a `FUTEX_WAKE` and the scheduler: 10 to 50 µs | the writer a system call, about 1 µs |
///
/// A spinning watcher costs writers no system call, but a trip of each cache line that it looks at. Where there are more
/// watchers than cores, spinning takes time from whoever is waited for: then block.
///
/// ```
/// use std::time::Duration;
/// use shm_state::Strategy;
///
/// assert_eq!(Strategy::default(), Strategy::Adaptive(Duration::from_micros(20)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Never sleep: lowest latency, one core gone while waiting.
    Spin,
    /// Spin this long, then sleep. Good where answers usually come soon: longer than it takes to wake a sleeper,
    /// spinning gains nothing.
    Adaptive(Duration),
    /// Sleep at once: for long waits, for many watchers, and where power counts.
    Block,
}

impl Default for Strategy {
    /// Spins for 20 µs, about as long as it takes to wake a sleeper.
    fn default() -> Self {
        Self::Adaptive(Duration::from_micros(20))
    }
}

/// What a wait is for.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, KeyRef, On, Strategy};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// use std::sync::atomic::AtomicBool;
///
/// let door = KeyRef::new(1, b"door");
/// namespace.put(&door, None, 1, b"open", Deadline::never())?;
/// let changed = |seq| Ok((seq > 0).then_some(seq));
/// let cancel = AtomicBool::new(false);
/// let seq = namespace.wait(On::Keys(&[door.hash()]), Strategy::Block, Deadline::never(), &cancel, changed)?;
/// assert_eq!(seq, Ok(1));
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub enum On<'a> {
    /// Any commit.
    Any,
    /// Commits to keys with these hashes.
    Keys(&'a [u64]),
}

/// How a wait ended without success.
///
/// ```
/// # use shm_state::{Arena, ArenaOptions, Deadline, Ended, On, Strategy};
/// # let arena = Arena::anonymous(&ArenaOptions::default())?;
/// # let namespace = arena.namespace("default")?;
/// use std::sync::atomic::AtomicBool;
///
/// let never = |_| Ok(None::<()>);
/// let cancel = AtomicBool::new(true);
/// let ended = namespace.wait(On::Any, Strategy::Block, Deadline::never(), &cancel, never)?;
/// assert_eq!(ended, Err(Ended::Closed));
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The deadline passed.
    TimedOut,
    /// Somebody closed what was waited on.
    Closed,
    /// The word of this number among those of [`Cancel::words`] was cancelled.
    Cancelled(usize),
}

/// More keys than this are watched through the word for any change.
const MAX_KEYS: usize = 64;

/// Where a test wants the backstops out of the way: so long that a sleeper which looks for itself cannot be taken for one
/// that was woken, however slow the machine.
const SLICE_OF_TESTS: Duration = Duration::from_secs(3);

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
    cancel: Cancel<'_>,
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
    let mut choice = 0;
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
            if let Some(ended) = cancel.ended(Local::Relaxed) {
                return Ok(Err(ended));
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
        match sleep(space, on, choice, deadline, cancel, &mut check)? {
            Slept::Found(found) => return Ok(Ok(found)),
            Slept::Ended(ended) => return Ok(Err(ended)),
            Slept::Slice | Slept::Woken if deadline.passed() => return last_look(space, &mut check),
            Slept::Slice => {}
            // For nothing, if it sleeps again: then at another place.
            Slept::Woken => choice += 1,
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
    Ended(Ended),
}

fn sleep<T>(
    space: &Space,
    on: On<'_>,
    choice: usize,
    deadline: Deadline,
    cancel: Cancel<'_>,
    check: &mut impl FnMut(u64) -> Result<Option<T>>,
) -> Result<Slept<T>> {
    let control = space.control();
    let mut one = [SleeperBits::OF_ANY];
    let many: SmallVec<[SleeperBits; 8]>;
    let places: &[SleeperBits] = match on {
        On::Keys([hash]) => {
            one = [SleeperBits::of(*hash, choice)];
            &one
        }
        On::Keys(hashes) if !hashes.is_empty() && hashes.len() <= MAX_KEYS => {
            many = hashes.iter().map(|hash| SleeperBits::of(*hash, choice)).collect();
            &many
        }
        _ => &one,
    };
    let mut seen = [0; MAX_KEYS];
    for (place, seen) in places.iter().zip(&mut seen) {
        *seen = place.arm(control);
    }
    // SeqCst: after the bits were set, see `event`.
    let seq = control.reader.seq.load(Ordering::SeqCst);
    if let Some(found) = check(seq)? {
        return Ok(Slept::Found(found));
    }
    // SeqCst, for the same reason: who closes sets the flag and then wakes.
    if let Some(ended) = cancel.ended(Local::SeqCst) {
        return Ok(Slept::Ended(ended));
    }
    let slice = deadline.sooner_of(if has_backstops() { SLICE } else { SLICE_OF_TESTS });
    let woken = match places {
        // Alone, it is woken by the bits of its group only.
        [place] if cancel.words.is_empty() => place.words(control).0.wait(seen[0], place.bits, slice),
        _ => {
            let events = places.iter().zip(seen);
            let events = events.map(|(place, seen)| Waiter::new(place.words(control).0.futex(), seen));
            let waiters: Vec<Waiter> = events.chain(cancel.words.iter().map(Watched::waiter)).collect();
            futex::wait_any(&waiters, slice)
        }
    };
    match woken {
        Wait::TimedOut => Ok(Slept::Slice),
        Wait::Woken => {
            control.writer.wakeups.fetch_add(1, Ordering::Relaxed);
            Ok(Slept::Woken)
        }
        Wait::Changed => Ok(Slept::Woken),
    }
}

/// Publishes what a dead writer decided, unless a living one is at it.
pub fn finish_for_the_dead(space: &Space, patience: Duration) {
    if record::is_unfinished(space) {
        // Taking the lock finishes it. If that fails, the next look tries again.
        let _ = Transaction::begin(space, Signature::NOBODY, Deadline::after(patience));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::Instant;

    use super::*;
    use crate::layout::PLACES;
    use crate::{Arena, ArenaOptions, KeyRef, Namespace};

    fn places(key: &[u8]) -> [SleeperBits; PLACES] {
        std::array::from_fn(|choice| SleeperBits::of(KeyRef::new(1, key).hash(), choice))
    }

    fn is_armed(namespace: &Namespace, place: SleeperBits) -> bool {
        let (_, sleepers) = place.words(namespace.space().control());
        sleepers.load(Ordering::Relaxed) & place.bits != 0
    }

    /// With a thousand watchers, one commit in ten once had to wake somebody for nothing, again and again: some watched
    /// key always shares a place with one that is written.
    #[test]
    fn a_sleeper_moves_away_from_a_place_where_it_is_woken_for_nothing() {
        let arena = Arena::anonymous(&ArenaOptions::default()).unwrap();
        let namespace = arena.namespace("default").unwrap();
        let watched = b"watched";
        let [first, second, third] = places(watched);
        let noisy = (0u64..)
            .map(u64::to_le_bytes)
            .find(|key| {
                places(key).contains(&first) && ![second, third].iter().any(|place| places(key).contains(place))
            })
            .unwrap();
        let write = |key: &[u8]| {
            namespace
                .put(&KeyRef::new(1, key), None, 1, b"", Deadline::never())
                .unwrap()
        };
        let wakes = || namespace.space().control().writer.wakes.load(Ordering::Relaxed);
        let sleeper = namespace.fork().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let hashes = [KeyRef::new(1, watched).hash()];
                let cancel = AtomicBool::new(false);
                let key = KeyRef::new(1, watched);
                let check = |_| Ok(sleeper.get(&key)?.map(drop));
                let found = sleeper.wait(On::Keys(&hashes), Strategy::Block, Deadline::never(), &cancel, check);
                assert_eq!(found.unwrap(), Ok(()));
            });
            let start = Instant::now();
            while !is_armed(&namespace, second) || is_armed(&namespace, first) {
                write(&noisy);
                std::thread::sleep(Duration::from_millis(1));
                assert!(start.elapsed() < Duration::from_secs(60), "the sleeper did not move");
            }
            let before = wakes();
            for _ in 0..100 {
                write(&noisy);
                std::thread::sleep(Duration::from_micros(100));
            }
            assert_eq!(wakes() - before, 0);
            write(watched);
        });
    }
}
