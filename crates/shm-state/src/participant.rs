//! Participants: the processes that have one arena attached, and the proof that one of them is dead.
//!
//! **Guarantee.** A slot belongs to one attachment of one process at a time. It passes to another only after the
//! last user left or was proved dead, and after every lock that still named it was marked. A *generation* tells
//! the users of one slot apart.
//!
//! **Who writes.** A process takes a slot by an exclusive lock on one byte of a file, which ends exactly when its
//! memory does (see `sys/lifeline.rs`) or when it detaches. Only the owner of the byte writes the slot: pid, identity of
//! the process, generation, and by what name it goes. `next_nonce` only grows, over all users of the slot; it numbers the
//! threads that take locks.
//!
//! **Names** outlive their processes: a slot says whose it was until another process gets it, and those who attach take
//! turns through the table, so that this takes as long as it can. `since` is what the counter of writers' identities said
//! when the user came: a commit signed with a later one, by the same pid, is that user's.
//!
//! **When a process dies.** Its slot stays as it is until another process gets the byte. Whoever must know whether it
//! is dead asks for a *proof*, a fact that can never become untrue:
//!
//! - the slot has no pid or another generation: the user detached, or was proved dead before;
//! - a pidfd of the recorded pid has the recorded identity, and the process has ended;
//! - the byte is free: the address space in which the user had the arena is gone, by its death or because it executed
//!   another program, and no instruction can write under its name again;
//! - the process lives, but the thread in question is gone.
//!
//! Anything else is no proof. An absent pid is none by itself: it also looks so to a process of another PID namespace
//! (those are refused when they attach) or behind a filter of system calls; and a process whose pid is absent has no
//! memory, so its byte is free too. The byte can say more than the pidfd, which a filter or the limit of descriptors may
//! deny, and which sees no exec. It was not always proof: while the lock hung on a descriptor, a process that closed all
//! its descriptors looked dead, and a forked child kept its dead parent's lock. A byte is only believed through a
//! descriptor that still is the lock file: this process, too, may have closed it, and opened something else in its place.
//!
//! **Ordering.** A slot is filled before its user publishes anything that names it (lock words, pins) with
//! Release; whoever loads such a name with Acquire finds the slot filled.

mod name;
mod others;

use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering as StdOrdering};

use crate::lock::word::MOST_SLOTS;
use crate::lock::{Gate, WriterLock, forget_in_children};
use crate::sync::{Ordering, Word, Word64};
use crate::sys::lifeline::{Claims, Lifeline};
use crate::sys::process::Process;
use crate::sys::{file, fork, process, robust};
pub(crate) use name::{Name, choose_name};
pub(crate) use others::{Known, User};

/// How many slots the table in the arena has: as many as a lock word can name.
pub(crate) const PARTICIPANTS: usize = MOST_SLOTS;

/// One participant, in the arena. All zeroes is a slot that was never used.
#[repr(C, align(64))]
pub(crate) struct ParticipantSlot {
    /// 0 while nobody uses the slot.
    pid: Word64,
    /// See [`process::identity`].
    identity: Word64,
    next_nonce: Word64,
    /// Which user of the slot this is, counted from 1; 32 bits.
    generation: Word64,
    /// No identity of a writer below this one is the user's.
    since: Word64,
    /// See [`Name`].
    name: [Word64; 2],
    /// The pid of the user, or of the last one; 0 while the words before are written.
    named: Word64,
}

const _: () = assert!(size_of::<ParticipantSlot>() == 64 && align_of::<ParticipantSlot>() == 64);

/// How a process comes in.
pub(crate) struct Entrance<'a> {
    /// At which slot to look first: a word of the arena that those who come move on.
    pub(crate) turn: &'a Word64,
    /// The identity that the next writer gets.
    pub(crate) since: u64,
}

impl ParticipantSlot {
    fn was_used(&self) -> bool {
        (self.generation.load(Ordering::Relaxed) | self.next_nonce.load(Ordering::Relaxed)) != 0
    }

    /// Pid and identity of the user, if there is one.
    fn user(&self) -> Option<(u32, u64)> {
        // Acquire pairs with the Release in `fill`.
        let pid = self.pid.load(Ordering::Acquire);
        let identity = self.identity.load(Ordering::Acquire);
        // A pid of more than 32 bits is damage: 0 is no process, and nothing can be proved of it.
        (pid != 0).then(|| (u32::try_from(pid).unwrap_or(0), identity))
    }

