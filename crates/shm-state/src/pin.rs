//! Holding a snapshot against recycling.
//!
//! **Guarantee.** While a pin at commit `s` stands, no block that was retired after `s` is used again.
//!
//! **Words.** `floor` is what optimistic readers check; it never looks at pins. `recyclable` is what the heap obeys:
//! the minimum of `floor` and all pins. Two numbers, because a long-lived pin must hold up recycling and not the log.
//!
//! **Pinning** ([`pin`]): write `s + 1` into the slot, then look at `floor`; if it passed `s`, try again with a newer
//! `s`. **Raising** ([`raise`]), under the writer lock: store the new floor, then look at every slot.
//!
//! **Ordering.** Dekker again, all four SeqCst. If the slot's store comes first, the raiser sees the pin. If the
//! floor's store comes first, the pinner sees the floor and gives up that `s`. So a pin that [`pin`] reports was seen
//! by every raise that could have recycled its blocks.
//!
//! **Death.** A dead process's pin stands until a writer that runs out of room, or a reaper, proves the owner dead
//! and clears it, under the lock: a second reaper could otherwise wipe the pin of the slot's next owner.

use crate::sync::{Ordering, Word};

/// What [`Word`] a pin slot holds when nothing is pinned.
pub const NONE: u64 = 0;

/// Why nothing was pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The slot is in use.
    InUse,
    /// The floor is above the newest commit, which no correct process stores.
    Damaged,
}

/// Pins the newest commit in a free slot.
#[inline(always)]
pub fn pin<W: Word<Int = u64>>(slot: &W, floor: &W, seq: &W) -> Result<u64, Refused> {
    // Acquire pairs with the Release of the commit: what it made visible is there.
    let mut at = seq.load(Ordering::Acquire);
    // SeqCst: before the look at `floor`, see the module header.
    slot.compare_exchange(NONE, at.wrapping_add(1), Ordering::SeqCst, Ordering::Relaxed)
        .map_err(|_| Refused::InUse)?;
    loop {
        let floor = floor.load(Ordering::SeqCst);
        if floor <= at {
            return Ok(at);
        }
        at = seq.load(Ordering::Acquire);
        // Whoever raised the floor had seen that commit: a `seq` that is loaded after the floor is not below it.
        if at < floor {
            unpin(slot);
            return Err(Refused::Damaged);
        }
        slot.store(at.wrapping_add(1), Ordering::SeqCst);
    }
}

/// Pins the commit `at` in a free slot: `Ok(false)` when it is too old to be pinned, `Err` when the slot is in use.
#[inline(always)]
pub fn pin_at<W: Word<Int = u64>>(slot: &W, floor: &W, at: u64) -> Result<bool, ()> {
    slot.compare_exchange(NONE, at.wrapping_add(1), Ordering::SeqCst, Ordering::Relaxed)
        .map_err(|_| ())?;
    if floor.load(Ordering::SeqCst) > at {
        unpin(slot);
        return Ok(false);
    }
    Ok(true)
}

/// Releases a pin.
#[inline(always)]
pub fn unpin<W: Word<Int = u64>>(slot: &W) {
    // Release: our reads of the blocks happen before a raiser that sees the slot empty lets them be overwritten.
    slot.store(NONE, Ordering::Release);
}

/// Raises the floor; returns what may be recycled now. Only under the writer lock.
pub fn raise<'a, W: Word<Int = u64> + 'a>(floor: &W, to: u64, slots: impl Iterator<Item = &'a W>) -> u64 {
    // SeqCst: before the look at the slots, see the module header. It is also the release that an optimistic reader
    // pairs with: it reads a block that was overwritten later, then fences, then sees this floor.
    floor.store(to, Ordering::SeqCst);
    W::fence(Ordering::SeqCst);
    oldest(to, slots)
}

/// The oldest of the pins that stand, or `to`. Counts only behind a barrier after the floor was raised to `to`.
pub fn oldest<'a, W: Word<Int = u64> + 'a>(to: u64, slots: impl Iterator<Item = &'a W>) -> u64 {
    slots.fold(to, |least, slot| match slot.load(Ordering::SeqCst) {
        NONE => least,
        pinned => least.min(pinned - 1),
    })
}

/// Whether what was read of the snapshot `at` can be trusted: nothing of it had been recycled.
#[inline(always)]
pub fn still_valid<W: Word<Int = u64>>(floor: &W, at: u64) -> bool {
    // Acquire: the reads before it are done; if one of them saw a recycled block, the floor that allowed it is seen
    // here, because it was stored (with a fence) before the block was written.
    W::fence(Ordering::Acquire);
    floor.load(Ordering::Relaxed) <= at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Word64;

    #[test]
    fn a_pin_holds_up_recycling_but_not_the_floor() {
        let (slot, floor, seq) = (Word64::new(0), Word64::new(0), Word64::new(5));
        assert_eq!(pin(&slot, &floor, &seq), Ok(5));
        assert_eq!(pin(&slot, &floor, &seq), Err(Refused::InUse));
        assert_eq!(raise(&floor, 9, [&slot].into_iter()), 5);
        assert!(!still_valid(&floor, 5), "optimistic readers do not look at pins");
        unpin(&slot);
        assert_eq!(raise(&floor, 9, [&slot].into_iter()), 9);
    }

    #[test]
    fn a_commit_below_the_floor_cannot_be_pinned() {
        let (slot, floor) = (Word64::new(0), Word64::new(7));
        assert_eq!(pin_at(&slot, &floor, 6), Ok(false));
        assert_eq!(pin_at(&slot, &floor, 7), Ok(true));
        assert_eq!(pin_at(&slot, &floor, 8), Err(()), "the slot is in use");
    }

    /// A get that found its snapshot gone pinned one, and looked for a commit above the floor for ever.
    #[test]
    fn a_floor_above_all_commits_is_damage() {
        let (slot, floor, seq) = (Word64::new(0), Word64::new(9), Word64::new(5));
        assert_eq!(pin(&slot, &floor, &seq), Err(Refused::Damaged));
        assert_eq!(slot.load(Ordering::Relaxed), NONE);
    }
}
