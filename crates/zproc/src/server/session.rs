//! What a server keeps for a state that is used over the socket, and how it answers its requests.
//!
//! A session belongs to one `State` of a client: it has the identity that its updates are signed with, and its snapshots,
//! pinned. Any number of connections may be of one session, so that a call that waits holds up no other; it ends, and its
//! pins with it, with the last of them.
//!
//! **Waits** of a request (for the writer lock, or for an update) are cut into slices of a second. After each the client is
//! told that it is still worked on; if that cannot be sent, the client is gone, and so is the wait.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shm_state::{Arena, Cancel, Deadline, Ended, Held, Key, KeyRef, Namespace, On, Pinned, Position, Strategy};

use super::accept::{Shared, protocol};
use super::commit;
use super::serve::End;
use crate::error::Error;
use crate::os::quiet_thread;
use crate::value::VALUE_FORMAT;
use crate::wire::message::{
    Bytes, Failure, Filter, Found, MANY, NEWEST, Next, Open, Place, Reply, Request, Token, Update, WireKey, WireValue,
    encode, encode_but_last,
};
use crate::wire::{Kind, Sender, WireError, proof};

/// Snapshots of one session.
const SNAPSHOTS: usize = 1024;
/// So many bytes of keys and values are in a reply with entries, unless one alone has more.
const PAGE: usize = 1 << 20;
/// How long a request is worked on before its client is told that it still is.
pub(super) const SLICE: Duration = Duration::from_secs(1);

/// A session.
pub(super) struct Session {
    token: Token,
    namespace: Arc<Namespace>,
    snapshots: Mutex<Snapshots>,
}

#[derive(Default)]
struct Snapshots {
    held: HashMap<u32, Arc<Held>>,
    last: u32,
}

/// Why a request has no good reply.
pub(super) enum Wrong {
    /// The reply says so.
    Failed(Failure),
    /// There will be no reply.
    End(End),
}

impl From<shm_state::Error> for Wrong {
    fn from(error: shm_state::Error) -> Self {
        use shm_state::Error as Engine;
        Self::Failed(match error {
            Engine::LockTimeout { pid, tid } => Failure::LockTimeout { pid, tid },
            Engine::Full {
                requested,
                free,
                committed,
                capacity,
                pins,
            } => Failure::Full {
                requested,
                free,
                committed,
                capacity,
                pins: pins
                    .into_iter()
                    .map(|pin| {
                        (
                            pin.pid,
                            pin.name.map(|name| name.to_string()),
                            pin.dead,
                            pin.seq,
                            pin.lag,
                        )
                    })
                    .collect(),
            },
            Engine::Corrupt { what } => Failure::Corrupt(what),
            other => Failure::Other(other.to_string()),
        })
    }
}

impl From<WireError> for Wrong {
    fn from(error: WireError) -> Self {
        Self::End(error.into())
    }
}

impl Session {
    /// The session that a client asks for.
    pub(super) fn open(shared: &Shared, open: &Open<'_>) -> Result<(Arc<Self>, u64), Failure> {
        let gone = |what: &str| Failure::Gone(what.into());
        if let Some(token) = open.session {
            let session = shared.session(&token).ok_or_else(|| gone("the session has ended"))?;
            let seq = session.namespace.seq();
            return Ok((session, seq));
        }
        let failed = |error| match error {
            Error::ReadOnly => Failure::ReadOnly,
            other => Failure::Other(other.to_string()),
        };
        let namespace = shared.state.namespace_of(open.namespace, open.read_only);
        let mut namespace = namespace.map_err(failed)?;
        if let Some(identity) = open.identity {
            namespace = namespace.with_identity(identity);
        }
        let token = proof::random().map_err(|error| Failure::Other(error.to_string()))?;
        let session = Arc::new(Self {
            token,
            namespace: Arc::new(namespace.with_precise_time(open.precise_time)),
            snapshots: Mutex::default(),
        });
        let seq = session.namespace.seq();
        shared.add_session(token, &session);
        Ok((session, seq))
    }

