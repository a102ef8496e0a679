//! Visitors and clients of a server: accepted, limited, and each served by a thread of its own.
//!
//! **Threads** and not an async runtime: what a client asks for is read in nanoseconds or waits for a lock or an event in
//! shared memory, which are futexes that no runtime can wait for, and a thread that blocks in `recv` answers as fast as a
//! bare socket does. So no client can hold up another, whatever it does with its own thread.
//!
//! **Limits.** A connection that has not proved itself is a *visitor*. There are [`VISITORS`] at most: when one more comes,
//! the oldest is turned away, which an honest client notices and answers by coming again. Clients are [`CLIENTS`] at most,
//! and no more than the process may have descriptors beside visitors and a [`RESERVE`]; one more is told so, or waits if one
//! of them is about to leave. A server in a process of its own raises that limit as far as it may.
//!
//! **The end.** Whoever stops the server shuts down the sockets, which ends every thread at its next look.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use shm_state::Arena;

use super::place;
use super::serve;
use super::session::{SLICE, Session, Wrong};
use crate::error::Result;
use crate::os::{self, quiet_thread};
use crate::state::State;
use crate::wire::message::{Failure, Token, encode};
use crate::wire::proof::Key;
use crate::wire::{Frames, Kind, WireError, socket};

/// Connections that have not proved themselves.
const VISITORS: usize = 64;
/// Connections that have, if the process may have so many descriptors.
const CLIENTS: usize = 1024;
/// Descriptors that are left to the rest of the process.
const RESERVE: usize = 64;
/// How long who comes waits for one of the clients to leave. Longer than they need to notice that they have hung up, and
/// shorter than a client waits for a server that is to answer at once.
const PLACE_TIME: Duration = SLICE.saturating_add(Duration::from_millis(250));
/// How long to wait when the system has no descriptors or threads left.
const PAUSE: Duration = Duration::from_millis(10);

/// A server, as its threads see it.
pub(super) struct Shared {
    pub(super) state: State,
    pub(super) key: Option<Key>,
    pub(super) pid: u32,
    /// Of clients.
    most: usize,
    guests: Mutex<Guests>,
    /// Of clients that use the state over the socket. They live as long as a connection has them.
    sessions: Mutex<HashMap<Token, Weak<Session>>>,
    gone: Condvar,
    stopping: AtomicBool,
}

/// Who is connected, in the order of coming.
#[derive(Default)]
struct Guests {
    next: u64,
    visitors: BTreeMap<u64, Arc<UnixStream>>,
    clients: BTreeMap<u64, Arc<UnixStream>>,
    /// Threads that have not ended.
    threads: usize,
}

/// One connection, of the thread that serves it.
pub(super) struct Guest<'s> {
    shared: &'s Shared,
    number: u64,
}

impl Shared {
    pub(super) fn new(state: State, key: Option<Key>, pid: u32) -> Self {
        Self {
            state,
            key,
            pid,
            most: clients_most(),
            guests: Mutex::default(),
            sessions: Mutex::default(),
            gone: Condvar::new(),
            stopping: AtomicBool::new(false),
        }
    }

