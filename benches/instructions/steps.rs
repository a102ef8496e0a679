//! Stepping through a process, instruction by instruction.

use std::process::Command;

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// How a process says that it may not be traced.
const REFUSED: i32 = 77;

/// Runs `f` between two marks, in a process that [`count`] has started.
pub fn between_marks(f: impl FnOnce()) {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).expect("a process may ask to die");
    if ptrace::traceme().is_err() {
        std::process::exit(REFUSED);
    }
    raise(Signal::SIGSTOP).expect("a process may stop itself");
    f();
    raise(Signal::SIGSTOP).expect("a process may stop itself");
}

/// Starts this program once more, and counts its instructions from mark to mark. `None`: tracing is not allowed.
pub fn count(operation: &str) -> Result<Option<u64>, String> {
    let child = Command::new("/proc/self/exe").args(["run", operation]).spawn();
    let mut child = child.map_err(|error| format!("this program cannot be started: {error}"))?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let result = count_in(pid);
    let _ = child.kill();
    let _ = child.wait();
    result.map_err(|error| format!("'{operation}': {error}"))
}

fn count_in(pid: Pid) -> Result<Option<u64>, String> {
    let say = |error: nix::Error| error.to_string();
    match waitpid(pid, None).map_err(say)? {
        WaitStatus::Stopped(_, Signal::SIGSTOP) => {}
        WaitStatus::Exited(_, REFUSED) => return Ok(None),
        other => return Err(format!("ended before its first mark: {other:?}")),
    }
    ptrace::setoptions(pid, Options::PTRACE_O_EXITKILL).map_err(say)?;
    for steps in 0.. {
        ptrace::step(pid, None).map_err(say)?;
        match waitpid(pid, None).map_err(say)? {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
            WaitStatus::Stopped(_, Signal::SIGSTOP) => return Ok(Some(steps)),
            other => return Err(format!("ended before its second mark: {other:?}")),
        }
    }
    unreachable!()
}