    /// What an Open is answered with.
    pub(super) fn opened(&self, seq: u64) -> Reply<'static> {
        Reply::Opened {
            session: self.token,
            identity: self.namespace.identity(),
            seq,
            value_format: VALUE_FORMAT,
        }
    }

    /// Answers a request.
    pub(super) fn answer(&self, shared: &Shared, sender: &mut Sender, request: &Request<'_>) -> Result<(), End> {
        match self.reply(shared, sender, request) {
            Ok(()) => Ok(()),
            Err(Wrong::Failed(failure)) => Ok(send(sender, &Reply::Failed(failure))?),
            Err(Wrong::End(end)) => Err(end),
        }
    }

    fn reply(&self, shared: &Shared, sender: &mut Sender, request: &Request<'_>) -> Result<(), Wrong> {
        let reply = match *request {
            Request::Map | Request::Open(_) => {
                return Err(Wrong::End(End::Refused(Failure::Protocol(
                    "the connection is one of a session already".into(),
                ))));
            }
            Request::Seq => Reply::Number(self.namespace.seq()),
            Request::Get { snapshot, key } => return self.get(sender, snapshot, key),
            Request::Len { snapshot: NEWEST } => Reply::Number(self.namespace.len()? as u64),
            Request::Len { snapshot } => Reply::Number(self.held(snapshot)?.with(|pinned| pinned.len())? as u64),
            Request::Entries { snapshot, behind } => return self.entries(sender, snapshot, behind),
            Request::Pin { seq } => Reply::Pinned(self.pin(seq)?),
            Request::Unpin { snapshot } => {
                let held = self.snapshots().held.remove(&snapshot);
                drop(held);
                Reply::Done
            }
            Request::Put {
                key: (tag, Bytes(key)),
                value: (value_tag, Bytes(value)),
                lock_ns,
            } => {
                let key = KeyRef::new(tag, key);
                let put = |deadline| self.namespace.put(&key, None, value_tag, value, deadline);
                Reply::Number(locked(shared, sender, lock_ns, put)?)
            }
            Request::Commit(ref commit) => commit::commit(&self.namespace, shared, sender, commit)?,
            Request::Next(ref next) => self.next(shared, sender, next)?,
            Request::Update { seq } => return self.update(sender, seq),
            Request::Stats => with_locks(shared, sender, |memory| {
                Ok(Reply::Stats(Box::new(memory.stats()?.into())))
            })?,
            Request::Verify => with_locks(shared, sender, |memory| Ok(Reply::Verified(memory.verify()?.into())))?,
            Request::Reap => with_locks(shared, sender, |memory| Ok(Reply::Reaped(memory.reap()?.into())))?,
            Request::Status => {
                let status = shared.memory()?.status()?;
                Reply::Status(Box::new(status.into()))
            }
        };
        Ok(send(sender, &reply)?)
    }

    /// It is read without the lock, so that who reads a large one holds up nobody.
    fn held(&self, snapshot: u32) -> Result<Arc<Held>, Wrong> {
        let held = self.snapshots().held.get(&snapshot).map(Arc::clone);
        held.ok_or_else(|| Wrong::Failed(Failure::Gone("the snapshot is not known".into())))
    }

    fn snapshots(&self) -> MutexGuard<'_, Snapshots> {
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, sender: &mut Sender, snapshot: u32, (tag, Bytes(key)): WireKey<'_>) -> Result<(), Wrong> {
        let key = KeyRef::new(tag, key);
        let in_place = if snapshot == NEWEST {
            let short = |tag, bytes: &[u8]| send(sender, &Reply::Value(Some((tag, Bytes(bytes)))));
            match self.namespace.get_unpinned(&key, short)? {
                Some(Some(sent)) => return Ok(sent?),
                Some(None) => return Ok(send(sender, &Reply::Value(None))?),
                None => begin_in_place(sender, &self.namespace.pin()?, &key)?,
            }
        } else {
            self.held(snapshot)?
                .with(|pinned| begin_in_place(sender, pinned, &key))?
        };
        let sent = in_place.and_then(|()| sender.finish());
        Ok(or_failure(sender, sent)?)
    }

    fn entries(&self, sender: &mut Sender, snapshot: u32, behind: Option<Place>) -> Result<(), Wrong> {
        let held = self.held(snapshot)?;
        let behind = behind.map(|(slot, inserted, entry)| Position::from([slot, inserted, entry]));
        let (mut stored, mut bytes, mut last, mut more) = (Vec::new(), 0, None, None);
        let known = held.with(|pinned| {
            let Some(entries) = pinned.iter_behind(behind)? else {
                return Ok(false);
            };
            for entry in entries {
                let (position, key, value) = entry?;
                bytes += key.bytes().len() + value.bytes().len() + 16;
                // A large value is alone: with others it could be more than goes into a frame.
                if bytes > PAGE && !stored.is_empty() {
                    more = last;
                    break;
                }
                last = Some(position);
                stored.push((key, value));
            }
            Ok::<_, shm_state::Error>(true)
        })?;
        if !known {
            let text = "the snapshot has no key at that place".into();
            return Err(Wrong::Failed(Failure::Other(text)));
        }
        let entries = stored
            .iter()
            .map(|(key, value)| (wire(key), (value.tag(), Bytes(value.bytes()))))
            .collect();
        let more = more.map(|position| <[u64; 3]>::from(position).into());
        Ok(send(sender, &Reply::Entries { entries, more })?)
    }

    fn pin(&self, seq: Option<u64>) -> Result<Option<(u32, u64)>, Wrong> {
        // Under the lock, since others of the session may pin as well; it takes no time.
        let mut snapshots = self.snapshots();
        if snapshots.held.len() >= SNAPSHOTS {
            let text = format!("the client has {SNAPSHOTS} snapshots, which is the most: drop some");
            return Err(Wrong::Failed(Failure::Other(text)));
        }
        let Some(held) = self.namespace.hold(seq)? else {
            return Ok(None);
        };
        // Numbers of snapshots that are held are not given again, also after all numbers were.
        loop {
            snapshots.last = snapshots.last.wrapping_add(1);
            if snapshots.last != NEWEST && !snapshots.held.contains_key(&snapshots.last) {
                break;
            }
        }
        let (number, seq) = (snapshots.last, held.seq());
        snapshots.held.insert(number, Arc::new(held));
        Ok(Some((number, seq)))
    }

    fn next(&self, shared: &Shared, sender: &mut Sender, next: &Next<'_>) -> Result<Reply<'static>, Wrong> {
        let (keys, hashes);
        let (filter, on) = match &next.filter {
            Filter::Any => (shm_state::Filter::Any, On::Any),
            Filter::Except(listed) => {
                keys = own(listed);
                (shm_state::Filter::Except(&keys), On::Any)
            }
            Filter::Keys(listed) => {
                keys = own(listed);
                hashes = keys.iter().map(|key| key.as_ref().hash()).collect::<Vec<_>>();
                (shm_state::Filter::Keys(&keys), On::Keys(&hashes))
            }
        };
        let deadline = deadline(next.wait_ns);
        let mut cursor = next.cursor;
        let mut look = |newest: u64| {
            let until = next.until.map_or(newest, |until| until.min(newest));
            let found = self
                .namespace
                .next_match(&mut cursor, until, filter, next.duplicates, next.skip)?;
            Ok::<_, shm_state::Error>(match found {
                shm_state::Next::Match(seq) => Some(Found::Match(seq)),
                shm_state::Next::Lagged(missed) => Some(Found::Lagged(missed)),
                shm_state::Next::Nothing => None,
            })
        };
        if deadline.passed() {
            let found = look(self.namespace.seq())?.unwrap_or(Found::Nothing);
            return Ok(Reply::Next(found, cursor));
        }
        let closed = AtomicBool::new(false);
        loop {
            let cancel = Cancel {
                closed: &closed,
                words: &[],
            };
            let slice = deadline.sooner_of(SLICE);
            let waited = self.namespace.wait(on, Strategy::default(), slice, cancel, &mut look)?;
            match waited {
                Ok(found) => return Ok(Reply::Next(found, cursor)),
                Err(Ended::TimedOut) if deadline.passed() => return Ok(Reply::Next(Found::Nothing, cursor)),
                Err(_) => still_busy(shared, sender)?,
            }
        }
    }

    fn update(&self, sender: &mut Sender, seq: u64) -> Result<(), Wrong> {
        let record = self.namespace.record(seq)?;
        let keys = match &record {
            Some(record) => self.namespace.changed_keys(record)?,
            None => None,
        };
        let name = record.as_ref().and_then(|record| self.namespace.writer_name(record));
        let update = record.as_ref().zip(keys.as_ref()).map(|(record, keys)| Update {
            identical: record.identical,
            pid: record.pid,
            name: name.as_deref(),
            time_ns: record.time_ns,
            keys: keys.iter().map(|(key, identical)| (wire(key), *identical)).collect(),
        });
        Ok(send(sender, &Reply::Update(update))?)
    }
}

