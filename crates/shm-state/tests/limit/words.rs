//! The words of an arena, by the offsets that `docs/design.md` gives, read and written through its file: so that a
//! counter can stand just below the end of its range without the years that it takes to get there.

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// The file of an arena.
pub struct Words(File);

/// Superblock.
pub const NEXT_IDENTITY: u64 = 136;
/// The slot at which the next participant looks first.
pub const NEXT_SLOT: u64 = 152;
/// The table of participants, of 64 bytes each.
pub const PARTICIPANTS: u64 = 4096;
const DIRECTORY: u64 = 260 * 1024;

/// Offsets in a control block.
pub mod control {
    pub const LOG_BITS: u64 = 24;
    pub const SEQ: u64 = 384;
    pub const FLOOR: u64 = 392;
    pub const GENERATION: u64 = 400;
    pub const LOCK_TAKEOVERS: u64 = 512 + 16;
    pub const MARKER: u64 = 640;
    pub const RECYCLABLE: u64 = 648;
    pub const RECOVERIES: u64 = 696;
    pub const WAKES: u64 = 704;
    pub const WAKEUPS: u64 = 712;
    /// 256 of 64 bytes, which begin with their futex; then, at `ANY`, one more.
    pub const EVENTS: u64 = 3648;
    pub const ANY: u64 = 20_032;
    /// 64 of 64 bytes, which begin with their owner.
    pub const SEATS: u64 = 20_096;
    pub const SEATS_NEXT: u64 = 720;
    pub const LOG: u64 = 24_192;
}

impl Words {
    /// Those of an arena in this file.
    pub fn of(file: BorrowedFd<'_>) -> Self {
        Self(File::from(file.try_clone_to_owned().unwrap()))
    }

    /// A word.
    pub fn get(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, at).unwrap();
        u64::from_le_bytes(bytes)
    }

    /// Sets a word.
    pub fn set(&self, at: u64, value: u64) {
        self.0.write_all_at(&value.to_le_bytes(), at).unwrap();
    }

    /// Sets `count` words to one value.
    pub fn fill(&self, at: u64, value: u64, count: usize) {
        self.0.write_all_at(&value.to_le_bytes().repeat(count), at).unwrap();
    }

    /// The file once more.
    pub fn file(&self) -> OwnedFd {
        self.0.try_clone().unwrap().into()
    }

    /// Sets half a word.
    pub fn set_half(&self, at: u64, value: u32) {
        self.0.write_all_at(&value.to_le_bytes(), at).unwrap();
    }

    /// Half a word.
    pub fn half(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.0.read_exact_at(&mut bytes, at).unwrap();
        u32::from_le_bytes(bytes)
    }

    /// Where the control block of a namespace lies, by its number in the directory.
    pub fn control(&self, number: u64) -> u64 {
        let at = self.get(DIRECTORY + number * 8) * 64;
        assert_eq!(
            &self.get(at).to_le_bytes()[..6],
            b"nspace",
            "the offsets are those of the design"
        );
        at
    }

    /// Lets a namespace that nobody uses be at commit `to`, which is above all before, with its history gone: as if it
    /// had made that many commits.
    pub fn move_to(&self, number: u64, to: u64) {
        let at = self.control(number);
        let mask = (1 << self.get(at + control::LOG_BITS)) - 1;
        let slot = |seq: u64| at + control::LOG + (seq & mask) * 64;
        let from = self.get(at + control::SEQ);
        let last: Vec<u64> = (0..8).map(|word| self.get(slot(from) + word * 8)).collect();
        // No slot of the ring claims a number that is still to come, and that of the newest commit keeps its totals.
        (0..=mask).for_each(|seq| self.set(slot(seq), 0));
        (1..8).for_each(|word| self.set(slot(to) + word * 8, last[word as usize]));
        self.set(slot(to), to);
        for word in [control::RECYCLABLE, control::FLOOR, control::SEQ, control::MARKER] {
            self.set(at + word, to);
        }
    }

    /// The total of retired granules in the log slot of the newest commit.
    pub fn retired_total(&self, number: u64) -> u64 {
        let at = self.control(number);
        let mask = (1 << self.get(at + control::LOG_BITS)) - 1;
        at + control::LOG + (self.get(at + control::SEQ) & mask) * 64 + 32
    }

    /// Participants of the arena: slots with a pid in them.
    pub fn participants(&self) -> Vec<u32> {
        (0..4096)
            .filter_map(|slot| Some(self.get(PARTICIPANTS + slot * 64) as u32).filter(|pid| *pid != 0))
            .collect()
    }
}
