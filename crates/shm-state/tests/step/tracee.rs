//! The process that is stepped: a forked child that stops at marks and then after each instruction.
//!
//! It asks to be traced, runs to its first mark, and from there on by single steps. A system call is one step. Marks
//! are SIGSTOPs that it sends to itself; every other signal is passed on. It is killed with its tracer, and when its
//! handle is dropped.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::common::process::start_fork;

/// How the child says that it may not be traced.
const REFUSED: i32 = 77;

/// Stops the traced process until its tracer goes on.
pub fn mark() {
    raise(Signal::SIGSTOP).unwrap();
}

/// Where a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Behind one instruction.
    Instruction,
    /// In a mark.
    Mark,
    /// Nowhere: the process is dead.
    End(WaitStatus),
}

/// A traced process.
pub struct Tracee {
    pid: Pid,
    memory: File,
    /// A signal that goes on with the next step.
    signal: Option<Signal>,
    robust: RobustHead,
    /// Where the kernel's code for reading the clock is mapped.
    vdso: Range<u64>,
    alive: bool,
}

/// Where the thread's robust list is, and the distance from its entries to the futex words.
struct RobustHead {
    address: u64,
    futex_offset: i64,
}

impl Tracee {
    /// Forks a child that runs to its first mark. `Err`: this system does not allow tracing, and why.
    pub fn start(child: impl FnOnce()) -> Result<Self, String> {
        let pid = start_fork(|| {
            // SAFETY: a plain request to the kernel.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            if let Err(error) = ptrace::traceme() {
                eprintln!("ptrace(PTRACE_TRACEME): {error}");
                // SAFETY: ends this process.
                unsafe { libc::_exit(REFUSED) };
            }
            child();
        });
        let pid = Pid::from_raw(pid);
        match waitpid(pid, None).unwrap() {
            WaitStatus::Stopped(_, Signal::SIGSTOP) => {}
            WaitStatus::Exited(_, REFUSED) => return Err("ptrace(PTRACE_TRACEME) is refused".into()),
            other => panic!("the traced process did not come to its first mark: {other:?}"),
        }
        let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
        let mut tracee = Self {
            pid,
            memory,
            signal: None,
            robust: RobustHead {
                address: 0,
                futex_offset: 0,
            },
            vdso: 0..0,
            alive: true,
        };
        // What it starts would run on unseen, so that is stopped, too; see `step`.
        let others = Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC;
        ptrace::setoptions(pid, Options::PTRACE_O_EXITKILL | others)
            .map_err(|error| format!("ptrace(PTRACE_SETOPTIONS): {error}"))?;
        tracee.robust = tracee.robust_head();
        let maps = tracee.maps();
        let vdso = maps.lines().filter_map(Mapped::parse).find(|m| m.name == "[vdso]");
        tracee.vdso = vdso.map_or(0..0, |m| m.range);
        Ok(tracee)
    }

    /// Its process id, which is also that of its only thread.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    /// Executes one instruction.
    #[inline]
    pub fn step(&mut self) -> Stop {
        ptrace::step(self.pid, self.signal.take()).unwrap();
        match waitpid(self.pid, None).unwrap() {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => Stop::Instruction,
            WaitStatus::Stopped(_, Signal::SIGSTOP) => Stop::Mark,
            WaitStatus::Stopped(_, signal) => {
                self.signal = Some(signal);
                Stop::Instruction
            }
            end @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => {
                self.alive = false;
                Stop::End(end)
            }
            // Its thread would keep a handle from ever being dropped; all die with this process.
            other => {
                eprintln!("the operation started a thread, a process or a program: {other:?}");
                std::process::exit(1)
            }
        }
    }

    /// Lets it run to its next mark.
    pub fn run_to_mark(&mut self) {
        loop {
            ptrace::cont(self.pid, self.signal.take()).unwrap();
            match waitpid(self.pid, None).unwrap() {
                WaitStatus::Stopped(_, Signal::SIGSTOP) => return,
                WaitStatus::Stopped(_, signal) => self.signal = Some(signal),
                other => panic!("the traced process did not come to its next mark: {other:?}"),
            }
        }
    }

    /// Lets it run to its end from a mark. Says whether that was success.
    pub fn finish(mut self) -> bool {
        ptrace::cont(self.pid, None).unwrap();
        let end = waitpid(self.pid, None).unwrap();
        self.alive = matches!(end, WaitStatus::Stopped(..));
        end == WaitStatus::Exited(self.pid, 0)
    }

    /// Where the next instruction lies, as an offset in the file that it comes from.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn place(&self) -> String {
        "?".into()
    }

    /// Where the next instruction lies, as an offset in the file that it comes from.
    #[cfg(target_arch = "x86_64")]
    pub fn place(&self) -> String {
        let Ok(registers) = ptrace::getregs(self.pid) else {
            return "?".into();
        };
        let at = registers.rip;
        let maps = self.maps();
        let mapped = maps.lines().filter_map(Mapped::parse).find(|m| m.range.contains(&at));
        mapped.map_or(format!("{at:#x}"), |m| {
            format!(
                "{}+{:#x}",
                m.name.rsplit('/').next().unwrap_or(""),
                at - m.range.start + m.offset
            )
        })
    }

    /// Whether the next instruction is one of the kernel's code for reading the clock. It stores nothing but the time,
    /// and starts over when the clock moves meanwhile, so whoever steps through it slowly never comes out.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub fn reads_the_clock(&self) -> bool {
        let at = std::mem::offset_of!(libc::user_regs_struct, rip);
        let at = ptrace::read_user(self.pid, std::ptr::without_provenance_mut(at));
        at.is_ok_and(|at| self.vdso.contains(&at.cast_unsigned()))
    }

    /// Not known: then the whole memory is compared there too.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn reads_the_clock(&self) -> bool {
        false
    }

    fn maps(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/maps", self.pid)).unwrap_or_default()
    }

    /// Where the process has a file mapped, first byte of the file only.
    pub fn mappings_of(&self, file: &File) -> Vec<u64> {
        let inode = file.metadata().unwrap().ino();
        let maps = self.maps();
        let mapped = maps.lines().filter_map(Mapped::parse);
        mapped
            .filter(|m| m.inode == inode && m.offset == 0)
            .map(|m| m.range.start)
            .collect()
    }

    /// The futex word that the kernel would look at if the process died now.
    #[inline]
    pub fn pending(&self) -> u64 {
        // `struct robust_list_head`: list, futex_offset, list_op_pending.
        let entry = self.word(self.robust.address + 16);
        if entry == 0 {
            return 0;
        }
        entry.wrapping_add_signed(self.robust.futex_offset)
    }

    fn robust_head(&self) -> RobustHead {
        let (mut address, mut length) = (0u64, 0usize);
        // SAFETY: the kernel stores a pointer and a length into the two variables.
        let result = unsafe {
            libc::syscall(
                libc::SYS_get_robust_list,
                self.pid.as_raw(),
                &raw mut address,
                &raw mut length,
            )
        };
        assert!(result == 0 && length == 24, "{}", std::io::Error::last_os_error());
        // An empty list: all that the kernel looks at is the pending field.
        assert_eq!(self.word(address), address, "the tracee holds robust mutexes");
        RobustHead {
            address,
            futex_offset: self.word(address + 8).cast_signed(),
        }
    }

    fn word(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        self.memory.read_exact_at(&mut bytes, address).unwrap();
        u64::from_ne_bytes(bytes)
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        if self.alive {
            let _ = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
            let dead = |status| matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..));
            while waitpid(self.pid, None).is_ok_and(|status| !dead(status)) {}
        }
    }
}

/// One line of /proc/pid/maps.
struct Mapped<'a> {
    range: Range<u64>,
    offset: u64,
    inode: u64,
    name: &'a str,
}

impl<'a> Mapped<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        let offset = number(fields.nth(1)?)?;
        let inode = fields.nth(1)?.parse().ok()?;
        Some(Self {
            range: number(start)?..number(end)?,
            offset,
            inode,
            name: fields.next().unwrap_or(""),
        })
    }
}
