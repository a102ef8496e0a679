//! A connection of its own, for one who asks for update after update.
//!
//! Other calls take a connection for as long as they last. One who waits all the time keeps it between two questions, so
//! that an update costs a request and no handshake; and sees on it that the server, or the state, has ended.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use super::connections::Session;
use super::{Remote, next, ns, wire_filter};
use crate::error::Result;
use crate::link::{Fault, Link, Terms, Wake};
use crate::wire::message::{Found, Next, Request};

/// A connection, from the first question on.
#[derive(Default)]
pub(crate) struct Line(Option<(Arc<Session>, Link)>);

impl Line {
    /// What is readable, while nothing is asked, when the connection has ended.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(|(_, link)| link.stream().as_fd())
    }

    /// To be called when it has: the session is lost, as if a question had failed.
    pub(crate) fn has_ended(&mut self) {
        if let Some((session, _)) = self.0.take() {
            session.end();
        }
    }
}

impl Remote {
    /// Sees to it that there is a connection that the next question can take.
    pub(crate) fn connect_line(&self, line: &mut Line) -> Result<()> {
        let taken = self.take_line(line)?;
        line.0 = Some(taken);
        Ok(())
    }

    fn take_line(&self, line: &mut Line) -> Result<(Arc<Session>, Link)> {
        if let Some((session, link)) = line.0.take()
            && !session.is_lost()
        {
            return Ok((session, link));
        }
        let session = self.session()?;
        let link = self.another_link(&session)?;
        Ok((session, link))
    }

    /// The first update of others after `cursor` that writes what `filter` lets through; how far was looked. Waits for it
    /// for so long, or until `wake` ends that. An error ends the connection, and the next question makes a new one.
    pub(crate) fn next_on(
        &self,
        line: &mut Line,
        cursor: u64,
        filter: shm_state::Filter<'_>,
        duplicates: bool,
        wait: Duration,
        wake: &Wake<'_>,
    ) -> Result<(shm_state::Next, u64)> {
        let (session, mut link) = self.take_line(line)?;
        let request = Request::Next(Next {
            cursor,
            until: None,
            filter: wire_filter(filter),
            duplicates,
            skip: Some(self.identity()),
            wait_ns: Some(ns(wait)),
        });
        // The server says that it is there while it waits.
        let terms = Terms {
            wake: Some(wake),
            ..Terms::default()
        };
        let result = link.request(&request, terms, next);
        let result = result.map(|(found, at)| (found.into(), at));
        let goes_on = matches!(result, Ok(_) | Err(Fault::Failed(_)));
        let result = self.told(Some(&*session), result);
        line.0 = goes_on.then_some((session, link));
        result
    }
}

impl From<Found> for shm_state::Next {
    fn from(found: Found) -> Self {
        match found {
            Found::Match(seq) => Self::Match(seq),
            Found::Nothing => Self::Nothing,
            Found::Lagged(missed) => Self::Lagged(missed),
        }
    }
}
