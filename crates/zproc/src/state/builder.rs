//! Opening and creating states.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use shm_state::{Arena, ArenaOptions, Deadline, Residency, Strategy};

use super::{Place, State};
use crate::access::{Access, Patience, Rights, check_not_in_atomic};
use crate::address::{Address, Wanted, arena_name};
use crate::error::{Error, Result};
use crate::link::{Attempt, CONNECT_TIME, Link};
use crate::os::failed;
use crate::over_socket::{self, Remote};
use crate::secret::Secret;
use crate::value::{VALUE_FORMAT, describe_format};
use crate::watch::Watcher;

const DEFAULT_NAMESPACE: &str = "default";

/// Settings to open or create a state with. Made by [`State::builder`], [`State::fork`] and [`Builder::anonymous`].
///
/// ```
/// use std::time::Duration;
/// use zproc::Builder;
///
/// let state = Builder::anonymous()
///     .capacity(16 << 20) // bytes that it may grow to
///     .history(1000, 4 << 20) // updates, and bytes of old values, kept for watchers
///     .lock_timeout(Duration::from_secs(5)) // for other writers
///     .create()?;
/// state.insert("door", "open")?;
/// # Ok::<(), zproc::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until it is opened or created"]
pub struct Builder {
    source: Source,
    secret: Secret,
    namespace: String,
    since: Option<u64>,
    identity: Option<u32>,
    read_only: bool,
    precise_time: bool,
    patience: Patience,
    options: ArenaOptions,
    residency: Residency,
}

#[derive(Clone)]
enum Source {
    Anonymous,
    Address(String),
    /// That of the state that was forked.
    Arena(Arena, Option<String>),
    /// The same of one that is used over a socket.
    Remote(Arc<over_socket::Place>, String),
}

impl Source {
    /// What errors call it.
    fn name(&self) -> &str {
        match self {
            Self::Address(address) | Self::Arena(_, Some(address)) | Self::Remote(_, address) => address,
            Self::Anonymous | Self::Arena(_, None) => "the descriptor",
        }
    }
}

impl Builder {
    fn new(source: Source) -> Self {
        let (namespace, patience) = (DEFAULT_NAMESPACE.into(), Patience::default());
        Self {
            source,
            secret: Secret::default(),
            namespace,
            since: None,
            identity: None,
            read_only: false,
            precise_time: false,
            patience,
            options: ArenaOptions {
                value_format: VALUE_FORMAT,
                ..ArenaOptions::default()
            },
            residency: Residency::default(),
        }
    }

    pub(super) fn at(address: &str) -> Self {
        Self::new(Source::Address(address.into()))
    }

    pub(super) fn of(state: &State) -> Self {
        let address = state.place.address.clone();
        let source = match (&state.arena, state.watcher.access.if_remote()) {
            (Some(arena), _) => Source::Arena(arena.clone(), address),
            (None, Some(remote)) => Source::Remote(Arc::clone(remote.place()), address.unwrap_or_default()),
            (None, None) => Source::Anonymous,
        };
        Self {
            namespace: state.namespace().into(),
            secret: state.place.secret.clone(),
            read_only: state.is_read_only(),
            precise_time: state.watcher.access.has_precise_time(),
            patience: state.watcher.access.patience,
            ..Self::new(source)
        }
    }

