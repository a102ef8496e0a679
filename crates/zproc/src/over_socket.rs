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
//! connection. A call that was given a time itself ([`in_time`], or the one for the lock) waits for a server until then,
//! and [`GRACE`]: so a server that is stopped and one that has nothing to tell are told apart.
//!
//! **Signals** that are events end waits for an update, which consume nothing. They end no call that is short, and none
//! whose reply says whether something was written: while signals are events, one that waits for the writer lock waits in
//! slices ([`LOCK_SLICE`]), and looks at them in between, when nothing was written.

mod overlay;
mod snapshot;

use std::cell::{Cell, RefCell};
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
use crate::link::{Attempt, CONNECT_TIME, Fault, Link, Terms, Wake};
use crate::notify::{self, Teller};
use crate::os;
use crate::secret::Secret;
use crate::shared::Shared;
use crate::signals::{self, Signals};
use crate::value::{VALUE_FORMAT, describe_format};
use crate::wire::frame::FRAME_TIME;
use crate::wire::message::{Bytes, Filter, Found, NEWEST, Next, Open, Reply, Request, Token, WireKey};
pub(crate) use overlay::{Committed, Overlay};
pub(crate) use snapshot::RemoteSnapshot;

/// So many connections are kept beside the lifeline.
const IDLE: usize = 4;

/// What a server is given to answer in beyond the time of the call.
const GRACE: Duration = Duration::from_secs(1);
/// How long to wait for the writer lock before a look at the signals.
const LOCK_SLICE: Duration = Duration::from_millis(100);

thread_local! {
    /// Until when the call of this thread is to be answered.
    static LIMIT: Cell<Option<Deadline>> = const { Cell::new(None) };
}

thread_local! {
    /// The server and the namespace that this thread runs a transaction on.
    static OWN: RefCell<Option<(Arc<Place>, Box<str>)>> = const { RefCell::new(None) };
}

/// While it lives, this thread reads a namespace through its transaction only: see [`Remote::only_for_transaction`].
pub(crate) struct OnlyForTransaction(());

impl Drop for OnlyForTransaction {
    fn drop(&mut self) {
        OWN.take();
    }
}

/// While it lives, requests of this thread wait for a server until a time, and [`GRACE`].
pub(crate) struct InTime(Option<Deadline>);

/// For calls that are to take so long at most.
pub(crate) fn in_time(timeout: Option<Duration>) -> InTime {
    let outer = LIMIT.get();
    let own = timeout.map(Deadline::after);
    let both = outer.zip(own).map(|(outer, own)| outer.min(own));
    LIMIT.set(both.or(own).or(outer));
    InTime(outer)
}

impl Drop for InTime {
    fn drop(&mut self) {
        LIMIT.set(self.0);
    }
}

/// How to wait for an answer that can be had at once.
fn short() -> Terms<'static> {
    let left = LIMIT.get().and_then(Deadline::remaining);
    Terms {
        within: left.map(|left| left.saturating_add(GRACE).min(FRAME_TIME)),
        ..Terms::default()
    }
}

/// How to wait for an answer that the server gives at a deadline at the latest.
fn long(deadline: Deadline) -> Terms<'static> {
    Terms {
        within: deadline.remaining().map(|left| left.saturating_add(GRACE)),
        ..Terms::default()
    }
}

/// How long it may take to connect.
fn connect_time() -> Duration {
    let left = LIMIT.get().and_then(Deadline::remaining);
    left.map_or(CONNECT_TIME, |left| left.saturating_add(GRACE).min(CONNECT_TIME))
}

