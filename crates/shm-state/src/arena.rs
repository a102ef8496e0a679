//! One shared mapping: where offsets become references, and nowhere else.
//!
//! **Guarantee.** Every reference handed out lies in memory that is mapped and backed: [`Mapping::at`] checks the
//! granule against `committed`, which grows only *after* `fallocate` had the memory. So a full file system is an
//! error in [`Mapping::grow`] and never a SIGBUS, whatever offset a reader picked up from a recycled block. What
//! [`Mapping::at`] and [`Mapping::slice`] hand out lies behind superblock, participants and directory, so that a writer who
//! meets a damaged granule cannot ruin those: they are only had by their own names.
//!
//! **Who writes what.** The head of the superblock is written once, before the arena has a name. `committed` is
//! raised by compare-and-swap by whoever needs room; a process that dies after `fallocate` leaves backed but unused
//! memory, which the next one finds.
//!
//! **The address range** of the whole capacity is reserved once, so references stay valid while the arena grows.
//! Each process caches `committed`: a stale cache is too small, never too large. If the mapping is to be resident
//! (`resident`), the cache is raised only after what is new was populated.

use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crossbeam_utils::Backoff;

use crate::error::{Error, Result};
use crate::layout::{CHUNK, CHUNK_GRANULES, GRANULE, SUPERBLOCK_HEAD_WORDS, Sections, Shared, Superblock, Table};
use crate::news::{Event, News};
use crate::resident::{Residency, Resident};
use crate::sync::{Ordering, Word, Word64};
use crate::sys::{file, memory};

/// The memory of an arena in this process.
pub struct Mapping {
    base: NonNull<u8>,
    capacity: u64,
    /// Granules that are known to be backed; see the module header.
    committed: AtomicU32,
    /// How many granules from [`FIRST`] on are known to be backed.
    behind_tables: AtomicU32,
    /// See [`News`].
    news: News,
    sections: Sections,
    resident: Resident,
    backing: Backing,
    /// This process may write to some of its pages only; see [`Mapping::of_file_read_only`].
    read_only: bool,
}

/// The backed memory of a mapping, as one moment saw it: base and bound in two registers, for the hot paths.
#[derive(Clone, Copy)]
pub struct Memory<'a> {
    base: NonNull<u8>,
    granules: u32,
    mapping: PhantomData<&'a Mapping>,
}

// SAFETY: as for `Mapping`, which it borrows: only atomic words are reached through it.
unsafe impl Send for Memory<'_> {}
// SAFETY: as above.
unsafe impl Sync for Memory<'_> {}

impl<'a> Memory<'a> {
    /// As [`Mapping::at`], for memory that was backed at that moment.
    #[inline(always)]
    pub fn at<T: Shared>(self, granule: u32) -> Option<&'a T> {
        let size = size_of::<T>().div_ceil(GRANULE) as u32;
        if granule == 0 || granule > self.granules.saturating_sub(size) {
            return None;
        }
        // SAFETY: as in `Blocks::at`; the mapping outlives `'a`. There are more granules than any structure has.
        Some(unsafe { &*self.base.as_ptr().wrapping_add(granule as usize * GRANULE).cast::<T>() })
    }

    /// The groups of `1 << bits` words of an index, which follow its head at a granule. None of less than a granule.
    #[inline(always)]
    pub fn groups<const GROUP: usize>(self, granule: u32, bits: u8) -> Option<&'a [[Word64; GROUP]]> {
        const { assert!(size_of::<Table>() == GRANULE && 2 * size_of::<[Word64; GROUP]>() == GRANULE) };
        // No index has as many as would overflow.
        let granules = (1u64 << (bits & 63)) / (2 * GROUP as u64);
        let (groups, end) = (2 * granules, u64::from(granule) + 1 + granules);
        if granule == 0 || end > u64::from(self.granules) {
            return None;
        }
        let first = self.base.as_ptr().wrapping_add((granule as usize + 1) * GRANULE);
        // SAFETY: as in `Blocks::at`, for the whole range.
        Some(unsafe { std::slice::from_raw_parts(first.cast::<[Word64; GROUP]>(), groups as usize) })
    }

    /// `count` words from `skip` bytes behind the start of a granule.
    #[inline(always)]
    pub fn words(self, granule: u32, skip: usize, count: usize) -> Option<&'a [Word64]> {
        self.behind(granule as usize * GRANULE + skip)?.get(..count)
    }

    /// All words from a byte offset on.
    #[inline(always)]
    fn behind(self, offset: usize) -> Option<&'a [Word64]> {
        let room = (self.granules as usize * GRANULE).checked_sub(offset)? / size_of::<Word64>();
        // SAFETY: as in `Blocks::at`, for the whole range; `offset` is a multiple of 8 wherever this is called.
        Some(unsafe { std::slice::from_raw_parts(self.base.as_ptr().wrapping_add(offset).cast::<Word64>(), room) })
    }
}

