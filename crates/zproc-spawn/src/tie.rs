//! A child ends when its parent does, however that ends.
//!
//! Two means. The child has `PR_SET_PDEATHSIG` set (`spawn`); that is lost if the parent ends before it is set, or if the
//! program is one that gains rights when it is executed. And it holds the reading end of a pipe of which only the parent
//! has the writing end, which the kernel closes with the parent: the child has asked to be sent SIGKILL when anything
//! happens to its end (`O_ASYNC`, `F_SETSIG`, `F_SETOWN`), and nothing else can.
//!
//! The setting belongs to the open file description, so each child first opens its end anew, by `/proc/self/fd`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};
use nix::sys::stat::Mode;

use crate::check;

/// The pipe that a process has for its children.
pub(crate) struct Pipe {
    pub(crate) read: OwnedFd,
    _write: OwnedFd,
}

impl Pipe {
    pub(crate) fn new() -> io::Result<Self> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        Ok(Self { read, _write: write })
    }
}

/// Has this process killed when the writing end of the pipe is closed. `inherited` is closed.
pub(crate) fn bind(inherited: RawFd) -> io::Result<()> {
    // SAFETY: the number comes from the marker, which is read once, before anything else was opened, and whose author left
    // this descriptor open for us; if it is none, the next calls say so.
    let inherited = unsafe { OwnedFd::from_raw_fd(inherited) };
    let path = format!("/proc/self/fd/{}", inherited.as_raw_fd());
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let own = open(path.as_str(), flags, Mode::empty())?;
    let fcntl = |command, value: i32| {
        // SAFETY: these commands take an integer.
        check(unsafe { libc::fcntl(own.as_raw_fd(), command, value) })
    };
    fcntl(libc::F_SETOWN, std::process::id().cast_signed())?;
    fcntl(F_SETSIG, libc::SIGKILL)?;
    fcntl(libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK)?;
    // It may have been closed before.
    let mut fds = [PollFd::new(std::os::fd::AsFd::as_fd(&own), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO)?;
    if fds[0].revents().is_none_or(|events| !events.is_empty()) {
        raise(Signal::SIGKILL)?;
    }
    // Open for as long as the process lives.
    std::mem::forget(own);
    Ok(())
}

/// Which signal tells of events: asm-generic/fcntl.h.
const F_SETSIG: i32 = 10;
