//! The first instants of a child: how it knows that it is one.
//!
//! Its parent has put a variable into its environment that names the descriptor which tells what to do, and the one that
//! ties it to the parent. [`take`] removes the variable and gives the descriptors back their flag, so that what the child
//! itself executes inherits nothing of it.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::str::FromStr;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;

use crate::tie;

/// The variable.
pub(crate) const MARKER: &str = "ZPROC_CHILD";

/// What it says.
pub(crate) struct Marker {
    pub(crate) job: RawFd,
    pub(crate) tie: Option<RawFd>,
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.job, self.tie.unwrap_or(-1))
    }
}

impl FromStr for Marker {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (job, tie) = text.split_once(':').unwrap_or((text, "-1"));
        let tie: RawFd = tie.parse()?;
        Ok(Self {
            job: job.parse()?,
            tie: (tie >= 0).then_some(tie),
        })
    }
}

fn marker() -> Option<Marker> {
    std::env::var(MARKER).ok()?.parse().ok()
}

/// Whether this process was started by [`spawn`](crate::spawn::spawn) and has not [taken](take) note of it.
pub fn is_pending() -> bool {
    marker().is_some()
}

/// Whether this is the main thread.
pub fn is_main_thread() -> bool {
    nix::unistd::gettid() == nix::unistd::getpid()
}

/// If this process is a child: ties it to its parent, and returns the descriptor that tells what to do.
///
/// Call it on the main thread, before there are others: it changes the environment.
///
/// # Errors
/// Those of the system, and if the descriptor is none.
pub fn take() -> io::Result<Option<OwnedFd>> {
    let Some(marker) = marker() else { return Ok(None) };
    // SAFETY: this is the start of the main thread, and there is no other thread that could read the environment: the
    // caller checks the first (`is_main_thread`), and is told by the documentation of `init` of the second.
    unsafe { std::env::remove_var(MARKER) };
    if let Some(fd) = marker.tie {
        tie::bind(fd)?;
    }
    Ok(Some(inherited(marker.job)?))
}

/// Has this process, if it is a child that ends with its parent, be ended by another signal than SIGKILL then. Call it on the
/// main thread, to which the setting belongs, and when the signal is handled: nothing else ends the child.
///
/// # Errors
/// Those of the system.
pub fn end_by(signal: Signal) -> io::Result<()> {
    tie::end_by(signal)
}

/// Ends this process at once. Nothing is run that was registered for its end, and no destructor.
pub fn leave(code: i32) -> ! {
    // SAFETY: takes an integer, and does not return.
    unsafe { libc::_exit(code) }
}

/// Takes a descriptor that the parent has left open for this process, by its number.
///
/// # Errors
/// EBADF if there is none.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    nix::errno::Errno::result(fd)?;
    // SAFETY: the number was written by our parent, which left this descriptor open for us, once for each number, so nobody
    // else owns it; if there is none, the next call says so, and nothing is closed that was not there.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    if let Err(errno) = fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        std::mem::forget(fd);
        return Err(errno.into());
    }
    Ok(fd)
}

/// The number of a descriptor, by which a child finds it.
pub fn number(fd: &impl AsRawFd) -> RawFd {
    fd.as_raw_fd()
}

/// What the standard library does before `main`, for a child that does not get that far: SIGPIPE is ignored.
pub fn ignore_sigpipe() {
    // SAFETY: ignoring a signal installs no code.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// The name of this process as tools show it; executing the link to the program leaves that of the link.
pub fn set_name(name: &str) {
    if let Ok(name) = CString::new(name) {
        let _ = nix::sys::prctl::set_name(&name);
    }
}

/// The name of this process as tools show it, that of its main thread.
pub fn name() -> String {
    let name = std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
    name.trim_end().to_owned()
}

/// A copy of the descriptor that tells this process what to do, if it is a child that has not taken it.
///
/// # Errors
/// Those of the system.
pub fn pending_job() -> io::Result<Option<OwnedFd>> {
    let Some(marker) = marker() else { return Ok(None) };
    let path = format!("/proc/self/fd/{}", marker.job);
    let file = std::fs::File::options().read(true).write(true).open(path)?;
    Ok(Some(file.into()))
}
