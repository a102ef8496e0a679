//! Counts the system calls of a process, part by part, from outside: a forked child that is stopped at each of them.
//!
//! Between two parts the child makes a call that no part makes, with arguments that the kernel does not look at and the
//! tracer does. A look at the clock is no call where the kernel maps its code and a usable clock into the process.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// System calls by their numbers, and how often.
pub type Calls = BTreeMap<i64, usize>;

/// How the child says that it may not be traced.
const REFUSED: i32 = 77;
/// The argument of a call that is a mark.
const MARK: u64 = 0x6d61_726b;
const BEGIN: u64 = 1;
const END: u64 = 2;

/// Tells the tracer, if there is one, that a part begins or ends.
fn mark(what: u64) {
    // SAFETY: the call takes no arguments.
    unsafe { libc::syscall(libc::SYS_getppid, MARK, what) };
}

/// Runs one part; its system calls are counted as those of the part of this number, from 0.
pub fn part(f: impl FnOnce()) {
    mark(BEGIN);
    f();
    mark(END);
}

/// Runs `child` in a forked copy of this process, and returns the calls of each of its parts. `None`: this system does
/// not allow tracing, or a sanitizer is at work, which makes calls of its own.
pub fn count(child: impl FnOnce()) -> Option<Vec<Calls>> {
    let options = ["ASAN_OPTIONS", "LSAN_OPTIONS", "TSAN_OPTIONS"];
    if options.iter().any(|variable| std::env::var_os(variable).is_some()) {
        return None;
    }
    let pid = Pid::from_raw(fork(|| {
        // SAFETY: a plain request to the kernel.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        if ptrace::traceme().is_err() {
            // SAFETY: ends this process.
            unsafe { libc::_exit(REFUSED) };
        }
        nix::sys::signal::raise(Signal::SIGSTOP).unwrap();
        child();
    }));
    match waitpid(pid, None).unwrap() {
        WaitStatus::Stopped(_, Signal::SIGSTOP) => {}
        WaitStatus::Exited(_, REFUSED) => return None,
        other => panic!("the traced process did not begin: {other:?}"),
    }
    ptrace::setoptions(pid, Options::PTRACE_O_EXITKILL | Options::PTRACE_O_TRACESYSGOOD).unwrap();
    let mut parts: Vec<Calls> = Vec::new();
    let (mut inside, mut signal) = (false, None);
    loop {
        ptrace::syscall(pid, signal.take()).unwrap();
        match waitpid(pid, None).unwrap() {
            WaitStatus::PtraceSyscall(_) => match entered(pid) {
                Some((libc::SYS_getppid, [MARK, BEGIN])) => {
                    parts.push(Calls::new());
                    inside = true;
                }
                Some((libc::SYS_getppid, [MARK, END])) => inside = false,
                Some((number, _)) if inside => *parts.last_mut().unwrap().entry(number).or_default() += 1,
                _ => {}
            },
            WaitStatus::Stopped(_, other) => signal = Some(other),
            WaitStatus::Exited(_, 0) => return Some(parts),
            other => panic!("the traced process ended otherwise: {other:?}"),
        }
    }
}

/// Number and first arguments of the call that a process is about to make; `None` if it comes from one.
fn entered(pid: Pid) -> Option<(i64, [u64; 2])> {
    let info = ptrace::syscall_info(pid).unwrap();
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    // SAFETY: the kernel says that it filled this one.
    let entry = unsafe { info.u.entry };
    Some((entry.nr.cast_signed(), [entry.args[0], entry.args[1]]))
}

/// Starts a forked copy of this process that runs `child` and ends, with success unless `child` panics.
pub fn fork(child: impl FnOnce()) -> i32 {
    // SAFETY: the copy runs `child`, which the callers keep to states that it opens itself and to plain memory, and then
    // ends without running anything of the test harness.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        // The standard library's locks may be copies of locked ones here, which a panic would wait for.
        // SAFETY: a plain request to the kernel.
        unsafe { libc::alarm(120) };
        let result = catch_unwind(AssertUnwindSafe(child));
        // SAFETY: ends this process.
        unsafe { libc::_exit(i32::from(result.is_err())) };
    }
    pid
}
