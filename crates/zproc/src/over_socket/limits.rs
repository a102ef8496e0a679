//! How long calls wait for a server.

use std::cell::Cell;
use std::time::Duration;

use shm_state::Deadline;

use crate::link::{CONNECT_TIME, Terms};
use crate::wire::frame::FRAME_TIME;

/// What a server is given to answer in beyond the time of the call.
const GRACE: Duration = Duration::from_secs(1);
/// What it is given to let one in: a full one waits for those who leave, for a second and a bit.
const CONNECT_GRACE: Duration = Duration::from_secs(2);

thread_local! {
    /// Until when the call of this thread is to be answered.
    static LIMIT: Cell<Option<Deadline>> = const { Cell::new(None) };
}

/// While it lives, requests of this thread wait for a server until a time, and [`GRACE`], or [`CONNECT_GRACE`] to connect.
pub(crate) struct InTime(Option<Deadline>);

/// For calls that are to take so long at most.
pub(crate) fn in_time(timeout: Option<Duration>) -> InTime {
    let outer = LIMIT.get();
    let own = timeout.map(Deadline::after);
    let both = outer.zip(own).map(|(outer, own)| outer.min(own));
    LIMIT.set(both.or(own).or(outer));
    InTime(outer)
}

impl Drop for InTime {
    fn drop(&mut self) {
        LIMIT.set(self.0);
    }
}

/// How to wait for an answer that can be had at once.
pub(super) fn short() -> Terms<'static> {
    let left = LIMIT.get().and_then(Deadline::remaining);
    Terms {
        within: left.map(|left| left.saturating_add(GRACE).min(FRAME_TIME)),
        ..Terms::default()
    }
}

/// How to wait for an answer that the server gives at a deadline at the latest.
pub(super) fn long(deadline: Deadline) -> Terms<'static> {
    Terms {
        within: deadline.remaining().map(|left| left.saturating_add(GRACE)),
        ..Terms::default()
    }
}

/// How long it may take to connect.
pub(super) fn connect_time() -> Duration {
    let left = LIMIT.get().and_then(Deadline::remaining);
    left.map_or(CONNECT_TIME, |left| {
        left.saturating_add(CONNECT_GRACE).min(CONNECT_TIME)
    })
}
