//! How far a process has got, where its parent still finds it when the process was killed.
//!
//! A page that a process shares with its parent. The one notes each move of its cursor, the other reads it when the process
//! is gone, and has the next one go on from there. What a broken process leaves there may be any number; whoever reads it
//! bounds it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use zproc_spawn::shared::Shared;

/// See the header.
pub(crate) struct Trail {
    memory: Shared,
}

const LENGTH: usize = 4096;
const CURSOR: usize = 0;
const IDENTITY: usize = 8;
const STANDING: usize = 12;

impl Trail {
    pub(crate) fn create() -> io::Result<Self> {
        Ok(Self {
            memory: Shared::create("zproc-trail", LENGTH)?,
        })
    }

    /// That in a descriptor, which was inherited.
    pub(crate) fn open(fd: OwnedFd) -> io::Result<Self> {
        let memory = Shared::open(fd)?;
        match memory.len() {
            LENGTH => Ok(Self { memory }),
            other => Err(io::Error::other(format!("it has {other} bytes"))),
        }
    }

    // All Relaxed: they are read when whoever wrote them is gone.

    /// Starts it anew.
    pub(crate) fn reset(&self, cursor: u64) {
        self.memory.long(CURSOR).store(cursor, Ordering::Relaxed);
        self.memory.word(IDENTITY).store(0, Ordering::Relaxed);
        self.memory.word(STANDING).store(0, Ordering::Relaxed);
    }

    /// Notes where the cursor stands, unless another thread has noted more.
    pub(crate) fn note(&self, cursor: u64) {
        self.memory.long(CURSOR).fetch_max(cursor, Ordering::Relaxed);
    }

    pub(crate) fn cursor(&self) -> u64 {
        self.memory.long(CURSOR).load(Ordering::Relaxed)
    }

    /// Notes under which identity updates are made.
    pub(crate) fn note_identity(&self, identity: u32) {
        self.memory.word(IDENTITY).store(identity, Ordering::Relaxed);
    }

    pub(crate) fn identity(&self) -> Option<u32> {
        Some(self.memory.word(IDENTITY).load(Ordering::Relaxed)).filter(|identity| *identity != 0)
    }

    /// Notes that a standing watch has looked at the state where it began.
    pub(crate) fn note_standing(&self) {
        self.memory.word(STANDING).store(1, Ordering::Relaxed);
    }

    pub(crate) fn is_standing(&self) -> bool {
        self.memory.word(STANDING).load(Ordering::Relaxed) != 0
    }
}

impl AsFd for Trail {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_found_by_another_who_has_the_descriptor() {
        let trail = Trail::create().unwrap();
        trail.reset(7);
        let other = Trail::open(trail.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(
            (other.cursor(), other.identity(), other.is_standing()),
            (7, None, false)
        );
        other.note(9);
        other.note_identity(3);
        other.note_standing();
        assert_eq!(
            (trail.cursor(), trail.identity(), trail.is_standing()),
            (9, Some(3), true)
        );
        trail.reset(1);
        assert_eq!(
            (other.cursor(), other.identity(), other.is_standing()),
            (1, None, false)
        );
    }
}
