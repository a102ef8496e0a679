//! A namespace as this process sees it: resolved pointers to its control block, and what only this process keeps.

use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;

use crate::arena::Mapping;
use crate::error::{Error, Result};
use crate::layout::{Control, Entry, LogSlot, SEATS, Seat, SeatBlock, Version, high, low, pack};
use crate::lock::{LockError, LockGuard, MOST_HELD, Owner, Taken, WriterLock};
use crate::log::Record;
use crate::participant::{Attachment, Name};
use crate::sync::{ANY, Ordering, Word, Word64};
use crate::sys::time::Deadline;
use crate::write::Scratch;
use crate::writers::Writers;

/// No namespace has so many commits: at four million a second it takes 36,000 years, and as long again until a number
/// reaches the highest bit, which has another meaning in the marker (see `record`).
const MOST_COMMITS: u64 = 1 << 62;

/// How much history a namespace keeps.
///
/// ```
/// use shm_state::{Arena, ArenaOptions, History};
///
/// let history = History { count: 10_000, bytes: 256 << 20 };
/// let arena = Arena::anonymous(&ArenaOptions { history, ..Default::default() })?;
/// # arena.namespace("default")?;
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// Commits that are kept at least; up to twice as many are.
    pub count: u32,
    /// Bytes of superseded values that are kept at most.
    pub bytes: u64,
}

/// This process's membership of an arena, and the memory that it writes to until the end.
pub struct Membership {
    // Dropped first: leaving writes to the arena.
    attachment: Attachment,
    writers: Writers,
    mapping: Arc<Mapping>,
}

impl Membership {
    /// Ties a membership to its memory.
    pub fn new(attachment: Attachment, mapping: Arc<Mapping>) -> Self {
        Self {
            attachment,
            writers: Writers::default(),
            mapping,
        }
    }

    /// The fork epoch of this process, see [`fork`](crate::sys::fork).
    pub fn epoch(&self) -> u64 {
        self.attachment.epoch()
    }

    /// Whether this is still the process that attached, and not a forked child of it.
    #[inline(always)]
    pub fn is_current(&self) -> bool {
        !self.attachment.is_forked()
    }

    /// What stands in a seat that this process owns.
    pub fn owner_word(&self) -> u64 {
        pack(self.attachment.slot() + 1, self.attachment.generation())
    }

    /// Whether the owner of a seat is certainly dead.
    pub fn is_dead_owner(&self, owner: u64) -> bool {
        low(owner)
            .checked_sub(1)
            .is_some_and(|slot| self.attachment.is_dead(slot, high(owner)))
    }

    /// What this process knows of the others.
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// From here on this process goes by another name here.
    pub fn rename(&self, name: Name) {
        self.attachment.rename(name);
    }

    /// The name of the process that made a commit; `None` if nothing is known of it any more.
    pub fn writer_name(&self, record: &Record) -> Option<Arc<str>> {
        self.writers.name(&self.attachment, record)
    }

    /// Takes a lock of the arena.
    #[inline(always)]
    pub fn lock<'a>(&'a self, lock: &'a WriterLock, deadline: Deadline) -> Result<LockGuard<'a>> {
        let taken = match self.attachment.take_at_hand(lock) {
            Some(taken) => taken,
            None => match self.take(lock, deadline) {
                Ok(taken) => taken,
                Err(error) => return Err(*error),
            },
        };
        Ok(LockGuard::new(&self.attachment, lock, taken))
    }

    /// The first lock of a thread through this membership comes this way, so whoever may only read gets no further.
    #[cold]
    #[inline(never)]
    fn take(&self, lock: &WriterLock, deadline: Deadline) -> Result<Taken, Box<Error>> {
        if self.mapping.is_read_only() {
            return Err(Box::new(self.read_only()));
        }
        let taken = self.attachment.take(lock, deadline);
        taken.map_err(|error| Box::new(lock_error(*error)))
    }

    #[cold]
    fn read_only(&self) -> Error {
        if self.is_current() {
            Error::ReadOnly
        } else {
            Error::Forked
        }
    }

    /// Process and thread that hold a lock.
    pub fn holder(&self, lock: &WriterLock) -> Option<(u32, u32)> {
        self.attachment.holder(lock)
    }
}

#[cold]
fn lock_error(error: LockError) -> Error {
    match error {
        LockError::TimedOut { pid, tid } => Error::LockTimeout { pid, tid },
        LockError::Deadlock => Error::Deadlock,
        LockError::Forked => Error::Forked,
        LockError::TooManyHeld => Error::TooManyTransactions(MOST_HELD),
        LockError::Unsupported(why) => Error::Unsupported(why.to_string()),
    }
}

