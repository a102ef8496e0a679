//! What is known of an access beside its namespace: which updates are its own, and whether it was closed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bits of [`Shared::own`] that count; the others are the low bits of the update's number.
const RUN_BITS: u32 = 20;
/// What [`Shared::own`] holds of the number of an update.
const NUMBER: u64 = u64::MAX >> RUN_BITS;

/// What those who tell of updates need to know of an access. It does not keep the namespace open.
#[derive(Default)]
pub(crate) struct Shared {
    /// The newest update that was made through this access, and how many before it were too: see [`Shared::note_own`].
    own: AtomicU64,
    closed: AtomicBool,
}

impl Shared {
    /// Takes note of an own update, so that a watcher need not find it in the log to leave it out.
    ///
    /// One word with the last own update and the length of the run that it ends. It is true whenever it is read: a
    /// store that is overtaken by another thread's only shortens what is known.
    #[inline]
    pub(crate) fn note_own(&self, seq: u64) {
        const MOST: u64 = (1 << RUN_BITS) - 1;
        let known = self.own.load(Ordering::Relaxed);
        // One behind that which is known: the number has one more, and so has the run, unless it is at its end. It stays
        // there, and does not begin anew: who watches may have far to go.
        let longer = known.wrapping_add((1 << RUN_BITS) + u64::from(known & MOST != MOST));
        let is_next = longer >> RUN_BITS == seq & NUMBER;
        let own = if is_next { longer } else { seq << RUN_BITS | 1 };
        self.own.store(own, Ordering::Relaxed);
    }

    /// The last of the own updates that follow `seq` without a gap, `seq` if there are none.
    pub(crate) fn behind_own(&self, seq: u64) -> u64 {
        let known = self.own.load(Ordering::Relaxed);
        let (last, run) = (known >> RUN_BITS, known & ((1 << RUN_BITS) - 1));
        // Of the numbers only the low bits are known, so they are compared in these.
        let ahead = last.wrapping_sub(seq) & NUMBER;
        if (1..=run).contains(&ahead) {
            seq.wrapping_add(ahead)
        } else {
            seq
        }
    }

    /// What tells a wait to end.
    pub(crate) fn closed(&self) -> &AtomicBool {
        &self.closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_own_updates_is_left_out_however_long_it_is() {
        const MOST: u64 = (1 << RUN_BITS) - 1;
        let shared = Shared::default();
        for seq in 1..=MOST + 10 {
            shared.note_own(seq);
        }
        assert_eq!(shared.behind_own(MOST), MOST + 10);
        assert_eq!(shared.behind_own(11), MOST + 10);
        // Beyond what one word can say.
        assert_eq!(shared.behind_own(5), 5);
        shared.note_own(MOST + 12);
        assert_eq!(shared.behind_own(MOST + 11), MOST + 12);
        assert_eq!(shared.behind_own(MOST + 10), MOST + 10);
    }
}
