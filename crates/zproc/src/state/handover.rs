//! Handing a state over to a child: its descriptor, and in words what else makes it the same state there.

use std::fmt;
use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shm_state::Strategy;

use super::{Builder, State};
use crate::error::Result;
use crate::secret::Secret;

/// A state, for another process that is given its descriptor.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Handover {
    address: Option<String>,
    namespace: String,
    /// Where the cursor is to stand.
    since: u64,
    /// As which identity it is to go on; as a new one if there is none.
    identity: Option<u32>,
    /// How long it spins before it sleeps: `None` for ever, zero not at all.
    spin: Option<Duration>,
    lock_timeout: Option<Duration>,
    precise_time: bool,
    read_only: bool,
    /// The derived secret key of the server at the address.
    key: Option<[u8; 32]>,
}

impl Handover {
    /// Of a state, or of another namespace beside it, as it is now.
    pub(crate) fn of(state: &State, namespace: Option<&str>) -> Result<Self> {
        let patience = state.watcher.access.patience;
        let namespace = namespace.unwrap_or(state.namespace());
        let since = if namespace == state.namespace() {
            state.seq()?
        } else {
            state.fork().namespace(namespace).open()?.seq()?
        };
        Ok(Self {
            address: state.address().map(str::to_owned),
            namespace: namespace.to_owned(),
            since,
            identity: None,
            spin: match patience.strategy {
                Strategy::Spin => None,
                Strategy::Adaptive(time) => Some(time),
                Strategy::Block => Some(Duration::ZERO),
            },
            lock_timeout: patience.lock_timeout,
            precise_time: state.watcher.access.has_precise_time(),
            read_only: state.is_read_only(),
            key: state.place.secret.to_bytes(),
        })
    }

    /// Where the cursor is to stand.
    pub(crate) fn since(&self) -> u64 {
        self.since
    }

    /// Moves the cursor.
    pub(crate) fn set_since(&mut self, since: u64) {
        self.since = since;
    }

    /// Has it go on as an identity that was another's before, so that the updates of that are its own.
    pub(crate) fn set_identity(&mut self, identity: Option<u32>) {
        self.identity = identity;
    }

    /// Opens it in the descriptor.
    pub(crate) fn open(&self, fd: OwnedFd) -> Result<State> {
        self.set(Builder::anonymous()).in_file(fd, self.address.clone())
    }

    /// Opens it beside a state of the same memory.
    pub(crate) fn open_beside(&self, state: &State) -> Result<State> {
        self.set(state.fork()).open()
    }

    fn set(&self, builder: Builder) -> Builder {
        builder
            .namespace(&self.namespace)
            .since(self.since)
            .identity(self.identity)
            .wait_strategy(match self.spin {
                None => Strategy::Spin,
                Some(Duration::ZERO) => Strategy::Block,
                Some(time) => Strategy::Adaptive(time),
            })
            .lock_timeout(self.lock_timeout)
            .precise_time(self.precise_time)
            .read_only(self.read_only)
            .secret(Secret::from_bytes(self.key))
    }
}

/// Does not show the key.
impl fmt::Debug for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handover")
            .field("address", &self.address)
            .field("namespace", &self.namespace)
            .field("since", &self.since)
            .finish_non_exhaustive()
    }
}
