//! Being told that a watcher has something to return, wherever its state is.
//!
//! Of mapped memory the thread of `notify` tells; of a state that is used over a socket, a `listener` of its own. Both have
//! the same terms: one is told once, and then no more until one wants to be again.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use shm_state::{Deadline, Namespace};

use super::listener::Listener;
use super::scout::Mapped;
use super::{Scout, Watch};
use crate::error::Result;
use crate::notify::{self, Lookout, Registered, Teller};
use crate::over_socket::{self, Remote};
use crate::store::Store;

/// One who can be told. Nobody is told any more when it is dropped.
pub(super) enum Told {
    Mapped(Registered),
    Remote(Listener),
}

/// What there is to look at: it is open for as long as this lives.
pub(super) enum Opened<'t> {
    Mapped(&'t dyn Lookout, Namespace),
    Remote(&'t Scout, Arc<Remote>),
}

impl Told {
    /// Of what `scout` looks for on behalf of `watch`.
    pub(super) fn new(watch: &Watch<'_>, scout: Scout, teller: Teller) -> Result<Self> {
        let (access, canceller) = (&watch.watcher.access, watch.canceller.clone());
        Ok(match access.store()? {
            Store::Mapped(namespace) => {
                let lookout = Box::new(Mapped::new(namespace, scout));
                Self::Mapped(notify::register(Some(lookout), canceller, teller)?)
            }
            Store::Remote(_) => Self::Remote(Listener::new(access.weak_remote(), scout, canceller, teller)?),
        })
    }

    /// Whether this process made it, and did not inherit it.
    pub(super) fn is_current(&self) -> bool {
        match self {
            Self::Mapped(registered) => registered.is_current(),
            Self::Remote(listener) => listener.is_current(),
        }
    }

    /// Wants to be told: see [`Registered::want`].
    pub(super) fn want(&self, at: u64, deadline: Deadline, cancel_seen: u32, waker: Option<&Waker>) {
        match self {
            Self::Mapped(registered) => registered.want(at, deadline, cancel_seen, waker),
            Self::Remote(listener) => listener.want(at, deadline, cancel_seen, waker),
        }
    }

    /// Wants not to be told any more. Returns up to which update it was looked for nothing.
    ///
    /// # Errors
    /// That of a server which lets nobody wait, though it answers otherwise: see `listener`.
    pub(super) fn rest(&self) -> Result<u64> {
        match self {
            Self::Mapped(registered) => Ok(registered.rest()),
            Self::Remote(listener) => listener.rest(),
        }
    }

    /// What there is to look at, unless the state was closed or dropped.
    pub(super) fn opened(&self) -> Option<Opened<'_>> {
        match self {
            Self::Mapped(registered) => {
                let lookout = registered.lookout().filter(|lookout| !lookout.is_closed())?;
                Some(Opened::Mapped(lookout, lookout.namespace().upgrade()?))
            }
            Self::Remote(listener) => {
                let scout = Some(listener.scout()).filter(|scout| !scout.is_closed())?;
                Some(Opened::Remote(scout, listener.remote()?))
            }
        }
    }
}

impl Opened<'_> {
    /// The number of the newest update.
    pub(super) fn seq(&self) -> Result<u64> {
        match self {
            Self::Mapped(_, namespace) => Ok(namespace.seq()),
            Self::Remote(_, remote) => {
                let _in_time = over_socket::in_time(Some(Duration::ZERO));
                remote.seq()
            }
        }
    }

    /// Whether the watcher would return at once; if not, `at` moves to how far was looked.
    pub(super) fn look(&self, at: &mut u64) -> bool {
        match self {
            Self::Mapped(lookout, namespace) => lookout.look(namespace, at, namespace.seq()),
            Self::Remote(scout, remote) => {
                let _in_time = over_socket::in_time(Some(Duration::ZERO));
                scout.look(Store::Remote(remote), at, u64::MAX)
            }
        }
    }
}
