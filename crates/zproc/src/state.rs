//! States: what programs open, fork, close and ask.
//!
//! A [`State`] is a watcher (`watch`) of a namespace, and where that is. What it can do lies in two further files:
//! `dict` (reading and writing) and `watching` (the watchers, by their short names); `builder` opens it.

mod builder;
mod dict;
mod handover;
mod watching;

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use shm_state::{Arena, Reaped, Report, Stats, Status};

use crate::access::{Rights, check_not_in_atomic};
use crate::address::arena_name;
use crate::error::{Error, Result};
use crate::ping::{Ping, ping};
use crate::secret::Secret;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::transaction::Transaction;
use crate::transport::Transport;
use crate::watch::{Progress, Watcher};
pub use builder::Builder;
pub use dict::atomic;
pub(crate) use handover::Handover;

/// A dict that processes share.
///
/// Any process of the machine may open it by its address. Reading takes no lock; each call that writes is atomic, as is
/// everything inside of [`State::atomic`].
///
/// **Identity.** Each `State` value is a watcher of its own: it has a cursor, which is the last update that it has
/// consumed, and its watchers do not see the updates that were made through itself. [`Clone`] and [`State::fork`] make
/// another one, whose cursor is now. Threads may share one `&State`, and then share its cursor: each update is returned
/// to one of them.
///
/// ```
/// use zproc::State;
///
/// let state = State::anonymous()?;
/// state.insert("cookies", 5)?;
/// assert_eq!(state.get::<i64>("cookies")?, Some(5));
///
/// let other = state.clone(); // as another process would have it
/// other.atomic(|dict| dict.modify("cookies", |n: i64| n - 1))?;
/// let update = state.get_when_change(["cookies"])?;
/// assert_eq!(update.get::<i64>("cookies")?, Some(4));
/// # Ok::<(), zproc::Error>(())
/// ```
pub struct State {
    watcher: Watcher,
    /// None if it is used over a socket.
    arena: Option<Arena>,
    place: Arc<Place>,
}

/// Where a state is.
struct Place {
    address: Option<String>,
    namespace: String,
    /// That of the server behind the address.
    secret: Secret,
}

