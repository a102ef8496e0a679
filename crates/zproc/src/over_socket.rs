//! A state over the socket of its server, for processes that cannot map it, or do not want to.
//!
//! A [`Remote`] is the counterpart of the engine's `Namespace`: what the layers above ask for is one request and its reply.
//! It stands in `access` where the namespace would, so that the paths to mapped memory know nothing of it. Its parts:
//! `snapshot` is one that the server has pinned, `overlay` a transaction that is made here and validated there.
//!
//! **Sessions.** The server keeps identity and snapshots of a state in a session, which ends with its last connection. One
//! connection, the *lifeline*, is for short calls, and lives as long as the session. A call that may wait, or comes while
//! the lifeline is in use, takes another; one whose wait is ended from here (by a canceller, a signal, `close`) leaves its
//! connection and takes nothing else down.
//!
//! **Loss.** When a connection fails, the session is lost, and the call that noticed says so; whether a write was made is
//! then not known. The next call begins a new session, with the old identity, so that a watcher goes on where it was and
//! own updates stay its own. Snapshots of the lost one fail. A server of other memory than before is refused for good.
//!
//! **Bounds.** A server that works on a request says so every second; five seconds of silence are the end of the
//! connection.

mod overlay;
mod snapshot;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use shm_state::{Deadline, KeyRef, Payload, Watched};

use crate::canceller::Canceller;
use crate::error::{Error, Result};
use crate::link::{Fault, Link, SILENCE, Wake};
use crate::notify::{self, Teller};
use crate::os;
use crate::secret::Secret;
use crate::shared::Shared;
use crate::wire::message::{Bytes, Filter, Found, NEWEST, Next, Open, Reply, Request, Token, WireKey};
pub(crate) use overlay::{Committed, Overlay};
pub(crate) use snapshot::RemoteSnapshot;

/// So many connections are kept beside the lifeline.
const IDLE: usize = 4;

/// A namespace behind a server.
pub(crate) struct Remote {
    place: Arc<Place>,
    namespace: String,
    precise_time: bool,
    /// Under which its updates are made; 0 before the first session.
    identity: AtomicU32,
    session: Mutex<Option<Arc<Session>>>,
    shared: Arc<Shared>,
    /// The process that made it: a forked one would speak on the same sockets.
    home: u32,
}

/// Where the server is, of all states that were made of one.
pub(crate) struct Place {
    address: Arc<str>,
    path: PathBuf,
    secret: Secret,
    /// Why the memory is not mapped.
    reason: String,
    /// The file of the memory that the server had at first.
    arena: OnceLock<(u64, u64)>,
}

/// See the module header.
pub(crate) struct Session {
    token: Token,
    lifeline: Mutex<Link>,
    idle: Mutex<Vec<Link>>,
    /// To end what waits.
    streams: Mutex<Vec<Weak<UnixStream>>>,
    is_lost: AtomicBool,
}

/// How long a call may take.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    /// As long as a look into memory.
    Short,
    /// As long as somebody waits.
    Long,
}

impl Place {
    pub(crate) fn new(address: &str, path: &Path, secret: Secret, reason: String) -> Arc<Self> {
        Arc::new(Self {
            address: address.into(),
            path: path.into(),
            secret,
            reason,
            arena: OnceLock::new(),
        })
    }

    /// Why the memory is not mapped.
    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }
}

impl Remote {
    pub(crate) fn new(place: Arc<Place>, namespace: &str, precise_time: bool, shared: Arc<Shared>) -> Self {
        Self {
            place,
            namespace: namespace.into(),
            precise_time,
            identity: AtomicU32::new(0),
            session: Mutex::default(),
            shared,
            home: std::process::id(),
        }
    }

    /// Another identity of the same namespace.
    pub(crate) fn fork(&self, shared: Arc<Shared>) -> Self {
        Self::new(Arc::clone(&self.place), &self.namespace, self.precise_time, shared)
    }