    /// Accepts connections until the server is stopped.
    pub(super) fn accept(self: &Arc<Self>, listener: &UnixListener) {
        loop {
            let accepted = listener.accept();
            // SeqCst, as the other: who stops the server sets it, and then shuts down the listener and who is connected.
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            match accepted {
                Ok((stream, _)) => {
                    if self.admit(stream).is_err() {
                        self.make_room();
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if place::is_passing(&error) => {
                    tracing::warn!(target: "zproc", %error, "a connection could not be accepted");
                    self.make_room();
                }
                Err(error) => {
                    tracing::error!(target: "zproc", %error, "the server accepts no more connections");
                    return;
                }
            }
        }
    }

    /// Turns away the oldest visitor, and gives those who leave the time to.
    fn make_room(&self) {
        self.turn_away_oldest(&mut self.guests());
        std::thread::sleep(PAUSE);
    }

    fn turn_away_oldest(&self, guests: &mut Guests) {
        if let Some((_, oldest)) = guests.visitors.pop_first() {
            let _ = oldest.shutdown(Shutdown::Both);
            // Its thread may wait for a place.
            self.gone.notify_all();
        }
    }

    fn admit(self: &Arc<Self>, stream: UnixStream) -> Result<()> {
        let stream = Arc::new(stream);
        let number = {
            let mut guests = self.guests();
            if guests.visitors.len() >= VISITORS {
                self.turn_away_oldest(&mut guests);
            }
            let number = guests.next;
            guests.next += 1;
            guests.threads += 1;
            guests.visitors.insert(number, Arc::clone(&stream));
            number
        };
        let shared = Arc::clone(self);
        let thread = quiet_thread("zproc-client", move || {
            let guest = Guest {
                shared: &shared,
                number,
            };
            guest.receive(stream);
        });
        thread.map(drop).inspect_err(|error| {
            tracing::warn!(target: "zproc", %error, "a client could not be served");
            self.leave(number);
        })
    }

    fn leave(&self, number: u64) {
        let mut guests = self.guests();
        guests.visitors.remove(&number);
        guests.clients.remove(&number);
        guests.threads -= 1;
        drop(guests);
        self.gone.notify_all();
    }

    /// Ends the service. Returns when the threads have ended, or have had the time to.
    pub(super) fn stop(&self, listener: &UnixListener, patience: Duration) {
        self.stopping.store(true, Ordering::SeqCst);
        place::hush(listener);
        let guests = self.guests();
        for stream in guests.visitors.values().chain(guests.clients.values()) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let _ = self
            .gone
            .wait_timeout_while(guests, patience, |guests| guests.threads > 0);
    }

    /// Device and inode of the memory, by which clients recognise it.
    pub(super) fn arena_file(&self) -> (u64, u64) {
        let stat = self.state.fd().and_then(|fd| nix::sys::stat::fstat(fd).ok());
        stat.map_or((0, 0), |stat| (stat.st_dev, stat.st_ino))
    }

    /// The memory, for figures of all of it.
    pub(super) fn memory(&self) -> Result<&Arena, Wrong> {
        let memory = self.state.arena();
        memory.map_err(|error| Wrong::Failed(Failure::Other(error.to_string())))
    }

    /// The session that a client has the token of.
    pub(super) fn session(&self, token: &Token) -> Option<Arc<Session>> {
        self.sessions().get(token).and_then(Weak::upgrade)
    }

    /// Lets other connections find a session.
    pub(super) fn add_session(&self, token: Token, session: &Arc<Session>) {
        let mut sessions = self.sessions();
        sessions.retain(|_, session| session.strong_count() > 0);
        sessions.insert(token, Arc::downgrade(session));
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<Token, Weak<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the server is being stopped.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// What a panic may leave behind is whole.
    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest<'_> {
    /// Serves the connection until it ends.
    fn receive(&self, stream: Arc<UnixStream>) {
        let Ok(mut frames) = Frames::new(Arc::clone(&stream)) else {
            return;
        };
        let refuse = |frames: &mut Frames, failure: Failure| {
            let _ = frames.sender.send_with(Kind::Refusal, |out| encode(&failure, out));
        };
        match socket::peer(&*stream) {
            Ok((user, _)) if socket::is_trusted(user) => {}
            Ok((user, pid)) => {
                tracing::warn!(target: "zproc", user, pid, "a client of another user was refused");
                let reason = format!("it serves user {}, and this client is user {user}", socket::own_user());
                return refuse(&mut frames, Failure::Denied(reason));
            }
            Err(_) => return,
        }
        match serve::serve(self.shared, self, &mut frames) {
            Ok(()) | Err(serve::End::Gone) => {}
            Err(serve::End::Refused(failure)) => {
                tracing::warn!(target: "zproc", ?failure, "a client was refused");
                refuse(&mut frames, failure);
            }
        }
        // Also while others still have the stream.
        let _ = stream.shutdown(Shutdown::Both);
    }

    /// The visitor has proved itself. Fails if there are too many clients.
    pub(super) fn becomes_client(&self) -> Result<(), Failure> {
        let mut guests = self.shared.guests();
        let most = self.shared.most;
        if guests.clients.len() >= most && os::has_any_hung_up(guests.clients.values().map(|stream| stream.as_fd())) {
            // Whoever ends a wait of his own hangs up, which his thread notices at the end of a slice.
            let waits =
                |guests: &mut Guests| guests.clients.len() >= most && guests.visitors.contains_key(&self.number);
            let waited = self.shared.gone.wait_timeout_while(guests, PLACE_TIME, waits);
            (guests, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        let Some(stream) = guests.visitors.remove(&self.number) else {
            return Err(Failure::Busy("too many connect at once: come again".into()));
        };
        if guests.clients.len() >= most {
            return Err(Failure::Busy(format!(
                "{most} clients are connected, which is the most"
            )));
        }
        guests.clients.insert(self.number, stream);
        Ok(())
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.shared.leave(self.number);
    }
}

/// How many clients this process has descriptors for.
fn clients_most() -> usize {
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return CLIENTS;
    };
    let used = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let free = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(used);
    free.saturating_sub(VISITORS + RESERVE).clamp(1, CLIENTS)
}

/// Lets this process have as many descriptors as a full server needs, if it may. For one that does nothing else.
pub(super) fn raise_limit() {
    let needed = (CLIENTS + VISITORS + 2 * RESERVE) as u64;
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < needed
    {
        // If not, there are fewer clients.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, needed.min(hard), hard);
    }
}

/// What is wrong with a frame, for the one who sent it.
pub(super) fn protocol(error: &WireError) -> Failure {
    Failure::Protocol(error.to_string())
}

/// Runs a server on a thread.
pub(super) fn on_thread(shared: Arc<Shared>, listener: Arc<UnixListener>) -> Result<std::thread::JoinHandle<()>> {
    quiet_thread("zproc-server", move || shared.accept(&listener))
}
