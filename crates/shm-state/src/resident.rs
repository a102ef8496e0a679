//! Memory that is in this process's page tables before it is touched.
//!
//! **Guarantee.** Once a mapping was made resident, all of its memory that this process knows of is in its page tables:
//! what the arena had at that time, what the call added, and whatever is added later, by whichever process, as soon as
//! this one takes note of it ([`crate::arena::Mapping`] does, before it hands out a reference into it). So a loop that
//! is to be on time meets no page fault in it, neither for a page that another process wrote nor for a new one.
//!
//! **Never a hole.** Only memory that `fallocate` had is populated. The kernel would otherwise take pages for the holes
//! of the file, up to its whole capacity, and on a full file system stop half way.
//!
//! **Locking** covers the address range of the whole capacity at once, with the pages being locked as they are touched:
//! so the limit of the process is asked for once, when the arena is opened, and growth cannot fail of it later.
//!
//! All of it belongs to this process: another one that maps the arena has page tables of its own, a forked child too.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::error::{Error, Result};
use crate::layout::GRANULE;
use crate::sys::memory;

/// What this process does for an arena's memory beforehand; see [`Arena::make_resident`](crate::Arena::make_resident).
///
/// ```
/// use shm_state::{Arena, ArenaOptions, Residency};
///
/// let arena = Arena::anonymous(&ArenaOptions::default())?;
/// assert!(arena.status()?.committed < 4 << 20);
/// arena.make_resident(Residency { prefault: Some(4 << 20), ..Residency::default() })?;
/// assert_eq!(arena.status()?.committed, 4 << 20);
/// # Ok::<(), shm_state::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Residency {
    /// Has the page tables of this process filled, for all memory that the arena has and for what it is given later. Not
    /// 0: the arena is given so many bytes at least, its tables included, or its capacity if that is less. `None`: memory
    /// is looked up when it is first touched.
    pub prefault: Option<u64>,
    /// Has the memory locked, so that it is not swapped out. Includes `prefault`.
    pub lock: bool,
}

impl Residency {
    /// Bytes that the arena is to have; `None` if nothing is asked for.
    pub(crate) fn wanted(self) -> Option<u64> {
        self.prefault.or(self.lock.then_some(0))
    }
}

/// How much of a mapping is resident.
#[derive(Default)]
pub struct Resident {
    wanted: AtomicBool,
    locked: AtomicBool,
    /// Granules from the start that are in the page tables.
    populated: AtomicU32,
}

impl Resident {
    /// From now on memory is to be populated. The caller populates what is there.
    pub fn want(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    /// Whether memory is to be populated. Relaxed: who does not see it yet meets page faults, and that is all.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Populates the first `granules` granules, all of which exist.
    ///
    /// # Safety
    /// `base` is the start of a mapping of that much memory at least, which stays mapped meanwhile.
    #[cold]
    pub unsafe fn extend(&self, base: NonNull<u8>, granules: u32) -> Result<()> {
        let from = self.populated.load(Ordering::Relaxed) as usize * GRANULE;
        let to = granules as usize * GRANULE;
        if to <= from {
            return Ok(());
        }
        // SAFETY: inside of the mapping, by the caller's promise.
        let start = unsafe { base.add(from) };
        // SAFETY: the caller's promise; both ends are multiples of a page, since a superblock and chunks are.
        let done = unsafe { memory::populate(start, to - from) };
        done.map_err(Error::os(format!("populating {} bytes of the arena", to - from)))?;
        // Of two threads that are at it together one does it in vain.
        self.populated.fetch_max(granules, Ordering::Relaxed);
        Ok(())
    }

    /// Locks the whole mapping, once.
    pub fn lock(&self, base: NonNull<u8>, capacity: u64) -> Result<()> {
        if self.locked.load(Ordering::Relaxed) {
            return Ok(());
        }
        memory::lock(base, capacity as usize).map_err(Error::memory_lock(capacity))?;
        self.locked.store(true, Ordering::Relaxed);
        Ok(())
    }
}
