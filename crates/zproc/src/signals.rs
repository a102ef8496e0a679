//! Numbers of signals, for [`signal_to_error`], [`Retry::signal`](crate::Retry::signal) and
//! [`restart_for`](crate::ProcessBuilder::restart_for). Any other number of the system's may be used, too.
//!
//! ```
//! use zproc::signals::SIGTERM;
//!
//! zproc::signal_to_error(SIGTERM)?;
//! # Ok::<(), zproc::Error>(())
//! ```

// The counters and the handler are those of `zproc_spawn::signal`, whose header has the argument why no signal is missed.
// A wait keeps a `Signals`: it looks for signals that came already, and gives the kernel the word that the next one moves.
// While no signal is an event, neither costs more than a look at a flag, and waits stay what they are without.

use shm_state::Watched;
use zproc_spawn::signal;

use crate::error::{Error, Result};
use crate::os::failed;

/// SIGHUP.
pub const SIGHUP: i32 = 1;
/// SIGINT, as by ctrl-C.
pub const SIGINT: i32 = 2;
/// SIGABRT, as by [`std::process::abort`].
pub const SIGABRT: i32 = 6;
/// SIGKILL, which cannot be handled.
pub const SIGKILL: i32 = 9;
/// SIGUSR1.
pub const SIGUSR1: i32 = 10;
/// SIGSEGV, a fault of memory access.
pub const SIGSEGV: i32 = 11;
/// SIGUSR2.
pub const SIGUSR2: i32 = 12;
/// SIGTERM, the polite request to end.
pub const SIGTERM: i32 = 15;

/// Makes a signal end blocking calls of this library with [`Error::Signal`], instead of what it did before.
///
/// From now on every call that waits (the watchers, [`Process::wait`](crate::Process::wait), the results of
/// [`Context::process_map`](crate::Context::process_map), a writer that waits for the lock) returns the signal's error when
/// the signal comes, and also if it came before, since the thread's last such call: there is no instant in which it is
/// missed. Each thread that waits is told once of each signal. A thread begins to watch with its first wait, or with this
/// call. Nothing is consumed, so a call that is made again goes on where it was.
///
/// A handler that was there before is run, too, each time. [`restore_signal`] gives the signal back to it.
///
/// Signals that come faster than they are told count as one, as the kernel has it. Tasks that await an
/// `UpdateStream` are not told.
///
/// # Errors
/// [`Error::Engine`] for a number that is no signal, and for SIGKILL and SIGSTOP, which nobody can handle.
///
/// ```
/// use zproc::{Error, State, signal_to_error, signals::SIGUSR1};
///
/// let state = State::anonymous()?;
/// signal_to_error(SIGUSR1)?;
/// nix::sys::signal::raise(nix::sys::signal::Signal::SIGUSR1).expect("a process may signal itself");
/// let result = state.get_when_available("never");
/// assert!(matches!(result, Err(Error::Signal { signal: SIGUSR1 })));
/// # Ok::<(), Error>(())
/// ```
pub fn signal_to_error(signal: i32) -> Result<()> {
    signal::install(signal).map_err(|source| failed("sigaction", source))
}

/// Gives a signal back to the handler, or to the default, that it had before the last [`signal_to_error`]. Without that call
/// it does nothing; nor if another handler was put over the library's meanwhile, which stays.
///
/// # Errors
/// [`Error::Engine`] for a number that is no signal.
///
/// ```
/// use zproc::signals::SIGUSR2;
///
/// zproc::signal_to_error(SIGUSR2)?;
/// zproc::restore_signal(SIGUSR2)?; // ends the process again
/// # Ok::<(), zproc::Error>(())
/// ```
pub fn restore_signal(signal: i32) -> Result<()> {
    signal::restore(signal).map_err(|source| failed("sigaction", source))
}

/// The signals, as one wait looks at them.
#[derive(Default)]
pub(crate) struct Signals {
    word: Option<Watched<'static>>,
}

impl Signals {
    /// Fails if this thread has a signal that it was not told of. Call it before each sleep, and then sleep on
    /// [`Signals::word`].
    #[inline]
    pub(crate) fn check(&mut self) -> Result<()> {
        if is_active() { self.look() } else { Ok(()) }
    }

    #[cold]
    fn look(&mut self) -> Result<()> {
        // Before the look: what comes behind it moves the word.
        self.word = Some(signal::news());
        match signal::pending() {
            Some(signal) => Err(Error::Signal { signal }),
            None => Ok(()),
        }
    }

    /// What to sleep on beside other things; none while no signal is an event.
    pub(crate) fn word(&self) -> Option<Watched<'static>> {
        self.word
    }
}

/// Whether any signal is an event.
#[inline]
pub(crate) fn is_active() -> bool {
    signal::is_active()
}

/// A signal that this thread was not told of; it is now.
pub(crate) fn pending() -> Option<Error> {
    let signal = if is_active() { signal::pending() } else { None };
    signal.map(|signal| Error::Signal { signal })
}

/// Has this thread forget the signals that came until now and for which `forgets` holds; whether others are left.
pub(crate) fn forget(forgets: impl FnMut(i32) -> bool) -> bool {
    is_active() && signal::forget(forgets)
}
