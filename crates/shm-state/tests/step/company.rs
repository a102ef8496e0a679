//! Processes beside the one that is stepped: they run, and are stopped while somebody looks.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use shm_state::{Deadline, KeyRef, On, Strategy};

use crate::common::eventually;
use crate::common::model::{self, Change};
use crate::common::process::start_fork;
use crate::kill::scenario::World;

/// Who is there beside the stepped process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Company {
    /// Nobody.
    Nobody,
    /// A process that waits for the writer lock as soon as the stepped one has it, and gets it afterwards.
    Waiter,
    /// The onlooker has the writer lock all the time.
    Owner,
    /// A process that sleeps until the key changes.
    Sleeper,
    /// A process that commits the changes once the stepped one is asleep.
    Writer,
}

/// How long a companion waits at most.
const LONG: Duration = Duration::from_secs(500);

/// A process beside. It must succeed.
pub struct Companion {
    pid: Pid,
    end: Option<WaitStatus>,
}

impl Companion {
    /// A process that gets the writer lock and gives it back.
    pub fn waiter(world: &World) -> Self {
        Self::start(|| {
            let (_arena, namespace) = world.open();
            drop(namespace.begin(Deadline::after(LONG)).unwrap());
        })
    }

    /// A process that sleeps until the key "a" changes, and looks at the new value. Returns once it is asleep.
    pub fn sleeper(world: &World) -> Self {
        let companion = Self::start(|| {
            let (_arena, namespace) = world.open();
            let (seq, cancel) = (namespace.seq(), AtomicBool::new(false));
            let newer = |now| Ok((now > seq).then_some(now));
            let key = KeyRef::new(0, b"a");
            let on = On::Keys(&[key.hash()]);
            let found = namespace.wait(on, Strategy::Block, Deadline::after(LONG), &cancel, newer);
            assert_eq!(found.unwrap(), Ok(seq + 1));
            assert!(namespace.get(&key).unwrap().is_some());
        });
        eventually("the sleeper to fall asleep", || sleeps(companion.pid));
        companion
    }

    /// A process that commits once another one is asleep.
    pub fn writer(world: &World, changes: &[Change], other: u32) -> Self {
        let other = Pid::from_raw(other.cast_signed());
        Self::start(|| {
            let (_arena, namespace) = world.open();
            eventually("the stepped process to fall asleep", || sleeps(other));
            model::commit(&namespace, changes, Deadline::after(LONG)).unwrap();
        })
    }

    fn start(child: impl FnOnce()) -> Self {
        let pid = start_fork(|| {
            // SAFETY: a plain request to the kernel.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            child();
        });
        Self {
            pid: Pid::from_raw(pid),
            end: None,
        }
    }

    /// Stops it, so that the arena stands still; an end by itself is noted.
    pub fn freeze(&mut self) {
        if self.end.is_some() {
            return;
        }
        kill(self.pid, Signal::SIGSTOP).unwrap();
        let status = waitpid(self.pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
        if !matches!(status, WaitStatus::Stopped(..)) {
            self.end = Some(status);
        }
    }

    /// Lets it run again.
    pub fn thaw(&self) {
        if self.end.is_none() {
            kill(self.pid, Signal::SIGCONT).unwrap();
        }
    }

    /// Waits for its end. Says whether that was success.
    pub fn succeeds(mut self) -> bool {
        let end = self.end.take().unwrap_or_else(|| waitpid(self.pid, None).unwrap());
        self.end = Some(end);
        end == WaitStatus::Exited(self.pid, 0)
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        if self.end.is_none() {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}

/// Whether a process is asleep in a futex.
fn sleeps(pid: Pid) -> bool {
    let at = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let number = at.split_ascii_whitespace().next().and_then(|n| n.parse().ok());
    [libc::SYS_futex, libc::SYS_futex_waitv]
        .iter()
        .any(|n| Some(*n) == number)
}
