//! What the examples share: a state that has an address and is gone afterwards, and processes that use it.
//!
//! A child process is this same program, started again in a role. Programs of your own may be as many executables as you
//! like: whoever knows the address can open the state.

use std::error::Error;
use std::os::unix::process::parent_id;
use std::process::{self, Command, ExitCode, Stdio};
use std::{env, thread};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::alarm;
use zproc::State;

pub type Result<T = (), E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// A run that takes longer has failed.
const LIMIT_SECONDS: u32 = 60;
/// So many updates are kept for watchers that are late: more than any example makes, however slow the machine is.
const HISTORY: u32 = 10_000;

/// Runs an example: `parent` in the process that the user starts, `child` in each that this one starts in turn.
pub fn run(name: &str, parent: fn(&Stage) -> Result, child: fn(&State, role: &str) -> Result) -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Stage::new(name).and_then(|stage| parent(&stage)),
        [role, address, seq, parent] => open(address, seq, parent).and_then(|state| child(&state, role)),
        _ => Err("it takes no arguments".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The state, as a child gets it: it watches from the update `seq` on, the newest when the child was started.
fn open(address: &str, seq: &str, parent: &str) -> Result<State> {
    set_pdeathsig(Signal::SIGKILL)?;
    // It may have died before that call.
    if parent_id() != parent.parse::<u32>()? {
        return Err("the parent is gone".into());
    }
    Ok(State::builder(address).since(seq.parse()?).open()?)
}

/// A state with an address. It is removed when this is dropped, which a panic does too, and when a signal ends the run.
pub struct Stage {
    pub state: State,
    address: String,
}

impl Stage {
    fn new(name: &str) -> Result<Self> {
        let address = format!("shm://zproc-{name}-{}", process::id());
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGALRM]
            .into_iter()
            .collect();
        signals.thread_block()?;
        let state = State::builder(&address).history(HISTORY, 64 << 20).create()?;
        let stage = Self {
            state,
            address: address.clone(),
        };
        alarm::set(LIMIT_SECONDS);
        thread::spawn(move || {
            let signal = signals.wait();
            // The children need no word: they die with this process.
            let _ = zproc::remove(&address);
            match signal {
                Ok(Signal::SIGALRM) => eprintln!("not done after {LIMIT_SECONDS} s"),
                _ => eprintln!("interrupted"),
            }
            process::exit(1);
        });
        Ok(stage)
    }

    /// Starts a child process for each role.
    pub fn start<R: ToString>(&self, roles: impl IntoIterator<Item = R>) -> Result<Children> {
        let mut children = Children(Vec::new());
        let [seq, parent] = [self.state.seq()?, process::id().into()].map(|number| number.to_string());
        for role in roles {
            let mut command = Command::new("/proc/self/exe");
            command.args([&role.to_string(), &self.address, &seq, &parent]);
            children.0.push(command.stdin(Stdio::null()).spawn()?);
        }
        Ok(children)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // That somebody else has removed it is no harm.
        let _ = zproc::remove(&self.address);
    }
}

/// Child processes. Those that are left are killed when this is dropped.
pub struct Children(Vec<process::Child>);

impl Children {
    /// Waits for all of them to end, and fails if one has failed.
    pub fn finish(mut self) -> Result {
        for child in &mut self.0 {
            let status = child.wait()?;
            if !status.success() {
                return Err(format!("a child failed: {status}").into());
            }
        }
        Ok(())
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that has ended already is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
