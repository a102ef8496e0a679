//! Child processes: this program, started again in another role.
//!
//! A writer gets the memory of the state as its standard input. Its standard output is its tally: one byte for each
//! commit that returned. A pipe keeps what was written to it when the writer is killed, and owes nothing to the state
//! whose count is checked with it.

use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{ExitStatusExt, parent_id};
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use zproc::State;

use crate::{Result, governor, sampler};

/// The bytes of a tally.
const COMMITTED: u8 = b'.';
/// The writer has stopped inside of a transaction.
const INSIDE: u8 = b'!';

/// What a child does, from its start to its end.
pub fn be(role: &str, parent: &str, argument: &str) -> Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    // It may have died before that call.
    if parent_id() != parent.parse::<u32>()? {
        return Err("the parent is gone".into());
    }
    match role {
        "load" => burn(),
        "sampler" => sampler::sample(&inherited_state()?, Pid::from_raw(argument.parse()?)),
        "governor" => governor::govern(&inherited_state()?),
        _ => Err(format!("there is no role {role}").into()),
    }
}

fn inherited_state() -> Result<State> {
    Ok(State::from_fd(io::stdin().as_fd().try_clone_to_owned()?)?)
}

/// Says that a commit has returned.
pub fn committed() -> io::Result<()> {
    tell(COMMITTED)
}

/// Says that this process is inside of a transaction, and stays there.
pub fn stall() -> io::Result<()> {
    tell(INSIDE)?;
    loop {
        std::thread::park();
    }
}

fn tell(byte: u8) -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(&[byte])?;
    out.flush()
}

/// A child that is killed when it is dropped.
struct Guarded(Child);

impl Guarded {
    fn start(role: &str, argument: i32, stdin: Stdio, stdout: Stdio) -> Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.args([role, &std::process::id().to_string(), &argument.to_string()]);
        Ok(Self(command.stdin(stdin).stdout(stdout).spawn()?))
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // One that has ended already is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that writes to the state.
pub struct Writer {
    child: Guarded,
    tally: BufReader<ChildStdout>,
    commits: u64,
}

impl Writer {
    /// Starts one; `load` is the process whose processor time counts.
    pub fn start(role: &str, state: &State, load: Pid) -> Result<Self> {
        let memory = state.fd().ok_or("the state has no descriptor")?.try_clone_to_owned()?;
        let mut child = Guarded::start(role, load.as_raw(), memory.into(), Stdio::piped())?;
        let tally = child.0.stdout.take().ok_or("the child has no standard output")?;
        Ok(Self {
            child,
            tally: BufReader::new(tally),
            commits: 0,
        })
    }

    /// Waits until it has stopped inside of a transaction, and kills it there. Returns how many commits it made.
    pub fn kill_inside(mut self) -> Result<u64> {
        if !self.count_until_inside()? {
            return Err("the writer that was to stop inside of a transaction has ended".into());
        }
        self.child.0.kill()?;
        let status = self.child.0.wait()?;
        if status.signal() != Some(Signal::SIGKILL as i32) {
            return Err(format!("the writer that was killed ended otherwise: {status}").into());
        }
        Ok(self.commits)
    }

    /// Waits for its end. Returns how many commits it made.
    pub fn finish(mut self) -> Result<u64> {
        self.count_until_inside()?;
        let status = self.child.0.wait()?;
        if !status.success() {
            return Err(format!("a writer failed: {status}").into());
        }
        Ok(self.commits)
    }

    /// Counts commits until the writer says that it is inside of one (true), or has ended (false).
    fn count_until_inside(&mut self) -> Result<bool> {
        for byte in self.tally.by_ref().bytes() {
            match byte? {
                INSIDE => return Ok(true),
                _ => self.commits += 1,
            }
        }
        Ok(false)
    }
}

/// A program that uses as much processor time as it gets, while it is on.
pub struct Load(Guarded);

impl Load {
    /// Starts one that is off.
    pub fn start() -> Result<Self> {
        let child = Guarded::start("load", 0, Stdio::null(), Stdio::null())?;
        // It stops itself when it is ready. Were it told to go on before that, it would stop for good.
        match waitpid(child.pid(), Some(WaitPidFlag::WUNTRACED))? {
            WaitStatus::Stopped(..) => Ok(Self(child)),
            status => Err(format!("the load did not start: {status:?}").into()),
        }
    }

    pub fn pid(&self) -> Pid {
        self.0.pid()
    }

    pub fn on(&self) -> Result<()> {
        Ok(kill(self.pid(), Signal::SIGCONT)?)
    }

    pub fn off(&self) -> Result<()> {
        Ok(kill(self.pid(), Signal::SIGSTOP)?)
    }
}

fn burn() -> Result<()> {
    raise(Signal::SIGSTOP)?;
    loop {
        std::hint::spin_loop();
    }
}
