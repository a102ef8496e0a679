//! The operating system, behind checked functions: the only code of the crate that names libc or nix.
//!
//! Each submodule covers one subject and knows nothing of arenas: [`time`] and its deadlines, [`futex`] sleeps and wakes,
//! [`mod@file`] descriptors and byte locks, [`lifeline`] locks that last as long as a process's memory, [`process`]
//! identity and liveness, [`limit`]s of resources, [`memory`] that is populated and locked, [`fork`] detection, [`unshared`] descriptors, and [`robust`], the word that the kernel marks when
//! a thread dies.

pub(crate) mod file;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod lifeline;
pub(crate) mod limit;
pub(crate) mod memory;
pub(crate) mod process;
pub(crate) mod robust;
pub(crate) mod time;
pub(crate) mod unshared;

/// Turns a libc return value into a result: −1 becomes the error of `errno`.
fn check<T: PartialEq + From<i8>>(value: T) -> std::io::Result<T> {
    if value == T::from(-1) {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(value)
    }
}

/// Calls `f` and gives `errno` back its value, as a signal handler has to.
pub(crate) fn keeping_errno<R>(f: impl FnOnce() -> R) -> R {
    let errno = nix::errno::Errno::last_raw();
    let result = f();
    nix::errno::Errno::set_raw(errno);
    result
}

/// An error of a file below /proc, with what to do if there is none.
fn without_proc(error: std::io::Error) -> std::io::Error {
    if error.kind() == std::io::ErrorKind::NotFound {
        let why = "there is no such file; mount /proc, which an arena needs when it is opened";
        std::io::Error::new(error.kind(), why)
    } else {
        error
    }
}