/// Words of the arena as plain bytes, the first `len` of them.
///
/// # Safety
/// Nobody writes to these words for as long as `'a`, and whoever wrote them did so before this call.
#[inline(always)]
pub unsafe fn as_bytes(words: &[Word64], len: usize) -> &[u8] {
    // SAFETY: the words lie in backed memory that stays mapped for as long as the reference, any bits of them are valid
    // bytes, and by the contract above nobody writes them meanwhile.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<u8>(), len.min(size_of_val(words))) }
}

/// The first granule behind the tables of the smallest arena, and so behind superblock, participants and directory of
/// each: a constant, since a field here costs every commit a nanosecond. Of the chunk map it leaves out the beginning.
const FIRST: u32 = Sections::of(0).first_chunk * CHUNK_GRANULES;

/// The backed memory behind the tables, as one moment saw it: for writers, who must not touch the tables by mistake.
#[derive(Clone, Copy)]
pub struct Blocks<'a> {
    base: NonNull<u8>,
    granules: u32,
    mapping: PhantomData<&'a Mapping>,
}

impl<'a> Blocks<'a> {
    /// As [`Mapping::at`], for memory that was backed at that moment.
    #[inline(always)]
    pub fn at<T: Shared>(self, granule: u32) -> Option<&'a T> {
        // A granule below wraps to one that is behind any memory, so that one comparison serves both ends.
        let end = u64::from(granule.wrapping_sub(FIRST)) + size_of::<T>().div_ceil(GRANULE) as u64;
        if end > u64::from(self.granules) {
            return None;
        }
        // SAFETY: the range was checked to lie in backed memory of the mapping, which lives as long as `'a` and is never
        // unbacked (files only grow; nobody punches holes). `T: Shared` is valid for any bits, and a granule is aligned
        // to 64 bytes from a page-aligned base; types aligned to more are only placed where that holds.
        Some(unsafe { &*self.base.as_ptr().wrapping_add(granule as usize * GRANULE).cast::<T>() })
    }
}

/// What the memory belongs to.
enum Backing {
    /// A file that this process mapped.
    File { _map: memmap2::MmapRaw, file: OwnedFd },
    /// Memory that the caller brought, mapped and backed in whole for as long as it is used.
    Caller,
}