    /// For a state without an address: [`Builder::create`] makes a new one, [`Builder::from_fd`] opens one.
    ///
    /// ```
    /// let state = zproc::Builder::anonymous().capacity(1 << 20).create()?;
    /// assert_eq!(state.address(), None);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn anonymous() -> Self {
        Self::new(Source::Anonymous)
    }

    /// The address, `shm://NAME`, or `ipc:///PATH` for that of a server.
    ///
    /// ```
    /// use zproc::{Error, State};
    ///
    /// let state = State::builder("shm://kitchen").address("shm://hall").open();
    /// assert!(matches!(state, Err(Error::NotFound { address }) if address == "shm://hall"));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn address(mut self, address: &str) -> Self {
        self.source = Source::Address(address.into());
        self
    }

    /// The secret key of the server at the address, `ipc:///PATH`: see
    /// [`ServerBuilder::secret_key`](crate::ServerBuilder::secret_key).
    ///
    /// ```
    /// use zproc::{Backend, Error, State};
    ///
    /// let server = zproc::start_server().backend(Backend::Thread).secret_key("open sesame").start()?;
    /// let state = State::builder(server.address());
    /// assert!(matches!(state.clone().secret_key("open barley").open(), Err(Error::AccessDenied { .. })));
    /// assert!(state.secret_key("open sesame").open()?.is_empty()?);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn secret_key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.secret = Secret::new(key.as_ref());
        self
    }

    pub(crate) fn secret(mut self, secret: Secret) -> Self {
        self.secret = secret;
        self
    }

    /// The namespace, which is a dict of its own with its own writer lock and history. `"default"` if none is set.
    ///
    /// ```
    /// use zproc::Builder;
    ///
    /// let kitchen = Builder::anonymous().namespace("kitchen").create()?;
    /// assert_eq!(kitchen.namespace(), "kitchen");
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn namespace(mut self, name: impl Into<String>) -> Self {
        self.namespace = name.into();
        self
    }

    /// Starts with the cursor at the update `seq`, instead of the newest.
    ///
    /// ```
    /// use zproc::State;
    ///
    /// let state = State::anonymous()?;
    /// state.insert("door", "open")?;
    /// let later = state.fork().since(0).open()?;
    /// assert_eq!(later.get_when_any_change()?.seq(), 1);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn since(mut self, seq: u64) -> Self {
        self.since = Some(seq);
        self
    }

    /// Opens it for reading only: writes, and [`State::atomic`], fail with [`Error::ReadOnly`]. Getting, iterating, snapshots,
    /// views and watchers are what they are otherwise, and as fast.
    ///
    /// Keys and values are mapped so that a stray store of this process, from unsafe code or a library, is a SIGSEGV there and
    /// then, and damages nobody's state. That is protection against mistakes and no more: what readers write to (their pins
    /// and wake-ups) stays writable, and the process could open the state once more for writing. A file that it has no right
    /// to write to it cannot open at all.
    ///
    /// The namespace must be there. In one namespace, 64 snapshots and watchers, of all processes, are the most that such a
    /// state can have a part in; those of other states beyond that do not count. It cannot be combined with
    /// [`Builder::prefault`] and [`Builder::lock_memory`].
    ///
    /// ```
    /// use zproc::{Error, State};
    ///
    /// let state = State::anonymous()?;
    /// state.insert("cookies", 5)?;
    /// let display = state.fork().read_only(true).open()?;
    /// assert_eq!(display.get("cookies")?, Some(5));
    /// assert!(matches!(display.insert("cookies", 6), Err(Error::ReadOnly)));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Dates the updates that are made through this state by a precise clock, for their [`time`](crate::Update::time).
    ///
    /// The clock that is used otherwise moves on every 1 to 10 ms, as the kernel is built, usually every 4 ms or less: all
    /// updates in between have the same time. The precise one tells the nanosecond, as exactly as the machine can, and
    /// makes every update of this state cost about 20 to 25 ns more. Both are the clock of the day, which can be set:
    /// only [`seq`](crate::Update::seq) says for certain which of two updates was first.
    ///
    /// ```
    /// use zproc::{Builder, State};
    ///
    /// let state = Builder::anonymous().precise_time(true).create()?;
    /// let watcher = state.clone();
    /// let before = std::time::SystemTime::now();
    /// state.insert("cookies", 5)?;
    /// assert!(watcher.get_raw_update()?.time >= before);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn precise_time(mut self, precise: bool) -> Self {
        self.precise_time = precise;
        self
    }

    /// How watchers pass the time until something happens. They spin for 20 µs and then sleep, if nothing is set.
    ///
    /// ```
    /// use zproc::{Builder, WaitStrategy};
    ///
    /// let state = Builder::anonymous().wait_strategy(WaitStrategy::Spin).create()?;
    /// state.clone().insert("cookies", 5)?;
    /// assert!(state.get_when_any_change().is_ok());
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn wait_strategy(mut self, strategy: Strategy) -> Self {
        self.patience.strategy = strategy;
        self
    }

    /// How long a write waits for other writers before it fails with [`Error::LockTimeout`]. `None`, which is the
    /// default, waits for as long as it takes; a writer that dies is noticed at once in either case.
    ///
    /// ```
    /// use std::time::Duration;
    /// use zproc::{Builder, Error};
    ///
    /// let state = Builder::anonymous().lock_timeout(Duration::from_millis(10)).create()?;
    /// let other = state.clone();
    /// state.atomic(|_| {
    ///     let write = std::thread::scope(|scope| scope.spawn(|| other.insert("a", 1)).join().unwrap());
    ///     assert!(matches!(write, Err(Error::LockTimeout { pid, .. }) if pid == std::process::id()));
    ///     Ok(())
    /// })?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn lock_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.patience.lock_timeout = timeout.into();
        self
    }

    /// Bytes of memory that a new state may grow to, 1 GiB if nothing is set. It is a limit, and not taken beforehand.
    ///
    /// ```
    /// use zproc::{Builder, Error};
    ///
    /// let state = Builder::anonymous().capacity(1 << 20).create()?;
    /// assert!(matches!(state.insert("large", vec![0u8; 2 << 20]), Err(Error::Full { .. })));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn capacity(mut self, bytes: u64) -> Self {
        self.options.capacity = bytes;
        self
    }

    /// How much history each namespace of a new state keeps for its watchers: at least `count` updates, unless their
    /// superseded values take more than `bytes`. 256 and 64 MiB if nothing is set.
    ///
    /// ```
    /// use zproc::{Builder, Error};
    ///
    /// let state = Builder::anonymous().history(10, 1 << 20).create()?;
    /// let other = state.clone();
    /// for n in 0..100 {
    ///     other.insert("cookies", n)?;
    /// }
    /// assert!(matches!(state.get_when_any_change(), Err(Error::Lagged { missed }) if missed <= 90));
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn history(mut self, count: u32, bytes: u64) -> Self {
        self.options.history = shm_state::History { count, bytes };
        self
    }

    /// Has memory at hand before it is needed, so that this process meets no page fault when it first touches it.
    ///
    /// When the state is opened, all memory that it has is put into the page tables of this process; it is given `bytes`
    /// at least, its own tables included, or its capacity if that is less. What it is given later, by
    /// whichever process, follows when this one notices it. 0 asks for no more than there is.
    ///
    /// A process maps a state once, so this holds for every `State` in it of the same memory, until the last is dropped.
    /// What else a loop needs that is to be on time is told in `docs/real-time.md`.
    ///
    /// # Errors
    /// Opening fails if there is not so much memory. A state that was to be created is then not there.
    ///
    /// ```
    /// use zproc::Builder;
    ///
    /// let state = Builder::anonymous().prefault(4 << 20).create()?;
    /// assert_eq!(state.stats()?.committed, 4 << 20);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn prefault(mut self, bytes: u64) -> Self {
        self.residency.prefault = Some(bytes);
        self
    }

    /// Keeps the memory from being swapped out, in this process's name; `prefault(0)` is included.
    ///
    /// The whole capacity counts against RLIMIT_MEMLOCK, memory or not, so that a state which was opened can grow. What
    /// there is of memory is locked, and what is added as soon as it is.
    ///
    /// # Errors
    /// Opening fails if the process may not lock so much, and says how much it may. A state that was to be created is
    /// then not there.
    ///
    /// ```
    /// let state = zproc::Builder::anonymous().capacity(1 << 20).lock_memory(true).create()?;
    /// state.insert("door", "open")?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn lock_memory(mut self, lock: bool) -> Self {
        self.residency.lock = lock;
        self
    }

    /// Has a server hand over the memory, or goes without.
    fn open_at_server(self, address: &str, path: &Path, wanted: Wanted) -> Result<State> {
        check_not_in_atomic()?;
        let reason = match wanted {
            Wanted::Socket => "the address asks for it".into(),
            Wanted::Mapped => {
                let arena = self.receive(address, path)?;
                return self.finish(arena);
            }
            Wanted::Either => match self.receive(address, path) {
                Ok(arena) => return self.finish(arena),
                Err(error @ (Error::Incompatible { .. } | Error::Engine(_))) => error.to_string(),
                Err(error) => return Err(error),
            },
        };
        let place = over_socket::Place::new(address, path, self.secret.clone(), reason);
        self.finish_over_socket(place, address)
    }

    fn receive(&self, address: &str, path: &Path) -> Result<Arena> {
        let deadline = Deadline::after(CONNECT_TIME);
        let key = self.secret.key(address)?;
        let in_time = |error| match error {
            Error::Timeout => Error::Disconnected {
                address: address.into(),
                reason: format!("the server did not answer within {CONNECT_TIME:?}"),
            },
            other => other,
        };
        let mut link = Link::connect(&address.into(), path, key, &Attempt::until(deadline)).map_err(in_time)?;
        let memory = link.ask_for_memory(deadline).map_err(in_time)?;
        self.arena_in(memory).map_err(Error::at(address))
    }

    fn arena_in(&self, memory: OwnedFd) -> shm_state::Result<Arena> {
        match self.read_only {
            false => Arena::from_fd(memory),
            true => Arena::from_fd_read_only(memory),
        }
    }

    fn finish_over_socket(self, place: Arc<over_socket::Place>, address: &str) -> Result<State> {
        let access = self.access_over_socket(place);
        // Has it connected, and says why if it cannot.
        let now = access.store()?.seq()?;
        Ok(self.over_socket(access, now, address))
    }

    /// As it will be when it is connected, which it is when it is used. For one of which others are made.
    pub(super) fn unconnected(self, place: Arc<over_socket::Place>, address: &str) -> Result<State> {
        let access = self.access_over_socket(place);
        Ok(self.over_socket(access, 0, address))
    }

    fn access_over_socket(&self, place: Arc<over_socket::Place>) -> Access {
        let rights = if self.read_only { Rights::ReadOnly } else { Rights::Full };
        Access::over_socket(self.patience, rights, |shared| {
            Remote::new(place, &self.namespace, self.precise_time, self.read_only, shared).with_identity(self.identity)
        })
    }

    fn over_socket(self, access: Access, now: u64, address: &str) -> State {
        let watcher = Watcher::new(access, Some(self.since.unwrap_or(now)));
        State::new(
            watcher,
            None,
            Place {
                address: Some(address.to_owned()),
                namespace: self.namespace,
                secret: self.secret,
            },
        )
    }

    /// Opens a state that exists.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::InvalidAddress`], [`Error::Incompatible`]; for the address of a server
    /// [`Error::NoServer`], [`Error::AccessDenied`] and [`Error::Disconnected`].
    ///
    /// ```
    /// use zproc::{Error, State};
    ///
    /// # let address = format!("shm://zproc-doc-builder-open-{}", std::process::id());
    /// # let address = address.as_str();
    /// assert!(matches!(State::builder(address).open(), Err(Error::NotFound { .. })));
    /// State::create(address)?.insert("door", "open")?;
    /// assert_eq!(State::builder(address).open()?.len()?, 1);
    /// # zproc::remove(address)?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn open(self) -> Result<State> {
        match &self.source {
            Source::Address(address) => match Address::parse(address)? {
                Address::Shm(name) => {
                    let arena = match self.read_only {
                        false => Arena::open(name),
                        true => Arena::open_read_only(name),
                    };
                    let arena = arena.map_err(Error::at(address))?;
                    self.finish(arena)
                }
                Address::Ipc(path, wanted) => {
                    let (address, path) = (address.clone(), path.to_owned());
                    self.open_at_server(&address, &path, wanted)
                }
            },
            Source::Remote(place, address) => {
                let (place, address) = (Arc::clone(place), address.clone());
                self.finish_over_socket(place, &address)
            }
            Source::Arena(arena, _) if arena.is_read_only() != self.read_only => {
                let memory = arena.fd().ok_or(Error::ReadOnly)?.try_clone_to_owned();
                let memory = memory.map_err(|source| failed("dup", source))?;
                let arena = self.arena_in(memory).map_err(Error::at(self.source.name()))?;
                self.finish(arena)
            }
            Source::Arena(arena, _) => {
                let arena = arena.clone();
                self.finish(arena)
            }
            Source::Anonymous => Err(Error::InvalidAddress {
                address: String::new(),
                reason: "an anonymous state can be created, and opened by its descriptor, and has no address".into(),
            }),
        }
    }

    /// Creates a state where there is none.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::InvalidAddress`].
    ///
    /// ```
    /// use zproc::{Error, State};
    ///
    /// # let address = format!("shm://zproc-doc-builder-create-{}", std::process::id());
    /// # let address = address.as_str();
    /// let state = State::builder(address).capacity(16 << 20).create()?;
    /// assert_eq!(state.stats()?.capacity, 16 << 20);
    /// assert!(matches!(State::builder(address).create(), Err(Error::AlreadyExists { .. })));
    /// # zproc::remove(address)?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn create(self) -> Result<State> {
        if self.read_only {
            return Err(Error::ReadOnly); // nobody could write to it
        }
        let arena = match &self.source {
            Source::Address(address) => {
                let created = Arena::create_resident(arena_name(address)?, &self.options, self.residency);
                created.map_err(Error::at(address))?
            }
            Source::Anonymous => Arena::anonymous(&self.options)?,
            Source::Remote(_, address) => {
                return Err(Error::AlreadyExists {
                    address: address.clone(),
                });
            }
            Source::Arena(_, address) => {
                let address = address
                    .clone()
                    .unwrap_or_else(|| "the place of an anonymous state".into());
                return Err(Error::AlreadyExists { address });
            }
        };
        self.finish(arena)
    }

    /// Opens a state, or creates it. When several processes do so at once, all get the same one.
    ///
    /// Capacity and history count only for the one that creates it; a state that is there keeps its own.
    ///
    /// ```
    /// use zproc::State;
    ///
    /// # let address = format!("shm://zproc-doc-builder-either-{}", std::process::id());
    /// # let address = address.as_str();
    /// let first = State::builder(address).capacity(16 << 20).open_or_create()?;
    /// let second = State::builder(address).capacity(32 << 20).open_or_create()?;
    /// assert_eq!(second.stats()?.capacity, 16 << 20);
    /// # zproc::remove(address)?;
    /// # Ok::<(), zproc::Error>(())
    /// ```
    pub fn open_or_create(self) -> Result<State> {
        match &self.source {
            // Who only reads creates nothing.
            Source::Address(_) if self.read_only => self.open(),
            // A server has a state, which was created.
            Source::Address(address) if matches!(Address::parse(address)?, Address::Ipc(..)) => self.open(),
            Source::Address(address) => {
                let arena = Arena::open_or_create(arena_name(address)?, &self.options).map_err(Error::at(address))?;
                self.finish(arena)
            }
            Source::Anonymous => self.create(),
            Source::Arena(..) | Source::Remote(..) => self.open(),
        }
    }

    /// Opens the state in a descriptor that was handed over.
    ///
    /// ```
    /// use zproc::{Builder, State};
    ///
    /// let state = State::anonymous()?;
    /// let fd = state.fd().expect("states have one").try_clone_to_owned().expect("descriptors left");
    /// let kitchen = Builder::anonymous().namespace("kitchen").from_fd(fd)?;
    /// kitchen.insert("cookies", 5)?;
    /// assert!(state.is_empty()?); // it is the same memory, and another namespace
    /// assert_eq!(state.stats()?.namespaces.len(), 2);
    /// # Ok::<(), zproc::Error>(())
    /// ```
    #[allow(clippy::wrong_self_convention, reason = "ends the builder, like open and create")]
    pub fn from_fd(mut self, fd: OwnedFd) -> Result<State> {
        self.source = Source::Anonymous;
        let arena = self.arena_in(fd).map_err(Error::at("the descriptor"))?;
        self.finish(arena)
    }

    /// Opens the state in a descriptor, under the address that it had where the descriptor comes from.
    pub(super) fn in_file(mut self, fd: OwnedFd, address: Option<String>) -> Result<State> {
        self.source = address.map_or(Source::Anonymous, Source::Address);
        let arena = self.arena_in(fd).map_err(Error::at(self.source.name()))?;
        self.finish(arena)
    }

    /// Has it go on as an identity that was another's before.
    pub(super) fn identity(mut self, identity: Option<u32>) -> Self {
        self.identity = identity;
        self
    }

    fn finish(self, arena: Arena) -> Result<State> {
        arena
            .check_value_format(VALUE_FORMAT, describe_format)
            .map_err(Error::at(self.source.name()))?;
        arena.make_resident(self.residency)?;
        let namespace = arena.namespace(&self.namespace)?.with_precise_time(self.precise_time);
        let namespace = match self.identity {
            Some(identity) => namespace.with_identity(identity),
            None => namespace,
        };
        let watcher = Watcher::new(Access::new(namespace, self.patience), self.since);
        let address = match self.source {
            Source::Address(address) => Some(address),
            Source::Arena(_, address) => address,
            Source::Anonymous | Source::Remote(..) => None,
        };
        Ok(State::new(
            watcher,
            Some(arena),
            Place {
                address,
                namespace: self.namespace,
                secret: self.secret,
            },
        ))
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = match &self.source {
            Source::Address(address) | Source::Arena(_, Some(address)) | Source::Remote(_, address) => Some(address),
            Source::Arena(_, None) | Source::Anonymous => None,
        };
        f.debug_struct("Builder")
            .field("address", &address)
            .field("namespace", &self.namespace)
            .field("since", &self.since)
            .field("read_only", &self.read_only)
            .field("precise_time", &self.precise_time)
            .field("patience", &self.patience)
            .field("options", &self.options)
            .field("residency", &self.residency)
            .finish()
    }
}
