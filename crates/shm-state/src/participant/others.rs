//! Looking at the other participants: who is there, how they are, who was there before; and freeing the slots of the dead.
//!
//! None of it takes a lock of the arena. What is told of a process may be over by the time it is read, but for its death.

use std::io;

use super::{Attachment, ForEachLock, Name, ParticipantSlot};
use crate::sync::{Ordering, Word};
use crate::sys::lifeline::Claims;
use crate::sys::process::{self, Life, Process};

/// Who has a slot, dead or alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    pub(crate) pid: u32,
    pub(crate) name: Name,
}

/// A user of a slot, who may have left or died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) pid: u32,
    pub(crate) since: u64,
    pub(crate) name: Name,
}

impl User {
    /// What stands in a seat of its.
    pub(crate) fn seat_word(self) -> u64 {
        crate::layout::pack(self.slot + 1, self.generation)
    }
}

impl Attachment {
    /// The users of all slots, of empty ones the last, each with its slot.
    pub(crate) fn all_known(&self) -> impl Iterator<Item = (u32, Known)> + '_ {
        let known = |(number, slot): (u32, &ParticipantSlot)| Some((number, slot.known()?));
        (0..).zip(self.table()).filter_map(known)
    }

    /// The user of a slot, or the last one there was.
    pub(crate) fn known(&self, slot: u32) -> Option<Known> {
        self.slot_at(slot)?.known()
    }

    /// Whether the present user of a slot, if it has one, is certainly dead.
    pub(crate) fn slot_user_is_dead(&self, slot: u32) -> bool {
        self.slot_at(slot)
            .is_some_and(|participant| self.user_is_dead(slot, participant))
    }

    /// The pid of the user of a slot, or of the last one; 0 if that is not known.
    pub(crate) fn last_pid_of(&self, slot: u32) -> u32 {
        self.known(slot).map_or(0, |known| known.pid)
    }

    /// Everybody who has a slot, the dead too.
    pub(crate) fn users(&self) -> impl Iterator<Item = User> + '_ {
        (0..).zip(self.table()).filter_map(|(number, slot)| {
            let (pid, _) = slot.user()?;
            let generation = slot.generation.load(Ordering::Acquire) as u32;
            let name = slot.known().filter(|known| known.pid == pid).map(|known| known.name);
            Some(User {
                slot: number,
                generation,
                pid,
                name: name.unwrap_or_default(),
            })
        })
    }

    /// How the user of a slot is.
    pub(crate) fn life(&self, slot: u32) -> Life {
        let Some(participant) = self.slot_at(slot) else {
            return Life::Unknown;
        };
        match participant.user() {
            None => Life::Dead,
            _ if self.user_is_dead(slot, participant) => Life::Dead,
            Some((pid, identity)) if self.is_own(pid, identity) => Life::Running,
            Some((pid, identity)) if process::state(pid, identity) == Process::Alive => process::pace(pid, pid),
            Some(_) => Life::Unknown,
        }
    }

    /// How a thread of the user of a slot is. The caller has read both from a word that the thread wrote.
    pub(crate) fn life_of_thread(&self, slot: u32, tid: u32) -> Life {
        if self.thread_is_dead(slot, tid) {
            return Life::Dead;
        }
        match self.slot_at(slot).and_then(ParticipantSlot::user) {
            Some((pid, identity)) if process::state(pid, identity) == Process::Alive => process::pace(pid, tid),
            _ => Life::Unknown,
        }
    }

    /// Frees the slots of the dead, as those do who come next: every lock that names one is marked. Who they were stays
    /// known. Returns how many.
    pub(crate) fn sweep(&self, for_each_lock: ForEachLock<'_>) -> io::Result<usize> {
        if !self.is_lock_file() {
            return Err(io::Error::other("this process has closed the lock file of the arena"));
        }
        let claims = Claims::on(&self.lock_file)?;
        let mut swept = 0;
        for (number, slot) in (0u32..).zip(self.table()) {
            // The byte of a living user is locked; once it is ours, no other comes in.
            if slot.user().is_none() || !claims.try_lock(number.into())? {
                continue;
            }
            if slot.user().is_some() {
                for_each_lock(&mut |lock| lock.abandon(number));
                // Release: the locks are marked when the slot is free.
                slot.pid.store(0, Ordering::Release);
                swept += 1;
            }
            claims.unlock(number.into())?;
        }
        Ok(swept)
    }
}