// SAFETY: the pointer refers to shared memory that is accessed only through atomic words.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `capacity` bytes of `file`.
    pub fn of_file(file: OwnedFd, capacity: u64) -> Result<Self> {
        Self::of(file, capacity, false)
    }

    /// Maps `capacity` bytes of `file` for reading, but for superblock and participants, which every process writes to.
    /// A store to anything else is a signal, until [`Mapping::allow_writing`] was called for it.
    pub fn of_file_read_only(file: OwnedFd, capacity: u64) -> Result<Self> {
        let mapping = Self::of(file, capacity, true)?;
        mapping.allow_writing_to(0..mapping.sections.directory)?;
        Ok(mapping)
    }

    fn of(file: OwnedFd, capacity: u64, read_only: bool) -> Result<Self> {
        let len = usize::try_from(capacity).map_err(|_| Error::InvalidOption {
            option: "capacity",
            value: capacity,
            reason: "it is larger than the address space",
        })?;
        let mut options = memmap2::MmapOptions::new();
        options.len(len).no_reserve_swap();
        let map = if read_only {
            options.map_raw_read_only(&file)
        } else {
            options.map_raw(&file)
        };
        let map = map.map_err(Error::mapping(capacity))?;
        // A core dump reads every page, which would back the whole capacity. Where that cannot be had it costs memory only.
        let _ = map.advise(memmap2::Advice::DontDump);
        let base = NonNull::new(map.as_mut_ptr()).ok_or_else(|| Error::corrupt("the mapping is at address 0"))?;
        let mapping = Self::new(base, capacity, Backing::File { _map: map, file });
        Ok(Self { read_only, ..mapping })
    }

    /// Whether this process may write to some of its pages only.
    #[inline(always)]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Lets this process write to the pages that `item` lies on, with their neighbours on these pages.
    pub fn allow_writing<T: Shared>(&self, item: &T) -> Result<()> {
        let offset = self.offset_of(item) as usize;
        self.allow_writing_to(offset..offset + size_of::<T>())
    }

    fn allow_writing_to(&self, bytes: std::ops::Range<usize>) -> Result<()> {
        if !self.read_only {
            return Ok(());
        }
        let start = bytes.start / memory::PAGE * memory::PAGE;
        let length = bytes.end.next_multiple_of(memory::PAGE) - start;
        // Within the mapping, which begins at a page and is a multiple of chunks long.
        let Some(at) = NonNull::new(self.base.as_ptr().wrapping_add(start)) else {
            return Err(Error::corrupt("the mapping is at address 0"));
        };
        // SAFETY: the range lies in this mapping of a file that was opened for reading and writing, at a page.
        unsafe { memory::allow_writing(at, length) }.map_err(Error::os("mprotect of the arena"))
    }

    /// Uses memory of the caller.
    ///
    /// # Safety
    /// `base` must be aligned to 4,096 bytes and point to `capacity` bytes of shared memory that stay mapped,
    /// readable and writable until the arena is dropped, and that nobody accesses but through this crate.
    pub unsafe fn of_caller(base: NonNull<u8>, capacity: u64) -> Self {
        Self::new(base, capacity, Backing::Caller)
    }

    fn new(base: NonNull<u8>, capacity: u64, backing: Backing) -> Self {
        let sections = Sections::of(capacity);
        Self {
            base,
            capacity,
            committed: AtomicU32::new(0),
            behind_tables: AtomicU32::new(0),
            news: News::default(),
            sections,
            resident: Resident::default(),
            backing,
            read_only: false,
        }
    }

    /// Backs the tables at the start of a new arena with memory.
    pub fn commit_tables(&self) -> Result<()> {
        let bytes = u64::from(self.sections.first_chunk) * CHUNK as u64;
        self.back(0, bytes)?;
        self.know((bytes / GRANULE as u64) as u32);
        self.superblock()?
            .committed
            .store(bytes / GRANULE as u64, Ordering::Release);
        Ok(())
    }

    /// Takes over what the superblock says about backed memory.
    pub fn trust_committed(&self) -> Result<()> {
        // The superblock page was backed before the arena got its name.
        self.know((4096 / GRANULE) as u32);
        self.refresh();
        let tables = u64::from(self.sections.first_chunk) * CHUNK as u64;
        if u64::from(self.committed.load(Relaxed)) * (GRANULE as u64) < tables {
            return Err(Error::corrupt(format!(
                "its tables of {tables} bytes are not backed by memory"
            )));
        }
        Ok(())
    }

    /// Bytes that the arena may grow to.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// What happened here and was not told yet.
    #[inline(always)]
    pub fn news(&self) -> &News {
        &self.news
    }

    /// Where the tables lie.
    pub fn sections(&self) -> &Sections {
        &self.sections
    }

    /// The file under the arena, if this process mapped one.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        match &self.backing {
            Backing::File { file, .. } => Some(file.as_fd()),
            Backing::Caller => None,
        }
    }

    /// The superblock.
    pub fn superblock(&self) -> Result<&Superblock> {
        self.at_byte(0)
            .ok_or_else(|| Error::corrupt("its superblock is not backed by memory"))
    }

    /// The words of the superblock that never change, and their checksum.
    pub fn head_words(&self) -> Result<&[Word64]> {
        let superblock = self.superblock()?;
        // SAFETY: a superblock begins with these words, and is backed as a whole.
        Ok(unsafe {
            std::slice::from_raw_parts(
                std::ptr::from_ref(superblock).cast::<Word64>(),
                SUPERBLOCK_HEAD_WORDS + 1,
            )
        })
    }

    /// The structure at a granule, or `None` when it would not lie in backed memory behind the tables.
    #[inline(always)]
    pub fn at<T: Shared>(&self, granule: u32) -> Option<&T> {
        match self.blocks().at(granule) {
            Some(found) => Some(found),
            None => self.at_in_grown(granule),
        }
    }

    #[cold]
    #[inline(never)]
    fn at_in_grown<T: Shared>(&self, granule: u32) -> Option<&T> {
        self.refresh();
        self.blocks().at(granule)
    }

    /// What lies behind the tables, as this process last saw it.
    #[inline(always)]
    pub fn blocks(&self) -> Blocks<'_> {
        Blocks {
            base: self.base,
            granules: self.behind_tables.load(Relaxed),
            mapping: PhantomData,
        }
    }

    /// The structure at a byte offset that is a multiple of its alignment.
    pub fn at_byte<T: Shared>(&self, offset: usize) -> Option<&T> {
        let end = (offset + size_of::<T>()).div_ceil(GRANULE) as u64;
        let superblock = end * GRANULE as u64 <= 4096;
        if !offset.is_multiple_of(align_of::<T>()) || !(superblock || self.backed(end)) {
            return None;
        }
        // SAFETY: as in `Blocks::at`; the superblock's page is backed before a mapping is made of an existing arena, and
        // by `commit_tables` or `trust_committed` before anything is read from a new one.
        Some(unsafe { &*self.base.as_ptr().wrapping_add(offset).cast::<T>() })
    }

    /// `count` consecutive structures from a byte offset behind the tables.
    #[inline(always)]
    pub fn slice<T: Shared>(&self, offset: usize, count: usize) -> Option<&[T]> {
        if offset < FIRST as usize * GRANULE {
            return None;
        }
        self.table(offset, count)
    }

    /// The word at a byte offset, if it is one that a commit may change: of the chunk map, or behind the tables.
    #[inline(always)]
    pub fn assignable(&self, offset: u64) -> Option<&Word64> {
        let from = self.sections.chunk_map;
        // Below, or no multiple of 8: a number behind any memory.
        let number = (offset as usize).wrapping_sub(from).rotate_right(3);
        match self.recent().behind(from)?.get(number) {
            Some(word) => Some(word),
            None => self.assignable_in_grown(number),
        }
    }

    #[cold]
    fn assignable_in_grown(&self, number: usize) -> Option<&Word64> {
        self.memory().behind(self.sections.chunk_map)?.get(number)
    }

    /// `count` consecutive structures from a byte offset, of the tables too.
    #[inline(always)]
    pub fn table<T: Shared>(&self, offset: usize, count: usize) -> Option<&[T]> {
        let bytes = count.checked_mul(size_of::<T>())?;
        let end = offset.checked_add(bytes)?.div_ceil(GRANULE) as u64;
        if !offset.is_multiple_of(align_of::<T>()) || !self.backed(end) {
            return None;
        }
        // SAFETY: as in `Blocks::at`, for the whole range.
        Some(unsafe { std::slice::from_raw_parts(self.base.as_ptr().wrapping_add(offset).cast::<T>(), count) })
    }

    /// Where a word lies, as the byte offset that records and notes use.
    #[inline(always)]
    pub fn offset_of<T: Shared>(&self, item: &T) -> u64 {
        (std::ptr::from_ref(item) as usize - self.base.as_ptr() as usize) as u64
    }

    /// Whether the first `granules` granules are backed.
    #[inline(always)]
    fn backed(&self, granules: u64) -> bool {
        granules <= u64::from(self.committed.load(Relaxed)) || self.refresh_for(granules)
    }

    #[cold]
    fn refresh_for(&self, granules: u64) -> bool {
        self.refresh();
        granules <= u64::from(self.committed.load(Relaxed))
    }

    /// Reads `committed` anew, bounded by the capacity in case it is damaged.
    fn refresh(&self) {
        if let Some(superblock) = self.at_byte::<Superblock>(0) {
            // Acquire pairs with the Release in `grow`: the memory was backed before the word said so.
            let now = superblock
                .committed
                .load(Ordering::Acquire)
                .min(self.capacity / GRANULE as u64);
            self.know(now as u32);
        }
    }

    /// Takes note that so many granules are backed.
    fn know(&self, granules: u32) {
        if self.resident.is_wanted() {
            // An error costs page faults later, as if nobody had asked; here, on somebody's way to a value, there is nothing
            // better to do about it. What can be wrong for good was found by `make_resident`.
            let _ = self.populate(granules);
        }
        self.committed.fetch_max(granules, Relaxed);
        self.behind_tables.fetch_max(granules.saturating_sub(FIRST), Relaxed);
    }

    fn populate(&self, granules: u32) -> Result<()> {
        // SAFETY: the whole capacity is mapped, and so much of it is backed, which is what the callers have just read or
        // done themselves.
        unsafe { self.resident.extend(self.base, granules) }
    }

    /// Does for this process's part in the memory what is asked for, see [`Residency`]. What an earlier call did stays.
    pub fn make_resident(&self, residency: Residency) -> Result<()> {
        let Some(bytes) = residency.wanted() else {
            return Ok(());
        };
        if self.read_only {
            return Err(Error::InvalidOption {
                option: "residency",
                value: bytes,
                reason: "an arena that is open for reading only takes no memory beforehand",
            });
        }
        if residency.lock {
            self.resident.lock(self.base, self.capacity)?;
        }
        let chunks = bytes.div_ceil(CHUNK as u64).min(u64::from(self.sections.chunks));
        self.grow_to(chunks as u32)?;
        self.resident.want();
        self.populate(self.committed())
    }

    fn grow_to(&self, chunks: u32) -> Result<()> {
        loop {
            let now = self.committed() / CHUNK_GRANULES;
            let missing = chunks.saturating_sub(now);
            if missing == 0 {
                return Ok(());
            }
            match self.grow(missing, missing) {
                // Others were faster, and less is missing.
                Err(Error::Full { .. }) if self.committed() / CHUNK_GRANULES > now => {}
                done => return done.map(drop),
            }
        }
    }

    /// Granules that are backed, as this process last saw it.
    pub fn committed(&self) -> u32 {
        self.refresh();
        self.committed.load(Relaxed)
    }

    /// The memory as this process last saw it; blocks that are newer than that are not in it.
    #[inline(always)]
    pub fn recent(&self) -> Memory<'_> {
        Memory {
            base: self.base,
            granules: self.committed.load(Relaxed),
            mapping: PhantomData,
        }
    }

    /// The memory as it is.
    #[inline(always)]
    pub fn memory(&self) -> Memory<'_> {
        // SAFETY: the superblock is at the base and backed; its words are valid for any bits.
        let superblock = unsafe { self.base.cast::<Superblock>().as_ref() };
        let recent = self.recent();
        // Acquire pairs with the Release in `grow`.
        if superblock.committed.load(Ordering::Acquire) == u64::from(recent.granules) {
            return recent;
        }
        self.memory_in_grown()
    }

    #[cold]
    #[inline(never)]
    fn memory_in_grown(&self) -> Memory<'_> {
        self.refresh();
        self.recent()
    }

    /// Raises `committed` by at least `need` chunks, `want` if there is room; says how many chunks are backed now.
    pub fn grow(&self, need: u32, want: u32) -> Result<u32> {
        let word = &self.superblock()?.committed;
        let backoff = Backoff::new();
        loop {
            let now = word.load(Ordering::Acquire);
            if now > self.capacity / GRANULE as u64 {
                return Err(Error::corrupt(format!(
                    "it claims to have {now} granules of memory, more than its capacity"
                )));
            }
            let chunk = (now * GRANULE as u64 / CHUNK as u64) as u32;
            let room = self.sections.chunks.saturating_sub(chunk);
            if need > room {
                return Err(Error::Full {
                    requested: u64::from(need) * CHUNK as u64,
                    free: 0,
                    committed: now * GRANULE as u64,
                    capacity: self.capacity,
                    pins: Vec::new(),
                });
            }
            let want = want.clamp(need, room);
            let from = u64::from(chunk) * CHUNK as u64;
            let had = match self.back(from, u64::from(want) * CHUNK as u64) {
                Ok(()) => want,
                Err(_) if want > need => {
                    self.back(from, u64::from(need) * CHUNK as u64)?;
                    need
                }
                Err(error) => return Err(error),
            };
            let next = u64::from(chunk + had) * (CHUNK / GRANULE) as u64;
            // Release: whoever reads the new value may touch the memory. Losing the race is fine: the range is
            // backed all the same.
            if word
                .compare_exchange(now, next, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
            {
                self.refresh();
                let (from, to) = (now * GRANULE as u64, next * GRANULE as u64);
                self.news.note(Event::Grew { from, to });
                return Ok(chunk + had);
            }
            backoff.snooze();
        }
    }

    /// Has the file system provide the pages of a range.
    fn back(&self, from: u64, bytes: u64) -> Result<()> {
        let Backing::File { file, .. } = &self.backing else {
            return Ok(());
        };
        match file::allocate(file.as_fd(), from..from + bytes) {
            Ok(()) => Ok(()),
            Err(error) if file::is_full(&error) => Err(Error::FileSystemFull {
                requested: bytes,
                committed: from,
                capacity: self.capacity,
                size: file::size_of_file_system(file),
            }),
            Err(error) => Err(Error::os(format!("fallocate of {bytes} bytes"))(error)),
        }
    }

    /// The chunk map.
    pub fn chunk_map(&self) -> Result<&[Word64]> {
        self.table(self.sections.chunk_map, self.sections.chunks as usize)
            .ok_or_else(|| Error::corrupt("its chunk map is not backed by memory"))
    }
}
