//! A watcher identity: how far it has watched.
//!
//! Threads that share an identity share its cursor, which only moves forward. `walk` says how they divide the updates
//! between them.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::walk::Looked;
use crate::access::Access;
use crate::error::Result;

/// Access to a namespace, with a cursor.
pub(crate) struct Watcher {
    pub(crate) access: Access,
    /// The last update that was consumed.
    cursor: AtomicU64,
    /// What the last watcher that gave up had looked at.
    pub(super) looked: Mutex<Option<Looked>>,
}

impl Watcher {
    /// Starts with the cursor at the update `since`, or at the newest.
    pub(crate) fn new(access: Access, since: Option<u64>) -> Self {
        let now = || access.ready().map_or(0, shm_state::Namespace::seq);
        let cursor = AtomicU64::new(since.unwrap_or_else(now));
        Self {
            access,
            cursor,
            looked: Mutex::default(),
        }
    }

    /// The last update that was consumed. Relaxed, as everywhere: nothing is published through the cursor.
    pub(crate) fn cursor(&self) -> u64 {
        self.cursor.load(Ordering::Relaxed)
    }

    /// Moves the cursor, unless another thread has moved it: then says where it stands.
    pub(super) fn move_cursor(&self, from: u64, to: u64) -> Result<(), u64> {
        self.cursor
            .compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed)
            .map(drop)
    }

    /// Moves the cursor to `to` at least.
    pub(super) fn raise_cursor(&self, to: u64) {
        self.cursor.fetch_max(to, Ordering::Relaxed);
    }

    /// Consumes all updates until now.
    pub(crate) fn go_live(&self) -> Result<()> {
        let namespace = self.access.ready()?;
        let now = namespace.seq();
        self.raise_cursor(now);
        namespace.publish_cursor(now);
        Ok(())
    }
}