    pub(crate) fn place(&self) -> &Arc<Place> {
        &self.place
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn has_precise_time(&self) -> bool {
        self.precise_time
    }

    pub(crate) fn identity(&self) -> u32 {
        // Relaxed: it is set before the first reply is there, and then stays.
        self.identity.load(Ordering::Relaxed)
    }

    /// The session, or a new one.
    fn session(&self) -> Result<Arc<Session>> {
        self.check()?;
        let mut session = self.session.lock();
        if let Some(session) = session.as_ref().filter(|session| !session.is_lost()) {
            return Ok(Arc::clone(session));
        }
        let mut link = self.connect()?;
        let arena = *self.place.arena.get_or_init(|| link.arena);
        if arena != link.arena {
            return Err(Error::Disconnected {
                address: self.place.address.to_string(),
                reason: "another state is served there by now: open it anew".into(),
            });
        }
        let open = Request::Open(Open {
            session: None,
            namespace: &self.namespace,
            identity: Some(self.identity()).filter(|identity| *identity != 0),
            precise_time: self.precise_time,
        });
        let opened = link.request(&open, None, |reply| match reply {
            Reply::Opened { session, identity, .. } => Ok((session, identity)),
            other => Err(odd(&other)),
        });
        let (token, identity) = opened.map_err(Fault::into_error)?;
        self.identity.store(identity, Ordering::Relaxed);
        let streams = Mutex::new(vec![Arc::downgrade(link.stream())]);
        let new = Arc::new(Session {
            token,
            lifeline: Mutex::new(link),
            idle: Mutex::default(),
            streams,
            is_lost: AtomicBool::new(false),
        });
        *session = Some(Arc::clone(&new));
        drop(session);
        // Who closed the state meanwhile has not seen this one.
        self.check()?;
        Ok(new)
    }

    fn connect(&self) -> Result<Link> {
        let place = &self.place;
        let key = place.secret.key(&place.address)?;
        let link = Link::connect(&place.address, &place.path, key, Deadline::after(SILENCE));
        let mut link = link.map_err(|error| match error {
            Error::Timeout => Error::Disconnected {
                address: place.address.to_string(),
                reason: format!("the server did not answer within {SILENCE:?}"),
            },
            other => other,
        })?;
        link.set_impatient();
        Ok(link)
    }

    /// Whether it may be used: not after `close`, and not in a forked process.
    pub(crate) fn check(&self) -> Result<()> {
        if std::process::id() != self.home {
            return Err(Error::Forked);
        }
        // SeqCst: after a new session is to be seen by who closes, or before it looks for one.
        if self.shared.closed().load(Ordering::SeqCst) {
            return Err(Error::Closed);
        }
        Ok(())
    }

    /// Ends all calls that are under way. The flag is set.
    pub(crate) fn close(&self) {
        if std::process::id() != self.home {
            return;
        }
        if let Some(session) = &*self.session.lock() {
            session.end();
        }
    }

    fn call<R>(&self, call: Call, request: &Request<'_>, read: impl FnOnce(Reply<'_>) -> Result<R>) -> Result<R> {
        self.call_in(&*self.session()?, call, request, None, read)
    }

