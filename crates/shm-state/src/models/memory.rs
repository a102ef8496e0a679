//! Words in the memory of a fixture, by their address: what is restored after each execution.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What a read-modify-write does.
#[derive(Clone, Copy)]
pub enum Change {
    /// If the word holds the first, it gets the second.
    From(u64, u64),
    Add(u64),
    Or(u64),
    And(u64),
}

/// A word in memory, of either size.
#[derive(Clone, Copy)]
pub struct RawWord {
    pub address: usize,
    pub wide: bool,
}

impl std::fmt::Display for RawWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{:x}]", self.address & 0xf_ffff)
    }
}

impl RawWord {
    pub fn get(self) -> u64 {
        if self.wide {
            // SAFETY: made from a reference to a word of memory that the fixture of the search keeps.
            let word = unsafe { &*(self.address as *const AtomicU64) };
            word.load(Ordering::Relaxed)
        } else {
            // SAFETY: as above.
            let word = unsafe { &*(self.address as *const AtomicU32) };
            u64::from(word.load(Ordering::Relaxed))
        }
    }

    pub fn set(self, value: u64) {
        if self.wide {
            // SAFETY: as in `get`.
            let word = unsafe { &*(self.address as *const AtomicU64) };
            word.store(value, Ordering::Relaxed);
        } else {
            // SAFETY: as in `get`.
            let word = unsafe { &*(self.address as *const AtomicU32) };
            word.store(value as u32, Ordering::Relaxed);
        }
    }
}

/// Address and size in one number.
pub fn tag(cell: RawWord) -> usize {
    cell.address | usize::from(cell.wide)
}

pub fn untag(tagged: usize) -> RawWord {
    RawWord {
        address: tagged & !1,
        wide: tagged & 1 == 1,
    }
}
