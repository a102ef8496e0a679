//! Servers: what gives a state's memory to the processes that may have it, and answers whether it is there.
//!
//! A state needs no server: who knows its name opens it. One without a name can be had from a server by its address, by
//! those who prove that they may. Its parts: `place` has the socket and sees to it that there is one server at an address,
//! `accept` lets visitors in and limits them, `serve` and `session` answer one of them, `commit` makes its
//! transactions, `child` is a server in a process of its own. What
//! goes over the socket is in `wire`.

mod accept;
mod child;
mod commit;
mod place;
mod serve;
mod session;

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use shm_state::Unshared;

use crate::address::{Address, of_socket};
use crate::error::{Error, Result};
use crate::os::failed;
use crate::process::Backend;
use crate::secret::Secret;
use crate::state::State;
use crate::wire::directory::{path_of_arena, random_path};
use accept::Shared;
use place::Place;

/// How long a server that stops waits for its threads.
const PATIENCE: Duration = Duration::from_secs(5);

/// A server of a state, started by [`start_server`].
///
/// It listens on a socket and gives the memory of its state to the clients that may have it: those of the same user (and
/// root), who know the secret key if there is one. From then on the server is out of the way: nothing that a client does
/// with the state needs it any more, and when it ends, however that is, no client is disturbed.
///
/// It is stopped, and its socket removed, by [`Server::stop`], or when this value is dropped. One that is a process does so by
/// itself when this process ends in any other way, once it serves. A socket that a killed server left behind is taken over
/// by the next one, or removed by the next that listens at an address which nobody has chosen.
///
/// ```
/// use zproc::{Backend, State};
///
/// let server = zproc::start_server().backend(Backend::Thread).secret_key("open sesame").start()?;
/// let address = server.address().to_owned(); // told to other processes
/// let state = State::builder(&address).secret_key("open sesame").open()?;
/// state.insert("cookies", 5)?;
/// server.stop()?;
/// assert_eq!(state.get("cookies")?, Some(5)); // it is the client's, too
/// # Ok::<(), zproc::Error>(())
/// ```
#[must_use = "the server is stopped when this is dropped"]
pub struct Server {
    address: String,
    path: PathBuf,
    runner: Runner,
    /// The process that started it: a forked child of it has no part in the server.
    home: u32,
}

enum Runner {
    Thread {
        /// A child that is forked plainly keeps neither socket nor lock.
        unshared: [Unshared; 2],
        shared: Arc<Shared>,
        listener: Arc<UnixListener>,
        thread: Option<JoinHandle<()>>,
        lock: std::fs::File,
    },
    Process(child::Process),
    Stopped,
}

/// Settings of a server, made by [`start_server`].
///
/// ```
/// use zproc::{Backend, State};
///
/// let state = State::anonymous()?;
/// let server = zproc::start_server().state(&state).backend(Backend::Thread).start()?;
/// let same = State::open(server.address())?;
/// same.insert("cookies", 5)?;
/// assert_eq!(state.get("cookies")?, Some(5));
/// # Ok::<(), zproc::Error>(())
/// ```
#[must_use = "a server is not started before `start` is called"]
pub struct ServerBuilder {
    address: Option<String>,
    backend: Backend,
    secret: Secret,
    source: Source,
}

enum Source {
    Anonymous,
    Address(String),
    State(Box<State>),
}

/// Starts a server; [`ServerBuilder::start`] does so.
///
/// ```
/// use std::time::Duration;
/// use zproc::Backend;
///
/// let server = zproc::start_server().backend(Backend::Thread).start()?;
/// let pong = zproc::ping(server.address()).timeout(Duration::from_secs(5)).send()?;
/// assert_eq!(pong.map(|pong| pong.pid), Some(std::process::id()));
/// # Ok::<(), zproc::Error>(())
/// ```
pub fn start_server() -> ServerBuilder {
    ServerBuilder {
        address: None,
        backend: Backend::default(),
        secret: Secret::default(),
        source: Source::Anonymous,
    }
}

