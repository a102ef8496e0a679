//! A state over the socket of its server, for processes that cannot map it, or do not want to.
//!
//! A [`Remote`] is the counterpart of the engine's `Namespace`: what the layers above ask for is one request and its reply.
//! It stands in `access` where the namespace would, so that the paths to mapped memory know nothing of it. Its parts:
//! `connections` has the sessions, `line` a connection for one who waits all the time, `limits` how long a call waits for
//! the server; `snapshot` is one that the server has pinned, `copies` what was fetched of it to be shown, `overlay` a
//! transaction that is made here and validated there.
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
//! and a second, or two to connect: so a server that is stopped and one that has nothing to tell are told apart.
//!
//! **Signals** that are events end waits for an update, which consume nothing. They end no call that is short, and none
//! whose reply says whether something was written: while signals are events, one that waits for the writer lock waits in
//! slices, and looks at them in between, when nothing was written.

mod connections;
mod copies;
mod limits;
mod line;
mod overlay;
mod snapshot;

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use shm_state::{Deadline, KeyRef, Payload, Reaped, Report, Stats, Status, Watched};

use crate::canceller::Canceller;
use crate::error::{Error, Result};
use crate::link::{Fault, Terms, Wake};
use crate::notify::{self, Teller};
use crate::os;
use crate::secret::Secret;
use crate::shared::Shared;
use crate::wire::message::{Bytes, Filter, Found, NEWEST, Next, Reply, Request, WireKey};
use connections::{Call, Session, shut_down};
pub(crate) use limits::{InTime, in_time};
use limits::{long, short};
pub(crate) use line::Line;
pub(crate) use overlay::{Committed, Overlay};
pub(crate) use snapshot::RemoteSnapshot;

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

    /// The file of the memory that the server had at first, if there was a connection.
    pub(crate) fn arena(&self) -> Option<(u64, u64)> {
        self.arena.get().copied()
    }

    /// Refuses a server that has another memory.
    pub(crate) fn expect(&self, arena: (u64, u64)) {
        self.arena.get_or_init(|| arena);
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

    /// Has its updates signed with an identity that was another's before.
    pub(crate) fn with_identity(mut self, identity: Option<u32>) -> Self {
        self.identity = AtomicU32::new(identity.unwrap_or(0));
        self
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

    /// Fails in a forked process.
    pub(crate) fn check_fork(&self) -> Result<()> {
        if std::process::id() == self.home {
            Ok(())
        } else {
            Err(Error::Forked)
        }
    }

    /// Whether it may be used: not after `close`, and not in a forked process.
    pub(crate) fn check(&self) -> Result<()> {
        self.check_fork()?;
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

    /// Figures of the whole state, for which the server takes the writer locks.
    pub(crate) fn stats(&self) -> Result<Stats> {
        self.with_locks(&Request::Stats, |reply| match reply {
            Reply::Stats(stats) => Ok((*stats).into()),
            other => Err(odd(&other)),
        })
    }

    /// Whether all that is stored is in order, for which the server takes the writer locks.
    pub(crate) fn verify(&self) -> Result<Report> {
        self.with_locks(&Request::Verify, |reply| match reply {
            Reply::Verified(report) => Ok(report.into()),
            other => Err(odd(&other)),
        })
    }

    /// Has the server give back what dead processes left.
    pub(crate) fn reap(&self) -> Result<Reaped> {
        self.with_locks(&Request::Reap, |reply| match reply {
            Reply::Reaped(reaped) => Ok(reaped.into()),
            other => Err(odd(&other)),
        })
    }

    /// What takes as long as the server has to wait for the writer locks, and then to look at all that is stored.
    fn with_locks<R>(&self, request: &Request<'_>, read: impl FnOnce(Reply<'_>) -> Result<R, Fault>) -> Result<R> {
        let session = self.session()?;
        self.call_in(&session, Call::Long, request, Terms::default(), read)
    }

    /// Figures that are had without a lock, also within a transaction, to whose reads they do not belong.
    pub(crate) fn status(&self) -> Result<Status> {
        let read = |reply: Reply<'_>| match reply {
            Reply::Status(status) => Ok((*status).into()),
            other => Err(odd(&other)),
        };
        let session = self.session()?;
        self.call_in(&session, Call::Short, &Request::Status, short(), read)
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
        Ok(found.into())
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
