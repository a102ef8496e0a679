//! Descriptors that a plainly forked child does not share with its parent.
//!
//! A child inherits all descriptors, and with them what lasts until the last is closed: locks of files, sockets that listen,
//! connections whose other side waits for their end. If its parent is killed, they go on in a child that knows nothing
//! of them. To close them in the child would be worse: what is left of their owners there closes the numbers once more, which
//! may be those of other files by then. So the handler that runs in the child puts something else in their place: the end
//! of a connection whose other end is closed.
//!
//! The handler makes system calls and reads atomics, as it may after a fork. A raw `clone` runs no handlers. A program that
//! is executed gets none of them anyway.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use super::fork;

/// So many are kept apart; further ones are inherited like any other.
const MOST: usize = 4096;
/// What no descriptor is.
const NONE: RawFd = -1;

/// The descriptors.
static APART: [AtomicI32; MOST] = [const { AtomicI32::new(NONE) }; MOST];
/// No place from here on was ever taken.
static END: AtomicUsize = AtomicUsize::new(0);
/// What a child gets instead; made once.
static INSTEAD: AtomicI32 = AtomicI32::new(NONE);

/// Keeps a descriptor from children that are forked while it lives. Drop it before the descriptor is closed.
///
/// ```
/// use std::os::fd::AsFd;
/// use shm_state::Unshared;
///
/// let (one, _other) = std::os::unix::net::UnixStream::pair()?;
/// let apart = Unshared::new(one.as_fd())?;
/// drop(apart);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct Unshared {
    place: Option<usize>,
}

impl Unshared {
    /// Keeps this descriptor apart.
    ///
    /// # Errors
    /// Those of making a socket, and of registering a handler, the first time.
    ///
    /// ```
    /// use std::os::fd::AsFd;
    ///
    /// let apart = shm_state::Unshared::new(std::io::stdin().as_fd())?;
    /// drop(apart);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        prepare()?;
        // Relaxed, here and below: a fork copies what this process has stored, and says nothing of what it stores next.
        let take = |place: &AtomicI32| {
            let free = place.load(Ordering::Relaxed) == NONE;
            free && place
                .compare_exchange(NONE, fd.as_raw_fd(), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        };
        let place = APART.iter().position(take);
        if let Some(place) = place {
            END.fetch_max(place + 1, Ordering::Relaxed);
        }
        Ok(Self { place })
    }
}

impl Drop for Unshared {
    fn drop(&mut self) {
        if let Some(place) = self.place.and_then(|place| APART.get(place)) {
            place.store(NONE, Ordering::Relaxed);
        }
    }
}

fn prepare() -> io::Result<()> {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if INSTEAD.load(Ordering::Relaxed) == NONE {
        let (end, _closed) = UnixStream::pair()?;
        let made = INSTEAD.compare_exchange(NONE, end.as_raw_fd(), Ordering::Relaxed, Ordering::Relaxed);
        if made.is_ok() {
            // It is never closed.
            let _ = end.into_raw_fd();
        }
    }
    // A handler that is registered twice does no harm.
    if !REGISTERED.load(Ordering::Relaxed) {
        fork::around(None, None, replace)?;
        REGISTERED.store(true, Ordering::Relaxed);
    }
    Ok(())
}

extern "C" fn replace() {
    let instead = INSTEAD.load(Ordering::Relaxed);
    for fd in &APART[..END.load(Ordering::Relaxed).min(MOST)] {
        let fd = fd.load(Ordering::Relaxed);
        if fd != NONE {
            // SAFETY: takes integers. The number is open, and its owners, whose copies this child has, go on to own what it
            // is now: `Unshared` is dropped before it is closed, and the descriptor that is copied never is.
            unsafe { libc::dup3(instead, fd, libc::O_CLOEXEC) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_forked_child_does_not_keep_a_connection_open() {
        let (mut one, other) = UnixStream::pair().unwrap();
        let apart = Unshared::new(other.as_fd()).unwrap();
        // SAFETY: the child makes system calls only, and is ended.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: waits, for a minute at most, and ends without running anything of the test binary.
            unsafe { libc::alarm(60) };
            // SAFETY: as above.
            unsafe { libc::pause() };
            // SAFETY: as above.
            unsafe { libc::_exit(0) };
        }
        drop(apart);
        drop(other);
        assert_eq!(one.read(&mut [0]).unwrap(), 0);
        // SAFETY: ends the child, which is this process's and not collected yet.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        // SAFETY: collects it.
        assert_eq!(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) }, pid);
    }
}
