//! A server in a process of its own: a child that inherits socket, lock and memory, and serves until it is ended.

use std::any::TypeId;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use shm_state::Deadline;
use zproc_spawn::exit;
use zproc_spawn::spawn::{self, Child};

use super::accept::{self, Shared};
use crate::error::{Error, Result};
use crate::os::{failed, wait_readable};
use crate::process::{Home, Job, Launch, ProcessSettings, Target, locate, to_bytes};
use crate::state::State;
use crate::wire::proof::Key;

/// A child that does not end when it is asked to is killed after this.
const GRACE: Duration = Duration::from_secs(1);

/// The target: a type of its own, since it takes descriptors, which functions cannot.
#[derive(Clone, Copy)]
struct Serve;

/// Marks it.
struct Marker;

impl Target<Marker> for Serve {
    /// The derived key.
    type Args = Option<[u8; 32]>;
    type Output = ();
    type Pointer = fn();

    fn call(self, home: &Home, key: Self::Args) -> Result<()> {
        let &[listener, lock] = home.fds() else {
            return Err(Error::Process {
                reason: format!("a server was given {} descriptors instead of two", home.fds().len()),
            });
        };
        let inherited = |fd| zproc_spawn::start::inherited(fd).map_err(|source| failed("inheriting a socket", source));
        let listener = UnixListener::from(inherited(listener)?);
        // Held for as long as this process lives.
        let _lock = inherited(lock)?;
        let key = key.map(Key::from_bytes);
        accept::raise_limit();
        let shared = Arc::new(Shared::new(home.state()?, key, std::process::id()));
        shared.accept(&listener);
        Ok(())
    }
}

/// A server in a child, as its parent has it. The parent keeps neither socket nor lock, which end with the child.
pub(super) struct Process {
    child: Child,
    /// Keeps the memory that the child reads its order from.
    _job: Job,
}

/// Starts it.
pub(super) fn start(state: State, key: Option<Key>, listener: OwnedFd, lock: OwnedFd) -> Result<Process> {
    let launch = Launch {
        target: locate(Serve)?,
        name: "zproc::start_server".into(),
        args: to_bytes("the key of a server", &key.map(|key| key.to_bytes()))?,
        retry_args: None,
        output: (TypeId::of::<()>(), "()"),
        state: Arc::new(state),
        settings: ProcessSettings::new(),
        fds: vec![Arc::new(listener), Arc::new(lock)],
        tied: true,
    };
    let job = Job::create(&launch.order()?)?;
    let mut keep: Vec<_> = launch.memory()?.into_iter().collect();
    keep.extend(launch.fds.iter().map(AsFd::as_fd));
    let order = spawn::Order {
        job: job.as_fd(),
        keep: &keep,
        tied: launch.tied,
        // A terminal signals all its processes, of which the parent may handle what would end this one. With the parent it
        // ends in any case.
        blocked: [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT].into_iter().collect(),
    };
    let child = spawn::spawn(&order).map_err(|source| failed("starting a server", source))?;
    Ok(Process { child, _job: job })
}

impl Process {
    pub(super) fn pid(&self) -> u32 {
        self.child.pid
    }

    pub(super) fn is_alive(&self) -> bool {
        !exit::has_ended(&self.child)
    }

    /// Ends it: it has nothing to put in order that its end does not.
    pub(super) fn stop(&self) -> Result<()> {
        let _ = exit::send(&self.child, Signal::SIGTERM);
        if !wait_readable(&[self.child.pidfd.as_fd()], Deadline::after(GRACE), false)? {
            let _ = exit::send(&self.child, Signal::SIGKILL);
            wait_readable(&[self.child.pidfd.as_fd()], Deadline::never(), false)?;
        }
        // Nobody else knows of this child; if somebody has collected it all the same, it is gone too.
        let _ = exit::reap(&self.child);
        Ok(())
    }
}
