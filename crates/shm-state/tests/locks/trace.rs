//! Stops a thread of another process between two system calls of its choice.

use std::io;

/// A thread that this thread traces. It goes on when this is dropped.
pub struct Traced(i32);

/// Where a system call of a traced thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// About to begin.
    Enters(i64),
    /// Just ended, with a value or a negative error.
    Leaves(i64),
}

fn ptrace(request: libc::c_uint, tid: i32, address: usize, data: usize) -> io::Result<i64> {
    // SAFETY: of the requests here only GET_SYSCALL_INFO writes, to a structure whose size and address it is given.
    match unsafe { libc::ptrace(request, tid, address, data) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

impl Traced {
    /// Stops a thread wherever it is. The reason if the system does not let us.
    pub fn stop(tid: u64) -> Result<Self, String> {
        let tid = i32::try_from(tid).unwrap();
        let options = libc::PTRACE_O_TRACESYSGOOD as usize;
        ptrace(libc::PTRACE_SEIZE, tid, 0, options).map_err(|error| format!("ptrace: {error}"))?;
        ptrace(libc::PTRACE_INTERRUPT, tid, 0, 0).map_err(|error| format!("ptrace: {error}"))?;
        let traced = Self(tid);
        traced.wait();
        Ok(traced)
    }

    fn wait(&self) -> i32 {
        let mut status = 0;
        // SAFETY: waits for the traced thread; `status` outlives the call.
        let got = unsafe { libc::waitpid(self.0, &raw mut status, libc::__WALL) };
        assert_eq!(got, self.0, "{}", io::Error::last_os_error());
        assert!(libc::WIFSTOPPED(status), "the traced thread ended");
        status
    }

    /// Lets the thread go on to the next beginning or end of a system call.
    pub fn step(&self) -> Step {
        loop {
            ptrace(libc::PTRACE_SYSCALL, self.0, 0, 0).unwrap();
            let status = self.wait();
            if libc::WSTOPSIG(status) != libc::SIGTRAP | 0x80 {
                continue;
            }
            // SAFETY: integers and unions of integers, for which zeroes are valid.
            let mut info = unsafe { std::mem::zeroed::<libc::ptrace_syscall_info>() };
            let size = size_of_val(&info);
            ptrace(libc::PTRACE_GET_SYSCALL_INFO, self.0, size, (&raw mut info).addr()).unwrap();
            match info.op {
                libc::PTRACE_SYSCALL_INFO_ENTRY => {
                    // SAFETY: the kernel says that it filled this one.
                    let nr = unsafe { info.u.entry.nr };
                    return Step::Enters(nr.cast_signed());
                }
                libc::PTRACE_SYSCALL_INFO_EXIT => {
                    // SAFETY: as above.
                    return Step::Leaves(unsafe { info.u.exit.sval });
                }
                _ => {}
            }
        }
    }

    /// Lets the thread go on until it has left the first system call that `is_it` accepts.
    pub fn run_past(&self, is_it: impl Fn(i64) -> bool) -> i64 {
        let mut inside = false;
        // As many as a waiter makes in minutes.
        for _ in 0..10_000 {
            match self.step() {
                Step::Enters(number) => inside = is_it(number),
                Step::Leaves(value) if inside => return value,
                Step::Leaves(_) => {}
            }
        }
        panic!("it never makes that system call");
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = ptrace(libc::PTRACE_DETACH, self.0, 0, 0);
    }
}