/// A namespace behind a server.
pub(crate) struct Remote {
    place: Arc<Place>,
    namespace: String,
    precise_time: bool,
    read_only: bool,
    /// Under which its updates are made; 0 before the first session.
    identity: AtomicU32,
    session: Mutex<Option<Arc<Session>>>,
    /// Held by the one who makes a new session, without whom the others do not make theirs.
    renewing: Mutex<()>,
    /// Connections of which that one's may not be a session's yet.
    begun: Mutex<Vec<Weak<UnixStream>>>,
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
    pub(crate) fn new(
        place: Arc<Place>,
        namespace: &str,
        precise_time: bool,
        read_only: bool,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            read_only,
            place,
            namespace: namespace.into(),
            precise_time,
            identity: AtomicU32::new(0),
            session: Mutex::default(),
            renewing: Mutex::default(),
            begun: Mutex::default(),
            shared,
            home: std::process::id(),
        }
    }

    /// Another identity of the same namespace.
    pub(crate) fn fork(&self, shared: Arc<Shared>) -> Self {
        let place = Arc::clone(&self.place);
        Self::new(place, &self.namespace, self.precise_time, self.read_only, shared)
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
        if let Some(session) = self.living() {
            return Ok(session);
        }
        let limit = connect_time();
        let Some(_renewing) = self.renewing.try_lock_for(limit) else {
            self.check()?;
            return Err(self.not_connected(limit));
        };
        self.check()?;
        if let Some(session) = self.living() {
            return Ok(session);
        }
        let session = Arc::new(self.new_session()?);
        *self.session.lock() = Some(Arc::clone(&session));
        // Who closed the state meanwhile has not seen this one.
        self.check()?;
        Ok(session)
    }

    fn living(&self) -> Option<Arc<Session>> {
        let session = self.session.lock();
        session.as_ref().filter(|session| !session.is_lost()).map(Arc::clone)
    }

    fn new_session(&self) -> Result<Session> {
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
            read_only: self.read_only,
        });
        let opened = link.request(&open, short(), |reply| match reply {
            Reply::Opened {
                session,
                identity,
                value_format,
                ..
            } => Ok((session, identity, value_format)),
            other => Err(odd(&other)),
        });
        let (token, identity, format) = self.told(None, opened)?;
        if format != VALUE_FORMAT {
            return Err(Error::Incompatible {
                address: self.place.address.to_string(),
                reason: other_format(format),
            });
        }
        self.identity.store(identity, Ordering::Relaxed);
        let streams = Mutex::new(vec![Arc::downgrade(link.stream())]);
        Ok(Session {
            token,
            lifeline: Mutex::new(link),
            idle: Mutex::default(),
            streams,
            is_lost: AtomicBool::new(false),
        })
    }

    /// Signals do not end it: it may be for a call that does not wait.
    fn connect(&self) -> Result<Link> {
        let place = &self.place;
        let key = place.secret.key(&place.address)?;
        let limit = connect_time();
        let attempt = Attempt {
            deadline: Deadline::after(limit),
            tells_signals: false,
            begun: &|stream| {
                let mut begun = self.begun.lock();
                begun.retain(|stream| stream.strong_count() > 0);
                begun.push(Arc::downgrade(stream));
                drop(begun);
                // Behind that: who closes the state sets the flag first, and then looks what has begun.
                self.check()
            },
        };
        let link = Link::connect(&place.address, &place.path, key, &attempt);
        link.map_err(|error| match self.check() {
            Err(closed) => closed,
            Ok(()) if matches!(error, Error::Timeout) => self.not_connected(limit),
            Ok(()) => error,
        })
    }

    fn not_connected(&self, limit: Duration) -> Error {
        Error::Disconnected {
            address: self.place.address.to_string(),
            reason: format!("the server did not answer within {limit:.1?}: it may be stopped"),
        }
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
        shut_down(&self.begun.lock());
    }

    /// A short call.
    fn call<R>(&self, request: &Request<'_>, read: impl FnOnce(Reply<'_>) -> Result<R, Fault>) -> Result<R> {
        self.check_not_own()?;
        self.call_in(&*self.session()?, Call::Short, request, short(), read)
    }

    /// A call in this session.
    fn call_in<R>(
        &self,
        session: &Session,
        call: Call,
        request: &Request<'_>,
        terms: Terms<'_>,
        read: impl FnOnce(Reply<'_>) -> Result<R, Fault>,
    ) -> Result<R> {
        if call == Call::Short
            && let Some(mut link) = session.lifeline.try_lock()
        {
            let result = link.request(request, terms, read);
            // With a reply that was not read the next call would take it for its own.
            let result = result.map_err(|fault| match fault {
                Fault::Left(error) => Fault::Lost(error),
                other => other,
            });
            return self.told(Some(session), result);
        }
        let spare = session.idle.lock().pop();
        let mut link = match spare {
            Some(link) => link,
            None => self.another_link(session)?,
        };
        let result = link.request(request, terms, read);
        if matches!(result, Ok(_) | Err(Fault::Failed(_))) {
            let mut idle = session.idle.lock();
            if idle.len() < IDLE {
                idle.push(link);
            }
        }
        self.told(Some(session), result)
    }

    /// What the caller is told of a result.
    fn told<R>(&self, session: Option<&Session>, result: Result<R, Fault>) -> Result<R> {
        result.map_err(|fault| {
            if let (Fault::Lost(_), Some(session)) = (&fault, session) {
                session.end();
            }
            let (Fault::Lost(error) | Fault::Left(error) | Fault::Failed(error)) = fault;
            // That is why.
            self.check().err().unwrap_or(error)
        })
    }

    /// Has `ask` written with the writer lock, which it is to wait for until a deadline.
    fn with_lock<R>(&self, patience: Option<Duration>, mut ask: impl FnMut(Deadline) -> Result<R>) -> Result<R> {
        let _in_time = in_time(patience);
        let deadline = patience.map_or(Deadline::never(), Deadline::after);
        loop {
            let slice = if signals::is_active() {
                deadline.sooner_of(LOCK_SLICE)
            } else {
                deadline
            };
            match ask(slice) {
                // Nothing was written.
                Err(Error::LockTimeout { .. }) if !deadline.passed() => Signals::default().check()?,
                result => return result,
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
            read_only: self.read_only,
        });
        let joined = link.request(&open, short(), |_| Ok(()));
        self.told(Some(session), joined)?;
        self.check()?;
        Ok(link)
    }

    /// Refuses all calls of this thread but those of a transaction, which notes what it reads, to be validated. There is one
    /// at a time.
    pub(crate) fn only_for_transaction(&self) -> OnlyForTransaction {
        OWN.set(Some((Arc::clone(&self.place), self.namespace.as_str().into())));
        OnlyForTransaction(())
    }

    fn check_not_own(&self) -> Result<()> {
        let is_own = OWN.with_borrow(|own| {
            let own = own.as_ref();
            own.is_some_and(|(place, namespace)| place.path == self.place.path && **namespace == self.namespace)
        });
        if is_own { Err(Error::NestedAtomic) } else { Ok(()) }
    }

    /// The number of the newest update.
    pub(crate) fn seq(&self) -> Result<u64> {
        self.call(&Request::Seq, number)
    }

    /// What `f` makes of the value of a key.
    pub(crate) fn get<R>(&self, key: &KeyRef<'_>, f: impl FnOnce(u16, &[u8]) -> R) -> Result<Option<R>> {
        let request = Request::Get {
            snapshot: NEWEST,
            key: wire(key),
        };
        self.call(&request, value(f))
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> Result<usize> {
        let number = self.call(&Request::Len { snapshot: NEWEST }, number)?;
        Ok(number as usize)
    }

    /// Puts one value under a key, as one update, whose number it returns.
    pub(crate) fn put(&self, key: &KeyRef<'_>, tag: u16, bytes: &[u8], patience: Option<Duration>) -> Result<u64> {
        self.with_lock(patience, |deadline| {
            let request = Request::Put {
                key: wire(key),
                value: (tag, Bytes(bytes)),
                lock_ns: deadline.remaining().map(ns),
            };
            // Nearly always as short as a look; and if it has to wait, others find the lifeline in use.
            self.call_in(&*self.session()?, Call::Short, &request, long(deadline), number)
        })
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
        let (found, at) = self.call(&request, next)?;
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
        let terms = Terms {
            tells_signals: true,
            ..long(deadline)
        };
        let Some((canceller, watched)) = cancel else {
            return self.call_in(&session, Call::Long, &request, terms, |reply| next(reply).map(drop));
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
        let terms = Terms {
            wake: Some(&wake),
            ..terms
        };
        self.call_in(&session, Call::Long, &request, terms, |reply| next(reply).map(drop))
    }

    /// What `f` makes of what an update did; `None` if it fell out of the history.
    pub(crate) fn update<R>(
        &self,
        seq: u64,
        f: impl FnOnce(&crate::wire::message::Update<'_>) -> Result<R>,
    ) -> Result<Option<R>> {
        self.call(&Request::Update { seq }, |reply| match reply {
            Reply::Update(update) => update.map(|update| f(&update)).transpose().map_err(Fault::Failed),
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
        shut_down(&self.streams.lock());
    }
}

fn other_format(found: u64) -> String {
    let [theirs, ours] = [found, VALUE_FORMAT].map(describe_format);
    format!(
        "its values are {theirs}, and those of this program are {ours} (formats {found:#018x} and {VALUE_FORMAT:#018x}); use \
         programs that were built with the same settings"
    )
}

fn shut_down(streams: &[Weak<UnixStream>]) {
    for stream in streams.iter().filter_map(Weak::upgrade) {
        let _ = stream.shutdown(std::net::Shutdown::Both);
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

fn number(reply: Reply<'_>) -> Result<u64, Fault> {
    match reply {
        Reply::Number(number) => Ok(number),
        other => Err(odd(&other)),
    }
}

fn value<R>(f: impl FnOnce(u16, &[u8]) -> R) -> impl FnOnce(Reply<'_>) -> Result<Option<R>, Fault> {
    move |reply| match reply {
        Reply::Value(value) => Ok(value.map(|(tag, Bytes(bytes))| f(tag, bytes))),
        other => Err(odd(&other)),
    }
}

fn next(reply: Reply<'_>) -> Result<(Found, u64), Fault> {
    match reply {
        Reply::Next(found, at) => Ok((found, at)),
        other => Err(odd(&other)),
    }
}

/// A reply to something else: the connection is out of step.
fn odd(reply: &Reply<'_>) -> Fault {
    Fault::Lost(not_asked(reply))
}

#[cold]
fn not_asked(reply: &Reply<'_>) -> Error {
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
