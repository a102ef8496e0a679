//! Child processes of this test binary, and the boards on which they leave numbers.
//!
//! A child is the test binary again, told by an environment variable to play a role. Each binary that uses children
//! has a test named `child` which plays it, and which does nothing without a role. A child dies with the thread that
//! started it, and with its handle.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use shm_state::Arena;

use super::{PATIENCE, eventually};

const ROLE: &str = "SHM_STATE_TEST_ROLE";
const ARENA: &str = "SHM_STATE_TEST_ARENA";
const BOARD: &str = "SHM_STATE_TEST_BOARD";
const NUMBER: &str = "SHM_STATE_TEST_NUMBER";

/// Numbers that outlive whoever wrote them: words of a file without a name.
pub struct Board(File);

impl Board {
    /// A board of zeroes.
    pub fn new() -> Self {
        let fd = nix::sys::memfd::memfd_create("board", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap();
        let file = File::from(fd);
        file.set_len(64 * 1024).unwrap();
        Self(file)
    }

    /// The number at a place.
    pub fn get(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, at * 8).unwrap();
        u64::from_le_bytes(bytes)
    }

    /// Writes a number: a system call, which a SIGKILL does not interrupt.
    pub fn set(&self, at: u64, value: u64) {
        self.0.write_all_at(&value.to_le_bytes(), at * 8).unwrap();
    }

    /// Waits until a number is at least so large.
    #[track_caller]
    pub fn wait_for(&self, at: u64, least: u64) {
        eventually(&format!("place {at} of the board to reach {least}"), || {
            self.get(at) >= least
        });
    }

    /// Its descriptor.
    pub fn descriptor(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// Leaves the board open in a program that this process executes.
    pub fn keep_on_exec(&self) {
        // SAFETY: sets a flag of an open descriptor.
        assert_eq!(unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_SETFD, 0) }, 0);
    }

    fn path(&self) -> String {
        path_of(self.0.as_raw_fd())
    }
}

fn path_of(fd: i32) -> String {
    format!("/proc/{}/fd/{fd}", std::process::id())
}

/// A child process. Killed, if it still runs, when this is dropped.
pub struct Kid(Child);

impl Kid {
    /// Starts a child in a role. It finds the arena and the board as [`Role`] says.
    pub fn start(role: &str, number: u64, arena: Option<&Arena>, board: &Board) -> Self {
        Self::spawn(&mut Self::command(role, number, arena, board))
    }

    /// Starts the child of a [`Kid::command`].
    pub fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().expect("starting a child"))
    }

    /// The command that starts a child.
    pub fn command(role: &str, number: u64, arena: Option<&Arena>, board: &Board) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(NUMBER, number.to_string())
            .env(BOARD, board.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if let Some(fd) = arena.and_then(Arena::fd) {
            command.env(ARENA, path_of(fd.as_raw_fd()));
        }
        command
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: two integers; the child was not waited for, so the pid is its own.
        let result = unsafe { libc::kill(self.0.id().cast_signed(), signal) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    /// SIGKILLs it and waits for its end.
    pub fn kill(mut self) -> ExitStatus {
        let _ = self.0.kill();
        self.0.wait().unwrap()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "process {} does not end", self.0.id());
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
    }

    /// Waits for its end without a bound: for children that bound themselves.
    pub fn wait_for_ever(mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }

    /// Waits for its end, which must be success.
    #[track_caller]
    pub fn succeeds(self) {
        let status = self.wait();
        assert!(status.success(), "the child failed: {status}");
    }
}

impl Drop for Kid {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a child is to do.
pub struct Role {
    /// Its name.
    pub name: String,
    /// A number that its parent gave it.
    pub number: u64,
    /// The board.
    pub board: Board,
    arena: Option<String>,
}

impl Role {
    /// The role of this process, if it has one. From here on it dies with its parent.
    pub fn of_this_process() -> Option<Self> {
        let name = std::env::var(ROLE).ok()?;
        // SAFETY: a plain request to the kernel.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        let board = std::env::var(BOARD).unwrap();
        let board = Board(File::options().read(true).write(true).open(board).unwrap());
        let number = std::env::var(NUMBER).unwrap().parse().unwrap();
        Some(Self {
            name,
            number,
            board,
            arena: std::env::var(ARENA).ok(),
        })
    }

    /// The arena of the parent.
    pub fn arena(&self) -> Arena {
        Arena::from_fd(self.arena_fd()).unwrap()
    }

    /// The file of the arena of the parent.
    pub fn arena_fd(&self) -> OwnedFd {
        let path = self.arena.as_ref().expect("this role has no arena");
        File::options().read(true).write(true).open(path).unwrap().into()
    }
}

/// Runs `child` in a forked copy of this process, which never returns from it. `None`: it ended by itself with
/// success; else the signal that ended it. Any other end panics.
pub fn fork(child: impl FnOnce()) -> Option<i32> {
    wait_for(start_fork(child))
}

/// As [`fork`], without waiting for the child.
pub fn start_fork(child: impl FnOnce()) -> i32 {
    // SAFETY: the copy runs `child`, which the callers keep to engine calls and plain memory, and then exits without
    // running anything of the test harness.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
        // SAFETY: ends this process.
        unsafe { libc::_exit(i32::from(result.is_err())) };
    }
    pid
}

/// Waits for a forked child; see [`fork`].
pub fn wait_for(pid: i32) -> Option<i32> {
    let status = end_of(pid);
    assert!(
        status.success() || status.signal().is_some(),
        "the forked child failed: {status}"
    );
    status.signal()
}

/// Waits for a forked child, however it ends.
pub fn end_of(pid: i32) -> ExitStatus {
    let mut status = 0;
    // SAFETY: waits for a child of this process; `status` outlives the call.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } != pid {
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EINTR));
    }
    ExitStatus::from_raw(status)
}