    /// Writes a new user into a slot whose byte the caller has. A death between the stores leaves no pid: unused.
    fn fill(&self, pid: u32, identity: u64, since: u64, name: Name) -> u32 {
        self.pid.store(0, Ordering::Release);
        self.named.store(0, Ordering::Relaxed);
        // Who sees a word of the new user's name sees that the last one's is gone. Pairs with the fence in `known`.
        Word64::fence(Ordering::Release);
        self.since.store(since, Ordering::Relaxed);
        self.rename(name);
        // Release pairs with the Acquire in `known`: who sees the pid sees what it is called.
        self.named.store(u64::from(pid), Ordering::Release);
        self.identity.store(identity, Ordering::Release);
        let generation = (self.generation.load(Ordering::Relaxed) as u32).wrapping_add(1).max(1);
        self.generation.store(u64::from(generation), Ordering::Release);
        // Release pairs with the Acquire in `user`: who sees the pid sees the rest.
        self.pid.store(u64::from(pid), Ordering::Release);
        generation
    }

    /// Changes the name. Who reads it meanwhile may get half of each, which does no harm.
    fn rename(&self, name: Name) {
        let words = self.name.iter().zip(name.words());
        words.for_each(|(word, value)| word.store(value, Ordering::Relaxed));
    }

    /// The user, or the last one there was. `None` if there was none, or another one is just coming.
    fn known(&self) -> Option<Known> {
        // Acquire, and the fence: pair with the Release of `named` in `fill`, and with the fence behind its zero.
        let named = self.named.load(Ordering::Acquire);
        let since = self.since.load(Ordering::Relaxed);
        let [first, second] = &self.name;
        let name = Name::from_words([first.load(Ordering::Relaxed), second.load(Ordering::Relaxed)]);
        Word64::fence(Ordering::Acquire);
        let pid = u32::try_from(named).ok().filter(|pid| *pid != 0)?;
        (self.named.load(Ordering::Relaxed) == named).then_some(Known { pid, since, name })
    }
}

/// Why a process cannot become a participant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AttachError {
    /// Thread ids of this process and of the arena's do not mean the same.
    #[error(
        "the arena belongs to PID namespace {arena}, this process is in {own}: run both in one namespace, or use a \
         server process in the arena's"
    )]
    PidNamespace {
        /// Inode of the arena's namespace.
        arena: u64,
        /// Inode of this process's.
        own: u64,
    },
    /// Every slot is in use.
    #[error("all {slots} participant slots of the arena are used by running processes; close it in some of them")]
    Full {
        /// How many there are.
        slots: usize,
    },
    /// The system cannot keep the promises of the writer lock.
    #[error("writer locks do not work here: {0}")]
    Unsupported(String),
    /// A system call failed.
    #[error("cannot join the arena ({what}): {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        error: io::Error,
    },
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> AttachError {
    move |error| AttachError::Io { what, error }
}

/// Calls the function it is given for every writer lock of the arena.
pub(crate) type ForEachLock<'a> = &'a mut dyn FnMut(&mut dyn FnMut(&WriterLock));

/// This process's membership of one arena. Ends when dropped.
pub(crate) struct Attachment {
    slots: NonNull<[ParticipantSlot]>,
    slot: u32,
    generation: u32,
    pid: u32,
    identity: u64,
    /// Differs between all attachments of this process; never 0.
    key: u64,
    epoch: u64,
    gate: Gate,
    /// Asks for the bytes of others; holds none.
    lock_file: OwnedFd,
    /// Which file that is.
    lock_file_is: (u64, u64),
    /// Holds the byte number `slot`.
    _claim: Lifeline,
}

// SAFETY: the pointer is to shared memory that is only accessed through atomics, and the other fields are Send.
unsafe impl Send for Attachment {}
// SAFETY: as above; no method changes anything that is not atomic.
unsafe impl Sync for Attachment {}

