//! Child processes: this test binary again, told by an environment variable to play a role. A child says on its standard
//! output when it is ready, dies with the thread that started it, and with its handle.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use zproc::State;

const ROLE: &str = "ZPROC_CARE_ROLE";
const ADDRESS: &str = "ZPROC_CARE_ADDRESS";
const ARGUMENT: &str = "ZPROC_CARE_ARGUMENT";
const READY: &str = "the child is ready";

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something holds.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// An address that is removed when this is dropped.
pub struct Address(String);

impl Address {
    pub fn new(name: &str) -> Self {
        Self(format!("shm://zproc-care-{name}-{}", std::process::id()))
    }

    pub fn path(&self) -> String {
        self.0.replace("shm://", "/dev/shm/")
    }
}

impl std::ops::Deref for Address {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        drop(std::fs::remove_file(self.path()));
    }
}

/// What a child is to do.
pub struct Role {
    pub name: String,
    pub address: String,
    pub argument: String,
}

impl Role {
    /// The role of this process, if it has one. From here on it dies with its parent.
    pub fn of_this_process() -> Option<Self> {
        let name = std::env::var(ROLE).ok()?;
        // SAFETY: a plain request to the kernel.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        let of = |variable| std::env::var(variable).unwrap_or_default();
        Some(Self {
            name,
            address: of(ADDRESS),
            argument: of(ARGUMENT),
        })
    }

    pub fn state(&self) -> State {
        State::open(&self.address).unwrap()
    }
}

/// Tells the parent that this child has done its part, and waits to be killed.
pub fn ready_until_killed() -> ! {
    println!("\n{READY}");
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// A child process, killed when this is dropped.
pub struct Kid {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Kid {
    pub fn start(role: &str, address: &str, argument: &str) -> Self {
        Self::start_as(role, address, argument, None)
    }

    /// As another user.
    pub fn start_as(role: &str, address: &str, argument: &str, user: Option<u32>) -> Self {
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(ADDRESS, address)
            .env(ARGUMENT, argument)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if let Some(user) = user {
            command.uid(user);
        }
        let mut child = command.spawn().expect("starting a child");
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    /// Starts a child and waits until it is ready.
    pub fn ready(role: &str, address: &str, argument: &str) -> Self {
        let mut kid = Self::start(role, address, argument);
        let mut line = String::new();
        while line.trim_end() != READY {
            line.clear();
            assert_ne!(
                kid.out.read_line(&mut line).unwrap(),
                0,
                "the child in role {role:?} failed"
            );
        }
        kid
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: two integers; the child was not waited for, so the pid is its own.
        assert_eq!(unsafe { libc::kill(self.child.id().cast_signed(), signal) }, 0);
    }

    /// SIGKILLs it and waits for its end.
    pub fn kill(mut self) -> u32 {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child.id()
    }

    /// What it writes until its end.
    pub fn output(mut self) -> (String, ExitStatus) {
        let mut text = String::new();
        self.out.read_to_string(&mut text).unwrap();
        (text, self.child.wait().unwrap())
    }
}

impl Drop for Kid {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