impl State {
    /// Opens the state at an address: `shm://NAME`, or `ipc:///PATH` for that of a [`Server`](crate::Server).
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::InvalidAddress`], [`Error::Incompatible`]; for the address of a server
    /// [`Error::NoServer`], [`Error::AccessDenied`] and [`Error::Disconnected`].
    ///
    /// ```
    /// use zproc::State;
    ///
    /// # let address = format!("shm://zproc-doc-open-{}", std::process::id());
    /// # let address = address.as_str();
    /// let state = State::create(address)?;
    /// state.insert("door", "open")?;
    /// let elsewhere = State::open(address)?;
    /// assert_eq!(elsewhere.get::<String>("door")?.as_deref(), Some("open"));
    /// zproc::remove(address)?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn open(address: &str) -> Result<Self> {
        Self::builder(address).open()
    }

    /// Creates a state at an address where there is none.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::InvalidAddress`].
    ///
    /// ```
    /// use zproc::{Error, State};
    ///
    /// # let address = format!("shm://zproc-doc-create-{}", std::process::id());
    /// # let address = address.as_str();
    /// let state = State::create(address)?;
    /// assert!(matches!(State::create(address), Err(Error::AlreadyExists { .. })));
    /// # zproc::remove(address)?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn create(address: &str) -> Result<Self> {
        Self::builder(address).create()
    }

    /// Opens the state at an address, or creates it. When several processes do so at once, all get the same one.
    ///
    /// ```
    /// use zproc::State;
    ///
    /// # let address = format!("shm://zproc-doc-either-{}", std::process::id());
    /// # let address = address.as_str();
    /// let (one, other) = (State::open_or_create(address)?, State::open_or_create(address)?);
    /// one.insert("door", "open")?;
    /// assert!(other.contains_key("door")?);
    /// # zproc::remove(address)?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn open_or_create(address: &str) -> Result<Self> {
        Self::builder(address).open_or_create()
    }

    /// Creates a state without an address. Other processes get it by its descriptor: [`State::fd`], [`State::from_fd`].
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.insert("door", "open")?;
    /// assert_eq!(state.address(), None);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn anonymous() -> Result<Self> {
        Builder::anonymous().create()
    }

    /// Opens the state in a descriptor that was handed over, for example by inheritance.
    ///
    /// ```
    /// use zproc::State;
    ///
    /// let state = State::anonymous()?;
    /// let fd = state.fd().expect("states have one").try_clone_to_owned().expect("descriptors left");
    /// let elsewhere = State::from_fd(fd)?;
    /// state.insert("door", "open")?;
    /// assert!(elsewhere.contains_key("door")?);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        Builder::anonymous().from_fd(fd)
    }

    /// Settings to open or create a state with.
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::State;
    ///
    /// # let address = format!("shm://zproc-doc-builder-{}", std::process::id());
    /// # let address = address.as_str();
    /// let state = State::builder(address)
    ///     .namespace("kitchen")
    ///     .capacity(16 << 20)
    ///     .history(1000, 4 << 20)
    ///     .lock_timeout(Duration::from_secs(5))
    ///     .create()?;
    /// assert_eq!((state.address(), state.namespace()), (Some(address), "kitchen"));
    /// # zproc::remove(address)?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn builder(address: &str) -> Builder {
        Builder::at(address)
    }

    /// A builder with this state's settings, to open it once more with others; [`Builder::open`] ends it.
    ///
    /// What it opens is an identity of its own, whose cursor is now.
    ///
    /// ```
    /// use zproc::State;
    ///
    /// let hall = State::anonymous()?;
    /// let kitchen = hall.fork().namespace("kitchen").open()?;
    /// kitchen.insert("cookies", 5)?;
    /// assert!(hall.is_empty()?);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn fork(&self) -> Builder {
        Builder::of(self)
    }

    /// Makes one update of what `f` does, which reads nothing.
    pub(crate) fn write(&self, f: impl FnOnce(&mut Transaction<'_>) -> Result<()>) -> Result<()> {
        Transaction::run_once(&self.watcher.access, f)
    }

    /// A namespace of the same memory, for a server; under an identity of its own. For who only reads it is not created.
    pub(crate) fn namespace_of(&self, name: &str, read_only: bool) -> Result<shm_state::Namespace> {
        let arena = self.arena()?;
        if read_only && !arena.has_namespace(name) {
            return Err(Error::ReadOnly);
        }
        Ok(arena.namespace(name)?)
    }

    /// How far its watchers are, for those who do not keep it.
    pub(crate) fn progress(&self) -> &Arc<Progress> {
        self.watcher.progress()
    }

    /// What its updates are signed with.
    pub(crate) fn identity(&self) -> Result<u32> {
        Ok(self.watcher.access.store()?.identity())
    }

    /// The state after the update `seq`; `None` if it fell out of the history.
    pub(crate) fn snapshot_at(&self, seq: u64) -> Result<Option<Snapshot<'_>>> {
        Snapshot::at_in(self.watcher.access.store()?, seq)
    }

    /// The memory; an error if it is not mapped.
    pub(crate) fn arena(&self) -> Result<&Arena> {
        self.arena.as_ref().ok_or_else(|| self.watcher.access.unusable())
    }

    fn new(watcher: Watcher, arena: Option<Arena>, place: Place) -> Self {
        Self {
            watcher,
            arena,
            place: Arc::new(place),
        }
    }

    /// The address; `None` for an anonymous state.
    ///
    /// ```
    /// use zproc::State;
    ///
    /// # let address = format!("shm://zproc-doc-address-{}", std::process::id());
    /// # let address = address.as_str();
    /// let state = State::create(address)?;
    /// assert_eq!(state.address(), Some(address));
    /// assert_eq!(State::anonymous()?.address(), None);
    /// # zproc::remove(address)?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn address(&self) -> Option<&str> {
        self.place.address.as_deref()
    }

    /// Whether its memory is mapped, or it is used over the socket of its server, and why.
    ///
    /// The address of a server, `ipc:///PATH`, leads to mapped memory, unless this process may not map it: then everything
    /// goes over the socket. `?transport=socket` behind the path asks for that, `?transport=map` for an error instead.
    ///
    /// ```
    /// use zproc::{State, Transport};
    ///
    /// let server = zproc::start_server().backend(zproc::Backend::Thread).start()?;
    /// assert_eq!(State::open(server.address())?.transport(), Transport::Mapped);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn transport(&self) -> Transport {
        match self.watcher.access.if_remote() {
            None => Transport::Mapped,
            Some(remote) => Transport::Socket {
                reason: remote.place().reason().to_owned(),
            },
        }
    }

    /// Whether it was opened for reading only: see [`Builder::read_only`].
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// assert!(!state.is_read_only());
    /// assert!(state.fork().read_only(true).open()?.is_read_only());
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn is_read_only(&self) -> bool {
        match &self.arena {
            Some(arena) => arena.is_read_only(),
            None => self.watcher.access.rights() == Rights::ReadOnly,
        }
    }

    /// The name of the namespace.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// assert_eq!(state.namespace(), "default");
    /// assert_eq!(state.fork().namespace("kitchen").open()?.namespace(), "kitchen");
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn namespace(&self) -> &str {
        &self.place.namespace
    }

    /// Asks the server that this state was had from, or that of its name, whether it is there: see [`ping`](crate::ping()).
    ///
    /// # Errors
    /// [`Error::NoServer`] if there is none, which is how it should be for a state that was opened by its name.
    ///
    /// ```
    /// use zproc::{Backend, Error, State};
    ///
    /// let server = zproc::start_server().backend(Backend::Thread).start()?;
    /// let state = State::open(server.address())?;
    /// assert_eq!(state.ping()?.send()?.map(|pong| pong.pid), Some(std::process::id()));
    /// assert!(matches!(State::anonymous()?.ping(), Err(Error::NoServer { .. })));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn ping(&self) -> Result<Ping> {
        let address = self.address().ok_or_else(|| Error::NoServer {
            address: "the state".into(),
            reason: "it was created without an address, or opened by its descriptor".into(),
        })?;
        Ok(ping(address).secret(self.place.secret.clone()))
    }

    /// The descriptor of the memory, to hand it to another process; `None` if it is not mapped. A child inherits it if it is made inheritable
    /// first.
    ///
    /// ```
    /// use std::process::{Command, Stdio};
    /// use zproc::State;
    ///
    /// let state = State::anonymous()?;
    /// let memory = state.fd().expect("states have one").try_clone_to_owned().expect("descriptors left");
    /// // A child that gets it as its standard input opens the state with `State::from_fd`. This one only looks at it.
    /// let child = Command::new("readlink").arg("/proc/self/fd/0").stdin(Stdio::from(memory)).output();
    /// assert!(String::from_utf8_lossy(&child.expect("readlink runs").stdout).contains("memfd"));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.arena.as_ref()?.fd()
    }

    /// The number of the newest update; 0 before the first.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.insert("door", "open")?;
    /// state.insert("door", "shut")?;
    /// assert_eq!(state.seq()?, 2);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn seq(&self) -> Result<u64> {
        self.watcher.access.store()?.seq()
    }

    /// The number of the last update that this state's watchers have consumed.
    ///
    /// ```
    /// use zproc::State;
    ///
    /// let state = State::anonymous()?;
    /// state.clone().insert("door", "open")?;
    /// assert_eq!((state.cursor(), state.seq()?), (0, 1));
    /// state.get_when_any_change()?;
    /// assert_eq!(state.cursor(), 1);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn cursor(&self) -> u64 {
        self.watcher.cursor()
    }

    /// Ends every wait of this state, which may be another thread's, and all use of it: they fail with
    /// [`Error::Closed`]. Clones are not affected. The memory is given back when the state is dropped.
    ///
    /// ```
    /// use zproc::{Error, State};
    ///
    /// let state = State::anonymous()?;
    /// std::thread::scope(|scope| {
    ///     let waiting = scope.spawn(|| state.get_when_available("never").map(|_| ()));
    ///     state.close();
    ///     assert!(matches!(waiting.join().unwrap(), Err(Error::Closed)));
    /// });
    /// assert!(matches!(state.len(), Err(Error::Closed)));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn close(&self) {
        self.watcher.access.close();
    }

    /// Figures about memory, updates, snapshots and watchers, of all namespaces. Takes their writer locks one after the
    /// other, since it walks through all that is stored; [`State::status`] takes none.
    ///
    /// # Errors
    /// [`Error::LockTimeout`] when a lock is not free within ten seconds.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.insert("door", "open")?;
    /// let stats = state.stats()?;
    /// assert_eq!((stats.namespaces[0].keys, stats.namespaces[0].commits), (1, 1));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn stats(&self) -> Result<Stats> {
        let store = self.watcher.access.store()?;
        check_not_in_atomic()?;
        match store {
            Store::Mapped(_) => Ok(self.arena()?.stats()?),
            Store::Remote(remote) => remote.stats(),
        }
    }

    /// Who has the state open, who holds the writer locks and for whom they wait, who holds which snapshots, how far
    /// watchers lag, how full it is, and what dead processes left. Takes no lock and waits for nobody, so that it can be
    /// asked while a writer is stopped inside of [`State::atomic`], and inside of one's own. Over a socket the server is
    /// asked, which stands among the processes for all of its clients; process ids are those that it sees.
    ///
    /// ```
    /// use zproc::{Life, State};
    ///
    /// let state = State::anonymous()?;
    /// state.atomic(|_| {
    ///     let status = state.status()?;
    ///     let holder = status.namespaces[0].lock.holder.as_ref().unwrap();
    ///     assert_eq!((holder.pid, holder.life), (std::process::id(), Life::Running));
    ///     Ok(())
    /// })?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn status(&self) -> Result<Status> {
        match self.watcher.access.store()? {
            Store::Mapped(_) => Ok(self.arena()?.status()?),
            Store::Remote(remote) => remote.status(),
        }
    }

    /// Gives back now what dead processes left: updates that they had decided are finished, and their locks, snapshots,
    /// watchers and entries in the list of processes go. All of it happens by itself when it is needed: locks when somebody
    /// waits for them, memory when it is short. Takes the writer locks of all namespaces one after the other. Over a socket
    /// the server does it.
    ///
    /// # Errors
    /// [`Error::LockTimeout`] when a lock is not free within ten seconds. What does not need that lock is done all the same.
    /// [`Error::ReadOnly`] if the state was opened for reading only.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// assert_eq!(state.reap()?.processes, 0); // nobody has died
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn reap(&self) -> Result<Reaped> {
        match self.watcher.access.store_for_locks()? {
            Store::Mapped(_) => Ok(self.arena()?.reap()?),
            Store::Remote(remote) => remote.reap(),
        }
    }

    /// Walks everything that is stored, in all namespaces, and accounts for every block of memory. Takes their writer
    /// locks one after the other. Over a socket the server does it.
    ///
    /// # Errors
    /// [`Error::LockTimeout`] when a lock is not free within ten seconds; [`Error::ReadOnly`] if the state was opened for
    /// reading only.
    ///
    /// ```
    /// let state = zproc::State::anonymous()?;
    /// state.insert("door", "open")?;
    /// assert!(state.verify()?.is_clean());
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn verify(&self) -> Result<Report> {
        match self.watcher.access.store_for_locks()? {
            Store::Mapped(_) => Ok(self.arena()?.verify()?),
            Store::Remote(remote) => remote.verify(),
        }
    }
}

/// A fork with no settings changed. A clone that is made in a forked process fails with [`Error::Forked`] when it is
/// used.
impl Clone for State {
    fn clone(&self) -> Self {
        let watcher = self.watcher.fork();
        Self {
            watcher,
            arena: self.arena.clone(),
            place: Arc::clone(&self.place),
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("address", &self.address())
            .field("namespace", &self.namespace())
            .finish_non_exhaustive()
    }
}

/// Removes the state at an address. Processes that have it open go on using it; its memory is freed with the last one.
///
/// # Errors
/// [`Error::NotFound`], [`Error::InvalidAddress`], and [`Error::Incompatible`] if what is there is no state.
///
/// ```
/// use zproc::{Error, State};
///
/// # let address = format!("shm://zproc-doc-remove-{}", std::process::id());
/// # let address = address.as_str();
/// State::create(address)?;
/// zproc::remove(address)?;
/// assert!(matches!(State::open(address), Err(Error::NotFound { .. })));
/// # Ok::<(), zproc::Error>(())
/// ```
pub fn remove(address: &str) -> Result<()> {
    Arena::remove(arena_name(address)?).map_err(Error::at(address))
}
