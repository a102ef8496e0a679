//! Handing a state over to a child: its descriptor, and in words what else makes it the same state there.
//!
//! One that is used over a socket has no descriptor to inherit. The child gets to its server by itself, never maps what its
//! parent does not, and refuses a server that has other memory by then than the parent's had.

use std::fmt;
use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shm_state::Strategy;

use super::{Builder, State};
use crate::address::Address;
use crate::error::{Error, Result};
use crate::over_socket;
use crate::secret::Secret;

/// A state, for another process that is given its descriptor, if it has one.
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
    /// It is used over the socket of that server.
    socket: Option<Socket>,
}

/// What a state knows that is used over a socket, beside its address.
#[derive(Clone, Serialize, Deserialize)]
struct Socket {
    /// Why the memory is not mapped.
    reason: String,
    /// The file of the memory that the server had at first.
    arena: Option<(u64, u64)>,
}

impl Handover {
    /// Of a state, or of another namespace beside it, as it is now.
    pub(crate) fn of(state: &State, namespace: Option<&str>) -> Result<Self> {
        let patience = state.watcher.access.patience;
        let namespace = namespace.unwrap_or(state.namespace());
        let since = if namespace == state.namespace() {
            newest(state)?
        } else {
            state.fork().namespace(namespace).open()?.seq()?
        };
        let remote = state.watcher.access.if_remote();
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
            socket: remote.map(|remote| Socket {
                reason: remote.place().reason().to_owned(),
                arena: remote.place().arena(),
            }),
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

    /// Opens it: in the descriptor, or at its server, to which it connects when it is used.
    pub(crate) fn open(&self, memory: Option<OwnedFd>) -> Result<State> {
        let builder = self.set(Builder::anonymous());
        match (&self.socket, &self.address, memory) {
            (Some(socket), Some(address), _) => {
                let Address::Ipc(path, _) = Address::parse(address)? else {
                    return Err(Error::NotMapped);
                };
                let place = over_socket::Place::new(address, path, Secret::from_bytes(self.key), socket.reason.clone());
                if let Some(arena) = socket.arena {
                    place.expect(arena);
                }
                builder.unconnected(place, address)
            }
            (_, _, Some(memory)) => builder.in_file(memory, self.address.clone()),
            // It could not be opened before.
            (_, _, None) => Err(Error::Closed),
        }
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

/// The number of the newest update. That the server was another's life ago is told by the first call after it, which is
/// no reason not to start a process.
fn newest(state: &State) -> Result<u64> {
    match state.seq() {
        Err(Error::Disconnected { .. }) => state.seq(),
        seq => seq,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Backend;
    use crate::server::start_server;

    /// The child would have gone on with whatever is served there by then.
    #[test]
    fn a_child_refuses_a_server_that_has_another_memory_than_that_of_its_parent() {
        let path = std::env::temp_dir().join(format!("zproc-test-handover-{}", std::process::id()));
        let address = format!("ipc://{}", path.display());
        let serve = || {
            start_server()
                .address(&address)
                .backend(Backend::Thread)
                .start()
                .unwrap()
        };
        let server = serve();
        let state = State::open(&format!("{address}?transport=socket")).unwrap();
        let handover = Handover::of(&state, None).unwrap();
        assert_eq!(handover.open(None).unwrap().len().unwrap(), 0);
        server.stop().unwrap();
        let _server = serve();
        let refused = handover.open(None).unwrap().len();
        assert!(
            matches!(&refused, Err(Error::Disconnected { reason, .. }) if reason.contains("another state")),
            "{refused:?}"
        );
    }
}
