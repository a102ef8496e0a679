//! Sessions and their connections: made when they are needed, and used for one request after the other.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use shm_state::Deadline;

use super::limits::{connect_time, in_time, short};
use super::{Remote, odd};
use crate::error::{Error, Result};
use crate::link::{Attempt, Fault, Link, Terms};
use crate::signals::{self, Signals};
use crate::value::{VALUE_FORMAT, describe_format};
use crate::wire::message::{Open, Reply, Request, Token};

/// So many connections are kept beside the lifeline.
const IDLE: usize = 4;
/// How long to wait for the writer lock before a look at the signals.
const LOCK_SLICE: Duration = Duration::from_millis(100);

/// See the header of `over_socket`.
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
pub(super) enum Call {
    /// As long as a look into memory.
    Short,
    /// As long as somebody waits.
    Long,
}

impl Remote {
    /// The session, or a new one.
    pub(super) fn session(&self) -> Result<Arc<Session>> {
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

    /// A short call.
    pub(super) fn call<R>(&self, request: &Request<'_>, read: impl FnOnce(Reply<'_>) -> Result<R, Fault>) -> Result<R> {
        self.check_not_own()?;
        self.call_in(&*self.session()?, Call::Short, request, short(), read)
    }

    /// A call in this session.
    pub(super) fn call_in<R>(
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
    pub(super) fn told<R>(&self, session: Option<&Session>, result: Result<R, Fault>) -> Result<R> {
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
    pub(super) fn with_lock<R>(
        &self,
        patience: Option<Duration>,
        mut ask: impl FnMut(Deadline) -> Result<R>,
    ) -> Result<R> {
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
    pub(super) fn another_link(&self, session: &Session) -> Result<Link> {
        let mut link = self.connect()?;
        {
            let mut streams = session.streams.lock();
            streams.retain(|stream| stream.strong_count() > 0);
            streams.push(Arc::downgrade(link.stream()));
            // Who ends the session says so first, and then takes the lock: it sees this stream, or is seen here.
            if session.is_lost() {
                drop(streams);
                let error = Error::Disconnected {
                    address: self.place.address.to_string(),
                    reason: "another connection of this state was lost meanwhile".into(),
                };
                return self.told(Some(session), Err(Fault::Lost(error)));
            }
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
}

impl Session {
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }

    /// Ends all that is under way in it.
    pub(super) fn end(&self) {
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

pub(super) fn shut_down(streams: &[Weak<UnixStream>]) {
    for stream in streams.iter().filter_map(Weak::upgrade) {
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}