impl ServerBuilder {
    /// Where to listen: `ipc:///PATH`, a path of at most 107 bytes in a directory that is there.
    ///
    /// Without this call it is a random name in a directory that is this user's alone: `zproc` below `$XDG_RUNTIME_DIR` or
    /// `/run/user/UID`, or else `/tmp/zproc-UID`. The first server of a named state ([`ServerBuilder::arena`]) gets a name
    /// there that is made of the state's, so that [`ping`](crate::ping) finds it by the address of the state.
    ///
    /// ```
    /// use zproc::{Backend, Error};
    ///
    /// # let path = std::env::temp_dir().join(format!("zproc-doc-address-{}.sock", std::process::id()));
    /// # let address = &format!("ipc://{}", path.display());
    /// let server = zproc::start_server().address(address).backend(Backend::Thread).start()?;
    /// let second = zproc::start_server().address(address).backend(Backend::Thread).start();
    /// assert!(matches!(second, Err(Error::AddressInUse { .. })));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn address(mut self, address: &str) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Whether the server is a child process, which is the default and needs [`zproc::init`](crate::init()), or a thread of
    /// this one. A child ends with this process, and so does its socket's use.
    ///
    /// ```
    /// # #![allow(clippy::needless_doctest_main)]
    /// fn main() -> zproc::Result<()> {
    ///     zproc::init();
    ///     let server = zproc::start_server().start()?;
    ///     assert_ne!(server.pid(), std::process::id());
    ///     Ok(())
    /// }
    /// ```
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// What clients must know to be let in, and the server to be believed: text or bytes, and better long and random than
    /// not. It does not go over the wire: each side proves with a hash over random numbers of both that it knows the key.
    ///
    /// Without a key the server lets in every process of this user.
    ///
    /// ```
    /// use zproc::{Backend, Error, State};
    ///
    /// let server = zproc::start_server().backend(Backend::Thread).secret_key("open sesame").start()?;
    /// assert!(matches!(State::open(server.address()), Err(Error::AccessDenied { .. })));
    /// let state = State::builder(server.address()).secret_key("open sesame").open()?;
    /// assert!(state.is_empty()?);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn secret_key(self, key: impl AsRef<[u8]>) -> Self {
        self.secret(Secret::new(key.as_ref()))
    }

    pub(crate) fn secret(mut self, secret: Secret) -> Self {
        self.secret = secret;
        self
    }

    /// The state to serve, by its address `shm://NAME`; it is created if there is none. Without this call, and without
    /// [`ServerBuilder::state`], it is a new one without a name, which is gone with its last user.
    ///
    /// ```
    /// use zproc::{Backend, State};
    ///
    /// # let address = &format!("shm://zproc-doc-arena-{}", std::process::id());
    /// let server = zproc::start_server().arena(address).backend(Backend::Thread).start()?;
    /// State::open(server.address())?.insert("cookies", 5)?;
    /// assert_eq!(State::open(address)?.get("cookies")?, Some(5));
    /// assert!(zproc::ping(address).send()?.is_some());
    /// # zproc::remove(address)?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn arena(mut self, address: &str) -> Self {
        self.source = Source::Address(address.into());
        self
    }

    /// Serves a state that this process has open.
    ///
    /// ```
    /// # let state = zproc::State::anonymous()?;
    /// let server = zproc::start_server().state(&state).backend(zproc::Backend::Thread).start()?;
    /// assert_eq!(zproc::State::open(server.address())?.seq()?, state.seq()?);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn state(mut self, state: &State) -> Self {
        self.source = Source::State(Box::new(state.clone()));
        self
    }

    /// Starts it. Clients can connect when this returns.
    ///
    /// # Errors
    /// [`Error::AddressInUse`] if a living server, or another program, listens there; [`Error::InvalidAddress`], among others
    /// for a path that is too long; [`Error::AccessDenied`] for a secret key without a byte; [`Error::NotMapped`] for a state
    /// that is used over a socket itself; [`Error::NotInitialised`].
    ///
    /// ```
    /// use zproc::{Backend, Error};
    ///
    /// let long = format!("ipc:///tmp/{}.sock", "x".repeat(200));
    /// let server = zproc::start_server().address(&long).backend(Backend::Thread).start();
    /// assert!(matches!(server, Err(Error::InvalidAddress { .. })));
    /// ```
    pub fn start(self) -> Result<Server> {
        let name = self.address.as_deref().unwrap_or("the new server");
        let key = self.secret.key(name)?.cloned();
        if self.backend == Backend::Process {
            crate::process::check_init()?;
        }
        let (path, wanted) = match &self.address {
            Some(address) => match Address::parse(address)? {
                Address::Ipc(path, _) => (path.to_owned(), true),
                Address::Shm(_) => {
                    return Err(Error::InvalidAddress {
                        address: address.clone(),
                        reason: "a server listens at ipc:///PATH; the state that it serves is named by `arena`".into(),
                    });
                }
            },
            None => (self.default_path()?, false),
        };
        if let Source::State(state) = &self.source
            && state.fd().is_none()
        {
            return Err(Error::NotMapped);
        }
        let (path, place) = match place::take(&path) {
            // It was not asked for: another does as well.
            Err(Error::AddressInUse { .. }) if !wanted => {
                let path = random_path()?;
                let place = place::take(&path)?;
                (path, place)
            }
            place => (path, place?),
        };
        if !wanted {
            place::sweep(&path);
        }
        // Not before it is sure that it can be served.
        let state = match self.source {
            Source::Anonymous => State::anonymous(),
            Source::Address(address) => State::open_or_create(&address),
            Source::State(state) => Ok(*state),
        };
        let runner = match (state, self.backend) {
            (Ok(state), Backend::Thread) => on_thread(state, key, place),
            (Ok(state), Backend::Process) => in_child(state, key, place),
            (Err(error), _) => {
                drop(place);
                Err(error)
            }
        };
        let runner = runner.inspect_err(|_| place::clear(&path))?;
        let server = Server {
            address: of_socket(&path),
            path,
            runner,
            home: std::process::id(),
        };
        tracing::info!(target: "zproc", address = server.address, pid = server.pid(), "a server was started");
        Ok(server)
    }

    /// A path that depends on the name of the state, if it has one.
    fn default_path(&self) -> Result<PathBuf> {
        let address = match &self.source {
            Source::Anonymous => None,
            Source::Address(address) => Some(address.as_str()),
            Source::State(state) => state.address(),
        };
        match address.map(Address::parse).transpose()? {
            Some(Address::Shm(name)) => path_of_arena(name),
            Some(Address::Ipc(..)) | None => random_path(),
        }
    }
}