/// One namespace of one arena, shared by everything in this process that uses it.
pub struct Space {
    /// A number that no other space of this process has, had, or will have.
    pub number: u64,
    /// The memory. Keeps alive what the pointers below point to.
    pub mapping: Arc<Mapping>,
    /// This process's membership of the arena.
    pub attachment: Arc<Membership>,
    /// Its name.
    pub name: String,
    /// Its place in the directory, which is also its name in the chunk map.
    pub index: u32,
    /// The first granule of its heap.
    pub heap_start: u32,
    /// How much history it keeps.
    pub history: History,
    control: NonNull<Control>,
    log: NonNull<LogSlot>,
    log_mask: u64,
    /// Buffers of the transaction under way; only the owner of the writer lock touches them.
    scratch: UnsafeCell<Scratch>,
    /// Seats that this process has taken and nobody uses at the moment.
    idle_seats: Mutex<Vec<SeatPtr>>,
}

/// A seat of this process. The space that it belongs to keeps it mapped.
#[derive(Clone, Copy)]
struct SeatPtr(NonNull<Seat>);

// SAFETY: seats are made of atomic words in shared memory.
unsafe impl Send for SeatPtr {}
// SAFETY: the pointers refer to atomic words in shared memory that `mapping` keeps mapped; `scratch` is only touched
// by the owner of the namespace's writer lock, which one thread at a time can be.
unsafe impl Send for Space {}
// SAFETY: as above.
unsafe impl Sync for Space {}

