//! A server in a process of its own: a child that inherits socket, lock and memory, and serves until it is ended.
//!
//! **Its end.** It removes its socket and its lock file at SIGTERM, and its parent's end sends it that instead of SIGKILL.
//! SIGTERM is blocked in all its threads from the first instant on; one of them waits for nothing else. What ends it before
//! that thread is there, and SIGKILL, leaves the files to the next server (`place`).

use std::any::TypeId;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use shm_state::Deadline;
use zproc_spawn::exit;
use zproc_spawn::spawn::{self, Child};
use zproc_spawn::start;

use super::accept::{self, Shared};
use super::place;
use crate::error::{Error, Result};
use crate::os::{failed, quiet_thread, wait_readable};
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
        let inherited = |fd| start::inherited(fd).map_err(|source| failed("inheriting a socket", source));
        let listener = UnixListener::from(inherited(listener)?);
        end_in_order(&listener, File::from(inherited(lock)?))?;
        let key = key.map(Key::from_bytes);
        accept::raise_limit();
        let shared = Arc::new(Shared::new(home.state()?, key, std::process::id()));
        shared.accept(&listener);
        Ok(())
    }
}

/// Has a thread end this process at SIGTERM, which removes the files before. It holds the lock for as long as the process
/// lives.
fn end_in_order(listener: &UnixListener, lock: File) -> Result<()> {
    let address = listener.local_addr().map_err(|source| failed("getsockname", source))?;
    let path = address.as_pathname().map(Path::to_owned);
    quiet_thread("zproc-server-end", move || {
        let signals: SigSet = [Signal::SIGTERM].into_iter().collect();
        while signals.wait().is_err() {}
        path.iter().for_each(|path| place::remove_locked(path, &lock));
        start::leave(0)
    })?;
    start::end_by(Signal::SIGTERM).map_err(|source| failed("asking for SIGTERM at the end of the parent", source))
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
        // ends in any case. SIGTERM is waited for.
        blocked: [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTERM]
            .into_iter()
            .collect(),
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

    /// Ends it.
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
