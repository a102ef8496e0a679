//! The word of the writer lock, and every step that may be made with it.
//!
//! ```text
//!  63        52 51              32 31      30         29             0
//! +------------+------------------+-------+----------+----------------+
//! |    slot    |      nonce       |WAITERS|OWNER_DIED|      TID       |
//! +------------+------------------+-------+----------+----------------+
//!  \__________ who ______________/ \__ the kernel's robust futex ____/
//! ```
//!
//! | word                     | state                                                             |
//! |--------------------------|-------------------------------------------------------------------|
//! | 0                        | free                                                              |
//! | TID 0, anything else set | free; the last owner died inside (the kernel keeps the high half) |
//! | TID ≠ 0                  | owned; WAITERS if somebody may sleep                              |
//!
//! User space only uses 64-bit operations, the kernel only the low half. `who` makes two owners differ that
//! had the same TID one after the other, so that a compare-and-exchange of the whole word never mistakes one
//! for the other. The functions are generic over the word: a model checker can run these very steps.

use crate::sync::{Ordering, Word};
use crate::sys::robust::{OWNER_DIED, TID_MASK, WAITERS};

/// Bits of the nonce in the high half.
const NONCE_BITS: u32 = 20;
/// How many participant slots the word can name.
pub(crate) const MOST_SLOTS: usize = 1 << (32 - NONCE_BITS);

/// One thread of one participant, as the word names it: TID and who, without flags. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner(u64);

impl Owner {
    pub(crate) fn new(tid: u32, slot: u32, nonce: u64) -> Self {
        debug_assert!(tid != 0 && tid & !TID_MASK == 0 && (slot as usize) < MOST_SLOTS);
        let nonce = nonce & ((1 << NONCE_BITS) - 1);
        Self(u64::from(tid) | nonce << 32 | u64::from(slot) << (32 + NONCE_BITS))
    }

    pub(crate) fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    pub(crate) fn raw(self) -> u64 {
        self.0
    }

    pub(crate) fn tid(self) -> u32 {
        LockState(self.0).tid()
    }

    /// Which participant's slot.
    pub(crate) fn slot(self) -> u32 {
        // The shift leaves 12 bits.
        (self.0 >> (32 + NONCE_BITS)) as u32
    }
}

/// A value that the word had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LockState(u64);

impl LockState {
    pub(crate) const FREE: Self = Self(0);

    pub(crate) fn read<W: Word<Int = u64>>(word: &W) -> Self {
        // Acquire: who sees an owner in the word also sees the participant slot that the owner filled before it
        // took the lock (pairs with the AcqRel in `try_acquire`).
        Self(word.load(Ordering::Acquire))
    }

    /// The half that the kernel compares before it lets a thread sleep.
    pub(crate) fn low(self) -> u32 {
        (self.0 & u64::from(u32::MAX)) as u32
    }

    pub(crate) fn tid(self) -> u32 {
        self.low() & TID_MASK
    }

    pub(crate) fn is_free(self) -> bool {
        self.tid() == 0
    }

    /// Free, but not because somebody unlocked it.
    pub(crate) fn owner_died(self) -> bool {
        self.is_free() && self != Self::FREE
    }

    pub(crate) fn has_waiters(self) -> bool {
        self.low() & WAITERS != 0
    }

    pub(crate) fn owner(self) -> Owner {
        Owner(self.0 & !u64::from(WAITERS | OWNER_DIED))
    }

    fn owned_by(owner: Owner, waiters: bool) -> Self {
        Self(owner.0 | if waiters { u64::from(WAITERS) } else { 0 })
    }

    /// The word of a dead owner as a number that is never 0.
    pub(crate) fn as_dead(self) -> u64 {
        self.0 | u64::from(OWNER_DIED)
    }

    /// The word that [`LockState::as_dead`] made a number of; `None` if there was none.
    pub(crate) fn of_dead(number: u64) -> Option<Self> {
        (number != 0).then_some(Self(number))
    }

    /// What the kernel makes of the word when its owner dies.
    fn died(self) -> Self {
        Self(self.0 & !u64::from(TID_MASK) | u64::from(OWNER_DIED))
    }
}

/// Takes a free lock. `waiters`: this thread has slept, so others may still sleep whose flag an unlock erased.
#[inline(always)]
pub(crate) fn try_acquire<W: Word<Int = u64>>(
    word: &W,
    seen: LockState,
    me: Owner,
    waiters: bool,
) -> Result<(), LockState> {
    debug_assert!(seen.is_free());
    exchange(word, seen, LockState::owned_by(me, waiters || seen.has_waiters()))
}

/// Takes the lock away from an owner that is proved dead: only if the word still names exactly that owner.
pub(crate) fn take_over<W: Word<Int = u64>>(word: &W, dead: LockState, me: Owner) -> Result<(), LockState> {
    // This thread has slept for a whole slice, and others may have too.
    exchange(word, dead, LockState::owned_by(me, true))
}