impl Space {
    /// Resolves the control block at `granule`, after checking that it is one.
    pub fn new(
        mapping: Arc<Mapping>,
        attachment: Arc<Membership>,
        name: String,
        granule: u32,
        history: History,
    ) -> Result<Self> {
        let damaged = |what: &str| Error::corrupt(format!("namespace {name:?}: {what}"));
        let control: &Control = mapping
            .at(granule)
            .ok_or_else(|| damaged("its control block is out of bounds"))?;
        if control.magic.load(Ordering::Relaxed) != crate::layout::CONTROL_MAGIC || !granule.is_multiple_of(2) {
            return Err(damaged("its control block has the wrong magic number"));
        }
        let bits = control.log_bits.load(Ordering::Relaxed);
        if !(2..=24).contains(&bits) {
            return Err(damaged("the size of its log is out of range"));
        }
        let log_granule = granule + (size_of::<Control>() / crate::layout::GRANULE) as u32;
        let log: &[LogSlot] = mapping
            .slice(log_granule as usize * crate::layout::GRANULE, 1 << bits)
            .ok_or_else(|| damaged("its log is out of bounds"))?;
        let seq = control.reader.seq.load(Ordering::Relaxed);
        if seq >= MOST_COMMITS {
            return Err(damaged(&format!(
                "its newest commit says {seq}, which no writer reaches"
            )));
        }
        let index = control.index.load(Ordering::Relaxed);
        let index = u32::try_from(index).map_err(|_| damaged("its index is out of range"))?;
        // The chunk map knows the namespace by its index: a wrong one would take the chunks of another.
        let directory: Option<&[Word64]> = mapping.table(mapping.sections().directory, crate::layout::NAMESPACES);
        let entry = directory
            .and_then(|d| d.get(index as usize))
            .map(|entry| entry.load(Ordering::Acquire));
        if entry != Some(u64::from(granule)) {
            return Err(damaged("its index is not its place in the directory"));
        }
        let heap_start = log_granule + (1u32 << bits);
        let (control, log_mask) = (NonNull::from(control), (1u64 << bits) - 1);
        let log = NonNull::from(&log[0]);
        // Relaxed: the number is all that counts.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Ok(Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            mapping,
            attachment,
            name,
            index,
            heap_start,
            history,
            control,
            log,
            log_mask,
            scratch: UnsafeCell::default(),
            idle_seats: Mutex::default(),
        })
    }

    /// The control block.
    #[inline(always)]
    pub fn control(&self) -> &Control {
        // SAFETY: `new` took it from a checked reference into `mapping`, which this space keeps mapped and backed.
        unsafe { self.control.as_ref() }
    }

    /// The log slot of a commit.
    #[inline(always)]
    pub fn log_slot(&self, seq: u64) -> &LogSlot {
        // SAFETY: `new` checked the whole ring to be in bounds; the mask keeps the index inside it.
        unsafe { &*self.log.as_ptr().wrapping_add((seq & self.log_mask) as usize) }
    }

    /// Slots of the log ring.
    pub fn log_len(&self) -> u64 {
        self.log_mask + 1
    }

    /// The buffers of the transaction under way.
    ///
    /// # Safety
    /// The caller holds the writer lock of this namespace for the returned lifetime, and asks once a lock.
    #[allow(clippy::mut_from_ref, reason = "exclusive by the writer lock, see Safety")]
    pub unsafe fn scratch(&self) -> &mut Scratch {
        // SAFETY: exclusive, by the contract above.
        unsafe { &mut *self.scratch.get() }
    }

    /// The newest visible commit.
    #[inline(always)]
    pub fn seq(&self) -> u64 {
        // Acquire pairs with the store of `seq` that made the commit visible.
        self.control().reader.seq.load(Ordering::Acquire)
    }

    /// Begins to fetch what a watcher will read of commit `seq`, all of it at once: a line that another core has just
    /// written takes a hundred nanoseconds, and one would wait for each after the other.
    #[inline]
    pub fn fetch_ahead(&self, seq: u64) {
        let hint = self.control().reader.hint.load(Ordering::Relaxed);
        let memory = self.mapping.recent();
        // Nobody waits for these loads, and what they see does not matter.
        let touch = |word: &Word64| {
            std::hint::black_box(word.load(Ordering::Relaxed));
        };
        touch(&self.log_slot(seq).seq);
        if let Some(entry) = memory.at::<Entry>(low(hint)) {
            touch(&entry.newest);
        }
        if let Some(version) = memory.at::<Version>(high(hint)) {
            touch(&version.len);
        }
    }

    /// See [`Attachment::is_current`].
    #[inline(always)]
    pub fn is_current(&self) -> bool {
        self.attachment.is_current()
    }

    /// Errors in a forked child, which does not own what its parent attached.
    #[inline(always)]
    pub fn check_fork(&self) -> Result<()> {
        if self.is_current() { Ok(()) } else { Err(Error::Forked) }
    }

    /// The id of this process, for one that is not a forked child: see [`Space::check_fork`].
    #[inline(always)]
    pub fn pid(&self) -> u32 {
        self.attachment.attachment.pid()
    }

    /// Takes the writer lock.
    #[inline(always)]
    pub fn lock(&self, deadline: Deadline) -> Result<LockGuard<'_>> {
        self.attachment.lock(&self.control().lock, deadline)
    }

    /// The guard of the writer lock again, see [`LockGuard::into_owner`].
    pub fn guard_of(&self, owner: Owner) -> LockGuard<'_> {
        LockGuard::of_owner(&self.attachment.attachment, &self.control().lock, owner)
    }

    /// Wakes everybody who sleeps on anything here.
    pub fn wake_all(&self) {
        // The fence of `event` between what the sleepers look at and the look at the sleepers.
        Word64::fence(Ordering::SeqCst);
        let control = self.control();
        for event in control.events.iter().chain([&control.any]) {
            for sleepers in &event.sleepers {
                crate::event::signal(&event.futex, sleepers, ANY);
            }
        }
    }

    /// All seats: those of the control block, then those of further blocks. Damage ends the walk.
    pub fn seats(&self) -> impl Iterator<Item = &Seat> {
        let control = self.control();
        let mut next = control.writer.seats_next.load(Ordering::Acquire);
        let (mut known, mut passed) = (0, 0);
        let blocks = std::iter::from_fn(move || self.seat_block(&mut next, &mut known, &mut passed));
        // Blocks are only added under the writer lock, so whoever raises the floor sees them all. There are never more.
        control
            .seats
            .iter()
            .chain(blocks.take(crate::seats::MOST_BLOCKS).flat_map(|b| b.seats.iter()))
    }

    /// The next block of seats, unless the chain comes back to one: what is `known` moves on ever more slowly.
    #[cold]
    fn seat_block(&self, next: &mut u64, known: &mut u64, passed: &mut u32) -> Option<&SeatBlock> {
        if *next == *known {
            return None;
        }
        if passed.is_power_of_two() {
            *known = *next;
        }
        *passed += 1;
        // Acquire pairs with the Release that chained the block, whose seats were cleared before.
        let block: &SeatBlock = self.mapping.at(u32::try_from(*next).ok()?)?;
        *next = block.next.load(Ordering::Acquire);
        Some(block)
    }

    /// A seat for this process: an idle one, or a free one. `None` when all are taken.
    pub fn take_seat(&self) -> Option<&Seat> {
        if let Some(seat) = self.idle_seats.lock().pop() {
            // SAFETY: it came from `seats` of this very space, whose memory is still mapped.
            return Some(unsafe { seat.0.as_ref() });
        }
        let mine = self.attachment.owner_word();
        // Who maps for reading may write to the control block, and not to further blocks of seats.
        let reachable = if self.mapping.is_read_only() { SEATS } else { usize::MAX };
        // AcqRel: what the last owner stored into the seat happened before.
        self.seats().take(reachable).find(|seat| {
            seat.owner.load(Ordering::Relaxed) == 0
                && seat
                    .owner
                    .compare_exchange(0, mine, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
        })
    }

    /// Keeps a seat for the next who needs one in this process. Nothing may be pinned or watched through it.
    pub fn return_seat(&self, seat: &Seat) {
        if self.attachment.is_current() {
            // A pin that was forgotten (`mem::forget`) ends here too: nobody can read through it any more.
            seat.pin.store(crate::pin::NONE, Ordering::Release);
            seat.cursor.store(0, Ordering::Relaxed);
            self.idle_seats.lock().push(SeatPtr(NonNull::from(seat)));
        }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if !self.attachment.is_current() {
            return; // a forked child: the seats are its parent's
        }
        for seat in self.idle_seats.lock().drain(..) {
            // SAFETY: as in `take_seat`.
            let seat = unsafe { seat.0.as_ref() };
            // Release: our last use of the seat happens before its next owner's first.
            seat.owner.store(0, Ordering::Release);
        }
    }
}
