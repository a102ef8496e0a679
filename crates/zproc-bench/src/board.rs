//! Memory that a benchmark shares with its second process.
//!
//! Each word lies on cache lines of its own, so that what is measured on one is not disturbed by another.

use std::fs::File;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64};

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::robust::RobustCounter;

/// How many figures a job can hand back.
pub const SAMPLES: usize = 8192;

/// Something on cache lines of its own; two, since processors fetch pairs.
#[repr(C, align(128))]
pub struct Line<T>(T);

impl<T> Deref for Line<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// What both processes see. Everything starts as zero.
#[repr(C)]
pub struct Board {
    /// Number of the job that the peer is to do; it sleeps on this.
    pub order: Line<AtomicU32>,
    /// What to do.
    pub job: Line<AtomicU32>,
    /// More about it.
    pub argument: Line<AtomicU64>,
    /// Number of the job that the peer has begun.
    pub begun: Line<AtomicU32>,
    /// Number of the job that the peer has finished.
    pub finished: Line<AtomicU32>,
    /// What came of it.
    pub result: Line<AtomicU64>,
    /// Tells a job that goes on and on to end.
    pub stop: Line<AtomicU32>,
    /// The way there of `ping`.
    pub ping: Line<AtomicU32>,
    /// The way back of `ping`.
    pub pong: Line<AtomicU32>,
    /// How many messages the peer has received in the job.
    pub received: Line<AtomicU64>,
    /// A message, for references: when it was sent.
    pub sent_ns: Line<AtomicU64>,
    /// A word to sleep on, for references.
    pub futex: Line<AtomicU32>,
    /// The reference for increments.
    pub counter: RobustCounter,
    /// Figures that the job hands back.
    pub samples: [AtomicU64; SAMPLES],
}

/// The board, mapped.
pub struct SharedBoard {
    mapping: MmapRaw,
    fd: OwnedFd,
}

impl SharedBoard {
    /// A new one.
    pub fn create() -> Self {
        let fd = memfd_create("zproc-bench", MFdFlags::MFD_CLOEXEC).expect("a memfd can be made");
        nix::unistd::ftruncate(&fd, size_of::<Board>() as i64).expect("a few pages are free");
        let board = Self::map(fd);
        board.counter.initialise();
        board
    }

    /// That of another process, in its descriptor `fd`.
    pub fn open(pid: u32, fd: i32) -> Self {
        Self::map(descriptor_of(pid, fd))
    }

    fn map(fd: OwnedFd) -> Self {
        let mapping = MmapOptions::new()
            .len(size_of::<Board>())
            .map_raw(&File::from(fd.try_clone().expect("a descriptor is left")));
        Self {
            mapping: mapping.expect("a memfd can be mapped"),
            fd,
        }
    }
}

impl Deref for SharedBoard {
    type Target = Board;

    fn deref(&self) -> &Board {
        // SAFETY: the mapping is as long as a board, begins at a page, and lives as long as `self`. It was zeroed, which
        // is a value of every word, and is changed only through the atomics and the cells of `Board`.
        unsafe { &*self.mapping.as_ptr().cast::<Board>() }
    }
}

impl AsFd for SharedBoard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A name for a descriptor of this process by which its children can open it: see [`descriptor_of`].
pub fn number_of(fd: &impl AsFd) -> i32 {
    fd.as_fd().as_raw_fd()
}

/// Opens what another process of this user has open as `fd`.
pub fn descriptor_of(pid: u32, fd: i32) -> OwnedFd {
    let path = format!("/proc/{pid}/fd/{fd}");
    let file = File::options().read(true).write(true).open(&path);
    file.unwrap_or_else(|error| panic!("{path}: {error}")).into()
}