/// Makes the owner wake somebody when it unlocks. Returns the word as it then was.
pub(crate) fn announce_waiter<W: Word<Int = u64>>(word: &W, seen: LockState) -> Result<LockState, LockState> {
    let marked = LockState(seen.0 | u64::from(WAITERS));
    if marked == seen {
        Ok(seen)
    } else {
        exchange(word, seen, marked).map(|()| marked)
    }
}

#[inline(always)]
fn exchange<W: Word<Int = u64>>(word: &W, seen: LockState, new: LockState) -> Result<(), LockState> {
    // Acquire pairs with the Release in `release`: the new owner sees all that the old one did. After a death
    // there is no such store; the kernel's exchange of the mark is fully ordered, and a proof of death went
    // through the kernel. Release publishes this thread's participant slot and nonce to whoever reads the word.
    match word.compare_exchange(seen.0, new.0, Ordering::AcqRel, Ordering::Relaxed) {
        Ok(_) => Ok(()),
        Err(other) => Err(LockState(other)),
    }
}

/// What [`release`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Released {
    /// Free now, and nobody sleeps.
    Quietly,
    /// Free now; one sleeper must be woken.
    WithWaiters,
    /// The word does not name this owner; it was left alone.
    NotOwner,
}

/// Gives the lock back.
#[inline(always)]
pub(crate) fn release<W: Word<Int = u64>>(word: &W, me: Owner) -> Released {
    // Release pairs with the Acquire of the next `exchange`.
    match word.compare_exchange(me.0, 0, Ordering::Release, Ordering::Relaxed) {
        Ok(_) => Released::Quietly,
        Err(other) => release_with_waiters(word, me, LockState(other)),
    }
}

#[cold]
fn release_with_waiters<W: Word<Int = u64>>(word: &W, me: Owner, mut seen: LockState) -> Released {
    while seen.owner() == me {
        // Release: as in `release`.
        match word.compare_exchange(seen.0, 0, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return Released::WithWaiters,
            Err(other) => seen = LockState(other),
        }
    }
    Released::NotOwner
}

/// Does what the kernel does for a dead owner: marks the word if `names` says it is the one meant. Returns the
/// value that was replaced.
pub(crate) fn mark_dead<W: Word<Int = u64>>(word: &W, names: impl Fn(Owner) -> bool) -> Option<LockState> {
    loop {
        let seen = LockState::read(word);
        if seen.is_free() || !names(seen.owner()) {
            return None;
        }
        if exchange(word, seen, seen.died()).is_ok() {
            return Some(seen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Word64;

    #[test]
    fn an_owner_fits_beside_the_kernels_flags() {
        let owner = Owner::new(TID_MASK, 4_095, u64::MAX);
        assert_eq!((owner.tid(), owner.slot()), (TID_MASK, 4_095));
        assert_eq!(owner.raw(), 0xffff_ffff_3fff_ffff);
        assert_ne!(Owner::new(1, 0, 0).raw(), 0);
        assert_ne!(Owner::new(7, 3, 1), Owner::new(7, 3, 2));
    }

    #[test]
    fn the_word_goes_through_its_states() {
        let word = Word64::new(0);
        let (one, two) = (Owner::new(11, 1, 5), Owner::new(12, 2, 6));
        try_acquire(&word, LockState::FREE, one, false).unwrap();
        assert!(try_acquire(&word, LockState::FREE, two, false).is_err());
        assert_eq!(release(&word, two), Released::NotOwner);
        let seen = LockState::read(&word);
        assert!(seen.owner() == one && !seen.has_waiters() && !seen.is_free());
        let seen = announce_waiter(&word, seen).unwrap();
        assert_eq!(announce_waiter(&word, seen), Ok(seen));
        assert_eq!(release(&word, one), Released::WithWaiters);
        assert_eq!(LockState::read(&word), LockState::FREE);
    }

    #[test]
    fn a_dead_owner_keeps_its_high_half_and_the_waiters() {
        let word = Word64::new(0);
        let (one, two) = (Owner::new(11, 1, 5), Owner::new(12, 2, 6));
        try_acquire(&word, LockState::FREE, one, true).unwrap();
        assert_eq!(mark_dead(&word, |owner| owner == two), None);
        assert!(mark_dead(&word, |owner| owner == one).is_some_and(LockState::has_waiters));
        let seen = LockState::read(&word);
        assert!(seen.owner_died() && seen.has_waiters() && seen.owner().slot() == 1);
        try_acquire(&word, seen, two, false).unwrap();
        assert!(LockState::read(&word).has_waiters() && LockState::read(&word).owner() == two);
        assert!(
            take_over(&word, seen, one).is_err(),
            "the word no longer names the dead owner"
        );
    }
}