/// What takes the writer locks of all namespaces, for each of which up to ten seconds are waited: by a thread of its own,
/// so that the client is told meanwhile that the server is at it.
fn with_locks(
    shared: &Shared,
    sender: &mut Sender,
    work: impl FnOnce(&Arena) -> shm_state::Result<Reply<'static>> + Send + 'static,
) -> Result<Reply<'static>, Wrong> {
    let failed = |text: String| Wrong::Failed(Failure::Other(text));
    let memory = shared.memory()?.clone();
    let (tell, told) = mpsc::channel();
    let thread = quiet_thread("zproc-locks", move || drop(tell.send(work(&memory))));
    thread.map_err(|error| failed(error.to_string()))?;
    loop {
        match told.recv_timeout(SLICE) {
            Ok(reply) => return Ok(reply?),
            Err(RecvTimeoutError::Timeout) => still_busy(shared, sender)?,
            Err(RecvTimeoutError::Disconnected) => return Err(failed("the server failed at it".into())),
        }
    }
}

/// What `f` does with the writer lock.
pub(super) fn locked<T>(
    shared: &Shared,
    sender: &mut Sender,
    lock_ns: Option<u64>,
    mut f: impl FnMut(Deadline) -> shm_state::Result<T>,
) -> Result<T, Wrong> {
    let deadline = deadline(lock_ns);
    loop {
        match f(deadline.sooner_of(SLICE)) {
            Err(shm_state::Error::LockTimeout { .. }) if !deadline.passed() => still_busy(shared, sender)?,
            result => return Ok(result?),
        }
    }
}

