//! Sleeping until somebody commits, without a lost wake-up and without a system call when nobody sleeps.
//!
//! **Words.** An event is a futex and a set of sleeper bits, in one cache line. Keys are spread over many events and the
//! bits of each, so a commit wakes only sleepers on keys of its own groups. `seq` is the truth; an event is a hint to look
//! at it.
//!
//! **Places.** A system call for a sleeper that waits for something else costs the writer a hundred commits, and a key that
//! is written all the time would cause one again and again. So each key has [`PLACES`] bits in its event. A commit looks at
//! all of them, and a sleeper, who sets one, takes another each time it was woken for nothing. (Those who sleep by hand,
//! see `sleep`, stay with the first.)
//!
//! **Sleeper** ([`arm`], then its own check of `seq`, then `Word::wait`): read the futex, set the bit, look at `seq`,
//! sleep if it has not moved. **Writer** ([`signal`]), after it stored `seq`: if the bit is set, clear it, bump the
//! futex, wake.
//!
//! **Ordering.** It is Dekker's handshake: the writer stores `seq` and then reads the bits, the sleeper sets a bit
//! and then reads `seq`, each with a full fence in between. (The writer's fence is its unlock where that is one.) If
//! the writer's fence comes first, the sleeper's read of `seq` sees the commit and it does not sleep. If the sleeper's
//! comes first, the writer sees the bit and bumps the futex, whose old value the sleeper read *before* it set the bit:
//! it is woken, or does not fall asleep.
//!
//! **Death.** A killed sleeper leaves a bit, which the next commit to that group clears with one useless wake-up. A
//! writer killed between `seq` and the wake-up leaves sleepers that nobody calls; they sleep in slices of at most
//! [`SLICE`] and look at `seq` themselves.

use std::time::Duration;

use crate::layout::{Control, EVENTS, Event, PLACES, SLEEPER_WORDS};
use crate::sync::{ANY, Ordering, Word, Word32};

/// The longest uninterrupted sleep: after it one has to look for what dead writers left.
///
/// ```
/// use shm_state::{Deadline, SLICE};
///
/// let slice = Deadline::never().sooner_of(SLICE);
/// assert!(slice.remaining().is_some_and(|left| left <= SLICE));
/// ```
pub const SLICE: Duration = Duration::from_secs(1);

/// A place where sleepers announce themselves: some bits of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SleeperBits {
    /// Which event.
    pub event: usize,
    /// Which word of its sleepers.
    word: usize,
    /// Which bits of the word.
    pub bits: u32,
}

impl SleeperBits {
    /// The one place for any key.
    pub const OF_ANY: Self = Self {
        event: EVENTS,
        word: 0,
        bits: ANY,
    };

    /// One of the [`PLACES`] of the keys with this hash.
    #[inline(always)]
    pub fn of(hash: u64, choice: usize) -> Self {
        let (word, bit) = bit_of(hash, choice);
        Self {
            event: event_of(hash),
            word,
            bits: 1 << bit,
        }
    }

    /// The futex, and the word of the sleepers.
    #[inline(always)]
    pub fn words(self, control: &Control) -> (&Word32, &Word32) {
        let event = control.events.get(self.event).unwrap_or(&control.any);
        (&event.futex, &event.sleepers[self.word])
    }

    /// [`arm`]s it.
    pub fn arm(self, control: &Control) -> u32 {
        let (futex, sleepers) = self.words(control);
        arm(futex, sleepers, self.bits)
    }
}

/// The event of the keys with this hash.
#[inline(always)]
fn event_of(hash: u64) -> usize {
    (hash >> 20) as usize % EVENTS
}

/// One of their bits in it: the word of the sleepers, and the number of the bit.
#[inline(always)]
fn bit_of(hash: u64, choice: usize) -> (usize, u32) {
    const BITS: u64 = SLEEPER_WORDS as u64 * 32;
    // Twelve bits of the hash for each choice, other ones than the event's, scaled to the number of bits.
    let drawn = (hash >> (28 + 12 * (choice % PLACES))) & 0xfff;
    let bit = (drawn * BITS) >> 12;
    ((bit / 32) as usize, (bit % 32) as u32)
}

/// Announces a sleeper on `bits`; returns what the futex must still hold when it falls asleep.
pub fn arm<W: Word<Int = u32>>(futex: &W, sleepers: &W, bits: u32) -> u32 {
    // Cannot sink below the SeqCst operation that follows, which is also a release.
    let seen = futex.load(Ordering::Relaxed);
    sleepers.fetch_or(bits, Ordering::SeqCst);
    W::fence(Ordering::SeqCst);
    seen
}

/// [`signal`]s those who sleep on the keys with this hash.
#[inline(always)]
pub fn signal_key(control: &Control, hash: u64) -> u32 {
    let event = &control.events[event_of(hash)];
    // All places in one comparison, since it is nearly always so.
    let sleeping = |choice| {
        let (word, bit) = bit_of(hash, choice);
        event.sleepers[word].load(Ordering::Relaxed) >> bit
    };
    if (0..PLACES).fold(0, |all, choice| all | sleeping(choice)) & 1 == 0 {
        return 0;
    }
    signal_places(event, hash)
}

#[cold]
fn signal_places(event: &Event, hash: u64) -> u32 {
    let signal = |choice| {
        let (word, bit) = bit_of(hash, choice);
        signal(&event.futex, &event.sleepers[word], 1 << bit)
    };
    (0..PLACES).map(signal).sum()
}

/// [`signal`]s those who sleep on any key.
#[inline(always)]
pub fn signal_any(control: &Control) -> u32 {
    let (futex, sleepers) = SleeperBits::OF_ANY.words(control);
    signal(futex, sleepers, SleeperBits::OF_ANY.bits)
}

/// Wakes those who sleep on `bits`, if any. The caller has stored `seq` and then made a full fence. Returns how many.
#[inline(always)]
pub fn signal<W: Word<Int = u32>>(futex: &W, sleepers: &W, bits: u32) -> u32 {
    // Relaxed: the fences of both sides order it, see the module header.
    if sleepers.load(Ordering::Relaxed) & bits == 0 {
        return 0;
    }
    signal_sleepers(futex, sleepers, bits)
}

#[cold]
fn signal_sleepers<W: Word<Int = u32>>(futex: &W, sleepers: &W, bits: u32) -> u32 {
    let found = sleepers.fetch_and(!bits, Ordering::SeqCst) & bits;
    if found == 0 {
        return 0; // another writer is waking them
    }
    // Release: whoever sees the new futex value also sees the cleared bit.
    futex.fetch_add(1, Ordering::Release);
    futex.wake(i32::MAX as u32, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{Wait, Word32};
    use crate::sys::time::Deadline;

    #[test]
    fn nobody_asleep_costs_no_bump() {
        let (futex, sleepers) = (Word32::new(7), Word32::new(0));
        assert_eq!(signal(&futex, &sleepers, 1), 0);
        assert_eq!(futex.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn an_armed_sleeper_does_not_fall_asleep_after_a_signal() {
        let (futex, sleepers) = (Word32::new(0), Word32::new(0));
        let seen = arm(&futex, &sleepers, 2);
        assert_eq!(signal(&futex, &sleepers, 4), 0, "another group is not woken");
        signal(&futex, &sleepers, 2);
        assert_eq!(futex.wait(seen, 2, Deadline::never()), Wait::Changed);
        assert_eq!(sleepers.load(Ordering::Relaxed), 0);
    }
}