    /// A call in this session.
    fn call_in<R>(
        &self,
        session: &Session,
        call: Call,
        request: &Request<'_>,
        wake: Option<&Wake<'_>>,
        read: impl FnOnce(Reply<'_>) -> Result<R>,
    ) -> Result<R> {
        if call == Call::Short
            && let Some(mut link) = session.lifeline.try_lock()
        {
            return self.told(session, link.request(request, wake, read));
        }
        let spare = session.idle.lock().pop();
        let mut link = match spare {
            Some(link) => link,
            None => self.another_link(session)?,
        };
        let result = link.request(request, wake, read);
        if matches!(result, Ok(_) | Err(Fault::Failed(_))) {
            let mut idle = session.idle.lock();
            if idle.len() < IDLE {
                idle.push(link);
            }
        }
        self.told(session, result)
    }

    /// What the caller is told of a result.
    fn told<R>(&self, session: &Session, result: Result<R, Fault>) -> Result<R> {
        match result {
            Ok(value) => Ok(value),
            Err(fault) => {
                if matches!(fault, Fault::Lost(_)) {
                    session.end();
                }
                // That is why.
                self.check()?;
                Err(fault.into_error())
            }
        }
    }

    /// One more connection of the session.
    fn another_link(&self, session: &Session) -> Result<Link> {
        let mut link = self.connect()?;
        {
            let mut streams = session.streams.lock();
            streams.retain(|stream| stream.strong_count() > 0);
            streams.push(Arc::downgrade(link.stream()));
        }
        let open = Request::Open(Open {
            session: Some(session.token),
            namespace: &self.namespace,
            identity: None,
            precise_time: self.precise_time,
        });
        let joined = link.request(&open, None, |_| Ok(()));
        self.told(session, joined)?;
        self.check()?;
        Ok(link)
    }

    /// The number of the newest update.
    pub(crate) fn seq(&self) -> Result<u64> {
        self.call(Call::Short, &Request::Seq, number)
    }

    /// What `f` makes of the value of a key.
    pub(crate) fn get<R>(&self, key: &KeyRef<'_>, f: impl FnOnce(u16, &[u8]) -> R) -> Result<Option<R>> {
        let request = Request::Get {
            snapshot: NEWEST,
            key: wire(key),
        };
        self.call(Call::Short, &request, value(f))
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> Result<usize> {
        let number = self.call(Call::Short, &Request::Len { snapshot: NEWEST }, number)?;
        Ok(number as usize)
    }

    /// Puts one value under a key, as one update, whose number it returns.
    pub(crate) fn put(&self, key: &KeyRef<'_>, tag: u16, bytes: &[u8], patience: Option<Duration>) -> Result<u64> {
        let request = Request::Put {
            key: wire(key),
            value: (tag, Bytes(bytes)),
            lock_ns: patience.map(ns),
        };
        // Nearly always as short as a look; and if it has to wait, others find the lifeline in use.
        self.call(Call::Short, &request, number)
    }

    /// As `Namespace::next_match`.
    pub(crate) fn next_match(
        &self,
        cursor: &mut u64,
        until: u64,
        filter: shm_state::Filter<'_>,
        duplicates: bool,
        skip: Option<u32>,
    ) -> Result<shm_state::Next> {
        if *cursor >= until {
            return Ok(shm_state::Next::Nothing);
        }
        let request = Request::Next(Next {
            cursor: *cursor,
            until: Some(until),
            filter: wire_filter(filter),
            duplicates,
            skip,
            wait_ns: Some(0),
        });
        let (found, at) = self.call(Call::Short, &request, next)?;
        *cursor = at;
        Ok(match found {
            Found::Match(seq) => shm_state::Next::Match(seq),
            Found::Nothing => shm_state::Next::Nothing,
            Found::Lagged(missed) => shm_state::Next::Lagged(missed),
        })
    }

    /// Waits until there is an update behind `seen` that writes what `filter` lets through, or the deadline passes.
    pub(crate) fn wait(
        &self,
        filter: shm_state::Filter<'_>,
        seen: u64,
        deadline: Deadline,
        cancel: Option<(&Canceller, Watched<'_>)>,
    ) -> Result<()> {
        let request = Request::Next(Next {
            cursor: seen,
            until: None,
            filter: wire_filter(filter),
            duplicates: true,
            skip: None,
            wait_ns: deadline.remaining().map(ns),
        });
        let session = self.session()?;
        let Some((canceller, watched)) = cancel else {
            return self.call_in(&session, Call::Long, &request, None, |reply| next(reply).map(drop));
        };
        // The thread that tells of cancellers makes a descriptor readable, which can be waited for beside the socket.
        let fd = Arc::new(os::event_fd()?);
        let registered = notify::register(None, Some(canceller.clone()), Teller::Fd(Arc::clone(&fd)))?;
        registered.want(0, Deadline::never(), watched.seen(), None);
        let wake = Wake {
            fd: fd.as_fd(),
            reason: &|| watched.is_cancelled().then_some(Error::Cancelled),
        };
        if watched.is_cancelled() {
            return Err(Error::Cancelled);
        }
        self.call_in(&session, Call::Long, &request, Some(&wake), |reply| {
            next(reply).map(drop)
        })
    }

    /// What `f` makes of what an update did; `None` if it fell out of the history.
    pub(crate) fn update<R>(
        &self,
        seq: u64,
        f: impl FnOnce(&crate::wire::message::Update<'_>) -> Result<R>,
    ) -> Result<Option<R>> {
        self.call(Call::Short, &Request::Update { seq }, |reply| match reply {
            Reply::Update(update) => update.map(|update| f(&update)).transpose(),
            other => Err(odd(&other)),
        })
    }
}

impl Session {
    fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }

    /// Ends all that is under way in it.
    fn end(&self) {
        self.is_lost.store(true, Ordering::Relaxed);
        for stream in self.streams.lock().iter().filter_map(Weak::upgrade) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Fault {
    fn into_error(self) -> Error {
        match self {
            Self::Lost(error) | Self::Left(error) | Self::Failed(error) => error,
        }
    }
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn wire<'k>(key: &KeyRef<'k>) -> WireKey<'k> {
    (key.tag(), Bytes(key.bytes()))
}

fn wire_filter(filter: shm_state::Filter<'_>) -> Filter<'_> {
    match filter {
        shm_state::Filter::Any => Filter::Any,
        shm_state::Filter::Key(key) => Filter::Keys(vec![wire(&key)]),
        shm_state::Filter::Keys(keys) => Filter::Keys(wire_keys(keys)),
        shm_state::Filter::Except(keys) => Filter::Except(wire_keys(keys)),
    }
}

fn wire_keys(keys: &[shm_state::Key]) -> Vec<WireKey<'_>> {
    keys.iter().map(|key| (key.tag(), Bytes(key.bytes()))).collect()
}

fn number(reply: Reply<'_>) -> Result<u64> {
    match reply {
        Reply::Number(number) => Ok(number),
        other => Err(odd(&other)),
    }
}

fn value<R>(f: impl FnOnce(u16, &[u8]) -> R) -> impl FnOnce(Reply<'_>) -> Result<Option<R>> {
    move |reply| match reply {
        Reply::Value(value) => Ok(value.map(|(tag, Bytes(bytes))| f(tag, bytes))),
        other => Err(odd(&other)),
    }
}

fn next(reply: Reply<'_>) -> Result<(Found, u64)> {
    match reply {
        Reply::Next(found, at) => Ok((found, at)),
        other => Err(odd(&other)),
    }
}

/// A reply to something else.
#[cold]
fn odd(reply: &Reply<'_>) -> Error {
    let text = format!("{reply:?}");
    let end = text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len());
    Error::Disconnected {
        address: "the server".into(),
        reason: format!("a reply was {}, which does not answer what was asked", &text[..end]),
    }
}

/// An owned copy.
fn payload((tag, Bytes(bytes)): (u16, Bytes<'_>)) -> Payload {
    Payload::copy_of(tag, bytes)
}
