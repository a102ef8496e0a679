//! Shared memory for tests, and processes that use it: this test binary, executed again with a role.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::ptr::{self, NonNull};
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};

use crate::lock::WriterLock;
use crate::participant::{Attachment, Entrance, PARTICIPANTS, ParticipantSlot};
use crate::sync::{Ordering, Word, Word64};
use crate::sys::time::Deadline;
use crate::sys::{file, process};

const ROLE: &str = "SHM_STATE_LOCK_TEST_ROLE";
const MEMORY: &str = "SHM_STATE_LOCK_TEST_MEMORY";

const LOCKS: usize = 16;
const WORDS: usize = 64;

/// What the tests put into shared memory.
#[repr(C)]
struct Layout {
    slots: [ParticipantSlot; PARTICIPANTS],
    locks: [WriterLock; LOCKS],
    words: [Word64; WORDS],
}

pub(crate) struct Shared {
    fd: OwnedFd,
    map: MmapRaw,
}

impl Shared {
    pub(crate) fn new() -> Self {
        let length = size_of::<Layout>() as u64;
        let fd = file::sealed_memfd("lock-test", length).unwrap();
        file::allocate(&fd, 0..length).unwrap();
        Self::map(fd)
    }

    /// The same memory, mapped and opened once more.
    pub(crate) fn again(&self) -> Self {
        Self::map(file::reopen(&self.fd).unwrap())
    }

    fn map(fd: OwnedFd) -> Self {
        let map = MmapOptions::new().len(size_of::<Layout>()).map_raw(&fd).unwrap();
        Self { fd, map }
    }

    fn layout(&self) -> *mut Layout {
        self.map.as_mut_ptr().cast()
    }

    pub(crate) fn lock(&self, index: usize) -> &WriterLock {
        assert!(index < LOCKS);
        // SAFETY: the file has the size of the layout, whose fields are valid for all bytes.
        let locks = unsafe { &(*self.layout()).locks };
        &locks[index]
    }

    pub(crate) fn word(&self, index: usize) -> &Word64 {
        // SAFETY: as in `lock`.
        let words = unsafe { &(*self.layout()).words };
        &words[index]
    }

    pub(crate) fn get(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Acquire)
    }

    pub(crate) fn set(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::Release);
    }

    pub(crate) fn slots(&self) -> NonNull<[ParticipantSlot]> {
        // SAFETY: only the address is computed.
        let slots = unsafe { &raw mut (*self.layout()).slots };
        NonNull::new(ptr::slice_from_raw_parts_mut(slots.cast(), PARTICIPANTS)).unwrap()
    }

    pub(crate) fn attach(&self) -> Attachment {
        let lock_file = file::reopen(&self.fd).unwrap();
        let namespace = process::pid_namespace().unwrap();
        let mut each = |f: &mut dyn FnMut(&WriterLock)| (0..LOCKS).for_each(|index| f(self.lock(index)));
        // Every one looks at the first slot first.
        let entrance = Entrance {
            turn: &Word64::new(0),
            since: 1,
        };
        // SAFETY: tests drop the attachment before the memory.
        unsafe { Attachment::attach(self.slots(), lock_file, namespace, &entrance, &mut each) }.unwrap()
    }

    pub(crate) fn reopened(&self) -> OwnedFd {
        file::reopen(&self.fd).unwrap()
    }

    /// Waits until a word is not 0, and returns it.
    pub(crate) fn await_word(&self, index: usize) -> u64 {
        let deadline = Deadline::after(Duration::from_secs(10));
        while self.get(index) == 0 {
            assert!(!deadline.passed(), "word {index} is still 0");
            std::thread::sleep(Duration::from_micros(200));
        }
        self.get(index)
    }

    /// Starts a process that plays a role of `crate::lock::tests::play`.
    pub(crate) fn spawn(&self, role: &str) -> Player {
        let memory = format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd());
        let child = Command::new("/proc/self/exe")
            .arg0("lock-test-player")
            .args(["lock::tests::plays_its_role", "--exact", "--test-threads=1"])
            .env(ROLE, role)
            .env(MEMORY, memory)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Player(child)
    }
}

/// The role of this process and its memory, if it is a player.
pub(crate) fn role() -> Option<(String, Shared)> {
    let role = std::env::var(ROLE).ok()?;
    let memory = std::env::var(MEMORY).unwrap();
    // A link of /proc, which `file::open` refuses to follow.
    let file = std::fs::File::options().read(true).write(true).open(memory).unwrap();
    Some((role, Shared::map(file.into())))
}

/// A process of this test binary; killed when dropped.
pub(crate) struct Player(Child);

impl Player {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Kills the process without collecting it: a zombie.
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
    }

    pub(crate) fn kill_and_reap(mut self) {
        self.kill();
        self.0.wait().unwrap();
    }

    /// Waits for the end of the role.
    pub(crate) fn succeeds(mut self) {
        assert!(self.0.wait().unwrap().success());
    }

    /// Waits for the end, whatever it is.
    #[cfg(feature = "kill-points")]
    pub(crate) fn survives(mut self) -> bool {
        self.0.wait().unwrap().success()
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