fn on_thread(state: State, key: Option<crate::wire::proof::Key>, place: Place) -> Result<Runner> {
    let shared = Arc::new(Shared::new(state, key, std::process::id()));
    let listener = Arc::new(place.listener);
    let apart = |fd| Unshared::new(fd).map_err(|source| failed("keeping a socket from forked children", source));
    let unshared = [apart(listener.as_fd())?, apart(place.lock.as_fd())?];
    let thread = accept::on_thread(Arc::clone(&shared), Arc::clone(&listener))?;
    Ok(Runner::Thread {
        unshared,
        shared,
        listener,
        thread: Some(thread),
        lock: place.lock,
    })
}

fn in_child(state: State, key: Option<crate::wire::proof::Key>, place: Place) -> Result<Runner> {
    let Place { listener, lock } = place;
    let note = lock.try_clone();
    let process = child::start(state, key, OwnedFd::from(listener), OwnedFd::from(lock))?;
    // For the message to those who find the address in use.
    if let Ok(lock) = note {
        let _ = place::note_pid(&lock, process.pid());
    }
    Ok(Runner::Process(process))
}

impl Server {
    /// The process that serves: this one, if the server is a thread.
    ///
    /// ```
    /// let server = zproc::start_server().backend(zproc::Backend::Thread).start()?;
    /// assert_eq!(server.pid(), std::process::id());
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn pid(&self) -> u32 {
        match &self.runner {
            Runner::Process(process) => process.pid(),
            Runner::Thread { .. } | Runner::Stopped => self.home,
        }
    }

    /// Where it listens: `ipc:///PATH`, for [`State::open`] and [`ping`](crate::ping).
    ///
    /// ```
    /// let server = zproc::start_server().backend(zproc::Backend::Thread).start()?;
    /// assert!(server.address().starts_with("ipc:///"));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether it still runs.
    ///
    /// ```
    /// let server = zproc::start_server().backend(zproc::Backend::Thread).start()?;
    /// assert!(server.is_alive());
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn is_alive(&self) -> bool {
        match &self.runner {
            Runner::Process(process) => process.is_alive(),
            Runner::Thread { thread, .. } => thread.as_ref().is_some_and(|thread| !thread.is_finished()),
            Runner::Stopped => false,
        }
    }

    /// Stops it, and removes its socket. States that clients have mapped are not affected.
    ///
    /// ```
    /// use zproc::{Error, State};
    ///
    /// let server = zproc::start_server().backend(zproc::Backend::Thread).start()?;
    /// let address = server.address().to_owned();
    /// let state = State::open(&address)?;
    /// server.stop()?;
    /// assert!(matches!(State::open(&address), Err(Error::NoServer { .. })));
    /// state.insert("cookies", 5)?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        // A forked child has inherited all of it, and nothing of it is its own.
        if std::process::id() != self.home {
            return Ok(());
        }
        match std::mem::replace(&mut self.runner, Runner::Stopped) {
            Runner::Thread {
                unshared,
                shared,
                listener,
                thread,
                lock,
            } => {
                // First, so that nobody finds a socket at which nobody answers any more.
                place::remove_locked(&self.path, &lock);
                shared.stop(&listener, PATIENCE);
                if let Some(thread) = thread {
                    let _ = thread.join();
                }
                // Before what they are of is closed.
                drop(unshared);
            }
            Runner::Process(process) => {
                let stopped = process.stop();
                place::clear(&self.path);
                stopped?;
            }
            Runner::Stopped => return Ok(()),
        }
        tracing::info!(target: "zproc", address = self.address, "a server was stopped");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // There is nobody to tell.
        let _ = self.end();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}

/// Does not show the key.
impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("address", &self.address)
            .field("backend", &self.backend)
            .finish_non_exhaustive()
    }
}
