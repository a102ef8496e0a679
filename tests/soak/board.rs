//! The board: numbers that outlive whoever wrote them, words of a file that has no name any more.
//!
//! Each process of the soak has one word of every kind; only that process writes it, or the conductor while the process
//! is dead or waits. `Stop`, `Round`, `Inside` and `Order` belong to the conductor and the process that it starts.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// How many processes have words on the board.
const PLACES: u64 = 16;

/// What a word says.
#[derive(Clone, Copy)]
pub enum Word {
    /// The last value of its counter that the process knows to be committed.
    Acknowledged,
    /// The commit after which a watcher started.
    StartedAt,
    /// Commits that a watcher has seen and missed, in all.
    Seen,
    /// Those of them that it missed.
    Missed,
    /// The oldest snapshot that a holder holds, as its commit + 1; 0 if it holds none.
    Held,
    /// Checks of snapshots that had fallen out of the history. Adds up over all who had the place.
    OldChecks,
    /// Times that a writer did not get the lock in time. Adds up.
    Timeouts,
    /// Times that a writer found the arena full. Adds up.
    Full,
    /// Times that a watcher learned of a loss. Adds up.
    Losses,
    /// The round for which a waiter is about to lock.
    Waiting,
    /// When the waiter's commit returned.
    DoneAt,
    /// The round of that.
    Done,
    /// The waiter's thread.
    Thread,
    /// Place 0. 1: the writers stop; 2: the others stop when they have seen everything.
    Stop,
    /// Place 0. The round for which the waiters are to lock.
    Round,
    /// Place 0. The victim that is inside of the lock.
    Inside,
    /// Place 0. How the next victim is to hold the lock.
    Order,
}

const KINDS: u64 = Word::Order as u64 + 1;

pub struct Board(File);

impl Board {
    pub fn new() -> Self {
        let path = format!("/dev/shm/zproc-soak-{}", std::process::id());
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(path).unwrap();
        file.set_len(KINDS * PLACES * 8).unwrap();
        Self(file)
    }

    pub fn opened(file: File) -> Self {
        Self(file)
    }

    pub fn fd(&self) -> i32 {
        self.0.as_raw_fd()
    }

    pub fn get(&self, word: Word, place: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, offset(word, place)).unwrap();
        u64::from_le_bytes(bytes)
    }

    pub fn set(&self, word: Word, place: u64, value: u64) {
        self.0.write_all_at(&value.to_le_bytes(), offset(word, place)).unwrap();
    }

    /// Only by the one who writes the word.
    pub fn add(&self, word: Word, place: u64, more: u64) {
        self.set(word, place, self.get(word, place) + more);
    }

    /// Over all places.
    pub fn sum(&self, word: Word) -> u64 {
        (0..PLACES).map(|place| self.get(word, place)).sum()
    }
}

fn offset(word: Word, place: u64) -> u64 {
    assert!(place < PLACES);
    (word as u64 * PLACES + place) * 8
}
