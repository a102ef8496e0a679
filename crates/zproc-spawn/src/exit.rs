//! How a process ended.
//!
//! A child is waited for by its pidfd and by nothing else, never by `waitpid(-1)`, which would take other people's
//! children. If somebody else does that, or SIGCHLD is ignored, the status is gone; newer kernels (Linux 6.15) tell it
//! all the same (`PIDFD_GET_INFO`).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use crate::check;
use crate::spawn::Child;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Somebody else has waited for it, and the kernel does not tell.
    Unknown,
}

/// Whether it has ended, without taking note of it.
pub fn has_ended(child: &Child) -> bool {
    let mut fds = [PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Waits for the end of a child and takes its status, after which nothing is left of it.
///
/// # Errors
/// Those of the system.
pub fn reap(child: &Child) -> io::Result<Exit> {
    loop {
        match waitid(Id::PIDFd(child.pidfd.as_fd()), WaitPidFlag::WEXITED) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(Exit::Code(code)),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(Exit::Signal(signal as i32)),
            // A real-time signal, which nix has no name for, is an error of its conversion.
            Ok(_) | Err(Errno::EINVAL) => return Ok(told_by_kernel(child).unwrap_or(Exit::Unknown)),
            Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => {
                wait(child)?;
                return Ok(told_by_kernel(child).unwrap_or(Exit::Unknown));
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// A child that somebody else reaps can be waited for all the same.
fn wait(child: &Child) -> io::Result<()> {
    let mut fds = [PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN)];
    while let Err(errno) = poll(&mut fds, PollTimeout::NONE) {
        if errno != Errno::EINTR {
            return Err(errno.into());
        }
    }
    Ok(())
}

/// Sends a signal to a child, or to nobody if it has ended: its id cannot be another's meanwhile.
///
/// # Errors
/// ESRCH if it has ended.
pub fn send(child: &Child, signal: Signal) -> io::Result<()> {
    // SAFETY: takes integers and a null pointer.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            child.pidfd.as_raw_fd(),
            signal as i32,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })?;
    Ok(())
}

/// `struct pidfd_info` of linux/pidfd.h, in its first version.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

const _: () = assert!(size_of::<Info>() == 64);

/// `PIDFD_GET_INFO`: `_IOWR(0xFF, 11, struct pidfd_info)`.
const GET_INFO: libc::c_ulong = 3 << 30 | 64 << 16 | 0xff << 8 | 11;
/// `PIDFD_INFO_EXIT`.
const OF_EXIT: u64 = 1 << 3;

fn told_by_kernel(child: &Child) -> Option<Exit> {
    let mut info = Info {
        mask: OF_EXIT,
        ..Info::default()
    };
    // SAFETY: the kernel reads and writes a structure of the size that the number of the call names.
    check(unsafe { libc::ioctl(child.pidfd.as_raw_fd(), GET_INFO as _, &raw mut info) }).ok()?;
    if info.mask & OF_EXIT == 0 {
        return None;
    }
    let status = info.exit_code;
    Some(match status & 0x7f {
        0 => Exit::Code(status >> 8 & 0xff),
        signal => Exit::Signal(signal),
    })
}