impl Attachment {
    /// Makes this process a participant of the arena whose table is `slots` and whose PID namespace has the
    /// inode `pid_namespace`. `lock_file` is the file whose bytes stand for the slots. `for_each_lock` is called if the
    /// slot was used before. The process goes by the name that was chosen for it, or its program's.
    ///
    /// # Safety
    ///
    /// `slots` must stay mapped and writable as long as the attachment lives, and so must every lock that is
    /// locked through it: drop the attachment before the mapping.
    pub(crate) unsafe fn attach(
        slots: NonNull<[ParticipantSlot]>,
        lock_file: OwnedFd,
        pid_namespace: u64,
        entrance: &Entrance<'_>,
        for_each_lock: ForEachLock<'_>,
    ) -> Result<Self, AttachError> {
        let own = process::pid_namespace().map_err(failed("reading /proc/self/ns/pid"))?;
        if own != pid_namespace {
            return Err(AttachError::PidNamespace {
                arena: pid_namespace,
                own,
            });
        }
        if !robust::kernel_marks_dead_threads().map_err(failed("starting a thread to test robust futexes"))? {
            let why = "the kernel does not mark the futex of a thread that dies (an emulator or a sandbox?)";
            return Err(AttachError::Unsupported(why.into()));
        }
        forget_in_children().map_err(failed("registering a fork handler"))?;
        let epoch = fork::renew().map_err(failed("mapping the page that notices a fork"))?;
        let pid = std::process::id();
        let identity = process::identity(pid).map_err(failed("identifying this process by its pidfd"))?;
        // SAFETY: mapped, says the caller; a slice of atomics that others may write at any time.
        let table = unsafe { slots.as_ref() };
        let table = &table[..table.len().min(PARTICIPANTS)];
        check_lock_file(&lock_file)?;
        let claims = Claims::on(&lock_file).map_err(failed("opening and mapping its lock file"))?;
        let slot = take_slot(table, &claims, entrance.turn, for_each_lock)?;
        let generation = table[slot as usize].fill(pid, identity, entrance.since, Name::of_this_process());
        Ok(Self {
            slots,
            slot,
            generation,
            pid,
            identity,
            key: next_key(),
            epoch,
            gate: Gate::open(),
            lock_file_is: file::identity(&lock_file).map_err(failed("fstat of its lock file"))?,
            lock_file,
            _claim: claims.tie(),
        })
    }

    /// The id of the process that attached.
    #[inline(always)]
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    fn table(&self) -> &[ParticipantSlot] {
        // SAFETY: the contract of `attach`.
        unsafe { self.slots.as_ref() }
    }

    fn slot_at(&self, slot: u32) -> Option<&ParticipantSlot> {
        self.table().get(slot as usize)
    }

    /// Which slot of the table is this process's.
    pub(crate) fn slot(&self) -> u32 {
        self.slot
    }

    /// Which user of that slot it is; never 0.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// The fork epoch in which the process attached; another [`fork::epoch`] means a forked child.
    #[inline(always)]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether this process is a forked child of the one that attached: then nothing here is its own.
    #[inline(always)]
    pub(crate) fn is_forked(&self) -> bool {
        self.epoch != fork::epoch()
    }

    #[inline(always)]
    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    #[inline(always)]
    pub(crate) fn gate(&self) -> Gate {
        self.gate
    }

    pub(crate) fn next_nonce(&self) -> u64 {
        self.slot_at(self.slot)
            .map_or(0, |slot| slot.next_nonce.fetch_add(1, Ordering::Relaxed))
    }

    /// From here on the process goes by another name.
    pub(crate) fn rename(&self, name: Name) {
        if let Some(slot) = self.slot_at(self.slot)
            && !self.is_forked()
        {
            slot.rename(name);
        }
    }

    /// The pid recorded in a slot; 0 if there is none.
    pub(crate) fn pid_of(&self, slot: u32) -> u32 {
        self.slot_at(slot)
            .and_then(ParticipantSlot::user)
            .map_or(0, |(pid, _)| pid)
    }

    /// The pid of the user number `generation` of a slot; 0 if another one has the slot now.
    pub(crate) fn pid_of_user(&self, slot: u32, generation: u32) -> u32 {
        let pid = self.pid_of(slot);
        let now = self
            .slot_at(slot)
            .map_or(0, |slot| slot.generation.load(Ordering::Acquire));
        // Acquire, and after the pid: a new user writes its generation first, so whoever read its pid sees that too.
        if now == u64::from(generation) { pid } else { 0 }
    }

    /// Whether the user number `generation` of a slot is certainly dead or detached. Never true of a live one.
    pub(crate) fn is_dead(&self, slot: u32, generation: u32) -> bool {
        let Some(participant) = self.slot_at(slot) else {
            return false;
        };
        // Acquire pairs with the Release in `fill`.
        if participant.generation.load(Ordering::Acquire) != u64::from(generation) {
            return true;
        }
        self.user_is_dead(slot, participant)
    }

