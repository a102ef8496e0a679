//! A second process, which does as it is told.
//!
//! It is this very program once more, or the one of [`use_program`], called with `peer` as its first argument. It sleeps
//! until the board names a job, so that it takes nothing from the side that is measured alone.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::board::{Board, SharedBoard, number_of};
use crate::rounds::Round;
use crate::{cpu, futex, ping};

/// The job of answering pings, which every peer knows.
pub const PING: u32 = 0;

/// By how much the way between the cores may change within a round.
const SAME_MODE: f64 = 1.5;

/// Rounds are repeated so often, at most, for each one that is wanted.
const ATTEMPTS: usize = 4;

/// A job may take so long.
const PATIENCE: Duration = Duration::from_secs(60);

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// What other processes are started from.
pub fn program() -> &'static Path {
    PROGRAM.get().map_or(Path::new("/proc/self/exe"), PathBuf::as_path)
}

/// Other processes are started from this program: for one that cannot do what they do. The first call counts.
pub fn use_program(path: impl Into<PathBuf>) {
    let _ = PROGRAM.set(path.into());
}

/// The second process, as the first one has it. Dropping it ends it.
pub struct Peer {
    child: Child,
    board: SharedBoard,
}

impl Peer {
    /// Starts a process on a CPU. It is to get `arguments` from [`Service::from_args`].
    pub fn spawn(cpu: usize, arguments: &[String]) -> Self {
        let board = SharedBoard::create();
        let own = [std::process::id() as usize, number_of(&board) as usize, cpu].map(|number| number.to_string());
        let mut command = Command::new(program());
        let child = command
            .arg("peer")
            .args(own)
            .args(arguments)
            .spawn()
            .expect("this program can be started");
        Self { child, board }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The memory shared with it.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Runs `f` while the peer does a job. Returns what came of both; the peer is told to stop after `f`.
    pub fn during<T>(&mut self, job: u32, argument: u64, f: impl FnOnce(&Board) -> T) -> (T, u64) {
        let number = self.begin(job, argument);
        let result = f(&self.board);
        (result, self.end(number))
    }

    /// Tells the peer to stop, and waits until the job with this number is done. Returns what came of it.
    pub fn end(&mut self, number: u32) -> u64 {
        self.board.stop.store(1, Ordering::Release);
        self.wait(|board| board.finished.load(Ordering::Acquire) == number);
        self.board.result.load(Ordering::Relaxed)
    }

    /// Waits until the job with this number is done, for so long at most; whether it is.
    pub fn is_done(&mut self, number: u32, patience: Duration) -> bool {
        let start = Instant::now();
        while self.board.finished.load(Ordering::Acquire) != number {
            if start.elapsed() > patience || self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return false;
            }
            std::thread::sleep(Duration::from_micros(20));
        }
        true
    }

    /// Kills it, by SIGKILL, and returns when it is dead.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }

    /// Has the peer begin a job, and leaves it to it. Returns the job's number when it has begun.
    pub fn begin(&mut self, job: u32, argument: u64) -> u32 {
        let board = &*self.board;
        board.stop.store(0, Ordering::Relaxed);
        board.received.store(0, Ordering::Relaxed);
        board.ping.store(0, Ordering::Relaxed);
        board.pong.store(0, Ordering::Relaxed);
        board.job.store(job, Ordering::Relaxed);
        board.argument.store(argument, Ordering::Relaxed);
        // Release: with the words above.
        let number = board.order.fetch_add(1, Ordering::Release) + 1;
        futex::wake(&board.order);
        self.wait(|board| board.begun.load(Ordering::Acquire) == number);
        number
    }

    fn wait(&mut self, done: impl Fn(&Board) -> bool) {
        let start = Instant::now();
        while !done(&self.board) {
            // A server that the peer waits for may have to run on this CPU.
            std::thread::yield_now();
            if start.elapsed() > Duration::from_millis(10) {
                std::thread::sleep(Duration::from_millis(1));
                let status = self.child.try_wait().expect("it is our child");
                // It may have ended after it had done what is waited for.
                let early = status.is_some() && !done(&self.board);
                assert!(!early, "the second process ended early: {status:?}");
                assert!(start.elapsed() < PATIENCE, "the second process does not finish");
            }
        }
    }

    /// Nanoseconds that a cache line takes to the peer's core.
    pub fn one_way_ns(&mut self) -> f64 {
        self.during(PING, 0, ping::one_way_ns).0
    }

    /// Takes `count` rounds, each within one mode of the control, which `round` gets as its last argument. Those in
    /// which the mode changed are taken again.
    pub fn rounds(&mut self, count: usize, mut round: impl FnMut(&mut Self, usize, f64) -> Round) -> Controlled {
        let mut result = Controlled {
            rounds: Vec::new(),
            one_way_ns: Vec::new(),
            discarded: 0,
        };
        for _ in 0..ATTEMPTS * count {
            let before = self.one_way_ns();
            let measured = round(self, result.rounds.len(), before);
            let after = self.one_way_ns();
            if before.max(after) > SAME_MODE * before.min(after) {
                result.discarded += 1;
                continue;
            }
            result.rounds.push(measured);
            result.one_way_ns.push((before + after) / 2.0);
            if result.rounds.len() == count {
                break;
            }
        }
        result
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Rounds between processes, with their control.
pub struct Controlled {
    /// The rounds that count.
    pub rounds: Vec<Round>,
    /// The control of each.
    pub one_way_ns: Vec<f64>,
    /// How many did not count.
    pub discarded: usize,
}

/// The second process, as it has itself.
pub struct Service {
    board: SharedBoard,
    /// Who started it.
    pub parent: u32,
    /// What else it was told at its start.
    pub arguments: Vec<String>,
}

impl Service {
    /// If this process was started as a peer: pins it and opens the board.
    pub fn from_args() -> Option<Self> {
        let mut args = std::env::args().skip(1);
        if args.next()? != "peer" {
            return None;
        }
        let mut number = || {
            args.next()
                .and_then(|arg| arg.parse().ok())
                .expect("a peer is started by its parent")
        };
        let [parent, fd, cpu]: [usize; 3] = std::array::from_fn(|_| number());
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).expect("a process may ask to die");
        assert_eq!(
            std::os::unix::process::parent_id() as usize,
            parent,
            "the parent has ended already"
        );
        cpu::pin(&[cpu]);
        let parent = parent as u32;
        Some(Self {
            board: SharedBoard::open(parent, fd as i32),
            parent,
            arguments: args.collect(),
        })
    }

    /// Does what it is told, `job` being what else there is but pings, until the parent ends it.
    pub fn serve(&self, mut job: impl FnMut(&Board, u32, u64) -> u64) -> ! {
        let board = &*self.board;
        let mut number = 0;
        loop {
            // Acquire: with the words of the job.
            while board.order.load(Ordering::Acquire) == number {
                futex::wait(&board.order, number, Duration::from_secs(1));
            }
            number += 1;
            let (what, argument) = (
                board.job.load(Ordering::Relaxed),
                board.argument.load(Ordering::Relaxed),
            );
            board.begun.store(number, Ordering::Release);
            let result = match what {
                PING => {
                    ping::answer(board);
                    0
                }
                _ => job(board, what, argument),
            };
            board.result.store(result, Ordering::Relaxed);
            board.finished.store(number, Ordering::Release);
        }
    }
}
