//! Namespaces, mapped or behind a server, for whoever need not know which.

use shm_state::{Filter, Namespace, Next};

use crate::error::Result;
use crate::over_socket::Remote;

/// A namespace, mapped or behind a server, for calls that take their time.
#[derive(Clone, Copy)]
pub(crate) enum Store<'s> {
    Mapped(&'s Namespace),
    Remote(&'s Remote),
}

impl<'s> Store<'s> {
    pub(crate) fn seq(self) -> Result<u64> {
        match self {
            Self::Mapped(namespace) => Ok(namespace.seq()),
            Self::Remote(remote) => remote.seq(),
        }
    }

    pub(crate) fn identity(self) -> u32 {
        match self {
            Self::Mapped(namespace) => namespace.identity(),
            Self::Remote(remote) => remote.identity(),
        }
    }

    pub(crate) fn name(self) -> &'s str {
        match self {
            Self::Mapped(namespace) => namespace.name(),
            Self::Remote(remote) => remote.namespace(),
        }
    }

    pub(crate) fn next_match(
        self,
        cursor: &mut u64,
        until: u64,
        filter: Filter<'_>,
        duplicates: bool,
        skip: Option<u32>,
    ) -> Result<Next> {
        match self {
            Self::Mapped(namespace) => Ok(namespace.next_match(cursor, until, filter, duplicates, skip)?),
            Self::Remote(remote) => remote.next_match(cursor, until, filter, duplicates, skip),
        }
    }

    /// Shows how far a watcher is. What the server shows of its clients' is not kept up with each update.
    pub(crate) fn publish_cursor(self, cursor: u64) {
        if let Self::Mapped(namespace) = self {
            namespace.publish_cursor(cursor);
        }
    }
}
