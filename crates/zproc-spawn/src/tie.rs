//! A child ends when its parent does, however that ends.
//!
//! Two means. The child has `PR_SET_PDEATHSIG` set (`spawn`); that is lost if the parent ends before it is set, or if the
//! program is one that gains rights when it is executed. And it holds the reading end of a pipe of which only the parent
//! has the writing end, which the kernel closes with the parent: the child has asked to be sent SIGKILL when anything
//! happens to its end (`O_ASYNC`, `F_SETSIG`, `F_SETOWN`), and nothing else can.
//!
//! The setting belongs to the open file description, so each child first opens its end anew, by `/proc/self/fd`.
//!
//! A child that has to put something in order before it ends asks for another signal, once it handles that (`end_by`).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

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
    // Open for as long as the process lives. A process is bound once: its marker is taken.
    if let Err(another) = OWN.set(own) {
        std::mem::forget(another);
    }
    Ok(())
}

/// The end of the pipe that this process is bound by.
static OWN: OnceLock<OwnedFd> = OnceLock::new();

/// Has another signal end this process with its parent than SIGKILL, if it is bound. A parent that has ended before has sent
/// that already.
pub(crate) fn end_by(signal: Signal) -> io::Result<()> {
    let Some(own) = OWN.get() else { return Ok(()) };
    // SAFETY: this command takes an integer.
    check(unsafe { libc::fcntl(own.as_raw_fd(), F_SETSIG, signal as i32) })?;
    Ok(nix::sys::prctl::set_pdeathsig(signal)?)
}

/// Which signal tells of events: asm-generic/fcntl.h.
const F_SETSIG: i32 = 10;