    /// Whether the thread `tid` of the user of a slot is certainly dead. The caller has read the two, with
    /// Acquire, from a word that the thread wrote, and replaces only exactly what it read.
    pub(crate) fn thread_is_dead(&self, slot: u32, tid: u32) -> bool {
        // A word that names a slot beyond the table is damage: nobody ever wrote it, but nothing is proved.
        let Some(participant) = self.slot_at(slot) else {
            return false;
        };
        if self.user_is_dead(slot, participant) {
            return true;
        }
        match participant.user() {
            None => true,
            Some((pid, identity)) => {
                let lives = self.is_own(pid, identity) || process::state(pid, identity) == Process::Alive;
                lives && process::thread_is_gone(pid, tid)
            }
        }
    }

    fn user_is_dead(&self, slot: u32, participant: &ParticipantSlot) -> bool {
        // The order matters: the user first, then its byte. Had another user come in between, the byte is locked, and a
        // free one says that both are gone.
        let Some((pid, identity)) = participant.user() else {
            return true;
        };
        process::state(pid, identity) == Process::Ended || self.byte_is_free(slot)
    }

    /// Whether the descriptor of the lock file still is that: this process may have closed it, and opened something else.
    fn is_lock_file(&self) -> bool {
        file::identity(&self.lock_file).is_ok_and(|is| is == self.lock_file_is)
    }

    /// Whether nobody has the byte of a slot; `false` if that cannot be told.
    fn byte_is_free(&self, slot: u32) -> bool {
        // Twice: a program that closes all its descriptors may do so in another thread, at any moment.
        self.is_lock_file()
            && matches!(file::byte_is_locked(&self.lock_file, u64::from(slot)), Ok(false))
            && self.is_lock_file()
    }

    /// Whether a slot belongs to this process, perhaps by another attachment.
    pub(crate) fn is_this_process(&self, slot: u32) -> bool {
        let user = self.slot_at(slot).and_then(ParticipantSlot::user);
        user.is_some_and(|(pid, identity)| self.is_own(pid, identity))
    }

    fn is_own(&self, pid: u32, identity: u64) -> bool {
        (pid, identity) == (self.pid, self.identity)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // A forked child has only a copy: the slot is its parent's.
        if self.is_forked() {
            return;
        }
        self.gate.close();
        if let Some(slot) = self.slot_at(self.slot) {
            // Release: what this process did comes before it is gone.
            slot.pid.store(0, Ordering::Release);
        }
        // The byte is released with the claim, after this.
    }
}

/// Others must see our byte locked, or they could take us for dead. That is tried on a byte that stands for no slot:
/// where it fails, two processes could otherwise be in one slot until they noticed.
fn check_lock_file(lock_file: &OwnedFd) -> Result<(), AttachError> {
    // No other thread tries the same byte.
    let byte = PARTICIPANTS as u64 + u64::from(process::thread_id());
    let claims = Claims::on(lock_file).map_err(failed("opening and mapping its lock file"))?;
    let locked = claims
        .try_lock(byte)
        .map_err(failed("locking a byte of the lock file"))?;
    let _claim = claims.tie();
    if locked && file::byte_is_locked(lock_file, byte).map_err(failed("looking at a byte of the lock file"))? {
        return Ok(());
    }
    let why = "the file system of the lock file does not keep it open while it is mapped, as overlayfs: use a lock \
               file in /dev/shm";
    Err(AttachError::Unsupported(why.into()))
}

fn next_key() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, StdOrdering::Relaxed)
}

/// Takes a slot whose byte is free, which proves that its recorded user is gone: the next one in turn.
fn take_slot(
    table: &[ParticipantSlot],
    claims: &Claims,
    turn: &Word64,
    for_each_lock: ForEachLock<'_>,
) -> Result<u32, AttachError> {
    let count = table.len() as u64;
    // Relaxed: two who come at once try for the same slot, and one of them goes on to the next.
    let first = turn.load(Ordering::Relaxed) % count.max(1);
    for number in (first..count).chain(0..first) {
        if !claims
            .try_lock(number)
            .map_err(failed("locking a byte of the lock file"))?
        {
            continue;
        }
        let slot = number as u32;
        if table[number as usize].was_used() {
            for_each_lock(&mut |lock| lock.abandon(slot));
        }
        turn.store(number + 1, Ordering::Relaxed);
        return Ok(slot);
    }
    Err(AttachError::Full { slots: table.len() })
}

#[cfg(test)]
mod tests;
