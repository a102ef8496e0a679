//! Memory that a parent shares with its children: words, bytes, and sleeping on a word.
//!
//! A [`Shared`] is a memfd of fixed size, sealed so that nobody shrinks it under a reader. Its words are atomics. Its bytes
//! are copied in and out, never lent: who may write which bytes, and when, is a protocol of the layer above, told by the
//! words. A process that breaks it, or dies while it writes, leaves wrong bytes, and never a wrong reference.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// A mapping of memory that several processes have.
pub struct Shared {
    mapping: MmapRaw,
    fd: OwnedFd,
}

/// Sealed against every change of its size.
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_SEAL);

impl Shared {
    /// New memory of `length` bytes, all zero.
    ///
    /// # Errors
    /// Those of the system: no descriptor or memory left.
    pub fn create(name: &str, length: usize) -> io::Result<Self> {
        let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        let size = i64::try_from(length).map_err(io::Error::other)?;
        nix::unistd::ftruncate(&fd, size)?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SEALS))?;
        Self::map(fd, length)
    }

    /// The memory in a descriptor that another process has made.
    ///
    /// # Errors
    /// Those of the system, and if it is no such memory.
    pub fn open(fd: OwnedFd) -> io::Result<Self> {
        let seals = fcntl(&fd, FcntlArg::F_GET_SEALS)?;
        if !SealFlag::from_bits_truncate(seals).contains(SEALS) {
            return Err(io::Error::other("its size is not sealed"));
        }
        let length = nix::sys::stat::fstat(&fd)?.st_size;
        Self::map(fd, usize::try_from(length).map_err(io::Error::other)?)
    }

    fn map(fd: OwnedFd, length: usize) -> io::Result<Self> {
        let mapping = MmapOptions::new().len(length).map_raw(&fd)?;
        Ok(Self { mapping, fd })
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.mapping.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The 32-bit word at an offset, a multiple of four.
    ///
    /// # Panics
    /// If it is outside.
    #[inline]
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(
            offset.is_multiple_of(4) && self.len() >= 4 && offset <= self.len() - 4,
            "no word at {offset}"
        );
        let word = self.mapping.as_ptr().wrapping_add(offset).cast::<AtomicU32>();
        // SAFETY: aligned (the mapping begins at a page) and inside of the mapping, which is backed for as long as it lives,
        // because its size is sealed. Every process uses it as an atomic, for which all bits are valid.
        unsafe { &*word }
    }

    /// The 64-bit word at an offset, a multiple of eight.
    ///
    /// # Panics
    /// If it is outside.
    #[inline]
    pub fn long(&self, offset: usize) -> &AtomicU64 {
        assert!(
            offset.is_multiple_of(8) && self.len() >= 8 && offset <= self.len() - 8,
            "no word at {offset}"
        );
        let word = self.mapping.as_ptr().wrapping_add(offset).cast::<AtomicU64>();
        // SAFETY: as in `word`.
        unsafe { &*word }
    }

    /// Copies bytes in. Nobody else may use them meanwhile, or they are garbage afterwards.
    ///
    /// # Panics
    /// If they do not fit there.
    #[inline]
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(
            offset <= self.len() && bytes.len() <= self.len() - offset,
            "{} bytes at {offset}",
            bytes.len()
        );
        let to = self.mapping.as_mut_ptr().wrapping_add(offset);
        // SAFETY: inside of the mapping, which nothing of this process borrows as bytes; `bytes` is memory of this process.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// Copies bytes out, behind what is in `to`.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn read(&self, offset: usize, length: usize, to: &mut Vec<u8>) {
        assert!(
            offset <= self.len() && length <= self.len() - offset,
            "{length} bytes at {offset}"
        );
        to.reserve(length);
        let from = self.mapping.as_ptr().wrapping_add(offset);
        let end = to.spare_capacity_mut().as_mut_ptr();
        // SAFETY: `length` bytes inside of the mapping; there is room for so many; any bits are bytes.
        unsafe { std::ptr::copy_nonoverlapping(from, end.cast::<u8>(), length) };
        // SAFETY: so many were just written behind what was there.
        unsafe { to.set_len(to.len() + length) };
    }
}

impl AsFd for Shared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Sleeps while a word that is shared holds `seen`, for so long at most.
pub fn sleep(word: &AtomicU32, seen: u32, timeout: Duration) {
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: the kernel reads the word by an access of its own, and the timeout, which outlives the call.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            seen,
            &raw const timeout,
        )
    };
}

/// Wakes at most `count` of those who sleep on a word.
pub fn wake(word: &AtomicU32, count: u32) {
    let count = i32::try_from(count).unwrap_or(i32::MAX);
    // SAFETY: waking only uses the address as a key.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn two_mappings_are_one_memory() {
        let one = Shared::create("test", 4096).unwrap();
        let other = Shared::open(one.as_fd().try_clone_to_owned().unwrap()).unwrap();
        one.word(8).store(7, Relaxed);
        one.write(4090, b"abcdef");
        let mut bytes = b"x".to_vec();
        other.read(4090, 6, &mut bytes);
        assert_eq!((other.word(8).load(Relaxed), &bytes[..]), (7, &b"xabcdef"[..]));
        let outside = std::panic::catch_unwind(|| one.write(4091, b"abcdef"));
        assert!(outside.is_err());
    }

    #[test]
    fn what_may_shrink_is_refused() {
        let fd = memfd_create("test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        assert!(Shared::open(fd).is_err());
    }
}
