//! The processes of the soak, as the conductor sees them: started, stopped, continued, killed.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use shm_state::Arena;
use zproc::{Builder, State};

use crate::board::Board;
use crate::model::NAMESPACE;
use crate::random::Random;

/// Only ends a hang: nothing should take that long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A process of the soak. It is killed when this is dropped.
pub struct Kid {
    pub number: u64,
    process: Child,
    pub stopped: bool,
}

impl Kid {
    pub fn start(number: u64, arena: &Arena, board: &Board, seed: u64) -> Self {
        let own = std::process::id();
        let path = |fd: i32| format!("/proc/{own}/fd/{fd}");
        let process = Command::new("/proc/self/exe")
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env("ZPROC_SOAK_CHILD", number.to_string())
            .env("ZPROC_SOAK_CHILD_SEED", seed.to_string())
            .env("ZPROC_SOAK_ARENA", path(arena.fd().unwrap().as_raw_fd()))
            .env("ZPROC_SOAK_BOARD", path(board.fd()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            number,
            process,
            stopped: false,
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).unwrap();
    }

    /// It still runs, or else it found something wrong.
    pub fn check_alive(&mut self) {
        let early = self.process.try_wait().unwrap();
        assert!(early.is_none(), "process {} ended by itself: {early:?}", self.number);
    }

    /// Stops it, and returns when it does not execute any more.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGSTOP);
        match waitpid(Pid::from_raw(self.pid().cast_signed()), Some(WaitPidFlag::WUNTRACED)).unwrap() {
            WaitStatus::Stopped(..) => self.stopped = true,
            other => panic!("process {} ended by itself: {other:?}", self.number),
        }
    }

    pub fn go_on(&mut self) {
        self.signal(Signal::SIGCONT);
        self.stopped = false;
    }

    /// Sends the signal and does not wait for the end.
    pub fn send_kill(&mut self) {
        self.signal(Signal::SIGKILL);
    }

    pub fn reap(&mut self) {
        let status = self.process.wait().unwrap();
        assert!(
            !status.success(),
            "process {} was killed and says {status}",
            self.number
        );
    }

    pub fn kill(&mut self) {
        self.check_alive();
        self.send_kill();
        self.reap();
    }

    /// Waits until it has ended by itself.
    pub fn finish(mut self) {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.process.try_wait().unwrap() {
                assert!(status.success(), "process {}: {status}", self.number);
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("process {} does not end", self.number);
    }
}

impl Drop for Kid {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What such a process has.
pub struct Role {
    pub number: u64,
    pub random: Random,
    pub board: Board,
    pub arena: Arena,
    parent: u32,
}

impl Role {
    /// That of this process, if it is one of the soak.
    pub fn of_this_process() -> Option<Self> {
        let number = std::env::var("ZPROC_SOAK_CHILD").ok()?.parse().unwrap();
        let parent = std::os::unix::process::parent_id();
        // Also when it is stopped: nothing is left behind if the conductor is killed.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
        let variable = |name| std::env::var(name).unwrap();
        let open = |name| File::options().read(true).write(true).open(variable(name)).unwrap();
        Some(Self {
            number,
            random: Random::new(variable("ZPROC_SOAK_CHILD_SEED").parse().unwrap()),
            board: Board::opened(open("ZPROC_SOAK_BOARD")),
            arena: Arena::from_fd(open("ZPROC_SOAK_ARENA").into()).unwrap(),
            parent,
        })
    }

    /// The state, with settings.
    pub fn state(&self, settings: impl FnOnce(Builder) -> Builder) -> State {
        open_state(&self.arena, settings)
    }

    /// Whether the conductor is gone.
    pub fn is_orphaned(&self) -> bool {
        std::os::unix::process::parent_id() != self.parent
    }
}

/// The state in an arena.
pub fn open_state(arena: &Arena, settings: impl FnOnce(Builder) -> Builder) -> State {
    let fd = arena.fd().unwrap().try_clone_to_owned().unwrap();
    settings(Builder::anonymous().namespace(NAMESPACE)).from_fd(fd).unwrap()
}
