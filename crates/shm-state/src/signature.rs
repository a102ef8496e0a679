//! What a commit is signed with: the identity of its writer, and the time by the clock that the writer chose.
//!
//! One word, because it is handed down the fastest path there is.

use crate::sys::time;

/// Identity and clock of a writer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signature(u64);

/// Beside the identity: the commit is dated by the precise clock.
const PRECISE: u64 = 1 << 32;

impl Signature {
    /// Of transactions that make no commit.
    pub const NOBODY: Self = Self(0);

    /// That of an identity, with the coarse clock.
    pub fn of(identity: u32) -> Self {
        Self(u64::from(identity))
    }

    /// The same with the precise clock, or with the coarse one.
    pub fn with_precise_time(self, precise: bool) -> Self {
        Self(self.0 & !PRECISE | if precise { PRECISE } else { 0 })
    }

    /// The identity.
    #[inline(always)]
    pub fn identity(self) -> u32 {
        self.0 as u32
    }

    /// Whether commits are dated by the precise clock.
    #[inline(always)]
    pub fn is_precise(self) -> bool {
        self.0 & PRECISE != 0
    }

    /// The time for a commit that is made now.
    #[inline(always)]
    pub fn time_ns(self) -> u64 {
        if self.is_precise() {
            time::realtime_ns()
        } else {
            time::realtime_coarse_ns()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_does_not_change_the_identity() {
        let coarse = Signature::of(u32::MAX);
        let precise = coarse.with_precise_time(true);
        assert!(precise.is_precise() && !coarse.is_precise() && !Signature::NOBODY.is_precise());
        assert_eq!((precise.identity(), coarse.identity()), (u32::MAX, u32::MAX));
        assert_eq!(precise.with_precise_time(false), coarse);
    }

    #[test]
    fn the_precise_clock_is_not_behind_the_coarse_one() {
        let (coarse, precise) = (Signature::of(1), Signature::of(1).with_precise_time(true));
        for _ in 0..1000 {
            let before = coarse.time_ns();
            assert!(before <= precise.time_ns());
        }
    }
}
