//! Snapshots that a server has pinned for this state.

use std::sync::Arc;

use shm_state::{Key, KeyRef, Payload};

use super::copies::{Copied, Copies};
use super::{Call, Remote, Session, not_asked, number, odd, payload, short, value, wire};
use crate::error::{Error, Result};
use crate::link::Fault;
use crate::value::Encoded;
use crate::wire::message::{Bytes, Reply, Request};

/// A snapshot, by its number in the session that it was pinned in.
pub(crate) struct RemoteSnapshot<'s> {
    remote: &'s Remote,
    session: Arc<Session>,
    snapshot: u32,
    seq: u64,
    copies: Copies,
}

impl Remote {
    /// The newest state.
    pub(crate) fn snapshot(&self) -> Result<RemoteSnapshot<'_>> {
        self.check_not_own()?;
        self.snapshot_for_transaction()
    }

    /// The newest state, for who notes what is read from it.
    pub(super) fn snapshot_for_transaction(&self) -> Result<RemoteSnapshot<'_>> {
        let snapshot = self.pin(None)?;
        snapshot.ok_or_else(|| not_asked(&Reply::Pinned(None)))
    }

    /// The state after the update `seq`; `None` if it fell out of the history.
    pub(crate) fn snapshot_at(&self, seq: u64) -> Result<Option<RemoteSnapshot<'_>>> {
        self.check_not_own()?;
        self.pin(Some(seq))
    }

    fn pin(&self, seq: Option<u64>) -> Result<Option<RemoteSnapshot<'_>>> {
        let session = self.session()?;
        let pinned = self.call_in(
            &session,
            Call::Short,
            &Request::Pin { seq },
            short(),
            |reply| match reply {
                Reply::Pinned(pinned) => Ok(pinned),
                other => Err(odd(&other)),
            },
        )?;
        Ok(pinned.map(|(snapshot, seq)| RemoteSnapshot {
            remote: self,
            session,
            snapshot,
            seq,
            copies: Copies::default(),
        }))
    }
}

impl RemoteSnapshot<'_> {
    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.remote.namespace
    }

    /// What `f` makes of the value of a key.
    pub(crate) fn get<R>(&self, key: &KeyRef<'_>, f: impl FnOnce(u16, &[u8]) -> R) -> Result<Option<R>> {
        let request = Request::Get {
            snapshot: self.snapshot,
            key: wire(key),
        };
        self.call(&request, value(f))
    }

    /// The value of a key, to be shown for as long as the snapshot lives. It is fetched once, and kept.
    pub(crate) fn show(&self, key: &KeyRef<'_>) -> Result<Option<Encoded<'_>>> {
        self.remote.check()?;
        if let Some(value) = self.copies.get(key) {
            return Ok(Some(value));
        }
        if let Some(value) = self.get(key, Copied::of)? {
            self.copies.keep(key, value);
        }
        Ok(self.copies.get(key))
    }

    pub(crate) fn len(&self) -> Result<usize> {
        let snapshot = self.snapshot;
        Ok(self.call(&Request::Len { snapshot }, number)? as usize)
    }

    /// All keys and values, in the order of insertion.
    pub(crate) fn entries(&self) -> Result<Vec<(Key, Payload)>> {
        let (mut all, mut behind) = (Vec::new(), None);
        loop {
            let request = Request::Entries {
                snapshot: self.snapshot,
                behind,
            };
            behind = self.call(&request, |reply| match reply {
                Reply::Entries { entries, more } => {
                    all.extend(
                        entries
                            .into_iter()
                            .map(|((tag, Bytes(key)), value)| (KeyRef::new(tag, key).to_owned(), payload(value))),
                    );
                    Ok(more)
                }
                other => Err(odd(&other)),
            })?;
            if behind.is_none() {
                return Ok(all);
            }
        }
    }

    fn call<R>(&self, request: &Request<'_>, read: impl FnOnce(Reply<'_>) -> Result<R, Fault>) -> Result<R> {
        self.remote.check()?;
        if self.session.is_lost() {
            return Err(Error::Disconnected {
                address: self.remote.place.address.to_string(),
                reason: "the connection is lost on which the snapshot was taken: take a new one".into(),
            });
        }
        self.remote.call_in(&self.session, Call::Short, request, short(), read)
    }
}

/// Lets the server unpin it. If that fails, the session is lost, and the pin with it.
impl Drop for RemoteSnapshot<'_> {
    fn drop(&mut self) {
        let snapshot = self.snapshot;
        let _ = self.call(&Request::Unpin { snapshot }, |_| Ok(()));
    }
}
