//! A detector of two writers inside one lock, independent of the engine.
//!
//! A page that all processes share has a word for who is inside, and a number that is read when somebody comes in and
//! written, one higher, when it leaves: a read-modify-write that is not atomic. Whoever comes in writes its name over
//! what it finds, since the last owner may have died inside. So a living owner that was robbed finds another name when
//! it leaves, or none, or another number. Two writers cannot both leave without one of them noticing.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};

const PAGE: &str = "SHM_STATE_TEST_DETECTOR";
const WORDS: usize = 512;

const INSIDE: usize = 0;
const NUMBER: usize = 1;
const BROKEN: usize = 2;
const ENTRIES: usize = 3;
const NAMES: usize = 4;
/// The first word for the tests' own use.
const OWN: usize = 8;

/// The page.
pub struct Detector {
    file: OwnedFd,
    map: MmapRaw,
}

impl Detector {
    /// A new page.
    pub fn new() -> Self {
        let fd = nix::sys::memfd::memfd_create("detector", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap();
        let file = File::from(fd);
        file.set_len((WORDS * 8) as u64).unwrap();
        Self::map(file.into())
    }

    /// That of the parent process.
    pub fn of_parent() -> Self {
        let path = std::env::var(PAGE).expect("the parent has a detector");
        Self::map(File::options().read(true).write(true).open(path).unwrap().into())
    }

    /// Shows the page to a child.
    pub fn show_to<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let path = format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd());
        command.env(PAGE, path)
    }

    fn map(file: OwnedFd) -> Self {
        let map = MmapOptions::new().len(WORDS * 8).map_raw(&file).unwrap();
        Self { file, map }
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < WORDS);
        // SAFETY: the page has so many words, and stays mapped as long as `self`.
        let word = unsafe { self.map.as_mut_ptr().cast::<AtomicU64>().add(index) };
        // SAFETY: aligned, and any bits are valid.
        unsafe { &*word }
    }

    /// A word that means what the test wants.
    pub fn own(&self, index: usize) -> &AtomicU64 {
        self.word(OWN + index)
    }

    /// To be called by an owner of the lock. It may die in `inside`.
    pub fn visit(&self, inside: impl FnOnce()) {
        let name = self.new_name();
        self.word(INSIDE).store(name, Ordering::SeqCst);
        let number = self.word(NUMBER).load(Ordering::SeqCst);
        inside();
        if self.word(NUMBER).load(Ordering::SeqCst) != number {
            self.word(BROKEN).fetch_add(1, Ordering::SeqCst);
        }
        self.word(NUMBER).store(number + 1, Ordering::SeqCst);
        if self.word(INSIDE).swap(0, Ordering::SeqCst) != name {
            self.word(BROKEN).fetch_add(1, Ordering::SeqCst);
        }
        self.word(ENTRIES).fetch_add(1, Ordering::SeqCst);
    }

    /// A name that nobody has or had.
    pub fn new_name(&self) -> u64 {
        self.word(NAMES).fetch_add(1, Ordering::SeqCst) + 1
    }

    /// How often somebody has come in and left.
    pub fn entries(&self) -> u64 {
        self.word(ENTRIES).load(Ordering::SeqCst)
    }

    /// Fails if two were ever inside together.
    #[track_caller]
    pub fn assert_never_two(&self) {
        let broken = self.word(BROKEN).load(Ordering::SeqCst);
        assert_eq!(broken, 0, "two writers were inside, noticed {broken} times");
    }
}