pub(super) fn still_busy(shared: &Shared, sender: &mut Sender) -> Result<(), Wrong> {
    if shared.is_stopping() {
        return Err(Wrong::End(End::Gone));
    }
    Ok(sender.send(Kind::Busy, &[])?)
}

fn deadline(ns: Option<u64>) -> Deadline {
    ns.map_or(Deadline::never(), |ns| Deadline::after(Duration::from_nanos(ns)))
}

fn wire(key: &Key) -> WireKey<'_> {
    (key.tag(), Bytes(key.bytes()))
}

pub(super) fn own(keys: &[WireKey<'_>]) -> Vec<Key> {
    keys.iter()
        .map(|(tag, Bytes(bytes))| KeyRef::new(*tag, bytes).to_owned())
        .collect()
}

/// Begins to send a value from the memory where it lies; a pin of the caller's is not needed any longer than that takes.
fn begin_in_place(sender: &mut Sender, pinned: &Pinned<'_>, key: &KeyRef<'_>) -> Result<Result<(), WireError>, Wrong> {
    match pinned.in_place(key)? {
        // Only the kernel reads it there.
        Some(value) if value.bytes().len() >= MANY => Ok(begin(sender, Some((value.tag(), Bytes(value.bytes()))))),
        _ => {
            let begun = pinned.get_with(key, |tag, bytes| begin(sender, Some((tag, Bytes(bytes)))))?;
            Ok(begun.unwrap_or_else(|| begin(sender, None)))
        }
    }
}

fn begin(sender: &mut Sender, value: Option<WireValue<'_>>) -> Result<(), WireError> {
    sender.begin(Kind::Reply, |out| encode_but_last(&Reply::Value(value), out))
}

/// Sends a reply.
pub(super) fn send(sender: &mut Sender, reply: &Reply<'_>) -> Result<(), WireError> {
    let sent = sender.send_with_tail(Deadline::never(), Kind::Reply, |out| encode_but_last(reply, out));
    or_failure(sender, sent)
}

/// A reply that is too long for a frame is a failure, and not the end.
fn or_failure(sender: &mut Sender, sent: Result<(), WireError>) -> Result<(), WireError> {
    match sent {
        Err(error @ WireError::TooLong { .. }) => {
            let Failure::Protocol(text) = protocol(&error) else {
                return Err(error);
            };
            let text = format!("{text}: map the state for values of this size");
            let failure = Reply::Failed(Failure::Other(text));
            sender.send_with(Kind::Reply, |out| encode(&failure, out))
        }
        sent => sent,
    }
}
