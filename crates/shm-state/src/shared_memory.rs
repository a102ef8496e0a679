//! Arenas in segments of the crate `shared_memory`, for programs that use it already.
//!
//! That crate has had no release since 2022, and its segments can neither grow nor be sealed, so a named arena is the
//! better choice for everything new. The memory of the segment is backed in whole when the arena is created.

use std::path::PathBuf;
use std::ptr::NonNull;

use shared_memory::Shmem;

use crate::error::{Error, Result};
use crate::store::{Arena, ArenaOptions};
use crate::sys::file;

impl Arena {
    /// Makes an arena in a segment that was created for it. The capacity of `options` does not count: the arena is as large
    /// as the segment.
    ///
    /// # Safety
    /// The segment must be new (all zeros), be used through arenas alone, and outlive the arena and everything made from
    /// it, in this process.
    ///
    /// ```
    /// use shared_memory::ShmemConf;
    /// use shm_state::{Arena, ArenaOptions};
    ///
    /// let segment = ShmemConf::new().size(1 << 20).create()?;
    /// // SAFETY: the segment is new, and dropped after the arena.
    /// let arena = unsafe { Arena::create_in_segment(&segment, &ArenaOptions::default())? };
    /// assert_eq!(arena.namespace("default")?.seq(), 0);
    /// # drop(arena);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub unsafe fn create_in_segment(segment: &Shmem, options: &ArenaOptions) -> Result<Self> {
        let lock_file = open(segment)?;
        let bytes = segment.len() as u64;
        file::allocate(&lock_file, 0..bytes).map_err(Error::os(format!("backing a segment of {bytes} bytes")))?;
        // SAFETY: the caller's promise; the segment is mapped as a whole, at a page, and was backed just now.
        unsafe { Self::create_in(memory(segment)?, lock_file, options) }
    }

    /// Opens the arena in a segment that another process made with [`Arena::create_in_segment`].
    ///
    /// # Safety
    /// As there, but for the zeros.
    ///
    /// ```
    /// use shared_memory::ShmemConf;
    /// use shm_state::{Arena, ArenaOptions};
    ///
    /// let segment = ShmemConf::new().size(1 << 20).create()?;
    /// // SAFETY: the segment is new, and dropped after the arenas.
    /// let arena = unsafe { Arena::create_in_segment(&segment, &ArenaOptions::default())? };
    /// arena.namespace("default")?;
    /// // Another process knows it by its id.
    /// let same = ShmemConf::new().os_id(segment.get_os_id()).open()?;
    /// // SAFETY: the arena is in there, and the segment is dropped after it.
    /// let opened = unsafe { Arena::open_in_segment(&same)? };
    /// assert_eq!(opened.namespaces()?, ["default"]);
    /// # drop((arena, opened));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub unsafe fn open_in_segment(segment: &Shmem) -> Result<Self> {
        // SAFETY: the caller's promise; whoever created the arena backed the segment.
        unsafe { Self::open_in(memory(segment)?, open(segment)?) }
    }
}

fn memory(segment: &Shmem) -> Result<NonNull<[u8]>> {
    let start = NonNull::new(segment.as_ptr()).ok_or_else(|| Error::corrupt("the segment is mapped at address 0"))?;
    Ok(NonNull::slice_from_raw_parts(start, segment.len()))
}

/// Opens the file of the segment once more, for byte locks.
fn open(segment: &Shmem) -> Result<std::os::fd::OwnedFd> {
    let path = PathBuf::from("/dev/shm").join(segment.get_os_id().trim_start_matches('/'));
    file::open(&path).map_err(Error::os(format!("opening the segment's file {path:?}")))
}
