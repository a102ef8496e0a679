//! Bare system calls: processes and threads that the C library does not know of, and filters that deny calls.

use std::io;

const STACK: usize = 256 * 1024;

/// Starts `child` in what `clone` makes with these flags, on a stack of its own; returns its id. What it returns is its
/// status. The stack is never freed.
pub fn clone(flags: i32, child: impl FnOnce() -> i32 + 'static) -> i32 {
    extern "C" fn start(child: *mut libc::c_void) -> i32 {
        // SAFETY: made by `Box::into_raw` below, and passed to one start.
        let child = unsafe { Box::from_raw(child.cast::<Box<dyn FnOnce() -> i32>>()) };
        child()
    }
    let stack: &'static mut [u8] = Box::leak(vec![0; STACK].into_boxed_slice());
    let top = stack.as_mut_ptr_range().end.map_addr(|address| address & !15);
    let child: Box<dyn FnOnce() -> i32> = Box::new(child);
    let child = Box::into_raw(Box::new(child));
    // SAFETY: the stack is nobody else's, and the child calls only what the tests say works without the C library's
    // knowledge of it.
    let pid = unsafe { libc::clone(start, top.cast(), flags, child.cast()) };
    assert!(pid > 0, "clone: {}", io::Error::last_os_error());
    pid
}

/// A process that shares the memory of this one, as a vfork child does, but beside its parent. It sleeps until it is
/// killed, or for some minutes, and outlives its parent.
pub fn start_sharing_memory() -> i32 {
    clone(libc::CLONE_VM | libc::SIGCHLD, || {
        let seconds = |tv_sec| libc::itimerval {
            it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 },
            it_value: libc::timeval { tv_sec, tv_usec: 0 },
        };
        let end = seconds(240);
        // SAFETY: the default action of the signal ends this process, which shares no handlers.
        unsafe { libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, &raw const end, 0) };
        loop {
            // SAFETY: sleeps; changes nothing that it shares.
            unsafe { libc::syscall(libc::SYS_ppoll, 0, 0, 0, 0, 0) };
        }
    })
}

/// A process that nobody waits for, killed when the test ends.
pub struct Orphan(i32);

impl Orphan {
    /// Takes care of a process that lives until it is killed.
    pub fn new(pid: u64) -> Self {
        assert!(pid > 1);
        Self(i32::try_from(pid).unwrap())
    }

    /// Whether it is there.
    pub fn lives(&self) -> bool {
        // SAFETY: signal 0 is not delivered.
        unsafe { libc::kill(self.0, 0) == 0 }
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        // SAFETY: it lives until it is killed here, so the pid is its own.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
    }
}

/// From here on a system call fails with an error in this thread, and in those that it starts.
pub fn deny(call: i64, error: i32) {
    let number = std::mem::offset_of!(libc::seccomp_data, nr) as u32;
    let step = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let denied = libc::SECCOMP_RET_ERRNO | error.cast_unsigned();
    let call = u32::try_from(call).unwrap();
    let mut program = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, number, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call, 0, 1),
        step(libc::BPF_RET | libc::BPF_K, denied, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: a plain request to the kernel.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    // SAFETY: the kernel copies the program.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
    assert_eq!(result, 0, "seccomp: {}", io::Error::last_os_error());
}
