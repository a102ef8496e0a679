//! The operating system, as far as telling others of updates needs it: eventfds, poll, and a thread without signals.

use std::io;
use std::os::fd::BorrowedFd;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::time::TimeSpec;

use crate::error::{Error, Result};

/// An eventfd that never blocks and is not inherited by programs that are executed.
pub(crate) fn event_fd() -> Result<EventFd> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    EventFd::from_value_and_flags(0, flags).map_err(|errno| failed("making an eventfd", errno.into()))
}

/// Makes an eventfd readable. If its counter is full, it is.
pub(crate) fn ring(fd: &EventFd) {
    let _ = fd.write(1);
}

/// Makes an eventfd unreadable. If its counter is zero, it is.
pub(crate) fn silence(fd: &EventFd) {
    let _ = fd.read();
}

/// What a descriptor is to be ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Readable,
    Writable,
}

/// Waits until one of the descriptors is ready, or failed, for so long at most; tells of each whether it is. A signal
/// may end it early.
pub(crate) fn poll<'a>(
    fds: impl Iterator<Item = (usize, BorrowedFd<'a>, Interest)>,
    timeout: Option<Duration>,
    mut ready: impl FnMut(usize),
) -> Result<()> {
    let (numbers, mut fds): (Vec<usize>, Vec<PollFd<'a>>) = fds
        .map(|(number, fd, interest)| {
            let flags = match interest {
                Interest::Readable => PollFlags::POLLIN,
                Interest::Writable => PollFlags::POLLOUT,
            };
            (number, PollFd::new(fd, flags))
        })
        .unzip();
    match ppoll(&mut fds, timeout.map(TimeSpec::from_duration), None) {
        Ok(_) => {}
        Err(nix::errno::Errno::EINTR) => return Ok(()),
        Err(errno) => return Err(failed("poll", errno.into())),
    }
    for (number, fd) in numbers.into_iter().zip(fds) {
        // Flags that nix does not know of are news too.
        if fd.revents().is_none_or(|events| !events.is_empty()) {
            ready(number);
        }
    }
    Ok(())
}

/// Starts a thread on which no signal handler of the program ever runs.
pub(crate) fn quiet_thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let blocked = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let thread = std::thread::Builder::new().name(name.into()).spawn(run);
    if let Ok(before) = blocked {
        // It was valid when it was read.
        let _ = before.thread_set_mask();
    }
    thread.map_err(|source| failed("starting a thread", source))
}

pub(crate) fn failed(call: &str, source: io::Error) -> Error {
    Error::Engine(shm_state::Error::Os {
        call: call.into(),
        source,
        way_out: String::new(),
    })
}
