//! The operating system, as far as telling others of updates needs it: eventfds, poll, and a thread without signals.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

use shm_state::{Deadline, SLICE};
use zproc_spawn::signal::Bell;

use crate::error::{Error, Result};
use crate::signals::Signals;

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

/// Whether the other side of one of these sockets has closed it, as far as that can be told.
pub(crate) fn has_any_hung_up<'a>(sockets: impl Iterator<Item = BorrowedFd<'a>>) -> bool {
    // That is told in any case.
    let nothing = PollFlags::empty();
    let mut fds: Vec<PollFd<'a>> = sockets.map(|fd| PollFd::new(fd, nothing)).collect();
    let polled = ppoll(&mut fds, Some(TimeSpec::from_duration(Duration::ZERO)), None);
    let is_closed = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| events.contains(PollFlags::POLLHUP));
    polled.is_ok() && fds.iter().any(is_closed)
}

/// Waits until one of the descriptors is readable; false at the deadline. A signal that is an event ends it, if asked for.
pub(crate) fn wait_readable(fds: &[BorrowedFd<'_>], deadline: Deadline, tell_signals: bool) -> Result<bool> {
    let mut signals = Signals::default();
    let mut bell = None;
    loop {
        if tell_signals {
            if bell.is_none() {
                bell = Bell::new().map_err(|source| failed("making an epoll", source))?;
            }
            // Its news are found by the look; later ones make it readable again.
            bell.iter().for_each(Bell::silence);
            signals.check()?;
        }
        let mut ready = false;
        let own = fds.iter().map(|fd| (0, *fd, Interest::Readable));
        let bells = bell.iter().map(|bell| (1, bell.as_fd(), Interest::Readable));
        let slice = deadline.sooner_of(SLICE).remaining();
        poll(own.chain(bells), slice, |number| ready |= number == 0)?;
        if ready || deadline.passed() {
            return Ok(ready);
        }
    }
}

/// Waits until a descriptor is writable, or failed; false at the deadline.
pub(crate) fn wait_writable(fd: BorrowedFd<'_>, deadline: Deadline) -> Result<bool> {
    loop {
        let mut ready = false;
        let fds = std::iter::once((0, fd, Interest::Writable));
        poll(fds, deadline.sooner_of(SLICE).remaining(), |_| ready = true)?;
        if ready || deadline.passed() {
            return Ok(ready);
        }
    }
}

/// Rests for so long, or until `is_enough`, which is asked at first and whenever a signal came that is an event.
pub(crate) fn rest(deadline: Deadline, mut is_enough: impl FnMut() -> bool) {
    // Without one the rest is looked at in slices.
    let bell = Bell::new().ok().flatten();
    loop {
        bell.iter().for_each(Bell::silence);
        if is_enough() || deadline.passed() {
            return;
        }
        let slice = deadline.sooner_of(SLICE).remaining();
        let bells = bell.iter().map(|bell| (0, bell.as_fd(), Interest::Readable));
        if poll(bells, slice, |_| {}).is_err() {
            std::thread::sleep(slice.unwrap_or(SLICE));
        }
    }
}

/// Starts a thread on which no signal handler of the program ever runs.
pub(crate) fn quiet_thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    zproc_spawn::spawn::quiet_thread(name, run).map_err(|source| failed("starting a thread", source))
}

pub(crate) fn failed(call: &str, source: io::Error) -> Error {
    Error::Engine(shm_state::Error::Os {
        call: call.into(),
        source,
        way_out: String::new(),
    })
}
