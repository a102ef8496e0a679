//! A byte lock that lasts exactly as long as the memory of the process that took it.
//!
//! A lock of an open file description ends with the last reference to the description. Descriptors are the wrong
//! reference: a program may close all of them while it lives, and a forked child keeps copies while its parent is dead.
//! So the only one that is kept is a *mapping* of one page, without any access, which forked children do not inherit
//! (`MADV_DONTFORK`, which the kernel obeys for a raw `clone` too). The kernel drops it when the address space goes:
//! after the last thread ended, or when the process executes another program. Who shares the memory (a vfork child)
//! prolongs it, and rightly, for it could write the arena.
//!
//! So a free byte proves that nobody can write under that claim any more. A locked one proves nothing: a process that
//! forks in another thread just while the claim is made copies the descriptor into the child, which then keeps the lock
//! until it executes something or ends.

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};

use super::{file, fork};

/// Keeps the byte locks of one open file description. They end with this value, or with the process's memory.
pub struct Lifeline {
    page: NonNull<c_void>,
    /// The fork epoch: in a forked child the page is not there, and its address may be another mapping's.
    epoch: u64,
}

// SAFETY: the page is never accessed, only unmapped.
unsafe impl Send for Lifeline {}
// SAFETY: as above; there is nothing to do through a shared reference.
unsafe impl Sync for Lifeline {}

/// How many bytes are mapped; the kernel makes it a page.
const LENGTH: NonZeroUsize = NonZeroUsize::MIN;

/// An open file description whose byte locks outlive its descriptor.
pub struct Claims {
    file: OwnedFd,
    line: Lifeline,
}

impl Claims {
    /// Opens `file` anew, and ties what is locked through it to this process's memory.
    pub fn on(file: impl AsFd) -> io::Result<Self> {
        let epoch = fork::renew()?;
        let file = file::reopen(file)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let page = unsafe { mmap(None, LENGTH, ProtFlags::PROT_NONE, MapFlags::MAP_SHARED, &file, 0) }?;
        let line = Lifeline { page, epoch };
        // SAFETY: the advice covers the new page only.
        unsafe { madvise(page, LENGTH.get(), MmapAdvise::MADV_DONTFORK) }?;
        Ok(Self { file, line })
    }

    /// Locks a byte; `false` if another description has it.
    pub fn try_lock(&self, byte: u64) -> io::Result<bool> {
        file::try_lock_byte(&self.file, byte)
    }

    /// Gives the lock of a byte back.
    pub fn unlock(&self, byte: u64) -> io::Result<()> {
        file::unlock_byte(&self.file, byte)
    }

    /// Closes the descriptor. The locks stay.
    pub fn tie(self) -> Lifeline {
        self.line
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        if self.epoch == fork::epoch() {
            // SAFETY: the page that `Claims::on` mapped in this very process; nobody has a reference into it.
            let _ = unsafe { munmap(self.page, LENGTH.get()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_locked(file: &OwnedFd) -> bool {
        file::byte_is_locked(file, 7).unwrap()
    }

    #[test]
    fn a_claim_outlives_its_descriptor_and_ends_with_its_line() {
        let file = file::sealed_memfd("lifeline", 4096).unwrap();
        let (first, second) = (Claims::on(&file).unwrap(), Claims::on(&file).unwrap());
        assert!(first.try_lock(7).unwrap() && !second.try_lock(7).unwrap());
        let line = first.tie();
        assert!(is_locked(&file) && !second.try_lock(7).unwrap());
        drop(line);
        assert!(!is_locked(&file) && second.try_lock(7).unwrap());
    }

    #[test]
    fn a_file_without_bytes_can_be_claimed() {
        let file = file::sealed_memfd("lifeline", 0).unwrap();
        let claims = Claims::on(&file).unwrap();
        assert!(claims.try_lock(7).unwrap());
        let _line = claims.tie();
        assert!(is_locked(&file));
    }

    /// A forked child kept the descriptor, and with it the lock of its dead parent.
    #[test]
    fn a_forked_child_keeps_no_claim_and_releases_none() {
        for raw in [false, true] {
            let file = file::sealed_memfd("lifeline", 4096).unwrap();
            let claims = Claims::on(&file).unwrap();
            assert!(claims.try_lock(7).unwrap());
            let mut line = Some(claims.tie());
            let (mut go, ready) = std::io::pipe().unwrap();
            // SAFETY: the child makes system calls only, and leaves by `_exit`.
            let child = if raw {
                // SAFETY: as above; a raw clone like fork.
                unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as i32 }
            } else {
                // SAFETY: as above.
                unsafe { libc::fork() }
            };
            if child == 0 {
                drop(line.take());
                drop(go);
                let mut ready = ready;
                let _ = std::io::Write::write_all(&mut ready, b"!");
                loop {
                    // SAFETY: sleeps until it is killed.
                    unsafe { libc::pause() };
                }
            }
            drop(ready);
            std::io::Read::read_exact(&mut go, &mut [0]).unwrap();
            let while_both_live = is_locked(&file);
            drop(line);
            let after = is_locked(&file);
            // SAFETY: kills and collects the child made above.
            unsafe { libc::kill(child, libc::SIGKILL) };
            let mut status = 0;
            // SAFETY: as above.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            assert!(while_both_live, "the child dropped its parent's claim (raw: {raw})");
            assert!(!after, "the child kept its parent's claim (raw: {raw})");
        }
    }
}
