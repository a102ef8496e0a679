//! The server of a context, started by whoever needs it first.

use std::sync::OnceLock;

use parking_lot::Mutex;

use crate::error::Result;
use crate::ping::{Ping, ping};
use crate::process::Backend;
use crate::secret::Secret;
use crate::server::{Server, start_server};
use crate::state::State;

/// How to start it, and the server that was started.
pub(super) struct LazyServer {
    backend: Backend,
    secret: Secret,
    server: OnceLock<Server>,
    /// Held while it is started: two servers of one context would have two addresses.
    starting: Mutex<()>,
}

impl LazyServer {
    pub(super) fn new(backend: Backend, secret: Secret) -> Self {
        Self {
            backend,
            secret,
            server: OnceLock::new(),
            starting: Mutex::new(()),
        }
    }

    /// The server, which serves `state`.
    pub(super) fn of(&self, state: &State) -> Result<&Server> {
        if let Some(server) = self.server.get() {
            return Ok(server);
        }
        let _starting = self.starting.lock();
        if let Some(server) = self.server.get() {
            return Ok(server);
        }
        let server = start_server()
            .state(state)
            .backend(self.backend)
            .secret(self.secret.clone())
            .start()?;
        Ok(self.server.get_or_init(|| server))
    }

    /// A ping that knows its key.
    pub(super) fn ping(&self, state: &State) -> Result<Ping> {
        Ok(ping(self.of(state)?.address()).secret(self.secret.clone()))
    }

    /// Stops it, if it was started.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.server.take().map_or(Ok(()), Server::stop)
    }
}
